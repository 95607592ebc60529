//! A report as one HTML file that needs nothing else: no script, no font, no file from elsewhere.
//!
//! In:  a [`Report`], or a [`Comparison`] of two. Out: text. Never: figures of its own.

use std::fmt::Write;

use crate::compare::Comparison;
use crate::report::{Percentiles, Report, Second, thousands};

mod plot;

use plot::{Line, Plot, Scale, escape, short};

const STYLE: &str = "\
:root{--ink:#1d2330;--soft:#667085;--grid:#e4e7ec;--page:#fff;--card:#f8f9fb;--c0:#2458d6;--c1:#d9650b;--c2:#0b8a5f;\
--bad:#b42318;--good:#067647}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#98a2b3;--grid:#2c3442;--page:#12161d;--card:#1a202a;\
--c0:#7aa2ff;--c1:#ffa861;--c2:#5fd3a4;--bad:#ff8f85;--good:#6ce0a6}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:960px;margin:2rem auto;\
padding:0 1rem}h1{font-size:1.5rem;margin:0}h2{font-size:1.05rem;margin:2rem 0 .5rem}p{margin:.3rem 0}\
.soft,.none{color:var(--soft)}.verdict{display:inline-block;border-radius:4px;padding:.1rem .6rem;margin:.6rem 0;\
font-weight:600;color:var(--page)}.kept{background:var(--good)}.broken{background:var(--bad)}\
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:.6rem;margin:1rem 0}\
.figures div{background:var(--card);border-radius:6px;padding:.6rem .8rem}.figures b{display:block;font-size:1.25rem}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}td,th{text-align:right;padding:.25rem .6rem;\
border-bottom:1px solid var(--grid)}td:first-child,th:first-child{text-align:left}th{color:var(--soft);font-weight:500}\
svg{width:100%;height:auto;margin:.6rem 0;background:var(--card);border-radius:6px}svg .grid{stroke:var(--grid)}\
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}svg .title{font-weight:600;fill:var(--ink)}\
svg .line{fill:none;stroke-width:1.6}.line.c0{stroke:var(--c0)}.line.c1{stroke:var(--c1)}.line.c2{stroke:var(--c2)}\
svg .c0{fill:var(--c0)}svg .c1{fill:var(--c1)}svg .c2{fill:var(--c2)}svg .line{fill:none}\
pre{background:var(--card);border-radius:6px;padding:.8rem;overflow:auto;font-size:12.5px}li{margin:.2rem 0}";

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
        "<p class=soft>{} loop, measured {:.1} s on {} × {}, Linux {}</p>",
        escape(&report.load_model),
        report.measured_secs,
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
    write!(out, "{}{}{}", rates_plot(&report.series), latency_plot(&report.series), curve_plot(report))?;
    if report.series.iter().any(|second| second.broker_rss_bytes.is_some()) {
        write!(out, "{}{}", cpu_plot(&report.series), memory_plot(&report.series))?;
    }
    write_times(out, report)?;
    write_ledger(out, report)?;
    write_costs(out, report)?;
    if !report.errors.is_empty() {
        write!(out, "<h2>Connection errors</h2>")?;
        list(out, report.errors.iter())?;
    }
    let config = toml::to_string(&report.config).unwrap_or_default();
    write!(out, "<h2>Scenario as used</h2><pre>{}</pre>", escape(&config))
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
    let figures = [
        ("arrived a second", thousands(report.rates.arrived_per_sec)),
        ("p50", format!("{} µs", report.latency_micros.p50)),
        ("p99", format!("{} µs", report.latency_micros.p99)),
        ("p99.9", format!("{} µs", report.latency_micros.p999)),
        ("broker CPU per 10⁶", cpu.map_or_else(|| "not watched".to_owned(), |secs| format!("{secs:.3} s"))),
        ("lost", (report.verdict.lost + report.verdict.lost_qos0).to_string()),
    ];
    out.push_str("<div class=figures>");
    for (name, figure) in figures {
        write!(out, "<div>{name}<b>{figure}</b></div>")?;
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

fn cpu_plot(series: &[Second]) -> String {
    let lines = vec![over_time(series, "broker", |second| second.broker_processors)];
    plot("CPU of the broker", "processors", lines, Scale::Linear)
}

fn memory_plot(series: &[Second]) -> String {
    let lines =
        vec![over_time(series, "resident", |second| Some(second.broker_rss_bytes? as f64 / 1_048_576.0))];
    plot("Memory of the broker", "MiB", lines, Scale::Linear)
}

fn write_times(out: &mut String, report: &Report) -> std::fmt::Result {
    out.push_str(
        "<h2>Times in µs</h2><table><tr><th><th>count<th>p50<th>p90<th>p99<th>p99.9<th>p99.99<th>max</tr>",
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
                thousands(times.count as f64),
                times.p50,
                times.p90,
                times.p99,
                times.p999,
                times.p9999,
                times.max
            )?;
        }
    }
    write!(
        out,
        "</table><p class=soft>{} due, {} slipped by the generator's own fault ({:.3} %), {} blocked by the broker.</p>",
        thousands(report.slip.scheduled as f64),
        report.slip.slipped,
        report.slip.slipped_percent,
        report.slip.blocked
    )
}

