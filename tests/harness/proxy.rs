//! A TCP proxy that breaks on demand: the network between a gateway and its upstream.
//!
//! In: connections to its own address, which never changes. Out: the same bytes at a target that may. A cut ends every
//! connection and lets no new one in; a pause lets bytes wait.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{sleep, spawn};
use std::time::Duration;

/// Pause between two looks at whether the network is there again.
const PAUSE: Duration = Duration::from_millis(5);

/// The proxy; its threads end with it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    target: Mutex<SocketAddr>,
    open: Mutex<Vec<TcpStream>>,
    cut: AtomicBool,
    paused: AtomicBool,
    over: AtomicBool,
}

impl Proxy {
    /// A proxy to `target`, on a port of its own.
    #[track_caller]
    pub fn to(target: SocketAddr) -> Proxy {
        Proxy::at(([127, 0, 0, 1], 0).into(), target)
    }

    /// A proxy to `target` at this address; port 0 is a port of its own.
    #[track_caller]
    pub fn at(address: SocketAddr, target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State {
            target: Mutex::new(target),
            open: Mutex::new(Vec::new()),
            cut: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        spawn(move || shared.accept(&listener));
        Proxy { address, state }
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new connections elsewhere.
    pub fn point_at(&self, target: SocketAddr) {
        *self.state.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Ends every connection and lets no new one in.
    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::SeqCst);
        self.state.end_all();
    }

    /// Lets connections in again.
    pub fn mend(&self) {
        self.state.cut.store(false, Ordering::SeqCst);
    }

    /// Lets bytes wait, both ways.
    pub fn pause(&self) {
        self.state.paused.store(true, Ordering::SeqCst);
    }

    /// Lets them pass again.
    pub fn resume(&self) {
        self.state.paused.store(false, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::SeqCst);
        self.state.end_all();
        // Wakes the thread that accepts, so that it sees that it is over.
        TcpStream::connect(self.address).ok();
    }
}

impl State {
    fn accept(self: &Arc<State>, listener: &TcpListener) {
        while let Ok((client, _)) = listener.accept() {
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            if self.cut.load(Ordering::SeqCst) {
                continue;
            }
            let target = *self.target.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody at home: the client sees its connection end at once, as with a refusal.
            let Ok(server) = TcpStream::connect(target) else { continue };
            self.carry(client, server);
        }
    }

    fn carry(self: &Arc<State>, client: TcpStream, server: TcpStream) {
        for (from, to) in [(&client, &server), (&server, &client)] {
            let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { return };
            let state = Arc::clone(self);
            spawn(move || state.pump(from, to));
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push(client);
        open.push(server);
        drop(open);
        // A cut that came in between must not miss this one.
        if self.cut.load(Ordering::SeqCst) {
            self.end_all();
        }
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 16 << 10];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            while self.paused.load(Ordering::SeqCst) && !self.over.load(Ordering::SeqCst) {
                sleep(PAUSE);
            }
            if self.cut.load(Ordering::SeqCst) || to.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
        for stream in [from, to] {
            // It may be closed already.
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    fn end_all(&self) {
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // It may be closed already.
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}
