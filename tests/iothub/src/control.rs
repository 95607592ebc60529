//! The control port: what `Hub` offers as methods, for tests in other languages, as JSON over plain HTTP.
//!
//! In: `GET /ready`, `/identities`, `/telemetry`, `/events`, `/connections`, `/counts`, `/twin`, `/feedback`;
//! `PUT /identities`, `/faults`, `/hub`; `PATCH /twin`; `POST /disconnect`, `/method`, `/c2d`, `/input`, `/release`,
//! `/authorities`, `/enabled`; `DELETE /identities`, `/faults`. Out: JSON; 400 with a sentence for what is not understood.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{Query, State as Extracted};
use axum::http::StatusCode;
use axum::routing::{get, patch, post, put};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::bag::Pairs;
use crate::faults::Faults;
use crate::hub::{CallError, Certificate, Shared};
use crate::identity::Identity;
use crate::state::{CloudMessage, Telemetry};

type Hub = Extracted<Arc<Shared>>;
type Answer = Result<axum::Json<Value>, (StatusCode, String)>;

fn ok(value: Value) -> Answer {
    Ok(axum::Json(value))
}

fn bad<T>(why: impl Into<String>) -> Result<T, (StatusCode, String)> {
    Err((StatusCode::BAD_REQUEST, why.into()))
}

