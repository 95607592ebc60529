//! MQTT over TLS: who gets in, with which certificate, and what clients notice when the router's own one is exchanged.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use harness::foreign::{self, Subscriber};
use harness::{
    Authority, Client, Connection, Identity, Incoming, PATIENCE, QOS_0, QOS_1, Router, Setup, Trust, Version,
    until, v3, v5,
};

fn setup(server: &Identity) -> Setup {
    Setup::new()
        .set("listener.tls.bind", "127.0.0.1:0")
        .set("listener.tls.cert", server.cert.display())
        .set("listener.tls.key", server.key.display())
}

fn connect(router: &Router, trust: &Trust, client_id: &str) -> Client {
    let connection = Connection::open_tls(router.listener("tls"), Version::V5, trust).expect("a handshake");
    Client::over(connection, &v5(client_id)).expect("a CONNACK")
}

#[test]
fn messages_pass_between_plain_and_encrypted_clients_in_both_versions_of_tls() {
    let authority = Authority::new();
    let router = setup(&authority.server("gateway", &[], 90)).start();
    for (at, trust) in [authority.trust(None).tls_1_2(), authority.trust(None).tls_1_3()].iter().enumerate() {
        let mut secured = connect(&router, trust, &format!("s{at}"));
        let mut plain = router.connect(&v3(&format!("p{at}")));
        secured.subscribe(&format!("to/secured/{at}"), QOS_1);
        plain.subscribe(&format!("to/plain/{at}"), QOS_1);
        secured.publish(&format!("to/plain/{at}"), "hello", QOS_1);
        plain.publish(&format!("to/secured/{at}"), "hello back", QOS_1);
        assert_eq!(plain.message().text(), "hello", "{trust:?}");
        assert_eq!(secured.message().text(), "hello back", "{trust:?}");
    }
}

#[test]
fn messages_larger_than_a_record_pass_both_ways() {
    let authority = Authority::new();
    let router = setup(&authority.server("gateway", &[], 90)).start();
    let mut client = connect(&router, &authority.trust(None), "large");
    client.subscribe("large/+", QOS_1);
    for len in [16_383, 16_384, 16_385, 70_000, 900_000] {
        let payload: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        client.publish("large/one", &payload, QOS_1);
        assert!(client.message().payload == payload, "{len} bytes");
    }
}

#[test]
fn a_client_moves_to_the_shard_of_its_session_in_the_middle_of_tls() {
    let authority = Authority::new();
    let router = setup(&authority.server("gateway", &[], 90)).shards(4).start();
    let trust = authority.trust(None);
    let mut clients: Vec<_> = (0..24).map(|at| connect(&router, &trust, &format!("mover-{at}"))).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        client.subscribe(&format!("mover/{at}"), QOS_1);
    }
    for at in 0..24 {
        clients[(at + 7) % 24].publish(&format!("mover/{at}"), format!("for {at}"), QOS_1);
        assert_eq!(clients[at].message().text(), format!("for {at}"));
    }
    assert_eq!(router.listener_status("tls")["open"], 24);
    drop(clients);
    until("all to be gone", || (router.listener_status("tls")["open"] == 0).then_some(()));
}

#[test]
fn a_certificate_is_asked_for_and_judged_as_configured() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let server = authority.server("gateway", &[], 90);
    let (known, unknown) = (authority.client("press-7", 7), stranger.client("press-7", 7));
    let required = setup(&server).set("listener.tls.client_ca", authority.file().display()).start();
    let optional = setup(&server)
        .set("listener.tls.client_ca", authority.file().display())
        .set("listener.tls.client_cert", "optional")
        .start();
    for router in [&required, &optional] {
        connect(router, &authority.trust(Some(&known)), "known").publish("a", "b", QOS_1);
        expect_no_connection(router, &authority.trust(Some(&unknown)));
        router.wait_for_refusals("tls", "tls_certificate", 1);
    }
    connect(&optional, &authority.trust(None), "nobody").publish("a", "b", QOS_1);
    expect_no_connection(&required, &authority.trust(None));
    required.wait_for_refusals("tls", "tls_no_certificate", 1);
    // A client that does not know our authority refuses us.
    assert!(stranger.trust(None).connect(required.listener("tls")).is_err());
    required.wait_for_refusals("tls", "tls_alert", 1);
}

/// TLS 1.3 tells a client that its certificate is refused only after it believes the handshake to be over.
#[track_caller]
fn expect_no_connection(router: &Router, trust: &Trust) {
    let Ok(connection) = Connection::open_tls(router.listener("tls"), Version::V5, trust) else { return };
    let answer = Client::over(connection, &v5("refused"));
    assert!(answer.is_err(), "{answer:?}");
}

