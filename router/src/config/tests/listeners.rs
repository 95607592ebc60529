//! What operators may write below `[listener.NAME]`, and what goes together.

use super::{bad, good, refused};
use crate::config::{Bind, ClientCertificate, Listener, ListenerKind, UserFrom};

/// The listeners of a configuration, without the one that is always there.
fn beside_tcp(text: &str) -> Vec<Listener> {
    let mut listeners = good(&format!("listener.tcp.bind = ''\n{text}"), &[], &[]).listeners;
    listeners.retain(|listener| listener.name != "tcp");
    listeners
}

const TLS: &str = "bind = '127.0.0.1:0'\ncert = 'c.pem'\nkey = 'k.pem'\n";

#[test]
fn tcp_is_there_unless_it_is_off_and_comes_first() {
    let text = "listener.a = { bind = '127.0.0.1:1', kind = 'tcp' }\nlistener.ws.bind = '127.0.0.1:2'";
    let names = |text: &str| good(text, &[], &[]).listeners.into_iter().map(|it| it.name).collect::<Vec<_>>();
    assert_eq!(names(text), ["tcp", "a", "ws"]);
    assert_eq!(names(&format!("{text}\nlistener.tcp.bind = ''")), ["a", "ws"]);
    refused("listener.tcp.bind = ''", "listener.tcp.bind", "", "");
}

#[test]
fn a_kind_follows_from_the_name_or_is_written() {
    let text = "[listener.unix]\npath = '/run/x'\n[listener.ws]\nbind = '127.0.0.1:1'\n\
                [listener.plant]\nkind = 'ws'\nbind = '127.0.0.1:2'\npath = '/mqtt'";
    let kinds: Vec<_> = beside_tcp(text).into_iter().map(|it| (it.name, it.kind, it.path)).collect();
    let expected = [
        ("plant".to_owned(), ListenerKind::Ws, Some("/mqtt".to_owned())),
        ("unix".to_owned(), ListenerKind::Unix, None),
        ("ws".to_owned(), ListenerKind::Ws, None),
    ];
    assert_eq!(kinds, expected);
    refused(
        "listener.tpc.bind = '127.0.0.1:1'",
        "listener.tpc.kind",
        "\"tcp\"",
        "did you mean listener.tcp?",
    );
    refused("listener.plant.bind = '127.0.0.1:1'", "listener.plant.kind", "\"wss\" or \"unix\"", "");
    refused("listener.ws.kind = 'htpp'", "listener.ws.kind", "\"tcp\"", "");
    refused("[listener.'a b']\nkind = 'tcp'", "listener.\"a b\"", "letters", "");
}

#[test]
fn origins_are_those_that_browsers_send() {
    let text =
        "[listener.ws]\nbind = '127.0.0.1:1'\norigins = 'https://Panel.example  http://127.0.0.1:8080'";
    let [ws] = &beside_tcp(text)[..] else { panic!("one listener") };
    assert_eq!(ws.origins, ["https://panel.example", "http://127.0.0.1:8080"]);
    for wrong in [
        "*",
        "panel.example",
        "https://panel.example/",
        "https://*.example",
        "ftp://panel.example",
        "https://",
    ] {
        let text = format!("[listener.ws]\nbind = '127.0.0.1:1'\norigins = '{wrong}'");
        refused(&text, "listener.ws.origins", "http://HOST or https://HOST", "");
    }
    let text = format!("[listener.tls]\n{TLS}origins = 'https://a'");
    refused(&text, "listener.tls.origins", "only at a listener of kind ws or wss", "");
}

#[test]
fn a_tls_listener_is_complete_with_certificate_and_key() {
    let [tls] = &beside_tcp(&format!("[listener.tls]\n{TLS}"))[..] else { panic!("one listener") };
    let files = tls.tls.as_ref().expect("TLS");
    let own = crate::config::OwnCertificate::Files { cert: "c.pem".into(), key: "k.pem".into() };
    assert_eq!(files.certificate, own);
    assert_eq!((files.client_cert, files.user_from), (ClientCertificate::None, UserFrom::Cn));
    assert!(files.tls_1_2 && files.sni.is_empty());
    let text = format!(
        "[listener.plant]\nkind = 'wss'\n{TLS}client_ca = 'ca.pem'\nclient_crl = 'crl.pem'\n\
         user_from = 'san_uri'\ntls_version_min = '1.3'\nsni.b = {{ cert = 'b.pem', key = 'b.key' }}"
    );
    let [wss] = &beside_tcp(&text)[..] else { panic!("one listener") };
    let files = wss.tls.as_ref().expect("TLS");
    assert_eq!((files.client_cert, files.user_from), (ClientCertificate::Required, UserFrom::SanUri));
    assert_eq!(files.sni, [("b".to_owned(), "b.pem".into(), "b.key".into())]);
    assert!(!files.tls_1_2);
}

#[test]
fn what_is_missing_is_named() {
    let errors = bad("listener.tls.bind = '127.0.0.1:0'", &[], &[]);
    let keys: Vec<_> = errors.iter().map(|error| (error.key.as_str(), error.problem.as_str())).collect();
    assert_eq!(keys, [("listener.tls.cert", "is missing"), ("listener.tls.key", "is missing")]);
    refused("listener.ws.path = '/'", "listener.ws.bind", "IP:PORT", "");
    refused("listener.unix.mode = '600'", "listener.unix.path", "mqtt.sock", "");
    refused(&format!("[listener.tls]\n{TLS}sni.b.cert = 'x'"), "listener.tls.sni.b.key", "text", "");
    refused(&format!("[listener.tls]\n{TLS}client_cert = 'required'"), "listener.tls.client_cert", "", "");
    refused(&format!("[listener.tls]\n{TLS}client_crl = 'x'"), "listener.tls.client_crl", "", "");
    refused(&format!("[listener.tls]\n{TLS}user_from = 'cn'"), "listener.tls.user_from", "", "");
    refused("listener.tcp.proxy_trust_cn = true", "listener.tcp.proxy_trust_cn", "", "");
}

