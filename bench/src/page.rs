//! Findings as text: a table for the terminal, a page and JSON for `bench/results/`.
//!
//! Knows: how figures are read best. Never: how they came about.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::compare::{Finding, Ratio, Summary};
use crate::contestants::System;
use crate::durable::{Durable, Group};
use crate::forward::Forward;
use crate::idle::Idle;
use crate::machine::Facts;
use crate::restart::Restart;
use crate::retained::Retained;
use crate::stats::Spread;

/// Figures that need no page of their own: a question, and what was found in a table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) question: String,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// As Markdown.
    pub(crate) fn text(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule = format!("|{}\n", "---|".repeat(self.columns.len()));
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("\n## {}\n\n{}\n\n{}{rule}{rows}", self.title, self.question, line(&self.columns))
    }
}

/// Everything that one call has found.
#[derive(Serialize)]
pub(crate) struct Results<'r> {
    pub(crate) facts: &'r Facts,
    /// Versions and settings of the contestants.
    pub(crate) settings: &'r [String],
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    /// Whether every row of `compare` is in it: what README.md may show.
    pub(crate) whole: bool,
    pub(crate) compare: &'r [Finding],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) durable: Option<&'r Durable>,
    pub(crate) idle: &'r [Idle],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) retained: &'r [Retained],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) forward: &'r [Forward],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) restart: &'r [Restart],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) tables: &'r [Table],
}

impl Results<'_> {
    /// Whether nothing was measured.
    pub(crate) fn is_empty(&self) -> bool {
        let has_rows = !self.compare.is_empty() || !self.idle.is_empty() || !self.retained.is_empty();
        !has_rows
            && self.durable.is_none()
            && self.forward.is_empty()
            && self.restart.is_empty()
            && self.tables.is_empty()
    }

    /// Writes `README.md` and `results.json` into `folder`, which is made.
    pub(crate) fn write_to(&self, folder: &Path, json: &str, readme: &str) -> anyhow::Result<()> {
        let failed = || format!("cannot write results into {}", folder.display());
        std::fs::create_dir_all(folder).with_context(failed)?;
        std::fs::write(folder.join(json), serde_json::to_string_pretty(self)? + "\n").with_context(failed)?;
        std::fs::write(folder.join(readme), self.page()).with_context(failed)
    }

    /// The page for people who were not there.
    fn page(&self) -> String {
        let mut out = String::new();
        self.write_page(&mut out).expect("writing to memory cannot fail");
        out
    }

    fn write_page(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "# Results of {}, commit {}\n", self.facts.date, self.facts.commit)?;
        writeln!(out, "- Machine: {}", self.facts.line())?;
        for line in self.settings {
            writeln!(out, "- {line}")?;
        }
        writeln!(
            out,
            "- Method: {} rounds of {} s after 1 s of warm-up; the contestants take turns within each round, each \
             started fresh; load, contestant and everything else share the machine over loopback. Figures are medians \
             of the rounds with minimum and maximum; ratios are taken within a round, Millrace by the peer. *CPU* is \
             user and system time of the contestant per 10⁶ delivered messages. *Noise* is the share of the machine \
             that neither load nor contestant used, in the worst round.",
            self.rounds, self.seconds
        )?;
        writeln!(
            out,
            "- Again: `make bench`, or `bench compare`, `bench durable`, `bench idle`, `bench retained`, `bench forward`, `bench restart`, `bench drain`, `bench wear`, `bench dialect`, `bench soak` (release build, `--help` says more)."
        )?;
        if !self.compare.is_empty() {
            writeln!(
                out,
                "- Beside this page, as far as they were measured: [durable](durable.md), [idle](idle.md), [retained](retained.md), \
                 [forward](forward.md), [restart](restart.md); everything as JSON too."
            )?;
        }
        for finding in self.compare {
            write_finding(out, finding)?;
        }
        if let Some(durable) = self.durable {
            write_durable(out, durable)?;
        }
        if !self.idle.is_empty() {
            write_idle(out, self.idle)?;
        }
        if !self.retained.is_empty() {
            write_retained(out, self.retained)?;
        }
        if !self.forward.is_empty() {
            write_forward(out, self.forward)?;
        }
        if !self.restart.is_empty() {
            write_restart(out, self.restart)?;
        }
        self.tables.iter().for_each(|table| out.push_str(&table.text()));
        Ok(())
    }
}

