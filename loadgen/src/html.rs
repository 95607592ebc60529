//! A report as one HTML file that needs nothing else: no script, no font, no file from elsewhere.
//!
//! In:  a [`Report`], a comparison of two, or the steps of a search. Out: text. Never: figures of its own.

use std::fmt::Write;

use crate::report::{Percentiles, Report, Second, thousands};

mod comparison;
mod knee;
mod plot;

pub use comparison::comparison;
pub use knee::knee;
use plot::{Line, Plot, Scale, escape, short};

/// Colours that keep their distance for colour-blind readers, in the light and in the dark.
const STYLE: &str = "\
:root{--ink:#17202e;--soft:#5d6b82;--grid:#e3e8ef;--page:#eef1f6;--card:#fff;--c0:#2458d6;--c1:#d9650b;--c2:#0b8a5f;\
--bad:#b42318;--good:#067647;--shade:0 1px 2px #1018280d,0 4px 14px #1018280f}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#98a2b3;--grid:#2a3342;--page:#0e131a;--card:#171d27;\
--c0:#7aa2ff;--c1:#ffa861;--c2:#5fd3a4;--bad:#ff8f85;--good:#6ce0a6;--shade:none}}\
*{box-sizing:border-box}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:1120px;margin:0 auto;\
padding:1.6rem 1.2rem 3rem;font-variant-numeric:tabular-nums}\
h1{font-size:1.7rem;line-height:1.2;margin:0;letter-spacing:-.01em}\
h2{font-size:.82rem;margin:2.2rem 0 .6rem;text-transform:uppercase;letter-spacing:.08em;color:var(--soft)}\
p{margin:.3rem 0}.soft,.none{color:var(--soft)}ul{margin:.4rem 0;padding-left:1.2rem}\
.verdict{display:inline-block;border-radius:99px;padding:.15rem .9rem;margin:.7rem .4rem .3rem 0;font-weight:600;\
color:var(--card)}.kept{background:var(--good)}.broken{background:var(--bad)}\
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:.8rem;margin:1.2rem 0}\
.figures div,svg,.table,pre{background:var(--card);border-radius:10px;box-shadow:var(--shade)}\
.figures div{padding:.8rem 1rem;color:var(--soft);font-size:.85rem;border-top:3px solid var(--c0)}\
.figures b{display:block;font-size:1.45rem;line-height:1.3;color:var(--ink);font-weight:650;white-space:nowrap}\
.figures b small{font-size:.85rem;font-weight:400;color:var(--soft)}.figures .alarm{border-color:var(--bad)}\
.figures .alarm b{color:var(--bad)}\
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:.9rem}\
.table{overflow-x:auto;padding:.3rem .4rem}.narrow{max-width:26rem}table{border-collapse:collapse;width:100%}\
td,th{text-align:right;padding:.34rem .7rem;white-space:nowrap}tr+tr>*{border-top:1px solid var(--grid)}\
td:first-child,th:first-child{text-align:left}th{color:var(--soft);font-weight:500;font-size:.85rem}\
.better{color:var(--good);font-weight:600}.worse{color:var(--bad);font-weight:600}\
svg{width:100%;height:auto;display:block;padding:.5rem .2rem .2rem}svg .grid{stroke:var(--grid)}\
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}svg .title{font-size:12.5px;font-weight:600;fill:var(--ink)}\
svg .line{fill:none;stroke-width:1.8;stroke-linejoin:round}svg .name{font-weight:600}\
.line.c0{stroke:var(--c0)}.line.c1{stroke:var(--c1)}.line.c2{stroke:var(--c2)}\
svg .c0{fill:var(--c0)}svg .c1{fill:var(--c1)}svg .c2{fill:var(--c2)}svg .line{fill:none}svg .area{opacity:.1}.line,.area,.dot{pointer-events:none}\
.at rect{fill:transparent}.at line{stroke:none}.at:hover line{stroke:var(--soft);stroke-dasharray:2 3}\
pre{padding:1rem;overflow:auto;font-size:12.5px;line-height:1.45;margin:.6rem 0}li{margin:.2rem 0}\
code{background:var(--grid);border-radius:4px;padding:.05rem .3rem}summary{cursor:pointer;color:var(--soft)}";