pub(crate) async fn serve(
    shared: Arc<Shared>,
    listener: TcpListener,
    addresses: (SocketAddr, SocketAddr, SocketAddr),
) {
    let ready = json!({
        "host": shared.host, "mqtt": addresses.0.to_string(), "https": addresses.1.to_string(),
        "control": addresses.2.to_string(), "caPem": shared.authority.pem(),
    });
    let router = Router::new()
        .route("/ready", get(move || async move { axum::Json(ready) }))
        .route("/identities", get(identities).put(put_identity).delete(delete_identity))
        .route("/enabled", post(enable))
        .route("/authorities", post(trust))
        .route("/telemetry", get(telemetry))
        .route("/counts", get(counts))
        .route("/events", get(events))
        .route("/connections", get(connections))
        .route("/disconnect", post(disconnect))
        .route("/twin", get(twin).patch(patch_twin))
        .route("/method", post(method))
        .route("/c2d", post(cloud_to_device))
        .route("/feedback", get(feedback))
        .route("/input", post(input))
        .route("/release", post(release))
        .route("/faults", put(set_faults).delete(clear_faults))
        .route("/hub", patch(change_hub))
        .with_state(shared);
    // Does not end while the hub lives.
    axum::serve(listener, router).await.ok();
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Since {
    #[serde(default)]
    since: u64,
    #[serde(default)]
    id: Option<String>,
}

async fn identities(Extracted(hub): Hub) -> Answer {
    ok(json!(hub.state().registry.all().collect::<Vec<_>>()))
}

async fn put_identity(Extracted(hub): Hub, axum::Json(identity): axum::Json<Identity>) -> Answer {
    match hub.state().registry.put(identity) {
        Ok(identity) => ok(json!(identity)),
        Err(why) => bad(why),
    }
}

async fn delete_identity(Extracted(hub): Hub, Query(which): Query<Which>) -> Answer {
    let mut state = hub.state();
    state.disconnect(&which.id, false);
    ok(json!({"removed": state.registry.remove(&which.id)}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Enable {
    id: String,
    enabled: bool,
}

async fn enable(Extracted(hub): Hub, axum::Json(wish): axum::Json<Enable>) -> Answer {
    let mut state = hub.state();
    let Some(identity) = state.registry.find_mut(&wish.id) else {
        return bad(format!("there is no {}", wish.id));
    };
    identity.enabled = wish.enabled;
    if !wish.enabled {
        state.disconnect(&wish.id, false);
    }
    ok(json!({}))
}

async fn trust(Extracted(hub): Hub, pem: String) -> Answer {
    hub.state().authorities.push(pem);
    ok(json!({}))
}

fn shown(message: &Telemetry) -> Value {
    let text = std::str::from_utf8(&message.body).ok();
    json!({
        "number": message.number, "atMs": u64::try_from(message.at.as_millis()).unwrap_or(u64::MAX),
        "id": message.id(), "deviceId": message.device_id, "moduleId": message.module_id,
        "system": message.system.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "properties": message.properties.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "body": text, "bodyBase64": BASE64.encode(&message.body), "dup": message.dup, "qos": message.qos,
        "connection": message.connection, "will": message.will,
    })
}

async fn telemetry(Extracted(hub): Hub, Query(since): Query<Since>) -> Answer {
    let state = hub.state();
    let found = state.telemetry.iter().filter(|it| it.number > since.since);
    let found = found.filter(|it| since.id.as_ref().is_none_or(|id| *id == it.id()));
    ok(found.map(shown).collect())
}

async fn counts(Extracted(hub): Hub) -> Answer {
    let state = hub.state();
    ok(json!({"recorded": state.recorded, "byId": state.counts}))
}

async fn events(Extracted(hub): Hub, Query(since): Query<Since>) -> Answer {
    let state = hub.state();
    let found = state.events.iter().filter(|it| it.number > since.since);
    ok(json!(found.filter(|it| since.id.as_ref().is_none_or(|id| *id == it.id)).collect::<Vec<_>>()))
}

async fn connections(Extracted(hub): Hub) -> Answer {
    ok(json!(hub.connections()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Disconnect {
    id: String,
    #[serde(default)]
    reset: bool,
}

async fn disconnect(Extracted(hub): Hub, axum::Json(wish): axum::Json<Disconnect>) -> Answer {
    ok(json!({"disconnected": hub.state().disconnect(&wish.id, wish.reset)}))
}

async fn twin(Extracted(hub): Hub, Query(which): Query<Which>) -> Answer {
    ok(hub.state().twins.get(&which.id).cloned().unwrap_or_default().document())
}

async fn patch_twin(
    Extracted(hub): Hub,
    Query(which): Query<Which>,
    axum::Json(wish): axum::Json<Value>,
) -> Answer {
    match hub.state().patch_desired(&which.id, &wish) {
        Ok(version) => ok(json!({"version": version})),
        Err(why) => bad(why),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Call {
    id: String,
    method_name: String,
    #[serde(default)]
    payload: Value,
    #[serde(default = "thirty")]
    response_timeout_in_seconds: f64,
    #[serde(default)]
    connect_timeout_in_seconds: f64,
}

const fn thirty() -> f64 {
    30.0
}

async fn method(Extracted(hub): Hub, axum::Json(call): axum::Json<Call>) -> Answer {
    let seconds = |it: f64| Duration::try_from_secs_f64(it).or_else(|error| bad(error.to_string()));
    let (response, connect) =
        (seconds(call.response_timeout_in_seconds)?, seconds(call.connect_timeout_in_seconds)?);
    match hub.call(&call.id, &call.method_name, &call.payload, response, connect).await {
        Ok((status, payload)) => ok(json!({"status": status, "payload": payload})),
        Err(CallError::NotFound) => Err((StatusCode::NOT_FOUND, format!("{} does not listen", call.id))),
        Err(CallError::NoAnswer) => {
            Err((StatusCode::GATEWAY_TIMEOUT, format!("{} does not answer", call.id)))
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Send {
    id: String,
    #[serde(default)]
    input: String,
    #[serde(default)]
    message_id: String,
    #[serde(default)]
    body: String,
    #[serde(default)]
    properties: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    system: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    ack: String,
    #[serde(default)]
    expires_in_secs: Option<i64>,
}

impl Send {
    fn message(&self) -> CloudMessage {
        let pairs = |map: &std::collections::BTreeMap<String, String>| -> Pairs {
            map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        CloudMessage {
            message_id: self.message_id.clone(),
            body: self.body.clone().into_bytes(),
            properties: pairs(&self.properties),
            system: pairs(&self.system),
            ack: self.ack.clone(),
            expires: self.expires_in_secs.map(|secs| {
                let span = Duration::from_secs(secs.unsigned_abs());
                if secs < 0 { SystemTime::now() - span } else { SystemTime::now() + span }
            }),
        }
    }
}

async fn cloud_to_device(Extracted(hub): Hub, axum::Json(send): axum::Json<Send>) -> Answer {
    let mut state = hub.state();
    if state.registry.find(&send.id).is_none_or(|it| it.module_id.is_some()) {
        return bad(format!("there is no device {}", send.id));
    }
    state.send_to_device(&send.id, send.message());
    ok(json!({}))
}

async fn feedback(Extracted(hub): Hub) -> Answer {
    ok(json!(hub.state().feedback))
}

async fn input(Extracted(hub): Hub, axum::Json(send): axum::Json<Send>) -> Answer {
    ok(json!({"sent": hub.state().send_to_input(&send.id, &send.input, &send.message())}))
}

async fn release(Extracted(hub): Hub, axum::Json(which): axum::Json<Which>) -> Answer {
    ok(json!({"released": hub.state().release(&which.id)}))
}

#[derive(Deserialize)]
struct Wrong {
    #[serde(default)]
    id: Option<String>,
    faults: Faults,
}

async fn set_faults(Extracted(hub): Hub, axum::Json(wish): axum::Json<Wrong>) -> Answer {
    hub.state().set_faults(wish.id.as_deref(), wish.faults);
    ok(json!({}))
}

async fn clear_faults(Extracted(hub): Hub) -> Answer {
    hub.state().clear_faults();
    hub.show(Certificate::Good);
    ok(json!({}))
}

/// What concerns the hub as a whole; what is left out stays as it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Change {
    offline: Option<bool>,
    mute: Option<bool>,
    certificate: Option<Certificate>,
    clock_skew_secs: Option<i64>,
    /// 0: as it should be.
    rest_status: Option<u16>,
}

async fn change_hub(Extracted(hub): Hub, axum::Json(change): axum::Json<Change>) -> Answer {
    if let Some(offline) = change.offline {
        hub.set_offline(offline);
    }
    if let Some(certificate) = change.certificate {
        hub.show(certificate);
    }
    let mut state = hub.state();
    state.mute = change.mute.unwrap_or(state.mute);
    state.clock_skew_secs = change.clock_skew_secs.unwrap_or(state.clock_skew_secs);
    if let Some(status) = change.rest_status {
        state.rest_status = Some(status).filter(|it| *it != 0);
    }
    ok(json!({}))
}
