//! The same load over TLS, over a Unix socket, in front of the null sink.
#![expect(clippy::unwrap_used, reason = "tests; clippy does not see that helpers beside them are tests too")]

use std::path::Path;
use std::sync::Arc;

use loadgen::measure::{Watch, measure};
use loadgen::null::{Faults, NullBroker};
use loadgen::report::Report;
use loadgen::scenario::Scenario;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;

const PAIRS: &str = "[run]\nduration_secs = 20\nwarmup_secs = 0\ndrain_secs = 5\n[publishers]\ncount = 3\nqos = 2\n\
                     rate = \"max\"\nmessages = 2000\n[subscribers]\ncount = 3\nqos = 2\n";

async fn run(url: &str, overrides: &[String]) -> Result<Report, String> {
    let mut overrides = overrides.to_vec();
    overrides.push(format!("url={url}"));
    let scenario = Scenario::parse("test.toml", PAIRS, &overrides).unwrap();
    measure(scenario, Watch::default(), |_| ()).await.map_err(|error| error.to_string())
}

#[track_caller]
fn check(report: &Report) {
    assert_eq!(report.verdict.broken, Vec::<String>::new());
    assert_eq!((report.verdict.sent, report.verdict.arrived), (6_000, 6_000));
}

/// Forwards what a TLS listener gets to the broker; its certificate is for `localhost`, and is written to `ca`.
async fn tls_front(broker: String, ca: &Path) -> u16 {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(ca, made.cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, broker) = (acceptor.clone(), broker.clone());
            tokio::spawn(async move {
                // A client that does not trust us hangs up; that is its test.
                let Ok(mut client) = acceptor.accept(stream).await else { return };
                let mut broker = TcpStream::connect(broker).await.unwrap();
                tokio::io::copy_bidirectional(&mut client, &mut broker).await.ok();
            });
        }
    });
    port
}

#[tokio::test]
async fn a_load_over_tls_arrives_and_a_stranger_is_not_trusted() {
    let broker = NullBroker::start(Faults::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let port = tls_front(broker.url().trim_start_matches("mqtt://").to_owned(), &ca).await;
    let trust = format!("tls.ca={}", ca.display());
    check(&run(&format!("mqtts://localhost:{port}"), std::slice::from_ref(&trust)).await.unwrap());

    let error = run(&format!("mqtts://127.0.0.1:{port}"), std::slice::from_ref(&trust)).await.unwrap_err();
    assert!(error.contains("certificate"), "its name is localhost, not 127.0.0.1: {error}");
    check(
        &run(&format!("mqtts://127.0.0.1:{port}"), &[trust, "tls.server_name=localhost".to_owned()])
            .await
            .unwrap(),
    );
    let error = run(&format!("mqtts://localhost:{port}"), &[]).await.unwrap_err();
    assert!(error.starts_with("TLS needs tls.ca"), "{error}");
    let error = run("mqtts://localhost:1", &["tls.ca=/nowhere.pem".to_owned()]).await.unwrap_err();
    assert!(error.starts_with("tls.ca: /nowhere.pem cannot be used"), "{error}");
}

#[tokio::test]
async fn a_load_over_a_unix_socket_arrives() {
    let broker = NullBroker::start(Faults::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broker.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let address = broker.url().trim_start_matches("mqtt://").to_owned();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let address = address.clone();
            tokio::spawn(async move {
                let mut broker = TcpStream::connect(address).await.unwrap();
                tokio::io::copy_bidirectional(&mut client, &mut broker).await.ok();
            });
        }
    });
    check(&run(&format!("unix://{}", path.display()), &[]).await.unwrap());
}
