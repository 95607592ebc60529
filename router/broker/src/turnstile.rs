//! Who of those that connect is let in, told why not, or just closed: at the door, before a byte is read.
//!
//! In: how many connections are open, and the time. Out: a [`Verdict`]. Both buckets hold one second's worth.
//! To be told takes a place and our time, so it has a bound of its own; above it a flood is closed without a word.

use model::{Instant, Limits};
use wire::ReasonCode;

/// Connections a second that are told why they are refused, where nothing else bounds them.
const TOLD_PER_SEC: u32 = 100;

/// What becomes of a connection that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is served.
    Admit,
    /// Its CONNECT is refused with this, see [`crate::Peer`].
    Tell(ReasonCode),
    /// It is closed at once, for this reason.
    Close(ReasonCode),
}

/// `limits.connections_max` and `limits.connects_per_sec_max`, for the whole process.
#[derive(Debug)]
pub struct Turnstile {
    connections_max: u32,
    /// Beyond `connections_max`, for those that are told.
    spare: u32,
    admitted: Option<Bucket>,
    told: Bucket,
}

impl Turnstile {
    /// Both buckets are full at first.
    pub fn new(limits: &Limits, now: Instant) -> Turnstile {
        let per_sec = limits.connects_per_sec_max;
        Turnstile {
            connections_max: limits.connections_max,
            spare: limits.connections_max / 16 + 16,
            admitted: (per_sec > 0).then(|| Bucket::new(per_sec, now)),
            told: Bucket::new(if per_sec > 0 { per_sec } else { TOLD_PER_SEC }, now),
        }
    }

    /// Decides about one more connection while `open` are there, those that are told included.
    pub fn judge(&mut self, open: u32, now: Instant) -> Verdict {
        let full = open >= self.connections_max;
        if !full && self.admitted.as_mut().is_none_or(|bucket| bucket.take(now)) {
            return Verdict::Admit;
        }
        let reason = if full { ReasonCode::QUOTA_EXCEEDED } else { ReasonCode::CONNECTION_RATE_EXCEEDED };
        let has_place = open < self.connections_max.saturating_add(self.spare);
        if has_place && self.told.take(now) { Verdict::Tell(reason) } else { Verdict::Close(reason) }
    }
}

/// What one connection takes out of a bucket: as many parts as a second has microseconds.
const TOKEN: u64 = 1_000_000;

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    per_sec: u64,
    parts: u64,
    filled: Instant,
}

impl Bucket {
    fn new(per_sec: u32, now: Instant) -> Bucket {
        let per_sec = u64::from(per_sec);
        Bucket { per_sec, parts: per_sec * TOKEN, filled: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let gained = now.0.saturating_sub(self.filled.0).min(TOKEN) * self.per_sec;
        self.parts = (self.parts + gained).min(self.per_sec * TOKEN);
        self.filled = now;
        let enough = self.parts >= TOKEN;
        self.parts -= if enough { TOKEN } else { 0 };
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(turnstile: &mut Turnstile, count: usize, open: u32, millis: u64) -> Vec<Verdict> {
        (0..count).map(|_| turnstile.judge(open, Instant(millis * 1_000))).collect()
    }

    #[test]
    fn a_burst_of_one_second_is_let_in_and_then_as_many_as_time_allows() {
        let limits = Limits { connects_per_sec_max: 3, ..Limits::DEFAULT };
        let mut turnstile = Turnstile::new(&limits, Instant(0));
        let reason = ReasonCode::CONNECTION_RATE_EXCEEDED;
        let (admit, told, close) = (Verdict::Admit, Verdict::Tell(reason), Verdict::Close(reason));
        assert_eq!(judge(&mut turnstile, 7, 0, 0), [admit, admit, admit, told, told, told, close]);
        assert_eq!(judge(&mut turnstile, 3, 0, 334), [admit, told, close]);
        assert_eq!(judge(&mut turnstile, 4, 0, 60_000), [admit, admit, admit, told], "no more than a burst");
    }

    /// Many within a millisecond do not keep the bucket from filling.
    #[test]
    fn the_rate_holds_for_any_spacing() {
        let limits = Limits { connects_per_sec_max: 100, ..Limits::DEFAULT };
        let mut turnstile = Turnstile::new(&limits, Instant(0));
        let calls = (0..40_000).map(|number| turnstile.judge(0, Instant(number * 250)));
        let admitted = calls.filter(|verdict| *verdict == Verdict::Admit).count();
        assert!((1_098..=1_100).contains(&admitted), "a burst and ten seconds: {admitted}");
    }

    #[test]
    fn above_the_most_connections_some_are_told() {
        let limits = Limits { connections_max: 32, ..Limits::DEFAULT };
        let mut turnstile = Turnstile::new(&limits, Instant(0));
        assert_eq!(turnstile.judge(31, Instant(0)), Verdict::Admit);
        assert_eq!(turnstile.judge(32, Instant(0)), Verdict::Tell(ReasonCode::QUOTA_EXCEEDED));
        assert_eq!(turnstile.judge(32 + 2 + 16, Instant(0)), Verdict::Close(ReasonCode::QUOTA_EXCEEDED));
        let verdicts = judge(&mut turnstile, 1_000, 32, 0);
        let told = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Tell(_))).count();
        assert_eq!(told as u32, TOLD_PER_SEC - 1);
    }
}
