//! A double of the Workload API: what a module asks the security daemon of its gateway for, over a Unix socket or HTTP.
//!
//! Knows: sign, encrypt, decrypt, server certificate, trust bundle, manifest trust bundle, in three versions.
//! In: requests of modules it knows. Out: what the daemon would answer; every request is recorded. Strict on paths,
//! methods, versions and bodies; wrong on command. Always: it ends when dropped, and its socket is gone then.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State as Extracted};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::body::Frame;
use ring::aead;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;

use crate::authority::Authority;
use crate::state::RECORDS_MAX;
use crate::{bag, sas};

/// Versions of the API, oldest first. The last one brought the manifest trust bundle.
pub const VERSIONS: [&str; 3] = ["2018-06-28", "2019-01-30", "2020-07-07"];
/// Largest body of a request: a twin of 32 KiB as base64 fits with room to spare.
const BODY_BYTES_MAX: usize = 4 << 20;

/// A module that may ask.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its name.
    pub module_id: String,
    /// Its generation, part of every path.
    pub generation_id: String,
    /// Its keys, base64: primary and secondary.
    pub keys: [String; 2],
}

/// What to do wrong. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Misbehaviour {
    /// Answer so much later.
    pub delay: Duration,
    /// Answer with this status and a message.
    pub status: Option<u16>,
    /// Answer 200 with this body.
    pub body: Option<String>,
    /// Begin an answer and close the connection before its body.
    pub hang_up: bool,
    /// Only requests that end with this: `sign`, `encrypt`, …; empty for all.
    pub only: String,
    /// Only so many times.
    pub count: Option<u32>,
}

/// A request that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `POST /modules/m/genid/1/sign?api-version=2018-06-28`.
    pub line: String,
    /// The answer.
    pub status: u16,
    /// What was wrong with it; empty if nothing.
    pub why: String,
}

struct Daemon {
    authority: Authority,
    master: [u8; 32],
    inner: Mutex<Inner>,
}

struct Inner {
    modules: BTreeMap<String, Module>,
    /// Further authorities of the trust bundle, PEM.
    trusted: Vec<String>,
    manifest_trusted: Option<String>,
    wrong: Misbehaviour,
    asked: VecDeque<Asked>,
    certificate_life: Option<Duration>,
    certificates: u64,
}

impl Daemon {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A running Workload API.
pub struct Workload {
    daemon: Arc<Daemon>,
    socket: PathBuf,
    http: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Workload {
    /// Serves at this socket, which must not be there yet, and over HTTP at a free port of this machine.
    pub fn start(socket: &Path) -> io::Result<Workload> {
        let mut master = [0; 32];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut master)
            .map_err(|_| io::Error::other("the system has no random numbers"))?;
        let inner = Inner {
            modules: BTreeMap::new(),
            trusted: Vec::new(),
            manifest_trusted: None,
            wrong: Misbehaviour::default(),
            asked: VecDeque::new(),
            certificate_life: None,
            certificates: 0,
        };
        let authority = Authority::new("Test Gateway Authority");
        let daemon = Arc::new(Daemon { authority, master, inner: Mutex::new(inner) });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (unix, tcp) = runtime.block_on(async {
            Ok::<_, io::Error>((UnixListener::bind(socket)?, TcpListener::bind(("127.0.0.1", 0)).await?))
        })?;
        let http = tcp.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&daemon);
        let thread = std::thread::Builder::new().name("test-workload".into()).spawn(move || {
            runtime.block_on(async move {
                let router = axum::Router::new().fallback(handle).with_state(serving);
                // Neither ends while the value lives.
                tokio::spawn(axum::serve(unix, router.clone()).into_future());
                tokio::spawn(axum::serve(tcp, router).into_future());
                stopped.await.ok();
            });
            runtime.shutdown_background();
        })?;
        Ok(Workload { daemon, socket: socket.to_owned(), http, stop: Some(stop), thread: Some(thread) })
    }

