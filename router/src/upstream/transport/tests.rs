//! Every step of the way, with real sockets: what succeeds, and which sentence an operator gets when it does not.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::Secret;

type Authority = CertifiedIssuer<'static, KeyPair>;

const PATIENCE: Patience = Patience {
    lookup: Duration::from_secs(5),
    connect: Duration::from_secs(5),
    proxy: Duration::from_secs(5),
    tls: Duration::from_secs(5),
    resolve: Resolve::System,
};

/// An authority, with its certificate in a file.
struct Trust {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Trust {
    fn new() -> Trust {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let folder = tempfile::tempdir().unwrap();
        // A name of its own: authorities are told apart by name.
        params.distinguished_name.push(rcgen::DnType::CommonName, folder.path().display().to_string());
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let trust = Trust { folder, authority };
        trust.file("ca.pem", &trust.authority.pem());
        trust
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for `name` from this authority, and its key.
    fn issue(&self, name: &str, years: (i32, i32)) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.authority).unwrap(), key)
    }

    /// What a server that is `name` answers TLS with.
    fn server(&self, name: &str, years: (i32, i32), asks_clients: bool) -> ServerConfig {
        let (certificate, key) = self.issue(name, years);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if asks_clients {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(self.authority.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        builder.with_single_cert(vec![certificate.der().clone()], key).unwrap()
    }
}

fn tls(trust: &Trust) -> UplinkTls {
    UplinkTls {
        ca: Some(trust.ca()),
        cert: None,
        server_name: "plant.example".to_owned(),
        pins: Vec::new(),
        tls_1_2: true,
        insecure: false,
        also: None,
    }
}

fn to(port: u16, tls: Option<UplinkTls>) -> Transport {
    Transport { host: "127.0.0.1".to_owned(), port, tls, websocket: None, proxy: None }
}

/// Answers `hello` to everybody who gets through; the port.
async fn serve(config: Option<ServerConfig>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = config.map(|config| TlsAcceptor::from(Arc::new(config)));
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            match &acceptor {
                None => drop(tcp.write_all(b"hello").await),
                Some(acceptor) => {
                    if let Ok(mut stream) = acceptor.accept(tcp).await {
                        drop(stream.write_all(b"hello").await);
                        drop(stream.shutdown().await);
                    }
                }
            }
        }
    });
    port
}

