//! Patterns of `LIKE`: `%` stands for any text, `_` for one character, `\` takes what follows as it is.
//!
//! Knows: how a pattern is written and matched. May use: the standard library.
//! In:  a pattern, then texts. Out: whether the whole text fits.
//! Invariant: matching goes forward part by part and never back beyond one part; a part without `_` is searched in
//! linear time, and one with `_` is at most [`WILD_MAX`] characters long.

/// Longest part between two `%` that may hold a `_`, in characters: it is searched place by place.
pub(crate) const WILD_MAX: usize = 64;

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    /// What stands between the `%`s, in order.
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Literal(String),
    /// `None` is `_`.
    Wild(Vec<Option<char>>),
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
        Pattern { parts: parts.into_iter().map(Part::new).collect() }
    }

    /// Whether matching it takes too long on a long text.
    pub(crate) fn is_too_wild(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Wild(items) if items.len() > WILD_MAX))
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        let [first, middle @ ..] = self.parts.as_slice() else { return false };
        let Some(mut rest) = first.strip(text) else { return false };
        let Some((last, middle)) = middle.split_last() else { return rest.is_empty() };
        for part in middle {
            match part.find(rest) {
                Some(found) => rest = found,
                None => return false,
            }
        }
        last.ends(rest)
    }
}

impl Part {
    fn new(items: Vec<Option<char>>) -> Part {
        match items.iter().copied().collect() {
            Some(literal) => Part::Literal(literal),
            None => Part::Wild(items),
        }
    }

    /// What follows it at the start of `text`.
    fn strip<'t>(&self, text: &'t str) -> Option<&'t str> {
        let items = match self {
            Part::Literal(literal) => return text.strip_prefix(literal.as_str()),
            Part::Wild(items) => items,
        };
        let mut characters = text.chars();
        for item in items {
            let c = characters.next()?;
            if item.is_some_and(|wanted| wanted != c) {
                return None;
            }
        }
        Some(characters.as_str())
    }

    /// What follows the first place where it is.
    fn find<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self {
            Part::Literal(literal) => text.find(literal.as_str()).map(|at| &text[at + literal.len()..]),
            Part::Wild(_) => text.char_indices().find_map(|(at, _)| self.strip(&text[at..])),
        }
    }

    fn ends(&self, text: &str) -> bool {
        let items = match self {
            Part::Literal(literal) => return text.ends_with(literal.as_str()),
            Part::Wild(items) => items,
        };
        let start = text.char_indices().rev().nth(items.len() - 1);
        start.is_some_and(|(at, _)| self.strip(&text[at..]).is_some())
    }
}

/// What every text that fits starts with.
pub(crate) fn literal_prefix(pattern: &str) -> String {
    match Pattern::new(pattern).parts.swap_remove(0) {
        Part::Literal(literal) => literal,
        Part::Wild(items) => items.into_iter().map_while(|item| item).collect(),
    }
}
