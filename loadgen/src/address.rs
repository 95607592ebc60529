//! Where a broker listens, as people write it: `mqtt://host:port`, `mqtts://…`, `ws://…/path`, `unix:///path`.

use std::path::PathBuf;

/// Where to find an MQTT listener, and what lies between the socket and MQTT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name or an address, without brackets; empty for a Unix socket.
    pub host: String,
    /// TCP port; 0 for a Unix socket.
    pub port: u16,
    /// How bytes get there.
    pub transport: Transport,
}

/// How bytes get to a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// WebSocket over TCP, at this path.
    WebSocket(String),
    /// WebSocket over TLS, at this path.
    SecureWebSocket(String),
    /// A Unix socket with this path.
    Unix(PathBuf),
}

impl Transport {
    /// Whether a TLS configuration is needed.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Transport::Tls | Transport::SecureWebSocket(_))
    }
}

/// A URL that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{url}\" is not usable: {why}; write mqtt://HOST:PORT, mqtts://, ws://HOST:PORT/PATH, wss:// or unix:///PATH"
)]
pub struct InvalidAddress {
    url: String,
    why: &'static str,
}

impl Address {
    /// Reads `mqtt://host[:port]`, `tcp://…` or plain `host:port`; `mqtts`, `ssl` and `tls` for TLS; `ws` and `wss` for
    /// WebSocket, with a path (default `/mqtt`); `unix:///path`. Ports default to 1883, 8883, 80 and 443.
    pub fn parse(url: &str) -> Result<Address, InvalidAddress> {
        let invalid = |why| InvalidAddress { url: url.to_owned(), why };
        let (scheme, rest) = url.split_once("://").unwrap_or(("mqtt", url));
        if scheme == "unix" {
            let transport = Transport::Unix(PathBuf::from(rest));
            let whole = rest.starts_with('/') && rest.len() > 1;
            return whole
                .then_some(Address { host: String::new(), port: 0, transport })
                .ok_or_else(|| invalid("a Unix socket needs its whole path"));
        }
        let (rest, path) = match (scheme, rest.split_once('/')) {
            ("ws" | "wss", Some((rest, path))) => (rest, format!("/{path}")),
            ("ws" | "wss", None) => (rest, "/mqtt".to_owned()),
            _ => (rest.strip_suffix('/').unwrap_or(rest), String::new()),
        };
        let (transport, default_port) = match scheme {
            "mqtt" | "tcp" => (Transport::Tcp, 1883),
            "mqtts" | "ssl" | "tls" => (Transport::Tls, 8883),
            "ws" => (Transport::WebSocket(path), 80),
            "wss" => (Transport::SecureWebSocket(path), 443),
            _ => return Err(invalid("the scheme is unknown")),
        };
        let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, tail)) => (host, tail.strip_prefix(':')),
            None => rest.rsplit_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            None => default_port,
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| invalid("the port is not 1 to 65535"))?,
        };
        if host.is_empty() || host.contains(['/', '@', '?']) {
            return Err(invalid("the host is missing or has more than a name in it"));
        }
        Ok(Address { host: host.to_owned(), port, transport })
    }

    /// Host and port as a URL has them, with brackets around an IPv6 address.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.transport {
            Transport::Tcp => write!(f, "{}", self.authority()),
            Transport::Tls => write!(f, "mqtts://{}", self.authority()),
            Transport::WebSocket(path) => write!(f, "ws://{}{path}", self.authority()),
            Transport::SecureWebSocket(path) => write!(f, "wss://{}{path}", self.authority()),
            Transport::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expected: Option<&str>) {
        assert_eq!(Address::parse(url).map(|address| address.to_string()).ok().as_deref(), expected, "{url}");
    }

    #[test]
    fn the_usual_spellings_are_read_and_others_refused() {
        check("mqtt://127.0.0.1:1884", Some("127.0.0.1:1884"));
        check("mqtt://broker", Some("broker:1883"));
        check("localhost:1", Some("localhost:1"));
        check("tcp://[::1]:1883/", Some("[::1]:1883"));
        check("mqtts://broker", Some("mqtts://broker:8883"));
        check("ws://broker", Some("ws://broker:80/mqtt"));
        check("wss://[::1]:9/a/b?c", Some("wss://[::1]:9/a/b?c"));
        check("unix:///run/broker.sock", Some("unix:///run/broker.sock"));
        for url in
            ["http://broker", "mqtt://", "mqtt://b:0", "mqtt://b:port", "mqtt://u@b", "unix://x", "unix:///"]
        {
            check(url, None);
        }
    }
}
