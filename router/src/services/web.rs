//! What modules and child gateways ask over HTTPS, at the port of the WebSocket: calls of direct methods here, the rest in
//! `children` (`reference/edgehub.md` §10.1); and the numbers, which anybody may read there as at the port for metrics.
//!
//! In: connections that shards gave away, because they speak HTTP. Out: answers, as edgeHub gives them; questions for the desk.
//! Always: who asks is authenticated for every request, by a token or a certificate that the gatekeeper knows; nothing is done before.
//! A certificate is that of the connection, or in `x-ms-edge-clientcert`, which only the API proxy module may send.
//! Bounds: the connections of `guests`, [`BODY_BYTES_MAX`] of a request; [`PAUSE`] between two, for a body, and for an answer that
//! is not taken; [`LIFE`] of a connection.

mod children;
mod guests;
mod impatient;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use broker::Shown;
use http_body_util::{BodyExt as _, Full, Limited};
use hub::HubId;
use hub::connect::UserName;
use hub::methods::Call;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use model::Limits;
use tokio::sync::{mpsc, oneshot};

use self::children::{Asked, NO_VERSION, errand};
pub(crate) use self::guests::WebNumbers;
use self::guests::{Guests, Place};
use self::impatient::Impatient;
use super::desk::{Desk, Question};
use crate::http::Overview;
use crate::iotedge::{Claim, Denied, Directory, Gatekeeper, Proof};
use crate::net::{Arrival, Secure, authorization, forwarded_certificate};

/// Connections that may wait to be served.
pub(super) const ARRIVALS_MAX: usize = 64;
/// Largest body; the payload of a call may have half of it.
const BODY_BYTES_MAX: usize = 256 << 10;
/// How long the head of a request may take, its body, and an answer to be taken; and a connection may be of no use.
const PAUSE: Duration = Duration::from_secs(30);
/// After this a connection takes no further request, and after twice this it ends. The longest call of a method takes ten minutes.
const LIFE: Duration = Duration::from_secs(15 * 60);
/// Who asks: `DEVICE/MODULE`.
const CALLER: &str = "x-ms-edge-moduleid";

/// What the head needs.
pub(crate) struct Web {
    /// Who knows identities.
    pub gatekeeper: Arc<Gatekeeper>,
    /// Who is known.
    pub directory: Arc<Directory>,
    /// The gateway's device: only its modules may call methods.
    pub device: HubId,
    /// Whether child gateways are served.
    pub nested: bool,
    /// Where calls go.
    pub desk: Desk,
    /// Bounds of streams.
    pub limits: Arc<Limits>,
    /// Where connections are counted that are not served.
    pub numbers: Arc<WebNumbers>,
}

/// Why a request is refused: its status, and what is said.
type Refused = (StatusCode, String);

/// Where a request comes from.
#[derive(Clone)]
struct Origin {
    address: Option<IpAddr>,
    place: Arc<Place>,
    /// What the connection has shown, which nobody has judged.
    shown: Option<Arc<Shown>>,
}

fn unauthorized(problem: impl ToString) -> Refused {
    (StatusCode::UNAUTHORIZED, problem.to_string())
}

fn bad(problem: impl ToString) -> Refused {
    (StatusCode::BAD_REQUEST, problem.to_string())
}

/// What is answered.
struct Reply {
    status: StatusCode,
    body: Bytes,
    content_type: &'static str,
}

impl Reply {
    fn json(status: StatusCode, body: Bytes) -> Reply {
        Reply { status, body, content_type: "application/json; charset=utf-8" }
    }
}