    /// For `IOTEDGE_WORKLOADURI`.
    pub fn unix_uri(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// For `IOTEDGE_WORKLOADURI`, over HTTP.
    pub fn http_uri(&self) -> String {
        format!("http://{}", self.http)
    }

    /// Lets a module ask.
    pub fn put(&self, module: Module) {
        self.daemon.inner().modules.insert(module.module_id.clone(), module);
    }

    /// Adds an authority (PEM) to the trust bundle.
    pub fn trust(&self, pem: &str) {
        self.daemon.inner().trusted.push(pem.to_owned());
    }

    /// Sets the manifest trust bundle; without one it is 404.
    pub fn trust_manifests(&self, pem: &str) {
        self.daemon.inner().manifest_trusted = Some(pem.to_owned());
    }

    /// The authority that signs server certificates, PEM.
    pub fn ca_pem(&self) -> String {
        self.daemon.authority.pem()
    }

    /// Server certificates live so long, whatever is asked for.
    pub fn limit_certificates(&self, life: Option<Duration>) {
        self.daemon.inner().certificate_life = life;
    }

    /// How many server certificates were made.
    pub fn certificates(&self) -> u64 {
        self.daemon.inner().certificates
    }

    /// Does this wrong from now on.
    pub fn misbehave(&self, wrong: Misbehaviour) {
        self.daemon.inner().wrong = wrong;
    }

    /// What was asked.
    pub fn asked(&self) -> Vec<Asked> {
        self.daemon.inner().asked.iter().cloned().collect()
    }

    /// What was asked wrongly; empty after a good test.
    pub fn violations(&self) -> Vec<Asked> {
        self.asked().into_iter().filter(|it| !it.why.is_empty()).collect()
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).ok();
        }
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
        // Fails only if the directory is gone already.
        std::fs::remove_file(&self.socket).ok();
    }
}

struct Refused(StatusCode, String);

type Answer = Result<(StatusCode, Value), Refused>;

fn refused<T>(status: StatusCode, why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(status, why.into()))
}

async fn handle(Extracted(daemon): Extracted<Arc<Daemon>>, request: Request) -> Response {
    let line = format!("{} {}", request.method(), request.uri());
    let wrong = {
        let mut inner = daemon.inner();
        let wrong = inner.wrong.clone();
        let fits = request.uri().path().ends_with(&wrong.only) && wrong.count != Some(0);
        if fits && let Some(count) = &mut inner.wrong.count {
            *count -= 1;
        }
        if fits { wrong } else { Misbehaviour::default() }
    };
    tokio::time::sleep(wrong.delay).await;
    let answer = if wrong.hang_up {
        note(&daemon, line, 0, String::new());
        return Response::new(Body::new(Broken));
    } else if let Some(status) = wrong.status.and_then(|it| StatusCode::from_u16(it).ok()) {
        note(&daemon, line, status.as_u16(), String::new());
        return (status, axum::Json(json!({"message": "on command"}))).into_response();
    } else if let Some(body) = wrong.body {
        note(&daemon, line, 200, String::new());
        return ([(header::CONTENT_TYPE, "application/json")], body).into_response();
    } else {
        dispatch(&daemon, request).await
    };
    match answer {
        Ok((status, body)) => {
            note(&daemon, line, status.as_u16(), String::new());
            (status, axum::Json(body)).into_response()
        }
        Err(Refused(status, why)) => {
            note(&daemon, line, status.as_u16(), why.clone());
            (status, axum::Json(json!({"message": why}))).into_response()
        }
    }
}

/// A body that fails before its first byte, so that the server closes the connection.
struct Broken;

impl axum::body::HttpBody for Broken {
    type Data = axum::body::Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, io::Error>>> {
        Poll::Ready(Some(Err(io::Error::other("on command"))))
    }
}

fn note(daemon: &Daemon, line: String, status: u16, why: String) {
    let mut inner = daemon.inner();
    if inner.asked.len() == RECORDS_MAX {
        inner.asked.pop_front();
    }
    inner.asked.push_back(Asked { line, status, why });
}

