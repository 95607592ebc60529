//! Where clients connect, as used: what each kind of listener needs, and what does not go together.
//!
//! Knows: the keys of `[listener.NAME]`. Never: files, certificates; a listener that is judged well may still not start.
//! In:  a `Judge`. Out: listeners, `tcp` first, then by name.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use model::Limits;

use super::errors::ConfigError;
use super::judge::{BETWEEN_NAMES, Judge};
use super::packing::Decompression;
use super::schema::{self, Key};
use super::suggest;

/// One place where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name in logs, metrics and the ready file: `tcp`.
    pub name: String,
    /// What is spoken there.
    pub kind: ListenerKind,
    /// Where it is.
    pub bind: Bind,
    /// For `tls` and `wss`, and only for these.
    pub tls: Option<Tls>,
    /// The path that WebSocket clients must ask for; any if not set.
    pub path: Option<String>,
    /// Origins of the web pages that may connect by WebSocket, in lower case; any if empty.
    pub origins: Vec<String>,
    /// Whether a proxy announces each client.
    pub proxy_protocol: bool,
    /// Whether the proxy is believed about the name in a client's certificate.
    pub proxy_trust_cn: bool,
    /// Connections at once through this listener; `None` is as many as the process takes.
    pub connections_max: Option<u32>,
    /// Whether clients without credentials may connect here; `None` is as everywhere.
    pub anonymous: Option<bool>,
    /// Largest packet accepted here; `None` is as everywhere.
    pub packet_bytes_max: Option<u32>,
    /// Whether, and how, packed messages are unpacked here.
    pub decompression: Option<Decompression>,
    /// Whether devices and modules of `[edge]` connect here.
    pub identities: bool,
}

/// What is spoken at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// MQTT.
    Tcp,
    /// MQTT over TLS.
    Tls,
    /// MQTT over WebSocket.
    Ws,
    /// MQTT over WebSocket over TLS.
    Wss,
    /// MQTT over a Unix socket.
    Unix,
}

/// Where a listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// Address; port 0 takes any free port.
    Ip(SocketAddr),
    /// File of a Unix socket.
    Path {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

/// Files and rules of TLS. A reload may change them; clients that are connected keep what they have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Where our certificate comes from.
    pub certificate: OwnCertificate,
    /// Further certificates, chosen by the name that the client asks for: label, chain, key.
    pub sni: Vec<(String, PathBuf, PathBuf)>,
    /// Authorities for client certificates, PEM.
    pub client_ca: Option<PathBuf>,
    /// Revoked client certificates, PEM.
    pub client_crl: Option<PathBuf>,
    /// Whether clients have certificates.
    pub client_cert: ClientCertificate,
    /// What in a client's certificate is its user name.
    pub user_from: UserFrom,
    /// Whether TLS 1.2 is spoken besides 1.3.
    pub tls_1_2: bool,
}

/// Where a listener's own certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnCertificate {
    /// From files.
    Files {
        /// Certificate chain, PEM.
        cert: PathBuf,
        /// Private key, PEM.
        key: PathBuf,
    },
    /// It is the gateway's, see `[edge]`.
    Edge,
}

/// Whether clients have certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// They are not asked.
    None,
    /// They are asked; one that has none may come in without.
    Optional,
    /// They must.
    Required,
    /// They are asked, and whatever they show is judged when they say who they are.
    Identity,
}

/// What in a client's certificate is its user name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserFrom {
    /// The common name of the subject.
    Cn,
    /// The first DNS name.
    SanDns,
    /// The first URI.
    SanUri,
    /// The first e-mail address.
    SanEmail,
}

