//! A search for the knee, as a page: what arrived and how late, at each rate that was tried.
//!
//! In:  a [`Knee`]. Out: text. Never: which step is beyond.

use std::fmt::Write;

use super::plot::{Line, Plot, Scale};
use super::{escape, head};
use crate::report::thousands;
use crate::saturate::{Knee, Step};

/// The page of a search; `name` is what was searched.
#[must_use]
pub fn knee(knee: &Knee, name: &str) -> String {
    let mut out = head(&format!("{name}: where is the knee?"));
    write_page(&mut out, knee).expect("writing to memory cannot fail");
    out
}

fn write_page(out: &mut String, knee: &Knee) -> std::fmt::Result {
    let bounds = &knee.bounds;
    let found = match (&knee.failed, knee.rate) {
        (Some(why), _) => format!("the search ended before its time: {}", escape(why)),
        (None, Some(rate)) => format!("{} messages a second", thousands(rate)),
        (None, None) => "even the lowest rate was beyond the bounds".to_owned(),
    };
    let kind = if knee.rate.is_some() { "kept" } else { "broken" };
    write!(
        out,
        "<p>The highest rate, in an open loop, with p99 ≤ {} µs and loss ≤ {} %, to within {:.0} %.</p>\
         <span class=\"verdict {kind}\">{found}</span>",
        thousands(bounds.p99_micros as f64),
        bounds.loss_percent,
        100.0 * bounds.precision
    )?;
    if knee.own_limit {
        write!(out, "<p class=soft>In a step the generator gave up first: the broker may take more.</p>")?;
    }
    let mut steps: Vec<&Step> = knee.steps.iter().collect();
    steps.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let line = |name, value: fn(&Step) -> f64| Line {
        name,
        points: steps.iter().map(|step| (step.rate, value(step))).collect(),
    };
    out.push_str("<div class=plots>");
    for (title, unit, scale, lines) in [
        (
            "Arrived at each offered rate",
            "messages/s",
            Scale::Linear,
            vec![line("arrived", |step| step.arrived_per_sec), line("offered", |step| step.rate)],
        ),
        ("p99 at each offered rate", "µs, logarithmic", Scale::Logarithmic, vec![line("p99", p99)]),
    ] {
        let last = steps.last().map_or(1.0, |step| step.rate);
        let (x_marks, x_range) = (None, Some((0.0, last)));
        out.push_str(&Plot { title, unit, lines, scale, x_marks, x_unit: "offered/s", x_range }.svg());
    }
    out.push_str("</div>");
    out.push_str("<h2>Steps, in the order of the search</h2><div class=table><table><tr><th>offered/s<th>arrived/s<th>p99 µs<th>lost or not taken<th>finding</tr>");
    for step in &knee.steps {
        write!(
            out,
            "<tr><td>{}<td>{}<td>{}<td>{:.3} %<td>{}</tr>",
            thousands(step.rate),
            thousands(step.arrived_per_sec),
            thousands(step.p99_micros as f64),
            step.loss_percent,
            escape(step.broken.as_deref().unwrap_or("within bounds"))
        )?;
    }
    out.push_str("</table></div>");
    Ok(())
}

fn p99(step: &Step) -> f64 {
    step.p99_micros as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::saturate::Bounds;

    #[test]
    fn the_page_has_every_step_and_says_what_was_found() {
        let step = |rate: f64, broken: Option<&str>| Step {
            rate,
            arrived_per_sec: rate,
            p99_micros: 900,
            loss_percent: 0.0,
            broken: broken.map(str::to_owned),
        };
        let bounds = Bounds { p99_micros: 1_000, loss_percent: 0.0, precision: 0.05 };
        let steps = vec![step(1_000.0, None), step(2_000.0, Some("p99 <1 s>"))];
        let found = Knee { bounds, steps, rate: Some(1_000.0), own_limit: true, failed: None };
        let page = knee(&found, "p2p");
        for part in ["1 000 messages a second", "p99 &lt;1 s&gt;", "within bounds", "gave up first", "<svg"] {
            assert!(page.contains(part), "{part}");
        }
        let failed = Knee { rate: None, failed: Some("gone".to_owned()), ..found };
        assert!(knee(&failed, "p2p").contains("ended before its time: gone"));
    }
}
