//! Where a broker listens, as people write it: `mqtt://host:port`.

/// Host and port of an MQTT listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name or an address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// A URL that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{url}\" is not usable: {why}; write mqtt://HOST:PORT")]
pub struct InvalidAddress {
    url: String,
    why: &'static str,
}

impl Address {
    /// Reads `mqtt://host[:port]`, `tcp://…` or plain `host:port`; the port defaults to 1883.
    pub fn parse(url: &str) -> Result<Address, InvalidAddress> {
        let invalid = |why| InvalidAddress { url: url.to_owned(), why };
        let rest = match url.split_once("://") {
            None | Some(("mqtt" | "tcp", _)) => url.split_once("://").map_or(url, |(_, rest)| rest),
            Some(("mqtts" | "ssl" | "tls" | "ws" | "wss", _)) => {
                return Err(invalid("only plain TCP is spoken here, neither TLS nor WebSocket"));
            }
            Some(_) => return Err(invalid("the scheme is unknown")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, tail)) => (host, tail.strip_prefix(':')),
            None => rest.rsplit_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            None => 1883,
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| invalid("the port is not 1 to 65535"))?,
        };
        if host.is_empty() || host.contains(['/', '@', '?']) {
            return Err(invalid("the host is missing or has more than a name in it"));
        }
        Ok(Address { host: host.to_owned(), port })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
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
        for url in ["mqtts://broker", "http://broker", "mqtt://", "mqtt://b:0", "mqtt://b:port", "mqtt://u@b"]
        {
            check(url, None);
        }
    }
}
