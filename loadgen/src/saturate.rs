//! Where a broker's knee is: the highest rate at which latency and loss stay within bounds.
//!
//! In:  a scenario and bounds. Out: every step, and the knee. How: the rate is doubled until a bound breaks, then the
//! span between the last good and the first bad rate is halved, until it is narrow. The search is pure; each step is a
//! whole run, in an open loop.

use serde::Serialize;

use crate::measure::{Watch, measure};
use crate::report::{Report, thousands};
use crate::run::RunError;
use crate::scenario::{Scenario, ScenarioError};

/// What a step must keep to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bounds {
    /// Highest p99, in microseconds.
    pub p99_micros: u64,
    /// Largest share of messages that do not arrive, in percent.
    pub loss_percent: f64,
    /// The search ends when good and bad are so close, as a share of the good one.
    pub precision: f64,
}

/// Why a step is bad.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Messages a second that were offered.
    pub rate: f64,
    /// Messages a second that arrived.
    pub arrived_per_sec: f64,
    /// 99 % were below, in microseconds.
    pub p99_micros: u64,
    /// Share that did not arrive or was not taken, in percent.
    pub loss_percent: f64,
    /// Why it is beyond the knee; `None` if it is within.
    pub broken: Option<String>,
}

/// What the search has shown.
#[derive(Clone, Debug, Serialize)]
pub struct Knee {
    /// The bounds.
    pub bounds: Bounds,
    /// Every step, in the order they were made.
    pub steps: Vec<Step>,
    /// The highest rate within the bounds; `None` if even the first was beyond.
    pub rate: Option<f64>,
    /// Whether the generator was the one that gave up: then the knee is its own, not the broker's.
    pub own_limit: bool,
    /// Why the search ended before its time: the steps are what there was until then, and the knee is not known.
    pub failed: Option<String>,
}

/// Doubles, then halves the span. Pure.
#[derive(Clone, Debug)]
struct Search {
    good: Option<f64>,
    bad: Option<f64>,
    next: f64,
    precision: f64,
}

/// Steps after which a search ends in any case.
const STEPS_MAX: usize = 24;

impl Search {
    fn new(first: f64, precision: f64) -> Search {
        Search { good: None, bad: None, next: first, precision }
    }

    /// Takes the finding at `next`; the rate to try after it, or `None` when the knee is known well enough.
    fn step(&mut self, is_good: bool) -> Option<f64> {
        let side = if is_good { &mut self.good } else { &mut self.bad };
        *side = Some(self.next);
        self.next = match (self.good, self.bad) {
            (Some(good), None) => 2.0 * good,
            (None, Some(bad)) => bad / 2.0,
            (Some(good), Some(bad)) if bad - good <= self.precision * good => return None,
            (Some(good), Some(bad)) => f64::midpoint(good, bad),
            (None, None) => self.next,
        };
        (self.next >= 1.0).then_some(self.next)
    }
}

