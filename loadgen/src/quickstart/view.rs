//! What the conductor shows: a picture that is drawn in place, or one line a second where there is no terminal.
//!
//! In:  a [`Snapshot`]. Out: text. The drawing itself is at the end of the file and restores the terminal whatever
//! happens, a panic included. Never: decisions.

use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::{cursor, queue, terminal};
use tokio::sync::mpsc;

use super::status::Status;
use crate::report::{Second, thousands};
use crate::wan::Line;

/// Seconds of backlog that the picture remembers.
const HISTORY_SECS: usize = 60;

/// Everything that is shown.
pub(super) struct Snapshot {
    pub(super) second: Second,
    pub(super) line: Line,
    pub(super) status: Result<Status, String>,
    pub(super) gateway: SocketAddr,
    pub(super) plant: SocketAddr,
    pub(super) devices: u32,
    /// Set while the fleet is silent and the backlog drains: how much longer we wait.
    pub(super) draining: Option<Duration>,
    pub(super) backlogs: VecDeque<u64>,
}

/// Remembers a backlog for the picture.
pub(super) fn remember(backlogs: &mut VecDeque<u64>, backlog: u64) {
    if backlogs.len() == HISTORY_SECS {
        backlogs.pop_front();
    }
    backlogs.push_back(backlog);
}

/// One line, for logs and CI.
pub(super) fn one_line(snapshot: &Snapshot) -> String {
    let Snapshot { second, line, .. } = snapshot;
    let mut text = format!(
        "t={:.0} wan={line} sent={} acked={} arrived={} on_the_way={} sent_per_sec={} arrived_per_sec={}",
        second.at_secs,
        second.sent,
        second.acked,
        second.arrived_first,
        second.missing,
        second.sent_per_sec,
        second.arrived_per_sec
    );
    match &snapshot.status {
        Ok(status) => {
            for uplink in &status.uplinks {
                text += &format!(" uplink={} inflight={}", word(&uplink.state), uplink.inflight);
            }
            let backlog: u64 = status.lanes.iter().map(|lane| lane.backlog).sum();
            let oldest = status.lanes.iter().filter_map(|lane| lane.oldest_ms).max().unwrap_or(0);
            let disk = status.store.bytes_on_disk;
            text += &format!(" lanes_backlog={backlog} oldest_ms={oldest} disk_bytes={disk}");
        }
        Err(error) => text += &format!(" status=\"{error}\""),
    }
    if let Some(left) = snapshot.draining {
        text += &format!(" draining={}s", left.as_secs());
    }
    text
}

/// The picture, line by line; no line is wider than `width`.
pub(super) fn picture(snapshot: &Snapshot, width: usize) -> Vec<String> {
    let Snapshot { second, line, gateway, plant, devices, .. } = snapshot;
    let count = |number: u64| thousands(number as f64);
    let row = |name: &str, what: String| format!(" {name:<9}{what}");
    let mut lines = vec![
        format!(" millrace quickstart · {}", clock(second.at_secs)),
        String::new(),
        row("fleet", format!("{devices} devices → {gateway}")),
        row("sent", format!("{:>12}  {:>7} /s", count(second.sent), count(second.sent_per_sec))),
        row("acked", format!("{:>12}  {:>7} /s", count(second.acked), count(second.acked_per_sec))),
        String::new(),
    ];
    match &snapshot.status {
        Ok(status) => gateway_lines(status, &mut lines),
        Err(error) => lines.push(row("gateway", error.clone())),
    }
    let wan = match line {
        Line::Up => "up",
        Line::Down => "DOWN: reset and refused",
        Line::Blackhole => "BLACKHOLE: open and silent",
    };
    lines.extend([
        String::new(),
        row("WAN", wan.to_owned()),
        row(
            "arrived",
            format!(
                "{:>12}  {:>7} /s   at {plant}",
                count(second.arrived_first),
                count(second.arrived_per_sec)
            ),
        ),
        row("on way", format!("{:>12}  {}", count(second.missing), bars(&snapshot.backlogs))),
        String::new(),
    ]);
    lines.push(match snapshot.draining {
        Some(left) => {
            format!(" the fleet is silent; waiting up to {} s for the rest · q gives up", left.as_secs())
        }
        None => " w cut or restore the WAN · b blackhole · q stop and reconcile".to_owned(),
    });
    lines.iter().map(|line| line.chars().take(width).collect()).collect()
}

