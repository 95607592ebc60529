//! Whether a group that is small waits for more, so that a sync is not spent on each message.
//!
//! In: when the last group was begun, how large the next one is, what waiting brought. Out: how long to wait.
//! Always: after an idle time nobody waits; nobody waits longer than `delay` after the group before was begun, and not at all
//! while waiting brings little: clients that wait for their acknowledgements, and answer them at once, send nothing meanwhile.
//! Those that answer them later than [`ECHO`] look like some that send by themselves, and wait like them.
//! Bound: a few numbers.

use std::time::{Duration, Instant};

/// A group of so many bytes does not wait: what a sync costs by itself is little beside it.
const ENOUGH_BYTES: u64 = 16 << 10;
/// So long after a sync those whose acknowledgement it was have answered it.
const ECHO: Duration = Duration::from_micros(200);
/// Groups that do not wait after a wait in vain, at most.
const SKIP_MAX: u32 = 64;

/// See the charter.
#[derive(Debug)]
pub(super) struct Pacing {
    /// Between the beginnings of two small groups.
    delay: Duration,
    /// When the last group was begun.
    begun: Option<Instant>,
    /// So many groups are not to wait, and how many were not the last time.
    skip: u32,
    skipped: u32,
}

/// How a group waits: first for the echo of the one before, then for what comes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waits {
    pub(super) echo: Duration,
    pub(super) more: Duration,
}

impl Pacing {
    pub(super) fn new(delay: Duration) -> Pacing {
        Pacing { delay, begun: None, skip: 0, skipped: 0 }
    }

