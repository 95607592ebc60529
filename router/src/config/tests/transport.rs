//! The way to the other end of an uplink: TLS and proxies, and what does not go together.

use super::*;

#[test]
fn what_an_uplink_needs_for_tls_goes_together() {
    let config = good(
        "uplink.a.url = 'mqtts://plant.example'\nuplink.a.ca = 'ca.pem'\nuplink.a.cert = 'own.pem'\nuplink.a.key = 'own.key'",
        &[],
        &[],
    );
    let transport = &config.uplinks[0].transport;
    let tls = transport.tls.as_ref().expect("mqtts is TLS");
    assert_eq!((transport.port, tls.server_name.as_str(), tls.insecure), (8883, "plant.example", false));
    assert_eq!(tls.cert.as_ref().map(|(cert, _)| cert.as_path()), Some("own.pem".as_ref()));

    let plain = "uplink.a.url = 'mqtt://plant.example'\n";
    let secure = "uplink.a.url = 'mqtts://plant.example'\n";
    for (text, key, problem) in [
        (format!("{plain}uplink.a.ca = 'ca.pem'"), "uplink.a.ca", "is about TLS"),
        (format!("{plain}uplink.a.insecure = true"), "uplink.a.insecure", "is about TLS"),
        (format!("{secure}uplink.a.cert = 'own.pem'"), "uplink.a.cert", "needs key beside it"),
        (format!("{secure}uplink.a.key = 'own.key'"), "uplink.a.key", "needs cert beside it"),
        (
            format!("{secure}uplink.a.insecure = true\nuplink.a.ca = 'ca.pem'"),
            "uplink.a.ca",
            "insecure = true",
        ),
        (format!("{secure}uplink.a.pin = 'sha1/AAAA'"), "uplink.a.pin", "begins with sha256/"),
        (format!("{secure}uplink.a.pin = 'sha256/AAAA'"), "uplink.a.pin", "44 characters"),
        (format!("{plain}uplink.a.proxy = 'https://p:1'"), "uplink.a.proxy", "the way to the proxy is plain"),
        (format!("{plain}uplink.a.proxy = 'p:1'"), "uplink.a.proxy", "write http://p:1 or socks5://p:1"),
        (format!("{plain}uplink.a.proxy_user = 'me'"), "uplink.a.proxy_user", "proxy is not set"),
        (
            format!("{plain}uplink.a.proxy = 'http://p:1'\nuplink.a.proxy_user = 'me'"),
            "uplink.a.proxy_user",
            "needs the other one",
        ),
    ] {
        let errors = bad(&text, &[], &[]);
        let [error] = errors.as_slice() else { panic!("{errors:#?}") };
        assert_eq!(error.key, key);
        assert!(error.to_string().contains(problem), "{problem:?} is not in: {error}");
    }
}

#[test]
fn a_proxy_has_usual_ports_and_its_password_is_not_shown() {
    let config = good(
        "uplink.a.url = 'mqtts://plant'\nuplink.a.proxy = 'socks5://gate'\nuplink.a.proxy_user = 'me'\nuplink.a.proxy_password = 'secret'",
        &[],
        &[],
    );
    let proxy = config.uplinks[0].transport.proxy.as_ref().expect("it is set");
    assert_eq!((proxy.kind, proxy.host.as_str(), proxy.port), (ProxyKind::Socks5, "gate", 1080));
    assert!(!format!("{config:?}").contains("secret"));
}
