//! Direct methods: calls, answers, and which answer belongs to which call (`reference/edgehub.md` §2.8, §10.1).
//!
//! May use: JSON, `model`'s time. In: bodies, answers, time. Out: calls, outcomes with their status.
//! Bound: `calls_max` of [`Calls`], given by the caller; [`NAME_CHARS_MAX`], [`PAYLOAD_BYTES_MAX`].

use std::collections::BTreeMap;

use model::Instant;
use serde::Deserialize;
use serde_json::Value;

/// Longest name of a method, in characters.
pub const NAME_CHARS_MAX: usize = 100;
/// Largest payload of a call, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 131_072;
/// Seconds to wait for an answer, at least and at most, and if the caller does not say.
pub const RESPONSE_SECS: (u64, u64, u64) = (5, 300, 30);
/// Seconds to wait for the client to be there, at most; 0 if the caller does not say.
pub const CONNECT_SECS_MAX: u64 = 300;
/// How long the cloud waits, in seconds (§9.6).
pub const CLOUD_RESPONSE_SECS: u64 = 330;
/// What stands for a status that is no number.
pub const STATUS_UNREADABLE: i64 = 400_000;

/// A call of a method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The method.
    pub name: String,
    /// JSON, compact; `null` if there is none.
    pub payload: String,
    /// How long to wait for the answer.
    pub response_millis: u64,
    /// How long to wait for the client to be there and to take methods.
    pub connect_millis: u64,
}

/// Why a body is no call: 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Not JSON, or a field of another type.
    #[error("the body is not a method call: {0}")]
    Json(String),
    /// Blank or over [`NAME_CHARS_MAX`].
    #[error("methodName: 1 to {NAME_CHARS_MAX} characters without '/', '+', '#' and control characters")]
    Name,
    /// Out of [`RESPONSE_SECS`].
    #[error("responseTimeoutInSeconds: {0} is not 5 to 300")]
    ResponseTimeout(i64),
    /// Over [`CONNECT_SECS_MAX`].
    #[error("connectTimeoutInSeconds: {0} is not 0 to 300")]
    ConnectTimeout(i64),
    /// Over [`PAYLOAD_BYTES_MAX`].
    #[error("payload: {0} bytes; {PAYLOAD_BYTES_MAX} is the most")]
    Payload(usize),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    method_name: Option<String>,
    payload: Option<Value>,
    response_timeout_in_seconds: Option<i64>,
    connect_timeout_in_seconds: Option<i64>,
}

impl Call {
    /// Reads the body of `POST /twins/…/methods`. Names of fields are taken as the SDKs write them.
    pub fn parse(body: &[u8]) -> Result<Call, CallError> {
        let body: Body = serde_json::from_slice(body).map_err(|error| CallError::Json(error.to_string()))?;
        let name = body.method_name.filter(|name| is_name(name)).ok_or(CallError::Name)?;
        let (least, most, usual) = RESPONSE_SECS;
        let response = seconds(body.response_timeout_in_seconds, usual, least..=most);
        let connect = seconds(body.connect_timeout_in_seconds, 0, 0..=CONNECT_SECS_MAX);
        let payload = body.payload.map_or_else(|| "null".to_owned(), |payload| payload.to_string());
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(CallError::Payload(payload.len()));
        }
        Ok(Call {
            name,
            payload,
            response_millis: response.map_err(CallError::ResponseTimeout)? * 1_000,
            connect_millis: connect.map_err(CallError::ConnectTimeout)? * 1_000,
        })
    }

    /// A call from the cloud: its payload is what came.
    pub fn from_cloud(name: &str, payload: &[u8]) -> Result<Call, CallError> {
        if !is_name(name) {
            return Err(CallError::Name);
        }
        let payload = std::str::from_utf8(payload).map_err(|error| CallError::Json(error.to_string()))?;
        let response_millis = CLOUD_RESPONSE_SECS * 1_000;
        Ok(Call { name: name.to_owned(), payload: payload.to_owned(), response_millis, connect_millis: 0 })
    }
}

/// A name that fits into one level of a topic.
fn is_name(name: &str) -> bool {
    let chars = name.chars().count();
    (1..=NAME_CHARS_MAX).contains(&chars)
        && !name.trim().is_empty()
        && !name.contains(|at: char| matches!(at, '/' | '+' | '#') || at.is_control())
}

