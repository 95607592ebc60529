//! A network that is slow, loses, reorders or swallows packets: real TCP of this machine over an emulated way.
//!
//! Knows: Ethernet frames, and where TCP has its checksum. Never: MQTT. In: a [`Way`], changed at any time. Out: a network
//! namespace at the far end of it, in which programs are started and sockets opened.
//! How: a pair of virtual interfaces at each end; between their inner halves two threads carry frames, each when it is
//! due. (The kernel's own emulator, netem, is a module that many kernels lack.) Needs root and `ip` (iproute2).
//! Beside it lies a second, undisturbed way, so that what arrives can be counted without being in the way.
//! Bounds: [`FRAMES_MAX`] frames each way; what is more is dropped, as a router would.

use std::collections::BinaryHeap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::random::Random;

/// Frames on their way in one direction.
const FRAMES_MAX: usize = 20_000;
/// How long a frame may wait for a way of bounded rate before it is dropped.
const QUEUE: Duration = Duration::from_millis(200);
const FRAME_BYTES_MAX: usize = 2_048;
const SOCKET_BYTES: usize = 8 << 20;
const LOOK: TimeVal = TimeVal::new(0, 100_000);
/// Before the IP packet: two addresses and a type.
const ETHERNET_BYTES: usize = 14;

/// What happens to packets, the same in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// From one end to the other.
    pub delay: Duration,
    /// Packets lost of a thousand.
    pub lost_permille: u32,
    /// Packets of a thousand that come a quarter of a delay later than those behind them.
    pub late_permille: u32,
    /// Bytes a second that fit through, headers included; 0 for any number.
    pub bytes_per_sec: u64,
    /// Everything is swallowed.
    pub is_black: bool,
}

impl Way {
    /// A round trip of so many milliseconds, without other trouble.
    #[must_use]
    pub fn of_rtt(millis: u64) -> Way {
        Way { delay: Duration::from_micros(millis * 500), ..Way::default() }
    }
}

/// What was carried, both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Packets that arrived.
    pub packets: u64,
    /// Their bytes, IP and TCP headers included.
    pub bytes: u64,
    /// Packets that were lost, by chance or for want of room.
    pub lost: u64,
}

/// An emulated network; gone with its namespace when dropped.
#[derive(Debug)]
pub struct Emulated {
    name: String,
    network: [Ipv4Addr; 4],
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    way: Mutex<Way>,
    over: AtomicBool,
    packets: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
}

/// Frames on their way, the first that is due on top.
#[derive(Debug, Default)]
struct Queue {
    frames: Mutex<BinaryHeap<Frame>>,
    filled: Condvar,
}

#[derive(Debug, PartialEq, Eq)]
struct Frame {
    due: Instant,
    number: u64,
    bytes: Vec<u8>,
}

impl Ord for Frame {
    fn cmp(&self, other: &Frame) -> std::cmp::Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

impl PartialOrd for Frame {
    fn partial_cmp(&self, other: &Frame) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Emulated {
    /// A network of its own. Fails without root, or without `ip`, and says so.
    pub fn start(way: Way) -> io::Result<Emulated> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Several processes may do the same at once: their numbers are told apart by the process.
        let place = (std::process::id().wrapping_mul(64).wrapping_add(number) % 16_384) as u16;
        let name = format!("mr{place}");
        let address = |net: u8, host: u16| {
            let low = (place * 4 + host).to_be_bytes();
            Ipv4Addr::new(198, net, low[0], low[1]) // RFC 2544: for tests of networks
        };
        let network = [address(18, 1), address(18, 2), address(19, 1), address(19, 2)];
        let mut emulated = Emulated { name, network, state: Arc::default(), threads: Vec::new() };
        emulated.set(way);
        emulated.build()?;
        let ends = [packet_socket(&emulated.end("a1"))?, packet_socket(&emulated.end("b1"))?].map(Arc::new);
        for (from, to) in [(0, 1), (1, 0)] {
            let (queue, state) = (Arc::new(Queue::default()), Arc::clone(&emulated.state));
            let (reader, writer) = (Arc::clone(&ends[from]), Arc::clone(&ends[to]));
            let (read_queue, read_state) = (Arc::clone(&queue), Arc::clone(&state));
            emulated
                .threads
                .push(std::thread::spawn(move || take_in(&reader, &read_queue, &read_state, from as u64)));
            emulated.threads.push(std::thread::spawn(move || give_out(&writer, &queue, &state)));
        }
        Ok(emulated)
    }

    /// Where this machine is, seen from the far end, over the emulated way.
    #[must_use]
    pub fn near(&self) -> Ipv4Addr {
        self.network[0]
    }