impl ListenerKind {
    const WORDS: [(&'static str, ListenerKind); 5] = [
        ("tcp", ListenerKind::Tcp),
        ("tls", ListenerKind::Tls),
        ("ws", ListenerKind::Ws),
        ("wss", ListenerKind::Wss),
        ("unix", ListenerKind::Unix),
    ];

    fn of(word: &str) -> Option<ListenerKind> {
        Self::WORDS.iter().find(|(known, _)| *known == word).map(|(_, kind)| *kind)
    }

    /// Whether it speaks TLS.
    pub fn is_tls(self) -> bool {
        matches!(self, ListenerKind::Tls | ListenerKind::Wss)
    }

    /// Whether it speaks WebSocket.
    pub fn is_websocket(self) -> bool {
        matches!(self, ListenerKind::Ws | ListenerKind::Wss)
    }
}

impl fmt::Display for ListenerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::WORDS.iter().find(|(_, kind)| kind == self).map_or("", |(word, _)| word))
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Ip(address) => address.fmt(f),
            Bind::Path { path, .. } => path.display().fmt(f),
        }
    }
}

impl Listener {
    /// Whether a client can come with a user that a certificate names.
    pub fn names_users(&self) -> bool {
        let asks =
            |tls: &Tls| !matches!(tls.client_cert, ClientCertificate::None | ClientCertificate::Identity);
        self.proxy_trust_cn || self.tls.as_ref().is_some_and(asks)
    }

    /// Whether it is of no use without `[edge]`.
    pub fn needs_edge(&self) -> bool {
        let own = |tls: &Tls| tls.certificate == OwnCertificate::Edge;
        self.identities || self.tls.as_ref().is_some_and(own)
    }

    /// Whether others than programs on this machine can reach it.
    pub fn is_exposed(&self) -> bool {
        matches!(&self.bind, Bind::Ip(address) if !address.ip().is_loopback())
    }

    /// Whether something lies between the socket and MQTT.
    pub fn has_layers(&self) -> bool {
        self.tls.is_some() || self.kind.is_websocket() || self.proxy_protocol || self.decompression.is_some()
    }

    /// Whether `other` differs in more than what a reload takes over: its files and rules of TLS, and what it asks of
    /// clients.
    pub fn needs_restart_for(&self, other: &Listener) -> bool {
        let fixed =
            |it: &Listener| Listener { tls: None, anonymous: None, packet_bytes_max: None, ..it.clone() };
        fixed(self) != fixed(other)
    }
}

/// Every listener; the mistakes go to `judge`.
pub(super) fn check_listeners(judge: &mut Judge<'_>, limits: &Limits) -> Vec<Listener> {
    let mut names = judge.names(&["listener"]);
    names.retain(|name| name != DEFAULT);
    // It is there even if nobody mentions it, and the first one, which is what a glance at a log expects.
    names.insert(0, DEFAULT.to_owned());
    let listeners: Vec<_> = names.iter().filter_map(|name| check_listener(judge, name, limits)).collect();
    let mut taken: HashMap<String, &str> = HashMap::new();
    for listener in &listeners {
        let is_free_port = matches!(&listener.bind, Bind::Ip(address) if address.port() == 0);
        if is_free_port {
            continue;
        }
        if let Some(other) = taken.insert(listener.bind.to_string(), &listener.name) {
            let key = match listener.bind {
                Bind::Ip(_) => &schema::LISTENER_BIND,
                Bind::Path { .. } => &schema::LISTENER_PATH,
            };
            judge.complain(key, &listener.name, |error| ConfigError {
                problem: format!("is that of listener {other} too"),
                found: Some(format!("\"{}\"", listener.bind)),
                ..error
            });
        }
    }
    if listeners.is_empty() && judge.is_flawless() {
        judge.complain(&schema::LISTENER_BIND, DEFAULT, |error| ConfigError {
            problem: "is off, and so is every other listener: nobody could connect".to_owned(),
            ..error
        });
    }
    listeners
}

/// The listener that is there even if nobody mentions it, and where.
const DEFAULT: &str = "tcp";
const DEFAULT_BIND: &str = "127.0.0.1:1883";
const NAME_BYTES_MAX: usize = 64;

