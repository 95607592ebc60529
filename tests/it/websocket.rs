//! MQTT over WebSocket: a foreign library gets in, fragments and coalesces as it likes, and is refused what is not MQTT.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use harness::websocket::{stream, upgrade};
use harness::{Authority, Client, Connection, QOS_1, Router, Setup, Version, until, v3, v5};
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};
use tungstenite::{Message, WebSocket};

fn setup() -> Setup {
    Setup::new().set("listener.ws.bind", "127.0.0.1:0")
}

fn connect(router: &Router, client_id: &str) -> Client {
    let connection = Connection::open_ws(router.listener("ws"), Version::V5).expect("an upgrade");
    Client::over(connection, &v5(client_id)).expect("a CONNACK")
}

fn socket(router: &Router) -> WebSocket<TcpStream> {
    upgrade(stream(router.listener("ws")), "/anything?x=1", "mqtt").expect("any path")
}

fn packet(client_id: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode_connect(&mut bytes, &v5(client_id)).expect("a legal CONNECT");
    bytes
}

/// The bytes of the next binary message.
#[track_caller]
fn binary(socket: &mut WebSocket<TcpStream>) -> Vec<u8> {
    loop {
        match socket.read().expect("a message") {
            Message::Binary(bytes) => return bytes.to_vec(),
            Message::Pong(_) | Message::Ping(_) => {}
            other => panic!("not binary: {other:?}"),
        }
    }
}

#[test]
fn messages_pass_between_websocket_and_plain_clients() {
    let router = setup().start();
    let mut browser = connect(&router, "browser");
    let mut plain = router.connect(&v3("plain"));
    browser.subscribe("to/browser", QOS_1);
    plain.subscribe("to/plain", QOS_1);
    for len in [0, 1, 125, 126, 65_535, 65_536, 900_000] {
        let payload: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        browser.publish("to/plain", &payload, QOS_1);
        assert!(plain.message().payload == payload, "{len} bytes");
        plain.publish("to/browser", &payload, QOS_1);
        assert!(browser.message().payload == payload, "{len} bytes");
    }
}

#[test]
fn a_client_moves_to_the_shard_of_its_session_in_the_middle_of_websocket_and_tls() {
    let authority = Authority::new();
    let server = authority.server("gateway", &[], 90);
    let router = setup()
        .shards(4)
        .set("listener.wss.bind", "127.0.0.1:0")
        .set("listener.wss.cert", server.cert.display())
        .set("listener.wss.key", server.key.display())
        .start();
    let trust = authority.trust(None);
    let mut clients: Vec<_> = (0..24)
        .map(|at| {
            if at % 2 == 0 {
                return connect(&router, &format!("mover-{at}"));
            }
            let connection = Connection::open_wss(router.listener("wss"), Version::V3, &trust).expect("wss");
            Client::over(connection, &v3(&format!("mover-{at}"))).expect("a CONNACK")
        })
        .collect();
    for (at, client) in clients.iter_mut().enumerate() {
        client.subscribe(&format!("mover/{at}"), QOS_1);
    }
    let large = "x".repeat(40_000);
    for at in 0..24 {
        clients[(at + 7) % 24].publish(&format!("mover/{at}"), format!("for {at} {large}"), QOS_1);
        assert!(clients[at].message().text().starts_with(&format!("for {at} ")));
    }
}

/// [MQTT-6.0.0-2] [MQTT3-6.0.0-2]
#[test]
fn packets_may_begin_and_end_anywhere_in_frames() {
    let router = setup().start();
    let mut socket = socket(&router);
    // CONNECT in three fragments of one message, with a ping between them, and two PINGREQ coalesced with its end.
    let mut bytes = packet("cut");
    bytes.extend([0xC0, 0x00, 0xC0, 0x00]);
    let parts = [&bytes[..1], &bytes[1..9], &bytes[9..]];
    for (at, part) in parts.into_iter().enumerate() {
        let opcode = if at == 0 { Data::Binary } else { Data::Continue };
        socket
            .send(Message::Frame(Frame::message(part.to_vec(), OpCode::Data(opcode), at == 2)))
            .expect("sent");
        if at == 0 {
            socket.send(Message::Ping(b"still there?".to_vec().into())).expect("sent");
        }
    }
    let mut seen = Vec::new();
    while !seen.ends_with(&[0xD0, 0x00, 0xD0, 0x00]) {
        seen.extend(binary(&mut socket));
    }
    assert_eq!(seen[0], 0x20, "CONNACK first: {seen:?}");
}

/// [MQTT-6.0.0-1] [MQTT3-6.0.0-1]
#[test]
fn a_text_frame_ends_the_connection_with_its_own_code() {
    let router = setup().start();
    let mut socket = socket(&router);
    socket.send(Message::Binary(packet("texter").into())).expect("sent");
    binary(&mut socket);
    socket.send(Message::Text("hello".into())).expect("sent");
    match socket.read().expect("a close frame") {
        Message::Close(Some(close)) => assert_eq!(close.code, CloseCode::Unsupported),
        other => panic!("not a close frame, but {other:?}"),
    }
    router.wait_for_refusals("ws", "ws_text", 1);
    until("the client to be gone", || (router.listener_status("ws")["open"] == 0).then_some(()));
}

