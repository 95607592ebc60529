//! Whose messages are lost: a range of places, or records in hand, told apart by sender.
//!
//! In: a range that was given up and whose blocks are still there. Out: parts for entries of the ledger.
//! Bound: [`SENDERS_MAX`] senders and [`RECORDS_MAX`] records of one loss are told apart; the rest is one part without a name.
//! Never: names a sender for messages that are not all its own.

use broker::uplink::Poison;
use store::{Lost, RECORD_OVERHEAD_BYTES, ReadLimits, ReadOut, Reader};

/// Senders that are told apart.
const SENDERS_MAX: usize = 16;
/// Records of one range that are read for it.
const RECORDS_MAX: u64 = 16_384;
/// How they are read.
const PORTION: ReadLimits = ReadLimits { messages_max: 256, bytes_max: 256 << 10 };

/// Lost messages of one sender, or of those who are not told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) sender: Option<String>,
    /// First and last place in the lane, if they had one. Those of others may lie between.
    pub(super) places: Option<(u64, u64)>,
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl Part {
    fn add(&mut self, (first, last): (u64, u64), messages: u64, bytes: u64) {
        let (from, up_to) = self.places.unwrap_or((first, last));
        self.places = Some((from.min(first), up_to.max(last)));
        self.messages += messages;
        self.bytes += bytes;
    }
}

impl Part {
    /// All of a range, of whomever it is.
    pub(super) fn of(lost: &Lost) -> Part {
        let places = Some((lost.from.get(), lost.up_to.get()));
        Part { sender: None, places, messages: lost.messages(), bytes: lost.bytes }
    }
}

/// Collects them.
#[derive(Debug, Default)]
pub(super) struct Parts {
    named: Vec<Part>,
    rest: Part,
}

impl Parts {
    /// A range of which nobody knows whose it was.
    pub(super) fn nobodys(lost: &Lost) -> Parts {
        Parts { rest: Part::of(lost), ..Parts::default() }
    }

    /// One more of those.
    pub(super) fn add_nobodys(&mut self, lost: &Lost) {
        self.add(None, (lost.from.get(), lost.up_to.get()), lost.messages(), lost.bytes);
    }

    /// Messages of this sender; `None` where nobody knows.
    pub(super) fn add(&mut self, sender: Option<&str>, places: (u64, u64), messages: u64, bytes: u64) {
        self.part_of(sender).add(places, messages, bytes);
    }

    /// A record for an uplink that never had a place.
    pub(super) fn add_unplaced(&mut self, record: &[u8]) {
        let part = self.part_of(sender_in("u/", record));
        part.messages += 1;
        part.bytes += (record.len() + RECORD_OVERHEAD_BYTES) as u64;
    }

    fn part_of(&mut self, sender: Option<&str>) -> &mut Part {
        let Some(sender) = sender.filter(|it| !it.is_empty()) else { return &mut self.rest };
        let at = self.named.iter().position(|part| part.sender.as_deref() == Some(sender));
        match at {
            Some(at) => &mut self.named[at],
            None if self.named.len() < SENDERS_MAX => {
                self.named.push(Part { sender: Some(sender.to_owned()), ..Part::default() });
                let last = self.named.len() - 1;
                &mut self.named[last]
            }
            None => &mut self.rest,
        }
    }

    /// All of them; those without a name come last.
    pub(super) fn finish(self) -> impl Iterator<Item = Part> {
        self.named.into_iter().chain((self.rest.messages > 0).then_some(self.rest))
    }
}

/// The parts of a range of a lane.
pub(super) fn parts_of(reader: &Reader, lane: &str, lost: &Lost) -> Parts {
    let (mut parts, mut out) = (Parts::default(), ReadOut::new());
    let (mut next, end) = (lost.from, lost.up_to.next());
    let (mut known, mut known_bytes) = (0, 0);
    while next < end && next.get() - lost.from.get() < RECORDS_MAX {
        // What cannot be read is nobody's.
        if reader.read_passed(lost.lane, (next, end), PORTION, &mut out).is_err() || out.next() <= next {
            break;
        }
        for record in out.records().take_while(|record| record.seq < end) {
            let Some(sender) = sender_in(lane, record.bytes) else { continue };
            let (place, bytes) = (record.seq.get(), (record.bytes.len() + RECORD_OVERHEAD_BYTES) as u64);
            parts.add(Some(sender), (place, place), 1, bytes);
            (known, known_bytes) = (known + 1, known_bytes + bytes);
        }
        next = out.next();
    }
    let left = lost.messages().saturating_sub(known);
    if left > 0 {
        let unread = end.get().saturating_sub(next.get());
        let from = if left == unread { next } else { lost.from };
        let bytes = lost.bytes.saturating_sub(known_bytes);
        parts.add(None, (from.get(), lost.up_to.get()), left, bytes);
    }
    parts
}