impl Web {
    /// Serves connections as long as shards may give some away.
    pub(crate) async fn serve(self, mut arrivals: mpsc::Receiver<Arrival>, overview: Arc<Overview>) {
        let guests = Guests::new(Arc::clone(&self.numbers));
        let web = Arc::new(self);
        while let Some(arrival) = arrivals.recv().await {
            let shown = arrival.peer.shown.clone();
            let stream = match Secure::attach(arrival, &web.limits) {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::info!(%error, "a connection could not be taken over");
                    continue;
                }
            };
            let address = stream.ip();
            let Some(place) = guests.admit(address) else {
                tracing::warn!(?address, "a client over HTTPS is turned away: too many are there");
                continue;
            };
            let from = Origin { address, place: Arc::new(place), shown };
            tokio::spawn(Arc::clone(&web).serve_one(stream, from, Arc::clone(&overview)));
        }
    }

    async fn serve_one(self: Arc<Web>, stream: Secure, from: Origin, overview: Arc<Overview>) {
        let service = hyper::service::service_fn(|request| {
            let (web, overview, from) = (Arc::clone(&self), Arc::clone(&overview), from.clone());
            async move { Ok::<_, Infallible>(web.answer(request, &from, &overview).await) }
        });
        let mut server = hyper::server::conn::http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(PAUSE).max_buf_size(BODY_BYTES_MAX);
        let stream = TokioIo::new(Impatient::new(stream, PAUSE));
        let mut served = std::pin::pin!(server.serve_connection(stream, service));
        let begun = tokio::time::Instant::now();
        let mut is_last = false;
        let ended = loop {
            tokio::select! {
                ended = served.as_mut() => break ended,
                () = from.place.over() => {
                    tracing::debug!(address = ?from.address, "a connection over HTTPS makes room");
                    return;
                }
                () = tokio::time::sleep_until(begun + LIFE), if !is_last => {
                    is_last = true;
                    served.as_mut().graceful_shutdown();
                }
                () = tokio::time::sleep_until(begun + 2 * LIFE) => {
                    self.numbers.note_slow();
                    return;
                }
            }
        };
        if let Err(error) = ended {
            let is_late = std::error::Error::source(&error)
                .and_then(|source| source.downcast_ref::<std::io::Error>())
                .is_some_and(|source| source.kind() == std::io::ErrorKind::TimedOut);
            if is_late || error.is_timeout() {
                self.numbers.note_slow();
            }
            tracing::debug!(%error, "a connection over HTTPS ended");
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        from: &Origin,
        overview: &Overview,
    ) -> Response<Full<Bytes>> {
        let is_child = errand(request.uri().path()).is_some();
        let mut says_version = false;
        let reply = self.serve_request(request, from, overview).await.unwrap_or_else(|refused| {
            let (status, problem) = refused;
            says_version = problem == NO_VERSION;
            // As edgeHub names it, here and there.
            let key = if is_child { "ErrorMessage" } else { "message" };
            Reply::json(status, serde_json::json!({ key: problem }).to_string().into())
        });
        let mut response = Response::new(Full::new(reply.body));
        *response.status_mut() = reply.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(reply.content_type));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
        if says_version {
            headers.insert("iothub-errorcode", header::HeaderValue::from_static("InvalidProtocolVersion"));
        }
        response
    }

    async fn serve_request(
        &self,
        request: Request<Incoming>,
        from: &Origin,
        overview: &Overview,
    ) -> Result<Reply, Refused> {
        let (parts, body) = request.into_parts();
        let head_bytes_max = self.limits.handshake_bytes_max as usize;
        let of_headers = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
        let line = parts.uri.path_and_query().map_or(0, |it| it.as_str().len());
        if of_headers.sum::<usize>() + line > head_bytes_max {
            let problem = format!("the head of a request has at most {head_bytes_max} bytes");
            return Err((StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, problem));
        }
        let path = parts.uri.path();
        if path == "/metrics" && parts.method == Method::GET {
            let text = crate::metrics::encode(overview)
                .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
            let content_type = crate::http::METRICS_TYPE;
            return Ok(Reply { status: StatusCode::OK, body: text.into(), content_type });
        }
        if let Some(errand) = errand(path) {
            let errand = errand.map_err(bad)?;
            let query = parts.uri.query().unwrap_or_default();
            let asked = Asked { method: &parts.method, query, headers: &parts.headers, from };
            self.admit(&errand, asked).await?;
            from.place.is_known();
            let body = self.whole(body).await?;
            return self.run_errand(errand, &parts.method, &parts.headers, &body).await;
        }
        let target = target(path).ok_or((StatusCode::NOT_FOUND, "nothing is here".to_owned()))?;
        if parts.method != Method::POST {
            return Err((StatusCode::METHOD_NOT_ALLOWED, "methods are called with POST".to_owned()));
        }
        let caller = self.authenticate(&parts.headers, from).await?;
        from.place.is_known();
        let target = target.map_err(bad)?;
        let call = Call::parse(&self.whole(body).await?).map_err(bad)?;
        let (done, outcome) = oneshot::channel();
        self.desk.call(Question::Call { caller, target: target.as_str().into(), call, done }).await;
        let outcome =
            outcome.await.map_err(|_| (StatusCode::SERVICE_UNAVAILABLE, "the gateway stops".to_owned()))?;
        let (status, body) = outcome.to_http(target.as_str());
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Ok(Reply::json(status, body.into()))
    }

    /// All of a body.
    async fn whole(&self, body: Incoming) -> Result<Bytes, Refused> {
        let body = tokio::time::timeout(PAUSE, Limited::new(body, BODY_BYTES_MAX).collect()).await;
        let body = body.map_err(|_| {
            self.numbers.note_slow();
            (StatusCode::REQUEST_TIMEOUT, format!("a body takes at most {} s", PAUSE.as_secs()))
        })?;
        let body = body.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                (StatusCode::PAYLOAD_TOO_LARGE, format!("a body has at most {BODY_BYTES_MAX} bytes"))
            } else {
                (StatusCode::BAD_REQUEST, "the body did not come in whole".to_owned())
            }
        })?;
        Ok(body.to_bytes())
    }

    /// Whether somebody is who it says it is, by what comes with its request.
    async fn vouch(&self, id: &HubId, headers: &HeaderMap, from: &Origin) -> Result<(), Refused> {
        let proof = self.proof(headers, from).await?;
        let claim = Claim { name: UserName::of(id.clone()), proof };
        let vouched = self.gatekeeper.vouch(&claim, from.address).await;
        vouched.map_err(|()| unauthorized("the caller is not authenticated"))
    }

    /// What a request proves. A forwarded certificate goes before everything else: then the token is that of who forwards it.
    /// A token goes before the connection's own certificate, as at CONNECT.
    async fn proof(&self, headers: &HeaderMap, from: &Origin) -> Result<Proof, Refused> {
        let token = authorization(headers).map_err(unauthorized)?;
        if let Some(certificate) = forwarded_certificate(headers).map_err(bad)? {
            let vouched = self.gatekeeper.vouch_forwarded(certificate, token, from.address).await;
            return vouched.map_err(|denied| match denied {
                Denied::Certificate => bad("x-ms-edge-clientcert is no certificate: PEM, percent-encoded"),
                denied => unauthorized(denied),
            });
        }
        match (token, from.shown.as_deref()) {
            (Some(token), _) => Ok(Proof::Token(token.into())),
            (None, Some(Shown::Certificates(chain))) => Ok(Proof::Certificates(Arc::clone(chain))),
            (None, _) => {
                let problem =
                    "a request needs Authorization: SharedAccessSignature …, or a device's certificate";
                Err(unauthorized(problem))
            }
        }
    }

    /// Only a module of this gateway's device may ask; no certificate is a module's.
    async fn authenticate(&self, headers: &HeaderMap, from: &Origin) -> Result<Box<str>, Refused> {
        let mut callers = headers.get_all(CALLER).iter();
        let caller = match (callers.next(), callers.next()) {
            (Some(caller), None) => caller.to_str().map_err(|_| bad("x-ms-edge-moduleId is no text"))?,
            _ => return Err(bad("a request has one x-ms-edge-moduleId: DEVICE/MODULE")),
        };
        let id = HubId::parse(caller).map_err(|_| bad("x-ms-edge-moduleId is not DEVICE/MODULE"))?;
        if id.module_id().is_none() {
            return Err(bad("x-ms-edge-moduleId is not DEVICE/MODULE"));
        }
        if id.device_id() != self.device.device_id() {
            return Err(unauthorized("the caller is no module of this gateway"));
        }
        self.vouch(&id, headers, from).await.map(|()| id.as_str().into())
    }
}