    /// Where the far end is, over the emulated way.
    #[must_use]
    pub fn far(&self) -> Ipv4Addr {
        self.network[1]
    }

    /// Where the far end is, undisturbed.
    #[must_use]
    pub fn far_undisturbed(&self) -> Ipv4Addr {
        self.network[3]
    }

    /// Changes the way, for packets that set out from now on.
    pub fn set(&self, way: Way) {
        *lock(&self.state.way) = way;
    }

    /// What was carried so far.
    #[must_use]
    pub fn carried(&self) -> Carried {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Carried {
            packets: load(&self.state.packets),
            bytes: load(&self.state.bytes),
            lost: load(&self.state.lost),
        }
    }

    /// A command that runs `program` at the far end.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Brings this thread to the far end for good: sockets that it opens are there.
    pub fn enter(&self) -> io::Result<()> {
        let namespace = std::fs::File::open(format!("/run/netns/{}", self.name))?;
        Ok(nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?)
    }

    fn end(&self, end: &str) -> String {
        format!("{}{end}", self.name)
    }

    fn build(&self) -> io::Result<()> {
        let ns = &self.name;
        let [near, far, near_beside, far_beside] = self.network;
        // A process before us may have been killed with the same number.
        self.tear_down();
        ip(&format!("netns add {ns}"))?;
        ip(&format!("-n {ns} link set lo up"))?;
        for (inner, outer, address) in [("a0", "a1", near), ("b0", "b1", far)] {
            let (inner, outer) = (self.end(inner), self.end(outer));
            // Frames as large as the wire has them: what carries them cannot cut large ones.
            ip(&format!(
                "link add {inner} gso_max_size 1500 gso_max_segs 1 type veth peer name {outer} gso_max_size 1500 gso_max_segs 1"
            ))?;
            let at = if address == far { format!("-n {ns} ") } else { String::new() };
            if address == far {
                ip(&format!("link set {inner} netns {ns}"))?;
            }
            ip(&format!("{at}addr add {address}/30 dev {inner}"))?;
            ip(&format!("link set {outer} up"))?;
            ip(&format!("{at}link set {inner} up"))?;
        }
        let (c0, d0) = (self.end("c0"), self.end("d0"));
        ip(&format!("link add {c0} type veth peer name {d0}"))?;
        ip(&format!("link set {d0} netns {ns}"))?;
        ip(&format!("addr add {near_beside}/30 dev {c0}"))?;
        ip(&format!("-n {ns} addr add {far_beside}/30 dev {d0}"))?;
        ip(&format!("link set {c0} up"))?;
        ip(&format!("-n {ns} link set {d0} up"))
    }

    fn tear_down(&self) {
        // What is not there needs no removal; a namespace takes what is in it along.
        let removals = [
            format!("netns del {}", self.name),
            format!("link del {}", self.end("a0")),
            format!("link del {}", self.end("b1")),
            format!("link del {}", self.end("c0")),
        ];
        for removal in removals {
            Command::new("ip").args(removal.split(' ')).stderr(std::process::Stdio::null()).status().ok();
        }
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            thread.join().ok();
        }
        self.tear_down();
    }
}

fn ip(arguments: &str) -> io::Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|error| {
        io::Error::new(error.kind(), format!("`ip` cannot be started ({error}): install iproute2"))
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("ip {arguments}: {}; an emulated network needs root", said.trim())))
}

/// A socket that sees and sends every frame of an interface.
fn packet_socket(interface: &str) -> io::Result<OwnedFd> {
    let address = nix::ifaddrs::getifaddrs()?
        .find(|it| it.interface_name == interface && it.address.is_some_and(|it| it.as_link_addr().is_some()))
        .and_then(|it| it.address)
        .ok_or_else(|| io::Error::other(format!("the interface {interface} is not there")))?;
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    // Beyond the system's bound only for the real root; in a user namespace as much as everybody gets.
    setsockopt(&fd, sockopt::RcvBufForce, &SOCKET_BYTES)
        .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &SOCKET_BYTES))?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &LOOK)?;
    bind(fd.as_raw_fd(), &address)?;
    Ok(fd)
}

