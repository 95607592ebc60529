//! Which seeds a simulation runs, and how one that fails is run again.
//!
//! In: `MILLRACE_SIM_SEED` (this one alone), `MILLRACE_SIM_FROM` and `MILLRACE_SIM_SEEDS` (so many, from here on; `make sim`
//! goes on and on), and `seeds.txt`: seeds that failed once, which are run before all others, for ever.
//! Out: what the runs came to; a failing one prints the line that replays it. That a seed comes to the same each time is seen
//! where it is run twice: of new seeds, one in [`TWICE_EVERY`].

use std::fmt::Debug;
use std::ops::Range;

/// `simulation seed  # what it found`, one a line.
const OLD: &str = include_str!("seeds.txt");

/// The simulations that there are.
const NAMES: [&str; 5] = ["whatever_happens", "exactly_once", "sharing", "sim_an_uplink", "sim_a_pool"];

/// A second run costs as much as another seed, and what is not the same each time is not so for one seed alone.
const TWICE_EVERY: u64 = 8;

/// One seed, and what is made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Planned {
    seed: u64,
    /// It is run a second time, and must come to the same.
    twice: bool,
    /// Its outcome is asked for.
    counts: bool,
}

/// Seeds that failed once, by the name of their simulation.
fn failed_once(old: &str) -> impl Iterator<Item = (&str, u64)> {
    let lines = old.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(|line| {
        let (name, seed) = line.split_once(' ').unwrap_or_else(|| panic!("{line}: not `simulation seed`"));
        (name, seed.trim().parse().unwrap_or_else(|error| panic!("{line}: {error}")))
    })
}

/// What a simulation runs, in this order.
fn course(old: &str, name: &str, new: Range<u64>) -> Vec<Planned> {
    let old = failed_once(old).filter(|(of, _)| *of == name);
    let old = old.map(|(_, seed)| Planned { seed, twice: true, counts: false });
    old.chain(new.map(|seed| Planned { seed, twice: seed % TWICE_EVERY == 0, counts: true })).collect()
}

/// How a seed is run alone, and how it is kept.
fn advice(name: &str, seed: u64) -> String {
    format!(
        "replay: MILLRACE_SIM_SEED={seed} cargo test -p millrace-broker {name}\n\
         and keep it: echo '{name} {seed}  # what it found' >> router/broker/src/tests/seeds.txt"
    )
}

/// Runs them one after the other until one fails, and says by `say` how that is run again.
fn run_all<T: PartialEq + Debug>(
    name: &str,
    course: Vec<Planned>,
    run: impl Fn(u64) -> T + std::panic::RefUnwindSafe,
    mut say: impl FnMut(&str),
) -> Vec<T> {
    let mut outcomes = Vec::new();
    for Planned { seed, twice, counts } in course {
        let outcome = std::panic::catch_unwind(|| {
            let outcome = run(seed);
            if twice {
                assert_eq!(outcome, run(seed), "seed {seed}: the same inputs give the same effects");
            }
            outcome
        });
        match outcome {
            Ok(outcome) => outcomes.extend(counts.then_some(outcome)),
            Err(failure) => {
                say(&advice(name, seed));
                std::panic::resume_unwind(failure)
            }
        }
    }
    outcomes
}

/// A number that somebody may have set in the environment.
fn number(key: &str, value: Option<String>) -> Option<u64> {
    value.map(|text| text.parse().unwrap_or_else(|_| panic!("{key}={text}: not a whole number from 0 on")))
}

/// Runs the seeds of a simulation; what those came to that failed once is not told. `name` is one of [`NAMES`] and a part of the
/// test's name.
pub(crate) fn replay<T: PartialEq + Debug>(name: &str, seeds: u64, run: fn(u64) -> T) -> Vec<T> {
    assert!(NAMES.contains(&name), "{name} is not among NAMES");
    let number = |key| number(key, std::env::var(key).ok());
    let from = number("MILLRACE_SIM_FROM").unwrap_or(0);
    let course = match number("MILLRACE_SIM_SEED") {
        Some(seed) => vec![Planned { seed, twice: true, counts: true }],
        None => course(OLD, name, from..from + number("MILLRACE_SIM_SEEDS").unwrap_or(seeds)),
    };
    run_all(name, course, run, |advice| eprintln!("{advice}"))
}

#[test]
fn old_failures_are_of_simulations_that_there_are() {
    failed_once(OLD).for_each(|(name, seed)| assert!(NAMES.contains(&name), "{name} {seed}"));
}

#[test]
fn old_failures_run_before_all_others_and_twice() {
    let old = "# a comment\n\nsharing 7  # lost one\nsim_an_uplink 9\nsharing 3\n";
    let plan = |name, new| {
        let course = course(old, name, new).into_iter();
        course.map(|it| (it.seed, it.twice, it.counts)).collect::<Vec<_>>()
    };
    assert_eq!(
        plan("sharing", 799..802),
        [(7, true, false), (3, true, false), (799, false, true), (800, true, true), (801, false, true)]
    );
    assert_eq!(plan("sim_an_uplink", 1..2), [(9, true, false), (1, false, true)]);
    assert_eq!(plan("sim_a_pool", 1..2), [(1, false, true)]);
}

#[test]
fn outcomes_are_those_of_new_seeds() {
    let course = course("sharing 7\n", "sharing", 10..13);
    assert_eq!(run_all("sharing", course, |seed| seed * 2, |_| unreachable!("none fails")), [20, 22, 24]);
}

/// What a failing course says.
fn say_of(course: Vec<Planned>, run: impl Fn(u64) -> u64 + std::panic::RefUnwindSafe) -> String {
    let mut said = String::new();
    let run = || run_all("sharing", course, run, |advice| said.push_str(advice));
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    assert!(failed.is_err(), "the failure of a seed is one of the test");
    said
}

#[test]
fn a_failing_seed_says_how_it_is_run_alone_and_kept() {
    let said = say_of(course("", "sharing", 9..20), |seed| if seed < 12 { seed } else { panic!("lost one") });
    let (replay, keep) = said.split_once('\n').expect("two lines");
    assert_eq!(replay, "replay: MILLRACE_SIM_SEED=12 cargo test -p millrace-broker sharing");
    let line = keep.split('\'').nth(1).expect("a line to keep");
    assert_eq!(failed_once(line).collect::<Vec<_>>(), [("sharing", 12)]);
    assert!(keep.ends_with("router/broker/src/tests/seeds.txt"));
}

#[test]
fn a_seed_that_failed_once_and_fails_again_says_so_too() {
    let said = say_of(course("sharing 7  # lost one\n", "sharing", 0..3), |seed| {
        if seed == 7 { panic!("lost one again") } else { seed }
    });
    assert!(said.contains("MILLRACE_SIM_SEED=7 "), "{said}");
}

#[test]
fn a_seed_that_does_not_come_to_the_same_twice_is_a_failure() {
    use std::sync::atomic::{AtomicU64, Ordering};
    let runs = AtomicU64::new(0);
    let said = say_of(course("", "sharing", 7..20), |_| runs.fetch_add(1, Ordering::Relaxed));
    assert!(said.contains("MILLRACE_SIM_SEED=8 "), "{said}");
}

#[test]
#[should_panic(expected = "MILLRACE_SIM_SEED=twelve: not a whole number from 0 on")]
fn a_seed_that_is_no_number_is_an_error() {
    number("MILLRACE_SIM_SEED", Some("twelve".into()));
}
