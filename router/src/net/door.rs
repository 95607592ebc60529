//! A listener as acceptor, shards and metrics see it: its number, what it counts, and what its handshakes need.
//!
//! In: connections that come, go, or are refused. Out: numbers. Always: a connection counts as open exactly as long as
//! its [`Admission`] lives, whichever shard or mailbox holds it.

use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use broker::{Turnstile, Verdict};
use model::Limits;
use wire::ReasonCode;

use super::certificates::TlsServer;
use crate::clock::Clock;
use crate::config::{Listener, ListenerKind};

/// What all doors share: who is let in, by number and by rate.
#[derive(Debug)]
pub(crate) struct Gate {
    turnstile: Mutex<Turnstile>,
    clock: Clock,
}

impl Gate {
    /// A gate that nobody has come to.
    pub(crate) fn new(limits: &Limits) -> Gate {
        let clock = Clock::default();
        Gate { turnstile: Mutex::new(Turnstile::new(limits, clock.now().instant)), clock }
    }

    fn judge(&self, open: u32) -> Verdict {
        let mut turnstile = self.turnstile.lock().unwrap_or_else(PoisonError::into_inner);
        turnstile.judge(open, self.clock.now().instant)
    }
}

/// One listener, shared by all who serve its connections.
#[derive(Debug)]
pub(crate) struct Door {
    /// Its place in the configuration.
    pub number: u16,
    /// How it was configured; its certificates may be newer than that.
    pub listener: Listener,
    /// Where it really listens.
    pub address: String,
    tls: Option<RwLock<Arc<TlsServer>>>,
    accepted: AtomicU64,
    open: AtomicU32,
    refused: [AtomicU64; Refusal::ALL.len()],
    /// Open connections of all listeners together.
    all_open: Arc<AtomicU32>,
}

impl Door {
    /// A door nobody has gone through yet.
    pub(crate) fn new(
        number: u16,
        listener: Listener,
        address: String,
        tls: Option<TlsServer>,
        all_open: Arc<AtomicU32>,
    ) -> Door {
        Door {
            number,
            listener,
            address,
            tls: tls.map(|tls| RwLock::new(Arc::new(tls))),
            accepted: AtomicU64::new(0),
            open: AtomicU32::new(0),
            refused: Default::default(),
            all_open,
        }
    }

    /// Counts a connection in, perhaps only to be told why it is not served; `None` if the listener or the process has
    /// more than it may.
    pub(crate) fn admit(self: &Arc<Door>, gate: &Gate) -> Option<(Admission, Option<ReasonCode>)> {
        let listener_max = self.listener.connections_max.unwrap_or(u32::MAX);
        if self.open.load(Ordering::Relaxed) >= listener_max {
            self.count(Refusal::ListenerConnectionsMax);
            return None;
        }
        // One thread accepts for all listeners, so nobody takes the last place between the look and the step.
        let verdict = gate.judge(self.all_open.load(Ordering::Relaxed));
        let turned_away = match verdict {
            Verdict::Admit => None,
            Verdict::Tell(reason) | Verdict::Close(reason) => Some(reason),
        };
        if let Some(reason) = turned_away {
            let by_rate = reason == ReasonCode::CONNECTION_RATE_EXCEEDED;
            self.count(if by_rate { Refusal::ConnectRate } else { Refusal::ConnectionsMax });
        }
        if matches!(verdict, Verdict::Close(_)) {
            return None;
        }
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        self.all_open.fetch_add(1, Ordering::Relaxed);
        Some((Admission(Arc::clone(self)), turned_away))
    }

    /// Counts a connection that was not let in, or not kept, because of its transport.
    pub(crate) fn count(&self, refusal: Refusal) {
        self.refused[refusal as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// What new TLS connections start with.
    pub(crate) fn tls(&self) -> Option<Arc<TlsServer>> {
        self.tls.as_ref().map(|tls| Arc::clone(&tls.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Replaces what new TLS connections start with; those that are there keep what they have.
    pub(crate) fn replace_tls(&self, new: TlsServer) {
        if let Some(tls) = &self.tls {
            *tls.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        }
    }

    /// What the listener speaks.
    pub(crate) fn kind(&self) -> ListenerKind {
        self.listener.kind
    }

    /// Connections accepted since the start.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections open now.
    pub(crate) fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections refused for this reason.
    pub(crate) fn count_of(&self, refusal: Refusal) -> u64 {
        self.refused[refusal as usize].load(Ordering::Relaxed)
    }

    /// Connections refused, by reason.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Refusal::ALL.iter().map(|refusal| (refusal.name(), self.count_of(*refusal)))
    }
}

/// The right of one connection to be there; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Admission(Arc<Door>);

impl Deref for Admission {
    type Target = Door;

    fn deref(&self) -> &Door {
        &self.0
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.all_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Declares the reasons once: variant, name in metrics, meaning.
macro_rules! refusals {
    ($($variant:ident = $name:literal, $doc:literal;)*) => {
        /// Why a connection was refused or closed before or beside MQTT.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Refusal {
            $(#[doc = $doc] $variant,)*
        }

        impl Refusal {
            /// Every reason, in the order of their numbers.
            pub(crate) const ALL: &[Refusal] = &[$(Refusal::$variant),*];

            /// Its name in metrics and logs.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Refusal::$variant => $name,)*
                }
            }
        }
    };
}

refusals! {
    ConnectionsMax = "connections_max", "`limits.connections_max` is reached.";
    ConnectRate = "connect_rate", "`limits.connects_per_sec_max` is exceeded.";
    ListenerConnectionsMax = "listener_connections_max", "The listener's own `connections_max` is reached.";
    ShardBusy = "shard_busy", "The shard has too much to do.";
    HandshakeTimeout = "handshake_timeout", "The handshake was not over in time.";
    HandshakeAborted = "handshake_aborted", "The client went away during the handshake.";
    HandshakeTooLarge = "handshake_too_large", "The handshake has more bytes than `limits.handshake_bytes_max`.";
    Overrun = "overrun", "The client asks for answers and does not take them.";
    ProxyHeader = "proxy_header", "There is no PROXY header, or it is none we take.";
    TlsMalformed = "tls_malformed", "The bytes are not TLS.";
    TlsVersion = "tls_version", "No protocol version, cipher or application protocol in common.";
    TlsNoCertificate = "tls_no_certificate", "The client has no certificate, and must have one.";
    TlsCertificate = "tls_certificate", "The client's certificate is not accepted.";
    TlsAlert = "tls_alert", "The client refuses us; often it does not know our authority.";
    TlsOther = "tls_other", "TLS failed in another way.";
    WsRequest = "ws_request", "The HTTP request is no WebSocket upgrade.";
    WsPath = "ws_path", "The path is not the listener's.";
    WsOrigin = "ws_origin", "The web page that asks is not of an origin that the listener takes.";
    WsSubprotocol = "ws_subprotocol", "The client does not offer the subprotocol `mqtt`.";
    WsText = "ws_text", "A text frame came; MQTT is binary.";
    WsFrame = "ws_frame", "A frame breaks the rules of WebSocket.";
}

/// A refusal with its particulars, for the log.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Why.
    pub why: Refusal,
    /// More of it.
    pub detail: String,
}

impl Refused {
    /// With particulars.
    pub(crate) fn new(why: Refusal, detail: impl Into<String>) -> Refused {
        Refused { why, detail: detail.into() }
    }
}
