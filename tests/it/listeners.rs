//! What each listener asks of its clients, and who they are there: anonymous, by certificate, by the word of a proxy.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};

use harness::foreign::{Subscriber, publish, subscribe};
use harness::{
    Authority, Client, Connect, Connection, OutgoingPublish, PATIENCE, QOS_0, QOS_1, QOS_2, ReasonCode,
    Router, Setup, Version, until, v3, v5,
};

/// A listener of plain MQTT beside the usual one.
fn second(name: &str) -> Setup {
    let key = |key: &str| format!("listener.{name}.{key}");
    Setup::new().set(&key("kind"), "tcp").set(&key("bind"), "127.0.0.1:0")
}

#[track_caller]
fn reason_at(address: SocketAddr, connect: &Connect) -> ReasonCode {
    let mut connection = Connection::open(address, connect.version).expect("a socket");
    connection.greet(connect).expect("a CONNACK").reason
}

/// [MQTT-3.1.4-2] [MQTT3-3.2.2-4]
#[test]
fn each_listener_decides_about_anonymous_clients_for_itself_and_anew_with_each_reload() {
    let setup = second("plant").set("auth.anonymous", false);
    let keys = "listener.tcp.anonymous = true\n";
    let mut router = setup.file(keys).start();
    let (open, closed) = (router.listener("tcp"), router.listener("plant"));
    for hello in [v3("a"), v5("a")] {
        assert_eq!(reason_at(open, &hello), ReasonCode::SUCCESS);
        assert_eq!(reason_at(closed, &hello), ReasonCode::NOT_AUTHORIZED);
    }
    let mut at_home = Client::connect(open, &v5("at-home"));
    let refused = subscribe(closed, Version::V5, &["-t", "a", "-C", "1", "-W", "20"]);
    assert_ne!(refused.code, Some(0), "mosquitto_sub is not let in");

    // The other way round; whoever came in as what is not welcome any more has to go.
    router.reload("listener.tcp.anonymous = false\nlistener.plant.anonymous = true\n");
    assert_eq!(at_home.ending().reason, Some(ReasonCode::ADMINISTRATIVE_ACTION));
    assert_eq!(reason_at(open, &v5("a")), ReasonCode::NOT_AUTHORIZED);
    let subscriber = Subscriber::start(closed, Version::V5, 1, &["-t", "a"]);
    publish(closed, Version::V3, &["-t", "a", "-m", "x"]);
    assert_eq!(subscriber.messages(), ["a|0|x"]);
}

/// [MQTT-3.2.2-15]
#[test]
fn each_listener_has_its_own_largest_packet_and_tells_it() {
    let setup =
        second("field").set("listener.field.packet_bytes_max", 200).set("limits.packet_bytes_max", 5_000);
    let router = setup.start();
    let mut wide = router.connect(&v5("wide"));
    wide.subscribe("a", QOS_0);
    let mut narrow = Client::connect(router.listener("field"), &v5("narrow"));
    let told = |client: &Client| client.greeting.packet_bytes_max.map(std::num::NonZeroU32::get);
    assert_eq!((told(&wide), told(&narrow)), (Some(5_000), Some(200)));
    narrow.publish("a", [b'x'; 190], QOS_1);
    wide.publish("a", [b'y'; 4_000], QOS_1);
    assert_eq!(
        wide.messages(2).iter().map(|message| message.payload.len()).collect::<Vec<_>>(),
        [190, 4_000]
    );
    narrow.send(&OutgoingPublish { topic: "a", payload: &[b'x'; 300], qos: QOS_0, ..Default::default() });
    assert_eq!(narrow.ending().reason, Some(ReasonCode::PACKET_TOO_LARGE));
    wide.ping();
}

#[test]
fn what_turns_clients_away_at_the_door_is_counted_whatever_it_is() {
    let setup =
        second("small").set("listener.small.connections_max", 1).set("limits.connects_per_sec_max", 3);
    let router = setup.start();
    let _first = Client::connect(router.listener("small"), &v5("first"));
    Client::try_connect(router.listener("small"), &v5("second")).expect_err("one is enough there");
    // All at the door before one of them is asked for its name: however long that takes.
    let at_the_door: Vec<_> = (0..20)
        .map(|_| Connection::open(router.address(), Version::V5).expect("the kernel takes it"))
        .collect();
    let told = |mut it: Connection| it.greet(&v5("fast")).map(|ack| ack.reason).ok();
    let reasons: Vec<_> = at_the_door.into_iter().filter_map(told).collect();
    assert!(reasons.contains(&ReasonCode::CONNECTION_RATE_EXCEEDED), "{reasons:?}");
    let of = |listener: &str, reason: &str| {
        let labels = format!("{{listener=\"{listener}\",reason=\"{reason}\"}}");
        router.metric(&format!("millrace_listener_refused_total{labels}"))
    };
    let (full, fast) = (of("small", "listener_connections_max"), of("tcp", "connect_rate"));
    assert!(full >= 1.0 && fast >= 1.0, "{full} {fast}");
    let all = router.metric("millrace_connections_refused_total");
    assert!((all - full - fast).abs() < 0.1, "{all} is not {full} and {fast}");
}