/// Why there is no knee.
#[derive(Debug, thiserror::Error)]
pub enum SaturateError {
    /// The scenario makes no sense at some rate.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// A step did not come about.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Searches, beginning at `first` messages a second in all. `make` is the scenario at a rate; `each` is told each step.
///
/// Fails if the first step does not come about; if a later one does not, what is known by then is kept and says so.
pub async fn saturate(
    make: impl Fn(f64) -> Result<Scenario, ScenarioError>,
    watch: Watch,
    first: f64,
    bounds: Bounds,
    mut each: impl FnMut(&Step),
) -> Result<Knee, SaturateError> {
    let mut search = Search::new(first, bounds.precision);
    let (mut steps, mut own_limit) = (Vec::new(), false);
    let mut rate = first;
    loop {
        let scenario = make(rate)?;
        let slip_max_percent = scenario.run.slip_max_percent;
        let report = match measure(scenario, watch, |_| ()).await {
            Ok(report) => report,
            Err(error) if steps.is_empty() => return Err(error.into()),
            Err(error) => {
                return Ok(Knee { bounds, steps, rate: None, own_limit, failed: Some(error.to_string()) });
            }
        };
        let gave_up = report.slip.slipped_percent > slip_max_percent;
        let step = judge(rate, &report, bounds, gave_up);
        own_limit |= gave_up;
        each(&step);
        let is_good = step.broken.is_none();
        steps.push(step);
        match search.step(is_good) {
            Some(next) if steps.len() < STEPS_MAX => rate = next,
            _ => break,
        }
    }
    Ok(Knee { bounds, steps, rate: search.good, own_limit, failed: None })
}

fn judge(rate: f64, report: &Report, bounds: Bounds, gave_up: bool) -> Step {
    let verdict = &report.verdict;
    let missing = verdict.expected.saturating_sub(verdict.arrived);
    let lost = 100.0 * missing as f64 / verdict.expected.max(1) as f64;
    let blocked = 100.0 * report.slip.blocked as f64 / report.slip.scheduled.max(1) as f64;
    let p99_micros = report.latency_micros.p99;
    let broken = if gave_up {
        Some("the generator itself gave up".to_owned())
    } else if !report.kept() {
        Some(verdict.broken.join("; "))
    } else if lost > bounds.loss_percent {
        Some(format!("{lost:.3} % lost"))
    } else if blocked > bounds.loss_percent.max(1.0) {
        Some(format!("{blocked:.1} % not taken in time"))
    } else if !report.valid {
        Some(report.remarks.join("; "))
    } else if p99_micros > bounds.p99_micros {
        Some(format!("p99 {p99_micros} µs"))
    } else {
        None
    };
    Step {
        rate,
        arrived_per_sec: report.rates.arrived_per_sec,
        p99_micros,
        loss_percent: lost.max(blocked),
        broken,
    }
}

impl Step {
    /// One line for a person.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{:>12} /s offered, {:>12} /s arrived, p99 {:>9} µs, {}",
            thousands(self.rate),
            thousands(self.arrived_per_sec),
            self.p99_micros,
            self.broken.as_deref().unwrap_or("within bounds")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a search against a broker that is good up to `knee`.
    fn search(first: f64, knee: f64) -> (Option<f64>, usize) {
        let mut search = Search::new(first, 0.05);
        let mut steps = 1;
        let mut rate = first;
        while let Some(next) = search.step(rate <= knee) {
            rate = next;
            steps += 1;
            assert!(steps < STEPS_MAX, "the search ends");
        }
        (search.good, steps)
    }

    #[test]
    fn the_knee_is_found_from_below_and_from_above() {
        for first in [1_000.0, 1_000_000.0] {
            let (found, steps) = search(first, 76_543.0);
            let found = found.unwrap();
            assert!((72_000.0..=76_543.0).contains(&found), "{found} in {steps} steps");
        }
    }

    #[test]
    fn a_broker_that_takes_nothing_has_no_knee() {
        assert_eq!(search(1_000.0, 0.0).0, None);
    }

    #[test]
    fn a_search_that_ends_before_its_time_keeps_its_steps() {
        let broker =
            std::cell::RefCell::new(crate::null::NullBroker::start(crate::null::Faults::default()).ok());
        let url = broker.borrow().as_ref().unwrap().url();
        let make = |rate: f64| {
            if rate > 10.0 {
                *broker.borrow_mut() = None;
            }
            let text = "[run]\nduration_secs = 0.2\nwarmup_secs = 0\ndrain_secs = 1\nslip_max_percent = 100\n\
                        [publishers]\nrate = 1\n[subscribers]\n";
            let overrides = [format!("url={url}"), format!("publishers.rate_total={rate}")];
            Scenario::parse("s.toml", text, &overrides)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let bounds = Bounds { p99_micros: u64::MAX, loss_percent: 100.0, precision: 1.0 };
        let knee = runtime.block_on(saturate(make, Watch::default(), 10.0, bounds, |_| ())).unwrap();
        assert_eq!((knee.steps.len(), knee.rate), (1, None));
        assert!(knee.failed.unwrap().contains("cannot connect to"), "and why is said");
    }

    #[test]
    fn a_search_whose_bound_nobody_keeps_ends_at_the_bottom() {
        let broker = crate::null::NullBroker::start(crate::null::Faults::default()).unwrap();
        let make = |rate: f64| {
            let text = "[run]\nduration_secs = 0.2\nwarmup_secs = 0\ndrain_secs = 1\nslip_max_percent = 100\n\
                        [publishers]\nrate = 1\n[subscribers]\n";
            let overrides = [format!("url={}", broker.url()), format!("publishers.rate_total={rate}")];
            Scenario::parse("s.toml", text, &overrides)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let bounds = Bounds { p99_micros: 0, loss_percent: 100.0, precision: 1.0 };
        let knee = runtime.block_on(saturate(make, Watch::default(), 40.0, bounds, |_| ())).unwrap();
        assert_eq!(
            (knee.rate, knee.steps.len()),
            (None, 6),
            "40, 20, 10, 5, 2.5, 1.25 a second: no p99 is 0"
        );
    }
}
