//! The Workload API: what the IoT Edge runtime does for a module that has no keys of its own.
//!
//! In: where it listens, which module we are, since which generation. Out: certificates, signatures, ciphertext, or one
//! sentence that says why not. Versions 2018-06-28, 2019-01-30 and 2020-07-07 are spoken; the older of ours and the
//! runtime's is used. Transient failures are tried again, refusals are not.
//! Bound: [`BODY_BYTES_MAX`] for an answer, [`Patience`] for the time.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::{HeaderMap, Method, StatusCode};
use base64ct::{Base64, Encoding as _};
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};

use super::exchange::{Answer, ExchangeError, Request, exchange};

/// Longest answer: a chain of certificates with its key.
const BODY_BYTES_MAX: usize = 1 << 20;

/// The versions that we speak, oldest first.
const VERSIONS: [&str; 3] = ["2018-06-28", "2019-01-30", "2020-07-07"];

/// Where the Workload API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadUri {
    /// `unix:///var/run/iotedge/workload.sock`
    Unix(PathBuf),
    /// `http://127.0.0.1:15581`
    Http {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
}

impl WorkloadUri {
    /// Reads `unix://PATH` or `http://HOST:PORT`.
    pub fn parse(text: &str) -> Option<WorkloadUri> {
        if let Some(path) = text.strip_prefix("unix://") {
            return path.starts_with('/').then(|| WorkloadUri::Unix(path.into()));
        }
        let rest = text.strip_prefix("http://")?;
        let authority = rest.split('/').next()?;
        let uri: axum::http::uri::Authority = authority.parse().ok()?;
        let host = uri.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        (!host.is_empty()).then(|| WorkloadUri::Http { host, port: uri.port_u16().unwrap_or(80) })
    }
}

impl fmt::Display for WorkloadUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkloadUri::Unix(path) => write!(f, "unix://{}", path.display()),
            WorkloadUri::Http { host, port } if host.contains(':') => write!(f, "http://[{host}]:{port}"),
            WorkloadUri::Http { host, port } => write!(f, "http://{host}:{port}"),
        }
    }
}

/// The version that both sides speak: the newest of ours that is not newer than the runtime's. `None` if it is older than
/// every one of ours, or no date.
pub fn version_for(theirs: Option<&str>) -> Option<&'static str> {
    let Some(theirs) = theirs else { return VERSIONS.last().copied() };
    let is_date = theirs.len() >= 10
        && theirs.bytes().take(10).enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    // Dates in this form have the order of their text.
    VERSIONS.iter().rev().find(|ours| is_date && **ours <= &theirs[..10]).copied()
}

/// How long one attempt may take, and how often it is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// One attempt.
    pub attempt: Duration,
    /// Attempts after the first.
    pub retries: u32,
    /// The first pause; doubled each time, up to `pause_max`.
    pub pause: Duration,
    /// The longest pause.
    pub pause_max: Duration,
}

impl Default for Patience {
    /// edgeHub's pauses and number of attempts. It gives one attempt five minutes; ours end together within that time, so
    /// that a runtime that hangs is noticed and said.
    fn default() -> Patience {
        Patience {
            attempt: Duration::from_secs(60),
            retries: 3,
            pause: Duration::from_secs(1),
            pause_max: Duration::from_secs(3),
        }
    }
}

/// Why the Workload API did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("the Workload API at {at} does not {what}: {problem}")]
pub(crate) struct WorkloadError {
    at: String,
    what: &'static str,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("it cannot be reached ({0}); is the IoT Edge runtime running, and its socket mounted?")]
    Connect(std::io::Error),
    #[error("{0}")]
    Exchange(#[from] ExchangeError),
    #[error("it answers {0}: {1}")]
    Refused(StatusCode, String),
    #[error("its answer cannot be read: {0}")]
    Answer(String),
}

impl Problem {
    /// Whether another attempt may end otherwise.
    fn is_transient(&self) -> bool {
        match self {
            Problem::Connect(_) | Problem::Exchange(_) => true,
            Problem::Refused(status, _) => {
                status.is_server_error()
                    || matches!(*status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
            }
            Problem::Answer(_) => false,
        }
    }
}

/// A server certificate as the runtime issued it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ServerCertificate {
    /// Its chain, PEM, its own certificate first.
    pub chain: String,
    /// Its private key, PEM.
    pub key: String,
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerCertificate(…)")
    }
}