/// `%u` is the name that the certificate gives, `%c` the client identifier.
const RULES: &str = r#"auth.acl = [
    "allow certificate all own/%u/#",
    "allow certificate publish state/%c",
    "allow anonymous publish lobby",
]
"#;

/// Who is `user`, connected as `client_id`, may do what [`RULES`] say, and nothing else.
#[track_caller]
fn expect_rights(client: &mut Client, user: &str, client_id: &str) {
    let wanted = |filter: &str| wire::Subscription::new(filter, QOS_1);
    let filters = [format!("own/{user}/+"), "own/other/+".to_owned(), "own/#".to_owned(), "lobby".to_owned()];
    let reasons = client.subscribe_with(filters.iter().map(|filter| wanted(filter)).collect(), None);
    let denied = ReasonCode::NOT_AUTHORIZED;
    assert_eq!(reasons, [ReasonCode::GRANTED_QOS_1, denied, denied, denied], "{user}");
    let mut reason = |topic: &str, qos| {
        client.reason_of(&OutgoingPublish { topic, payload: b"x", qos, ..Default::default() })
    };
    for qos in [QOS_1, QOS_2] {
        assert!(!reason(&format!("own/{user}/a"), qos).is_error(), "{user} in its own corner");
        assert!(!reason(&format!("state/{client_id}"), qos).is_error());
        assert_eq!(reason("own/other/a", qos), denied);
        assert_eq!(reason("state/other", qos), denied);
        assert_eq!(reason("lobby", qos), denied, "it is not anonymous");
    }
    let topics: Vec<_> = client.messages(2).into_iter().map(|message| message.topic).collect();
    assert_eq!(topics, [format!("own/{user}/a"), format!("own/{user}/a")]);
}

#[test]
fn a_certificate_names_the_user_whom_the_rules_decide_about() {
    let authority = Authority::new();
    let server = authority.server("gateway", &[], 90);
    let identity = authority.client("press-7", 7);
    for (user_from, user) in [
        ("cn", "press-7"),
        ("san_dns", "press-7.plant.example"),
        ("san_uri", "urn:plant:press-7"),
        ("san_email", "press-7@plant.example"),
    ] {
        let router = Setup::new()
            .file(RULES)
            .set("listener.tls.bind", "127.0.0.1:0")
            .set("listener.tls.cert", server.cert.display())
            .set("listener.tls.key", server.key.display())
            .set("listener.tls.client_ca", authority.file().display())
            .set("listener.tls.client_cert", "optional")
            .set("listener.tls.user_from", user_from)
            .shards(3)
            .start();
        let open = |identity| {
            let trust = authority.trust(identity);
            Connection::open_tls(router.listener("tls"), Version::V5, &trust).expect("a handshake")
        };
        for client_id in ["one", "two", "three"] {
            let mut client = Client::over(open(Some(&identity)), &v5(client_id)).expect("a CONNACK");
            expect_rights(&mut client, user, client_id);
        }
        // The user name in CONNECT must be the same one, and needs no password then.
        for (name, reason) in [(user, ReasonCode::SUCCESS), ("other", ReasonCode::BAD_USER_NAME_OR_PASSWORD)]
        {
            let hello = Connect { user_name: Some(name.to_owned()), ..v5("named") };
            let client = Client::over(open(Some(&identity)), &hello).expect("a CONNACK");
            assert_eq!(client.greeting.reason, reason, "{name}");
        }
        // Without a certificate it is anonymous, here as at the other listener.
        let mut nobody = Client::over(open(None), &v5("nobody")).expect("a CONNACK");
        let lobby = OutgoingPublish { topic: "lobby", qos: QOS_1, ..Default::default() };
        assert!(!nobody.reason_of(&lobby).is_error());
        let corner = OutgoingPublish { topic: "own/press-7/a", qos: QOS_1, ..Default::default() };
        assert_eq!(nobody.reason_of(&corner), ReasonCode::NOT_AUTHORIZED);
    }
}