/// `None` if it is off, or if it cannot be one; then an error says so.
fn check_listener(judge: &mut Judge<'_>, name: &str, limits: &Limits) -> Option<Listener> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(is_plain) {
        judge.push(ConfigError {
            found: Some(format!("{name:?}")),
            allowed: Some(format!("1 to {NAME_BYTES_MAX} letters, digits, _ and -")),
            ..ConfigError::new(
                judge.origin("listener.*", name),
                suggest::dotted(&["listener", name]),
                "is no name for a listener",
            )
        });
        return None;
    }
    let kind = kind(judge, name)?;
    refuse_what_does_not_fit(judge, name, kind);
    let bind = bind(judge, name, kind)?;
    let identities = judge.text(&schema::LISTENER_IDENTITIES, name).as_deref() == Some("iothub");
    let tls = if kind.is_tls() { tls(judge, name, identities) } else { None };
    let path = if kind.is_websocket() { judge.text(&schema::LISTENER_PATH, name) } else { None };
    if path.as_ref().is_some_and(|path| !path.starts_with('/')) {
        judge.complain(&schema::LISTENER_PATH, name, |error| ConfigError {
            problem: "is no path of a URL".to_owned(),
            found: path.clone(),
            allowed: Some("text that begins with /, as in /mqtt".to_owned()),
            ..error
        });
    }
    let origins = if kind.is_websocket() { origins(judge, name) } else { Vec::new() };
    let proxy_protocol = judge.boolean(&schema::LISTENER_PROXY_PROTOCOL, name).unwrap_or_default();
    let proxy_trust_cn = judge.boolean(&schema::LISTENER_PROXY_TRUST_CN, name).unwrap_or_default();
    if proxy_trust_cn && !proxy_protocol {
        needs(judge, &schema::LISTENER_PROXY_TRUST_CN, name, "proxy_protocol = true");
    }
    let connections_max = judge.integer(&schema::LISTENER_CONNECTIONS_MAX, name).map(|max| max as u32);
    let packet_bytes_max = judge.integer(&schema::LISTENER_PACKET_BYTES_MAX, name).map(|max| max as u32);
    if let Some(bytes) = packet_bytes_max.filter(|bytes| *bytes > limits.packet_bytes_max) {
        judge.complain(&schema::LISTENER_PACKET_BYTES_MAX, name, |error| ConfigError {
            problem: "is above limits.packet_bytes_max, which bounds every listener".to_owned(),
            found: Some(bytes.to_string()),
            allowed: Some(format!("a whole number from 128 to {}", limits.packet_bytes_max)),
            ..error
        });
    }
    Some(Listener {
        name: name.to_owned(),
        kind,
        bind,
        tls,
        path,
        origins,
        proxy_protocol,
        proxy_trust_cn,
        connections_max,
        anonymous: judge.boolean(&schema::LISTENER_ANONYMOUS, name),
        packet_bytes_max,
        decompression: Decompression::check(judge, name),
        identities,
    })
}

/// Origins as browsers send them (RFC 6454 §6.2): scheme and host, no path, a port only where it is not the scheme's own.
fn origins(judge: &mut Judge<'_>, name: &str) -> Vec<String> {
    let text = judge.text(&schema::LISTENER_ORIGINS, name).unwrap_or_default();
    let origins: Vec<_> = text.split_ascii_whitespace().map(str::to_ascii_lowercase).collect();
    let is_origin = |origin: &&String| {
        let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '*', '@', '?', '#']))
    };
    if let Some(wrong) = origins.iter().find(|origin| !is_origin(origin)) {
        judge.complain(&schema::LISTENER_ORIGINS, name, |error| ConfigError {
            problem: "is no origin of a web page".to_owned(),
            found: Some(wrong.clone()),
            allowed: Some("http://HOST or https://HOST, with :PORT, without a path".to_owned()),
            ..error
        });
    }
    origins
}

fn kind(judge: &mut Judge<'_>, name: &str) -> Option<ListenerKind> {
    if judge.is_written(&schema::LISTENER_KIND, name) {
        return ListenerKind::of(&judge.text(&schema::LISTENER_KIND, name)?);
    }
    let kind = ListenerKind::of(name);
    if kind.is_none() {
        let words = ListenerKind::WORDS.map(|(word, _)| word);
        judge.complain(&schema::LISTENER_KIND, name, |error| ConfigError {
            problem: "is missing, and the listener's name does not say it".to_owned(),
            allowed: Some(schema::LISTENER_KIND.allowed.describe()),
            hint: suggest::nearest_word(name, &words).map(|hint| hint.replace("mean ", "mean listener.")),
            ..error
        });
    }
    kind
}