#[test]
fn a_revoked_certificate_is_refused_as_soon_as_the_list_is_read() {
    let authority = Authority::new();
    let (good, bad) = (authority.client("good", 21), authority.client("bad", 22));
    let list = authority.revoke(&[]);
    let text = "[listener.tcp]\nbind = '127.0.0.1:0'\n";
    let mut router = setup(&authority.server("gateway", &[], 90))
        .set("listener.tls.client_ca", authority.file().display())
        .set("listener.tls.client_crl", list.display())
        .file(text)
        .start();
    let mut stays = connect(&router, &authority.trust(Some(&bad)), "stays");
    authority.revoke(&[22]);
    router.reload(text);
    until("the list to be read", || router.log().contains("certificates read anew").then_some(()));
    expect_no_connection(&router, &authority.trust(Some(&bad)));
    router.wait_for_refusals("tls", "tls_certificate", 1);
    connect(&router, &authority.trust(Some(&good)), "good").publish("a", "b", QOS_1);
    stays.publish("a", "b", QOS_1);
}

#[test]
fn the_certificate_is_chosen_by_the_name_that_the_client_asks_for() {
    let authority = Authority::new();
    let one = authority.server("one", &["one.example"], 90);
    let two = authority.server("two", &["two.example", "*.two.example"], 90);
    let router = setup(&one)
        .set("listener.tls.sni.second.cert", two.cert.display())
        .set("listener.tls.sni.second.key", two.key.display())
        .start();
    for (name, accepted) in
        [("one.example", true), ("two.example", true), ("a.two.example", true), ("three.example", false)]
    {
        let answer = authority.trust(None).name(name).connect(router.listener("tls"));
        assert_eq!(answer.is_ok(), accepted, "{name}");
    }
    let certificates = router.listener_status("tls")["certificates"].clone();
    assert_eq!(certificates[1]["names"], serde_json::json!(["two.example", "*.two.example"]));
}

#[test]
fn a_new_certificate_is_taken_over_and_a_bad_one_is_not() {
    let authority = Authority::new();
    let server = authority.server("gateway", &["old.example"], 90);
    let text = "[listener.tcp]\nbind = '127.0.0.1:0'\n";
    let mut router = setup(&server).file(text).start();
    let mut stays = connect(&router, &authority.trust(None), "stays");
    stays.subscribe("still/there", QOS_1);

    authority.server("gateway", &["new.example"], 90);
    router.reload(text);
    until("the new certificate", || {
        authority.trust(None).name("new.example").connect(router.listener("tls")).ok()
    });
    assert!(authority.trust(None).name("old.example").connect(router.listener("tls")).is_err());

    // The certificate of one and the key of another.
    let other = authority.server("other", &["other.example"], 90);
    std::fs::copy(&other.key, &server.key).expect("a file");
    router.reload(text);
    until("the mistake to be reported", || router.log().contains("nothing was changed").then_some(()));
    assert!(router.log().contains("is not the key of"), "{}", router.log());
    assert!(router.status()["reload_error"].as_str().is_some_and(|it| it.contains("listener.tls.key")));
    authority
        .trust(None)
        .name("new.example")
        .connect(router.listener("tls"))
        .expect("the one that was there");

    stays.publish("still/there", "yes", QOS_1);
    assert_eq!(stays.message().text(), "yes");
}

#[test]
fn files_that_are_missing_or_wrong_stop_the_start_and_the_check() {
    let authority = Authority::new();
    let server = authority.server("gateway", &[], 90);
    let nowhere = authority.home().join("nowhere.pem");
    let no_pem = authority.home().join("no.pem");
    std::fs::write(&no_pem, "hello").expect("a file");
    let other = authority.server("other", &[], 90);
    let refusals: [(&str, &Path, &str); 5] = [
        ("cert", &nowhere, "cannot be read"),
        ("cert", &no_pem, "holds no certificate in PEM form"),
        ("key", &no_pem, "holds no private key in PEM form"),
        ("key", &other.key, "is not the key of"),
        ("client_ca", &nowhere, "cannot be read"),
    ];
    for (key, path, problem) in refusals {
        let (code, log) = setup(&server).set(&format!("listener.tls.{key}"), path.display()).fail_to_start();
        assert_eq!(code, Some(2), "{log}");
        assert!(log.contains(problem) && log.contains(&format!("listener.tls.{key}")), "{log}");
    }
    let check = harness::run(&[
        "check",
        "--set",
        "listener.tls.bind=127.0.0.1:0",
        "--set",
        &format!("listener.tls.cert={}", server.cert.display()),
        "--set",
        &format!("listener.tls.key={}", other.key.display()),
    ])
    .expect(2);
    assert!(check.err.contains("is not the key of"), "{}", check.err);
}

