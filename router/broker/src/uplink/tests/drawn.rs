//! What the simulations of uplinks draw alike: messages of many kinds.

use super::{Written, record};

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
