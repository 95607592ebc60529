//! The hub as a value: starts its listeners on a thread of its own, and is asked and told by method calls.
//!
//! In: where to listen, identities, faults, messages from the cloud. Out: what arrived. Always: it ends when dropped.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::authority::Authority;
use crate::faults::{Farewell, Faults};
use crate::identity::Identity;
use crate::session::{self, Abort};
use crate::state::{CloudMessage, Event, Feedback, State, Telemetry};
use crate::tls::{self, Shown};
use crate::twin::Twin;
use crate::{control, rest};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// HTTPS connections that have shaken hands and wait to be served.
const ACCEPTED_MAX: usize = 64;

/// Where to listen, and as whom.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the hub: in user names, tokens and its certificate.
    pub host: String,
    /// MQTT over TLS.
    pub mqtt: SocketAddr,
    /// MQTT over WebSocket, and the service's REST, over TLS.
    pub https: SocketAddr,
    /// The control port, plain HTTP; for tests only.
    pub control: SocketAddr,
}

impl Default for Config {
    /// `localhost`, on free ports of this machine.
    fn default() -> Self {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        Config { host: "localhost".into(), mqtt: free, https: free, control: free }
    }
}

impl Config {
    /// As an unmodified SDK expects it, which knows only ports 8883 and 443: at an address of the loopback network of
    /// its own, which is also its name.
    pub fn at(address: std::net::IpAddr) -> Config {
        Config {
            host: address.to_string(),
            mqtt: (address, 8_883).into(),
            https: (address, 443).into(),
            control: (address, 0).into(),
        }
    }
}

/// Which certificate the hub shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Certificate {
    /// By its own authority, for its name, valid now.
    Good,
    /// For another name.
    WrongName,
    /// Over since yesterday.
    Expired,
    /// Begins tomorrow.
    NotYetValid,
    /// By an authority that nobody knows.
    Stranger,
}

/// Why a method was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CallError {
    /// Not connected, or not subscribed: 404.
    NotFound,
    /// No answer in time: 504.
    NoAnswer,
}

/// A connection that lives, as seen by a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connected {
    /// Whose.
    pub id: String,
    /// Counted from 1.
    pub number: u64,
    /// `tls` or `websocket`.
    pub transport: &'static str,
    /// `DeviceClientType`.
    pub product_info: Option<String>,
    /// `model-id`.
    pub model_id: Option<String>,
    /// `auth-chain`; empty if it speaks for itself.
    pub auth_chain: Vec<String>,
    /// As sent.
    pub api_version: String,
    /// Seconds.
    pub keep_alive_secs: u16,
    /// Clean session.
    pub clean_session: bool,
    /// What it subscribed to.
    pub filters: Vec<String>,
}