/// The Workload API of one module.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    at: WorkloadUri,
    version: &'static str,
    /// `/modules/ID/genid/GENERATION`
    module: String,
    patience: Patience,
}

#[derive(Deserialize)]
struct CertificateAnswer {
    #[serde(rename = "privateKey")]
    private_key: PrivateKey,
    certificate: String,
}

#[derive(Deserialize)]
struct PrivateKey {
    #[serde(rename = "type")]
    kind: String,
    bytes: Option<String>,
}

#[derive(Deserialize)]
struct Bundle {
    certificate: String,
}

#[derive(Deserialize)]
struct Signed {
    digest: String,
}

#[derive(Deserialize)]
struct Encrypted {
    ciphertext: String,
}

#[derive(Deserialize)]
struct Decrypted {
    plaintext: String,
}

impl Workload {
    /// The API at `at` as `module_id` of `generation_id` sees it. `version` is one that [`version_for`] gave.
    pub(crate) fn new(
        at: WorkloadUri,
        version: &'static str,
        module_id: &str,
        generation_id: &str,
        patience: Patience,
    ) -> Workload {
        let module =
            format!("/modules/{}/genid/{}", super::escaped(module_id), super::escaped(generation_id));
        Workload { at, version, module, patience }
    }

    /// A certificate for `common_name`, asked for until `expiration`; the runtime decides how long it really lasts.
    pub(crate) async fn server_certificate(
        &self,
        common_name: &str,
        expiration: OffsetDateTime,
    ) -> Result<ServerCertificate, WorkloadError> {
        let what = "issue a server certificate";
        let body = json!({ "commonName": common_name, "expiration": rfc3339(expiration) });
        let path = format!("{}/certificate/server", self.module);
        let answer: CertificateAnswer = self.call(what, Method::POST, &path, Some(body)).await?;
        let key = match (answer.private_key.kind.as_str(), answer.private_key.bytes) {
            ("key", Some(bytes)) => bytes,
            (kind, _) => {
                let problem = format!("the private key is of the type {kind:?}, and only \"key\" is known");
                return Err(self.error(what, Problem::Answer(problem)));
            }
        };
        Ok(ServerCertificate { chain: answer.certificate, key })
    }

    /// The authorities that clients and servers of this gateway trust, PEM.
    pub(crate) async fn trust_bundle(&self) -> Result<String, WorkloadError> {
        let answer: Bundle = self.call("give the trust bundle", Method::GET, "/trust-bundle", None).await?;
        Ok(answer.certificate)
    }

