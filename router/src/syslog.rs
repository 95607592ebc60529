//! Log lines as edgeHub writes them: syslog's severity in front, by which IoT Edge filters log pulls.
//!
//! In: an event of tracing. Out: `<6> 2027-01-31 08:00:00.000 +00:00 [INF] - message key=value`; for debug and below, the
//! part of the program stands in brackets before the dash. One line for one event: what could break it is escaped.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The shape of a line.
pub(crate) struct Syslog;

impl<S, N> FormatEvent<S, N> for Syslog
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let level = *event.metadata().level();
        let (severity, word) = words(level);
        write!(out, "<{severity}> {} [{word}] ", date(millis))?;
        if level >= Level::DEBUG {
            write!(out, "[{}] ", event.metadata().target())?;
        }
        out.write_str("- ")?;
        let mut fields = String::new();
        context.field_format().format_fields(Writer::new(&mut fields), event)?;
        for character in fields.chars() {
            match character {
                '\n' => out.write_str("\\n")?,
                '\r' => out.write_str("\\r")?,
                other => out.write_char(other)?,
            }
        }
        out.write_char('\n')
    }
}

/// Syslog's severity, and edgeHub's word.
fn words(level: Level) -> (u8, &'static str) {
    match level {
        Level::ERROR => (3, "ERR"),
        Level::WARN => (4, "WRN"),
        Level::INFO => (6, "INF"),
        Level::DEBUG => (7, "DBG"),
        Level::TRACE => (7, "VRB"),
    }
}

/// Milliseconds since 1970 as edgeHub writes them.
fn date(millis: u128) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(millis as i128 * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03} +00:00",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.millisecond()
    )
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panics").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_begin_with_the_severity_and_stay_one_line() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .with_ansi(false)
            .event_format(Syslog)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(clients = 3, "two\nlines");
            tracing::error!("bad");
            tracing::debug!("detail");
        });
        let text = String::from_utf8(lines.0.lock().expect("nobody panics").clone()).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(
            lines[0].starts_with("<6> 2") && lines[0].ends_with(" +00:00 [INF] - two\\nlines clients=3"),
            "{text}"
        );
        assert!(lines[1].starts_with("<3> ") && lines[1].ends_with(" [ERR] - bad"), "{text}");
        assert!(
            lines[2].starts_with("<7> ") && lines[2].ends_with(" [DBG] [millrace::syslog::tests] - detail"),
            "{text}"
        );
    }

    #[test]
    fn dates_have_all_their_digits() {
        assert_eq!(date(0), "1970-01-01 00:00:00.000 +00:00");
        assert_eq!(date(1_767_319_445_007), "2026-01-02 02:04:05.007 +00:00");
    }
}
