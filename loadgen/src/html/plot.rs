//! A line plot as SVG: axes, a grid, lines, names.
//!
//! In:  points. Out: text. Never: what the points mean, scripts, fonts or files from elsewhere.

use std::fmt::Write;

/// A line with a name.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) points: Vec<(f64, f64)>,
}

/// How one axis is divided.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    /// Powers of ten; values below 1 count as 1.
    Logarithmic,
}

/// Everything about one plot.
pub(super) struct Plot<'a> {
    pub(super) title: &'a str,
    pub(super) unit: &'a str,
    pub(super) lines: Vec<Line<'a>>,
    pub(super) scale: Scale,
    /// Marks of the x axis, if they are not its own numbers: place and name.
    pub(super) x_marks: Option<Vec<(f64, String)>>,
    pub(super) x_unit: &'a str,
    /// Where the x axis ends, if that is not its own last point: for plots that stand under one another.
    pub(super) x_range: Option<(f64, f64)>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 30.0;
/// Above so many places, bands would be narrower than a pointer.
const HOVERS_MAX: usize = 600;

impl Plot<'_> {
    /// The plot as an `<svg>`; a sentence if there is nothing to plot.
    pub(super) fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| line.points.iter().copied());
        let own = extremes(points().map(|(x, _)| x));
        let Some((x_min, x_max)) = own.map(|own| self.x_range.unwrap_or(own)) else {
            return format!("<p class=none>{}: nothing was measured.</p>", escape(self.title));
        };
        let (y_min, y_max) = self.y_range(points().map(|(_, y)| y));
        let x_span = (x_max - x_min).max(f64::MIN_POSITIVE);
        let place = |x: f64, y: f64| {
            let across = if x_max > x_min { (x - x_min) / x_span } else { 0.5 };
            let up = (self.scaled(y) - y_min) / (y_max - y_min);
            (
                LEFT + across * (WIDTH - LEFT - RIGHT),
                HEIGHT - BOTTOM - up.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM),
            )
        };
        let mut out =
            format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"{}\">", escape(self.title));
        write!(out, "<text class=title x={LEFT} y=14>{} ({})</text>", escape(self.title), escape(self.unit))
            .ok();
        for mark in self.y_marks(y_min, y_max) {
            let (_, y) = place(x_min, mark);
            write!(out, "<line class=grid x1={LEFT} x2={} y1={y:.1} y2={y:.1} />", WIDTH - RIGHT).ok();
            write!(
                out,
                "<text class=mark text-anchor=end x={} y={:.1}>{}</text>",
                LEFT - 6.0,
                y + 4.0,
                short(mark)
            )
            .ok();
        }
        let own = || nice_marks(x_min, x_max, 8).into_iter().map(|x| (x, short(x))).collect();
        for (x, name) in self.x_marks.clone().unwrap_or_else(own) {
            let (x, _) = place(x, 1.0);
            let y = HEIGHT - BOTTOM + 16.0;
            write!(out, "<text class=mark text-anchor=middle x={x:.1} y={y}>{}</text>", escape(&name)).ok();
        }
        write!(
            out,
            "<text class=mark text-anchor=end x={} y={}>{}</text>",
            WIDTH - RIGHT,
            HEIGHT - 1.0,
            escape(self.x_unit)
        )
        .ok();
        self.write_hovers(&mut out, &place);
        let mut name_at = WIDTH - RIGHT;
        for (index, line) in self.lines.iter().enumerate().rev() {
            write!(
                out,
                "<text class=\"name c{index}\" text-anchor=end x={name_at} y=14>{}</text>",
                escape(line.name)
            )
            .ok();
            name_at -= 7.0 * line.name.chars().count() as f64 + 18.0;
        }
        for (index, line) in self.lines.iter().enumerate() {
            let path: Vec<String> = line
                .points
                .iter()
                .map(|&(x, y)| place(x, y))
                .map(|(x, y)| format!("{x:.1},{y:.1}"))
                .collect();
            // What is under a line that begins at zero is an amount, and is shown as one.
            if let (Scale::Linear, 0, [first, .., last]) = (self.scale, index, path.as_slice()) {
                let x =
                    |point: &String| point.split_once(',').map_or_else(String::new, |(x, _)| x.to_owned());
                let floor = HEIGHT - BOTTOM;
                write!(
                    out,
                    "<polygon class=\"area c{index}\" points=\"{},{floor} {} {},{floor}\" />",
                    x(first),
                    path.join(" "),
                    x(last)
                )
                .ok();
            }
            if let [one] = path.as_slice() {
                let (x, y) = one.split_once(',').unwrap_or_default();
                write!(out, "<circle class=\"dot c{index}\" cx={x} cy={y} r=3 />").ok();
            } else {
                write!(out, "<polyline class=\"line c{index}\" points=\"{}\" />", path.join(" ")).ok();
            }
        }
        out + "</svg>"
    }

    /// Bands that show the figures of their place when the pointer is over them; without a script.
    fn write_hovers(&self, out: &mut String, place: &impl Fn(f64, f64) -> (f64, f64)) {
        let Some(longest) = self.lines.iter().max_by_key(|line| line.points.len()) else { return };
        let places: Vec<f64> = longest.points.iter().map(|&(x, _)| x).collect();
        if !(2..=HOVERS_MAX).contains(&places.len()) {
            return;
        }
        let middle = |a: f64, b: f64| f64::midpoint(place(a, 1.0).0, place(b, 1.0).0);
        for (at, &x) in places.iter().enumerate() {
            let from = at.checked_sub(1).map_or(LEFT, |before| middle(places[before], x));
            let to = places.get(at + 1).map_or(WIDTH - RIGHT, |&after| middle(x, after));
            let named = |line: &Line<'_>| {
                let point = line.points.iter().find(|(other, _)| *other == x)?;
                Some(format!("{} {}", line.name, short(point.1)))
            };
            let figures: Vec<String> = self.lines.iter().filter_map(named).collect();
            let (across, _) = place(x, 1.0);
            let name = match &self.x_marks {
                // The marks have names of their own; their distances say nothing to a reader.
                Some(_) => String::new(),
                None => format!("{} {}: ", short(x), self.x_unit),
            };
            write!(
                out,
                "<g class=at><rect x={from:.1} y={TOP} width={:.1} height={} /><line x1={across:.1} x2={across:.1} y1={TOP} y2={} />\
                 <title>{name}{}</title></g>",
                (to - from).max(0.1),
                HEIGHT - TOP - BOTTOM,
                HEIGHT - BOTTOM,
                escape(&figures.join(", ")),
            )
            .ok();
        }
    }

    fn scaled(&self, y: f64) -> f64 {
        match self.scale {
            Scale::Linear => y,
            Scale::Logarithmic => y.max(1.0).log10(),
        }
    }

    fn y_range(&self, values: impl Iterator<Item = f64>) -> (f64, f64) {
        let (min, max) = extremes(values.map(|y| self.scaled(y))).unwrap_or((0.0, 1.0));
        match self.scale {
            Scale::Linear => (0.0, if max > 0.0 { max * 1.05 } else { 1.0 }),
            Scale::Logarithmic => (min.floor(), max.ceil().max(min.floor() + 1.0)),
        }
    }

    fn y_marks(&self, min: f64, max: f64) -> Vec<f64> {
        match self.scale {
            Scale::Linear => nice_marks(min, max, 5),
            Scale::Logarithmic => (min as i32..=max as i32).map(|power| 10_f64.powi(power)).collect(),
        }
    }
}

