//! Where in the order of topics a filter can match (MQTT 5.0 §4.7).
//!
//! In: a valid filter and a topic, as bytes. Out: whether it matches and, if not, the first topic behind it that may.
//! Topics are ordered by bytes, so that everything below `a/` stands together, but `a!` stands between `a` and `a/b`.
//! No allocation: where to go on is written into the caller's buffer.

/// What a filter says about one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It matches.
    Match,
    /// It does not; the very next one may.
    Next,
    /// Nothing before the topic in `seek` matches.
    Seek,
    /// Nothing behind it matches.
    End,
}

/// The first topic in the order that may match: what stands before the first wildcard.
pub(super) fn start(filter: &str) -> &str {
    let literal = filter.find(['+', '#']).map_or(filter, |at| &filter[..at]);
    // `a/#` matches `a`, too.
    if filter.ends_with("/#") && literal.len() + 1 == filter.len() {
        &literal[..literal.len() - 1]
    } else {
        literal
    }
}

/// Whether `topic` matches `filter`; if [`Look::Seek`], `seek` is where to go on.
pub(super) fn look(filter: &str, topic: &[u8], seek: &mut Vec<u8>) -> Look {
    if topic.first() == Some(&b'$') && filter.starts_with(['+', '#']) {
        // [MQTT-4.7.2-1]; `%` is the byte behind `$`.
        return go_to(seek, &[], b"%");
    }
    let mut levels = filter.as_bytes().split(|byte| *byte == b'/').peekable();
    let mut start = 0;
    while let Some(wanted) = levels.next() {
        if wanted == b"#" {
            return Look::Match;
        }
        let rest = &topic[start..];
        let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
        if wanted != b"+" && wanted != &rest[..end] {
            return behind(&topic[..start], rest, wanted, levels.peek().is_some(), seek);
        }
        let has_more = end < rest.len();
        match (levels.peek(), has_more) {
            (None, false) => return Look::Match,
            (None, true) => return leave(&topic[..start + end + 1], seek),
            (Some(&b"#"), _) => return Look::Match, // `a/#` matches `a`, too [MQTT-4.7.1-1]
            (Some(_), false) => return Look::Next,
            (Some(_), true) => start += end + 1,
        }
    }
    Look::End // an empty filter; there is none
}

/// Where to go on from `base` + `rest` if only `base` + `wanted` matches, and below it if `deeper`.
fn behind(base: &[u8], rest: &[u8], wanted: &[u8], deeper: bool, seek: &mut Vec<u8>) -> Look {
    if rest < wanted {
        return go_to(seek, base, wanted);
    }
    // Between `a` and what stands below `a/`: `a!`, `a-1`, …
    if deeper && rest.starts_with(wanted) && rest[wanted.len()] < b'/' {
        go_to(seek, base, wanted);
        seek.push(b'/');
        return Look::Seek;
    }
    leave(base, seek)
}

/// Goes on behind everything that starts with `base`, which is empty or ends with `/`.
fn leave(base: &[u8], seek: &mut Vec<u8>) -> Look {
    match base.split_last() {
        Some((_, above)) => go_to(seek, above, b"0"), // `0` is the byte behind `/`
        None => Look::End,
    }
}

fn go_to(seek: &mut Vec<u8>, base: &[u8], rest: &[u8]) -> Look {
    seek.clear();
    seek.extend_from_slice(base);
    seek.extend_from_slice(rest);
    Look::Seek
}