async fn dispatch(daemon: &Daemon, request: Request) -> Answer {
    let bad = |why: String| Refused(StatusCode::BAD_REQUEST, why);
    let (parts, body) = request.into_parts();
    let query = bag::pairs(parts.uri.query().unwrap_or_default()).map_err(bad)?;
    let [(key, version)] = &query[..] else {
        return refused(StatusCode::BAD_REQUEST, "the query must be api-version alone");
    };
    if key != "api-version" || !VERSIONS.contains(&version.as_str()) {
        return refused(
            StatusCode::BAD_REQUEST,
            format!("{key}={version}: api-version is one of {VERSIONS:?}"),
        );
    }
    let media = parts.headers.get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok());
    // The Python SDK says nothing of its body.
    if media.is_some_and(|it| it.split(';').next().map(str::trim) != Some("application/json")) {
        return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("a body of {media:?}"));
    }
    let body = to_bytes(body, BODY_BYTES_MAX).await.map_err(|error| bad(error.to_string()))?;
    let segments =
        parts.uri.path().split('/').skip(1).map(bag::decode).collect::<Result<Vec<_>, _>>().map_err(bad)?;
    let segments: Vec<_> = segments.iter().map(String::as_str).collect();
    match &segments[..] {
        ["trust-bundle"] => {
            expect(&parts.method, Method::GET)?;
            let mut bundle = daemon.authority.pem();
            for pem in &daemon.inner().trusted {
                bundle.push_str(pem);
            }
            Ok((StatusCode::OK, json!({"certificate": bundle})))
        }
        ["manifest-trust-bundle"] => {
            expect(&parts.method, Method::GET)?;
            if version != VERSIONS[2] {
                return refused(StatusCode::NOT_FOUND, "there is no manifest-trust-bundle in this version");
            }
            match &daemon.inner().manifest_trusted {
                Some(pem) => Ok((StatusCode::OK, json!({"certificate": pem}))),
                // A question that may be asked: not a mistake.
                None => Ok((StatusCode::NOT_FOUND, json!({"message": "there is no manifest trust bundle"}))),
            }
        }
        ["modules", module, "genid", generation, action @ ..] => {
            expect(&parts.method, Method::POST)?;
            let found = daemon.inner().modules.get(*module).cloned();
            let Some(found) = found.filter(|it| it.generation_id == *generation) else {
                return refused(
                    StatusCode::NOT_FOUND,
                    format!("there is no module {module} of generation {generation}"),
                );
            };
            match action {
                ["sign"] => sign(&found, &body),
                ["encrypt"] => encrypt(daemon, &found, &body),
                ["decrypt"] => decrypt(daemon, &found, &body),
                ["certificate", "server"] => server_certificate(daemon, &body),
                _ => refused(StatusCode::NOT_FOUND, "there is nothing here"),
            }
        }
        _ => refused(StatusCode::NOT_FOUND, "there is nothing here"),
    }
}

fn expect(given: &Method, wanted: Method) -> Result<(), Refused> {
    if *given == wanted {
        return Ok(());
    }
    refused(StatusCode::METHOD_NOT_ALLOWED, format!("{given}, not {wanted}"))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body)
        .or_else(|error| refused(StatusCode::BAD_REQUEST, format!("the body: {error}")))
}