fn head(title: &str) -> String {
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{0}</title><style>{STYLE}</style><h1>{0}</h1>",
        escape(title)
    )
}

/// The page of one run.
#[must_use]
pub fn page(report: &Report) -> String {
    let mut out = head(&report.scenario);
    write_page(&mut out, report).expect("writing to memory cannot fail");
    out
}

fn write_page(out: &mut String, report: &Report) -> std::fmt::Result {
    let machine = &report.machine;
    write!(out, "<p>{}</p>", escape(&report.description))?;
    write!(
        out,
        "<p class=soft>{} loop, measured {:.1} s{} on {} × {}, Linux {}</p>",
        escape(&report.load_model),
        report.measured_secs,
        if report.processes > 1 { format!(" by {} processes", report.processes) } else { String::new() },
        machine.processors,
        escape(&machine.processor),
        escape(&machine.kernel)
    )?;
    let verdict =
        if report.kept() { ("kept", "every promise was kept") } else { ("broken", "a promise was broken") };
    write!(out, "<span class=\"verdict {}\">{}</span> ", verdict.0, verdict.1)?;
    if !report.valid {
        write!(out, "<span class=\"verdict broken\">the figures are not valid</span>")?;
    }
    list(out, report.verdict.broken.iter().chain(&report.verdict.examples).chain(&report.remarks))?;
    write_figures(out, report)?;
    let series = &report.series;
    write!(out, "<div class=plots>{}{}", rates_plot(series), latency_plot(series))?;
    write!(out, "{}{}", curve_plot(report), way_plot(series))?;
    if series.iter().any(|second| second.broker_rss_bytes.is_some()) {
        write!(out, "{}{}", cpu_plot(series), memory_plot(series))?;
    }
    out.push_str("</div>");
    write_times(out, report)?;
    write_ledger(out, report)?;
    write_costs(out, report)?;
    if !report.errors.is_empty() {
        write!(out, "<h2>Connection errors</h2>")?;
        list(out, report.errors.iter())?;
    }
    let config = toml::to_string(&report.config).unwrap_or_default();
    write!(
        out,
        "<h2>Scenario</h2><details><summary>Scenario as used</summary><pre>{}</pre></details>",
        escape(&config)
    )
}

fn list<'t>(out: &mut String, lines: impl Iterator<Item = &'t String>) -> std::fmt::Result {
    out.push_str("<ul>");
    for line in lines {
        write!(out, "<li>{}</li>", escape(line))?;
    }
    out.push_str("</ul>");
    Ok(())
}

fn write_figures(out: &mut String, report: &Report) -> std::fmt::Result {
    let cpu = report.broker.and_then(|usage| usage.cpu_secs_per_million);
    let verdict = &report.verdict;
    let lost = verdict.lost + verdict.lost_qos0;
    let figures = [
        ("arrived", (thousands(report.rates.arrived_per_sec), "/s"), false),
        ("p50", time(report.latency_micros.p50), false),
        ("p99", time(report.latency_micros.p99), false),
        ("p99.99", time(report.latency_micros.p9999), false),
        (
            "broker CPU per 10⁶ delivered",
            cpu.map_or_else(|| ("–".to_owned(), "not watched"), |secs| (format!("{secs:.3}"), "s")),
            false,
        ),
        ("lost", (thousands(lost as f64), "messages"), lost > 0),
    ];
    out.push_str("<div class=figures>");
    for (name, (figure, unit), alarm) in figures {
        let class = if alarm { " class=alarm" } else { "" };
        write!(out, "<div{class}>{name}<b>{figure} <small>{unit}</small></b></div>")?;
    }
    out.push_str("</div>");
    Ok(())
}

