//! "Did you mean …?": the key or word nearest to one that does not exist.
//!
//! Knows: names. Never: values.

use super::schema;

/// A hint naming the key that was probably meant instead of `path`, if there is one.
pub(super) fn nearest(path: &[String]) -> Option<String> {
    let meant = without_unit(path).or_else(|| slip(path)).or_else(|| elsewhere(path))?;
    Some(format!("did you mean {meant}?"))
}

/// The nearest of some words.
pub(super) fn nearest_word(written: &str, words: &[&str]) -> Option<String> {
    words
        .iter()
        .map(|word| (distance(word, written), word))
        .filter(|(distance, _)| *distance <= slip_max(written))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| format!("did you mean {word}?"))
}

/// What may stand under a section, by name.
pub(super) fn keys_of(path: &[String]) -> Vec<&'static str> {
    let mut found = Vec::new();
    for key in schema::keys() {
        let mut segments = key.path.split('.');
        if path.iter().all(|name| segments.next().is_some_and(|segment| segment == "*" || segment == name))
            && let Some(next) = segments.next()
        {
            let next = if next == "*" { "NAME" } else { next };
            if !found.contains(&next) {
                found.push(next);
            }
        }
    }
    found
}

/// A path as TOML writes it: segments that need quotes get them.
pub(super) fn dotted<S: AsRef<str>>(path: &[S]) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let segments = path.iter().map(|segment| match segment.as_ref() {
        bare if !bare.is_empty() && bare.chars().all(is_bare) => bare.to_owned(),
        other => format!("{other:?}"),
    });
    segments.collect::<Vec<_>>().join(".")
}

/// The key that differs from `path` by slips of the finger only.
fn slip(path: &[String]) -> Option<String> {
    let filled = schema::keys().map(|key| {
        let segments = key.path.split('.').enumerate();
        let name_at = |at: usize| path.get(at).map_or("NAME", String::as_str);
        segments.map(|(at, segment)| if segment == "*" { name_at(at) } else { segment }).collect::<Vec<_>>()
    });
    filled
        .filter_map(|segments| Some((slips(&segments, path)?, segments)))
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, segments)| dotted(&segments))
}

/// How many letters lie between a key and what was written; `None` if too many for slips. Each part of
/// the key is measured by itself: `ttl` is not `route`, however long the names around them.
fn slips(key: &[&str], written: &[String]) -> Option<usize> {
    if key.len() != written.len() {
        return None;
    }
    key.iter().zip(written).try_fold(0, |sum, (segment, name)| {
        let distance = distance(segment, name);
        (distance <= slip_max(name)).then_some(sum + distance)
    })
}

/// The only key of the same section with or without a unit, as in `keep_alive` for `keep_alive_secs`, `ttl_secs` for `ttl`.
fn without_unit(path: &[String]) -> Option<String> {
    let (last, section) = path.split_last()?;
    let mut longer = keys_of(section)
        .into_iter()
        .filter(|key| key.starts_with(last.as_str()) || last.starts_with(&format!("{key}_")));
    match (longer.next(), longer.next()) {
        (Some(only), None) => {
            let section = section.iter().map(String::as_str);
            Some(dotted(&section.chain([only]).collect::<Vec<_>>()))
        }
        _ => None,
    }
}

/// The only key with this last name in another section, as in `anonymous` for `auth.anonymous`: of the whole process,
/// or else of things with names.
fn elsewhere(path: &[String]) -> Option<String> {
    let last = path.last()?;
    let same = schema::keys().filter(|key| key.path.rsplit('.').next() == Some(last.as_str()));
    let (named, whole): (Vec<_>, Vec<_>) = same.partition(|key| key.path.contains('*'));
    match (whole.as_slice(), named.as_slice()) {
        ([only], _) | ([], [only]) => Some(only.path.replace('*', "NAME")),
        _ => None,
    }
}

/// How many letters slips may change: one in three, at least one, at most three.
fn slip_max(written: &str) -> usize {
    (written.chars().count() / 3).clamp(1, 3)
}

/// Least number of letters to insert, remove, exchange or swap with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let exchanged = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = exchanged.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}