fn base64(name: &str, text: &str) -> Result<Vec<u8>, Refused> {
    BASE64
        .decode(text)
        .or_else(|error| refused(StatusCode::BAD_REQUEST, format!("{name} is not base64: {error}")))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Sign {
    key_id: String,
    algo: String,
    data: String,
}

fn sign(module: &Module, body: &[u8]) -> Answer {
    let wish: Sign = parse(body)?;
    let key = match wish.key_id.as_str() {
        "primary" => &module.keys[0],
        "secondary" => &module.keys[1],
        other => {
            return refused(StatusCode::BAD_REQUEST, format!("keyId is {other:?}: primary or secondary"));
        }
    };
    if wish.algo != "HMACSHA256" {
        return refused(StatusCode::BAD_REQUEST, format!("algo is {:?}: HMACSHA256", wish.algo));
    }
    let digest = sas::digest(&base64("the key", key)?, &base64("data", &wish.data)?);
    Ok((StatusCode::OK, json!({"digest": BASE64.encode(digest)})))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Encrypt {
    plaintext: String,
    initialization_vector: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Decrypt {
    ciphertext: String,
    initialization_vector: String,
}

/// The key of one module and vector: another module, or another vector, cannot read it.
fn cipher(daemon: &Daemon, module: &Module, vector: &str) -> Result<aead::LessSafeKey, Refused> {
    let vector = base64("initializationVector", vector)?;
    if vector.is_empty() {
        return refused(StatusCode::BAD_REQUEST, "an empty initializationVector");
    }
    let mut context = format!("{}/{}/", module.module_id, module.generation_id).into_bytes();
    context.extend_from_slice(&vector);
    let key = sas::digest(&daemon.master, &context);
    let key = aead::UnboundKey::new(&aead::AES_256_GCM, &key);
    Ok(aead::LessSafeKey::new(key.expect("a digest of SHA-256 is as long as the key")))
}

/// The key is used for one vector only, and the daemon's cipher is deterministic, too: equal texts look equal.
fn nonce() -> aead::Nonce {
    aead::Nonce::assume_unique_for_key([0; 12])
}

fn encrypt(daemon: &Daemon, module: &Module, body: &[u8]) -> Answer {
    let wish: Encrypt = parse(body)?;
    let key = cipher(daemon, module, &wish.initialization_vector)?;
    let mut text = base64("plaintext", &wish.plaintext)?;
    let sealed = key.seal_in_place_append_tag(nonce(), aead::Aad::empty(), &mut text);
    sealed.or_else(|_| refused(StatusCode::INTERNAL_SERVER_ERROR, "it cannot be encrypted"))?;
    Ok((StatusCode::OK, json!({"ciphertext": BASE64.encode(text)})))
}

fn decrypt(daemon: &Daemon, module: &Module, body: &[u8]) -> Answer {
    let wish: Decrypt = parse(body)?;
    let key = cipher(daemon, module, &wish.initialization_vector)?;
    let mut text = base64("ciphertext", &wish.ciphertext)?;
    match key.open_in_place(nonce(), aead::Aad::empty(), &mut text) {
        Ok(plain) => Ok((StatusCode::OK, json!({"plaintext": BASE64.encode(plain)}))),
        Err(_) => {
            refused(StatusCode::BAD_REQUEST, "the ciphertext is not by this module, or not with this vector")
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServerCertificate {
    common_name: String,
    expiration: String,
}

fn server_certificate(daemon: &Daemon, body: &[u8]) -> Answer {
    let wish: ServerCertificate = parse(body)?;
    if wish.common_name.is_empty() {
        return refused(StatusCode::BAD_REQUEST, "an empty commonName");
    }
    let asked = from_rfc3339(&wish.expiration).map_err(|why| Refused(StatusCode::BAD_REQUEST, why))?;
    let now = time::OffsetDateTime::now_utc();
    if asked <= now {
        return refused(StatusCode::BAD_REQUEST, format!("expiration {} is over", wish.expiration));
    }
    let mut inner = daemon.inner();
    inner.certificates += 1;
    let mut life = asked - now;
    if let Some(limit) = inner.certificate_life {
        life = life.min(time::Duration::try_from(limit).unwrap_or(life));
    }
    let issued = daemon.authority.server(&[&wish.common_name], -time::Duration::minutes(5), life);
    let chain = format!("{}{}", issued.certificate, daemon.authority.pem());
    Ok((
        StatusCode::CREATED,
        json!({
            "privateKey": {"type": "key", "bytes": issued.key}, "certificate": chain,
            "expiration": crate::rfc3339(issued.not_after.into()),
        }),
    ))
}

/// `2026-01-31T12:00:00[.fff]Z` or with an offset `+00:00`.
fn from_rfc3339(text: &str) -> Result<time::OffsetDateTime, String> {
    let wrong = || format!("expiration is {text:?}, not a time such as 2026-01-31T12:00:00Z");
    let utc = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00")).ok_or_else(wrong)?;
    let (date, clock) = utc.split_once('T').ok_or_else(wrong)?;
    let clock = clock.split_once('.').map_or(clock, |(whole, _)| whole);
    let numbers = |text: &str, by: char| -> Option<[i32; 3]> {
        text.split(by).map(|it| it.parse().ok()).collect::<Option<Vec<_>>>()?.try_into().ok()
    };
    let [year, month, day] = numbers(date, '-').ok_or_else(wrong)?;
    let [hour, minute, second] = numbers(clock, ':').ok_or_else(wrong)?;
    let small = |it: i32| u8::try_from(it).map_err(|_| wrong());
    let month = time::Month::try_from(small(month)?).map_err(|_| wrong())?;
    let date = time::Date::from_calendar_date(year, month, small(day)?).map_err(|_| wrong())?;
    let clock = time::Time::from_hms(small(hour)?, small(minute)?, small(second)?).map_err(|_| wrong())?;
    Ok(time::PrimitiveDateTime::new(date, clock).assume_utc())
}
