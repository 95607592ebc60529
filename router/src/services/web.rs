//! What modules ask over HTTPS, at the port of the WebSocket: calls of direct methods (`reference/edgehub.md` §10.1).
//!
//! In: connections that shards gave away, because they speak HTTP. Out: answers, as edgeHub gives them; questions for the desk.
//! Always: who asks is authenticated for every request, by a token that the gatekeeper knows; nothing is done before.
//! Bounds: [`CONNECTIONS_MAX`] connections, [`BODY_BYTES_MAX`] of a request, [`PAUSE`] between two.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hub::HubId;
use hub::connect::UserName;
use hub::methods::Call;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use model::Limits;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::desk::{Desk, Question};
use crate::iotedge::{Claim, Gatekeeper, Proof};
use crate::net::{Arrival, Secure};

/// Connections at once.
const CONNECTIONS_MAX: usize = 64;
/// Connections that may wait to be served.
pub(super) const ARRIVALS_MAX: usize = 64;
/// Largest body; the payload of a call may have half of it.
const BODY_BYTES_MAX: usize = 256 << 10;
/// How long the head of a request may take, and a connection may be of no use.
const PAUSE: Duration = Duration::from_secs(30);
/// Who asks: `DEVICE/MODULE`.
const CALLER: &str = "x-ms-edge-moduleid";

/// What the head needs.
pub(crate) struct Web {
    /// Who knows identities.
    pub gatekeeper: Arc<Gatekeeper>,
    /// The gateway's device: only its modules may ask.
    pub device: HubId,
    /// Where calls go.
    pub desk: Desk,
    /// Bounds of streams.
    pub limits: Arc<Limits>,
}

/// Why a request is refused: its status, and what is said.
type Refused = (StatusCode, String);

impl Web {
    /// Serves connections as long as shards may give some away.
    pub(crate) async fn serve(self, mut arrivals: mpsc::Receiver<Arrival>) {
        let (web, places) = (Arc::new(self), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
        while let Some(arrival) = arrivals.recv().await {
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                tracing::warn!("a client over HTTPS is turned away: {CONNECTIONS_MAX} are there");
                continue;
            };
            let stream = match Secure::attach(arrival, &web.limits) {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::info!(%error, "a connection could not be taken over");
                    continue;
                }
            };
            let web = Arc::clone(&web);
            tokio::spawn(async move {
                let address = stream.ip();
                let service = hyper::service::service_fn(|request| {
                    let web = Arc::clone(&web);
                    async move { Ok::<_, Infallible>(web.answer(request, address).await) }
                });
                let mut server = hyper::server::conn::http1::Builder::new();
                server.timer(TokioTimer::new()).header_read_timeout(PAUSE).max_buf_size(BODY_BYTES_MAX);
                if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                    tracing::debug!(%error, "a connection over HTTPS ended");
                }
                drop(place);
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>, address: Option<IpAddr>) -> Response<Full<Bytes>> {
        let (status, body) = match self.serve_request(request, address).await {
            Ok((status, body)) => (status, body),
            Err((status, problem)) => {
                let body = serde_json::json!({ "message": problem }).to_string().into_bytes();
                (status, body)
            }
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/json; charset=utf-8"),
        );
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
        response
    }

    async fn serve_request(
        &self,
        request: Request<Incoming>,
        address: Option<IpAddr>,
    ) -> Result<(StatusCode, Vec<u8>), Refused> {
        let (parts, body) = request.into_parts();
        let target = target(parts.uri.path()).ok_or((StatusCode::NOT_FOUND, "nothing is here".to_owned()))?;
        if parts.method != Method::POST {
            return Err((StatusCode::METHOD_NOT_ALLOWED, "methods are called with POST".to_owned()));
        }
        self.authenticate(&parts.headers, address).await?;
        let target = target.map_err(|problem| (StatusCode::BAD_REQUEST, problem))?;
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                (StatusCode::PAYLOAD_TOO_LARGE, format!("a body has at most {BODY_BYTES_MAX} bytes"))
            } else {
                (StatusCode::BAD_REQUEST, "the body did not come in whole".to_owned())
            }
        })?;
        let call = Call::parse(&body.to_bytes())
            .map_err(|problem| (StatusCode::BAD_REQUEST, problem.to_string()))?;
        let (done, outcome) = oneshot::channel();
        self.desk.call(Question::Call { target: target.as_str().into(), call, done }).await;
        let outcome =
            outcome.await.map_err(|_| (StatusCode::SERVICE_UNAVAILABLE, "the gateway stops".to_owned()))?;
        let (status, body) = outcome.to_http(target.as_str());
        Ok((StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), body))
    }

    /// Only a module of this gateway's device may ask, with its token.
    async fn authenticate(&self, headers: &HeaderMap, address: Option<IpAddr>) -> Result<(), Refused> {
        let bad = |problem: &str| (StatusCode::BAD_REQUEST, problem.to_owned());
        let unknown = |problem: &str| (StatusCode::UNAUTHORIZED, problem.to_owned());
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
            return Err(unknown("the caller is no module of this gateway"));
        }
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = token.ok_or_else(|| unknown("a request needs Authorization: SharedAccessSignature …"))?;
        let name =
            UserName { id, api_version: String::new(), client_type: None, model_id: None, auth_chain: None };
        let claim = Claim { name, proof: Proof::Token(token.into()) };
        self.gatekeeper.vouch(&claim, address).await.map_err(|()| unknown("the caller is not authenticated"))
    }
}

/// Whom a path calls: `/twins/DEVICE/methods`, `/twins/DEVICE/modules/MODULE/methods`. `None` for another path.
fn target(path: &str) -> Option<Result<HubId, String>> {
    let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let (device, module) = match parts[..] {
        ["twins", device, "methods"] => (device, None),
        ["twins", device, "modules", module, "methods"] => (device, Some(module)),
        _ => return None,
    };
    let decode = |part: &str| {
        let text = percent_encoding::percent_decode_str(part).decode_utf8();
        text.map(|text| text.into_owned()).map_err(|_| "an id in the path is not UTF-8".to_owned())
    };
    let id = || {
        let (device, module) = (decode(device)?, module.map(decode).transpose()?);
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
