//! How an uplink's bytes get to the other end, as used: where it is, TLS, a proxy in between.
//!
//! Knows: the keys of `[uplink.NAME]` about the way. Never: files, certificates, sockets.
//! In: a `Judge`. Out: one `Transport` an uplink; what does not go together is a mistake.

use std::fmt;
use std::path::PathBuf;

use super::checked::Secret;
use super::errors::ConfigError;
use super::judge::Judge;
use super::schema::{self, Key};
use super::suggest;

/// Where the other end of an uplink is, and what lies between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// How the other end proves who it is; `None` is plain TCP.
    pub tls: Option<UplinkTls>,
    /// The path of the WebSocket, if one is spoken.
    pub websocket: Option<String>,
    /// The proxy that the connection goes through.
    pub proxy: Option<Proxy>,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (&self.websocket, &self.tls) {
            (None, None) => "mqtt",
            (None, Some(_)) => "mqtts",
            (Some(_), None) => "ws",
            (Some(_), Some(_)) => "wss",
        };
        write!(f, "{scheme}://{}{}", self.authority(), self.websocket.as_deref().unwrap_or_default())
    }
}

impl Transport {
    /// Host and port, as they stand in a URL.
    pub(crate) fn authority(&self) -> String {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        format!("{open}{}{close}:{}", self.host, self.port)
    }
}

/// Where the other end is besides its url, and when it is looked for there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failover {
    /// The addresses, in order; none for most.
    pub transports: Vec<Transport>,
    /// Failed attempts in a row after which the next one is tried.
    pub attempts: u32,
    /// How long another one than the first is used before that is looked at, in seconds; 0 for ever.
    pub return_secs: u64,
}

/// What TLS to the other end starts with. Its files are read anew for every connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkTls {
    /// Authorities whose certificates are accepted, PEM; `None` is those of the system.
    pub ca: Option<PathBuf>,
    /// Authorities beside those of the system, PEM; a file that is not there adds none.
    pub also: Option<PathBuf>,
    /// Our certificate chain and its private key, PEM.
    pub cert: Option<(PathBuf, PathBuf)>,
    /// The name that the other end's certificate must be for.
    pub server_name: String,
    /// SHA-256 of the public keys that are accepted, of which the other end must have one; empty is any.
    pub pins: Vec<[u8; 32]>,
    /// Whether TLS 1.2 is spoken besides 1.3.
    pub tls_1_2: bool,
    /// Whoever answers is believed.
    pub insecure: bool,
}

/// A proxy that the connection goes through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// What it speaks.
    pub kind: ProxyKind,
    /// Host name or IP address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User and password there.
    pub login: Option<(String, Secret)>,
}

/// What a proxy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyKind {
    /// HTTP/1.1 CONNECT.
    Http,
    /// SOCKS version 5; names are resolved by the proxy.
    Socks5,
}

/// `None` if a required key is missing or refused; then an error says so.
pub(super) fn check_transport(judge: &mut Judge<'_>, name: &str, hub: Option<&str>) -> Option<Transport> {
    let url = judge.text(&schema::UPLINK_URL, name);
    let url = url.or_else(|| {
        Some(format!("mqtts://{}", hub?)).filter(|_| !judge.is_written(&schema::UPLINK_URL, name))
    });
    if url.is_none() && !judge.is_written(&schema::UPLINK_URL, name) {
        judge.missing(&schema::UPLINK_URL, name);
    }
    let proxy = check_proxy(judge, name);
    let url = url?;
    let mut parsed = parse_url(&url).ok()?;
    if hub.is_some() {
        if !parsed.scheme.is_tls() {
            judge.complain(&schema::UPLINK_URL, name, |error| ConfigError {
                problem: "is without TLS, which IoT Hub does not speak".to_owned(),
                found: Some(url.clone()),
                allowed: Some("mqtts://HOST, or wss://HOST for port 443".to_owned()),
                ..error
            });
        }
        parsed.path = parsed.path.map(of_hub);
    }
    let url = parsed;
    let tls = check_tls(judge, name, &url);
    Some(Transport { host: url.host, port: url.port, tls, websocket: url.path, proxy })
}

/// The path of a hub: `/mqtt` is what brokers have where nothing is said.
fn of_hub(path: String) -> String {
    if path == PATH { HUB_PATH.to_owned() } else { path }
}

