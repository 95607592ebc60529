//! What the other end shows of itself besides MQTT: its clock, and whom its certificate is for.
//!
//! In: a connection, or where to ask. Out: how far its clock is ahead of ours, names. Only asked when it has refused us
//! without a reason. Bounds: [`ANSWER_BYTES_MAX`], and the caller's time.

use std::time::SystemTime;

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tungstenite::handshake::client::Response;
use tungstenite::handshake::machine::TryParse as _;

use super::transport::{self, Patience};
use super::trust;
use crate::config::Transport;

/// Where services tell the time to whoever asks.
const HTTPS: u16 = 443;
/// No honest head of an answer is longer.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// What a connection has shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    /// Its clock minus ours in seconds, if it said what time it is.
    pub(super) ahead_secs: Option<i64>,
    /// Names that its certificate is for, if the wanted one is not among them.
    pub(super) other_names: Option<String>,
    /// What is wrong with the certificate that we showed, as far as we see it ourselves.
    pub(super) own_certificate: Option<String>,
}

/// How far a time in an HTTP answer is ahead of ours.
pub(super) fn ahead_secs(response: &Response) -> Option<i64> {
    let date = response.headers().get("date")?.to_str().ok()?;
    let theirs = httpdate::parse_http_date(date).ok()?;
    Some(secs(theirs) - secs(SystemTime::now()))
}

fn secs(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs().cast_signed())
}

/// Asks the same host over HTTPS what time it is: its clock minus ours in seconds.
pub(super) async fn ask(name: &str, transport: &Transport, patience: Patience) -> Result<i64, String> {
    let mut to = Transport { port: HTTPS, websocket: None, ..transport.clone() };
    if let Some(tls) = &mut to.tls {
        // For this nobody needs to know who we are.
        tls.cert = None;
    }
    let mut stream = transport::connect(name, &to, patience).await.map_err(|error| error.to_string())?;
    let clear = |error: std::io::Error| error.to_string();
    let request = format!("HEAD / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", to.host);
    stream.write_all(request.as_bytes()).await.map_err(clear)?;
    stream.flush().await.map_err(clear)?;
    let mut answer = Vec::new();
    while answer.len() <= ANSWER_BYTES_MAX && stream.read_buf(&mut answer).await.map_err(clear)? > 0 {
        match Response::try_parse(&answer) {
            Ok(Some((_, response))) => {
                return ahead_secs(&response).ok_or_else(|| "its answer has no date".to_owned());
            }
            Ok(None) => {}
            Err(error) => return Err(format!("it does not answer in HTTP ({error})")),
        }
    }
    Err("its answer has no end".to_owned())
}

/// The names that a certificate is for, if `wanted` is not among them.
pub(super) fn other_names(certificate: &CertificateDer<'_>, wanted: &str) -> Option<String> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let wanted = ServerName::try_from(wanted).ok()?;
    match verify_server_name(&parsed, &wanted) {
        Err(rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidForNameContext {
            presented,
            ..
        })) => Some(trust::names(&presented)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_tells_whom_it_is_for() {
        let names = ["hub.example".to_owned(), "other.example".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let certificate = made.cert.der();
        assert_eq!(other_names(certificate, "hub.example"), None);
        let others = other_names(certificate, "plant.example").expect("it is for others");
        assert_eq!(others, "hub.example, other.example");
    }

    #[test]
    fn a_date_of_http_is_compared() {
        let answer = |date: &str| {
            let text = format!("HTTP/1.1 404 Not Found\r\nDate: {date}\r\n\r\n");
            Response::try_parse(text.as_bytes()).expect("HTTP").expect("whole").1
        };
        let later = SystemTime::now() + std::time::Duration::from_secs(5_000);
        let ahead = ahead_secs(&answer(&httpdate::fmt_http_date(later))).expect("a date");
        assert!((4_990..=5_000).contains(&ahead), "{ahead}");
        assert_eq!(ahead_secs(&answer("yesterday")), None);
    }
}