/// What comes over the connection, or the sentence.
async fn greeting(transport: &Transport) -> Result<String, String> {
    let mut stream = connect("plant", transport, PATIENCE).await.map_err(|error| error.to_string())?;
    let mut text = [0; 5];
    stream.read_exact(&mut text).await.map_err(|error| said(&error, "plant"))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

async fn refused(transport: &Transport, parts: &[&str]) {
    let sentence = greeting(transport).await.expect_err("it must not connect");
    for part in parts {
        assert!(sentence.contains(part), "{part:?} is not in: {sentence}");
    }
}

const GOOD: (i32, i32) = (2020, 2100);

#[tokio::test]
async fn plain_and_tls_connect() {
    let trust = Trust::new();
    let port = serve(None).await;
    assert_eq!(greeting(&to(port, None)).await.unwrap(), "hello");
    let port = serve(Some(trust.server("plant.example", GOOD, false))).await;
    assert_eq!(greeting(&to(port, Some(tls(&trust)))).await.unwrap(), "hello");
}

#[tokio::test]
async fn who_is_not_trusted_is_refused_with_what_to_do() {
    let (trust, other) = (Trust::new(), Trust::new());
    let port = serve(Some(other.server("plant.example", GOOD, false))).await;
    refused(&to(port, Some(tls(&trust))), &["authority that is not believed", "uplink.plant.ca"]).await;
    let port = serve(Some(trust.server("other.example", GOOD, false))).await;
    refused(
        &to(port, Some(tls(&trust))),
        &["is for", "other.example", "not for plant.example", "uplink.plant.server_name"],
    )
    .await;
    let port = serve(Some(trust.server("plant.example", (2001, 2002), false))).await;
    refused(&to(port, Some(tls(&trust))), &["has expired", "2002-01-01", "set the clock"]).await;
    let port = serve(Some(trust.server("plant.example", (2090, 2100), false))).await;
    refused(&to(port, Some(tls(&trust))), &["not valid yet", "2090-01-01", "set the clock"]).await;
}

#[tokio::test]
async fn insecure_believes_everybody_and_nothing_else_does() {
    let (trust, other) = (Trust::new(), Trust::new());
    let port = serve(Some(other.server("other.example", (2001, 2002), false))).await;
    let insecure = UplinkTls { insecure: true, ..tls(&trust) };
    assert_eq!(greeting(&to(port, Some(insecure))).await.unwrap(), "hello");
}

#[tokio::test]
async fn a_pin_is_demanded_besides_the_chain() {
    let trust = Trust::new();
    let port = serve(Some(trust.server("plant.example", GOOD, false))).await;
    let wrong = UplinkTls { pins: vec![[7; 32]], ..tls(&trust) };
    let sentence = greeting(&to(port, Some(wrong))).await.expect_err("the pin is wrong");
    assert!(sentence.contains("which is not pinned"), "{sentence}");
    // The sentence says what the key is, for who trusts it.
    let pin = sentence.split_whitespace().find(|word| word.starts_with("sha256/")).unwrap();
    let key = Base64::decode_vec(pin.trim_start_matches("sha256/").trim_end_matches(',')).unwrap();
    let pins = vec![[7; 32], key.try_into().unwrap()];
    assert_eq!(greeting(&to(port, Some(UplinkTls { pins, ..tls(&trust) }))).await.unwrap(), "hello");
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_it_is_wanted() {
    let trust = Trust::new();
    let port = serve(Some(trust.server("plant.example", GOOD, true))).await;
    refused(&to(port, Some(tls(&trust))), &["wants one", "uplink.plant.cert"]).await;
    let (certificate, key) = trust.issue("gateway", GOOD);
    let cert = (trust.file("own.pem", &certificate.pem()), trust.file("own.key", &key.serialize_pem()));
    let with = UplinkTls { cert: Some(cert), ..tls(&trust) };
    assert_eq!(greeting(&to(port, Some(with))).await.unwrap(), "hello");
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let trust = Trust::new();
    let port = serve(None).await;
    let missing = UplinkTls { ca: Some(trust.folder.path().join("none.pem")), ..tls(&trust) };
    refused(&to(port, Some(missing)), &["uplink.plant.ca", "none.pem", "cannot be read"]).await;
    let (certificate, _) = trust.issue("gateway", GOOD);
    let other = KeyPair::generate().unwrap();
    let cert = (trust.file("own.pem", &certificate.pem()), trust.file("other.key", &other.serialize_pem()));
    let with = UplinkTls { cert: Some(cert), ..tls(&trust) };
    refused(&to(port, Some(with)), &["uplink.plant.key", "is not the key of", "own.pem"]).await;
}

#[tokio::test]
async fn a_peer_that_speaks_no_tls_or_says_nothing_is_given_up() {
    let trust = Trust::new();
    let port = serve(None).await;
    refused(&to(port, Some(tls(&trust))), &["does not speak TLS", "uplink.plant.url"]).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let transport = to(silent.local_addr().unwrap().port(), Some(tls(&trust)));
    let short = Patience { tls: Duration::from_millis(100), ..PATIENCE };
    let error = connect("plant", &transport, short).await.expect_err("nobody answers");
    assert!(error.to_string().contains("has not finished the handshake"), "{error}");
}

#[tokio::test]
async fn a_name_without_address_and_a_closed_port_are_told_apart() {
    let nowhere = Transport { host: "nowhere.invalid".to_owned(), ..to(1, None) };
    // Not by this machine's resolver, which may take its time where there is no network.
    let patience = Patience { resolve: Resolve::By(|_, _| Err(io::Error::other("unknown"))), ..PATIENCE };
    let error = connect("plant", &nowhere, patience).await.expect_err("it is nowhere").to_string();
    assert!(error.contains("nowhere.invalid has no address") && error.contains("DNS"), "{error}");
    let (_nobody, closed) = nobody();
    refused(&to(closed.port(), None), &[&closed.to_string(), "does not take connections"]).await;
}

/// An address that is taken, and does not take connections.
fn nobody() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// A proxy that reads a request of `len` bytes and says `answer`, then goes on to `target`.
async fn proxy(steps: Vec<(usize, Vec<u8>)>, target: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        for (len, answer) in steps {
            let mut asked = vec![0; len];
            client.read_exact(&mut asked).await.unwrap();
            client.write_all(&answer).await.unwrap();
        }
        let mut server = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
        drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
    });
    port
}

