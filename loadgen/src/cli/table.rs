//! A run as it goes on: one row a second, and on a terminal a bar with the time that is left.
//!
//! In:  seconds of a run, its planned length. Out: lines on standard output.

use std::io::{IsTerminal, Write};

use loadgen::report::Second;
use loadgen::scenario::Scenario;

/// Width of the bar, in characters.
const BAR: usize = 30;

/// One row a second.
pub(crate) struct Table {
    on_terminal: bool,
    rows: u64,
    /// Warm-up and measured interval.
    planned_secs: f64,
}

impl Table {
    pub(crate) fn new(scenario: &Scenario) -> Table {
        let run = &scenario.run;
        let planned_secs = (run.warmup + run.duration).as_secs_f64();
        Table { on_terminal: std::io::stdout().is_terminal(), rows: 0, planned_secs }
    }

    pub(crate) fn print(&mut self, second: &Second) {
        let Second { at_secs, sent_per_sec, acked_per_sec, arrived_per_sec, missing, connections, .. } =
            second;
        let latency = &second.latency;
        if !self.on_terminal {
            println!(
                "t={at_secs:.1} sent_per_sec={sent_per_sec} acked_per_sec={acked_per_sec} \
                 arrived_per_sec={arrived_per_sec} missing={missing} connections={connections} p50_us={} p99_us={} \
                 max_us={}",
                latency.p50, latency.p99, latency.max
            );
            return;
        }
        // Over the bar of the second before.
        print!("\r\x1b[K");
        if self.rows.is_multiple_of(20) {
            println!(
                "{:>7} {:>11} {:>11} {:>11} {:>10} {:>6} {:>9} {:>9} {:>9}",
                "s", "sent/s", "acked/s", "arrived/s", "missing", "conns", "p50 µs", "p99 µs", "max µs"
            );
        }
        self.rows += 1;
        println!(
            "{at_secs:>7.1} {sent_per_sec:>11} {acked_per_sec:>11} {arrived_per_sec:>11} {missing:>10} \
             {connections:>6} {:>9} {:>9} {:>9}",
            latency.p50, latency.p99, latency.max
        );
        print!("{}", bar(*at_secs, self.planned_secs));
        // A bar that does not show is no reason to end a run.
        std::io::stdout().flush().ok();
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        if self.on_terminal && self.rows > 0 {
            print!("\r\x1b[K");
        }
    }
}

/// `[#####.....]  50 %, 10 s left`; what comes after the plan is stragglers.
fn bar(at_secs: f64, planned_secs: f64) -> String {
    let share = (at_secs / planned_secs.max(0.1)).clamp(0.0, 1.0);
    let full = (share * BAR as f64) as usize;
    let left = planned_secs - at_secs;
    let rest = if left > 0.0 { format!("{left:.0} s left") } else { "waiting for stragglers".to_owned() };
    format!("[{}{}] {:>3.0} %, {rest}", "#".repeat(full), ".".repeat(BAR - full), 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_tells_what_is_left() {
        assert_eq!(bar(5.0, 10.0), format!("[{}{}]  50 %, 5 s left", "#".repeat(15), ".".repeat(15)));
        assert!(bar(11.0, 10.0).ends_with("100 %, waiting for stragglers"));
        assert!(bar(0.0, 0.0).starts_with("[....."));
    }
}
