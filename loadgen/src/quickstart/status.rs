//! Asks a Millrace for its `/status`, by hand: one GET over HTTP/1.0, one JSON answer.
//!
//! In:  an address. Out: a [`Status`] in which what is missing is zero: the view must not depend on a version.
//! Never: waits longer than a view is fresh.

use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer that takes longer is worth nothing to a view that is drawn every second.
const PATIENCE: Duration = Duration::from_millis(800);

/// Largest answer read.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// What a router says of itself.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) clients: u64,
    pub(crate) received: u64,
    pub(crate) delivered: u64,
    pub(crate) uplinks: Vec<Uplink>,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) store: Store,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Uplink {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) inflight: u64,
    pub(crate) forwarded: u64,
    pub(crate) reconnects: u64,
    pub(crate) last_error: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Lane {
    pub(crate) name: String,
    pub(crate) backlog: u64,
    pub(crate) backlog_bytes: u64,
    pub(crate) oldest_ms: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Store {
    pub(crate) bytes_on_disk: u64,
    pub(crate) durable_ticket_lag: u64,
    pub(crate) state: String,
}

/// Asks once. The error is a sentence for the view.
pub(crate) async fn fetch(address: &str) -> Result<Status, String> {
    match tokio::time::timeout(PATIENCE, get(address)).await {
        Ok(answer) => parse(&answer.map_err(|error| format!("no answer from http://{address}: {error}"))?),
        Err(_) => Err(format!("http://{address} did not answer within {} ms", PATIENCE.as_millis())),
    }
}

async fn get(address: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    // HTTP/1.0: the answer ends with the connection and is never in chunks.
    let request = format!("GET /status HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn parse(answer: &[u8]) -> Result<Status, String> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or("the answer is not HTTP")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let line = head.lines().next().unwrap_or_default();
    if line.split(' ').nth(1) != Some("200") {
        return Err(format!("/status was answered with `{line}`"));
    }
    serde_json::from_slice(&answer[end + 4..]).map_err(|error| format!("/status is not as expected: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_read_and_what_is_not_is_zero() {
        let answer = b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n\
            {\"received\": 7, \"later\": [], \"lanes\": [{\"name\": \"plant\", \"backlog\": 3}], \
             \"uplinks\": [{\"state\": \"up\", \"last_error\": null}]}";
        let status = parse(answer).unwrap();
        assert_eq!((status.received, status.clients, status.lanes[0].backlog), (7, 0, 3));
        assert_eq!((status.lanes[0].oldest_ms, status.uplinks[0].state.as_str()), (None, "up"));
    }

    #[test]
    fn an_answer_that_is_no_status_is_told_in_a_sentence() {
        assert_eq!(
            parse(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap_err(),
            "/status was answered with `HTTP/1.1 404 Not Found`"
        );
        assert!(parse(b"hello").unwrap_err().contains("not HTTP"));
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n7").unwrap_err().contains("not as expected"));
    }
}