/// A PROXY header of version 2 for a client of 192.0.2.7 with this common name in its verified certificate.
fn announcement(common_name: &str) -> Vec<u8> {
    let tlv = |kind: u8, value: &[u8]| {
        let len = (value.len() as u16).to_be_bytes();
        [&[kind], len.as_slice(), value].concat()
    };
    let ssl = [[0x03, 0, 0, 0, 0].as_slice(), &tlv(0x22, common_name.as_bytes())].concat();
    let addresses = [192, 0, 2, 7, 198, 51, 100, 1, 0xC0, 0x01, 0x07, 0x5B];
    let body = [addresses.as_slice(), &tlv(0x20, &ssl)].concat();
    let len = (body.len() as u16).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11".as_slice(), &len, &body].concat()
}

fn announced(router: &Router, common_name: &str) -> Connection {
    let mut stream = TcpStream::connect(router.listener("behind")).expect("a socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(&announcement(common_name)).expect("written");
    Connection::over(stream, Version::V5).expect("a connection")
}

#[test]
fn the_name_that_a_trusted_proxy_tells_is_the_user_whom_the_rules_decide_about() {
    let setup = second("behind").file(RULES).set("listener.behind.proxy_protocol", true).shards(3);
    let router = setup.clone().set("listener.behind.proxy_trust_cn", true).start();
    for client_id in ["one", "two", "three"] {
        let connection = announced(&router, "press-7");
        let mut client = Client::over(connection, &v5(client_id)).expect("a CONNACK");
        expect_rights(&mut client, "press-7", client_id);
    }
    // A name that could mean more than one level fits no rule with `%u`.
    let mut wild = Client::over(announced(&router, "+"), &v5("wild")).expect("a CONNACK");
    let reasons = wild.subscribe_with(vec![wire::Subscription::new("own/+/+", QOS_0)], None);
    assert_eq!(reasons, [ReasonCode::NOT_AUTHORIZED]);

    let router = setup.start();
    let mut client = Client::over(announced(&router, "press-7"), &v5("one")).expect("a CONNACK");
    let corner = OutgoingPublish { topic: "own/press-7/a", qos: QOS_1, ..Default::default() };
    assert_eq!(client.reason_of(&corner), ReasonCode::NOT_AUTHORIZED, "nobody believes the proxy here");
}

/// [MQTT3-3.3.5-2] [MQTT-4.3.3-9] [MQTT-3.5.2-1]
#[test]
fn a_denied_publication_of_qos_2_is_answered_as_its_version_can() {
    let rules = "auth.acl = [\"allow all ok/#\"]\n";
    for (word, closes) in [("acknowledge", false), ("disconnect", true)] {
        let router = Setup::new().file(rules).set("auth.denied_publish_v3", word).start();
        let mut witness = router.connect(&v5("witness"));
        witness.subscribe("ok/#", QOS_2);
        let denied = OutgoingPublish { topic: "not/ok", payload: b"x", qos: QOS_2, ..Default::default() };

        let mut new = router.connect(&v5("new"));
        assert_eq!(new.reason_of(&denied), ReasonCode::NOT_AUTHORIZED, "{word}");
        // The exchange is over with that PUBREC: its identifier is free.
        new.publish("ok/new", "1", QOS_2);
        assert_eq!(witness.message().topic, "ok/new");

        let mut old = router.connect(&v3("old"));
        let count = router.number("/counters/denied_publish");
        if closes {
            old.send(&denied);
            old.ending();
            let mut again = router.connect(&v3("old"));
            again.send(&OutgoingPublish { qos: QOS_0, ..denied });
            again.ending();
        } else {
            // PUBREC, PUBREL, PUBCOMP, as if it had been taken.
            assert_eq!(old.reason_of(&denied), ReasonCode::SUCCESS);
            old.publish("ok/old", "2", QOS_2);
            assert_eq!(witness.message().topic, "ok/old");
        }
        router.wait_for("/counters/denied_publish", count + 1 + u64::from(closes));
        witness.ping();
        assert!(witness.message_within(std::time::Duration::ZERO).is_none(), "nobody gets what is denied");
        // Foreign clients see the same.
        let hello = ["-t", "not/ok", "-m", "x", "-q", "2"];
        if !closes {
            publish(router.address(), Version::V3, &hello);
        }
        publish(router.address(), Version::V5, &hello);
        until("both to be counted", || {
            let now = router.number("/counters/denied_publish");
            (now >= count + 2 + u64::from(!closes)).then_some(())
        });
    }
}