fn over_time<'a>(series: &[Second], name: &'a str, value: impl Fn(&Second) -> Option<f64>) -> Line<'a> {
    let points = series.iter().filter_map(|second| Some((second.at_secs, value(second)?))).collect();
    Line { name, points }
}

fn plot(title: &str, unit: &str, lines: Vec<Line<'_>>, scale: Scale) -> String {
    let last = lines.iter().flat_map(|line| &line.points).map(|(at, _)| *at).fold(1.0, f64::max);
    Plot { title, unit, lines, scale, x_marks: None, x_unit: "s", x_range: Some((0.0, last)) }.svg()
}

fn rates_plot(series: &[Second]) -> String {
    let lines = vec![
        over_time(series, "sent", |second| Some(second.sent_per_sec as f64)),
        over_time(series, "arrived", |second| Some(second.arrived_per_sec as f64)),
    ];
    plot("Throughput over time", "messages/s", lines, Scale::Linear)
}

fn latency_plot(series: &[Second]) -> String {
    let at = |pick: fn(&Percentiles) -> u64| {
        move |second: &Second| (second.latency.count > 0).then(|| pick(&second.latency) as f64)
    };
    let lines = vec![
        over_time(series, "p50", at(|latency| latency.p50)),
        over_time(series, "p99", at(|latency| latency.p99)),
        over_time(series, "max", at(|latency| latency.max)),
    ];
    plot("Latency over time, from the intended send time", "µs, logarithmic", lines, Scale::Logarithmic)
}

/// How many nines a quantile has, as the place on an axis.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).max(1e-6).log10()
}

