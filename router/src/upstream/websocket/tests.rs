//! WebSocket against a server of tungstenite's.

use tokio::net::{TcpListener, TcpStream};
use tungstenite::Message;
use tungstenite::handshake::server::{Request, Response as Answer};

use super::*;

/// A server of tungstenite's that offers `subprotocol`, pings, and sends back what it gets, then closes.
async fn echo(subprotocol: Option<&'static str>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let listener = listener.into_std().expect("a socket");
    listener.set_nonblocking(false).expect("a socket");
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        #[expect(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
        let answer = |request: &Request, mut answer: Answer| {
            assert_eq!(request.uri().path(), "/$iothub/websocket");
            if let Some(subprotocol) = subprotocol {
                answer.headers_mut().insert("Sec-WebSocket-Protocol", subprotocol.parse().expect("text"));
            }
            Ok(answer)
        };
        let Ok(mut socket) = tungstenite::accept_hdr(stream, answer) else { return };
        let mut got = 0;
        while got < 40_000 {
            socket.send(Message::Ping(b"there?".to_vec().into())).expect("a client");
            match socket.read().expect("a client") {
                Message::Binary(bytes) => {
                    got += bytes.len();
                    socket.send(Message::Binary(bytes)).expect("a client");
                }
                Message::Pong(bytes) => assert_eq!(&bytes[..], b"there?"),
                other => panic!("{other:?}"),
            }
        }
        socket.close(None).expect("a client");
        socket.flush().expect("a client");
    });
    port
}

async fn connect(port: u16) -> Stream {
    Stream::Plain(TcpStream::connect(("127.0.0.1", port)).await.expect("a server"))
}

#[tokio::test]
async fn bytes_go_there_and_back_in_order() {
    let stream = connect(echo(Some("mqtt")).await).await;
    let mut socket = upgrade(stream, "hub.example", "/$iothub/websocket").await.expect("it does");
    let sent: Vec<u8> = (0..40_000_u32).map(|number| number as u8).collect();
    socket.write_all(&sent).await.expect("it takes them");
    socket.flush().await.expect("it takes them");
    let mut came = Vec::new();
    socket.read_to_end(&mut came).await.expect("it ends");
    assert!(came == sent);
}

#[tokio::test]
async fn whoever_does_not_speak_mqtt_there_is_told_apart() {
    let stream = connect(echo(None).await).await;
    let error = upgrade(stream, "hub.example", "/$iothub/websocket").await.expect_err("it does not");
    assert!(error.contains("does not speak MQTT over WebSocket"), "{error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await.expect("a client");
        stream.read_to_end(&mut Vec::new()).await.ok();
    });
    let error = upgrade(connect(port).await, "hub.example", "/wrong").await.expect_err("it does not");
    assert!(error.contains("404") && error.contains("/wrong"), "{error}");
}