    /// The authorities whose signature a deployment manifest may have, PEM; `None` if there are none.
    pub(crate) async fn manifest_trust_bundle(&self) -> Result<Option<String>, WorkloadError> {
        let what = "give the manifest trust bundle";
        if self.version < "2020-07-07" {
            return Ok(None);
        }
        match self.call::<Bundle>(what, Method::GET, "/manifest-trust-bundle", None).await {
            Ok(answer) => Ok(Some(answer.certificate).filter(|pem| !pem.trim().is_empty())),
            Err(error) if matches!(error.problem, Problem::Refused(StatusCode::NOT_FOUND, _)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Signs with the module's primary key (HMAC-SHA256).
    pub(crate) async fn sign(&self, text: &[u8]) -> Result<Vec<u8>, WorkloadError> {
        let what = "sign";
        let body = json!({ "keyId": "primary", "algo": "HMACSHA256", "data": Base64::encode_string(text) });
        let answer: Signed =
            self.call(what, Method::POST, &format!("{}/sign", self.module), Some(body)).await?;
        self.bytes(what, &answer.digest)
    }

    /// Encrypts with a key of this module that never leaves the runtime.
    pub(crate) async fn encrypt(&self, plain: &[u8], vector: &[u8]) -> Result<Vec<u8>, WorkloadError> {
        let what = "encrypt";
        let body = json!({
            "plaintext": Base64::encode_string(plain),
            "initializationVector": Base64::encode_string(vector),
        });
        let answer: Encrypted =
            self.call(what, Method::POST, &format!("{}/encrypt", self.module), Some(body)).await?;
        self.bytes(what, &answer.ciphertext)
    }

    /// Decrypts what [`Workload::encrypt`] gave for the same vector.
    pub(crate) async fn decrypt(&self, cipher: &[u8], vector: &[u8]) -> Result<Vec<u8>, WorkloadError> {
        let what = "decrypt";
        let body = json!({
            "ciphertext": Base64::encode_string(cipher),
            "initializationVector": Base64::encode_string(vector),
        });
        let answer: Decrypted =
            self.call(what, Method::POST, &format!("{}/decrypt", self.module), Some(body)).await?;
        self.bytes(what, &answer.plaintext)
    }

    fn bytes(&self, what: &'static str, text: &str) -> Result<Vec<u8>, WorkloadError> {
        Base64::decode_vec(text).map_err(|error| self.error(what, Problem::Answer(error.to_string())))
    }

    fn error(&self, what: &'static str, problem: Problem) -> WorkloadError {
        WorkloadError { at: self.at.to_string(), what, problem }
    }

    async fn call<T: for<'de> Deserialize<'de>>(
        &self,
        what: &'static str,
        method: Method,
        path: &str,
        body: Option<serde_json::Value>,
    ) -> Result<T, WorkloadError> {
        let request = Request {
            method,
            host: match &self.at {
                WorkloadUri::Unix(_) => "localhost".to_owned(),
                WorkloadUri::Http { host, port } => format!("{host}:{port}"),
            },
            path: format!("{path}?api-version={}", self.version),
            headers: HeaderMap::new(),
            body: body.map(|body| body.to_string().into_bytes()).unwrap_or_default(),
        };
        let mut pause = self.patience.pause;
        let mut left = self.patience.retries;
        let answer = loop {
            match self.attempt(request.clone()).await {
                Ok(answer) => break answer,
                Err(problem) if problem.is_transient() && left > 0 => {
                    tracing::debug!(what, %problem, left, "the Workload API is asked again");
                    left -= 1;
                    sleep(pause).await;
                    pause = (2 * pause).min(self.patience.pause_max);
                }
                Err(problem) => return Err(self.error(what, problem)),
            }
        };
        // Not the body: it may hold a key.
        serde_json::from_slice(&answer.body).map_err(|error| {
            let place = format!("line {}, column {}: {:?}", error.line(), error.column(), error.classify());
            self.error(what, Problem::Answer(place))
        })
    }

    async fn attempt(&self, request: Request) -> Result<Answer, Problem> {
        let patience = self.patience.attempt;
        let slow = || ExchangeError::Slow(patience.as_secs());
        let answer = match &self.at {
            WorkloadUri::Unix(path) => {
                let stream = timeout(patience, UnixStream::connect(path)).await.map_err(|_| slow())?;
                exchange(stream.map_err(Problem::Connect)?, request, BODY_BYTES_MAX, patience).await?
            }
            WorkloadUri::Http { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port));
                let stream = timeout(patience, stream).await.map_err(|_| slow())?;
                exchange(stream.map_err(Problem::Connect)?, request, BODY_BYTES_MAX, patience).await?
            }
        };
        if answer.status.is_success() {
            return Ok(answer);
        }
        Err(Problem::Refused(answer.status, message(&answer.body)))
    }
}

/// `{"message":"…"}`, or the beginning of whatever came.
fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Message {
        message: String,
    }
    let text = match serde_json::from_slice::<Message>(body) {
        Ok(answer) => answer.message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let is_plain = |c: &char| !c.is_control();
    text.chars().filter(is_plain).take(200).collect()
}

/// `2027-01-31T08:00:00Z`
pub(crate) fn rfc3339(time: OffsetDateTime) -> String {
    let time = time.to_offset(time::UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

#[cfg(test)]
mod tests;
