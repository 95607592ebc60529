//! The line does what it is told, over real sockets of this machine; every wait ends with an event, not a time.

use std::io::ErrorKind;

use tokio::io::AsyncReadExt;

use super::*;

/// A server that sends back what it gets.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await.ok();
            });
        }
    });
    address
}

async fn line() -> Wan {
    let far = echo().await;
    Wan::start("127.0.0.1:0", &far.to_string()).await.unwrap()
}

async fn ping(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).await.unwrap();
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, text);
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), test).await.unwrap() });
}

#[test]
fn bytes_pass_unchanged_both_ways() {
    run(async {
        let wan = line().await;
        let mut stream = TcpStream::connect(wan.address()).await.unwrap();
        let large: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
        let (mut from, mut to) = stream.split();
        let mut back = vec![0; large.len()];
        let (sent, received) = tokio::join!(to.write_all(&large), from.read_exact(&mut back));
        sent.unwrap();
        received.unwrap();
        assert!(back == large);
        let bytes = large.len() as u64;
        assert_eq!(wan.traffic(), Traffic { connections: 1, bytes_out: bytes, bytes_back: bytes });
    });
}

#[test]
fn an_orderly_end_is_passed_on() {
    run(async {
        let wan = line().await;
        let mut stream = TcpStream::connect(wan.address()).await.unwrap();
        ping(&mut stream, b"hello").await;
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    });
}

#[test]
fn a_cut_resets_connections_and_refuses_new_ones_until_restored() {
    run(async {
        let wan = line().await;
        let mut stream = TcpStream::connect(wan.address()).await.unwrap();
        ping(&mut stream, b"before").await;
        wan.cut();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let refused = TcpStream::connect(wan.address()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        wan.restore();
        let mut again = loop {
            match TcpStream::connect(wan.address()).await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        ping(&mut again, b"after").await;
    });
}

#[test]
fn a_cut_too_short_to_be_seen_still_resets() {
    run(async {
        let wan = line().await;
        let mut stream = TcpStream::connect(wan.address()).await.unwrap();
        ping(&mut stream, b"before").await;
        wan.cut();
        wan.restore();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_blackhole_keeps_connections_silent_and_loses_nothing() {
    run(async {
        let wan = line().await;
        let mut stream = TcpStream::connect(wan.address()).await.unwrap();
        ping(&mut stream, b"before").await;
        wan.blackhole();
        tokio::task::yield_now().await;
        stream.write_all(b"held back").await.unwrap();
        // A connection made meanwhile is held back as well.
        let mut second = TcpStream::connect(wan.address()).await.unwrap();
        second.write_all(b"me too").await.unwrap();
        let mut answer = [0; 9];
        let silent = tokio::time::timeout(Duration::from_millis(50), stream.read_exact(&mut answer)).await;
        assert!(silent.is_err() && wan.traffic().connections == 1);
        wan.restore();
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"held back");
        second.read_exact(&mut answer[..6]).await.unwrap();
        assert_eq!(&answer[..6], b"me too");
    });
}

#[test]
fn a_far_end_that_is_not_there_looks_like_a_reset() {
    run(async {
        let wan = Wan::start("127.0.0.1:0", "127.0.0.1:1").await.unwrap();
        let mut stream = TcpStream::connect(wan.address()).await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}
