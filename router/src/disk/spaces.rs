//! Where each kind of small durable state stands in the store.
//!
//! In: a kind. Out: its number. Always: a number is given once, also after its kind is gone.

use broker::StateSpace;
use store::Space;

/// Ranges of messages that nobody will get.
pub(crate) const LOSSES: Space = Space(6);
/// Lanes whose uplink is in the configuration no more.
pub(crate) const VANISHED: Space = Space(7);

/// Where what the broker keeps stands.
pub(crate) const fn space_of(kind: StateSpace) -> Space {
    match kind {
        StateSpace::Sessions => Space(1),
        StateSpace::Retained => Space(2),
        StateSpace::Subscriptions => Space(3),
        StateSpace::Received => Space(4),
        StateSpace::Marks => Space(5),
        StateSpace::Poison => Space(8),
        StateSpace::LossesPublished => Space(9),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_number_is_given_twice() {
        let kinds = [
            StateSpace::Sessions,
            StateSpace::Retained,
            StateSpace::Subscriptions,
            StateSpace::Received,
            StateSpace::Marks,
            StateSpace::Poison,
            StateSpace::LossesPublished,
        ];
        let spaces: Vec<Space> = kinds.map(space_of).into_iter().chain([LOSSES, VANISHED]).collect();
        let numbers: BTreeSet<u8> = spaces.iter().map(|space| space.0).collect();
        assert_eq!(numbers.len(), spaces.len(), "{spaces:?}");
    }
}