#[test]
fn a_certificate_that_ends_soon_is_shown_and_warned_about() {
    let authority = Authority::new();
    let soon = authority.server("soon", &["soon.example"], 10);
    let router = setup(&soon).start();
    assert!(router.log().contains("expires in 10 days"), "{}", router.log());
    assert_eq!(router.listener_status("tls")["certificates"][0]["expires_in_days"], 10);
    assert!((router.metric("millrace_listener_certificate_days{listener=\"tls\"}") - 10.0).abs() < 0.1);
    let check = harness::run(&[
        "check",
        "--set",
        "listener.tls.bind=127.0.0.1:0",
        "--set",
        &format!("listener.tls.cert={}", soon.cert.display()),
        "--set",
        &format!("listener.tls.key={}", soon.key.display()),
    ])
    .expect(0);
    assert!(check.out.contains("soon.example: 10 days left"), "{}", check.out);
    assert!(check.out.contains("expires in 10 days"), "{}", check.out);
}

#[test]
fn a_handshake_that_never_ends_is_closed_and_harms_nobody() {
    let authority = Authority::new();
    let router =
        setup(&authority.server("gateway", &[], 90)).set("limits.connect_timeout_millis", 400).start();
    let mut neighbour = connect(&router, &authority.trust(None), "neighbour");
    // One says nothing, one stops in the middle of its first record.
    let mut silent = TcpStream::connect(router.listener("tls")).expect("a connection");
    let mut half = TcpStream::connect(router.listener("tls")).expect("a connection");
    half.write_all(&[22, 3, 1, 2, 0, 1, 0]).expect("the start of a ClientHello");
    for stream in [&mut silent, &mut half] {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        assert_eq!(stream.read(&mut [0; 16]).expect("an orderly end"), 0);
    }
    router.wait_for_refusals("tls", "handshake_timeout", 2);
    neighbour.publish("a", "b", QOS_1);
}

#[test]
fn a_thousand_connections_of_garbage_harm_nobody() {
    let authority = Authority::new();
    let router = setup(&authority.server("gateway", &[], 90)).start();
    let mut neighbour = connect(&router, &authority.trust(None), "neighbour");
    let mut random = harness::Random::new(11);
    for at in 0..1_000 {
        let mut stream = TcpStream::connect(router.listener("tls")).expect("a connection");
        let mut bytes = vec![0; random.between(1, 300) as usize];
        bytes.iter_mut().for_each(|byte| *byte = random.below(256) as u8);
        if at % 3 == 0 {
            // As if it were a handshake record.
            bytes.splice(0..0, [22, 3, 1, 0, bytes.len().min(255) as u8]);
        }
        stream.write_all(&bytes).ok();
    }
    neighbour.publish("a", "b", QOS_1);
    // Not that nothing is open: those that were not accepted yet are not open either.
    let status = until("all to be refused", || {
        let status = router.listener_status("tls");
        let refused = status["refused"].as_object().into_iter().flatten().filter_map(|it| it.1.as_u64());
        (refused.sum::<u64>() == 1_000).then_some(status)
    });
    until("all to be gone", || (router.listener_status("tls")["open"] == 1).then_some(()));
    assert_eq!(router.listener_status("tls")["refused"], status["refused"], "each once");
    // Plain MQTT at a TLS listener is garbage too, and is told so by an alert.
    let mut plain = Connection::open(router.listener("tls"), Version::V5).expect("a connection");
    assert!(plain.greet(&v5("plain")).is_err());
}

#[test]
fn a_large_handshake_is_refused_at_its_bound() {
    let authority = Authority::new();
    let router =
        setup(&authority.server("gateway", &[], 90)).set("limits.handshake_bytes_max", 2_000).start();
    let mut stream = TcpStream::connect(router.listener("tls")).expect("a connection");
    // A ClientHello of 60 000 bytes, in records of 1 000.
    let mut hello = vec![1, 0, 0xEA, 0x60];
    hello.resize(1_000, 0);
    for _ in 0..4 {
        let mut record = vec![22, 3, 1, 3, 0xE8];
        record.extend_from_slice(&hello);
        if stream.write_all(&record).is_err() {
            break;
        }
    }
    router.wait_for_refusals("tls", "handshake_too_large", 1);
}