#[test]
fn a_frame_without_a_mask_ends_the_connection() {
    let router = setup().start();
    let mut socket = socket(&router);
    let mut bytes = Vec::new();
    let header = FrameHeader { opcode: OpCode::Data(Data::Binary), ..FrameHeader::default() };
    header.format(2, &mut bytes).expect("a vector takes everything");
    bytes.extend([0xC0, 0x00]);
    socket.get_mut().write_all(&bytes).expect("sent");
    match socket.read().expect("a close frame") {
        Message::Close(Some(close)) => assert_eq!(close.code, CloseCode::Protocol),
        other => panic!("not a close frame, but {other:?}"),
    }
    router.wait_for_refusals("ws", "ws_frame", 1);
}

/// [MQTT-6.0.0-3] [MQTT3-6.0.0-3] [MQTT-6.0.0-4] [MQTT3-6.0.0-4]
#[test]
fn what_is_no_upgrade_to_mqtt_gets_a_proper_answer() {
    let router = setup().set("listener.ws.path", "/mqtt").start();
    let status =
        |path: &str, subprotocol: &str| upgrade(stream(router.listener("ws")), path, subprotocol).map(|_| ());
    assert_eq!(status("/mqtt", "mqtt"), Ok(()));
    assert_eq!(status("/mqtt", "mqttv3.1"), Ok(()));
    assert_eq!(status("/other", "mqtt"), Err(404));
    assert_eq!(status("/mqtt", "chat"), Err(400));
    assert_eq!(status("/mqtt", ""), Err(400));
    for (request, expected) in [
        ("GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 426 "),
        ("POST /mqtt HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 405 "),
        ("hello\r\n\r\n", "HTTP/1.1 400 "),
    ] {
        let mut stream = stream(router.listener("ws"));
        stream.write_all(request.as_bytes()).expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer, then the end");
        assert!(answer.starts_with(expected), "{request}{answer}");
    }
    router.wait_for_refusals("ws", "ws_request", 3);
    router.wait_for_refusals("ws", "ws_subprotocol", 2);
    router.wait_for_refusals("ws", "ws_path", 1);
}

#[test]
fn an_upgrade_that_never_ends_is_closed_and_a_large_one_too() {
    let router =
        setup().set("limits.connect_timeout_millis", 400).set("limits.handshake_bytes_max", 1_024).start();
    let mut half = stream(router.listener("ws"));
    half.write_all(b"GET /mqtt HTTP/1.1\r\nHost: ").expect("written");
    assert_eq!(half.read(&mut [0; 16]).expect("an orderly end"), 0);
    router.wait_for_refusals("ws", "handshake_timeout", 1);
    let mut large = stream(router.listener("ws"));
    large.write_all(format!("GET /{} HTTP/1.1\r\n", "x".repeat(2_000)).as_bytes()).expect("written");
    let mut answer = String::new();
    large.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    router.wait_for_refusals("ws", "handshake_too_large", 1);
    // Upgraded, and then silent: that is a matter of MQTT.
    let mut silent = socket(&router);
    assert!(matches!(silent.read(), Ok(Message::Close(_)) | Err(_)));
    assert!(router.number("/counters/closed_connect_timeout") >= 2);
}

#[test]
fn the_router_closes_with_disconnect_and_a_close_frame() {
    let mut router = setup().start();
    let mut socket = socket(&router);
    socket.send(Message::Binary(packet("leaving").into())).expect("sent");
    assert_eq!(binary(&mut socket)[0], 0x20);
    assert!(router.terminate().success());
    assert_eq!(binary(&mut socket), [0xE0, 0x02, 0x8B, 0x00]);
    match socket.read().expect("a close frame") {
        Message::Close(Some(close)) => assert_eq!(close.code, CloseCode::Away),
        other => panic!("not a close frame, but {other:?}"),
    }
}

#[test]
fn a_client_that_closes_gets_an_answer_and_its_will_is_published() {
    let router = setup().start();
    let mut watcher = router.connect(&v5("watcher"));
    watcher.subscribe("gone", QOS_1);
    let mut socket = socket(&router);
    let will = wire::Will { topic: "gone".into(), payload: b"closed".to_vec(), ..wire::Will::default() };
    let mut bytes = Vec::new();
    wire::encode_connect(&mut bytes, &harness::Connect { will: Some(will), ..v5("closer") }).expect("legal");
    socket.send(Message::Binary(bytes.into())).expect("sent");
    binary(&mut socket);
    socket.close(None).expect("sent");
    assert!(matches!(socket.read(), Ok(Message::Close(_))));
    assert_eq!(watcher.message().text(), "closed");
}

#[test]
fn a_flood_of_pings_that_takes_no_answers_is_bounded() {
    let router = setup().start();
    let mut neighbour = connect(&router, "neighbour");
    let mut socket = socket(&router);
    let before = router.memory_bytes();
    let mut pings = Vec::new();
    for _ in 0..10_000 {
        pings.extend([0x89, 0x80 | 100, 0, 0, 0, 0]);
        pings.extend([b'p'; 100]);
    }
    let stream = socket.get_mut();
    stream.set_write_timeout(Some(std::time::Duration::from_millis(500))).expect("a timeout");
    for _ in 0..20 {
        if stream.write_all(&pings).is_err() {
            break;
        }
    }
    neighbour.publish("a", "b", QOS_1);
    let grown = router.memory_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes");
}
