//! How many bytes wait for each uplink, written or not: one number per uplink that all shards and the disk thread keep
//! together, so that `uplink.NAME.bytes_max` holds to the byte, however far the disk is behind.
//!
//! In: from shards, bytes before they are appended; from the disk thread, what lies in lanes and how much of what was
//! appended is written. Out: whether there is room. Never: a lock, a decision (that is `admit`).
//! Always: what waits is never more than is said here. An uplink without a bound is not counted at all.
//!
//! A shard *takes* room for a message before anybody gets it. While there is room for the largest message of every shard
//! and for what is on its way, nobody asks: see [`Rooms::is_near`].

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use model::Priority;

/// The bound of one uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomSetup {
    /// Most bytes that may wait.
    pub bytes_max: u64,
    /// How many of them are for urgent priorities only.
    pub reserve_bytes: u64,
    /// Nobody is refused, because the oldest make room: the bytes are counted only.
    pub only_counts: bool,
}

/// All uplinks, in the order of the configuration.
#[derive(Debug, Default)]
pub struct Rooms {
    uplinks: Box<[Option<Room>]>,
    /// Bytes of a record beside what is appended.
    overhead: u64,
    /// What all shards may append at the same moment without asking.
    margin: u64,
}

#[derive(Debug)]
struct Room {
    ordinary_at: u64,
    urgent_at: u64,
    /// What shards took since the start.
    taken: AtomicU64,
    /// What lies in the lanes, less what of `taken` is written; wraps below zero.
    base: AtomicU64,
    /// The largest message that found no room since the disk thread looked.
    missed: AtomicU64,
}

impl Room {
    fn waiting(&self) -> u64 {
        self.taken.load(Relaxed).wrapping_add(self.base.load(Relaxed))
    }
}

impl Rooms {
    /// Bounds by uplink; `record_bytes_max` is the largest record, `overhead` what each has beside its bytes.
    pub fn new(
        bounds: impl IntoIterator<Item = Option<RoomSetup>>,
        shards: u16,
        record_bytes_max: u64,
        overhead: u64,
    ) -> Rooms {
        let room = |bound: RoomSetup| {
            let RoomSetup { bytes_max, reserve_bytes, only_counts } = bound;
            let at = |bytes: u64| if only_counts { u64::MAX } else { bytes };
            Room {
                ordinary_at: at(bytes_max.saturating_sub(reserve_bytes)),
                urgent_at: at(bytes_max),
                taken: AtomicU64::new(0),
                base: AtomicU64::new(0),
                missed: AtomicU64::new(0),
            }
        };
        let uplinks = bounds.into_iter().map(|bound| bound.map(room)).collect();
        Rooms { uplinks, overhead, margin: u64::from(shards) * (record_bytes_max + overhead) }
    }

    /// Whether any uplink has a bound.
    pub fn has_bounds(&self) -> bool {
        self.uplinks.iter().any(Option::is_some)
    }

    /// Whether an uplink has so little room left that each message must ask.
    #[inline]
    pub fn is_near(&self) -> bool {
        let near = |room: &Room| room.waiting().saturating_add(self.margin) > room.ordinary_at;
        self.uplinks.iter().flatten().any(near)
    }

    /// Takes room for a message of so many bytes, if there is any.
    pub fn take(&self, uplink: u32, priority: Priority, len: u64) -> bool {
        let Some(room) = self.room(uplink) else { return true };
        let bytes = len + self.overhead;
        let at = if priority.is_urgent() { room.urgent_at } else { room.ordinary_at };
        let take = |taken: u64| {
            let waiting = taken.wrapping_add(room.base.load(Relaxed));
            (waiting.saturating_add(bytes) <= at).then(|| taken.wrapping_add(bytes))
        };
        let is_taken = room.taken.fetch_update(Relaxed, Relaxed, take).is_ok();
        if !is_taken {
            room.missed.fetch_max(bytes, Relaxed);
        }
        is_taken
    }

