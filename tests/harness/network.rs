//! An emulated network for a test, and the right to have one.
//!
//! In: how the way is. Out: the far end, with an upstream there. Needs root, or user namespaces that give it: without the
//! one the test runs itself again in the other; without both it fails and says so.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

pub use loadgen::emulated::{Emulated, Way};

/// Runs a test where it may make networks. `test` is its full name.
#[track_caller]
pub fn as_root(test: &str, run: impl FnOnce()) {
    if std::fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0) {
        return run();
    }
    let own = std::env::current_exe().expect("a test has a file");
    let prepare = "mount -t tmpfs none /run && ip link set lo up && exec \"$@\"";
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "sh", "-c", prepare, "sh"])
        .arg(own)
        .args(["--exact", test, "--nocapture"])
        .status();
    let status = status.expect("unshare (util-linux) can be started");
    assert!(
        status.success(),
        "{test}: as root in a namespace of its own: {status}; or run the tests as root"
    );
}

/// A network; root is needed.
#[track_caller]
pub fn emulated(way: Way) -> Emulated {
    Emulated::start(way).unwrap_or_else(|error| panic!("no emulated network: {error}; see `make setup-test`"))
}

/// A listener at the far end, on a free port.
#[track_caller]
pub fn listen_far(network: &Emulated) -> TcpListener {
    let address = SocketAddr::from((network.far(), 0));
    // A thread of its own: it stays at the far end.
    let bound = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                network.enter()?;
                TcpListener::bind(address)
            })
            .join()
    });
    bound.expect("no panic").expect("the far end can be entered")
}

/// The address of a listener at the far end on the way that nothing disturbs.
pub fn undisturbed(network: &Emulated, address: SocketAddr) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(network.far_undisturbed()), address.port())
}
