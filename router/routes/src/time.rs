//! Points in time in bodies: RFC 3339 texts and numbers, and their parts in UTC.
//!
//! Knows: the Gregorian calendar. May use: `dotnet` (days of a month). In and out: plain values; nobody asks a clock.

use crate::dotnet::days_in_month;

const DAY_MILLIS: i64 = 86_400_000;

/// Milliseconds since 1970-01-01T00:00:00Z of `2026-11-22`, `2026-11-22T10:00:00.5Z` or `…+01:00`; a time
/// without zone is taken as UTC.
pub(crate) fn parse(text: &str) -> Option<f64> {
    let bytes = text.as_bytes();
    let digits = |from: usize, length: usize| -> Option<i64> {
        let part = bytes.get(from..from + length)?;
        part.iter()
            .try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0')))
    };
    let is = |at: usize, wanted: &[u8]| bytes.get(at).is_some_and(|byte| wanted.contains(byte));
    let (year, month, day) = (digits(0, 4)?, digits(5, 2)?, digits(8, 2)?);
    let days = i64::from(days_in_month(year as u32, month as u32));
    if !is(4, b"-") || !is(7, b"-") || day < 1 || day > days {
        return None;
    }
    let midnight = days_before(year, month) + day - 1;
    if bytes.len() == 10 {
        return Some((midnight * DAY_MILLIS) as f64);
    }
    let (hour, minute, second) = (digits(11, 2)?, digits(14, 2)?, digits(17, 2)?);
    let sound = is(10, b"Tt ") && is(13, b":") && is(16, b":") && hour < 24 && minute < 60 && second <= 60;
    sound.then_some(())?;
    let (fraction, rest) = fraction(&text[19..])?;
    let offset = zone(rest)?;
    let seconds = hour * 3600 + minute * 60 + second - offset * 60;
    Some((midnight * DAY_MILLIS + seconds * 1000) as f64 + fraction)
}

/// Milliseconds behind the dot, and what follows.
fn fraction(rest: &str) -> Option<(f64, &str)> {
    let Some(digits) = rest.strip_prefix('.') else { return Some((0.0, rest)) };
    let length = digits.bytes().take_while(u8::is_ascii_digit).count();
    let number: f64 = rest.get(..1 + length)?.parse().ok()?;
    (length > 0).then_some(((number * 1000.0).floor(), &digits[length..]))
}

/// Minutes east of UTC.
fn zone(text: &str) -> Option<i64> {
    match text.as_bytes() {
        [] | [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), a, b, b':', c, d] if [a, b, c, d].iter().all(|byte| byte.is_ascii_digit()) => {
            let two = |tens: &u8, ones: &u8| i64::from(tens - b'0') * 10 + i64::from(ones - b'0');
            let (hours, minutes) = (two(a, b), two(c, d));
            let offset = hours * 60 + minutes;
            (hours < 24 && minutes < 60).then_some(if *sign == b'-' { -offset } else { offset })
        }
        _ => None,
    }
}

/// A point in time in parts.
pub(crate) struct Parts {
    pub(crate) year: f64,
    pub(crate) month: f64,
    pub(crate) day: f64,
    /// 1 is Monday, 7 Sunday.
    pub(crate) weekday: f64,
    pub(crate) hour: f64,
    pub(crate) minute: f64,
    pub(crate) second: f64,
}

/// The parts of milliseconds since 1970; `None` outside the years 1 to 9999.
pub(crate) fn parts(millis: f64) -> Option<Parts> {
    const FIRST: f64 = -62_135_596_800_000.0;
    const LAST: f64 = 253_402_300_800_000.0;
    if !(FIRST..LAST).contains(&millis) {
        return None;
    }
    let millis = millis.floor() as i64;
    let (days, rest) = (millis.div_euclid(DAY_MILLIS), millis.rem_euclid(DAY_MILLIS) / 1000);
    let (year, month, day) = civil(days);
    Some(Parts {
        year: year as f64,
        month: month as f64,
        day: day as f64,
        weekday: ((days + 3).rem_euclid(7) + 1) as f64,
        hour: (rest / 3600) as f64,
        minute: (rest / 60 % 60) as f64,
        second: (rest % 60) as f64,
    })
}

/// Days from 1970-01-01 to the first of a month (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn days_before(year: i64, month: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The same the other way.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_zone_and_fraction() {
        assert_eq!(parse("1970-01-01"), Some(0.0));
        assert_eq!(parse("1970-01-01T00:00:01.25Z"), Some(1250.0));
        assert_eq!(parse("1970-01-01T01:00:00+01:00"), Some(0.0));
        assert_eq!(parse("2000-03-01T00:00:00"), Some(951_868_800_000.0));
        for text in ["", "1970", "1970-13-01", "1970-02-30", "1970-01-01T25:00:00Z", "1970-01-01T00:00:00+1"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn parts_follow_the_calendar_day_by_day() {
        let mut expected = (1896, 1, 1);
        let mut at = days_before(1896, 1);
        while expected.0 < 2105 {
            assert_eq!(civil(at), expected);
            at += 1;
            expected.2 += 1;
            if expected.2 > i64::from(days_in_month(expected.0 as u32, expected.1 as u32)) {
                expected =
                    if expected.1 == 12 { (expected.0 + 1, 1, 1) } else { (expected.0, expected.1 + 1, 1) };
            }
        }
        let sunday = parts(parse("2026-11-22T23:59:58Z").unwrap()).unwrap();
        assert_eq!((sunday.weekday, sunday.hour, sunday.minute, sunday.second), (7.0, 23.0, 59.0, 58.0));
    }
}
