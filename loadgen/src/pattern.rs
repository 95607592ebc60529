//! Names made from a pattern and a number: `load/{publisher}`, `device{publisher:02}`.
//!
//! In: a text with one known placeholder. Out: the text for each number. Never: TOML, MQTT.

/// A text with places for a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// A number, with zeros in front up to this width.
    Number {
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
    /// Reads a pattern in which `{placeholder}` stands for the number and `{placeholder:03}` for three digits.
    pub fn parse(text: &str, placeholder: &str) -> Result<Pattern, InvalidPattern> {
        let invalid = |why: String| InvalidPattern { text: text.to_owned(), why };
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (inside, tail) =
                after.split_once('}').ok_or_else(|| invalid("a `{` has no `}`".to_owned()))?;
            let (name, width) = inside.split_once(':').unwrap_or((inside, "0"));
            if name != placeholder {
                return Err(invalid(format!("only {{{placeholder}}} is known here, not {{{name}}}")));
            }
            let width = width.parse().ok().filter(|width| *width <= 20).ok_or_else(|| {
                invalid(format!("\"{width}\" is not a number of digits: 0 to 20, as in {{{placeholder}:03}}"))
            })?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::Number { width });
            rest = tail;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Pattern { parts })
    }

    /// The text for one number.
    #[must_use]
    pub fn expand(&self, number: u32) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(fixed) => text.push_str(fixed),
                Part::Number { width } => text.push_str(&format!("{number:0width$}")),
            }
        }
        text
    }

    /// Whether different numbers give different texts.
    #[must_use]
    pub fn varies(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Number { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        let got = Pattern::parse(text, "publisher").map(|pattern| pattern.expand(7));
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
        check("plain", Ok("plain"));
        check("", Ok(""));
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_is() {
        check("load/{subscriber}", Err("only {publisher} is known here"));
        check("load/{publisher", Err("a `{` has no `}`"));
        check("load/{publisher:wide}", Err("not a number of digits"));
    }
}