fn by(kind: ProxyKind, port: u16, to: Transport, login: Option<(&str, &str)>) -> Transport {
    let login = login.map(|(user, password)| (user.to_owned(), Secret(password.to_owned())));
    Transport { proxy: Some(Proxy { kind, host: "127.0.0.1".to_owned(), port, login }), ..to }
}

fn connect_request(target: u16, login: Option<&str>) -> usize {
    let authorization = login.map_or(0, |token| format!("Proxy-Authorization: {token}\r\n").len());
    format!("CONNECT 127.0.0.1:{target} HTTP/1.1\r\nHost: 127.0.0.1:{target}\r\n\r\n").len() + authorization
}

#[tokio::test]
async fn an_http_proxy_is_asked_and_tls_goes_through_it() {
    let trust = Trust::new();
    let target = serve(Some(trust.server("plant.example", GOOD, false))).await;
    let token = format!("Basic {}", Base64::encode_string(b"me:secret"));
    let answer = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    let port = proxy(vec![(connect_request(target, Some(&token)), answer)], target).await;
    let transport = by(ProxyKind::Http, port, to(target, Some(tls(&trust))), Some(("me", "secret")));
    assert_eq!(greeting(&transport).await.unwrap(), "hello");
}

#[tokio::test]
async fn an_http_proxy_that_refuses_is_quoted() {
    let target = serve(None).await;
    for (answer, words) in [
        ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "authorization required"),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "unsuccessful"),
    ] {
        let port = proxy(vec![(connect_request(target, None), answer.into())], target).await;
        let transport = by(ProxyKind::Http, port, to(target, None), None);
        refused(&transport, &["the proxy 127.0.0.1", "does not connect us", words]).await;
    }
}

#[tokio::test]
async fn a_socks_proxy_is_asked_with_and_without_a_login() {
    let target = serve(None).await;
    let granted = vec![5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let request = 10;
    let port = proxy(vec![(3, vec![5, 0]), (request, granted.clone())], target).await;
    assert_eq!(greeting(&by(ProxyKind::Socks5, port, to(target, None), None)).await.unwrap(), "hello");
    let steps = vec![(3, vec![5, 2]), (3 + 2 + 6, vec![1, 0]), (request, granted)];
    let port = proxy(steps, target).await;
    let transport = by(ProxyKind::Socks5, port, to(target, None), Some(("me", "secret")));
    assert_eq!(greeting(&transport).await.unwrap(), "hello");
    let port = proxy(vec![(3, vec![5, 0]), (request, vec![5, 5, 0, 1, 0, 0, 0, 0, 0, 0])], target).await;
    refused(&by(ProxyKind::Socks5, port, to(target, None), None), &["the proxy 127.0.0.1"]).await;
}

#[tokio::test]
async fn a_proxy_that_says_nothing_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let transport = by(ProxyKind::Http, silent.local_addr().unwrap().port(), to(1, None), None);
    let short = Patience { proxy: Duration::from_millis(100), ..PATIENCE };
    let error = connect("plant", &transport, short).await.expect_err("nobody answers");
    assert!(error.to_string().contains("no answer within"), "{error}");
}

/// A name with an address that nobody serves and one that moves; and none at all for a while.
fn moving(host: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
    assert_eq!(host, "plant.example");
    let addresses = ADDRESSES.lock().unwrap().clone();
    if addresses.is_empty() { Err(io::Error::other("the name does not resolve")) } else { Ok(addresses) }
}

static ADDRESSES: std::sync::Mutex<Vec<SocketAddr>> = std::sync::Mutex::new(Vec::new());