/// `first` is the address that comes before them; all are of an IoT Hub if `is_hub`.
pub(super) fn check_failover(
    judge: &mut Judge<'_>,
    name: &str,
    first: Option<&Transport>,
    is_hub: bool,
) -> Failover {
    let key = &schema::kinds::UPLINK_FAILOVER;
    let named = judge.text(&schema::UPLINK_SERVER_NAME, name).is_some();
    let mut transports = Vec::new();
    for (text, origin) in judge.list(key, name).unwrap_or_default() {
        let parsed = parse_url(&text);
        let problem = match (&parsed, first) {
            (Err(_), _) => "is no url".to_owned(),
            (Ok(url), Some(first)) if url.scheme.is_tls() != first.tls.is_some() => {
                "must be TLS exactly if url is: what is safe there must not be open here".to_owned()
            }
            (Ok(url), Some(first)) => {
                let mut tls = first.tls.clone();
                if let Some(tls) = tls.as_mut().filter(|_| !named) {
                    tls.server_name.clone_from(&url.host);
                }
                let websocket = url.path.clone().map(|path| if is_hub { of_hub(path) } else { path });
                let (host, port) = (url.host.clone(), url.port);
                transports.push(Transport { host, port, tls, websocket, proxy: first.proxy.clone() });
                continue;
            }
            (Ok(_), None) => continue, // the url is missing or wrong, which has been said
        };
        judge.complain(key, name, |error| ConfigError {
            origin,
            problem,
            found: Some(format!("{text:?}")),
            allowed: Some(schema::UPLINK_URL.allowed.describe()),
            hint: parsed.err().flatten(),
            ..error
        });
    }
    if transports.is_empty() {
        for key in [&schema::kinds::UPLINK_FAILOVER_ATTEMPTS, &schema::kinds::UPLINK_FAILOVER_RETURN_SECS] {
            if judge.is_flawless() {
                contradict(judge, name, key, "is about failover, which names no other address");
            }
        }
    }
    Failover {
        transports,
        attempts: judge.integer(&schema::kinds::UPLINK_FAILOVER_ATTEMPTS, name).unwrap_or(1) as u32,
        return_secs: judge.integer(&schema::kinds::UPLINK_FAILOVER_RETURN_SECS, name).unwrap_or_default(),
    }
}

fn check_tls(judge: &mut Judge<'_>, name: &str, url: &Url) -> Option<UplinkTls> {
    if !url.scheme.is_tls() {
        refuse_tls_keys(judge, name);
        return None;
    }
    let path = |judge: &mut Judge<'_>, key| judge.text(key, name).map(PathBuf::from);
    let ca = path(judge, &schema::UPLINK_CA);
    let cert = path(judge, &schema::UPLINK_CERT);
    let key = path(judge, &schema::UPLINK_KEY);
    let server_name = judge.text(&schema::UPLINK_SERVER_NAME, name);
    let pin = judge.text(&schema::UPLINK_PIN, name);
    let insecure = judge.boolean(&schema::UPLINK_INSECURE, name).unwrap_or_default();
    let tls_1_2 = judge.text(&schema::UPLINK_TLS_VERSION_MIN, name).as_deref() != Some("1.3");
    for (one, other, key, partner) in
        [(&cert, &key, &schema::UPLINK_CERT, "key"), (&key, &cert, &schema::UPLINK_KEY, "cert")]
    {
        if one.is_some() && other.is_none() {
            judge.complain(key, name, |error| ConfigError {
                problem: format!("needs {partner} beside it"),
                hint: Some(format!("add {}", suggest::dotted(&["uplink", name, partner]))),
                ..error
            });
        }
    }
    if insecure {
        for key in [&schema::UPLINK_CA, &schema::UPLINK_PIN, &schema::UPLINK_SERVER_NAME] {
            contradict(judge, name, key, "says who may answer, but insecure = true believes everybody");
        }
    }
    Some(UplinkTls {
        ca,
        also: None,
        cert: cert.zip(key),
        server_name: server_name.unwrap_or_else(|| url.host.clone()),
        pins: pin.map(|text| parse_pins(&text).unwrap_or_default()).unwrap_or_default(),
        tls_1_2,
        insecure,
    })
}

/// Keys about TLS beside a URL without it would seem to protect what they do not.
fn refuse_tls_keys(judge: &mut Judge<'_>, name: &str) {
    for key in [
        &schema::UPLINK_CA,
        &schema::UPLINK_CERT,
        &schema::UPLINK_KEY,
        &schema::UPLINK_SERVER_NAME,
        &schema::UPLINK_PIN,
        &schema::UPLINK_INSECURE,
        &schema::UPLINK_TLS_VERSION_MIN,
    ] {
        contradict(
            judge,
            name,
            key,
            "is about TLS, which this uplink does not use: write its url as mqtts://",
        );
    }
}

fn contradict(judge: &mut Judge<'_>, name: &str, key: &'static Key, problem: &str) {
    if judge.is_written(key, name) {
        judge.complain(key, name, |error| ConfigError { problem: problem.to_owned(), ..error });
    }
}

fn check_proxy(judge: &mut Judge<'_>, name: &str) -> Option<Proxy> {
    let url = judge.text(&schema::UPLINK_PROXY, name);
    let user = judge.text(&schema::UPLINK_PROXY_USER, name);
    let password = judge.text(&schema::UPLINK_PROXY_PASSWORD, name).map(Secret);
    if url.is_none() && !judge.is_written(&schema::UPLINK_PROXY, name) {
        for key in [&schema::UPLINK_PROXY_USER, &schema::UPLINK_PROXY_PASSWORD] {
            contradict(judge, name, key, "is for a proxy, but proxy is not set");
        }
    }
    if url.is_some() && user.is_some() != password.is_some() {
        let key = if user.is_some() { &schema::UPLINK_PROXY_USER } else { &schema::UPLINK_PROXY_PASSWORD };
        contradict(judge, name, key, "needs the other one of proxy_user and proxy_password");
    }
    let (kind, host, port) = parse_proxy(&url?).ok()?;
    Some(Proxy { kind, host, port, login: user.zip(password) })
}