fn extremes(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|value| value.is_finite()).fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((min, max)) => Some((min.min(value), max.max(value))),
    })
}

/// Round numbers from `min` to `max`, about `count` of them.
fn nice_marks(min: f64, max: f64, count: u32) -> Vec<f64> {
    let rough = (max - min) / f64::from(count);
    if rough <= 0.0 || !rough.is_finite() {
        return vec![min];
    }
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|nice| nice * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    let first = (min / step).ceil() as i64;
    (first..).map(|index| index as f64 * step).take_while(|mark| *mark <= max).collect()
}

/// A number with few digits: 1.5k, 20M.
pub(super) fn short(number: f64) -> String {
    let trimmed = |number: f64| {
        let text = format!("{number:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match number.abs() {
        large if large >= 1e6 => trimmed(number / 1e6) + "M",
        middle if middle >= 1e3 => trimmed(number / 1e3) + "k",
        _ => trimmed(number),
    }
}

/// Text as HTML shows it.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>, scale: Scale) -> String {
        let lines = vec![Line { name: "sent & <b>", points }];
        Plot { title: "rate", unit: "/s", lines, scale, x_marks: None, x_unit: "s", x_range: None }.svg()
    }

    #[test]
    fn a_line_stays_within_its_frame_and_text_is_escaped() {
        let svg = plot(vec![(0.0, 0.0), (1.0, 50.0), (2.0, 100.0)], Scale::Linear);
        assert!(svg.contains("sent &amp; &lt;b&gt;") && svg.contains("points=\"64.0,230.0 "), "{svg}");
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"));
        assert!(
            svg.contains("<title>1 s: sent &amp; &lt;b&gt; 50</title>"),
            "figures under the pointer: {svg}"
        );
    }

    #[test]
    fn nothing_and_one_point_are_plots_too() {
        assert!(plot(vec![], Scale::Linear).contains("nothing was measured"));
        assert!(plot(vec![(1.0, 5.0)], Scale::Logarithmic).contains("<circle"));
        assert!(!plot(vec![(0.0, 0.0), (1.0, 0.0)], Scale::Linear).contains("NaN"));
    }

    #[test]
    fn marks_are_round_numbers() {
        assert_eq!(nice_marks(0.0, 100.0, 5), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(nice_marks(3.0, 3.0, 5), [3.0]);
        assert_eq!([short(1_500.0), short(2e7), short(0.25), short(0.0)], ["1.5k", "20M", "0.25", "0"]);
    }
}
