//! How much an uplink may ask of its link, and how long it waits for it: window, hours, watchdogs.
//!
//! Knows: the keys `uplink.NAME.*` that are about that. In: a judge. Out: values as used, and what an idle link costs.

use model::Priority;

use super::checked::{MqttVersion, Uplink};
use super::errors::ConfigError;
use super::hours::{self, Hours};
use super::judge::Judge;
use super::schema::{Allowed, Default, Key, integer, key};

pub(super) static WINDOW_MIN: Key = integer(
    "uplink.*.window_min",
    1,
    65_535,
    4,
    "Where the window stops shrinking, whatever the other end's throttling. Between it and `window` the window follows \
     round trip and rate of acknowledgements.",
);
pub(super) static CONNECT_TIMEOUT_SECS: Key = integer(
    "uplink.*.connect_timeout_secs",
    1,
    600,
    15,
    "How long each step of connecting may take: the name, TCP, the proxy, TLS, the answer to CONNECT.",
);
pub(super) static ACK_TIMEOUT_SECS: Key = integer(
    "uplink.*.ack_timeout_secs",
    0,
    86_400,
    60,
    "How long the other end may acknowledge nothing while messages are in flight, though it answers pings; then the \
     connection is made anew. 0 means for ever.",
);
pub(super) static HOURS: Key = key(
    "uplink.*.hours",
    Allowed::Fitting {
        takes: "spans of the day such as \"22:00-06:00 12:30-13:00\"",
        judge: |text| hours::parse_spans(text).map(drop),
    },
    Default::Derived("always"),
    "When a metered link may be used. Outside, messages wait, and the connection is closed; only `hours_always` opens it.",
);
pub(super) static HOURS_UTC_OFFSET: Key = key(
    "uplink.*.hours_utc_offset",
    Allowed::Fitting {
        takes: "an offset from UTC such as \"+01:00\" or \"Z\"",
        judge: |text| hours::parse_offset(text).map(drop),
    },
    Default::Text("Z"),
    "What the clock of `hours` is before UTC. It does not change in summer.",
);
pub(super) static HOURS_ALWAYS: Key = key(
    "uplink.*.hours_always",
    Allowed::Integer { min: 0, max: 9 },
    Default::Derived("none"),
    "Messages of this priority and of more urgent ones may go at any hour.",
);

/// How much an uplink may ask of its link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pacing {
    /// Where the window stops shrinking.
    pub window_min: u16,
    /// How long each step of connecting may take, seconds.
    pub connect_timeout_secs: u64,
    /// How long nothing in flight may be acknowledged, seconds; 0 for ever.
    pub ack_timeout_secs: u64,
    /// When the link may be used.
    pub hours: Hours,
    /// The least urgent priority that may go at any hour.
    pub hours_always: Option<Priority>,
}

impl Pacing {
    /// `None` if a value is refused; then an error says so. `window` is the largest window.
    pub(super) fn check(judge: &mut Judge<'_>, name: &str, window: u16) -> Option<Pacing> {
        let window_min = judge.integer(&WINDOW_MIN, name);
        if let Some(min) = window_min.filter(|min| *min > u64::from(window))
            && judge.is_written(&WINDOW_MIN, name)
        {
            judge.complain(&WINDOW_MIN, name, |error| ConfigError {
                problem: "is above the largest window".to_owned(),
                found: Some(min.to_string()),
                allowed: Some(format!("a whole number from 1 to {window}")),
                ..error
            });
        }
        let connect_timeout_secs = judge.integer(&CONNECT_TIMEOUT_SECS, name);
        let ack_timeout_secs = judge.integer(&ACK_TIMEOUT_SECS, name);
        let spans = judge.text(&HOURS, name);
        let offset = judge.text(&HOURS_UTC_OFFSET, name);
        let always = judge.integer(&HOURS_ALWAYS, name);
        if spans.is_none() && !judge.is_written(&HOURS, name) {
            for key in [&HOURS_UTC_OFFSET, &HOURS_ALWAYS]
                .into_iter()
                .filter(|key| judge.is_written(key, name))
                .collect::<Vec<_>>()
            {
                judge.complain(key, name, |error| ConfigError {
                    problem: "is about hours, which are not set".to_owned(),
                    hint: Some("add hours = \"22:00-06:00\"".to_owned()),
                    ..error
                });
            }
        }
        let spans = spans.map_or(Some(Vec::new()), |text| hours::parse_spans(&text).ok())?;
        let offset = hours::parse_offset(&offset?).ok()?;
        Some(Pacing {
            window_min: window_min?.min(u64::from(window)) as u16,
            connect_timeout_secs: connect_timeout_secs?,
            ack_timeout_secs: ack_timeout_secs?,
            hours: Hours::new(spans, offset),
            hours_always: always.and_then(|number| Priority::new(number as i64).ok()),
        })
    }
}

/// Bytes of an IPv4 packet besides its payload: IP, TCP with timestamps.
const PACKET_BYTES: u64 = 20 + 32;
/// What TLS 1.3 adds to a record: its head, its kind, its tag.
const RECORD_BYTES: u64 = 5 + 1 + 16;
/// What WebSocket adds to a frame, and to one of ours besides: a head and a mask (RFC 6455 §5.2).
const FRAME_BYTES: u64 = 2;
const MASK_BYTES: u64 = 4;
/// Packets of a connection that is opened and closed again.
const LOOK_PACKETS: u64 = 7;
/// About what a handshake of TLS 1.3 takes, with a chain of two certificates.
const TLS_BYTES: u64 = 5_000;

impl Uplink {
    /// Bytes on the wire that the idle connection costs in an hour, both ways: PINGREQ, PINGRESP and the acknowledgement of
    /// TCP, every half `keep_alive_secs`. Nothing else is sent: without keep-alive nothing at all.
    pub fn idle_bytes_per_hour(&self) -> u64 {
        if self.keep_alive_secs == 0 {
            return 0;
        }
        let record = if self.transport.tls.is_some() { RECORD_BYTES } else { 0 };
        let frames = if self.transport.websocket.is_some() { 2 * FRAME_BYTES + MASK_BYTES } else { 0 };
        let ping = 2 * (PACKET_BYTES + record + 2) + frames + PACKET_BYTES;
        // The period is looked at four times a second.
        3_600_000 / (u64::from(self.keep_alive_secs) * 500) * ping
    }

    /// Looks at the first address in an hour while another one is in use, and about how many bytes all of them take on the
    /// wire, both ways; none without another address or a way back.
    pub fn looks_per_hour(&self) -> Option<(u64, u64)> {
        let every = self.failover.return_secs;
        if self.failover.transports.is_empty() || every == 0 {
            return None;
        }
        let looks = 3_600_u64.div_ceil(every);
        let tls = if self.transport.tls.is_some() { TLS_BYTES } else { 0 };
        Some((looks, looks * (LOOK_PACKETS * PACKET_BYTES + tls)))
    }

    /// Whether properties travel to the other end.
    pub fn has_properties(&self) -> bool {
        self.version == MqttVersion::V5
    }
}
