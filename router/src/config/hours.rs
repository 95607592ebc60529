//! Hours of the day in which a metered link may be used.
//!
//! In: text such as `22:00-06:00 12:30-13:00` and an offset from UTC such as `+01:00`; a time. Out: whether the link may be
//! used then. Never: time zones with their summers: the offset is what it is, all year.

use model::Timestamp;

const MINUTES_PER_DAY: u64 = 24 * 60;

/// Spans of the day, each from its first minute to its last (not included); over midnight if it ends before it begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hours {
    spans: Vec<(u16, u16)>,
    /// Minutes that the clock on the wall is before UTC.
    offset_minutes: i16,
}

impl Hours {
    /// Whether the link may be used now. Without any span it always may.
    pub fn is_open(&self, now: Timestamp) -> bool {
        let shifted = (now.0 / 60_000) as i64 + i64::from(self.offset_minutes);
        let minute = shifted.rem_euclid(MINUTES_PER_DAY as i64) as u16;
        let holds = |&(from, to): &(u16, u16)| match from < to {
            true => (from..to).contains(&minute),
            false => minute >= from || minute < to,
        };
        self.spans.is_empty() || self.spans.iter().any(holds)
    }

    /// Whether there are hours at all.
    pub fn are_limited(&self) -> bool {
        !self.spans.is_empty()
    }

    /// As they were parsed.
    pub(super) fn new(spans: Vec<(u16, u16)>, offset_minutes: i16) -> Hours {
        Hours { spans, offset_minutes }
    }
}

impl std::fmt::Display for Hours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        for (from, to) in &self.spans {
            write!(f, "{}-{} ", clock(*from), clock(*to))?;
        }
        let sign = if self.offset_minutes < 0 { '-' } else { '+' };
        write!(f, "UTC{sign}{}", clock(self.offset_minutes.unsigned_abs()))
    }
}

/// Spans with spaces between them; `Err` with a hint.
pub(super) fn parse_spans(text: &str) -> Result<Vec<(u16, u16)>, Option<String>> {
    let span = |word: &str| {
        let (from, to) = word.split_once('-').ok_or_else(|| Some(format!("{word} has no end")))?;
        let end = |text: &str| clock(text, 24).ok_or_else(|| Some(format!("{text} is no time of day")));
        let (from, to) = (end(from)?, end(to)?);
        if from == to {
            return Err(Some(format!("{word} is empty; the whole day is 00:00-24:00")));
        }
        Ok((from, to))
    };
    let spans: Vec<_> =
        text.split([' ', ',']).filter(|word| !word.is_empty()).map(span).collect::<Result<_, _>>()?;
    if spans.is_empty() { Err(None) } else { Ok(spans) }
}

/// Minutes before UTC: `+01:00`, `-03:30`, `Z`.
pub(super) fn parse_offset(text: &str) -> Result<i16, Option<String>> {
    if text == "Z" || text == "UTC" {
        return Ok(0);
    }
    let (sign, rest) = match text.split_at_checked(1) {
        Some(("+", rest)) => (1, rest),
        Some(("-", rest)) => (-1, rest),
        _ => return Err(Some("names of time zones are not known here; write the offset".to_owned())),
    };
    clock(rest, 14).map(|minutes| sign * minutes as i16).ok_or(None)
}

/// `HH:MM` up to so many hours, as minutes.
fn clock(text: &str, hours_max: u16) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| Some(text).filter(|it| it.len() == 2)?.parse::<u16>().ok();
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (minutes < 60 && hours * 60 + minutes <= hours_max * 60).then_some(hours * 60 + minutes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: u64, minutes: u64) -> Timestamp {
        Timestamp(((20_000 * 24 + hours) * 60 + minutes) * 60_000)
    }

    fn hours(text: &str, offset: &str) -> Hours {
        Hours::new(parse_spans(text).unwrap(), parse_offset(offset).unwrap())
    }

    #[test]
    fn a_span_may_go_over_midnight_and_there_may_be_several() {
        let hours = hours("22:00-06:00 12:30-13:00", "Z");
        for (hour, minute, open) in [
            (21, 59, false),
            (22, 0, true),
            (0, 0, true),
            (5, 59, true),
            (6, 0, false),
            (12, 30, true),
            (13, 0, false),
        ] {
            assert_eq!(hours.is_open(at(hour, minute)), open, "{hour}:{minute}");
        }
        assert_eq!(hours.to_string(), "22:00-06:00 12:30-13:00 UTC+00:00");
        assert!(Hours::default().is_open(at(3, 3)) && !Hours::default().are_limited());
    }

    #[test]
    fn the_offset_moves_them() {
        assert!(hours("08:00-09:00", "+01:00").is_open(at(7, 30)));
        assert!(hours("08:00-09:00", "-03:30").is_open(at(11, 30)));
        assert!(!hours("08:00-09:00", "-03:30").is_open(at(8, 30)));
        assert!(hours("00:00-24:00", "Z").is_open(at(23, 59)));
    }

    #[test]
    fn what_is_no_time_is_refused_with_a_hint() {
        for text in ["", "22-06", "22:00", "25:00-01:00", "22:60-23:00", "22:00-22:00", "1:00-2:00", "night"]
        {
            assert!(parse_spans(text).is_err(), "{text}");
        }
        for text in ["", "Europe/Berlin", "+1", "+15:00", "01:00"] {
            assert!(parse_offset(text).is_err(), "{text}");
        }
        assert_eq!(parse_offset("UTC"), Ok(0));
    }
}