#[tokio::test]
async fn a_name_is_resolved_anew_for_every_attempt_and_every_address_is_tried() {
    let transport = Transport { host: "plant.example".to_owned(), ..to(1, None) };
    let patience = Patience { resolve: Resolve::By(moving), ..PATIENCE };
    let (_nobody, closed) = nobody();
    let attempt = || connect("plant", &transport, patience);
    // It vanishes, comes back, moves: each attempt sees what holds then.
    let error = attempt().await.expect_err("there is no address").to_string();
    assert!(error.contains("plant.example has no address") && error.contains("DNS"), "{error}");
    for _ in 0..2 {
        let port = serve(None).await;
        *ADDRESSES.lock().unwrap() = vec![closed, SocketAddr::from(([127, 0, 0, 1], port))];
        let mut stream = attempt().await.expect("the second address answers");
        let mut text = [0; 5];
        stream.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"hello");
    }
    *ADDRESSES.lock().unwrap() = vec![closed, closed];
    let error = attempt().await.expect_err("nobody is there").to_string();
    assert_eq!(error.matches(&closed.to_string()).count(), 2, "{error}");
}

#[tokio::test]
async fn an_address_that_swallows_everything_does_not_hide_the_others() {
    fn both(_: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        // A full backlog: SYNs are dropped there.
        Ok(vec![*SWALLOWS.get().unwrap(), SocketAddr::from(([127, 0, 0, 1], port))])
    }
    static SWALLOWS: std::sync::OnceLock<SocketAddr> = std::sync::OnceLock::new();
    let (socket, address) = nobody();
    socket.listen(0).unwrap();
    SWALLOWS.set(address).unwrap();
    let mut filled = Vec::new();
    while let Ok(Ok(stream)) = timeout(Duration::from_secs(2), TcpStream::connect(address)).await {
        filled.push(stream);
    }
    let port = serve(None).await;
    let patience = Patience { connect: Duration::from_millis(800), resolve: Resolve::By(both), ..PATIENCE };
    let transport = Transport { host: "plant.example".to_owned(), ..to(port, None) };
    let mut stream = connect("plant", &transport, patience).await.expect("the second address answers");
    let mut text = [0; 5];
    timeout(Duration::from_secs(20), stream.read_exact(&mut text)).await.expect("it speaks").unwrap();
    assert_eq!(&text, b"hello");
}

#[tokio::test]
async fn the_end_of_certificates_is_seen_before_and_named_after() {
    let trust = Trust::new();
    let year = time::OffsetDateTime::now_utc().year();
    let port = serve(Some(trust.server("plant.example", (2020, year + 2), false))).await;
    let stream = connect("plant", &to(port, Some(tls(&trust))), PATIENCE).await.unwrap();
    assert!((365..=731).contains(&stream.certificate_days().expect("TLS has a certificate")));
    assert!(
        watchdogs::warning(29).is_some_and(|it| it.contains("29 days")) && watchdogs::warning(30).is_none()
    );
    for (years, is_over, words) in
        [((2001, 2002), true, "has expired"), ((2090, 2100), true, "not valid yet")]
    {
        let (certificate, key) = trust.issue("gateway", years);
        let cert = (trust.file("own.pem", &certificate.pem()), trust.file("own.key", &key.serialize_pem()));
        let settings = UplinkTls { cert: Some(cert), ..tls(&trust) };
        let notice = watchdogs::own_certificate(&settings, "uplink.plant.cert").expect("a sentence");
        assert_eq!(notice.is_over, is_over);
        for part in [words, "uplink.plant.cert", "own.pem", "set the clock"] {
            assert!(notice.text.contains(part), "{part:?} is not in: {}", notice.text);
        }
    }
    let (certificate, key) = trust.issue("gateway", GOOD);
    let cert = (trust.file("own.pem", &certificate.pem()), trust.file("own.key", &key.serialize_pem()));
    assert_eq!(
        watchdogs::own_certificate(&UplinkTls { cert: Some(cert), ..tls(&trust) }, "uplink.plant.cert"),
        None
    );
}
