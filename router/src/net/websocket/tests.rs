//! WebSocket without a socket: upgrades and frames, however the network cuts them.

use super::*;

const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Protocol: chat, mqtt\r\n\r\n";
const MAX: usize = 1_024;

/// A frame as a client sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    bytes
}

fn on_path(path: &str) -> Rules {
    Rules { path: Some(path.to_owned()), ..Rules::default() }
}

/// An open connection.
fn open() -> WebSocket {
    let mut socket = WebSocket::new(Rules::default());
    let (mut bytes, mut answers) = (REQUEST.as_bytes().to_vec(), Vec::new());
    assert!(!socket.take_in(&mut bytes, &mut answers, MAX).unwrap());
    assert!(bytes.is_empty() && socket.is_open());
    socket
}

/// What binary frames carried, what was answered, and how it went on.
fn take(socket: &mut WebSocket, bytes: &[u8]) -> (Vec<u8>, Vec<u8>, Result<bool, Refusal>) {
    let (mut bytes, mut answers) = (bytes.to_vec(), Vec::new());
    let result = socket.take_in(&mut bytes, &mut answers, MAX).map_err(|refused| refused.why);
    (bytes, answers, result)
}

#[track_caller]
fn refused(bytes: &[u8], why: Refusal, code: u16) {
    let (_, answers, result) = take(&mut open(), bytes);
    assert_eq!(result, Err(why), "{bytes:?}");
    assert_eq!(answers, [&[0x88, 2], &code.to_be_bytes()[..]].concat(), "{bytes:?}");
}

/// [MQTT-6.0.0-3] [MQTT3-6.0.0-3] [MQTT-6.0.0-4] [MQTT3-6.0.0-4]
#[test]
fn the_upgrade_chooses_mqtt_and_what_follows_it_counts() {
    let mut socket = WebSocket::new(on_path("/mqtt"));
    let (mut bytes, mut answers) = (REQUEST.as_bytes().to_vec(), Vec::new());
    bytes.extend(frame(0x82, b"already"));
    assert!(!socket.take_in(&mut bytes, &mut answers, MAX).unwrap());
    assert_eq!(bytes, b"already");
    let answer = String::from_utf8(answers).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    assert!(answer.contains("sec-websocket-protocol: mqtt\r\n"), "{answer}");
    // The example of RFC 6455 §1.3.
    assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
}

#[test]
fn an_upgrade_may_come_byte_by_byte() {
    let mut socket = WebSocket::new(Rules::default());
    let mut seen = Vec::new();
    for byte in REQUEST.bytes().chain(frame(0x82, b"hello")) {
        let (bytes, _, result) = take(&mut socket, &[byte]);
        assert_eq!(result, Ok(false));
        seen.extend(bytes);
    }
    assert_eq!(seen, b"hello");
}

/// [MQTT-6.0.0-3]
#[test]
fn what_is_no_upgrade_gets_the_status_that_says_why() {
    let cases = [
        (REQUEST.replace("GET", "POST"), "405", Refusal::WsRequest),
        (REQUEST.replace("HTTP/1.1", "HTTP/1.0"), "426", Refusal::WsRequest),
        (REQUEST.replace("Upgrade: websocket\r\n", ""), "426", Refusal::WsRequest),
        (REQUEST.replace("Version: 13", "Version: 8"), "426", Refusal::WsRequest),
        (REQUEST.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"), "400", Refusal::WsRequest),
        (REQUEST.replace("/mqtt", "/other"), "404", Refusal::WsPath),
        (REQUEST.replace("chat, mqtt", "chat"), "400", Refusal::WsSubprotocol),
        (REQUEST.replace("chat, mqtt", "xmqtt"), "400", Refusal::WsSubprotocol),
        ("\u{10}\u{0}\u{4}MQTT\r\n\r\n".to_owned(), "400", Refusal::WsRequest),
        (
            REQUEST.replace("gateway", &"g".repeat(MAX)).replace("\r\n\r\n", "\r\n"),
            "431",
            Refusal::HandshakeTooLarge,
        ),
    ];
    for (request, status, why) in cases {
        let mut socket = WebSocket::new(on_path("/mqtt"));
        let (_, answers, result) = take(&mut socket, request.as_bytes());
        assert_eq!(result, Err(why), "{request}");
        let answer = String::from_utf8(answers).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}{answer}");
        assert!(!socket.is_open());
    }
}

#[test]
fn the_old_name_of_mqtt_is_known_too() {
    let mut socket = WebSocket::new(Rules::default());
    let (_, answers, result) = take(&mut socket, REQUEST.replace("chat, mqtt", "mqttv3.1").as_bytes());
    assert_eq!(result, Ok(false));
    assert!(String::from_utf8(answers).unwrap().to_lowercase().contains("protocol: mqttv3.1\r\n"));
}