fn curve_plot(report: &Report) -> String {
    let points =
        report.latency_curve.iter().map(|&(quantile, micros)| (nines(quantile), micros as f64)).collect();
    let marks =
        [(0.0, "0"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")];
    Plot {
        title: "Latency by percentile",
        unit: "µs, logarithmic",
        lines: vec![Line { name: "latency", points }],
        scale: Scale::Logarithmic,
        x_marks: Some(marks.map(|(quantile, name)| (nines(quantile), name.to_owned())).to_vec()),
        x_unit: "share of messages",
        x_range: None,
    }
    .svg()
}

fn way_plot(series: &[Second]) -> String {
    let lines = vec![over_time(series, "on the way", |second| Some(second.missing as f64))];
    plot("Sent and not arrived yet", "messages", lines, Scale::Linear)
}

fn cpu_plot(series: &[Second]) -> String {
    let lines = vec![over_time(series, "broker", |second| second.broker_processors)];
    plot("CPU of the broker", "processors", lines, Scale::Linear)
}

fn memory_plot(series: &[Second]) -> String {
    let lines =
        vec![over_time(series, "resident", |second| Some(second.broker_rss_bytes? as f64 / 1_048_576.0))];
    plot("Memory of the broker", "MiB", lines, Scale::Linear)
}

fn count(number: u64) -> String {
    thousands(number as f64)
}

/// A time with the unit that suits it.
fn time(micros: u64) -> (String, &'static str) {
    match micros {
        short if short < 10_000 => (count(short), "µs"),
        middle if middle < 10_000_000 => (format!("{:.1}", middle as f64 / 1e3), "ms"),
        long => (format!("{:.2}", long as f64 / 1e6), "s"),
    }
}

fn write_times(out: &mut String, report: &Report) -> std::fmt::Result {
    out.push_str(
        "<h2>Times</h2><div class=table><table><tr><th>µs<th>count<th>p50<th>p90<th>p99<th>p99.9<th>p99.99<th>max</tr>",
    );
    for (name, times) in [
        ("latency", &report.latency_micros),
        ("acknowledgement", &report.ack_micros),
        ("connecting", &report.connect_micros),
        ("lateness of sending", &report.slip.lateness_micros),
    ] {
        if times.count > 0 {
            write!(
                out,
                "<tr><td>{name}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
                count(times.count),
                count(times.p50),
                count(times.p90),
                count(times.p99),
                count(times.p999),
                count(times.p9999),
                count(times.max)
            )?;
        }
    }
    write!(
        out,
        "</table></div><p class=soft>{} due, {} slipped by the generator's own fault ({:.3} %), {} blocked by the broker.</p>",
        thousands(report.slip.scheduled as f64),
        report.slip.slipped,
        report.slip.slipped_percent,
        report.slip.blocked
    )
}

fn write_ledger(out: &mut String, report: &Report) -> std::fmt::Result {
    let verdict = &report.verdict;
    out.push_str("<h2>Ledger</h2><div class=\"table narrow\"><table>");
    for (name, messages) in [
        ("sent", verdict.sent),
        ("acknowledged", verdict.acked),
        ("expected", verdict.expected),
        ("arrived", verdict.arrived),
        ("acknowledged and lost", verdict.lost),
        ("lost at QoS 0", verdict.lost_qos0),
        ("never acknowledged, not arrived", verdict.unacknowledged),
        ("repeated", verdict.duplicates + verdict.duplicates_qos0 + verdict.duplicates_qos2),
        ("out of order", verdict.out_of_order),
        ("corrupt or altered", verdict.corrupt + verdict.altered),
        ("never sent", verdict.invented),
    ] {
        write!(out, "<tr><td>{name}<td>{}</tr>", count(messages))?;
    }
    out.push_str("</table></div>");
    Ok(())
}

fn write_costs(out: &mut String, report: &Report) -> std::fmt::Result {
    out.push_str(
        "<h2>Cost</h2><div class=table><table><tr><th><th>CPU s<th>CPU s per 10⁶<th>RSS MiB<th>PSS MiB<th>context switches\
         <th>bytes written each<th>syncs each</tr>",
    );
    let optional = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"));
    for (name, usage) in [("broker", report.broker), ("load generator", report.loadgen)] {
        let Some(usage) = usage else { continue };
        write!(
            out,
            "<tr><td>{name}<td>{:.2}<td>{}<td>{:.1}<td>{:.1}<td>{}<td>{}<td>{}</tr>",
            usage.cpu_secs,
            optional(usage.cpu_secs_per_million),
            usage.rss_bytes as f64 / 1_048_576.0,
            usage.pss_bytes as f64 / 1_048_576.0,
            thousands(usage.context_switches as f64),
            optional(usage.written_bytes_per_message),
            optional(usage.syncs_per_message)
        )?;
    }
    out.push_str("</table></div>");
    if let Some(by) = report.broker.and_then(|usage| usage.syncs_by) {
        write!(out, "<p class=soft>Syncs: {}.</p>", by.name())?;
    }
    match &report.calibration {
        Some(calibration) => write!(
            out,
            "<p>The generator itself, calibrated against its null sink:</p><pre>{}</pre>",
            escape(&calibration.text())
        ),
        None => write!(
            out,
            "<p class=soft>The generator was not calibrated for this run (<code>loadgen calibrate</code>).</p>"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_needs_nothing_else_and_has_every_part() {
        let report = crate::report::example();
        let page = page(&report);
        for part in [
            "Throughput over time",
            "Latency over time",
            "Latency by percentile",
            "CPU of the broker",
            "Memory of the broker",
            "every promise was kept",
            "Scenario as used",
        ] {
            assert!(page.contains(part), "{part}");
        }
        for outside in ["http://", "https://", "<script", "src="] {
            assert!(!page.replace("mqtt://", "").contains(outside), "{outside}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }

    #[test]
    fn a_time_has_the_unit_that_suits_it() {
        assert_eq!(time(9_999), ("9 999".to_owned(), "µs"));
        assert_eq!(time(3_342_335), ("3342.3".to_owned(), "ms"));
        assert_eq!(time(12_000_000), ("12.00".to_owned(), "s"));
    }

    #[test]
    fn the_nines_of_a_quantile() {
        assert!((nines(0.9) - 1.0).abs() < 1e-9 && (nines(0.999) - 3.0).abs() < 1e-9);
        assert_eq!(nines(1.0), 6.0, "the end of the axis, not of the numbers");
    }
}
