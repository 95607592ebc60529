//! A recorded load: when somebody published, read from a file and offered again with its own timing.
//!
//! In:  CSV with a head line, or JSON objects line by line; a column `time` (seconds) or `time_us`, perhaps `publisher`.
//! Out: the due times of each publisher of a run. Never: topics and payloads of the recording; sizes and names are the
//! scenario's, so that the referee can judge.
//! Invariant: times are ascending and count from the first line.

use std::path::{Path, PathBuf};

/// Which recording, and how fast.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// The file.
    pub file: PathBuf,
    /// 2 is twice as fast as it was.
    pub speed: f64,
}

/// A recording that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {why}")]
pub struct BadRecording {
    file: String,
    why: String,
}

/// Due times by publisher, in microseconds since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recording {
    by_publisher: Vec<Vec<u64>>,
}

impl Recording {
    /// Reads a recording for so many publishers. Lines without a `publisher` are dealt out in turn; a name that is met
    /// for the first time takes the next publisher, and begins again with the first when all are taken.
    pub(crate) fn load(replay: &Replay, publishers: u32) -> Result<Recording, BadRecording> {
        let failed = |why: String| BadRecording { file: replay.file.display().to_string(), why };
        let text = std::fs::read_to_string(&replay.file).map_err(|error| failed(error.to_string()))?;
        Recording::parse(&text, is_json(&replay.file), replay.speed, publishers).map_err(failed)
    }

    fn parse(text: &str, json: bool, speed: f64, publishers: u32) -> Result<Recording, String> {
        let mut lines = if json { json_lines(text)? } else { csv_lines(text)? };
        lines.sort_by(|a, b| a.secs.total_cmp(&b.secs));
        let Some(first) = lines.first().map(|line| line.secs) else {
            return Err("there is no line in it".to_owned());
        };
        let count = publishers.max(1) as usize;
        let mut by_publisher = vec![Vec::new(); count];
        let mut names: Vec<String> = Vec::new();
        for (index, line) in lines.into_iter().enumerate() {
            let place = match line.publisher {
                None => index,
                Some(name) => names.iter().position(|known| *known == name).unwrap_or_else(|| {
                    names.push(name);
                    names.len() - 1
                }),
            };
            by_publisher[place % count].push(((line.secs - first) / speed * 1e6) as u64);
        }
        Ok(Recording { by_publisher })
    }

    /// The due times of the publisher with this index.
    pub(crate) fn of(&self, index: u32) -> &[u64] {
        self.by_publisher.get(index as usize).map_or(&[], Vec::as_slice)
    }
}

struct Line {
    secs: f64,
    publisher: Option<String>,
}

fn is_json(file: &Path) -> bool {
    file.extension()
        .is_some_and(|extension| extension == "jsonl" || extension == "json" || extension == "ndjson")
}

fn csv_lines(text: &str) -> Result<Vec<Line>, String> {
    let mut rows = text.lines().map(|line| line.split(',').map(str::trim).collect::<Vec<_>>());
    let head = rows.next().ok_or("there is no line in it")?;
    let column = |name: &str| head.iter().position(|title| *title == name);
    let (time, factor) = match (column("time"), column("time_us")) {
        (Some(at), _) => (at, 1.0),
        (None, Some(at)) => (at, 1e-6),
        (None, None) => return Err("its first line names no column `time` or `time_us`".to_owned()),
    };
    let publisher = column("publisher");
    rows.enumerate()
        .filter(|(_, row)| row.iter().any(|cell| !cell.is_empty()))
        .map(|(index, row)| {
            let secs = row.get(time).and_then(|cell| seconds(cell, factor));
            let secs = secs.ok_or_else(|| format!("line {}: the time is not a number", index + 2))?;
            Ok(Line { secs, publisher: publisher.and_then(|at| row.get(at)).map(|&name| name.to_owned()) })
        })
        .collect()
}

fn json_lines(text: &str) -> Result<Vec<Line>, String> {
    let rows = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    rows.map(|(index, line)| {
        let failed = |why: &str| format!("line {}: {why}", index + 1);
        let row: serde_json::Value =
            serde_json::from_str(line).map_err(|error| failed(&error.to_string()))?;
        let micros = row["time_us"].as_f64().map(|micros| micros * 1e-6);
        let secs = row["time"].as_f64().or(micros).filter(|secs| secs.is_finite());
        let publisher = match &row["publisher"] {
            serde_json::Value::Null => None,
            serde_json::Value::String(name) => Some(name.clone()),
            other => Some(other.to_string()),
        };
        Ok(Line { secs: secs.ok_or_else(|| failed("no number at `time` or `time_us`"))?, publisher })
    })
    .collect()
}

fn seconds(cell: &str, factor: f64) -> Option<f64> {
    cell.parse().ok().map(|number: f64| number * factor).filter(|secs| secs.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_the_first_line_and_scale_with_the_speed() {
        let text = "time,topic,publisher\n100.0,a,x\n100.5,a,y\n100.25,b,x\n";
        let recording = Recording::parse(text, false, 2.0, 2).unwrap();
        assert_eq!((recording.of(0), recording.of(1)), (&[0, 125_000][..], &[250_000][..]));
        assert_eq!(recording.of(7), &[] as &[u64]);
    }

    #[test]
    fn without_names_lines_are_dealt_out_in_turn() {
        let text = "{\"time_us\": 5000}\n\n{\"time_us\": 6000}\n{\"time_us\": 8000}\n";
        let recording = Recording::parse(text, true, 1.0, 2).unwrap();
        assert_eq!((recording.of(0), recording.of(1)), (&[0, 3_000][..], &[1_000][..]));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let check = |text: &str, json, expected: &str| {
            let error = Recording::parse(text, json, 1.0, 1).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check("at\n1\n", false, "no column `time`");
        check("time\n1\nsoon\n", false, "line 3: the time is not a number");
        check("time\n", false, "there is no line");
        check("{\"time\": 1}\n{\"at\": 1}\n", true, "line 2: no number at `time`");
    }
}