/// The publisher of a record of this lane.
fn sender_in<'r>(lane: &str, record: &'r [u8]) -> Option<&'r str> {
    match lane.starts_with("p/") {
        // What is aside has come from the lane of an uplink.
        true => broker::publisher_of_record("u/", Poison::decode(record).ok()?.record),
        false => broker::publisher_of_record(lane, record),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use broker::Envelope;
    use model::{LaneId, Qos, Timestamp};
    use store::CommitLog as _;

    fn record(sender: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (topic, client_id, user) = ("a", sender, "");
        Envelope {
            topic,
            client_id,
            user,
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: &[],
            payload: b"x",
        }
        .encode(&mut bytes);
        bytes
    }

    /// Before its envelope such a record says how it is to be delivered, and that may look like the beginning of one.
    #[test]
    fn what_a_session_has_waiting_is_not_taken_for_a_bare_message() {
        let payload = [b'x'; 300];
        let mut bytes = vec![1, 0];
        Envelope {
            topic: "a",
            client_id: "c",
            user: "",
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: &[],
            payload: &payload,
        }
        .encode(&mut bytes);
        let named = |lane: &str| sender_in(lane, &bytes).map(str::to_owned);
        assert_eq!(named("s/d1").as_deref(), Some("c"));
        assert_eq!(named("found/7"), None);
        assert_eq!(sender_in("u/plant/5", &record("c")), Some("c"));
    }

    /// A lane with a record of each of them.
    fn lane(senders: impl Iterator<Item = String>) -> (tempfile::TempDir, store::Log, LaneId) {
        let home = tempfile::tempdir().expect("a directory");
        let mut log = store::Log::open(&store::Options::small(home.path().join("store"))).expect("a store");
        let lane = log.lane("u/plant/5").expect("there is room");
        for sender in senders {
            if log.staged_bytes() > 256 << 10 {
                log.commit().expect("the disk takes it");
            }
            log.append(lane, &[&record(&sender)], Timestamp(1), None).expect("there is room");
        }
        log.commit().expect("the disk takes it");
        (home, log, lane)
    }

    fn parts(log: &mut store::Log, lane: LaneId) -> Vec<(Option<String>, (u64, u64), u64)> {
        let lost = log.drop_oldest(lane, u64::MAX).expect("readable")[0];
        let parts: Vec<_> = parts_of(&log.reader(), "u/plant/5", &lost).finish().collect();
        assert_eq!(parts.iter().map(|part| part.messages).sum::<u64>(), lost.messages());
        assert_eq!(parts.iter().map(|part| part.bytes).sum::<u64>(), lost.bytes);
        parts.into_iter().map(|it| (it.sender, it.places.expect("a place"), it.messages)).collect()
    }

    #[test]
    fn each_sender_has_its_own_and_nobody_has_what_is_not_told_apart() {
        let (_home, mut log, lane) = lane((0..600).map(|number| format!("dev{}", number % 3)));
        let each = |number: u64| (Some(format!("dev{number}")), (number + 1, number + 598), 200);
        assert_eq!(parts(&mut log, lane), (0..3).map(each).collect::<Vec<_>>());
    }

    #[test]
    fn more_senders_than_are_told_apart_are_one_part_without_a_name() {
        let (_home, mut log, lane) = lane((0..40).map(|number| format!("dev{number:02}")));
        let found = parts(&mut log, lane);
        assert_eq!(found.len(), SENDERS_MAX + 1);
        assert_eq!(found.last(), Some(&(None, (17, 40), 24)));
    }

    #[test]
    fn a_range_is_read_up_to_a_bound() {
        let count = RECORDS_MAX + 3_000;
        let (_home, mut log, lane) = lane((0..count).map(|_| "one".to_owned()));
        let found = parts(&mut log, lane);
        let [(name, (1, read), named), (None, (rest, last), left)] = &found[..] else { panic!("{found:?}") };
        assert_eq!((name.as_deref(), read, *rest, *last), (Some("one"), named, read + 1, count));
        assert!(*named >= RECORDS_MAX && named + left == count);
    }
}
