//! Conversations in bytes, as text: who sends what, what must come back, byte for byte.
//!
//! ```text
//! == a title [MQTT-3.12.4-1]         connections end, a new conversation begins; a connection opens with its first line
//! one > C0 00                        the connection `one` sends these bytes (`notation.rs`)
//! one < D0 00                        the next packet it gets is this
//! one closed                         the server has closed it
//! one cuts                           it goes away without a word
//! wait 500                           milliseconds
//! kill                               SIGKILL, and a start on the same store
//! restart                            SIGTERM, and a start on the same store
//! set limits.receive_max = 3         a key of the configuration, before the first title
//! ```
//! In: a script, a router. Out: nothing, or a panic that names the line. Always: what a connection got and no line asked
//! for fails the script where it ends.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::notation::{Atom, bytes, hex, matches, parse};
use crate::router::{Router, Setup};
use crate::wait::PATIENCE;

/// A line of a script.
#[derive(Debug)]
enum Step {
    Title(String),
    Send(String, Vec<u8>),
    Expect(String, Vec<Atom>),
    Closed(String),
    Cut(String),
    Wait(Duration),
    Kill,
    Restart,
}

/// A script that has been read.
#[derive(Debug)]
pub struct Script {
    name: String,
    settings: Vec<(String, String)>,
    steps: Vec<(usize, Step)>,
}

impl Script {
    /// Reads a script; panics with the line that cannot be read.
    #[track_caller]
    pub fn parse(name: &str, text: &str) -> Script {
        let mut script = Script { name: name.to_owned(), settings: Vec::new(), steps: Vec::new() };
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some((key, value)) = line.strip_prefix("set ").and_then(|rest| rest.split_once('=')) {
                script.settings.push((key.trim().to_owned(), value.trim().to_owned()));
                continue;
            }
            let step = step(line).unwrap_or_else(|fault| panic!("{name}:{}: {fault}", at + 1));
            script.steps.push((at + 1, step));
        }
        script
    }

    /// Plays it against a router of its own with this many shards.
    #[track_caller]
    pub fn play(&self, shards: usize) {
        let setup = self.settings.iter().fold(Setup::new(), |setup, (key, value)| setup.set(key, value));
        let mut router = setup.shards(shards).start();
        let mut stage = Stage { talks: BTreeMap::new(), place: String::new() };
        let mut title = "";
        for (line, step) in &self.steps {
            stage.place = format!("{}:{line} ({title}, {shards} shards)", self.name);
            if let Step::Title(text) = step {
                title = text;
            }
            stage.play(step, &mut router);
        }
        stage.end();
        assert_eq!(router.number("/counters/bugs"), 0, "{}", self.name);
    }
}

fn step(line: &str) -> Result<Step, String> {
    if let Some(title) = line.strip_prefix("==") {
        return Ok(Step::Title(title.trim().to_owned()));
    }
    let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
    let (rest, who) = (rest.trim(), first.to_owned());
    if let Some(text) = rest.strip_prefix('>') {
        return Ok(Step::Send(who, bytes(text)?));
    }
    if let Some(text) = rest.strip_prefix('<') {
        return Ok(Step::Expect(who, parse(text)?));
    }
    match (first, rest) {
        ("wait", millis) => {
            let millis = millis.parse().map_err(|_| format!("{millis:?} is no number"))?;
            Ok(Step::Wait(Duration::from_millis(millis)))
        }
        ("kill", "") => Ok(Step::Kill),
        ("restart", "") => Ok(Step::Restart),
        (_, "closed") => Ok(Step::Closed(who)),
        (_, "cuts") => Ok(Step::Cut(who)),
        _ => Err(format!("{line:?} is no step")),
    }
}

/// The connections of a script while it is played.
struct Stage {
    talks: BTreeMap<String, Talk>,
    place: String,
}

impl Stage {
    #[track_caller]
    fn play(&mut self, step: &Step, router: &mut Router) {
        match step {
            Step::Title(_) => self.end(),
            Step::Send(who, bytes) => {
                let place = &self.place;
                let talk = self.talks.entry(who.clone()).or_insert_with(|| Talk::open(router.address()));
                talk.send(bytes).unwrap_or_else(|error| panic!("{place}: {error}"));
            }
            Step::Expect(who, expected) => {
                let place = &self.place;
                let talk = self.talks.get_mut(who).unwrap_or_else(|| panic!("{place}: no connection {who}"));
                let packet = talk.packet().unwrap_or_else(|what| panic!("{place}: {what}"));
                assert!(matches(expected, &packet), "{place}: {who} got {}", hex(&packet));
            }
            Step::Closed(who) => {
                let place = &self.place;
                let mut talk =
                    self.talks.remove(who).unwrap_or_else(|| panic!("{place}: no connection {who}"));
                let rest = talk.rest().unwrap_or_else(|| panic!("{place}: {who} is not closed"));
                assert!(rest.is_empty(), "{place}: before its end {who} got {}", hex(&rest));
            }
            Step::Cut(who) => drop(self.talks.remove(who)),
            Step::Wait(time) => std::thread::sleep(*time),
            Step::Kill => {
                self.talks.clear();
                router.kill();
                router.start_again();
            }
            Step::Restart => {
                self.talks.clear();
                router.terminate();
                router.start_again();
            }
        }
    }

    /// All connections end; nothing may have come that nobody asked for.
    #[track_caller]
    fn end(&mut self) {
        let place = &self.place;
        // What another shard still has on its way to somebody here.
        std::thread::sleep(Duration::from_millis(30));
        for (who, mut talk) in std::mem::take(&mut self.talks) {
            // A PINGREQ that is answered: all that the server had to say is here.
            let unread = match talk.send(&[0xC0, 0]) {
                Ok(()) => talk.packet().unwrap_or_default(),
                Err(_) => Vec::new(),
            };
            let fine = unread.is_empty() || unread == [0xD0, 0];
            assert!(fine, "{place}: {who} got {} as well", hex(&unread));
        }
    }
}

/// One connection, in bytes.
#[derive(Debug)]
pub struct Talk {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Talk {
    /// Connects.
    #[track_caller]
    pub fn open(address: SocketAddr) -> Talk {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the router accepts");
        stream.set_nodelay(true).expect("a socket can be set up");
        stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket can be set up");
        Talk { stream, unread: Vec::new() }
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The bytes of the next packet, or why there is none.
    pub fn packet(&mut self) -> Result<Vec<u8>, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(Some(frame)) = wire::split(&self.unread, u32::MAX) {
                let len = frame.total_len();
                return Ok(self.unread.drain(..len).collect());
            }
            match self.fill() {
                Some(true) => {}
                Some(false) => return Err(format!("the connection ended; unread: {}", hex(&self.unread))),
                None if Instant::now() < deadline => {}
                None => return Err(format!("nothing came; unread: {}", hex(&self.unread))),
            }
        }
    }

    /// Everything that comes until the server closes; `None` if it does not.
    pub fn rest(&mut self) -> Option<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        while self.fill() != Some(false) {
            if Instant::now() >= deadline {
                return None;
            }
        }
        Some(std::mem::take(&mut self.unread))
    }

    /// Reads once: whether the connection lives; `None` if nothing came for a moment.
    fn fill(&mut self) -> Option<bool> {
        let mut buffer = [0; 4_096];
        match self.stream.read(&mut buffer) {
            Ok(0) => Some(false),
            Ok(len) => {
                self.unread.extend_from_slice(&buffer[..len]);
                Some(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(_) => Some(false),
        }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // Whether the socket still lives or not: it is gone afterwards.
        self.stream.shutdown(Shutdown::Both).ok();
    }
}
