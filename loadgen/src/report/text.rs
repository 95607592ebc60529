//! A report as a person reads it on a terminal, a screen long.
//!
//! In:  a [`Report`]. Out: text. Never: figures of its own.

use std::fmt::Write;

use super::{Percentiles, Report};
use crate::ledger::Verdict;
use crate::process::Usage;

impl Report {
    /// The report for a person, a screen long.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to memory cannot fail");
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let rates = &self.rates;
        writeln!(
            out,
            "\n{} ({} loop), measured {:.2} s{}",
            self.scenario,
            self.load_model,
            self.measured_secs,
            if self.processes > 1 { format!(", {} processes", self.processes) } else { String::new() }
        )?;
        writeln!(
            out,
            "  rates     sent {} /s, acknowledged {} /s, arrived {} /s, {:.1} MB/s",
            thousands(rates.sent_per_sec),
            thousands(rates.acked_per_sec),
            thousands(rates.arrived_per_sec),
            rates.arrived_bytes_per_sec / 1e6
        )?;
        writeln!(
            out,
            "  spans     connecting {:.3} s, load {:.3} s, stragglers {:.3} s",
            self.spans.connect_secs, self.spans.load_secs, self.spans.drain_secs
        )?;
        write_percentiles(out, "latency", &self.latency_micros)?;
        write_percentiles(out, "acks", &self.ack_micros)?;
        write_percentiles(out, "connect", &self.connect_micros)?;
        write_percentiles(out, "lateness", &self.slip.lateness_micros)?;
        if self.load_model == "open" {
            writeln!(
                out,
                "  schedule  {} due, {} slipped ({:.3} %), {} blocked by the broker",
                self.slip.scheduled, self.slip.slipped, self.slip.slipped_percent, self.slip.blocked
            )?;
        }
        for (name, usage) in [("broker", &self.broker), ("loadgen", &self.loadgen)] {
            let Some(usage) = usage else { continue };
            let per_million = usage
                .cpu_secs_per_million
                .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.3} s per 10⁶ delivered"));
            writeln!(
                out,
                "  {name:9} CPU {:.2} s, {per_million}, RSS {:.1} MiB, PSS {:.1} MiB, {} context switches, {} written{}",
                usage.cpu_secs,
                usage.rss_bytes as f64 / 1_048_576.0,
                usage.pss_bytes as f64 / 1_048_576.0,
                usage.context_switches,
                bytes(usage.written_bytes),
                syncs(usage)
            )?;
        }
        match &self.calibration {
            Some(calibration) => out.push_str(&calibration.text()),
            None => writeln!(
                out,
                "  note      the generator was not calibrated on this machine: loadgen calibrate"
            )?,
        }
        write_verdict(out, &self.verdict)?;
        for remark in &self.remarks {
            writeln!(out, "  note      {remark}")?;
        }
        Ok(())
    }
}

/// How often it waited for its storage, and who says so; nothing where nobody counts.
pub(crate) fn syncs(usage: &Usage) -> String {
    let told = usage.syncs_per_message.zip(usage.syncs_by);
    told.map_or_else(String::new, |(syncs, by)| format!(", {syncs:.4} syncs each ({})", by.name()))
}

fn write_percentiles(out: &mut String, name: &str, values: &Percentiles) -> std::fmt::Result {
    if values.count == 0 {
        return Ok(());
    }
    writeln!(
        out,
        "  {name:9} p50 {} µs, p90 {}, p99 {}, p99.9 {}, p99.99 {}, max {}",
        values.p50, values.p90, values.p99, values.p999, values.p9999, values.max
    )
}

/// Writes the ledger's findings, a few lines.
fn write_verdict(out: &mut String, verdict: &Verdict) -> std::fmt::Result {
    writeln!(
        out,
        "  ledger    sent {}, acknowledged {}, arrived {} of {} expected",
        verdict.sent, verdict.acked, verdict.arrived, verdict.expected
    )?;
    writeln!(
        out,
        "            lost {} (QoS 0: {}; never acknowledged: {}), duplicated {}, out of order {}, corrupt {}, foreign {}",
        verdict.lost,
        verdict.lost_qos0,
        verdict.unacknowledged,
        verdict.duplicates + verdict.duplicates_qos0 + verdict.duplicates_qos2,
        verdict.out_of_order,
        verdict.corrupt,
        verdict.foreign
    )?;
    if verdict.kept() {
        return writeln!(out, "  verdict   every promise was kept");
    }
    for broken in &verdict.broken {
        writeln!(out, "  BROKEN    {broken}")?;
    }
    for example in &verdict.examples {
        writeln!(out, "            {example}")?;
    }
    Ok(())
}

/// A whole number with thin groups: 1234567 becomes "1 234 567".
pub(crate) fn thousands(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

fn bytes(count: u64) -> String {
    match count as f64 {
        large if large >= 1e6 => format!("{:.1} MB", large / 1e6),
        small => format!("{:.1} kB", small / 1e3),
    }
}