/// What all parts of the hub share.
pub(crate) struct Shared {
    pub(crate) host: String,
    pub(crate) authority: Authority,
    names: Vec<String>,
    shown: Arc<Shown>,
    state: Mutex<State>,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // A test that panics while it looks must not hide behind a second panic in here.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn show(&self, certificate: Certificate) {
        use time::Duration as Span;
        let names: Vec<_> = self.names.iter().map(String::as_str).collect();
        let (hour, day, week) = (Span::hours(1), Span::days(1), Span::days(7));
        let issued = match certificate {
            Certificate::Good => self.authority.server(&names, -hour, week),
            Certificate::WrongName => self.authority.server(&["elsewhere.example.com"], -hour, week),
            Certificate::Expired => self.authority.server(&names, -week, -day),
            Certificate::NotYetValid => self.authority.server(&names, day, week),
            Certificate::Stranger => Authority::new("Stranger").server(&names, -hour, week),
        };
        self.shown.swap(issued.certified());
    }

    pub(crate) fn connections(&self) -> Vec<Connected> {
        let state = self.state();
        let mut found: Vec<_> = state
            .sessions
            .iter()
            .filter_map(|(id, session)| {
                let link = session.link.as_ref()?;
                Some(Connected {
                    id: id.clone(),
                    number: link.number,
                    transport: link.transport,
                    product_info: link.product_info.clone(),
                    model_id: link.model_id.clone(),
                    auth_chain: link.auth_chain.clone(),
                    api_version: link.api_version.clone(),
                    keep_alive_secs: link.keep_alive_secs,
                    clean_session: link.clean_session,
                    filters: session.filters.values().map(|(filter, _)| filter.clone()).collect(),
                })
            })
            .collect();
        found.sort_by_key(|it| it.number);
        found
    }

    /// Calls a method; waits at most `connect` for a client that listens and `response` for its answer.
    pub(crate) async fn call(
        &self,
        id: &str,
        method: &str,
        payload: &Value,
        response: Duration,
        connect: Duration,
    ) -> Result<(i64, Value), CallError> {
        let deadline = tokio::time::Instant::now() + connect;
        let (rid, answered) = loop {
            if let Some(called) = self.state().call(id, method, payload) {
                break called;
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(CallError::NotFound);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        match timeout(response, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            // The client is gone.
            Ok(Err(_)) => Err(CallError::NotFound),
            Err(_) => {
                self.state().forget_call(&rid);
                Err(CallError::NoAnswer)
            }
        }
    }

    /// Sets whether the hub can be reached; connections that live are reset when it cannot.
    pub(crate) fn set_offline(&self, offline: bool) {
        let mut state = self.state();
        state.offline = offline;
        if offline {
            let ids: Vec<_> = state.sessions.keys().cloned().collect();
            for id in ids {
                state.disconnect(&id, true);
            }
        }
    }
}

/// A running hub.
pub struct Hub {
    shared: Arc<Shared>,
    mqtt: SocketAddr,
    https: SocketAddr,
    control: SocketAddr,
    runtime: tokio::runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Hub {
    /// Binds and serves. Fails if a port cannot be had; then it says which.
    pub fn start(config: Config) -> io::Result<Hub> {
        let authority = Authority::new("Test IoT Hub Authority");
        let mut names = vec![config.host.clone(), "localhost".into(), "127.0.0.1".into()];
        names.extend([config.mqtt, config.https].map(|it| it.ip().to_string()));
        names.sort();
        names.dedup();
        let listed: Vec<_> = names.iter().map(String::as_str).collect();
        let good = authority.server(&listed, time::Duration::hours(-1), time::Duration::days(7));
        let shown = Shown::new(good.certified());
        let shared = Shared { host: config.host, authority, names, shown, state: Mutex::new(State::new()) };
        let shared = Arc::new(shared);

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listeners = runtime.block_on(async {
            Ok::<_, io::Error>((
                bind(config.mqtt).await?,
                bind(config.https).await?,
                bind(config.control).await?,
            ))
        })?;
        let (mqtt, https, control) = listeners;
        let addresses = (mqtt.local_addr()?, https.local_addr()?, control.local_addr()?);
        let (stop, stopped) = oneshot::channel();
        let handle = runtime.handle().clone();
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("test-iothub".into()).spawn(move || {
            runtime.block_on(async move {
                tokio::spawn(accept_mqtt(Arc::clone(&serving), mqtt));
                let (accepted, connections) = mpsc::channel(ACCEPTED_MAX);
                tokio::spawn(accept_https(Arc::clone(&serving), https, accepted));
                tokio::spawn(rest::serve(Arc::clone(&serving), connections, addresses.1));
                tokio::spawn(control::serve(serving, control, addresses));
                // Ends with the value, or with the program.
                stopped.await.ok();
            });
            runtime.shutdown_background();
        })?;
        Ok(Hub {
            shared,
            mqtt: addresses.0,
            https: addresses.1,
            control: addresses.2,
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Name of the hub.
    pub fn host(&self) -> &str {
        &self.shared.host
    }

    /// MQTT over TLS.
    pub fn mqtt_address(&self) -> SocketAddr {
        self.mqtt
    }

    /// WebSocket and REST, over TLS.
    pub fn https_address(&self) -> SocketAddr {
        self.https
    }

    /// The control port.
    pub fn control_address(&self) -> SocketAddr {
        self.control
    }

    /// The authority of its certificate, PEM.
    pub fn ca_pem(&self) -> String {
        self.shared.authority.pem()
    }

    /// Makes an identity, or replaces it.
    pub fn put(&self, identity: Identity) -> Result<Identity, String> {
        self.shared.state().registry.put(identity).cloned()
    }

    /// An identity.
    pub fn identity(&self, id: &str) -> Option<Identity> {
        self.shared.state().registry.find(id).cloned()
    }

    /// Removes an identity and closes its connection.
    pub fn remove(&self, id: &str) -> bool {
        let mut state = self.shared.state();
        state.disconnect(id, false);
        state.registry.remove(id)
    }

    /// Enables or disables an identity; disabling closes its connection.
    pub fn set_enabled(&self, id: &str, enabled: bool) -> bool {
        let mut state = self.shared.state();
        let Some(identity) = state.registry.find_mut(id) else { return false };
        identity.enabled = enabled;
        if !enabled {
            state.disconnect(id, false);
        }
        true
    }

    /// Trusts certificates of this authority (PEM) for identities of kind `certificateAuthority`.
    pub fn trust(&self, authority_pem: &str) {
        self.shared.state().authorities.push(authority_pem.to_owned());
    }

    /// What an SDK is configured with; `None` for an identity without keys.
    pub fn connection_string(&self, id: &str) -> Option<String> {
        let state = self.shared.state();
        let identity = state.registry.find(id)?;
        let module = identity.module_id.as_ref().map(|it| format!(";ModuleId={it}")).unwrap_or_default();
        let key = identity.keys().first().map(|it| (*it).to_owned())?;
        Some(format!(
            "HostName={};DeviceId={}{module};SharedAccessKey={key}",
            self.host(),
            identity.device_id
        ))
    }

    /// All telemetry that is kept, in the order of arrival.
    pub fn telemetry(&self) -> Vec<Telemetry> {
        self.telemetry_since(0)
    }

    /// Telemetry with a number above this.
    pub fn telemetry_since(&self, number: u64) -> Vec<Telemetry> {
        let state = self.shared.state();
        state.telemetry.iter().filter(|it| it.number > number).cloned().collect()
    }

    /// How many messages were recorded in all.
    pub fn recorded(&self) -> u64 {
        self.shared.state().recorded
    }

    /// How many messages were recorded of one identity.
    pub fn count(&self, id: &str) -> u64 {
        self.shared.state().counts.get(id).copied().unwrap_or_default()
    }

    /// All events that are kept.
    pub fn events(&self) -> Vec<Event> {
        self.shared.state().events.iter().cloned().collect()
    }

    /// What clients did wrong; empty after a good test.
    pub fn violations(&self) -> Vec<Event> {
        self.events().into_iter().filter(|it| it.kind == "violation").collect()
    }

    /// Connections that live.
    pub fn connections(&self) -> Vec<Connected> {
        self.shared.connections()
    }

    /// Closes a connection; whether there was one.
    pub fn disconnect(&self, id: &str) -> bool {
        self.shared.state().disconnect(id, false)
    }

    /// The twin.
    pub fn twin(&self, id: &str) -> Twin {
        self.shared.state().twins.get(id).cloned().unwrap_or_default()
    }

    /// Patches the desired properties; the new version.
    pub fn patch_desired(&self, id: &str, patch: &Value) -> Result<u64, String> {
        self.shared.state().patch_desired(id, patch)
    }

    /// Sends a message to a device; it waits until the device listens.
    pub fn send_to_device(&self, device_id: &str, message: CloudMessage) {
        self.shared.state().send_to_device(device_id, message);
    }

    /// Sends a message to an input of a module, as a gateway would; whether it listens.
    pub fn send_to_input(&self, id: &str, input: &str, message: &CloudMessage) -> bool {
        self.shared.state().send_to_input(id, input, message)
    }

    /// What became of messages to devices.
    pub fn feedback(&self) -> Vec<Feedback> {
        self.shared.state().feedback.clone()
    }

    /// Calls a method and waits for the answer.
    pub fn call_method(
        &self,
        id: &str,
        method: &str,
        payload: &Value,
        response: Duration,
        connect: Duration,
    ) -> Result<(i64, Value), CallError> {
        self.runtime.block_on(self.shared.call(id, method, payload, response, connect))
    }

    /// Does these things wrong from now on, for one identity or for everybody.
    pub fn set_faults(&self, id: Option<&str>, faults: Faults) {
        self.shared.state().set_faults(id, faults);
    }

    /// Does everything right again, and can be reached.
    pub fn clear_faults(&self) {
        self.shared.state().clear_faults();
        self.shared.show(Certificate::Good);
    }

    /// Sends the acknowledgements that were withheld; how many.
    pub fn release(&self, id: &str) -> usize {
        self.shared.state().release(id)
    }

    /// Resets every connection, now and when it comes; or takes them again.
    pub fn set_offline(&self, offline: bool) {
        self.shared.set_offline(offline);
    }

    /// Takes TCP connections and never says a word; or speaks again.
    pub fn set_mute(&self, mute: bool) {
        self.shared.state().mute = mute;
    }

    /// Answers every request of the service's REST with this status.
    pub fn set_rest_status(&self, status: Option<u16>) {
        self.shared.state().rest_status = status;
    }

    /// Moves the hub's clock.
    pub fn set_clock_skew(&self, secs: i64) {
        self.shared.state().clock_skew_secs = secs;
    }

    /// Shows this certificate to whoever connects from now on.
    pub fn show(&self, certificate: Certificate) {
        self.shared.show(certificate);
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Fails only if the thread is gone.
            stop.send(()).ok();
        }
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let hint = if error.kind() == io::ErrorKind::PermissionDenied {
            ": ports below 1024 need root, or sysctl net.ipv4.ip_unprivileged_port_start=443"
        } else {
            ""
        };
        io::Error::new(error.kind(), format!("the test IoT Hub cannot listen at {address}: {error}{hint}"))
    })
}

fn end_with_reset(socket: &TcpStream) {
    // Fails only on a socket that is gone.
    SockRef::from(socket).set_linger(Some(Duration::ZERO)).ok();
}

/// The next connection that is to be served; deals with those that are not.
async fn next(shared: &Arc<Shared>, listener: &TcpListener) -> TcpStream {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Out of descriptors: try again when some have been closed.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let (offline, mute) = {
            let state = shared.state();
            (state.offline, state.mute)
        };
        if offline {
            end_with_reset(&socket);
            continue;
        }
        if mute {
            let shared = Arc::clone(shared);
            tokio::spawn(async move {
                while shared.state().mute {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                drop(socket);
            });
            continue;
        }
        socket.set_nodelay(true).ok();
        return socket;
    }
}

/// Shakes hands; notes why not.
async fn secure(shared: &Shared, acceptor: &TlsAcceptor, socket: TcpStream) -> Option<TlsStream<TcpStream>> {
    match timeout(HANDSHAKE, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => shared.state().note("handshake", "", error.to_string()),
        Err(_) => shared.state().note("handshake", "", "not done within 20 s"),
    }
    None
}

async fn accept_mqtt(shared: Arc<Shared>, listener: TcpListener) {
    let acceptor = TlsAcceptor::from(tls::server(Arc::clone(&shared.shown)));
    loop {
        let socket = next(&shared, &listener).await;
        let (shared, acceptor) = (Arc::clone(&shared), acceptor.clone());
        tokio::spawn(async move {
            let abort = aborter(&socket);
            let Some(stream) = secure(&shared, &acceptor, socket).await else { return };
            let chain = chain(&stream);
            session::serve(shared, stream, chain, "tls", abort).await;
        });
    }
}

async fn accept_https(shared: Arc<Shared>, listener: TcpListener, accepted: mpsc::Sender<rest::Accepted>) {
    let acceptor = TlsAcceptor::from(tls::server(Arc::clone(&shared.shown)));
    loop {
        let socket = next(&shared, &listener).await;
        let (shared, acceptor, accepted) = (Arc::clone(&shared), acceptor.clone(), accepted.clone());
        tokio::spawn(async move {
            let Some(stream) = secure(&shared, &acceptor, socket).await else { return };
            // Fails only when the hub ends.
            accepted.send(stream).await.ok();
        });
    }
}

/// Makes the end of this socket another one than a polite one, whoever holds it then.
pub(crate) fn aborter(socket: &TcpStream) -> Abort {
    use std::os::fd::AsFd as _;
    let Ok(handle) = socket.as_fd().try_clone_to_owned() else { return Arc::new(|_| ()) };
    Arc::new(move |farewell| {
        let socket = SockRef::from(&handle);
        // These fail only on a socket that is gone.
        match farewell {
            Farewell::Polite => {}
            Farewell::Reset => drop(socket.set_linger(Some(Duration::ZERO))),
            Farewell::Bare => drop(socket.shutdown(Shutdown::Write)),
        }
    })
}

/// The client's certificates.
pub(crate) fn chain(stream: &TlsStream<TcpStream>) -> Vec<CertificateDer<'static>> {
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    chain.iter().map(|it| it.clone().into_owned()).collect()
}
