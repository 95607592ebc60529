//! Places on the loopback network for those who cannot take any free port: servers that are told theirs before they start, and
//! places where nobody is.
//!
//! In: nothing. Out: addresses. Always: a port that the system chooses may go to somebody else between its choice and its
//! use; an address that only one test has cannot, and neither can a port that stays taken.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::{Domain, Socket, Type};

/// Below those that systems choose from.
const PORT: u16 = 18_830;

/// An address of the loopback network that nobody else in this process has, and hardly anybody beside it.
pub(crate) fn own_address() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        // Processes that run side by side begin at different places.
        let number = std::process::id().wrapping_mul(251).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))
            % (1 << 22);
        let [_, high, middle, low] = number.to_be_bytes();
        if low != 0 {
            return IpAddr::V4(Ipv4Addr::new(127, 64 + high, middle, low));
        }
    }
}

/// A place for a server that is told where to listen, now or later.
#[track_caller]
pub fn own_place() -> SocketAddr {
    let free = (0..1_000).map(|_| SocketAddr::new(own_address(), PORT));
    let mut free = free.filter(|place| TcpListener::bind(place).is_ok());
    free.next().unwrap_or_else(|| panic!("port {PORT} is taken at a thousand loopback addresses"))
}

/// A place that is taken and takes no connections, for as long as this lives.
#[derive(Debug)]
pub struct Nobody {
    address: SocketAddr,
    /// Bound, and never listening.
    _socket: Socket,
}

impl Nobody {
    /// Where nobody is.
    #[track_caller]
    pub fn new() -> Nobody {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        let address = socket.local_addr().ok().and_then(|it| it.as_socket());
        Nobody { address: address.expect("a bound socket has an address"), _socket: socket }
    }

    /// Where to find nobody.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Default for Nobody {
    fn default() -> Self {
        Nobody::new()
    }
}
