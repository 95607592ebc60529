//! A run as it goes on: on a terminal a panel that is drawn in place, with a bar and the time that is left; elsewhere a line
//! a second.
//!
//! In:  seconds of a run, its plan. Out: text on standard output. Never: figures of its own, the alternate screen; what was
//! shown last stays above the report.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};

use loadgen::report::Second;
use loadgen::scenario::{Pacing, Scenario};

/// Seconds that the small plots remember, and their width in characters.
const HISTORY: usize = 40;

/// Width of the panel at most: wider lines are harder to read.
const WIDTH_MAX: usize = 96;

/// Where the values of a row end.
const VALUE: usize = 14;

/// How a run shows itself.
pub(crate) struct Table {
    on_terminal: bool,
    colours: bool,
    /// Lines of the panel that stand on the screen.
    drawn: usize,
    title: String,
    /// Warm-up, and warm-up and measured interval together.
    warmup_secs: f64,
    planned_secs: f64,
    history: VecDeque<Second>,
}

impl Table {
    pub(crate) fn new(scenario: &Scenario, processes: u32) -> Table {
        let run = &scenario.run;
        let closed = scenario.publishers.as_ref().is_some_and(|it| it.pacing == Pacing::Max);
        let endpoint = scenario.publishers.as_ref().map(|it| &it.endpoint);
        let endpoint = endpoint.or(scenario.subscribers.as_ref().map(|it| &it.endpoint));
        let endpoint = endpoint.or(scenario.clients.as_ref().map(|it| &it.endpoint));
        let mut title = format!("{} · {} loop", scenario.name, if closed { "closed" } else { "open" });
        title += &endpoint.map_or_else(String::new, |it| format!(" · {}", it.address));
        if processes > 1 {
            title += &format!(" · {processes} processes");
        }
        Table {
            on_terminal: std::io::stdout().is_terminal(),
            colours: std::env::var_os("NO_COLOR").is_none(),
            drawn: 0,
            title,
            warmup_secs: run.warmup.as_secs_f64(),
            planned_secs: (run.warmup + run.duration).as_secs_f64(),
            history: VecDeque::new(),
        }
    }

    pub(crate) fn print(&mut self, second: &Second) {
        if !self.on_terminal {
            println!("{}", line(second));
            return;
        }
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(*second);
        let width = crossterm::terminal::size().map_or(80, |(columns, _)| usize::from(columns));
        let lines = self.panel(width.min(WIDTH_MAX));
        let mut text = String::new();
        if self.drawn > 0 {
            text += &format!("\x1b[{}A", self.drawn);
        }
        for line in &lines {
            text += &format!("\r\x1b[K{line}\n");
        }
        self.drawn = lines.len();
        print!("{text}");
        // A panel that does not show is no reason to end a run.
        std::io::stdout().flush().ok();
    }

    /// Everything that is shown, from what is remembered; no line is wider than `width`.
    fn panel(&self, width: usize) -> Vec<String> {
        let Some(second) = self.history.back() else { return Vec::new() };
        let Second { at_secs, latency, .. } = second;
        let left = self.planned_secs - at_secs;
        let state = match left {
            left if left <= 0.0 => "waiting for stragglers".to_owned(),
            left if *at_secs < self.warmup_secs => format!("warming up, {left:.0} s left"),
            left => format!("{left:.0} s left"),
        };
        let share = (at_secs / self.planned_secs.max(0.1)).clamp(0.0, 1.0);
        let percent = format!(" {:>3.0} %  {state}", 100.0 * share);
        let bar = bar(share, width.saturating_sub(percent.chars().count() + 1));
        let mut lines = vec![
            String::new(),
            self.paint("1", &cut(&format!(" {}", self.title), width)),
            format!(" {}{percent}", self.paint("32", &bar)),
            String::new(),
        ];
        let mut row = |name: &str, value: String, unit: &str, plot: Option<String>| {
            let plot = plot.unwrap_or_default();
            // The plot begins where every plot begins.
            let text = format!(" {name:<12}{value:>VALUE$} {unit:<6}");
            let room = width.saturating_sub(text.chars().count());
            let plot: String = plot.chars().take(room).collect();
            lines.push(cut(&text, width) + &self.paint("36", &plot));
        };
        let grouped = |number: u64| grouped(number as f64);
        let over = |value: fn(&Second) -> f64| Some(self.plot(value));
        row("sent", grouped(second.sent_per_sec), "/s", over(|it| it.sent_per_sec as f64));
        if second.acked > 0 {
            row("acknowledged", grouped(second.acked_per_sec), "/s", over(|it| it.acked_per_sec as f64));
        }
        row("arrived", grouped(second.arrived_per_sec), "/s", over(|it| it.arrived_per_sec as f64));
        row("on the way", grouped(second.missing), "", over(|it| it.missing as f64));
        row("connections", grouped(second.connections), "", None);
        row("p50", grouped(latency.p50), "µs", over(|it| it.latency.p50 as f64));
        row("p99", grouped(latency.p99), "µs", over(|it| it.latency.p99 as f64));
        row("p99.9", grouped(latency.p999), "µs", over(|it| it.latency.p999 as f64));
        row("max", grouped(latency.max), "µs", over(|it| it.latency.max as f64));
        if let Some(rss) = second.broker_rss_bytes {
            let processors = second.broker_processors.unwrap_or(0.0);
            row(
                "broker CPU",
                format!("{processors:.2}"),
                "cores",
                over(|it| it.broker_processors.unwrap_or(0.0)),
            );
            row(
                "broker RSS",
                format!("{:.1}", rss as f64 / 1_048_576.0),
                "MiB",
                over(|it| it.broker_rss_bytes.unwrap_or(0) as f64),
            );
        }
        lines
    }

