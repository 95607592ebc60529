//! Patterns of `LIKE`: `%` stands for any text, `_` for one character, `\` takes what follows as it is.
//!
//! Knows: how a pattern is written and matched. May use: the standard library.
//! In:  a pattern, then texts. Out: whether the whole text fits.
//! Invariant: matching goes forward part by part and never back beyond one part.

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    /// What stands between the `%`s, in order; `None` is `_`.
    parts: Vec<Vec<Option<char>>>,
}

impl Pattern {
    pub(crate) fn new(pattern: &str) -> Pattern {
        let (mut parts, mut characters) = (vec![Vec::new()], pattern.chars());
        while let Some(c) = characters.next() {
            let item = match c {
                '%' => {
                    parts.push(Vec::new());
                    continue;
                }
                '_' => None,
                '\\' => Some(characters.next().unwrap_or('\\')),
                c => Some(c),
            };
            if let Some(part) = parts.last_mut() {
                part.push(item);
            }
        }
        Pattern { parts }
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        let [first, middle @ ..] = self.parts.as_slice() else { return false };
        let Some(mut rest) = strip(text, first) else { return false };
        let Some((last, middle)) = middle.split_last() else { return rest.is_empty() };
        for part in middle {
            match find(rest, part) {
                Some(found) => rest = found,
                None => return false,
            }
        }
        let (have, need) = (rest.chars().count(), last.len());
        if have < need {
            return false;
        }
        let tail = rest.char_indices().nth(have - need).map_or("", |(at, _)| &rest[at..]);
        strip(tail, last).is_some_and(str::is_empty)
    }
}

/// What every text that fits starts with.
pub(crate) fn literal_prefix(pattern: &str) -> String {
    let pattern = Pattern::new(pattern);
    pattern.parts[0].iter().map_while(|item| *item).collect()
}

/// What follows `part` at the start of `text`.
fn strip<'t>(text: &'t str, part: &[Option<char>]) -> Option<&'t str> {
    let mut characters = text.chars();
    for item in part {
        let c = characters.next()?;
        if item.is_some_and(|wanted| wanted != c) {
            return None;
        }
    }
    Some(characters.as_str())
}

/// What follows the first place where `part` is.
fn find<'t>(text: &'t str, part: &[Option<char>]) -> Option<&'t str> {
    let starts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    starts.into_iter().find_map(|at| strip(&text[at..], part))
}