fn write_finding(out: &mut String, finding: &Finding) -> std::fmt::Result {
    writeln!(out, "\n## {}\n\n{}\n", finding.row, finding.question)?;
    writeln!(out, "| | delivered/s | CPU s/10⁶ | p50 µs | p99 µs | p99.9 µs | RSS MiB | lost | noise |")?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|")?;
    for summary in &finding.systems {
        let Summary { delivered_per_sec, cpu_secs_per_million, rss_bytes, .. } = summary;
        writeln!(
            out,
            "| {}{} | {} | {} | {} | {} | {} | {} | {} | {:.0} % |",
            summary.system.name(),
            if summary.invalid_rounds > 0 { " *" } else { "" },
            whole(delivered_per_sec),
            decimals(cpu_secs_per_million, 3),
            whole(&summary.p50_micros),
            whole(&summary.p99_micros),
            whole(&summary.p999_micros),
            decimals(&scaled(rss_bytes, 1.0 / 1_048_576.0), 1),
            summary.lost,
            summary.noise_percent_max,
        )?;
    }
    writeln!(out)?;
    for ratio in &finding.ratios {
        writeln!(out, "- {}", ratio_line(ratio))?;
    }
    for line in verdict_lines(finding) {
        writeln!(out, "- {line}")?;
    }
    Ok(())
}

/// One row for the terminal.
pub(crate) fn table(finding: &Finding) -> String {
    let mut out = format!("\n{} — {}\n", finding.row, finding.question);
    write_table(&mut out, finding).expect("writing to memory cannot fail");
    out
}

fn write_table(out: &mut String, finding: &Finding) -> std::fmt::Result {
    let head = ["", "delivered/s", "CPU s/10⁶", "p50 µs", "p99 µs", "p99.9 µs", "RSS MiB", "lost", "noise"];
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(finding.systems.iter().map(|summary| {
        let mark = if summary.invalid_rounds > 0 { " *" } else { "" };
        [
            format!("{}{mark}", summary.system.name()),
            whole(&summary.delivered_per_sec),
            decimals(&summary.cpu_secs_per_million, 3),
            whole(&summary.p50_micros),
            whole(&summary.p99_micros),
            grouped(summary.p999_micros.median),
            format!("{:.1}", summary.rss_bytes.median / 1_048_576.0),
            summary.lost.to_string(),
            format!("{:.0} %", summary.noise_percent_max),
        ]
    }));
    for line in &lines {
        let mut text = String::new();
        for (column, cell) in line.iter().enumerate() {
            let width = lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
            match column {
                0 => write!(text, "  {cell:width$}")?,
                _ => write!(text, "  {cell:>width$}")?,
            }
        }
        writeln!(out, "{text}")?;
    }
    for ratio in &finding.ratios {
        writeln!(out, "  {}", ratio_line(ratio))?;
    }
    for line in verdict_lines(finding) {
        writeln!(out, "  {line}")?;
    }
    Ok(())
}

fn ratio_line(ratio: &Ratio) -> String {
    format!(
        "{} / {}: CPU {} ×, delivered {} ×, p50 {} ×, p99 {} ×",
        System::Millrace.name(),
        ratio.peer.name(),
        decimals(&ratio.cpu, 3),
        decimals(&ratio.delivered, 2),
        decimals(&ratio.p50, 2),
        decimals(&ratio.p99, 2)
    )
}

fn verdict_lines(finding: &Finding) -> Vec<String> {
    let mut lines: Vec<String> = finding
        .targets
        .iter()
        .map(|result| {
            let word = if result.reached { "reached" } else { "MISSED" };
            format!("target {}: {word} ({:.3})", result.target, result.found)
        })
        .collect();
    for summary in finding.systems.iter().filter(|summary| summary.duplicated + summary.out_of_order > 0) {
        lines.push(format!(
            "{}: {} duplicated, {} out of order",
            summary.system.name(),
            summary.duplicated,
            summary.out_of_order
        ));
    }
    lines.extend(finding.broken().into_iter().map(|broken| format!("BROKEN {broken}")));
    lines.extend(finding.remarks().into_iter().map(|remark| format!("* {remark}")));
    lines
}

fn write_durable(out: &mut String, durable: &Durable) -> std::fmt::Result {
    writeln!(out, "\n## durable\n\n{}\n", durable.question)?;
    writeln!(
        out,
        "| publishers | PUBACK/s | p50 µs | p99 µs | CPU s/10⁶ | records per sync | append/s | its p50 µs | \
         overwrite/s | its p50 µs | Millrace / append | Millrace / overwrite | lost |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|---|---|---|---|")?;
    for group in &durable.groups {
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            group.publishers,
            whole(&group.pubacks_per_sec),
            whole(&group.p50_micros),
            whole(&group.p99_micros),
            decimals(&group.cpu_secs_per_million, 3),
            whole(&group.records_per_sync),
            whole(&group.append_per_sec),
            whole(&group.append_p50_micros),
            whole(&group.overwrite_per_sec),
            whole(&group.overwrite_p50_micros),
            decimals(&group.ratio_append, 2),
            decimals(&group.ratio_overwrite, 2),
            group.lost
        )?;
    }
    writeln!(out)?;
    for line in durable.target_lines() {
        writeln!(out, "- {line}")?;
    }
    Ok(())
}

