//! What the kernel is to watch on an uplink's connection, and when a certificate ends.
//!
//! In: a socket, certificates, the time. Out: socket options; days left and sentences for an operator. Never: MQTT.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, sockopt_impl};

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio::net::TcpStream;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::config::UplinkTls;
use crate::net::certificates;

/// Without keep-alive of MQTT the kernel asks, this rarely.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(300);
const KEEPALIVE_BETWEEN: Duration = Duration::from_secs(30);
/// Data that the other end's kernel does not acknowledge for so long ends the connection at least.
const UNACKNOWLEDGED_MIN: Duration = Duration::from_secs(10);
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(120);
/// Bytes that the kernel takes beyond what it may send now. More than a busy thread lets run dry.
const NOT_SENT_BYTES: u32 = 256 << 10;
/// From how long before its end a certificate is warned about.
const WARNING_DAYS: i64 = 30;
const SECS_PER_DAY: i64 = 86_400;

/// Lets the kernel end a connection whose other end is gone. An old kernel without an option only notices later.
pub(super) fn watch_socket(stream: &TcpStream, keep_alive_secs: u16) {
    let socket = socket2::SockRef::from(stream);
    // A half-open connection swallows data until TCP gives up, which by default takes a quarter of an hour.
    let wait = Duration::from_secs(u64::from(keep_alive_secs) * 3 / 2);
    let wait = if keep_alive_secs == 0 { UNACKNOWLEDGED_MAX } else { wait };
    // What waits here for TCP cannot be overtaken by what is more urgent, however much may be in flight.
    socket.set_tcp_notsent_lowat(NOT_SENT_BYTES).ok();
    socket.set_tcp_user_timeout(Some(wait.clamp(UNACKNOWLEDGED_MIN, UNACKNOWLEDGED_MAX))).ok();
    if keep_alive_secs == 0 {
        // With keep-alive of MQTT these probes would only cost bytes.
        let probes = socket2::TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_BETWEEN);
        socket.set_tcp_keepalive(&probes).ok();
    }
}

sockopt_impl!(
    /// What the kernel knows of a connection.
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    libc::tcp_info
);

/// Watches what TCP repeats on a connection. It has the socket open besides: it must go with the connection.
#[derive(Debug)]
pub(super) struct Repairs {
    socket: OwnedFd,
    repeated: u32,
}

impl Repairs {
    /// None where there is no descriptor left: then losses are not seen, and the window grows more slowly over them.
    pub(super) fn of(stream: &TcpStream) -> Option<Repairs> {
        Some(Repairs { socket: stream.as_fd().try_clone_to_owned().ok()?, repeated: 0 })
    }

    /// The round trip of TCP in microseconds, if it has repeated packets since the last look.
    pub(super) fn look(&mut self) -> Option<u64> {
        let info = getsockopt(&self.socket, TcpInfo).ok()?;
        let is_more = info.tcpi_total_retrans != self.repeated;
        self.repeated = info.tcpi_total_retrans;
        is_more.then_some(u64::from(info.tcpi_rtt))
    }
}

/// Whole days until a certificate ends, negative once it has.
pub(super) fn days_left(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some((certificate.validity().not_after.timestamp() - now_secs()).div_euclid(SECS_PER_DAY))
}

/// What to say about the other end's certificate, if its end is near.
pub(super) fn warning(days: i64) -> Option<String> {
    (days < WARNING_DAYS).then(|| {
        format!("the other end's certificate expires in {days} days; connecting will fail then unless it is renewed there")
    })
}

/// What is to be said about a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    /// It is of no use now.
    pub(super) is_over: bool,
    /// The sentence.
    pub(super) text: String,
}

/// What to say about our own client certificate, if its end is near, or over, or it is not valid yet. An unreadable one
/// has its own sentence elsewhere. `key`: where it is configured.
pub(super) fn own_certificate(tls: &UplinkTls, key: &str) -> Option<Notice> {
    let over = |text| Some(Notice { is_over: true, text });
    let (path, _) = tls.cert.as_ref()?;
    let chain = certificates(path).ok()?;
    let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
    let (validity, now) = (certificate.validity(), now_secs());
    let about = format!("our client certificate {key} = {:?}", path.display().to_string());
    let clock = format!("this machine's clock says {}", date(now));
    if now > validity.not_after.timestamp() {
        let end = date(validity.not_after.timestamp());
        return over(format!("{about} has expired: it ended {end}, {clock}; renew it, or set the clock"));
    }
    if now < validity.not_before.timestamp() {
        let begin = date(validity.not_before.timestamp());
        return over(format!(
            "{about} is not valid yet: it begins {begin}, {clock}; set the clock, or take one that is valid by now"
        ));
    }
    let days = (validity.not_after.timestamp() - now).div_euclid(SECS_PER_DAY);
    (days < WARNING_DAYS).then(|| Notice {
        is_over: false,
        text: format!("{about} expires in {days} days; renew the file, no restart is needed"),
    })
}

fn now_secs() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

fn date(secs: i64) -> String {
    OffsetDateTime::from_unix_timestamp(secs).map_or_else(
        |_| "never".to_owned(),
        |at| format!("{} {:02}:{:02} UTC", at.date(), at.hour(), at.minute()),
    )
}