/// A part of a path.
fn decoded(part: &str) -> Result<String, String> {
    let text = percent_encoding::percent_decode_str(part).decode_utf8();
    text.map(|text| text.into_owned()).map_err(|_| "an id in the path is not UTF-8".to_owned())
}

/// Whom a path calls: `/twins/DEVICE/methods`, `/twins/DEVICE/modules/MODULE/methods`. `None` for another path.
fn target(path: &str) -> Option<Result<HubId, String>> {
    let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let (device, module) = match parts[..] {
        ["twins", device, "methods"] => (device, None),
        ["twins", device, "modules", module, "methods"] => (device, Some(module)),
        _ => return None,
    };
    let id = || {
        let (device, module) = (decoded(device)?, module.map(decoded).transpose()?);
        HubId::new(&device, module.as_deref()).map_err(|problem| format!("an id in the path: {problem}"))
    };
    Some(id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_whom_to_call() {
        let called = |path: &str| target(path).map(|id| id.map(|id| id.to_string()).map_err(|_| ()));
        for (path, expected) in [
            ("/twins/d1/methods", Some(Ok("d1"))),
            ("/twins/gw1/modules/filter/methods", Some(Ok("gw1/filter"))),
            ("/twins/gw1/modules/%24edgeAgent/methods", Some(Ok("gw1/$edgeAgent"))),
            ("/twins/a%2Fb/methods", Some(Err(()))),
            ("/twins//methods", Some(Err(()))),
            ("/twins/%FF/methods", Some(Err(()))),
            ("/twins/d1/methods/", None),
            ("/twins/d1", None),
            ("/devices/d1/modules/m", None),
            ("/", None),
        ] {
            assert_eq!(called(path), expected.map(|id: Result<&str, ()>| id.map(str::to_owned)), "{path}");
        }
    }
}
