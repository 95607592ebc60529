//! Habits of .NET that edgeHub's routes show (`reference/edgehub.md` §3.5 to §3.7).
//!
//! Knows: how .NET reads numbers and which texts Newtonsoft takes for dates. May use: the standard library.
//! In and out: plain values.

/// Reads a number as `double.TryParse` does with any number style and the invariant culture: white space
/// around, a sign before or behind, parentheses as minus, thousands separators, an exponent, the currency
/// sign `¤`. `None` for what is no number; NaN for the text `NaN`.
pub(crate) fn parse_number(text: &str) -> Option<f64> {
    let text = text.trim_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}', '\0']);
    if let Ok(number) = plain(text) {
        return Some(number);
    }
    match text.trim_start_matches(['+', '-']).to_ascii_lowercase().as_str() {
        "infinity" | "∞" => {
            return Some(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY });
        }
        "nan" => return Some(f64::NAN),
        _ => {}
    }
    decorated(text)
}

/// Digits with at most one dot, a sign and an exponent: what nearly every number looks like.
fn plain(text: &str) -> Result<f64, ()> {
    let ordinary = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'+' | b'e' | b'E');
    if !text.bytes().all(ordinary) || !text.bytes().any(|byte| byte.is_ascii_digit()) {
        return Err(());
    }
    text.parse().map_err(|_| ())
}

/// The long way, with decorations in .NET's order: signs and currency, digits and commas, fraction, exponent.
fn decorated(text: &str) -> Option<f64> {
    let (mut rest, mut negative, mut signed, mut open) = (text, false, false, false);
    let mut currency = false;
    loop {
        rest = rest.trim_start();
        let Some(c) = rest.chars().next() else { break };
        match c {
            '-' | '+' if !signed => (signed, negative) = (true, c == '-'),
            '(' if !signed => (signed, negative, open) = (true, true, true),
            '¤' if !currency => currency = true,
            _ => break,
        }
        rest = &rest[c.len_utf8()..];
    }
    let mut digits = String::new();
    let mut exponent = false;
    let mut characters = rest.char_indices().peekable();
    let mut end = rest.len();
    while let Some((at, c)) = characters.next() {
        match c {
            '0'..='9' => digits.push(c),
            '.' if !digits.contains('.') && !exponent => digits.push('.'),
            ',' if !digits.contains('.') && !exponent && !digits.is_empty() => {}
            'e' | 'E' if !exponent && has_exponent(&rest[at + 1..]) => {
                exponent = true;
                digits.push('e');
                if let Some((_, sign @ ('+' | '-'))) = characters.peek().copied() {
                    digits.push(sign);
                    characters.next();
                }
            }
            _ => {
                end = at;
                break;
            }
        }
    }
    let mut rest = &rest[end..];
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\0']);
        let Some(c) = rest.chars().next() else { break };
        match c {
            '-' | '+' if !signed => (signed, negative) = (true, c == '-'),
            ')' if open => open = false,
            '¤' if !currency => currency = true,
            _ => return None,
        }
        rest = &rest[c.len_utf8()..];
    }
    if open || !digits.bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: f64 = digits.parse().ok()?;
    Some(if negative { -number } else { number })
}

fn has_exponent(rest: &str) -> bool {
    let rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    rest.starts_with(|c: char| c.is_ascii_digit())
}

/// Whether Newtonsoft turns a JSON text into a date: `2017-03-09T00:00:00[.fffffff][Z|±hh:mm]`, or
/// `/Date(1489017600000)/`. Such a text is undefined to edgeHub.
pub(crate) fn looks_like_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    match bytes.first() {
        Some(b'/') => is_microsoft_date(text),
        Some(byte) if byte.is_ascii_digit() => {
            (19..=40).contains(&bytes.len()) && bytes[10] == b'T' && is_iso_date(bytes)
        }
        _ => false,
    }
}

fn is_microsoft_date(text: &str) -> bool {
    let Some(inner) = text.strip_prefix("/Date(").and_then(|rest| rest.strip_suffix(")/")) else {
        return false;
    };
    let inner = inner.strip_prefix('-').unwrap_or(inner);
    let ticks = inner.split(['+', '-']).next().unwrap_or("");
    !ticks.is_empty() && ticks.len() <= 18 && ticks.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_iso_date(bytes: &[u8]) -> bool {
    let Some((year, month, day)) = date(bytes) else { return false };
    let Some(time) = bytes.get(11..19) else { return false };
    let (Some(hour), Some(minute), Some(second)) = (two(time, 0), two(time, 3), two(time, 6)) else {
        return false;
    };
    let separators = time[2] == b':' && time[5] == b':';
    let midnight = hour == 24 && minute == 0 && second == 0;
    separators
        && (hour < 24 || midnight)
        && minute < 60
        && second < 60
        && (1..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && is_fraction_and_zone(&bytes[19..])
}

fn date(bytes: &[u8]) -> Option<(u32, u32, u32)> {
    if bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    Some((two(bytes, 0)? * 100 + two(bytes, 2)?, two(bytes, 5)?, two(bytes, 8)?))
}

fn is_fraction_and_zone(mut rest: &[u8]) -> bool {
    if rest.first() == Some(&b'.') {
        let digits = rest[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(1..=7).contains(&digits) {
            return false;
        }
        rest = &rest[1 + digits..];
    }
    match rest {
        [] | [b'Z'] => true,
        [b'+' | b'-', zone @ ..] => match zone.len() {
            2 => two(zone, 0).is_some_and(|hours| hours <= 99),
            4 => two(zone, 0).is_some() && two(zone, 2).is_some(),
            5 => two(zone, 0).is_some() && zone[2] == b':' && two(zone, 3).is_some(),
            _ => false,
        },
        _ => false,
    }
}

fn two(bytes: &[u8], at: usize) -> Option<u32> {
    let digit =
        |at: usize| bytes.get(at).filter(|byte| byte.is_ascii_digit()).map(|byte| u32::from(byte - b'0'));
    Some(digit(at)? * 10 + digit(at + 1)?)
}

/// Days of a month of the Gregorian calendar; 0 for a month that does not exist.
pub(crate) fn days_in_month(year: u32, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(if year.is_multiple_of(100) { 400 } else { 4 }) => 29,
        2 => 28,
        1..=12 => 31,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
