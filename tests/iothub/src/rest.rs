//! The HTTPS side: MQTT over WebSocket, the scope of gateways, modules on behalf of them, and methods called by modules.
//!
//! In: requests with a token of the module that the path or header names. Out: JSON as the service has it, or a status
//! with `{"message": …}`; what is refused is noted as `rest-refused`. Strict on paths, versions, methods and bodies.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Request, State as Extracted};
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::serve::{IncomingStream, Listener};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;

use crate::hub::{CallError, Shared, aborter, chain};
use crate::identity::{Authentication, Identity};
use crate::sas::Token;
use crate::session::{self, Abort};
use crate::{admission, bag, websocket};

/// Version of the requests that know nested gateways.
const NESTED: &str = "2020-06-30-preview";
/// Version of those that do not.
const FLAT: &str = "2018-08-30-preview";
/// Largest body of a request.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Identities in one page of a scope.
const PAGE_MAX: usize = 100;
/// Limits of a method call.
const METHOD_NAME_MAX: usize = 100;
const METHOD_PAYLOAD_MAX: usize = 128 << 10;

/// A connection that has shaken hands.
pub(crate) type Accepted = TlsStream<TcpStream>;

struct Connections {
    accepted: mpsc::Receiver<Accepted>,
    address: SocketAddr,
}

impl Listener for Connections {
    type Io = Accepted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Accepted, SocketAddr) {
        match self.accepted.recv().await {
            Some(stream) => (stream, self.address),
            // The hub ends.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}

#[derive(Clone)]
struct Peer {
    chain: Arc<Vec<CertificateDer<'static>>>,
    abort: Abort,
}

impl Connected<IncomingStream<'_, Connections>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Connections>) -> Peer {
        let stream = stream.io();
        Peer { chain: Arc::new(chain(stream)), abort: aborter(stream.get_ref().0) }
    }
}

pub(crate) async fn serve(shared: Arc<Shared>, accepted: mpsc::Receiver<Accepted>, address: SocketAddr) {
    let router = axum::Router::new().fallback(handle).with_state(shared);
    let service = router.into_make_service_with_connect_info::<Peer>();
    // Does not end while the hub lives.
    axum::serve(Connections { accepted, address }, service).await.ok();
}

/// Why a request is refused.
struct Refused(StatusCode, String);

type Answer = Result<(StatusCode, Value), Refused>;

fn refused<T>(status: StatusCode, why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(status, why.into()))
}

async fn handle(
    Extracted(shared): Extracted<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
) -> Response {
    let clock = Arc::clone(&shared);
    let mut response = answer(shared, peer, request).await;
    // The hub's own time, which a test may have moved.
    if let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(clock.state().wall_clock())) {
        response.headers_mut().insert(header::DATE, date);
    }
    response
}

async fn answer(shared: Arc<Shared>, peer: Peer, request: Request) -> Response {
    if request.headers().contains_key(header::UPGRADE) {
        return upgrade(shared, peer, request);
    }
    let line = format!("{} {}", request.method(), request.uri());
    let on_command = shared.state().rest_status;
    let answer = match on_command.and_then(|status| StatusCode::from_u16(status).ok()) {
        Some(status) => refused(status, "on command"),
        None => dispatch(&shared, request).await,
    };
    match answer {
        Ok((status, body)) => {
            shared.state().note("rest", "", format!("{} {line}", status.as_u16()));
            (status, axum::Json(body)).into_response()
        }
        Err(Refused(status, why)) => {
            shared.state().note("rest-refused", "", format!("{} {line}: {why}", status.as_u16()));
            (status, axum::Json(json!({"message": why, "errorCode": u32::from(status.as_u16()) * 1_000})))
                .into_response()
        }
    }
}