/// Takes frames from one end and decides when, and whether, they come out at the other.
fn take_in(socket: &OwnedFd, queue: &Queue, state: &State, seed: u64) {
    let mut random = Random::new(seed);
    let mut buffer = [0; FRAME_BYTES_MAX];
    let mut free_at = Instant::now();
    let mut number = 0;
    while !state.over.load(Ordering::Relaxed) {
        // Nothing for a while is an error here.
        let Ok(len) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) else { continue };
        let way = *lock(&state.way);
        let mut bytes = buffer[..len].to_vec();
        // Who has which address is asked by ARP, which nothing repeats in time: it is not disturbed.
        let is_ip = is_ip(&bytes);
        let now = Instant::now();
        let mut due = now;
        if is_ip {
            let is_lost = way.is_black || random.below(1_000) < u64::from(way.lost_permille);
            if way.bytes_per_sec > 0 {
                let takes = Duration::from_secs_f64((len - ETHERNET_BYTES) as f64 / way.bytes_per_sec as f64);
                free_at = free_at.max(now) + takes;
                due = free_at;
            }
            if is_lost || due > now + QUEUE || lock(&queue.frames).len() >= FRAMES_MAX {
                // What finds no room takes no time either.
                if due > now + QUEUE {
                    free_at = now + QUEUE;
                }
                state.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            due += way.delay;
            if random.below(1_000) < u64::from(way.late_permille) {
                due += way.delay / 4;
            }
            complete(&mut bytes);
        }
        number += 1;
        lock(&queue.frames).push(Frame { due, number, bytes });
        queue.filled.notify_one();
    }
}

/// Gives frames out when they are due.
fn give_out(socket: &OwnedFd, queue: &Queue, state: &State) {
    let mut frames = lock(&queue.frames);
    while !state.over.load(Ordering::Relaxed) {
        let now = Instant::now();
        let wait = frames
            .peek()
            .map_or(Duration::from_millis(100), |first| first.due.saturating_duration_since(now));
        if wait > Duration::ZERO {
            frames = queue.filled.wait_timeout(frames, wait).unwrap_or_else(PoisonError::into_inner).0;
            continue;
        }
        let Some(frame) = frames.pop() else { continue };
        drop(frames);
        // An interface that goes down takes nothing; that is a loss like others.
        match send(socket.as_raw_fd(), &frame.bytes, MsgFlags::empty()) {
            // What the kernels at both ends say to one another is nobody's traffic.
            Ok(_) if !is_ip(&frame.bytes) => {}
            Ok(_) => {
                state.packets.fetch_add(1, Ordering::Relaxed);
                state.bytes.fetch_add((frame.bytes.len() - ETHERNET_BYTES) as u64, Ordering::Relaxed);
            }
            Err(_) => drop(state.lost.fetch_add(1, Ordering::Relaxed)),
        }
        frames = lock(&queue.frames);
    }
}

/// Whether a frame carries IPv4.
fn is_ip(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[8, 0])
}

/// Writes the checksum of TCP, which the kernel leaves to a card that is not there.
fn complete(frame: &mut [u8]) {
    let packet = &mut frame[ETHERNET_BYTES..];
    let Some(head) = packet.first().map(|first| usize::from(first & 15) * 4) else { return };
    let is_tcp = packet.len() >= head + 20 && packet[0] >> 4 == 4 && packet[9] == 6;
    if !is_tcp {
        return;
    }
    // Ethernet may have padded a short packet.
    let len = usize::from(u16::from_be_bytes([packet[2], packet[3]])).min(packet.len());
    let Some(tcp_len) = len.checked_sub(head).filter(|len| *len >= 20) else { return };
    let (ip, segment) = packet[..len].split_at_mut(head);
    segment[16..18].fill(0);
    let mut sum = sum_words(&ip[12..20]) + 6 + tcp_len as u64 + sum_words(segment);
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    segment[16..18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

fn sum_words(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    bytes.chunks(2).map(word).sum()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_that_of_tcp() {
        // A SYN from 10.0.0.1 to 10.0.0.2, port 1 to 2, sequence 0, window 0, without options.
        let mut frame = vec![0; ETHERNET_BYTES];
        frame.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0xAA, 0xAA, 0, 0]);
        complete(&mut frame);
        // 0x0A00 + 1 + 0x0A00 + 2 + 6 + 20 + 1 + 2 + 0x5002 = 0x6422; its complement.
        assert_eq!(frame[ETHERNET_BYTES + 36..ETHERNET_BYTES + 38], [0x9B, 0xDD]);
    }

    #[test]
    fn the_first_due_comes_out_first() {
        let now = Instant::now();
        let frame =
            |millis, number| Frame { due: now + Duration::from_millis(millis), number, bytes: Vec::new() };
        let mut heap: BinaryHeap<_> = [frame(2, 1), frame(1, 2), frame(1, 3)].into_iter().collect();
        let numbers: Vec<_> = std::iter::from_fn(|| heap.pop()).map(|frame| frame.number).collect();
        assert_eq!(numbers, [2, 3, 1]);
    }
}
