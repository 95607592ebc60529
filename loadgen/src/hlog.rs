//! HDR histograms on disk: the interval log (`.hlog`) that HdrHistogram's own tools read, a line a second.
//!
//! In:  what each second has seen. Out: text; and from text the intervals again, of any program that writes the format.
//! Values are microseconds. Logs of several processes merge by adding their histograms.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, IntervalLogWriterBuilder, LogEntry};
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer, V2Serializer};
use serde::{Deserialize, Serialize};

use crate::clock::Micros;
use crate::stats::histogram;

/// What one interval has seen, packed: a histogram in memory takes 140 KiB, this takes as much as it has values.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Interval {
    /// When it began.
    pub at: Micros,
    /// How long it was.
    pub lasts: Duration,
    #[serde(with = "bytes")]
    packed: Vec<u8>,
}

/// A log that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("not a histogram log: {0}")]
pub struct BadLog(String);

impl Interval {
    /// Packs a histogram.
    #[must_use]
    pub fn of(at: Micros, lasts: Duration, values: &Histogram<u64>) -> Interval {
        Interval { at, lasts, packed: pack(values) }
    }

    /// The histogram.
    #[must_use]
    pub fn values(&self) -> Histogram<u64> {
        hdr(&self.packed).unwrap_or_else(|_| histogram())
    }
}

fn pack(values: &Histogram<u64>) -> Vec<u8> {
    let mut packed = Vec::new();
    V2Serializer::new().serialize(values, &mut packed).expect("writing to memory cannot fail");
    packed
}

/// Bytes as text, between processes.
mod bytes {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use super::{Engine, STANDARD};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(from)?).map_err(de::Error::custom)
    }
}

/// Whole histograms as text, between processes.
pub(crate) mod packed {
    use serde::{Deserializer, Serializer, de};

    use super::{Histogram, bytes, hdr, pack};

    pub(crate) fn serialize<S: Serializer>(values: &Histogram<u64>, to: S) -> Result<S::Ok, S::Error> {
        bytes::serialize(&pack(values), to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Histogram<u64>, D::Error> {
        let packed = bytes::deserialize(from)?;
        hdr(&packed).map_err(de::Error::custom)
    }
}

fn hdr(packed: &[u8]) -> Result<Histogram<u64>, BadLog> {
    Deserializer::new().deserialize(&mut &*packed).map_err(|error| BadLog(format!("{error:?}")))
}

/// Writes a log of `intervals`, with `comment` at its head.
pub fn write(out: &mut impl Write, comment: &str, intervals: &[Interval]) -> std::io::Result<()> {
    let start = intervals.first().map_or(Micros(0), |interval| interval.at);
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment(comment)
        .add_comment("[Histogram log format version 1.3]")
        .with_start_time(time(start))
        .with_base_time(time(start))
        .with_max_value_divisor(1_000.0)
        .begin_log_with(out, &mut serializer)?;
    for interval in intervals {
        let since = Duration::from_micros(interval.at.since(start));
        log.write_histogram(&interval.values(), since, interval.lasts, None)
            .map_err(|error| std::io::Error::other(error.to_string()))?;
    }
    Ok(())
}

/// Reads a log.
pub fn read(text: &[u8]) -> Result<Vec<Interval>, BadLog> {
    let bad = |error: &dyn std::fmt::Debug| BadLog(format!("{error:?}"));
    let (mut intervals, mut base) = (Vec::new(), Duration::ZERO);
    let mut deserializer = Deserializer::new();
    for entry in IntervalLogIterator::new(text) {
        match entry.map_err(|error| bad(&error))? {
            LogEntry::BaseTime(time) => base = time,
            LogEntry::StartTime(_) => {}
            LogEntry::Interval(line) => {
                let packed = STANDARD.decode(line.encoded_histogram()).map_err(|error| bad(&error))?;
                let values: Histogram<u64> =
                    deserializer.deserialize(&mut packed.as_slice()).map_err(|error| bad(&error))?;
                let at = Micros(0).plus(base + line.start_timestamp());
                intervals.push(Interval::of(at, line.duration(), &values));
            }
        }
    }
    if intervals.is_empty() { Err(BadLog("there is no interval in it".to_owned())) } else { Ok(intervals) }
}

/// One log of several processes: intervals of the same second become one.
#[must_use]
pub fn by_second(intervals: impl IntoIterator<Item = (u64, Interval)>) -> BTreeMap<u64, Interval> {
    let mut seconds = BTreeMap::<u64, (Interval, Histogram<u64>)>::new();
    for (second, interval) in intervals {
        let values = interval.values();
        let (_, sum) = seconds.entry(second).or_insert_with(|| (interval, histogram()));
        sum.add(values).expect("all histograms have the same bounds");
    }
    let summed = |(first, sum): (Interval, Histogram<u64>)| Interval::of(first.at, first.lasts, &sum);
    seconds.into_iter().map(|(second, both)| (second, summed(both))).collect()
}

/// All values of all intervals.
pub fn total(intervals: &[Interval]) -> Result<Histogram<u64>, BadLog> {
    let mut total = histogram();
    for interval in intervals {
        total.add(interval.values()).map_err(|error| BadLog(format!("{error:?}")))?;
    }
    Ok(total)
}

fn time(at: Micros) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(at.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(at: u64, values: &[u64]) -> Interval {
        let mut seen = histogram();
        values.iter().for_each(|&value| seen.saturating_record(value));
        Interval::of(Micros(at), Duration::from_secs(1), &seen)
    }

    #[test]
    fn a_log_is_read_back_as_it_was_written() {
        let written = [interval(1_795_000_000_000_000, &[5, 700]), interval(1_795_000_001_000_000, &[12])];
        let mut text = Vec::new();
        write(&mut text, "run 1", &written).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("#run 1\n"), "{text}");
        let read = read(text.as_bytes()).unwrap();
        assert_eq!((read.len(), read[1].at, read[1].lasts), (2, written[1].at, written[1].lasts));
        assert_eq!(read[0].values(), written[0].values());
    }

    #[test]
    fn logs_of_several_processes_add_up() {
        let sum = total(&[interval(0, &[5, 700]), interval(0, &[12])]).unwrap();
        assert_eq!((sum.len(), sum.min(), sum.max()), (3, 5, 700));
    }

    #[test]
    fn what_two_processes_saw_in_the_same_second_is_one_interval() {
        let both = [(1, interval(1_000, &[5])), (2, interval(2_000, &[6])), (1, interval(1_001, &[7, 8]))];
        let merged = by_second(both);
        let counts: Vec<u64> = merged.values().map(|interval| interval.values().len()).collect();
        assert_eq!((counts, merged[&1].at), (vec![3, 1], Micros(1_000)));
    }

    #[test]
    fn what_is_no_log_is_refused() {
        for text in ["", "hello", "#comment only\n", "Tag=A,1,2,3,notbase64\n"] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
    }
}
