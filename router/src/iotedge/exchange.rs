//! One HTTP/1.1 exchange over a connection that somebody else made: a request out, an answer in.
//!
//! In: a stream of bytes, a request. Out: status and body, or one sentence. Never: a retry, a name to look up.
//! Bound: the answer's body (`body_bytes_max`) and the time for all of it.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::{self, HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// GET, POST, …
    pub method: Method,
    /// The `Host` header.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// Further headers.
    pub headers: HeaderMap,
    /// JSON, or nothing.
    pub body: Vec<u8>,
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// All of its body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// It takes too long.
    #[error("no answer within {0} s")]
    Slow(u64),
    /// The connection ended, or what came is not HTTP.
    #[error("{0}")]
    Http(String),
    /// The body is longer than we take.
    #[error("the answer is longer than {0} bytes")]
    Long(usize),
    /// A part of the request is none.
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
}

/// Sends `request` and waits for the whole answer. The connection is closed afterwards.
pub(crate) async fn exchange<S>(
    stream: S,
    request: Request,
    body_bytes_max: usize,
    patience: Duration,
) -> Result<Answer, ExchangeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Request { method, host, path, headers, body } = request;
    let mut builder = http::Request::builder().method(method).uri(path).header(http::header::HOST, host);
    if let Some(all) = builder.headers_mut() {
        all.extend(headers);
        if !body.is_empty() {
            all.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        }
    }
    let request = builder.body(Full::new(Bytes::from(body)))?;
    let all = async {
        let broken = |error: hyper::Error| ExchangeError::Http(with_causes(&error));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // It ends with this call: nobody else uses the connection.
        let driver = Driver(tokio::spawn(connection));
        let response = sender.send_request(request).await.map_err(broken)?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, body_bytes_max).collect().await.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                ExchangeError::Long(body_bytes_max)
            } else {
                ExchangeError::Http(error.to_string())
            }
        })?;
        drop(driver);
        Ok(Answer { status: parts.status, body: body.to_bytes() })
    };
    match timeout(patience, all).await {
        Ok(answer) => answer,
        Err(_) => Err(ExchangeError::Slow(patience.as_secs())),
    }
}

/// Moves the bytes of a connection as long as this lives.
struct Driver(tokio::task::JoinHandle<Result<(), hyper::Error>>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
