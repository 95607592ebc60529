//! Which seeds a simulation runs, and how one that fails is run again.
//!
//! In: `MILLRACE_SIM_SEED` (this one alone), `MILLRACE_SIM_FROM` and `MILLRACE_SIM_SEEDS` (so many, from here on; `make sim`
//! goes on and on), and `seeds.txt`: seeds that failed once, which are run before all others, for ever.
//! Out: what the runs came to; a failing one prints the line that replays it.

/// `simulation seed  # what it found`, one a line.
const OLD: &str = include_str!("seeds.txt");

/// The simulations that there are.
const NAMES: [&str; 5] = ["whatever_happens", "exactly_once", "sharing", "sim_an_uplink", "sim_a_pool"];

/// Seeds that failed once, by the name of their simulation.
fn old() -> impl Iterator<Item = (&'static str, u64)> {
    let lines = OLD.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(|line| {
        let (name, seed) = line.split_once(' ').unwrap_or_else(|| panic!("{line}: not `simulation seed`"));
        (name, seed.trim().parse().unwrap_or_else(|error| panic!("{line}: {error}")))
    })
}

/// Runs every seed twice; the same seed must come to the same. `name` is one of [`NAMES`] and a part of the test's name.
pub(crate) fn replay<T: PartialEq + std::fmt::Debug>(name: &str, seeds: u64, run: fn(u64) -> T) -> Vec<T> {
    assert!(NAMES.contains(&name), "{name} is not among NAMES");
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let twice = |seed| match std::panic::catch_unwind(|| (run(seed), run(seed))) {
        Ok((one, two)) => {
            assert_eq!(one, two, "seed {seed}: the same inputs give the same effects");
            one
        }
        Err(failure) => {
            eprintln!("replay: MILLRACE_SIM_SEED={seed} cargo test -p millrace-broker {name}");
            eprintln!(
                "and keep it: echo '{name} {seed}  # what it found' >> router/broker/src/tests/seeds.txt"
            );
            std::panic::resume_unwind(failure);
        }
    };
    if let Some(seed) = number("MILLRACE_SIM_SEED") {
        return vec![twice(seed)];
    }
    old().filter(|(of, _)| *of == name).for_each(|(_, seed)| drop(twice(seed)));
    let from = number("MILLRACE_SIM_FROM").unwrap_or(0);
    (from..from + number("MILLRACE_SIM_SEEDS").unwrap_or(seeds)).map(twice).collect()
}

#[test]
fn old_failures_are_of_simulations_that_there_are() {
    old().for_each(|(name, seed)| assert!(NAMES.contains(&name), "{name} {seed}"));
}