/// `None` if the listener is off or has no place.
fn bind(judge: &mut Judge<'_>, name: &str, kind: ListenerKind) -> Option<Bind> {
    if kind == ListenerKind::Unix {
        let path = judge.text(&schema::LISTENER_PATH, name);
        if path.is_none() && !judge.is_written(&schema::LISTENER_PATH, name) {
            missing(
                judge,
                &schema::LISTENER_PATH,
                name,
                "the file of the socket, for example /run/millrace/mqtt.sock",
            );
        }
        let mode = judge.text(&schema::LISTENER_MODE, name)?;
        let mode = u32::from_str_radix(&mode, 8).ok()?;
        return Some(Bind::Path { path: path?.into(), mode });
    }
    if !judge.is_written(&schema::LISTENER_BIND, name) {
        if name == DEFAULT {
            return Some(Bind::Ip(DEFAULT_BIND.parse().ok()?));
        }
        missing(judge, &schema::LISTENER_BIND, name, &schema::LISTENER_BIND.allowed.describe());
        return None;
    }
    judge.address(&schema::LISTENER_BIND, name).map(Bind::Ip)
}

/// Says of every key that another kind of listener has, and this one not, that it would do nothing.
fn refuse_what_does_not_fit(judge: &mut Judge<'_>, name: &str, kind: ListenerKind) {
    let of_tls: &[&'static Key] = &[
        &schema::LISTENER_CERT,
        &schema::LISTENER_KEY,
        &schema::LISTENER_CLIENT_CA,
        &schema::LISTENER_CLIENT_CRL,
        &schema::LISTENER_CLIENT_CERT,
        &schema::LISTENER_USER_FROM,
        &schema::LISTENER_TLS_VERSION_MIN,
        &schema::LISTENER_CERTIFICATE,
    ];
    if !kind.is_tls() {
        for key in of_tls {
            refuse_written(judge, key, name, kind, "tls or wss");
        }
        for label in judge.names(&["listener", name, "sni"]) {
            refuse_written(judge, &schema::LISTENER_SNI_CERT, &both(name, &label), kind, "tls or wss");
        }
    }
    if kind == ListenerKind::Unix {
        refuse_written(judge, &schema::LISTENER_BIND, name, kind, "tcp, tls, ws or wss");
    } else {
        refuse_written(judge, &schema::LISTENER_MODE, name, kind, "unix");
    }
    if matches!(kind, ListenerKind::Tcp | ListenerKind::Tls) {
        refuse_written(judge, &schema::LISTENER_PATH, name, kind, "ws, wss or unix");
    }
    if !kind.is_websocket() {
        refuse_written(judge, &schema::LISTENER_ORIGINS, name, kind, "ws or wss");
    }
}

fn refuse_written(judge: &mut Judge<'_>, key: &'static Key, name: &str, kind: ListenerKind, of: &str) {
    if judge.is_written(key, name) {
        judge.complain(key, name, |error| ConfigError {
            problem: format!("means nothing for a listener of kind {kind}"),
            allowed: Some(format!("this key only at a listener of kind {of}")),
            ..error
        });
    }
}