    /// How a group of `bytes` waits that could be written at `now`.
    pub(super) fn waits(&mut self, now: Instant, bytes: u64) -> Option<Waits> {
        let since = now.saturating_duration_since(self.begun?);
        let left = self.delay.checked_sub(since).filter(|left| *left > ECHO)?;
        if !Pacing::is_small(bytes) {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        Some(Waits { echo: ECHO, more: left - ECHO })
    }

    /// Whether a group of so many bytes is worth waiting for more.
    pub(super) fn is_small(bytes: u64) -> bool {
        bytes > 0 && bytes < ENOUGH_BYTES
    }

    /// A group that had `before` bytes after its echo has `after`.
    pub(super) fn waited(&mut self, before: u64, after: u64) {
        if after >= before + before / 2 {
            self.skipped = 0;
        } else {
            self.skipped = (2 * self.skipped + 1).min(SKIP_MAX);
            self.skip = self.skipped;
        }
    }

    /// A group is begun.
    pub(super) fn begin(&mut self, now: Instant) {
        self.begun = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const DELAY: Duration = Duration::from_millis(1);
    /// What a sync takes, in µs.
    const SYNC: u64 = 250;
    const MESSAGE_BYTES: u64 = 300;

    /// What was written in a second.
    #[derive(Debug)]
    struct Played {
        messages: u64,
        groups: u64,
        waits: u64,
    }

    /// Messages come at `times`, ascending, in µs; with `think` each comes again so long after its acknowledgement.
    fn play(delay: Duration, mut times: VecDeque<u64>, think: Option<u64>) -> Played {
        let (mut pacing, start) = (Pacing::new(delay), Instant::now());
        let at = |micros| start + Duration::from_micros(micros);
        let (mut now, mut played) = (0, Played { messages: 0, groups: 0, waits: 0 });
        while let Some(first) = times.front().filter(|first| **first < 1_000_000) {
            now = now.max(*first);
            let here = |now: u64| times.iter().take_while(|time| **time <= now).count() as u64;
            if let Some(Waits { echo, more }) = pacing.waits(at(now), here(now) * MESSAGE_BYTES) {
                now += echo.as_micros() as u64;
                let before = here(now);
                now += more.as_micros() as u64;
                pacing.waited(before * MESSAGE_BYTES, here(now) * MESSAGE_BYTES);
                played.waits += 1;
            }
            let group = here(now);
            pacing.begin(at(now));
            now += SYNC;
            times.drain(..group as usize);
            times.extend(think.iter().flat_map(|think| (0..group).map(|_| now + *think)));
            played.messages += group;
            played.groups += 1;
        }
        played
    }

    fn at_rate(per_sec: u64) -> VecDeque<u64> {
        (0..per_sec).map(|it| it * 1_000_000 / per_sec).collect()
    }

    fn clients(count: usize) -> VecDeque<u64> {
        // Half of them while the first group is written, as it comes about.
        (0..count as u64)
            .map(|it| (it % 2) * SYNC / 2)
            .collect::<std::collections::BinaryHeap<_>>()
            .into_sorted_vec()
            .into()
    }

    #[test]
    fn messages_that_come_by_themselves_share_a_sync_in_each_interval() {
        let alone = play(Duration::ZERO, at_rate(5_000), None);
        let paced = play(DELAY, at_rate(5_000), None);
        assert_eq!((alone.messages, alone.waits, paced.messages), (5_000, 0, 5_000));
        assert!(alone.groups > 2_400 && (900..=1_010).contains(&paced.groups), "{alone:?} {paced:?}");
    }

    #[test]
    fn clients_that_answer_their_acknowledgements_at_once_lose_next_to_nothing() {
        for (count, think) in
            [(1, 60), (2, 60), (10, 60), (30, 60), (1, 150), (10, 150), (1, 500), (1, 2_000)]
        {
            let alone = play(Duration::ZERO, clients(count), Some(think));
            let paced = play(DELAY, clients(count), Some(think));
            assert!(
                paced.messages * 100 >= alone.messages * 93,
                "{count} clients, {think} µs: {alone:?} {paced:?}"
            );
        }
    }

    #[test]
    fn a_round_of_clients_that_take_their_time_is_longer_by_no_more_than_an_interval() {
        for (count, think) in [(2, 300), (2, 500), (10, 500), (30, 500), (10, 2_000), (30, 2_000)] {
            let alone = play(Duration::ZERO, clients(count), Some(think));
            let paced = play(DELAY, clients(count), Some(think));
            let round = |played: &Played| 1_000_000 * count as u64 / played.messages;
            assert!(
                round(&paced) <= round(&alone) + DELAY.as_micros() as u64,
                "{count} clients, {think} µs: {alone:?} {paced:?}"
            );
        }
    }

    #[test]
    fn after_an_idle_time_nobody_waits() {
        assert_eq!(play(DELAY, at_rate(500), None).waits, 0);
        assert_eq!(Pacing::new(DELAY).waits(Instant::now(), 1), None, "nor at first");
    }

    #[test]
    fn a_large_group_does_not_wait_and_neither_does_one_that_is_empty() {
        let (mut pacing, now) = (Pacing::new(DELAY), Instant::now());
        pacing.begin(now);
        assert_eq!(pacing.waits(now, ENOUGH_BYTES), None);
        assert_eq!(pacing.waits(now, 0), None);
        assert_eq!(pacing.waits(now, ENOUGH_BYTES - 1), Some(Waits { echo: ECHO, more: DELAY - ECHO }));
    }

    #[test]
    fn waits_in_vain_become_rare_and_one_that_is_worth_it_makes_them_common() {
        let (mut pacing, now) = (Pacing::new(DELAY), Instant::now());
        pacing.begin(now);
        let asked =
            |pacing: &mut Pacing| (0..).take_while(|_| pacing.waits(now, 300).is_none()).count() as u32;
        for groups in [0, 1, 3, 7, 15, 31, 63, SKIP_MAX, SKIP_MAX] {
            assert_eq!(asked(&mut pacing), groups);
            pacing.waited(1_000, 1_499);
        }
        assert_eq!(asked(&mut pacing), SKIP_MAX);
        pacing.waited(1_000, 1_500);
        assert_eq!(asked(&mut pacing), 0);
    }
}