#[test]
fn the_router_closes_with_disconnect_and_close_notify() {
    let authority = Authority::new();
    let mut router = setup(&authority.server("gateway", &[], 90)).start();
    let mut secured = authority.trust(None).connect(router.listener("tls")).expect("a handshake");
    let mut connect = Vec::new();
    wire::encode_connect(&mut connect, &v5("leaving")).expect("a legal CONNECT");
    secured.write_all(&connect).expect("written");
    let mut buffer = [0; 256];
    let len = secured.read(&mut buffer).expect("a CONNACK");
    assert_eq!(buffer[0], 0x20, "{:?}", &buffer[..len]);
    assert!(router.terminate().success());
    let mut rest = Vec::new();
    // rustls reports an end without close_notify as an error.
    secured.read_to_end(&mut rest).expect("close_notify");
    assert_eq!(rest, [0xE0, 0x02, 0x8B, 0x00], "DISCONNECT, server shutting down: {rest:?}");
}

#[test]
fn a_slow_reader_over_tls_is_bounded_like_any_other() {
    let authority = Authority::new();
    let router = setup(&authority.server("gateway", &[], 90)).set("limits.outbox_bytes_max", 1 << 20).start();
    let mut slow = connect(&router, &authority.trust(None), "slow");
    slow.subscribe("flood", QOS_0);
    let mut publisher = router.connect(&v3("publisher"));
    let payload = vec![7; 100_000];
    let before = router.memory_bytes();
    for _ in 0..600 {
        publisher.publish("flood", &payload, QOS_0);
    }
    publisher.publish("done", "", QOS_1);
    router.wait_for("/counters/dropped_outbox_full", 300);
    let grown = router.memory_bytes().saturating_sub(before);
    assert!(grown < 40 << 20, "60 MB were sent to a client that does not read; memory grew by {grown} bytes");
    // What it takes in the end is whole.
    let message = slow.message();
    assert!(message.payload == payload);
}

#[test]
fn a_burst_of_qos_1_comes_through_in_order() {
    let authority = Authority::new();
    let router = setup(&authority.server("gateway", &[], 90)).start();
    let mut subscriber = connect(&router, &authority.trust(None), "subscriber");
    subscriber.subscribe("burst", QOS_1);
    let mut publisher = connect(&router, &authority.trust(None), "publisher").manual();
    let count: u16 = 2_000;
    let mut bytes = Vec::new();
    for at in 1..=count {
        let publish = harness::OutgoingPublish {
            topic: "burst",
            payload: &at.to_be_bytes(),
            qos: QOS_1,
            packet_id: std::num::NonZeroU16::new(at),
            ..Default::default()
        };
        wire::encode_publish(&mut bytes, Version::V5, &publish).expect("a legal PUBLISH");
    }
    publisher.connection().write(&bytes).expect("written");
    for at in 1..=count {
        assert_eq!(subscriber.message().payload, at.to_be_bytes());
    }
    for at in 1..=count {
        match publisher.connection().receive(PATIENCE).expect("a packet") {
            Some(Incoming::PubAck(id, _)) => assert_eq!(id.get(), at),
            other => panic!("not a PUBACK, but {other:?}"),
        }
    }
}

#[test]
fn mosquitto_clients_get_in_with_the_right_files_only() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let client = authority.client("press-7", 7);
    let router = setup(&authority.server("gateway", &[], 90))
        .set("listener.tls.client_ca", authority.file().display())
        .start();
    let text = |path: &Path| path.display().to_string();
    let (ca, cert, key) = (text(&authority.file()), text(&client.cert), text(&client.key));
    let files = ["--cafile", &ca, "--cert", &cert, "--key", &key];
    for tls in ["tlsv1.2", "tlsv1.3"] {
        let subscriber = Subscriber::start(
            router.listener("tls"),
            Version::V5,
            1,
            &[files.as_slice(), &["--tls-version", tls, "-q", "1", "-t", "from/mosquitto"]].concat(),
        );
        let publish = [files.as_slice(), &["--tls-version", tls, "--tls-alpn", "mqtt", "-q", "1"]].concat();
        let message = ["-t", "from/mosquitto", "-m", "secret"];
        foreign::publish(router.listener("tls"), Version::V3, &[publish.as_slice(), &message].concat());
        assert_eq!(subscriber.messages(), ["from/mosquitto|1|secret"], "{tls}");
    }
    let wrong = text(&stranger.file());
    let arguments = ["--cafile", &wrong, "--cert", &cert, "--key", &key, "-t", "x", "-W", "5", "-C", "1"];
    let refused = foreign::subscribe(router.listener("tls"), Version::V5, &arguments);
    assert_ne!(refused.code, Some(0), "a server of an unknown authority is refused: {}", refused.err);
    router.wait_for_refusals("tls", "tls_alert", 1);
    let without = foreign::subscribe(
        router.listener("tls"),
        Version::V5,
        &["--cafile", &ca, "-t", "x", "-W", "5", "-C", "1"],
    );
    assert_ne!(without.code, Some(0), "a client without a certificate is refused: {}", without.err);
    router.wait_for_refusals("tls", "tls_no_certificate", 1);
}
