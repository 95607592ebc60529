//! Which lanes of an uplink live messages may pass: said by the main thread whenever routes are replaced, read by the uplink.
//!
//! In: a yes or no for each lane. Out: the same; the uplink is rung when something has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use model::Priority;

use super::Bell;

/// A bit for each lane, from the most urgent one on.
#[derive(Debug)]
pub(crate) struct LaneDrains {
    live_first: AtomicU32,
    bell: Arc<Bell>,
}

impl LaneDrains {
    /// Nothing may be passed yet; `bell` rings the uplink.
    pub(crate) fn new(bell: Arc<Bell>) -> LaneDrains {
        LaneDrains { live_first: AtomicU32::new(0), bell }
    }

    /// Whether the lane of a priority may be passed from now on. Before messages of the routes that want it so.
    pub(crate) fn set(&self, is_live_first: impl Fn(Priority) -> bool) {
        let bits = (0..).zip(Priority::all()).filter(|(_, priority)| is_live_first(*priority));
        let bits = bits.fold(0_u32, |bits, (index, _)| bits | 1_u32.checked_shl(index).unwrap_or(0));
        if self.live_first.swap(bits, Ordering::AcqRel) != bits {
            self.bell.ring();
        }
    }

    /// What is said now.
    pub(super) fn read(&self) -> Lanes {
        Lanes(self.live_first.load(Ordering::Acquire))
    }
}

/// What was said at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lanes(u32);

impl Lanes {
    /// Whether live messages may pass in this lane.
    pub(super) fn is_live_first(self, index: usize) -> bool {
        self.0 >> index & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_priority_has_a_bit_of_its_own() {
        assert!(Priority::all().count() <= u32::BITS as usize);
        let drains = LaneDrains::new(Arc::default());
        assert_eq!(drains.read(), Lanes(0));
        for (index, chosen) in Priority::all().enumerate() {
            drains.set(|priority| priority == chosen);
            let said: Vec<_> =
                (0..Priority::all().count()).map(|at| drains.read().is_live_first(at)).collect();
            assert!(said.iter().enumerate().all(|(at, is)| *is == (at == index)), "{said:?}");
        }
    }
}