/// [MQTT-6.0.0-2] [MQTT3-6.0.0-2]
#[test]
fn the_same_bytes_come_out_however_frames_and_network_cut_them() {
    let long: Vec<u8> = (0..70_000u32).map(|at| (at % 253) as u8).collect();
    let mut stream = Vec::new();
    stream.extend(frame(0x02, b"a message in "));
    stream.extend(frame(0x89, b"ping"));
    stream.extend(frame(0x00, b"three "));
    stream.extend(frame(0x8A, b""));
    stream.extend(frame(0x80, b"fragments"));
    stream.extend(frame(0x82, b""));
    stream.extend(frame(0x82, &long[..200]));
    stream.extend(frame(0x82, &long));
    let expected = [b"a message in three fragments".as_slice(), &long[..200], &long].concat();
    for cut in [1, 2, 3, 5, 7, 64, 1_000, stream.len()] {
        let mut socket = open();
        let (mut seen, mut answered) = (Vec::new(), Vec::new());
        for chunk in stream.chunks(cut) {
            let (bytes, answers, result) = take(&mut socket, chunk);
            assert_eq!(result, Ok(false), "cut into {cut}");
            seen.extend(bytes);
            answered.extend(answers);
        }
        assert!(seen == expected, "cut into {cut}");
        assert_eq!(answered, b"\x8A\x04ping", "cut into {cut}");
    }
}

/// [MQTT-6.0.0-1] [MQTT3-6.0.0-1]
#[test]
fn text_is_refused_with_its_own_code_and_what_came_before_it_counts() {
    refused(&frame(0x81, b"hello"), Refusal::WsText, UNSUPPORTED);
    let (bytes, _, result) = take(&mut open(), &[frame(0x82, b"before"), frame(0x81, b"text")].concat());
    assert_eq!((bytes.as_slice(), result), (b"before".as_slice(), Err(Refusal::WsText)));
}

#[test]
fn frames_that_break_the_rules_are_refused() {
    refused(&[0x82, 0x01, 0x00], Refusal::WsFrame, PROTOCOL_ERROR);
    refused(&frame(0xC2, b"x"), Refusal::WsFrame, PROTOCOL_ERROR);
    refused(&frame(0x83, b"x"), Refusal::WsFrame, PROTOCOL_ERROR);
    refused(&frame(0x80, b"x"), Refusal::WsFrame, PROTOCOL_ERROR);
    refused(&[frame(0x02, b"x"), frame(0x82, b"y")].concat(), Refusal::WsFrame, PROTOCOL_ERROR);
    refused(&frame(0x09, b"x"), Refusal::WsFrame, PROTOCOL_ERROR);
    refused(&frame(0x89, &[0; 126]), Refusal::WsFrame, PROTOCOL_ERROR);
    refused(&[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4], Refusal::WsFrame, PROTOCOL_ERROR);
    refused(&frame(0x88, &[3]), Refusal::WsFrame, PROTOCOL_ERROR);
    refused(&frame(0x88, &1005u16.to_be_bytes()), Refusal::WsFrame, PROTOCOL_ERROR);
}

#[test]
fn a_close_is_answered_once_and_nothing_counts_after_it() {
    for (payload, code) in [(vec![], NORMAL), (GOING_AWAY.to_be_bytes().to_vec(), GOING_AWAY)] {
        let mut socket = open();
        let stream = [frame(0x82, b"last"), frame(0x88, &payload), frame(0x82, b"late")].concat();
        let (bytes, answers, result) = take(&mut socket, &stream);
        assert_eq!((bytes.as_slice(), result), (b"last".as_slice(), Ok(true)));
        assert_eq!(answers, [&[0x88, 2], &code.to_be_bytes()[..]].concat());
        let mut more = Vec::new();
        socket.close(NORMAL, &mut more);
        assert!(more.is_empty());
        assert_eq!(take(&mut socket, b"anything"), (Vec::new(), Vec::new(), Ok(true)));
    }
}

#[test]
fn a_page_of_another_origin_is_turned_away() {
    let ask = |origin: &str| {
        let origins = vec!["https://panel.example".to_owned(), "http://127.0.0.1:8080".to_owned()];
        let mut socket = WebSocket::new(Rules { origins, ..Rules::default() });
        let request = REQUEST.replace("Host: gateway\r\n", &format!("Host: gateway\r\n{origin}"));
        let (_, answers, result) = take(&mut socket, request.as_bytes());
        (String::from_utf8(answers).unwrap()[9..12].to_owned(), result)
    };
    assert_eq!(ask("Origin: https://Panel.example\r\n"), ("101".to_owned(), Ok(false)));
    assert_eq!(ask("Origin: http://127.0.0.1:8080\r\n"), ("101".to_owned(), Ok(false)));
    assert_eq!(ask(""), ("101".to_owned(), Ok(false)), "programs send none");
    for foreign in ["https://panel.example.com", "http://panel.example", "https://panel.example:444", "null"]
    {
        let asked = ask(&format!("Origin: {foreign}\r\n"));
        assert_eq!(asked, ("403".to_owned(), Err(Refusal::WsOrigin)), "{foreign}");
    }
}
