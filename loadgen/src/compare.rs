//! Two reports beside each other: what changed, and whether it is more than noise.
//!
//! In:  two [`Report`]s. Out: a [`Comparison`]. How: the seconds of each measured interval are taken as samples, and the
//! difference of their means has a 95 % interval after Welch. Neighbouring seconds are not independent, so that the
//! interval is a lower bound of the doubt; runs that decide something are repeated (`bench compare` does so).

use serde::Serialize;

use crate::report::{Report, Second};

/// Seconds that a run needs for an interval of confidence.
const SECONDS_MIN: usize = 3;

/// Two runs beside each other.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Name of the first.
    pub base: String,
    /// Name of the second.
    pub new: String,
    /// What is compared.
    pub lines: Vec<Line>,
    /// What a reader must know.
    pub remarks: Vec<String>,
    /// The seconds of the first, for plots.
    #[serde(skip)]
    pub base_series: Vec<Second>,
    /// The seconds of the second.
    #[serde(skip)]
    pub new_series: Vec<Second>,
}

/// One figure of both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// What it is.
    pub name: String,
    /// The mean of the first run's seconds, or its one figure.
    pub base: f64,
    /// The same of the second.
    pub new: f64,
    /// From the first to the second.
    pub change_percent: f64,
    /// Where the change lies with 95 % confidence; `None` without enough seconds.
    pub interval_percent: Option<(f64, f64)>,
    /// Whether more is better.
    pub more_is_better: bool,
}

impl Line {
    /// One word about the change.
    #[must_use]
    pub fn finding(&self) -> &'static str {
        match self.interval_percent {
            None => "",
            Some((low, high)) if low <= 0.0 && high >= 0.0 => "within noise",
            Some((low, _)) if (low > 0.0) == self.more_is_better => "better",
            Some(_) => "WORSE",
        }
    }
}

/// Puts two reports beside each other. `names` are how to call them.
#[must_use]
pub fn compare(base: &Report, new: &Report, names: (&str, &str)) -> Comparison {
    let mut lines = Vec::new();
    let mut sampled = |name: &str, more_is_better: bool, pick: fn(&Second) -> Option<f64>| {
        let samples = |report: &Report| measured(report).filter_map(pick).collect::<Vec<f64>>();
        lines.extend(line(name, more_is_better, &samples(base), &samples(new)));
    };
    sampled("arrived/s", true, |second| Some(second.arrived_per_sec as f64));
    sampled("p50 µs", false, |second| timed(second).then_some(second.latency.p50 as f64));
    sampled("p99 µs", false, |second| timed(second).then_some(second.latency.p99 as f64));
    sampled("p99.9 µs", false, |second| timed(second).then_some(second.latency.p999 as f64));
    sampled("broker processors", false, |second| second.broker_processors);
    let cpu = |report: &Report| report.broker.and_then(|usage| usage.cpu_secs_per_million);
    if let (Some(base), Some(new)) = (cpu(base), cpu(new)) {
        lines.extend(line("broker CPU s per 10⁶", false, &[base], &[new]));
    }
    let mut remarks = Vec::new();
    for (report, name) in [(base, names.0), (new, names.1)] {
        if !report.valid {
            remarks.push(format!("{name} is not valid: {}", report.remarks.join("; ")));
        }
        remarks.extend(report.verdict.broken.iter().map(|broken| format!("{name}: BROKEN {broken}")));
    }
    if base.scenario != new.scenario {
        remarks.push(format!("different scenarios: {} and {}", base.scenario, new.scenario));
    }
    if base.load_model == "closed" || new.load_model == "closed" {
        remarks.push("closed loop: compare CPU and rates; latencies depend on the window".to_owned());
    }
    Comparison {
        base: names.0.to_owned(),
        new: names.1.to_owned(),
        lines,
        remarks,
        base_series: base.series.clone(),
        new_series: new.series.clone(),
    }
}

fn timed(second: &Second) -> bool {
    second.latency.count > 0
}

/// The seconds that lie wholly within the measured interval: where something was timed, without the first and the last,
/// which are measured in part only.
fn measured(report: &Report) -> impl Iterator<Item = &Second> {
    let seconds: Vec<&Second> = report.series.iter().filter(|second| timed(second)).collect();
    let inner = if seconds.len() > SECONDS_MIN + 1 { 1..seconds.len() - 1 } else { 0..seconds.len() };
    seconds.into_iter().take(inner.end).skip(inner.start)
}

