//! Connections that others have accepted first: by a proxy with a PROXY header, or over a Unix socket.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};

use harness::foreign;
use harness::{Authority, Client, Connection, PATIENCE, QOS_1, Router, Setup, Version, until, v3, v5};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2: version and command, family and protocol, the rest.
fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([command, family]);
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// From 192.0.2.7 port 49153.
const V4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xC0, 0x01, 0x07, 0x5B];

fn setup() -> Setup {
    Setup::new()
        .set("listener.behind.kind", "tcp")
        .set("listener.behind.bind", "127.0.0.1:0")
        .set("listener.behind.proxy_protocol", true)
}

fn stream(router: &Router) -> TcpStream {
    let stream = TcpStream::connect(router.listener("behind")).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

#[test]
fn a_proxied_client_is_known_by_its_own_address_on_every_shard() {
    let router = setup().shards(4).set("log.level", "debug").start();
    let mut clients = Vec::new();
    for at in 0..16 {
        let mut stream = stream(&router);
        // In two parts, the second one together with CONNECT.
        let mut bytes = header(0x21, 0x11, &V4);
        stream.write_all(&bytes[..9]).expect("written");
        bytes.drain(..9);
        let mut connect = Vec::new();
        wire::encode_connect(&mut connect, &v3(&format!("behind-{at}"))).expect("legal");
        bytes.extend(connect);
        stream.write_all(&bytes).expect("written");
        let mut ack = [0; 4];
        stream.read_exact(&mut ack).expect("a CONNACK");
        assert_eq!(ack, [0x20, 2, 0, 0]);
        clients.push(stream);
    }
    for client in &mut clients {
        // A PUBLISH with a packet identifier of 0 ends each of them; the log says whose.
        client.write_all(&[0x32, 5, 0, 1, b'a', 0, 0]).expect("written");
    }
    until("the log to name the client", || {
        let log = router.log();
        let named =
            log.lines().filter(|it| it.contains("connection closed") && it.contains("192.0.2.7:49153"));
        (named.count() == 16).then_some(())
    });
}

#[test]
fn who_does_not_begin_with_a_good_header_is_closed() {
    let router = setup().start();
    let mut connect = Vec::new();
    wire::encode_connect(&mut connect, &v3("direct")).expect("legal");
    let bad =
        [connect, header(0x21, 0x11, &V4[..8]), header(0x31, 0x11, &V4), header(0x21, 0x11, &[0; 20_000])];
    for (at, bytes) in bad.iter().enumerate() {
        let mut stream = stream(&router);
        stream.write_all(bytes).expect("written");
        let ended = stream.read(&mut [0; 16]);
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        router.wait_for_refusals("behind", "proxy_header", at as u64 + 1);
    }
    let mut stream = stream(&router);
    stream.write_all(&header(0x20, 0x00, b"")).expect("a health check");
    let mut client = Connection::over(stream, Version::V3).expect("a connection");
    client.greet(&v3("checker")).expect("LOCAL is let in as itself");
}

#[test]
fn a_header_that_never_ends_is_closed_in_time() {
    let router = setup().set("limits.connect_timeout_millis", 300).start();
    let mut good = stream(&router);
    good.write_all(&header(0x21, 0x11, &V4)).expect("written");
    let mut good = Connection::over(good, Version::V5).expect("a connection");
    good.greet(&v5("good")).expect("a CONNACK");
    // Nothing, the beginning, all but the last byte; and a whole one with nothing behind it.
    let whole = header(0x21, 0x11, &V4);
    for (at, len) in [0, 9, whole.len() - 1].into_iter().enumerate() {
        let mut half = stream(&router);
        half.write_all(&whole[..len]).expect("written");
        assert_eq!(half.read(&mut [0; 16]).expect("the end of the stream"), 0, "{len} bytes");
        router.wait_for_refusals("behind", "handshake_timeout", at as u64 + 1);
    }
    let mut silent = stream(&router);
    silent.write_all(&whole).expect("written");
    assert_eq!(silent.read(&mut [0; 16]).expect("the end of the stream"), 0);
    let open = || router.listener_status("behind")["open"].as_u64();
    until("their places to be free", || (open() == Some(1)).then_some(()));
}

#[test]
fn a_header_goes_before_tls_and_websocket_too() {
    let authority = Authority::new();
    let server = authority.server("gateway", &[], 90);
    let router = setup()
        .set("listener.behind.kind", "tls")
        .set("listener.behind.cert", server.cert.display())
        .set("listener.behind.key", server.key.display())
        .set("listener.web.kind", "ws")
        .set("listener.web.bind", "127.0.0.1:0")
        .set("listener.web.proxy_protocol", true)
        .start();
    let mut stream = stream(&router);
    stream.write_all(&header(0x21, 0x11, &V4)).expect("written");
    let secured = authority.trust(None).over(stream.try_clone().expect("a socket")).expect("a handshake");
    let connection = Connection::through(stream, secured, Version::V5).expect("a connection");
    Client::over(connection, &v5("secured")).expect("a CONNACK").publish("a", "b", QOS_1);

    let mut stream = harness::websocket::stream(router.listener("web"));
    stream.write_all(&header(0x21, 0x11, &V4)).expect("written");
    let mut socket = harness::websocket::upgrade(stream, "/", "mqtt").expect("an upgrade");
    let mut connect = Vec::new();
    wire::encode_connect(&mut connect, &v3("web")).expect("legal");
    socket.send(tungstenite::Message::Binary(connect.into())).expect("sent");
    assert_eq!(socket.read().expect("a CONNACK").into_data()[..], [0x20, 2, 0, 0]);
}

/// Whether this machine has IPv6, as it must, or says that it has none with `MILLRACE_NO_IPV6=1`.
fn has_v6() -> bool {
    if std::env::var_os("MILLRACE_NO_IPV6").is_some() {
        return false;
    }
    let bound = std::net::TcpListener::bind((std::net::Ipv6Addr::LOCALHOST, 0));
    assert!(bound.is_ok(), "this machine has no IPv6 (MILLRACE_NO_IPV6=1 leaves it out): {bound:?}");
    true
}

#[test]
fn several_listeners_serve_at_once_and_count_for_themselves() {
    let has_v6 = has_v6();
    let router = Setup::new()
        .set("listener.first.kind", "tcp")
        .set("listener.first.bind", "127.0.0.1:0")
        .set("listener.first.connections_max", 2)
        .set("listener.six.kind", "tcp")
        .set("listener.six.bind", if has_v6 { "[::]:0" } else { "0.0.0.0:0" })
        .start();
    let mut one = Client::connect(router.listener("first"), &v5("one"));
    let _two = Client::connect(router.listener("first"), &v5("two"));
    let third = Client::try_connect(router.listener("first"), &v5("three"));
    assert!(third.is_err(), "{third:?}");
    router.wait_for_refusals("first", "listener_connections_max", 1);
    // `[::]` takes both.
    let port = router.listener("six").port();
    let mut v4 = Client::connect(([127, 0, 0, 1], port).into(), &v5("v4"));
    let own: std::net::IpAddr =
        if has_v6 { std::net::Ipv6Addr::LOCALHOST.into() } else { std::net::Ipv4Addr::LOCALHOST.into() };
    let mut v6 = Client::connect((own, port).into(), &v5("v6"));
    v6.subscribe("x", QOS_1);
    one.publish("x", "1", QOS_1);
    v4.publish("x", "2", QOS_1);
    assert_eq!(v6.texts(2), ["1", "2"]);
    let open = |name: &str| router.listener_status(name)["open"].as_u64();
    assert_eq!((open("tcp"), open("first"), open("six")), (Some(0), Some(2), Some(2)));
    assert!((router.metric("millrace_listener_connections{listener=\"first\"}") - 2.0).abs() < 0.1);
    assert!((router.metric("millrace_listener_accepted_total{listener=\"six\"}") - 2.0).abs() < 0.1);
    let refused = "millrace_listener_refused_total{listener=\"first\",reason=\"listener_connections_max\"}";
    assert!((router.metric(refused) - 1.0).abs() < 0.1);
}

#[test]
fn a_unix_socket_serves_and_cleans_up_after_itself() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("mqtt.sock");
    let setup =
        Setup::new().set("listener.unix.path", path.display()).set("listener.unix.mode", "600").shards(4);
    // Left behind by a process that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    let mut router = setup.clone().start();
    let metadata = fs::metadata(&path).expect("the socket");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let mut clients: Vec<_> = (0..12)
        .map(|at| {
            let connection = Connection::open_unix(&path, Version::V5).expect("a connection");
            Client::over(connection, &v5(&format!("local-{at}"))).expect("a CONNACK")
        })
        .collect();
    clients[0].subscribe("local", QOS_1);
    clients[1].publish("local", "x".repeat(100_000), QOS_1);
    assert_eq!(clients[0].message().payload.len(), 100_000);
    let text = path.display().to_string();
    foreign::publish_unix(&path, &["-t", "local", "-m", "from mosquitto", "-q", "1"]);
    assert_eq!(clients[0].message().text(), "from mosquitto");
    // A second router does not take it from the first one.
    let (code, log) = setup.fail_to_start();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("another program answers there") && log.contains(&text), "{log}");
    assert!(router.terminate().success());
    assert!(!path.exists());
}

