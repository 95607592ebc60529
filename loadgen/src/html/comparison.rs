//! Two runs beside each other, as a page.
//!
//! In:  a [`Comparison`]. Out: text. Never: what is a change and what is noise.

use std::fmt::Write;

use super::{Scale, escape, head, list, over_time, plot, short};
use crate::compare::Comparison;
use crate::report::Second;

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
        "<div class=table><table><tr><th><th>{}<th>{}<th>change<th>95 % interval<th></tr>",
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
            "<tr><td>{}<td>{}<td>{}<td>{:+.1} %<td>{interval}<td class={}>{}</tr>",
            escape(&line.name),
            short(line.base),
            short(line.new),
            line.change_percent,
            match line.finding() {
                "better" => "better",
                "WORSE" => "worse",
                _ => "soft",
            },
            line.finding()
        )?;
    }
    out.push_str("</table></div><p class=soft>The seconds of each measured interval are the samples (Welch's interval). \
                  Neighbouring seconds are not independent: what decides something is run several times, in turn.</p>\
                  <div class=plots>");
    out.push_str(&intervals_plot(&comparison.lines));
    let arrived: Figure = |second| Some(second.arrived_per_sec as f64);
    let p50: Figure = |second| timed(second, second.latency.p50);
    let p99: Figure = |second| timed(second, second.latency.p99);
    let figures = [
        ("Arrived", "messages/s", Scale::Linear, arrived),
        ("p50", "µs, logarithmic", Scale::Logarithmic, p50),
        ("p99", "µs, logarithmic", Scale::Logarithmic, p99),
    ];
    for (title, unit, scale, pick) in figures {
        let line = |name, series: &[Second]| over_time(series, name, pick);
        let lines = vec![
            line(&comparison.base, &comparison.base_series),
            line(&comparison.new, &comparison.new_series),
        ];
        out.push_str(&plot(title, unit, lines, scale));
    }
    out.push_str("</div>");
    Ok(())
}

/// A latency of a second in which something arrived.
fn timed(second: &Second, micros: u64) -> Option<f64> {
    (second.latency.count > 0).then_some(micros as f64)
}

/// What a plot shows of a second, if there is anything to show.
type Figure = fn(&Second) -> Option<f64>;

/// Each change with its interval, as a bar beside zero: what does not touch zero is more than noise.
fn intervals_plot(lines: &[crate::compare::Line]) -> String {
    const WIDTH: f64 = 720.0;
    const LEFT: f64 = 150.0;
    const ROW: f64 = 30.0;
    const TOP: f64 = 34.0;
    let known: Vec<_> = lines.iter().filter_map(|line| Some((line, line.interval_percent?))).collect();
    if known.is_empty() {
        return String::new();
    }
    let widest = known.iter().flat_map(|(_, (low, high))| [low.abs(), high.abs()]).fold(5.0, f64::max);
    // What doubled and more would make everything else a dot.
    let widest = widest.min(100.0);
    let place = |percent: f64| {
        let middle = f64::midpoint(LEFT, WIDTH - 20.0);
        middle + percent.clamp(-widest, widest) / widest * (WIDTH - 20.0 - LEFT) / 2.0
    };
    let height = TOP + ROW * known.len() as f64 + 24.0;
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=img aria-label=\"Changes\">\
         <text class=title x=12 y=14>Change, with its 95 % interval</text>"
    );
    for mark in [-widest, 0.0, widest] {
        let x = place(mark);
        let (top, bottom) = (TOP - 8.0, height - 22.0);
        write!(out, "<line class=grid x1={x:.1} x2={x:.1} y1={top} y2={bottom} />").ok();
        let name = if mark == 0.0 { "no change".to_owned() } else { format!("{mark:+.0} %") };
        write!(out, "<text text-anchor=middle x={x:.1} y={}>{name}</text>", height - 6.0).ok();
    }
    for (at, (line, (low, high))) in known.into_iter().enumerate() {
        let y = TOP + ROW * (at as f64 + 0.5);
        let colour = match line.finding() {
            "better" => "var(--good)",
            "WORSE" => "var(--bad)",
            _ => "var(--soft)",
        };
        let (from, to) = (place(low), place(high));
        write!(
            out,
            "<text x=12 y={:.1}>{}</text><rect x={from:.1} y={:.1} width={:.1} height=10 rx=5 opacity=.3 \
             style=\"fill:{colour}\" /><circle cx={:.1} cy={y:.1} r=4.5 style=\"fill:{colour}\" />",
            y + 4.0,
            escape(&line.name),
            y - 5.0,
            (to - from).max(2.0),
            place(line.change_percent)
        )
        .ok();
    }
    out + "</svg>"
}