fn line(name: &str, more_is_better: bool, base: &[f64], new: &[f64]) -> Option<Line> {
    if base.is_empty() || new.is_empty() {
        return None;
    }
    let (first, second) = (Moments::of(base), Moments::of(new));
    let percent = |change: f64| if first.mean == 0.0 { 0.0 } else { 100.0 * change / first.mean };
    let change = second.mean - first.mean;
    let enough = base.len() >= SECONDS_MIN && new.len() >= SECONDS_MIN;
    let interval_percent = enough.then(|| {
        let half = welch_half_width(&first, &second);
        (percent(change - half), percent(change + half))
    });
    Some(Line {
        name: name.to_owned(),
        base: first.mean,
        new: second.mean,
        change_percent: percent(change),
        interval_percent,
        more_is_better,
    })
}

struct Moments {
    count: f64,
    mean: f64,
    /// Of the mean.
    variance: f64,
}

impl Moments {
    fn of(values: &[f64]) -> Moments {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Moments { count, mean, variance: squares / (count - 1.0).max(1.0) / count }
    }
}

/// Half of the 95 % interval of the difference of two means with unequal variances (Welch, Satterthwaite).
fn welch_half_width(first: &Moments, second: &Moments) -> f64 {
    let sum = first.variance + second.variance;
    if sum == 0.0 {
        return 0.0;
    }
    let part = |moments: &Moments| moments.variance.powi(2) / (moments.count - 1.0);
    let freedom = sum.powi(2) / (part(first) + part(second));
    student_95(freedom) * sum.sqrt()
}

/// The 97.5 % point of Student's t, from its table; the next smaller degree of freedom, which is the wider interval.
fn student_95(freedom: f64) -> f64 {
    const TABLE: [(f64, f64); 12] = [
        (1.0, 12.706),
        (2.0, 4.303),
        (3.0, 3.182),
        (4.0, 2.776),
        (5.0, 2.571),
        (6.0, 2.447),
        (8.0, 2.306),
        (10.0, 2.228),
        (15.0, 2.131),
        (20.0, 2.086),
        (30.0, 2.042),
        (60.0, 2.0),
    ];
    TABLE.iter().rev().find(|(at, _)| *at <= freedom).map_or(TABLE[0].1, |(_, point)| *point)
}

impl Comparison {
    /// A table for a person.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!("{:<22}{:>14}{:>14}{:>10}  95 % interval\n", "", self.base, self.new, "change");
        for line in &self.lines {
            let interval = line
                .interval_percent
                .map_or_else(|| "-".to_owned(), |(low, high)| format!("{low:+.1} % to {high:+.1} %"));
            out += &format!(
                "{:<22}{:>14.3}{:>14.3}{:>8.1} %  {interval}  {}\n",
                line.name,
                line.base,
                line.new,
                line.change_percent,
                line.finding()
            );
        }
        out + &self.remarks.iter().map(|remark| format!("note: {remark}\n")).collect::<String>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clear_change_is_told_from_noise() {
        let steady = [100.0, 101.0, 99.0, 100.0, 100.0];
        let faster = steady.map(|value| value * 1.2);
        let better = line("rate", true, &steady, &faster).unwrap();
        assert_eq!((better.finding(), better.change_percent.round()), ("better", 20.0));
        assert_eq!(line("p99", false, &steady, &faster).unwrap().finding(), "WORSE");
        let noisy = [60.0, 140.0, 90.0, 130.0, 95.0];
        assert_eq!(line("rate", true, &steady, &noisy).unwrap().finding(), "within noise");
    }

    #[test]
    fn without_enough_seconds_nothing_is_claimed() {
        let line = line("rate", true, &[100.0], &[50.0]).unwrap();
        assert_eq!((line.change_percent, line.interval_percent, line.finding()), (-50.0, None, ""));
        assert_eq!(super::line("rate", true, &[], &[1.0]), None);
    }

    #[test]
    fn the_interval_is_that_of_the_textbook() {
        // Equal variances of 2.5 and five values each: 8 degrees of freedom, a standard error of 1.
        let (first, second) = ([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 3.0, 4.0, 5.0, 6.0]);
        let half = welch_half_width(&Moments::of(&first), &Moments::of(&second));
        assert!((half - 2.306).abs() < 0.001, "{half}");
        assert_eq!((student_95(0.5), student_95(7.9), student_95(1e6)), (12.706, 2.447, 2.0));
    }

    #[test]
    fn reports_of_the_same_run_do_not_differ() {
        let report = crate::report::example();
        let comparison = compare(&report, &report, ("a", "b"));
        assert!(comparison.lines.iter().all(|line| line.finding() != "WORSE" && line.change_percent == 0.0));
        assert!(comparison.text().contains("arrived/s"), "{}", comparison.text());
        let page = crate::html::comparison(&comparison);
        assert!(page.contains("95 % interval") && !page.contains("NaN"));
    }
}