fn seconds(given: Option<i64>, usual: u64, legal: std::ops::RangeInclusive<u64>) -> Result<u64, i64> {
    let Some(given) = given else { return Ok(usual) };
    u64::try_from(given).ok().filter(|secs| legal.contains(secs)).ok_or(given)
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client answered.
    Answered {
        /// Its own.
        status: i64,
        /// JSON, or nothing.
        payload: Vec<u8>,
    },
    /// The client is not connected or takes no methods.
    NotFound,
    /// It did not answer in time.
    TimedOut,
    /// So many calls wait that this one cannot.
    Busy,
}

impl Outcome {
    /// Reads a client's answer: the status of its topic, its payload.
    pub fn of_answer(status: &str, payload: &[u8]) -> Outcome {
        match status.parse() {
            Ok(status) => Outcome::Answered { status, payload: payload.to_vec() },
            Err(_) => Outcome::Answered { status: STATUS_UNREADABLE, payload: Vec::new() },
        }
    }

    /// Status and body for a caller over HTTP; `target` is named in the message.
    pub fn to_http(&self, target: &str) -> (u16, Vec<u8>) {
        let message = |text: String| serde_json::json!({ "message": text }).to_string().into_bytes();
        match self {
            Outcome::Answered { status, payload } => {
                let payload = if payload.is_empty() { Value::Null } else { json_or_text(payload) };
                (200, serde_json::json!({ "status": status, "payload": payload }).to_string().into_bytes())
            }
            Outcome::NotFound => (404, message(format!("Client {target} not found"))),
            Outcome::TimedOut => (504, message(format!("Client {target} did not answer in time"))),
            Outcome::Busy => (429, message("Too many method calls are waiting".to_owned())),
        }
    }

    /// Status and payload for the cloud, which takes them as the client's answer.
    pub fn to_cloud(&self) -> (i64, Vec<u8>) {
        match self {
            Outcome::Answered { status, payload } => (*status, payload.clone()),
            Outcome::NotFound => (404, Vec::new()),
            Outcome::TimedOut => (504, Vec::new()),
            Outcome::Busy => (429, Vec::new()),
        }
    }
}

/// A payload that is no JSON is given back as a string, so that the caller gets a document all the same.
fn json_or_text(payload: &[u8]) -> Value {
    serde_json::from_slice(payload)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(payload).into_owned()))
}

/// Calls that wait for their answers, by request id; `W` is who waits.
#[derive(Debug)]
pub struct Calls<W> {
    calls_max: usize,
    /// Whom it was sent to, when it is over, who waits.
    waiting: BTreeMap<Box<str>, (Box<str>, Instant, W)>,
}

impl<W> Calls<W> {
    /// None yet.
    pub fn new(calls_max: usize) -> Calls<W> {
        Calls { calls_max, waiting: BTreeMap::new() }
    }

    /// Notes a call that is sent to `client` with this request id. Gives `who` back if there is no room, or if the id is
    /// in use.
    pub fn begin(&mut self, rid: &str, client: &str, ends: Instant, who: W) -> Result<(), W> {
        if self.waiting.len() >= self.calls_max || self.waiting.contains_key(rid) {
            return Err(who);
        }
        self.waiting.insert(rid.into(), (client.into(), ends, who));
        Ok(())
    }

    /// `client` answers. `None`: it was not asked, or too late. Another client's call is not touched.
    pub fn answer(&mut self, rid: &str, client: &str) -> Option<W> {
        self.waiting.get(rid).filter(|(asked, _, _)| **asked == *client)?;
        self.waiting.remove(rid).map(|(_, _, who)| who)
    }

    /// A call could not be sent to its client.
    pub fn take_back(&mut self, rid: &str) -> Option<W> {
        self.waiting.remove(rid).map(|(_, _, who)| who)
    }

    /// Takes out those whose time is over.
    pub fn expire(&mut self, now: Instant) -> Vec<W> {
        self.take(|_, ends| ends <= now)
    }

    /// Takes out those that were sent to a client that is gone.
    pub fn abandon(&mut self, client: &str) -> Vec<W> {
        self.take(|asked, _| asked == client)
    }

    fn take(&mut self, mut which: impl FnMut(&str, Instant) -> bool) -> Vec<W> {
        let rids: Vec<Box<str>> = self
            .waiting
            .iter()
            .filter(|(_, (asked, ends, _))| which(asked, *ends))
            .map(|(rid, _)| rid.clone())
            .collect();
        rids.iter().filter_map(|rid| self.waiting.remove(rid)).map(|(_, _, who)| who).collect()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests;
