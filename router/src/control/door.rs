//! The door itself: the same answers as HTTP, and those that change something, which are given nowhere else.
//!
//! In: requests through a Unix socket of mode 0600. Out: JSON; errors as text with a fitting code.
//! Changes are made by the keeper of poison lanes and are durable when they are answered.

use std::path::Path;
use std::sync::Arc;

use axum::extract::{Path as Segments, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use model::Seq;
use serde::Deserialize;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use super::report;
use crate::http::{Overview, routes};
use crate::net::{SocketFile, listen_unix};
use crate::upstream::poison::{Action, Command};

/// Only the router's user may connect.
const MODE: u32 = 0o600;

#[derive(Clone)]
struct Door {
    overview: Arc<Overview>,
    commands: mpsc::Sender<Command>,
}

/// Takes the path.
pub(crate) fn bind(path: &Path) -> anyhow::Result<(UnixListener, SocketFile)> {
    listen_unix(path, MODE).map_err(|problem| {
        anyhow::anyhow!(
            "control.path = \"{}\": {problem}; set control.path to another (and shorter) path, or to \"off\"",
            path.display()
        )
    })
}

/// Answers for ever; the socket's file goes with it.
pub(crate) async fn serve(
    (listener, file): (UnixListener, SocketFile),
    overview: Arc<Overview>,
    commands: mpsc::Sender<Command>,
) {
    let door = Door { overview: Arc::clone(&overview), commands };
    let own = Router::new()
        .route("/lanes", get(lanes))
        .route("/poison", get(list))
        .route("/poison/{uplink}/{place}", get(show))
        .route("/poison/{uplink}/{places}/retry", post(retry))
        .route("/poison/{uplink}/{places}/drop", post(discard))
        .with_state(door);
    if let Err(error) = axum::serve(listener, routes(overview).merge(own)).await {
        tracing::error!(%error, "the control socket ends");
    }
    drop(file);
}

fn failed(error: impl std::fmt::Display) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
}

async fn lanes(State(door): State<Door>) -> Response {
    report::lanes(&door.overview.reader).map_or_else(failed, |lanes| Json(lanes).into_response())
}

#[derive(Deserialize)]
struct Of {
    uplink: Option<String>,
}

async fn list(State(door): State<Door>, Query(of): Query<Of>) -> Response {
    match report::poison(&door.overview.reader, of.uplink.as_deref()) {
        Ok(Some(list)) => Json(list).into_response(),
        Ok(None) => (StatusCode::NOT_FOUND, "there is no such uplink").into_response(),
        Err(error) => failed(error),
    }
}

async fn show(State(door): State<Door>, Segments((uplink, place)): Segments<(String, u64)>) -> Response {
    match report::poisoned(&door.overview.reader, &uplink, place) {
        Some(report) => Json(report).into_response(),
        None => {
            let text = format!("there is no message {place} in the poison lane of {uplink}");
            (StatusCode::NOT_FOUND, text).into_response()
        }
    }
}

async fn retry(State(door): State<Door>, Segments((uplink, places)): Segments<(String, String)>) -> Response {
    obey(door, uplink, &places, Action::Retry).await
}

async fn discard(
    State(door): State<Door>,
    Segments((uplink, places)): Segments<(String, String)>,
) -> Response {
    obey(door, uplink, &places, Action::Drop).await
}

async fn obey(door: Door, uplink: String, places: &str, action: Action) -> Response {
    let places = match places {
        "all" => None,
        some => match some.split(',').map(|place| place.parse().ok().and_then(Seq::new)).collect() {
            Some(places) => Some(places),
            None => return (StatusCode::BAD_REQUEST, "places are numbers from 1, or `all`").into_response(),
        },
    };
    let (reply, answer) = oneshot::channel();
    if door.commands.send(Command { uplink, action, places, reply }).await.is_err() {
        return failed("the router stops");
    }
    match answer.await {
        Ok(Ok(obeyed)) => Json(obeyed).into_response(),
        Ok(Err(problem)) => (StatusCode::CONFLICT, problem).into_response(),
        Err(_) => failed("the router stops; look again after it has started"),
    }
}