fn write_idle(out: &mut String, idle: &[Idle]) -> std::fmt::Result {
    writeln!(
        out,
        "\n## idle\n\nResident memory of a fresh process, and with connections at rest, each with one subscription.\n"
    )?;
    writeln!(out, "| | connections | MiB without | MiB with | KiB per connection | connections/s |")?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    for idle in idle {
        let mib = |bytes: &Spread| decimals(&scaled(bytes, 1.0 / 1_048_576.0), 1);
        let (empty, full) = (mib(&idle.empty_bytes), mib(&idle.full_bytes));
        let each = decimals(&scaled(&idle.bytes_per_connection, 1.0 / 1_024.0), 1);
        let rate = whole(&idle.connects_per_sec);
        writeln!(
            out,
            "| {} | {} | {empty} | {full} | {each} | {rate} |",
            idle.system.name(),
            idle.connections
        )?;
    }
    writeln!(out)?;
    idle.iter().flat_map(Idle::target_lines).try_for_each(|line| writeln!(out, "- {line}"))
}

/// One contestant of the idle bench for the terminal.
pub(crate) fn idle_lines(idle: &Idle) -> String {
    let mib = |bytes: &Spread| decimals(&scaled(bytes, 1.0 / 1_048_576.0), 1);
    format!(
        "{:9} {} MiB resident; with {} idle connections {} MiB, {} KiB each; {} connections/s",
        idle.system.name(),
        mib(&idle.empty_bytes),
        idle.connections,
        mib(&idle.full_bytes),
        decimals(&scaled(&idle.bytes_per_connection, 1.0 / 1_024.0), 1),
        whole(&idle.connects_per_sec)
    )
}

fn write_retained(out: &mut String, rows: &[Retained]) -> std::fmt::Result {
    writeln!(
        out,
        "\n## retained\n\nTen publishers set each topic once, QoS 1, 256 B; then one subscriber gets all of them with one \
         wildcard, QoS 1. *Load*: first PUBLISH to last PUBACK. *Subscribe all*: CONNECT to the last message.\n"
    )?;
    writeln!(out, "| | topics | load s | subscribe all s | CPU s | RSS MiB | lost |")?;
    writeln!(out, "|---|---|---|---|---|---|---|")?;
    for row in rows {
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} |",
            row.system.name(),
            grouped(f64::from(row.topics)),
            decimals(&row.load_secs, 3),
            decimals(&row.subscribe_secs, 3),
            decimals(&row.cpu_secs, 2),
            decimals(&scaled(&row.rss_bytes, 1.0 / 1_048_576.0), 1),
            row.lost
        )?;
    }
    writeln!(out)?;
    let broken = rows.iter().flat_map(|row| row.broken.iter().map(|text| (row.system.name(), text)));
    broken.into_iter().try_for_each(|(name, text)| writeln!(out, "- BROKEN {name}, {text}"))
}

/// One contestant of the retained bench for the terminal.
pub(crate) fn retained_lines(row: &Retained) -> String {
    format!(
        "{:9} {} retained topics: load {} s, subscribe all {} s, CPU {} s, {} MiB resident, lost {}{}",
        row.system.name(),
        grouped(f64::from(row.topics)),
        decimals(&row.load_secs, 3),
        decimals(&row.subscribe_secs, 3),
        decimals(&row.cpu_secs, 2),
        decimals(&scaled(&row.rss_bytes, 1.0 / 1_048_576.0), 1),
        row.lost,
        row.broken.iter().map(|text| format!("; BROKEN {text}")).collect::<String>()
    )
}

fn write_forward(out: &mut String, rows: &[Forward]) -> std::fmt::Result {
    let Some(first) = rows.first() else { return Ok(()) };
    writeln!(
        out,
        "\n## forward\n\n50 publishers, {} messages a second in all, QoS 1, 256 B, to a gateway that carries everything to a plant \
         (a mosquitto) over a line that is cut for {} s while the publishers go on. mosquitto as gateway: a bridge, QoS 1, \
         persistence on. *Drain*: from the mended line until the plant lacks no more than a tenth of a second's messages. \
         *Written*: bytes given to the disk per payload byte, as the kernel counts them for the gateway.\n",
        grouped(f64::from(first.rate)),
        first.outage_secs
    )?;
    writeln!(
        out,
        "| gateway | sent | lost | duplicates | out of order | drain s | drain msg/s | CPU s/10⁶ | written × | MiB resident |\n\
         |---|---|---|---|---|---|---|---|---|---|"
    )?;
    for row in rows {
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {}{} | {} | {} | {} | {} |",
            row.system.name(),
            grouped(row.sent as f64),
            grouped(row.lost as f64),
            grouped(row.duplicates as f64),
            grouped(row.out_of_order as f64),
            decimals(&row.drain_secs, 2),
            if row.stuck > 0 { format!(", NEVER in {} rounds", row.stuck) } else { String::new() },
            whole(&row.drain_per_sec),
            decimals(&row.cpu_secs_per_million, 1),
            decimals(&row.written_per_byte, 2),
            decimals(&scaled(&row.rss_bytes, 1.0 / 1_048_576.0), 1),
        )?;
    }
    Ok(())
}

