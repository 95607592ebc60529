//! TLS in front of an upstream that speaks none, as a load balancer does it.
//!
//! In: TLS connections to its own address. Out: their bytes in the clear at a target; the names that clients asked for. When the
//! target ends a connection, the bytes to the client just end, without TLS's goodbye (`close_notify`), as many front ends do.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::spawn;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection};

use crate::certificates::Identity;

/// The front; its threads end with it and its connections.
#[derive(Debug)]
pub struct TlsFront {
    address: SocketAddr,
    door: Arc<Door>,
    is_over: Arc<AtomicBool>,
}

/// The certificate that everybody is shown.
#[derive(Debug)]
struct Door {
    key: Arc<CertifiedKey>,
    names: Mutex<Vec<Option<String>>>,
}

impl ResolvesServerCert for Door {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_owned);
        self.names.lock().unwrap_or_else(PoisonError::into_inner).push(name);
        Some(Arc::clone(&self.key))
    }
}

impl TlsFront {
    /// A front to `target` with this certificate, on a port of its own.
    #[track_caller]
    pub fn to(target: SocketAddr, identity: &Identity) -> TlsFront {
        let chain = CertificateDer::pem_file_iter(&identity.cert).expect("a certificate");
        let chain = chain.collect::<Result<_, _>>().expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(&identity.key).expect("a key");
        let provider = Arc::new(default_provider());
        let key = Arc::new(CertifiedKey::from_der(chain, key, &provider).expect("a key that fits"));
        let door = Arc::new(Door { key, names: Mutex::default() });
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config =
            config.expect("versions").with_no_client_auth().with_cert_resolver(Arc::clone(&door) as _);
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let config = Arc::clone(&config);
                // A connection that breaks is the test's wish.
                spawn(move || carry(config, client, target).unwrap_or_default());
            }
        });
        TlsFront { address, door, is_over }
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The name that each client has asked for, in order.
    pub fn names(&self) -> Vec<Option<String>> {
        self.door.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        TcpStream::connect(self.address).ok();
    }
}

fn carry(config: Arc<ServerConfig>, mut client: TcpStream, target: SocketAddr) -> std::io::Result<()> {
    let mut conn = ServerConnection::new(config).map_err(std::io::Error::other)?;
    while conn.is_handshaking() {
        conn.complete_io(&mut client)?;
    }
    let (mut server, mut buffer) = (TcpStream::connect(target)?, vec![0; 16 << 10]);
    let conn = Arc::new(Mutex::new(conn));
    let back = (Arc::clone(&conn), server.try_clone()?, client.try_clone()?);
    spawn(move || from_target(back).unwrap_or_default());
    // What came with the end of the handshake.
    let mut bytes: &[u8] = &[];
    loop {
        let mut plain = Vec::new();
        {
            let mut conn = conn.lock().unwrap_or_else(PoisonError::into_inner);
            while !bytes.is_empty() {
                conn.read_tls(&mut bytes)?;
                conn.process_new_packets().map_err(std::io::Error::other)?;
                take_plain(&mut conn, &mut plain)?;
            }
            take_plain(&mut conn, &mut plain)?;
            while conn.wants_write() {
                conn.write_tls(&mut client)?;
            }
        }
        // Whoever is gone gets nothing; that the client is read on keeps its end from becoming a reset.
        server.write_all(&plain).ok();
        let len = client.read(&mut buffer)?;
        if len == 0 {
            return server.shutdown(Shutdown::Both);
        }
        bytes = &buffer[..len];
    }
}

fn take_plain(conn: &mut ServerConnection, plain: &mut Vec<u8>) -> std::io::Result<()> {
    match conn.reader().read_to_end(plain) {
        // There may be more later.
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
        read => read.map(drop),
    }
}

fn from_target(
    (conn, mut server, mut client): (Arc<Mutex<ServerConnection>>, TcpStream, TcpStream),
) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(len @ 1..) = server.read(&mut buffer) {
        let mut conn = conn.lock().unwrap_or_else(PoisonError::into_inner);
        conn.writer().write_all(&buffer[..len])?;
        while conn.wants_write() {
            conn.write_tls(&mut client)?;
        }
    }
    client.shutdown(Shutdown::Write)
}