    /// The seconds that are remembered, from 0 to the highest of them.
    fn plot(&self, value: impl Fn(&Second) -> f64) -> String {
        const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let highest = self.history.iter().map(&value).fold(0.0, f64::max);
        let step = |value: f64| STEPS[((value / highest * 7.0).round() as usize).min(7)];
        let shown = |second: &Second| if highest > 0.0 { step(value(second)) } else { STEPS[0] };
        self.history.iter().map(shown).collect()
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// One line, for logs and CI.
fn line(second: &Second) -> String {
    let Second { at_secs, sent_per_sec, acked_per_sec, arrived_per_sec, missing, connections, .. } = second;
    let latency = &second.latency;
    format!(
        "t={at_secs:.1} sent_per_sec={sent_per_sec} acked_per_sec={acked_per_sec} \
         arrived_per_sec={arrived_per_sec} missing={missing} connections={connections} p50_us={} p99_us={} \
         max_us={}",
        latency.p50, latency.p99, latency.max
    )
}

/// So much of a bar, to an eighth of a character.
fn bar(share: f64, width: usize) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share * (width * 8) as f64).round() as usize;
    let (full, part) = (eighths / 8, PARTS[eighths % 8]);
    let rest = width - full - usize::from(!part.is_empty());
    "█".repeat(full) + part + &"·".repeat(rest)
}

fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

/// A whole number with groups: 1234567 becomes "1 234 567".
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(seconds: &[Second]) -> Table {
        Table {
            on_terminal: true,
            colours: false,
            drawn: 0,
            title: "p2p · open loop".to_owned(),
            warmup_secs: 2.0,
            planned_secs: 10.0,
            history: seconds.iter().copied().collect(),
        }
    }

    fn second(at_secs: f64, sent_per_sec: u64) -> Second {
        Second { at_secs, sent_per_sec, ..Second::default() }
    }

    #[test]
    fn the_panel_tells_rates_and_what_is_left() {
        let seconds = [second(1.0, 10), second(4.0, 1_234_567)];
        let panel = table(&seconds).panel(60);
        assert!(panel.iter().all(|line| line.chars().count() <= 60), "{panel:#?}");
        let text = panel.join("\n");
        for part in ["p2p · open loop", "40 %  6 s left", "1 234 567 /s", "▁█", "p99.9", "connections"] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("broker") && !text.contains("acknowledged"), "{text}");
        let watched = Second { broker_rss_bytes: Some(3 << 20), acked: 1, ..second(1.0, 1) };
        let text = table(&[watched]).panel(60).join("\n");
        assert!(
            text.contains("3.0 MiB") && text.contains("acknowledged") && text.contains("warming up"),
            "{text}"
        );
        assert!(table(&[second(11.0, 1)]).panel(60)[2].ends_with("100 %  waiting for stragglers"));
    }

    #[test]
    fn a_narrow_terminal_and_no_second_are_no_reason_to_fail() {
        for width in 0..40 {
            let panel = table(&[second(1.0, 10)]).panel(width);
            assert!(panel.len() > 8, "{width}");
        }
        assert!(table(&[]).panel(80).is_empty());
    }

    #[test]
    fn a_bar_grows_by_eighths() {
        assert_eq!(bar(0.0, 4), "····");
        assert_eq!(bar(0.5, 4), "██··");
        assert_eq!(bar(0.53125, 4), "██▏·");
        assert_eq!(bar(1.0, 4), "████");
    }
}