/// One contestant of the outage for the terminal.
pub(crate) fn forward_lines(row: &Forward) -> String {
    format!(
        "{:9} outage of {} s at {}/s: sent {}, lost {}, duplicates {}, out of order {}; drain {} s, {} msg/s; CPU {} s/10⁶, \
         written {} ×",
        row.system.name(),
        row.outage_secs,
        grouped(f64::from(row.rate)),
        row.sent,
        row.lost,
        row.duplicates,
        row.out_of_order,
        decimals(&row.drain_secs, 2),
        whole(&row.drain_per_sec),
        decimals(&row.cpu_secs_per_million, 1),
        decimals(&row.written_per_byte, 2)
    )
}

fn write_restart(out: &mut String, rows: &[Restart]) -> std::fmt::Result {
    writeln!(
        out,
        "\n## restart\n\nMillrace after `kill -9` with a backlog of incompressible 1 KiB messages in a lane; from its start to its ready file, \
         looked for every 20 ms.\n\n| backlog MiB | on disk MiB | ready s | MiB resident |\n|---|---|---|---|"
    )?;
    let mib = |bytes: u64| grouped(bytes as f64 / 1_048_576.0);
    for row in rows {
        writeln!(
            out,
            "| {} | {} | {} | {} |",
            mib(row.backlog_bytes),
            mib(row.disk_bytes),
            decimals(&row.ready_secs, 3),
            decimals(&scaled(&row.rss_bytes, 1.0 / 1_048_576.0), 1)
        )?;
    }
    Ok(())
}

/// One size of the restart bench for the terminal.
pub(crate) fn restart_lines(row: &Restart) -> String {
    format!(
        "backlog {} MiB ({} on disk): ready in {} s, {} MiB resident",
        grouped(row.backlog_bytes as f64 / 1_048_576.0),
        grouped(row.disk_bytes as f64 / 1_048_576.0),
        decimals(&row.ready_secs, 3),
        decimals(&scaled(&row.rss_bytes, 1.0 / 1_048_576.0), 1)
    )
}

/// One group of the durable bench for the terminal.
pub(crate) fn durable_lines(group: &Group) -> String {
    format!(
        "  {:>4} publishers: {} PUBACK/s, p50 {} µs, p99 {} µs, CPU {} s/10⁶, {} records per sync\n\
         \x20      plain file, append: {}/s, p50 {} µs per group, Millrace / plain {} ×; overwrite: {}/s, p50 {} µs, {} ×{}",
        group.publishers,
        whole(&group.pubacks_per_sec),
        whole(&group.p50_micros),
        whole(&group.p99_micros),
        decimals(&group.cpu_secs_per_million, 3),
        whole(&group.records_per_sync),
        whole(&group.append_per_sec),
        whole(&group.append_p50_micros),
        decimals(&group.ratio_append, 2),
        whole(&group.overwrite_per_sec),
        whole(&group.overwrite_p50_micros),
        decimals(&group.ratio_overwrite, 2),
        if group.lost > 0 { format!("; LOST {}", group.lost) } else { String::new() }
    )
}

fn scaled(spread: &Spread, factor: f64) -> Spread {
    Spread { median: spread.median * factor, min: spread.min * factor, max: spread.max * factor }
}

/// `1 234 (1 200–1 300)`; the median alone if all rounds agree.
pub(crate) fn whole(spread: &Spread) -> String {
    write_spread(spread, grouped)
}

pub(crate) fn decimals(spread: &Spread, places: usize) -> String {
    write_spread(spread, |value| format!("{value:.places$}"))
}

fn write_spread(spread: &Spread, write: impl Fn(f64) -> String) -> String {
    let (median, min, max) = (write(spread.median), write(spread.min), write(spread.max));
    if min == max { median } else { format!("{median} ({min}–{max})") }
}

/// A whole number with groups: 1234567 becomes "1 234 567".
fn grouped(number: f64) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_shows_its_extremes_unless_they_agree() {
        assert_eq!(whole(&Spread { median: 1_234.4, min: 999.0, max: 1_000_000.0 }), "1 234 (999–1 000 000)");
        assert_eq!(decimals(&Spread { median: 0.5, min: 0.5, max: 0.5 }, 2), "0.50");
    }

    #[test]
    fn numbers_are_grouped_for_people() {
        assert_eq!((grouped(0.0), grouped(1_234_567.0)), ("0".to_owned(), "1 234 567".to_owned()));
    }
}
