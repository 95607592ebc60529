//! Whether a link is any good: something was answered on it, or it has lasted with nothing to answer.
//!
//! In: when the link came up, answers, time. Out: whether that is proved. That an upstream lets us in proves nothing: a front
//! end whose backend is down does that, too.

use model::Instant;

/// How long a link on which nothing waits for an answer must last.
const LASTING_MILLIS: u64 = 10_000;

#[derive(Debug, Default)]
pub(super) struct Proof {
    up_at: Option<Instant>,
    is_given: bool,
}

impl Proof {
    /// The upstream has let us in.
    pub(super) fn up(&mut self, now: Instant) {
        *self = Proof { up_at: Some(now), is_given: false };
    }

    /// A publication was answered.
    pub(super) fn answered(&mut self) {
        self.is_given = true;
    }

    /// Time passed, with so many publications in flight.
    pub(super) fn tick(&mut self, inflight: usize, now: Instant) {
        self.is_given |= inflight == 0 && self.up_at.is_some_and(|at| now.millis_since(at) >= LASTING_MILLIS);
    }

    /// Whether it is.
    pub(super) fn is_given(&self) -> bool {
        self.is_given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_be_let_in_proves_nothing_until_an_answer_or_a_quiet_while() {
        let at = |millis| Instant::default().plus_millis(millis);
        let mut proof = Proof::default();
        proof.tick(0, at(60_000));
        assert!(!proof.is_given(), "it is not up");
        proof.up(at(0));
        proof.tick(0, at(9_999));
        proof.tick(1, at(60_000));
        assert!(!proof.is_given(), "something waits for its answer");
        proof.tick(0, at(60_001));
        assert!(proof.is_given());
        proof.up(at(70_000));
        assert!(!proof.is_given());
        proof.answered();
        assert!(proof.is_given());
    }
}