    /// Takes room whether there is any or not.
    pub fn take_anyway(&self, uplink: u32, len: u64) {
        if let Some(room) = self.room(uplink) {
            room.taken.fetch_add(len + self.overhead, Relaxed);
        }
    }

    /// Gives back what was taken for a message that was not appended.
    pub fn give_back(&self, uplink: u32, len: u64) {
        if let Some(room) = self.room(uplink) {
            room.taken.fetch_sub(len + self.overhead, Relaxed);
        }
    }

    /// A message for which room was taken became another size.
    pub(crate) fn correct(&self, uplink: u32, taken: u64, len: u64) {
        if let Some(room) = self.room(uplink) {
            room.taken.fetch_add(len.wrapping_sub(taken), Relaxed);
        }
    }

    /// The disk thread looked: so much lies in the lanes, and so much of all that was ever taken is written.
    pub fn set_written(&self, uplink: u32, in_lanes: u64, written: u64) {
        if let Some(room) = self.room(uplink) {
            room.base.store(in_lanes.wrapping_sub(written), Relaxed);
        }
    }

    /// Bytes that wait for an uplink with a bound, written or not.
    pub fn waiting(&self, uplink: u32) -> Option<u64> {
        self.room(uplink).map(Room::waiting)
    }

    /// The largest message that found no room since the last call; 0 if all did.
    pub fn take_missed(&self, uplink: u32) -> u64 {
        self.room(uplink).map_or(0, |room| room.missed.swap(0, Relaxed))
    }

    fn room(&self, uplink: u32) -> Option<&Room> {
        self.uplinks.get(uplink as usize)?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(only_counts: bool) -> Rooms {
        let bound = RoomSetup { bytes_max: 1_000, reserve_bytes: 100, only_counts };
        Rooms::new([None, Some(bound)], 2, 50, 10)
    }

    #[test]
    fn room_is_taken_to_the_byte_and_the_reserve_is_for_urgent_ones() {
        let rooms = rooms(false);
        assert!(rooms.take(1, Priority::DEFAULT, 890), "the overhead counts, too");
        assert!(!rooms.take(1, Priority::DEFAULT, 0));
        assert!(rooms.take(1, Priority::HIGHEST, 90));
        assert!(!rooms.take(1, Priority::HIGHEST, 0));
        assert_eq!((rooms.waiting(1), rooms.take_missed(1), rooms.take_missed(1)), (Some(1_000), 10, 0));
        rooms.give_back(1, 90);
        assert!(rooms.take(1, Priority::HIGHEST, 90));
        assert!(rooms.take(0, Priority::DEFAULT, 1 << 40), "no bound");
        assert_eq!(rooms.waiting(0), None);
    }

    #[test]
    fn what_is_written_is_counted_once_and_what_leaves_makes_room() {
        let rooms = rooms(false);
        rooms.set_written(1, 500, 0); // left by an earlier run
        assert!(rooms.take(1, Priority::DEFAULT, 390));
        assert_eq!(rooms.waiting(1), Some(900));
        rooms.set_written(1, 900, 400); // all of it is written
        assert_eq!(rooms.waiting(1), Some(900));
        rooms.set_written(1, 100, 400); // most is delivered
        assert_eq!(rooms.waiting(1), Some(100));
    }

    #[test]
    fn near_is_where_the_largest_message_of_every_shard_no_longer_fits() {
        let rooms = rooms(false);
        rooms.take_anyway(1, 770);
        assert!(!rooms.is_near());
        rooms.correct(1, 770, 771);
        assert!(rooms.is_near());
        assert!(!Rooms::default().is_near());
    }

    #[test]
    fn an_uplink_that_drops_the_oldest_refuses_nobody() {
        let rooms = rooms(true);
        assert!(rooms.take(1, Priority::DEFAULT, 5_000) && !rooms.is_near());
        assert_eq!(rooms.waiting(1), Some(5_010));
    }
}