/// `None` if something required is missing; then an error says so.
fn tls(judge: &mut Judge<'_>, name: &str, identities: bool) -> Option<Tls> {
    let from_edge = judge.text(&schema::LISTENER_CERTIFICATE, name).as_deref() == Some("edge");
    let mut file = |key: &'static Key, name: &str| judge.text(key, name).map(PathBuf::from);
    let (cert, key) = (file(&schema::LISTENER_CERT, name), file(&schema::LISTENER_KEY, name));
    let (client_ca, client_crl) =
        (file(&schema::LISTENER_CLIENT_CA, name), file(&schema::LISTENER_CLIENT_CRL, name));
    for (key, what) in [
        (&schema::LISTENER_CERT, "the file of the certificate chain, PEM"),
        (&schema::LISTENER_KEY, "the file of the certificate's private key, PEM"),
    ] {
        match (judge.is_written(key, name), from_edge) {
            (false, false) => missing(judge, key, name, what),
            (true, true) => judge.complain(key, name, |error| ConfigError {
                problem: "means nothing where certificate is \"edge\"".to_owned(),
                ..error
            }),
            _ => {}
        }
    }
    let has_ca = judge.is_written(&schema::LISTENER_CLIENT_CA, name);
    if identities {
        for key in [&schema::LISTENER_CLIENT_CA, &schema::LISTENER_CLIENT_CERT] {
            if judge.is_written(key, name) {
                judge.complain(key, name, |error| ConfigError {
                    problem: "means nothing where identities is \"iothub\": `[edge]` says whose certificates are taken"
                        .to_owned(),
                    ..error
                });
            }
        }
    }
    let client_cert = match judge.text(&schema::LISTENER_CLIENT_CERT, name).as_deref() {
        Some("none") => ClientCertificate::None,
        Some("optional") => ClientCertificate::Optional,
        Some(_) => ClientCertificate::Required,
        None if identities => ClientCertificate::Identity,
        None if has_ca => ClientCertificate::Required,
        None => ClientCertificate::None,
    };
    if !matches!(client_cert, ClientCertificate::None | ClientCertificate::Identity) && !has_ca {
        needs(judge, &schema::LISTENER_CLIENT_CERT, name, "client_ca, the authorities of these certificates");
    }
    if client_cert == ClientCertificate::None && has_ca {
        judge.complain(&schema::LISTENER_CLIENT_CA, name, |error| ConfigError {
            problem: "would never be asked, for client_cert is \"none\"".to_owned(),
            hint: Some("write client_cert = \"optional\" or \"required\", or remove client_ca".to_owned()),
            ..error
        });
    }
    for key in [&schema::LISTENER_CLIENT_CRL, &schema::LISTENER_USER_FROM] {
        if judge.is_written(key, name) && !has_ca {
            needs(judge, key, name, "client_ca");
        }
    }
    let user_from = match judge.text(&schema::LISTENER_USER_FROM, name).as_deref() {
        Some("san_dns") => UserFrom::SanDns,
        Some("san_uri") => UserFrom::SanUri,
        Some("san_email") => UserFrom::SanEmail,
        _ => UserFrom::Cn,
    };
    let tls_1_2 = judge.text(&schema::LISTENER_TLS_VERSION_MIN, name).as_deref() != Some("1.3");
    let sni = sni(judge, name);
    let certificate =
        if from_edge { OwnCertificate::Edge } else { OwnCertificate::Files { cert: cert?, key: key? } };
    Some(Tls { certificate, sni, client_ca, client_crl, client_cert, user_from, tls_1_2 })
}

fn sni(judge: &mut Judge<'_>, name: &str) -> Vec<(String, PathBuf, PathBuf)> {
    let mut certificates = Vec::new();
    for label in judge.names(&["listener", name, "sni"]) {
        let both = both(name, &label);
        let cert = judge.text(&schema::LISTENER_SNI_CERT, &both);
        let key = judge.text(&schema::LISTENER_SNI_KEY, &both);
        if let (Some(cert), Some(key)) = (cert, key) {
            certificates.push((label, cert.into(), key.into()));
        }
    }
    certificates
}

/// The names for a key with two of them.
fn both(name: &str, label: &str) -> String {
    format!("{name}{BETWEEN_NAMES}{label}")
}

fn missing(judge: &mut Judge<'_>, key: &'static Key, name: &str, allowed: &str) {
    if !judge.is_damaged() {
        judge.complain(key, name, |error| ConfigError {
            problem: "is missing".to_owned(),
            allowed: Some(allowed.to_owned()),
            ..error
        });
    }
}

fn needs(judge: &mut Judge<'_>, key: &'static Key, name: &str, what: &str) {
    judge.complain(key, name, |error| ConfigError { problem: format!("needs {what} beside it"), ..error });
}
