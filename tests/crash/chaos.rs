//! What happens and when, from one seed.
//!
//! In: `MILLRACE_CRASH_ROUNDS`, `MILLRACE_SEED`. Out: moments and choices; kills.

use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use harness::{Random, Router, Signal};

use crate::traffic::Target;

const ROUNDS: u64 = 8;

/// One test's course.
#[derive(Debug)]
pub(crate) struct Chaos {
    name: &'static str,
    seed: u64,
    random: Random,
    rounds: u64,
    kills: u64,
    one_shard: bool,
}

impl Chaos {
    /// Reads the environment and says which seed it is.
    pub(crate) fn new(name: &'static str) -> Chaos {
        let number = |name: &str| {
            let text = std::env::var(name).ok()?;
            Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
        };
        let clock =
            || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_micros() as u64);
        let seed = number("MILLRACE_SEED").unwrap_or_else(clock);
        let rounds = number("MILLRACE_CRASH_ROUNDS").unwrap_or(ROUNDS);
        println!("{name}: MILLRACE_SEED={seed} MILLRACE_CRASH_ROUNDS={rounds}");
        Chaos { name, seed, random: Random::new(seed), rounds, kills: 0, one_shard: false }
    }

    /// With one shard, and only ever one.
    pub(crate) fn with_one_shard(mut self) -> Chaos {
        self.one_shard = true;
        self
    }

    pub(crate) fn has_one_shard(&self) -> bool {
        self.one_shard
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    pub(crate) fn rounds(&self) -> u64 {
        self.rounds
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.random.below(end)
    }

    /// 1 to 3, unless it must be 1.
    pub(crate) fn shards(&mut self) -> usize {
        if self.one_shard { 1 } else { self.random.between(1, 4) as usize }
    }

    /// Lets things happen for a random time: the moment of what comes next is what is tested.
    pub(crate) fn wait(&mut self, from_millis: u64, to_millis: u64) {
        sleep(Duration::from_millis(self.random.between(from_millis, to_millis)));
    }

    /// Kills the router.
    #[track_caller]
    pub(crate) fn kill(&mut self, router: &mut Router) {
        router.kill();
        self.kills += 1;
    }

    /// Kills the router, perhaps once more while it starts, perhaps with another number of shards afterwards.
    #[track_caller]
    pub(crate) fn kill_and_start_again(&mut self, router: &mut Router, target: &Target) {
        self.kill(router);
        if self.below(3) == 0 {
            router.reconfigure("shards", self.shards());
        }
        if self.below(4) == 0 {
            router.spawn_again();
            self.wait(0, 80);
            router.process().signal(Signal::Kill);
            router.process().wait();
            self.kills += 1;
        }
        router.start_again();
        target.set(router.address());
    }
}

impl std::fmt::Display for Chaos {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (MILLRACE_SEED={}, {} kills)", self.name, self.seed, self.kills)
    }
}
