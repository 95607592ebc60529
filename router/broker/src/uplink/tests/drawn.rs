//! What the simulations of uplinks draw alike: messages of many kinds, and how each lane drains.

use model::LaneId;

use super::{Written, record};
use crate::random::Random;
use crate::uplink::Carrier;

/// What an upstream makes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Fine,
    Forbidden,
    Invalid,
    Deadly,
    Large,
    Junk,
}

impl Kind {
    /// One in twelve is not fine; `drawn` is below 60.
    pub(super) fn of(drawn: usize) -> Kind {
        match drawn {
            0 => Kind::Forbidden,
            1 => Kind::Invalid,
            2 => Kind::Deadly,
            3 => Kind::Large,
            4 => Kind::Junk,
            _ => Kind::Fine,
        }
    }

    /// The record of the message of this number; `filler` says how many bytes more it has, where its kind leaves that open.
    pub(super) fn record(self, client_id: &str, number: usize, filler: impl FnOnce() -> usize) -> Vec<u8> {
        let mut payload = format!("{number}:").into_bytes();
        payload.resize(payload.len() + if self == Kind::Large { 400 } else { filler() }, b'.');
        match self {
            Kind::Junk => b"junk".to_vec(),
            _ => record(client_id, &payload),
        }
    }
}

/// Which message it is.
pub(super) fn serial(written: &Written) -> usize {
    let text = String::from_utf8_lossy(&written.payload);
    text.split(':').next().expect("serial:…").parse().expect("a number")
}

/// How each lane drains. In one run of two as the uplink says; else each has its own way, which changes now and then, as it
/// does when routes are replaced. Drawn beside everything else, so that a seed stays what it was.
pub(super) struct Drains {
    random: Random,
    mixes: bool,
    lanes: Vec<(LaneId, bool)>,
}

impl Drains {
    pub(super) fn new(seed: u64, live_first: bool, lanes: &[LaneId]) -> Drains {
        let mut random = Random(!seed);
        let mixes = random.one_in(2);
        let mut own = || if mixes { random.one_in(2) } else { live_first };
        let lanes = lanes.iter().map(|lane| (*lane, own())).collect();
        Drains { random, mixes, lanes }
    }

    /// Whether this one drains live first now.
    pub(super) fn is_live_first(&self, index: usize) -> bool {
        self.lanes[index].1
    }

    /// A new carrier hears of all of them.
    pub(super) fn tell(&self, carrier: &mut Carrier) {
        if self.mixes {
            self.lanes.iter().for_each(|(lane, live_first)| carrier.set_live_first(*lane, *live_first));
        }
    }

    /// Once in so many times one of them changes.
    pub(super) fn change(&mut self, one_in: usize, carrier: &mut Carrier) {
        if self.mixes && self.random.one_in(one_in) {
            let index = self.random.below(self.lanes.len());
            self.lanes[index].1 ^= true;
            self.tell(carrier);
        }
    }
}
