//! Names made from a pattern and numbers: `load/{publisher}`, `device{publisher:02}/{topic}`.
//!
//! In: a text with known placeholders. Out: the text for each number. Never: TOML, MQTT.

/// A text with places for a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// The number of a placeholder, with zeros in front up to this width.
    Number {
        which: usize,
        width: usize,
    },
}

/// A pattern that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a pattern: {why}")]
pub struct InvalidPattern {
    text: String,
    why: String,
}

impl Pattern {
    /// Reads a pattern in which `{placeholder}` stands for a number and `{placeholder:03}` for three digits.
    ///
    /// `placeholders` are at least one: the first is the number that [`Pattern::expand`] takes.
    pub fn parse(text: &str, placeholders: &[&str]) -> Result<Pattern, InvalidPattern> {
        let known =
            || placeholders.iter().map(|name| format!("{{{name}}}")).collect::<Vec<_>>().join(" and ");
        let invalid = |why: String| InvalidPattern { text: text.to_owned(), why };
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (inside, tail) =
                after.split_once('}').ok_or_else(|| invalid("a `{` has no `}`".to_owned()))?;
            let (name, width) = inside.split_once(':').unwrap_or((inside, "0"));
            let which = placeholders
                .iter()
                .position(|known| *known == name)
                .ok_or_else(|| invalid(format!("only {} is known here, not {{{name}}}", known())))?;
            let width = width.parse().ok().filter(|width| *width <= 20).ok_or_else(|| {
                invalid(format!("\"{width}\" is not a number of digits: 0 to 20, as in {{{name}:03}}"))
            })?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::Number { which, width });
            rest = tail;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Pattern { parts })
    }

    /// The text for one number; every further placeholder is 1.
    #[must_use]
    pub fn expand(&self, number: u32) -> String {
        self.expand_with(number, 1)
    }

    /// The text for the number of the first placeholder and that of the second.
    #[must_use]
    pub fn expand_with(&self, first: u32, second: u64) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(fixed) => text.push_str(fixed),
                Part::Number { which: 0, width } => text.push_str(&format!("{first:0width$}")),
                Part::Number { width, .. } => text.push_str(&format!("{second:0width$}")),
            }
        }
        text
    }

    /// Whether different numbers of the first placeholder give different texts.
    #[must_use]
    pub fn varies(&self) -> bool {
        self.has(0)
    }

    /// Whether different numbers of the second placeholder do.
    #[must_use]
    pub fn varies_in_second(&self) -> bool {
        self.has(1)
    }

    fn has(&self, wanted: usize) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Number { which, .. } if *which == wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        let got = Pattern::parse(text, &["publisher", "topic"]).map(|pattern| pattern.expand_with(7, 3));
        match (got, expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, _) => panic!("{text}: {got:?}"),
        }
    }

    #[test]
    fn a_placeholder_becomes_the_number() {
        check("load/{publisher}", Ok("load/7"));
        check("line1/device{publisher:02}/telemetry", Ok("line1/device07/telemetry"));
        check("{publisher}{publisher:3}", Ok("7007"));
        check("{publisher}/{topic:02}", Ok("7/03"));
        check("plain", Ok("plain"));
        check("", Ok(""));
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_is() {
        check("load/{subscriber}", Err("only {publisher} and {topic} is known here"));
        check("load/{publisher", Err("a `{` has no `}`"));
        check("load/{publisher:wide}", Err("not a number of digits"));
    }
}