fn write_ledger(out: &mut String, report: &Report) -> std::fmt::Result {
    let verdict = &report.verdict;
    out.push_str("<h2>Ledger</h2><table>");
    for (name, count) in [
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
        write!(out, "<tr><td>{name}<td>{}</tr>", thousands(count as f64))?;
    }
    out.push_str("</table>");
    Ok(())
}

fn write_costs(out: &mut String, report: &Report) -> std::fmt::Result {
    out.push_str(
        "<h2>Cost</h2><table><tr><th><th>CPU s<th>CPU s per 10⁶<th>RSS MiB<th>PSS MiB<th>context switches\
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
    out.push_str("</table>");
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

/// The page that puts two runs beside each other.
#[must_use]
pub fn comparison(comparison: &Comparison) -> String {
    let mut out = head(&format!("{} and {}", comparison.base, comparison.new));
    write_comparison(&mut out, comparison).expect("writing to memory cannot fail");
    out
}

fn write_comparison(out: &mut String, comparison: &Comparison) -> std::fmt::Result {
    list(out, comparison.remarks.iter())?;
    write!(
        out,
        "<table><tr><th><th>{}<th>{}<th>change<th>95 % interval<th></tr>",
        escape(&comparison.base),
        escape(&comparison.new)
    )?;
    for line in &comparison.lines {
        let interval = line.interval_percent.map_or_else(
            || "too few seconds".to_owned(),
            |(low, high)| format!("{low:+.1} % to {high:+.1} %"),
        );
        write!(
            out,
            "<tr><td>{}<td>{}<td>{}<td>{:+.1} %<td>{interval}<td>{}</tr>",
            escape(&line.name),
            short(line.base),
            short(line.new),
            line.change_percent,
            line.finding()
        )?;
    }
    out.push_str("</table>");
    for (title, unit, scale, pick) in [
        (
            "Arrived",
            "messages/s",
            Scale::Linear,
            (|second| second.arrived_per_sec as f64) as fn(&Second) -> f64,
        ),
        ("p99", "µs, logarithmic", Scale::Logarithmic, |second| second.latency.p99 as f64),
    ] {
        let line = |name, series: &[Second]| over_time(series, name, |second| Some(pick(second)));
        let lines = vec![
            line(&comparison.base, &comparison.base_series),
            line(&comparison.new, &comparison.new_series),
        ];
        out.push_str(&plot(title, unit, lines, scale));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_needs_nothing_else_and_has_every_part() {
        let report = crate::report::example();
        let page = page(&report);
        for part in
            ["Throughput over time", "Latency by percentile", "every promise was kept", "Scenario as used"]
        {
            assert!(page.contains(part), "{part}");
        }
        for outside in ["http://", "https://", "<script", "src="] {
            assert!(!page.replace("mqtt://", "").contains(outside), "{outside}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }

    #[test]
    fn the_nines_of_a_quantile() {
        assert!((nines(0.9) - 1.0).abs() < 1e-9 && (nines(0.999) - 3.0).abs() < 1e-9);
        assert_eq!(nines(1.0), 6.0, "the end of the axis, not of the numbers");
    }
}
