//! Who is connected over HTTPS, and who must go when there is no room: whoever comes in may be anybody, until a request of it has
//! been authenticated.
//!
//! In: connections that begin, and what is learnt of them. Out: places, and the end of one that somebody else needs. Always: one
//! address never has all places; whoever has shown who it is keeps its place as long as it is of use.
//! Bound: [`CONNECTIONS_MAX`], of which one address has at most [`SHARE_MAX`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Connections at once.
const CONNECTIONS_MAX: usize = 64;
/// Of them from one address; modules of a gateway may share one.
const SHARE_MAX: usize = CONNECTIONS_MAX / 2;

/// What was counted.
#[derive(Debug, Default)]
pub(crate) struct WebNumbers {
    /// Connections for which there was no place.
    turned_away: AtomicU64,
    /// Connections of nobody in particular that made room for others.
    made_room: AtomicU64,
    /// Connections that took too long: a request that does not come in, an answer that is not taken.
    too_slow: AtomicU64,
}

impl WebNumbers {
    /// Why connections over HTTPS ended before they were served, and how many.
    pub(crate) fn each(&self) -> [(&'static str, u64); 3] {
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        [
            ("full", count(&self.turned_away)),
            ("made_room", count(&self.made_room)),
            ("too_slow", count(&self.too_slow)),
        ]
    }

    pub(super) fn note_slow(&self) {
        self.too_slow.fetch_add(1, Ordering::Relaxed);
    }
}

/// Those that are there.
#[derive(Debug, Default)]
pub(super) struct Guests {
    by_number: Mutex<Numbered>,
    numbers: Arc<WebNumbers>,
}

#[derive(Debug, Default)]
struct Numbered {
    last: u64,
    guests: BTreeMap<u64, Guest>,
}

#[derive(Debug)]
struct Guest {
    address: Option<IpAddr>,
    /// A request of it has been authenticated.
    is_known: bool,
    end: Arc<Notify>,
}

/// The place of one connection; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    guests: Arc<Guests>,
    number: u64,
    end: Arc<Notify>,
}

impl Guests {
    pub(super) fn new(numbers: Arc<WebNumbers>) -> Arc<Guests> {
        Arc::new(Guests { by_number: Mutex::default(), numbers })
    }

    /// A place for a connection from `address`, if there is one; the oldest stranger makes room.
    pub(super) fn admit(self: &Arc<Guests>, address: Option<IpAddr>) -> Option<Place> {
        let mut all = lock(&self.by_number);
        let is_beside = |guest: &Guest| address.is_some() && guest.address == address;
        let has_share = all.guests.values().filter(|guest| is_beside(guest)).count() < SHARE_MAX;
        if !has_share || all.guests.len() >= CONNECTIONS_MAX {
            let mut strangers = all.guests.iter().filter(|(_, guest)| !guest.is_known);
            let oldest =
                strangers.find(|(_, guest)| has_share || is_beside(guest)).map(|(number, _)| *number);
            let Some(gone) = oldest.and_then(|number| all.guests.remove(&number)) else {
                self.numbers.turned_away.fetch_add(1, Ordering::Relaxed);
                return None;
            };
            self.numbers.made_room.fetch_add(1, Ordering::Relaxed);
            gone.end.notify_one();
        }
        all.last += 1;
        let (number, end) = (all.last, Arc::new(Notify::new()));
        all.guests.insert(number, Guest { address, is_known: false, end: Arc::clone(&end) });
        Some(Place { guests: Arc::clone(self), number, end })
    }
}

impl Place {
    /// Whoever has it has shown who it is.
    pub(super) fn is_known(&self) {
        if let Some(guest) = lock(&self.guests.by_number).guests.get_mut(&self.number) {
            guest.is_known = true;
        }
    }

    /// Waits until somebody else needs it.
    pub(super) async fn over(&self) {
        self.end.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.guests.by_number).guests.remove(&self.number);
    }
}

fn lock(mutex: &Mutex<Numbered>) -> MutexGuard<'_, Numbered> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([127, 0, 0, last]))
    }

    fn counted(guests: &Guests) -> [u64; 2] {
        let [(_, full), (_, made_room), _] = guests.numbers.each();
        [full, made_room]
    }

    #[tokio::test]
    async fn one_address_holds_nobody_else_out() {
        let guests = Guests::new(Arc::default());
        let mut held: Vec<Place> = (0..SHARE_MAX).filter_map(|_| guests.admit(at(1))).collect();
        assert_eq!((held.len(), counted(&guests)), (SHARE_MAX, [0, 0]));
        // One more of it takes the place of its own oldest.
        held.push(guests.admit(at(1)).expect("a place"));
        held[0].over().await;
        assert_eq!(counted(&guests), [0, 1]);
        drop(held.remove(0));
        // Whoever has shown who it is stays, and others have the rest.
        held.iter().for_each(Place::is_known);
        assert!(guests.admit(at(1)).is_none(), "it has its share");
        let others: Vec<Place> = (0..SHARE_MAX).filter_map(|_| guests.admit(at(2))).collect();
        assert_eq!((others.len(), counted(&guests)), (SHARE_MAX, [1, 1]));
        // All are taken: the oldest stranger goes, wherever it is.
        let _third = guests.admit(at(3)).expect("a place");
        others[0].over().await;
        assert_eq!(counted(&guests), [1, 2]);
        others.iter().for_each(Place::is_known);
        let fourth = guests.admit(at(4)).expect("that of the third");
        fourth.is_known();
        assert!(guests.admit(at(5)).is_none());
        drop(others);
        assert!(guests.admit(at(5)).is_some(), "those that have gone leave room");
    }
}
