//! Which seeds a simulation runs, and how one that fails is run again.
//!
//! In: `MILLRACE_SIM_SEED` (this one alone), `MILLRACE_SIM_FROM` and `MILLRACE_SIM_SEEDS` (so many, from here on; `make sim`
//! goes on and on), and `seeds.txt`: seeds that failed once, which are run before all others, for ever.
//! Out: what the runs came to; a failing one prints the line that replays it.

/// `simulation seed  # what it found`, one a line.
const OLD: &str = include_str!("seeds.txt");

/// The simulations that there are.
const NAMES: [&str; 4] = ["whatever_happens", "exactly_once", "sharing", "sim_an_uplink"];

/// Seeds that failed once, by the name of their simulation.
fn failed_once(old: &str) -> impl Iterator<Item = (&str, u64)> {
    let lines = old.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(|line| {
        let (name, seed) = line.split_once(' ').unwrap_or_else(|| panic!("{line}: not `simulation seed`"));
        (name, seed.trim().parse().unwrap_or_else(|error| panic!("{line}: {error}")))
    })
}

/// What a simulation runs, in this order; and how many of them failed once.
fn course(old: &str, name: &str, new: std::ops::Range<u64>) -> (Vec<u64>, usize) {
    let mut seeds: Vec<u64> = failed_once(old).filter(|(of, _)| *of == name).map(|(_, seed)| seed).collect();
    let old = seeds.len();
    seeds.extend(new);
    (seeds, old)
}

/// How a seed is run alone, and how it is kept.
fn advice(name: &str, seed: u64) -> String {
    format!(
        "replay: MILLRACE_SIM_SEED={seed} cargo test -p millrace-broker {name}\n\
         and keep it: echo '{name} {seed}  # what it found' >> router/broker/src/tests/seeds.txt"
    )
}

fn twice<T: PartialEq + std::fmt::Debug>(seed: u64, run: fn(u64) -> T) -> T {
    let (one, two) = (run(seed), run(seed));
    assert_eq!(one, two, "seed {seed}: the same inputs give the same effects");
    one
}

/// Runs every seed twice; the same seed must come to the same. `name` is one of [`NAMES`] and a part of the test's name.
pub(crate) fn replay<T: PartialEq + std::fmt::Debug>(name: &str, seeds: u64, run: fn(u64) -> T) -> Vec<T> {
    assert!(NAMES.contains(&name), "{name} is not among NAMES");
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let from = number("MILLRACE_SIM_FROM").unwrap_or(0);
    let (seeds, old) = match number("MILLRACE_SIM_SEED") {
        Some(seed) => (vec![seed], 0),
        None => course(OLD, name, from..from + number("MILLRACE_SIM_SEEDS").unwrap_or(seeds)),
    };
    let run = |seed| {
        std::panic::catch_unwind(|| twice(seed, run)).unwrap_or_else(|failure| {
            eprintln!("{}", advice(name, seed));
            std::panic::resume_unwind(failure)
        })
    };
    seeds.into_iter().map(run).skip(old).collect()
}

#[test]
fn old_failures_are_of_simulations_that_there_are() {
    failed_once(OLD).for_each(|(name, seed)| assert!(NAMES.contains(&name), "{name} {seed}"));
}

#[test]
fn old_failures_run_before_all_others() {
    let old = "# a comment\n\nsharing 7  # lost one\nsim_an_uplink 9\nsharing 3\n";
    assert_eq!(course(old, "sharing", 100..103), (vec![7, 3, 100, 101, 102], 2));
    assert_eq!(course(old, "sim_an_uplink", 0..1), (vec![9, 0], 1));
    assert_eq!(course("", "sharing", 0..1), (vec![0], 0));
}

#[test]
fn what_is_advised_for_a_failing_seed_runs_and_keeps_it() {
    let advice = advice("sharing", 12);
    let (replay, keep) = advice.split_once('\n').unwrap();
    assert!(
        replay.contains("MILLRACE_SIM_SEED=12") && replay.ends_with("cargo test -p millrace-broker sharing")
    );
    let line = keep.split('\'').nth(1).unwrap();
    assert_eq!(failed_once(line).collect::<Vec<_>>(), [("sharing", 12)]);
    assert!(keep.ends_with("router/broker/src/tests/seeds.txt"));
}

#[test]
fn a_course_that_differs_from_itself_is_a_failure() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let failed = std::panic::catch_unwind(|| twice(1, |seed| seed + RUNS.fetch_add(1, Ordering::Relaxed)));
    assert!(failed.is_err());
}