fn upgrade(shared: Arc<Shared>, peer: Peer, mut request: Request) -> Response {
    let has = |name: &str| {
        request.headers().get(name).and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned()
    };
    let protocols = has("sec-websocket-protocol");
    let wrong = if request.method() != Method::GET || !has("upgrade").eq_ignore_ascii_case("websocket") {
        Some("not an upgrade to WebSocket")
    } else if request.uri().path() != "/$iothub/websocket" {
        Some("another path than /$iothub/websocket")
    } else if has("sec-websocket-version") != "13" {
        Some("another version than 13")
    } else if !protocols.split(',').any(|it| it.trim() == "mqtt") {
        Some("no subprotocol mqtt")
    } else {
        None
    };
    let key = websocket::accept_key(&has("sec-websocket-key"));
    let on_upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let (None, Some(on_upgrade)) = (wrong, on_upgrade) else {
        let why = format!("WebSocket to {}: {}", request.uri(), wrong.unwrap_or("cannot be upgraded"));
        shared.state().note("violation", "", why.as_str());
        return (StatusCode::BAD_REQUEST, why).into_response();
    };
    tokio::spawn(async move {
        let Ok(upgraded) = on_upgrade.await else { return };
        let stream = websocket::unwrap(TokioIo::new(upgraded));
        session::serve(shared, stream, peer.chain.to_vec(), "websocket", peer.abort).await;
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert("sec-websocket-protocol", HeaderValue::from_static("mqtt"));
    if let Ok(key) = HeaderValue::from_str(&key) {
        headers.insert("sec-websocket-accept", key);
    }
    response
}

async fn dispatch(shared: &Shared, request: Request) -> Answer {
    let bad = |why: String| Refused(StatusCode::BAD_REQUEST, why);
    let (parts, body) = request.into_parts();
    let segments =
        parts.uri.path().split('/').skip(1).map(bag::decode).collect::<Result<Vec<_>, _>>().map_err(bad)?;
    let segments: Vec<_> = segments.iter().map(String::as_str).collect();
    let query = bag::pairs(parts.uri.query().unwrap_or_default()).map_err(bad)?;
    let query: BTreeMap<_, _> = query.into_iter().collect();
    let body = to_bytes(body, BODY_BYTES_MAX).await.map_err(|error| bad(error.to_string()))?;
    let (method, headers) = (parts.method, parts.headers);
    match &segments[..] {
        ["twins", device, "methods"] if method == Method::POST => {
            on_method(shared, device, None, &headers, &query, &body).await
        }
        ["twins", device, "modules", module, "methods"] if method == Method::POST => {
            on_method(shared, device, Some(module), &headers, &query, &body).await
        }
        ["devices", actor, "modules", "$edgeHub", action] => {
            let (wanted, version) = match *action {
                "devicesAndModulesInDeviceScope" | "deviceAndModuleInDeviceScope" => (Method::GET, FLAT),
                "putModuleOnBehalfOf" => (Method::PUT, NESTED),
                _ => (Method::POST, NESTED),
            };
            if method != wanted {
                return refused(StatusCode::METHOD_NOT_ALLOWED, format!("{action} is asked for by {wanted}"));
            }
            let given = query.get("api-version").map(String::as_str).unwrap_or_default();
            if given != version {
                return refused(
                    StatusCode::BAD_REQUEST,
                    format!("api-version is {given:?}; {action} has {version}"),
                );
            }
            authenticate(shared, &headers, actor, "$edgeHub")?;
            on_gateway(shared, actor, action, &query, &body)
        }
        _ => refused(StatusCode::NOT_FOUND, "there is nothing here"),
    }
}

/// The token in `Authorization` must be the module's own.
fn authenticate(
    shared: &Shared,
    headers: &HeaderMap,
    device_id: &str,
    module_id: &str,
) -> Result<(), Refused> {
    let no = |why: String| Refused(StatusCode::UNAUTHORIZED, why);
    let text = headers.get(header::AUTHORIZATION).and_then(|it| it.to_str().ok());
    let token = Token::parse(text.ok_or_else(|| no("no Authorization".into()))?).map_err(no)?;
    let state = shared.state();
    let id = format!("{device_id}/{module_id}");
    let Some(identity) = state.registry.find(&id) else {
        return Err(no(format!("there is no identity {id}")));
    };
    if !state.registry.is_enabled(identity) {
        return Err(no(format!("{id} is disabled")));
    }
    if !token.is_for(&shared.host, device_id, Some(module_id)) {
        return Err(no(format!("the token is for {}, not for {id}", token.resource)));
    }
    admission::check(&token, &identity.keys(), &id, state.wall_clock()).map_err(|it| no(it.why))?;
    Ok(())
}

fn parse<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, Refused> {
    serde_json::from_slice(body)
        .or_else(|error| refused(StatusCode::BAD_REQUEST, format!("the body: {error}")))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ScopeRequest {
    page_size: usize,
    #[serde(default)]
    continuation_link: Option<String>,
    auth_chain: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SingleRequest {
    target_device_id: String,
    #[serde(default)]
    target_module_id: Option<String>,
    auth_chain: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ModuleRequest {
    auth_chain: String,
    #[serde(default, alias = "moduleId")]
    target_module_id: Option<String>,
    #[serde(default)]
    module: Option<Value>,
}

/// Takes a chain apart; its last link must be the gateway that asks.
fn chain_of(shared: &Shared, text: &str, actor: &str) -> Result<Vec<String>, Refused> {
    let chain: Vec<_> = text.split(';').map(str::to_owned).collect();
    if chain.last().map(String::as_str) != Some(actor) {
        return refused(
            StatusCode::UNAUTHORIZED,
            format!("the authChain {text:?} does not end with {actor}"),
        );
    }
    let target = chain.first().map(String::as_str).unwrap_or_default();
    let checked = shared.state().registry.check_chain(target, &chain);
    checked.or_else(|why| refused(StatusCode::FORBIDDEN, why))?;
    Ok(chain)
}

fn on_gateway(
    shared: &Shared,
    actor: &str,
    action: &str,
    query: &BTreeMap<String, String>,
    body: &[u8],
) -> Answer {
    match action {
        "devicesAndModulesInTargetDeviceScope" => {
            let request: ScopeRequest = parse(body)?;
            let chain = chain_of(shared, &request.auth_chain, actor)?;
            let start = page_start(request.continuation_link.as_deref())?;
            let (mut page, next) = page(shared, &chain[0], start, request.page_size)?;
            page["continuationLink"] = next.map_or(Value::Null, |next| json!(format!("page-{next}")));
            Ok((StatusCode::OK, page))
        }
        "devicesAndModulesInDeviceScope" => {
            let token = query.get("continuationToken").map(String::as_str).filter(|it| !it.is_empty());
            let count = query.get("deviceCount").and_then(|it| it.parse().ok());
            let count = count.ok_or_else(|| Refused(StatusCode::BAD_REQUEST, "no deviceCount".into()))?;
            let (mut page, next) = page(shared, actor, page_start(token)?, count)?;
            page["continuationLink"] = next.map_or(Value::Null, |next| {
                json!(format!(
                    "/devices/{}/modules/$edgeHub/{action}?deviceCount={count}&continuationToken=page-{next}&api-version={FLAT}",
                    bag::encode(actor)
                ))
            });
            Ok((StatusCode::OK, page))
        }
        "getDeviceAndModuleOnBehalfOf" => {
            let request: SingleRequest = parse(body)?;
            let target = target_id(&request.target_device_id, request.target_module_id.as_deref());
            let chain = chain_of(shared, &request.auth_chain, actor)?;
            if chain[0] != target {
                return refused(
                    StatusCode::BAD_REQUEST,
                    format!("the authChain does not begin with {target}"),
                );
            }
            single(shared, actor, &target)
        }
        "deviceAndModuleInDeviceScope" => {
            let device = query.get("targetDeviceId").map(String::as_str).unwrap_or_default();
            let module = query.get("targetModuleId").map(String::as_str).filter(|it| !it.is_empty());
            single(shared, actor, &target_id(device, module))
        }
        "putModuleOnBehalfOf"
        | "getModuleOnBehalfOf"
        | "getModulesOnTargetDevice"
        | "deleteModuleOnBehalfOf" => {
            let request: ModuleRequest = parse(body)?;
            let chain = chain_of(shared, &request.auth_chain, actor)?;
            on_module(shared, action, &chain[0], request)
        }
        _ => refused(StatusCode::NOT_FOUND, format!("there is no {action}")),
    }
}

fn target_id(device: &str, module: Option<&str>) -> String {
    module.map_or_else(|| device.to_owned(), |module| format!("{device}/{module}"))
}

fn page_start(link: Option<&str>) -> Result<usize, Refused> {
    let Some(link) = link else { return Ok(0) };
    let number = link.strip_prefix("page-").and_then(|it| it.parse().ok());
    number.ok_or_else(|| Refused(StatusCode::BAD_REQUEST, format!("{link:?} is no page of ours")))
}

/// One page of a gateway's scope, and where the next begins.
fn page(
    shared: &Shared,
    gateway: &str,
    start: usize,
    size: usize,
) -> Result<(Value, Option<usize>), Refused> {
    if !(1..=PAGE_MAX).contains(&size) {
        return refused(StatusCode::BAD_REQUEST, format!("a page of {size}; 1 to {PAGE_MAX} are allowed"));
    }
    let state = shared.state();
    let (devices, modules) = state.registry.scope(gateway);
    let all: Vec<_> = devices.into_iter().chain(modules).collect();
    let on_page = all.iter().skip(start).take(size);
    let (modules, devices): (Vec<&Identity>, Vec<&Identity>) = on_page.partition(|it| it.module_id.is_some());
    let describe =
        |list: Vec<&Identity>| list.into_iter().map(|it| state.registry.describe(it)).collect::<Vec<_>>();
    let end = start + size;
    let next = (end < all.len()).then_some(end);
    Ok((json!({"devices": describe(devices), "modules": describe(modules)}), next))
}

/// One identity below the gateway, a module with its device.
fn single(shared: &Shared, actor: &str, target: &str) -> Answer {
    let state = shared.state();
    let Some(identity) = state.registry.find(target) else {
        return refused(StatusCode::NOT_FOUND, format!("there is no identity {target}"));
    };
    if !state.registry.is_below(identity, actor) {
        return refused(StatusCode::FORBIDDEN, format!("{target} is not in the scope of {actor}"));
    }
    let device = state.registry.find(&identity.device_id).into_iter().map(|it| state.registry.describe(it));
    let modules = identity.module_id.is_some().then(|| state.registry.describe(identity));
    let devices: Vec<_> = device.collect();
    let modules: Vec<_> = modules.into_iter().collect();
    Ok((StatusCode::OK, json!({"devices": devices, "modules": modules, "continuationLink": null})))
}

/// Modules of a gateway further down, for its daemon.
fn on_module(shared: &Shared, action: &str, device: &str, request: ModuleRequest) -> Answer {
    let mut state = shared.state();
    if action == "getModulesOnTargetDevice" {
        let modules = state.registry.scope(device).1;
        return Ok((StatusCode::OK, modules.into_iter().map(|it| state.registry.describe(it)).collect()));
    }
    let named = request.module.as_ref().and_then(|it| it["moduleId"].as_str()).map(str::to_owned);
    let Some(module) = request.target_module_id.or(named) else {
        return refused(StatusCode::BAD_REQUEST, "no module is named");
    };
    let id = format!("{device}/{module}");
    match action {
        "putModuleOnBehalfOf" => {
            let given = request.module.unwrap_or_default();
            let keys = &given["authentication"]["symmetricKey"];
            let mut identity = Identity::module(device, &module);
            if let (Some(primary), Some(secondary)) =
                (keys["primaryKey"].as_str(), keys["secondaryKey"].as_str())
            {
                identity = identity.with(Authentication::Sas {
                    primary_key: primary.into(),
                    secondary_key: secondary.into(),
                });
            }
            let identity = state.registry.put(identity).cloned();
            let identity = identity.or_else(|why| refused(StatusCode::NOT_FOUND, why))?;
            Ok((StatusCode::OK, state.registry.describe(&identity)))
        }
        "deleteModuleOnBehalfOf" => {
            if state.registry.remove(&id) {
                Ok((StatusCode::OK, Value::Null))
            } else {
                refused(StatusCode::NOT_FOUND, format!("there is no identity {id}"))
            }
        }
        _ => match state.registry.find(&id) {
            Some(identity) => Ok((StatusCode::OK, state.registry.describe(identity))),
            None => refused(StatusCode::NOT_FOUND, format!("there is no identity {id}")),
        },
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MethodCall {
    method_name: String,
    #[serde(default)]
    payload: Value,
    #[serde(default)]
    response_timeout_in_seconds: Option<u64>,
    #[serde(default)]
    connect_timeout_in_seconds: Option<u64>,
}

/// A module calls a method of a device or of another module.
async fn on_method(
    shared: &Shared,
    device: &str,
    module: Option<&str>,
    headers: &HeaderMap,
    query: &BTreeMap<String, String>,
    body: &[u8],
) -> Answer {
    // The Node SDK sends none.
    if query.keys().any(|key| key != "api-version") {
        return refused(StatusCode::BAD_REQUEST, format!("{query:?}: only api-version is allowed"));
    }
    let caller = headers.get("x-ms-edge-moduleid").and_then(|it| it.to_str().ok()).unwrap_or_default();
    let Some((caller_device, caller_module)) = caller.split_once('/') else {
        return refused(
            StatusCode::BAD_REQUEST,
            format!("x-ms-edge-moduleId is {caller:?}, not device/module"),
        );
    };
    authenticate(shared, headers, caller_device, caller_module)?;
    let call: MethodCall = parse(body)?;
    if call.method_name.is_empty() || call.method_name.len() > METHOD_NAME_MAX {
        return refused(StatusCode::BAD_REQUEST, "the name of the method has 1 to 100 characters");
    }
    if call.payload.to_string().len() > METHOD_PAYLOAD_MAX {
        return refused(StatusCode::BAD_REQUEST, "the payload of a method has at most 128 KiB");
    }
    let response = call.response_timeout_in_seconds.unwrap_or(30);
    let connect = call.connect_timeout_in_seconds.unwrap_or(0);
    if !(5..=300).contains(&response) || connect > 300 {
        return refused(
            StatusCode::BAD_REQUEST,
            "time-outs are 5 to 300 s for the response, 0 to 300 s for the connection",
        );
    }
    let id = target_id(device, module);
    let seconds = Duration::from_secs;
    match shared.call(&id, &call.method_name, &call.payload, seconds(response), seconds(connect)).await {
        Ok((status, payload)) => Ok((StatusCode::OK, json!({"status": status, "payload": payload}))),
        Err(CallError::NotFound) => {
            refused(StatusCode::NOT_FOUND, format!("{id} is not connected, or has no methods"))
        }
        Err(CallError::NoAnswer) => {
            refused(StatusCode::GATEWAY_TIMEOUT, format!("{id} did not answer in time"))
        }
    }
}