#[test]
fn what_another_kind_has_is_refused_and_never_ignored() {
    for key in ["cert", "key", "client_ca", "client_crl", "client_cert", "user_from", "tls_version_min"] {
        let value = match key {
            "client_cert" => "required",
            "user_from" => "cn",
            "tls_version_min" => "1.3",
            _ => "x.pem",
        };
        refused(&format!("listener.tcp.{key} = '{value}'"), &format!("listener.tcp.{key}"), "tls or wss", "");
    }
    let sni = "listener.ws = { bind = '127.0.0.1:1', sni.b = { cert = 'x', key = 'y' } }";
    refused(sni, "listener.ws.sni.b.cert", "tls or wss", "");
    refused("listener.tcp.mode = '600'", "listener.tcp.mode", "unix", "");
    refused("listener.tcp.path = '/x'", "listener.tcp.path", "ws, wss or unix", "");
    refused("listener.unix = { path = '/x', bind = '127.0.0.1:1' }", "listener.unix.bind", "tcp, tls", "");
    refused("listener.ws = { bind = '127.0.0.1:1', path = 'mqtt' }", "listener.ws.path", "begins with /", "");
    let never = format!("[listener.tls]\n{TLS}client_ca = 'x'\nclient_cert = 'none'");
    refused(&never, "listener.tls.client_ca", "", "optional");
}

#[test]
fn permissions_are_octal() {
    let mode = |text: &str| match beside_tcp(&format!("listener.unix = {{ path = '/x', mode = '{text}' }}"))
        .remove(0)
        .bind
    {
        Bind::Path { mode, .. } => mode,
        Bind::Ip(address) => panic!("{address}"),
    };
    assert_eq!((mode("600"), mode("0666")), (0o600, 0o666));
    assert_eq!(
        beside_tcp("listener.unix.path = '/x'")[0].bind,
        Bind::Path { path: "/x".into(), mode: 0o660 }
    );
    for wrong in ["rw", "1000", "9", ""] {
        refused(
            &format!("listener.unix = {{ path = '/x', mode = '{wrong}' }}"),
            "listener.unix.mode",
            "octal",
            "",
        );
    }
}

#[test]
fn two_listeners_do_not_share_a_place() {
    let text = "listener.tcp.bind = '127.0.0.1:1883'\nlistener.ws.bind = '127.0.0.1:1883'";
    refused(text, "listener.ws.bind", "", "");
    let text = "listener.a = { kind = 'unix', path = '/x' }\nlistener.b = { kind = 'unix', path = '/x' }";
    refused(text, "listener.b.path", "", "");
    let free = "listener.tcp.bind = '127.0.0.1:0'\nlistener.ws.bind = '127.0.0.1:0'";
    assert_eq!(good(free, &[], &[]).listeners.len(), 2);
}

#[test]
fn what_a_listener_asks_of_clients_is_its_own_or_that_of_all() {
    let text = "auth.anonymous = true\n[listener.ws]\nbind = '127.0.0.1:0'\nanonymous = false\npacket_bytes_max = 4_096";
    let config = good(text, &[], &[]);
    let asked: Vec<_> = config.listeners.iter().map(|listener| config.listener_access(listener)).collect();
    let access = |anonymous, packet_bytes_max| broker::access::ListenerAccess {
        anonymous,
        packet_bytes_max,
        identities: false,
    };
    assert_eq!(asked, [access(true, None), access(false, Some(4_096))]);
    refused("listener.tcp.anonymous = 'yes'", "listener.tcp.anonymous", "true or false", "");
    let large = "listener.tcp.packet_bytes_max = 4_097\nlimits.packet_bytes_max = 4_096";
    refused(large, "listener.tcp.packet_bytes_max", "128 to 4096", "");
    refused("listener.tcp.packet_bytes_max = 127", "listener.tcp.packet_bytes_max", "128", "");
    // A reload takes both over.
    let other = good("auth.anonymous = true\nlistener.ws.bind = '127.0.0.1:0'", &[], &[]);
    assert_eq!(config.differs_beyond_routes(&other), [""; 0]);
}

#[test]
fn a_listener_at_which_nobody_can_connect_is_warned_about() {
    let keys = |text: &str| {
        let warnings = good(text, &[], &[]).warnings;
        warnings.into_iter().map(|warning| warning.key).collect::<Vec<_>>()
    };
    let both = "listener.tcp.bind = '127.0.0.1:0'\nlistener.ws.bind = '127.0.0.1:0'\n";
    assert_eq!(keys(both), ["auth.anonymous"]);
    assert_eq!(keys(&format!("{both}listener.tcp.anonymous = true")), ["auth.anonymous"]);
    let closed = format!("{both}auth.anonymous = true\nlistener.ws.anonymous = false");
    assert_eq!(keys(&closed), ["listener.ws.anonymous"]);
    let exposed = "listener.tcp = { bind = '0.0.0.0:0', anonymous = true }";
    assert_eq!(keys(exposed), ["listener.tcp.anonymous"], "everybody can connect");
    assert_eq!(keys(&format!("{both}auth.anonymous = true")), [""; 0]);
}