fn gateway_lines(status: &Status, lines: &mut Vec<String>) {
    let row = |name: &str, what: String| format!(" {name:<9}{what}");
    let counts = format!(
        "{} clients, {} received, {} delivered locally",
        status.clients,
        thousands(status.received as f64),
        thousands(status.delivered as f64)
    );
    lines.push(row("gateway", counts));
    for uplink in &status.uplinks {
        let mut text = format!(
            "{}: {}, {} in flight, {} forwarded, {} reconnects",
            uplink.name,
            word(&uplink.state),
            uplink.inflight,
            thousands(uplink.forwarded as f64),
            uplink.reconnects
        );
        if let Some(error) = uplink.last_error.as_ref().filter(|error| !error.is_empty()) {
            text += &format!(" · {error}");
        }
        lines.push(row("uplink", text));
    }
    for lane in &status.lanes {
        let oldest =
            lane.oldest_ms.map_or_else(|| "-".to_owned(), |millis| format!("{:.1} s", millis as f64 / 1e3));
        let backlog = thousands(lane.backlog as f64);
        lines.push(row(
            "lane",
            format!("{}: {backlog} waiting, {}, oldest {oldest}", lane.name, bytes(lane.backlog_bytes)),
        ));
    }
    let lag = status.store.durable_ticket_lag;
    let lag = if lag > 0 { format!(", {lag} not yet synced") } else { String::new() };
    lines.push(row(
        "disk",
        format!("{}, {}{lag}", bytes(status.store.bytes_on_disk), word(&status.store.state)),
    ));
}

/// The backlog of the last minute, newest at the right.
fn bars(backlogs: &VecDeque<u64>) -> String {
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let top = backlogs.iter().copied().max().unwrap_or(0).max(1);
    backlogs.iter().map(|&backlog| STEPS[(backlog * 7).div_ceil(top) as usize]).collect()
}

fn bytes(number: u64) -> String {
    match number {
        0..1_024 => format!("{number} B"),
        1_024..1_048_576 => format!("{:.1} KiB", number as f64 / 1_024.0),
        _ => format!("{:.1} MiB", number as f64 / 1_048_576.0),
    }
}

fn clock(seconds: f64) -> String {
    let seconds = seconds as u64;
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}

fn word(text: &str) -> &str {
    if text.is_empty() { "unknown" } else { text }
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Wan,
    Blackhole,
    Quit,
}

fn meaning(event: &Event) -> Option<Key> {
    let Event::Key(key) = event else { return None };
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        // In raw mode Ctrl-C is a key and no signal.
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
        KeyCode::Char('w') => Some(Key::Wan),
        KeyCode::Char('b') => Some(Key::Blackhole),
        _ => None,
    }
}

/// The terminal while we own it: no echo, no cursor, keys one by one. Dropping it gives it back.
pub(super) struct Terminal {
    lines_drawn: u16,
    stop: Arc<AtomicBool>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Terminal {
    /// Takes the terminal; keys come out of the receiver.
    pub(super) fn take() -> std::io::Result<(Terminal, mpsc::Receiver<Key>)> {
        terminal::enable_raw_mode()?;
        let stop = Arc::new(AtomicBool::new(false));
        // From here on dropping gives the terminal back, also if the rest of this function fails.
        let mut taken = Terminal { lines_drawn: 0, stop: stop.clone(), reader: None };
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        queue!(std::io::stdout(), cursor::Hide)?;
        let (sender, keys) = mpsc::channel(16);
        taken.reader = Some(std::thread::Builder::new().name("keys".to_owned()).spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match crossterm::event::poll(Duration::from_millis(100)) {
                    Ok(false) => {}
                    Ok(true) => {
                        let key = crossterm::event::read().ok().as_ref().and_then(meaning);
                        if let Some(key) = key {
                            // A full queue means that sixteen keys wait already; one more says nothing new.
                            sender.try_send(key).ok();
                        }
                    }
                    // The terminal is gone; signals still work.
                    Err(_) => return,
                }
            }
        })?);
        Ok((taken, keys))
    }

    /// The width that a picture may have.
    pub(super) fn width() -> usize {
        terminal::size().map_or(80, |(columns, _)| usize::from(columns))
    }

    /// Draws over what was drawn before.
    pub(super) fn draw(&mut self, lines: &[String]) -> std::io::Result<()> {
        let height = terminal::size().map_or(24, |(_, rows)| rows).saturating_sub(1);
        let mut out = std::io::stdout().lock();
        if self.lines_drawn > 0 {
            queue!(out, cursor::MoveUp(self.lines_drawn))?;
        }
        queue!(out, cursor::MoveToColumn(0), terminal::Clear(terminal::ClearType::FromCursorDown))?;
        self.lines_drawn = 0;
        for line in lines.iter().take(usize::from(height)) {
            write!(out, "{line}\r\n")?;
            self.lines_drawn += 1;
        }
        out.flush()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            // It looks ten times a second whether it shall end.
            reader.join().ok();
        }
        give_back();
    }
}