/// What is spoken to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Mqtt,
    Mqtts,
    Ws,
    Wss,
}

impl Scheme {
    fn is_tls(self) -> bool {
        matches!(self, Scheme::Mqtts | Scheme::Wss)
    }
}

/// A URL of an upstream, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url {
    scheme: Scheme,
    host: String,
    port: u16,
    /// With WebSocket, what is asked for there.
    path: Option<String>,
}

/// What WebSocket servers of MQTT brokers are asked for if nothing is said.
const PATH: &str = "/mqtt";
/// The same of IoT Hub.
const HUB_PATH: &str = "/$iothub/websocket";

/// The URL of an upstream; `Err` with a hint.
pub(super) fn parse_url(text: &str) -> Result<Url, Option<String>> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err((!text.contains('/')).then(|| format!("write mqtt://{text}")));
    };
    let scheme = match scheme {
        "mqtt" | "tcp" => Scheme::Mqtt,
        "mqtts" | "ssl" | "tls" => Scheme::Mqtts,
        "ws" => Scheme::Ws,
        "wss" => Scheme::Wss,
        _ => return Err(None),
    };
    let (usual, example) = match scheme {
        Scheme::Mqtt => (1883, "mqtt://[::1]:1883"),
        Scheme::Mqtts => (8883, "mqtts://[::1]:8883"),
        Scheme::Ws => (80, "ws://[::1]:80/mqtt"),
        Scheme::Wss => (443, "wss://[::1]:443/mqtt"),
    };
    let (rest, path) = match (scheme, rest.find('/')) {
        (Scheme::Mqtt | Scheme::Mqtts, _) => (rest, None),
        (_, Some(slash)) if slash + 1 < rest.len() => (&rest[..slash], Some(rest[slash..].to_owned())),
        _ => (rest, Some(PATH.to_owned())),
    };
    if path.as_deref().is_some_and(|path| path.contains(|c: char| c.is_whitespace() || c.is_control())) {
        return Err(Some("a path has no spaces".to_owned()));
    }
    let (host, port) = parse_authority(rest, usual, example)?;
    Ok(Url { scheme, host, port, path })
}

/// The URL of a proxy; `Err` with a hint.
pub(super) fn parse_proxy(text: &str) -> Result<(ProxyKind, String, u16), Option<String>> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err((!text.contains('/')).then(|| format!("write http://{text} or socks5://{text}")));
    };
    let (kind, usual, example) = match scheme {
        "http" => (ProxyKind::Http, 3128, "http://[::1]:3128"),
        "socks5" | "socks5h" => (ProxyKind::Socks5, 1080, "socks5://[::1]:1080"),
        "https" => {
            return Err(Some("the way to the proxy is plain; what goes through it may be TLS".to_owned()));
        }
        _ => return Err(None),
    };
    let (host, port) = parse_authority(rest, usual, example)?;
    Ok((kind, host, port))
}

/// `HOST`, `HOST:PORT` or the same with an IPv6 address in brackets, with a slash behind it or not.
fn parse_authority(rest: &str, usual: u16, example: &str) -> Result<(String, u16), Option<String>> {
    if rest.contains('@') {
        return Err(Some("user and password have keys of their own".to_owned()));
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#', ' ']) {
        return Err(Some("nothing may follow the port".to_owned()));
    }
    // `]:` ends an IPv6 address; in `[::1]` alone the last colon is part of it.
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => match port.parse::<u16>() {
            Ok(number) if number > 0 => (host, number),
            _ => return Err(Some("the port must be a number from 1 to 65535".to_owned())),
        },
        _ => (rest, usual),
    };
    let name = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match (name.is_empty(), name == host && name.contains(':')) {
        (true, _) => Err(Some("the host is missing".to_owned())),
        (_, true) => Err(Some(format!("an IPv6 address stands in brackets, as in {example}"))),
        _ => Ok((name.to_owned(), port)),
    }
}

/// Pins: one or more `sha256/BASE64`, with spaces between.
pub(super) fn parse_pins(text: &str) -> Result<Vec<[u8; 32]>, Option<String>> {
    use base64ct::{Base64, Encoding as _};
    let pin = |word: &str| {
        let encoded =
            word.strip_prefix("sha256/").ok_or_else(|| Some("a pin begins with sha256/".to_owned()))?;
        let mut pin = [0; 32];
        match Base64::decode(encoded, &mut pin) {
            Ok(bytes) if bytes.len() == 32 => Ok(pin),
            _ => Err(Some("behind sha256/ come 32 bytes in base64, which are 44 characters".to_owned())),
        }
    };
    let pins: Vec<_> = text.split_whitespace().map(pin).collect::<Result<_, _>>()?;
    if pins.is_empty() { Err(None) } else { Ok(pins) }
}
