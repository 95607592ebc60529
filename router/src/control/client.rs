//! Asks a running router through its control socket.
//!
//! In: a path in the store, a method, a path of a request. Out: JSON, or one sentence. Never: retries.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

/// A retry of a whole poison lane is written in groups, and a disk may be slow.
const TIMEOUT: Duration = Duration::from_secs(60);
/// No honest answer is longer.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Connects; `None` if no router answers there.
pub(super) fn connect(socket: &Path) -> anyhow::Result<Option<UnixStream>> {
    match UnixStream::connect(socket) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            bail!(
                "{}: only the user that runs the router may do this; become that one, or root",
                socket.display()
            )
        }
        Err(error) => Err(error).with_context(|| format!("{} cannot be asked", socket.display())),
    }
}

/// One request, one answer.
pub(super) fn ask(mut stream: UnixStream, method: &str, path: &str) -> anyhow::Result<Value> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: millrace\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = String::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_string(&mut answer)
        .context("the router's answer did not arrive in whole; it may still do what it was told")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("whoever answers there does not speak HTTP")?;
    let code = head.split(' ').nth(1).unwrap_or_default();
    if code != "200" {
        bail!("{}", if body.is_empty() { head.lines().next().unwrap_or_default() } else { body });
    }
    serde_json::from_str(body).context("the answer is not the JSON that a Millrace router gives")
}