#[test]
fn a_file_that_is_no_socket_is_never_removed() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("precious");
    fs::write(&path, "data").expect("a file");
    let (code, log) = Setup::new().set("listener.unix.path", path.display()).fail_to_start();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("no socket"), "{log}");
    assert_eq!(fs::read_to_string(&path).expect("still there"), "data");
}

#[test]
fn the_example_with_every_kind_of_listener_is_good() {
    let authority = Authority::new();
    let server = authority.server("gateway", &["gateway.example"], 90);
    let home = tempfile::tempdir().expect("a directory");
    let certificates = home.path().join("certificates");
    fs::create_dir(&certificates).expect("a directory");
    for (from, to) in
        [(&server.cert, "gateway.cert.pem"), (&server.key, "gateway.key.pem"), (&authority.file(), "ca.pem")]
    {
        fs::copy(from, certificates.join(to)).expect("a file");
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/examples/listeners.toml");
    let text = fs::read_to_string(root).expect("the example");
    let at_home = |text: &str| text.replace("certificates/", &format!("{}/", certificates.display()));
    let anywhere = |text: &str| {
        let mut text =
            at_home(text).replace("mqtt.sock", &home.path().join("mqtt.sock").display().to_string());
        for port in ["1883", "8883", "8443", "8080"] {
            text = text.replace(&format!(":{port}\""), ":0\"");
        }
        text.replace("path = \"millrace-data\"", "")
    };
    let router = Setup::new().file(&anywhere(&text)).start();
    let kinds: Vec<_> = ["tcp", "proxied", "tls", "unix", "wss"]
        .map(|name| router.listener_status(name)["kind"].as_str().unwrap_or_default().to_owned())
        .to_vec();
    assert_eq!(kinds, ["tcp", "ws", "tls", "unix", "wss"]);
}