/// Restores the terminal. Safe to call twice; what fails cannot be helped.
fn give_back() {
    terminal::disable_raw_mode().ok();
    crossterm::execute!(std::io::stdout(), cursor::Show).ok();
}

#[cfg(test)]
mod tests {
    use crossterm::event::KeyEvent;

    use super::super::status::{Lane, Store, Uplink};
    use super::*;

    fn snapshot(status: Result<Status, String>) -> Snapshot {
        Snapshot {
            second: Second {
                at_secs: 61.2,
                sent_per_sec: 200,
                acked_per_sec: 199,
                arrived_per_sec: 0,
                sent: 12_345,
                acked: 12_344,
                arrived: 12_001,
                arrived_first: 12_000,
                missing: 345,
                connections: 21,
                ..Second::default()
            },
            line: Line::Down,
            status,
            gateway: "127.0.0.1:1883".parse().unwrap(),
            plant: "127.0.0.1:40000".parse().unwrap(),
            devices: 20,
            draining: None,
            backlogs: [0, 100, 345].into(),
        }
    }

    fn status() -> Status {
        Status {
            uplinks: vec![Uplink { name: "plant".into(), state: "waiting".into(), ..Uplink::default() }],
            lanes: vec![Lane {
                name: "plant".into(),
                backlog: 340,
                oldest_ms: Some(1_700),
                backlog_bytes: 70_000,
            }],
            store: Store { bytes_on_disk: 2 << 20, ..Store::default() },
            ..Status::default()
        }
    }

    #[test]
    fn a_line_tells_what_the_picture_tells() {
        let line = one_line(&snapshot(Ok(status())));
        assert_eq!(
            line,
            "t=61 wan=down sent=12345 acked=12344 arrived=12000 on_the_way=345 sent_per_sec=200 arrived_per_sec=0 \
             uplink=waiting inflight=0 lanes_backlog=340 oldest_ms=1700 disk_bytes=2097152"
        );
        let picture = picture(&snapshot(Ok(status())), 200).join("\n");
        for part in
            ["01:01", "12 345", "DOWN", "plant: 340 waiting, 68.4 KiB, oldest 1.7 s", "2.0 MiB", "▁▄█"]
        {
            assert!(picture.contains(part), "{part} is missing in\n{picture}");
        }
    }

    #[test]
    fn a_gateway_that_does_not_answer_is_shown_as_such() {
        let silent = snapshot(Err("no answer from http://127.0.0.1:1".to_owned()));
        assert!(one_line(&silent).ends_with("status=\"no answer from http://127.0.0.1:1\""));
        assert!(picture(&silent, 80).iter().any(|line| line.contains("no answer")));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        assert!(picture(&snapshot(Ok(status())), 30).iter().all(|line| line.chars().count() <= 30));
    }

    #[test]
    fn keys_mean_what_the_picture_says() {
        let key = |code, modifiers| meaning(&Event::Key(KeyEvent::new(code, modifiers)));
        assert_eq!(key(KeyCode::Char('w'), KeyModifiers::NONE), Some(Key::Wan));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Quit));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::NONE), None);
    }
}
