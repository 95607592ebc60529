//! Finds the message at which the upstream closes the connection, each time it comes.
//!
//! In: links that ended, answers. Out: how many publications may be in flight, and whether an end counts.
//! Once links have ended a second time with something in flight, publications go one at a time, until as many are
//! answered as were in flight. Only an end while one was *alone* in flight is held against it, and only if the other side
//! made it: networks that fail in between are no message's fault.

/// Answers without an end that make earlier ends chance.
const CALM: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Suspicion {
    ends: u32,
    /// Answers until the whole window is used again.
    steps_left: usize,
    /// Answers since the last end.
    answers: usize,
}

impl Suspicion {
    /// Publications that may be in flight.
    pub(super) fn window(&self, window: usize) -> usize {
        if self.steps_left > 0 { window.min(1) } else { window }
    }

    /// The other side ended the link with so many publications in flight. Whether that is held against the first one.
    pub(super) fn ended(&mut self, inflight: usize) -> bool {
        let was_stepping = self.steps_left > 0;
        self.ends = if self.answers >= CALM { 1 } else { self.ends.saturating_add(1) };
        self.answers = 0;
        if self.ends >= 2 {
            self.steps_left = self.steps_left.max(inflight);
        }
        was_stepping && inflight == 1
    }

    /// A publication is answered, or out of the way.
    pub(super) fn answered(&mut self) {
        self.steps_left = self.steps_left.saturating_sub(1);
        self.answers = self.answers.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_end_leads_to_single_steps_and_only_those_count() {
        let mut suspicion = Suspicion::default();
        assert!(!suspicion.ended(10));
        assert_eq!(suspicion.window(10), 10);
        assert!(!suspicion.ended(10), "it was not alone");
        assert_eq!(suspicion.window(10), 1);
        suspicion.answered();
        assert_eq!(suspicion.window(10), 1, "the culprit is among those that were with it");
        assert!(suspicion.ended(1) && suspicion.ended(1));
        (0..9).for_each(|_| suspicion.answered());
        assert_eq!(suspicion.window(10), 10);
        (0..CALM).for_each(|_| suspicion.answered());
        assert!(!suspicion.ended(1));
        assert_eq!(suspicion.window(10), 10);
    }
}
