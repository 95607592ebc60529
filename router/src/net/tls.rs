//! TLS of one connection, without a socket: records in, bytes out, and the other way round.
//!
//! In: records as the network has them. Out: what they hold, and what must be sent for it. Never: a socket, a file.
//! rustls's unbuffered face: it decrypts out of our buffer and encrypts into it, and holds none of its own, so that an
//! idle connection costs its keys alone.

use std::fmt;
use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{AlertDescription, Error};

use super::certificates::{TlsServer, user_of};
use super::door::{Refusal, Refused};
use crate::config::UserFrom;

/// What a record adds to its payload, at most in what we speak: header, explicit nonce, tag, content type.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// One TLS connection.
pub(crate) struct TlsSession {
    session: UnbufferedServerConnection,
    user_from: UserFrom,
    /// Certificates are shown to whoever asks who the client is, and name no user.
    is_unjudged: bool,
    /// Nothing more is encrypted: we have closed, or TLS has failed.
    over: bool,
}

/// What came of some records.
pub(crate) struct Taken {
    /// Bytes of input that were used up.
    pub len: usize,
    /// The client has said that nothing more comes.
    pub closed: bool,
    /// Whether it goes on.
    pub result: Result<(), Refused>,
}

impl TlsSession {
    /// A connection that has to begin with a handshake.
    pub(crate) fn new(server: &TlsServer) -> Result<TlsSession, Refused> {
        let session =
            UnbufferedServerConnection::new(Arc::clone(&server.config)).map_err(|error| refused(&error))?;
        Ok(TlsSession { session, user_from: server.user_from, is_unjudged: server.is_unjudged, over: false })
    }

    /// Whether the handshake is not over.
    pub(crate) fn is_shaking_hands(&self) -> bool {
        self.session.is_handshaking()
    }

    /// The user whom the client's certificate names, if it has one and names one.
    pub(crate) fn user(&self) -> Option<Arc<str>> {
        if self.is_unjudged {
            return None;
        }
        user_of(self.session.peer_certificates()?.first()?, self.user_from)
    }

    /// The certificates that the client has shown and nobody has judged, its own first.
    pub(crate) fn unjudged(&self) -> Option<Arc<[Box<[u8]>]>> {
        let shown = self.session.peer_certificates().filter(|_| self.is_unjudged)?;
        Some(shown.iter().map(|certificate| Box::from(certificate.as_ref())).collect())
    }

    /// Takes every whole record of `input`. What they hold is put behind `plain`, what must be sent behind `outgoing`.
    pub(crate) fn take_in(&mut self, input: &mut [u8], plain: &mut Vec<u8>, outgoing: &mut Vec<u8>) -> Taken {
        let mut at = 0;
        let mut closed = false;
        loop {
            let UnbufferedStatus { mut discard, state } = self.session.process_tls_records(&mut input[at..]);
            let mut waits = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        match record {
                            Ok(record) => {
                                discard += record.discard;
                                plain.extend_from_slice(record.payload);
                            }
                            Err(error) => return self.fail(at + discard, refused(&error)),
                        }
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, outgoing),
                // It lies in `outgoing`, behind everything that was there before, and leaves in this order.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => closed = true,
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => waits = true,
                Ok(ConnectionState::Closed) => {
                    closed = true;
                    waits = true;
                }
                Ok(_) => {
                    // Early data, which we never offer.
                    return self
                        .fail(at + discard, Refused::new(Refusal::TlsOther, "an unexpected state of TLS"));
                }
                Err(error) => {
                    at += discard;
                    self.encode_alert(&mut input[at..], outgoing);
                    return self.fail(at, refused(&error));
                }
            }
            at += discard;
            if waits {
                return Taken { len: at, closed, result: Ok(()) };
            }
        }
    }

    fn fail(&mut self, len: usize, refused: Refused) -> Taken {
        self.over = true;
        Taken { len, closed: false, result: Err(refused) }
    }

    /// Encrypts `bytes` behind `outgoing`. `incoming` is what has come in of a record that is not whole yet.
    pub(crate) fn encrypt(
        &mut self,
        bytes: &[u8],
        incoming: &mut [u8],
        outgoing: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        self.with_traffic(incoming, outgoing, |traffic, outgoing| {
            append(outgoing, bytes.len() + RECORD_OVERHEAD_BYTES, |room| traffic.encrypt(bytes, room))
        })
    }

    /// Encrypts the last `bytes` and says that nothing more comes; nothing if the handshake is not over.
    pub(crate) fn close(&mut self, bytes: &[u8], incoming: &mut [u8], outgoing: &mut Vec<u8>) {
        if self.is_shaking_hands() || self.over {
            return;
        }
        let said = self.with_traffic(incoming, outgoing, |traffic, outgoing| {
            if !bytes.is_empty() {
                append(outgoing, bytes.len() + RECORD_OVERHEAD_BYTES, |room| traffic.encrypt(bytes, room))?;
            }
            append(outgoing, RECORD_OVERHEAD_BYTES, |room| traffic.queue_close_notify(room))
        });
        self.over = true;
        if let Err(error) = said {
            tracing::debug!(error, "TLS could not be closed in an orderly way");
        }
    }

    fn with_traffic(
        &mut self,
        incoming: &mut [u8],
        outgoing: &mut Vec<u8>,
        act: impl FnOnce(
            &mut WriteTraffic<'_, rustls::server::ServerConnectionData>,
            &mut Vec<u8>,
        ) -> Result<(), &'static str>,
    ) -> Result<(), &'static str> {
        if self.over {
            return Err("TLS is over");
        }
        loop {
            let UnbufferedStatus { discard, state } = self.session.process_tls_records(incoming);
            // Whole records are taken as they come, so that only the beginning of one can be here.
            debug_assert_eq!(discard, 0);
            match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => return act(&mut traffic, outgoing),
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, outgoing),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => {}
                Ok(_) => return Err("TLS takes nothing now"),
                Err(_) => return Err("TLS has failed"),
            }
        }
    }

    /// After an error: the alert that tells the client why.
    fn encode_alert(&mut self, input: &mut [u8], outgoing: &mut Vec<u8>) {
        let mut at = 0;
        loop {
            let UnbufferedStatus { discard, state } = self.session.process_tls_records(&mut input[at..]);
            match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, outgoing),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(_) | Err(_) => return,
            }
            at += discard;
        }
    }
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSession").field("handshaking", &self.is_shaking_hands()).finish_non_exhaustive()
    }
}

fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, outgoing: &mut Vec<u8>) {
    // The first call asks for the length.
    let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else { return };
    let start = outgoing.len();
    outgoing.resize(start + size.required_size, 0);
    if data.encode(&mut outgoing[start..]).is_err() {
        outgoing.truncate(start);
    }
}

/// Lets `write` put bytes behind `outgoing`, with more room if it asks for it.
fn append(
    outgoing: &mut Vec<u8>,
    room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), &'static str> {
    let start = outgoing.len();
    let mut room = room;
    // Twice: once with what is usual, once with what was asked for.
    for _ in 0..2 {
        outgoing.resize(start + room, 0);
        match write(&mut outgoing[start..]) {
            Ok(len) => {
                outgoing.truncate(start + len);
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(size)) => room = size.required_size,
            Err(EncryptError::EncryptExhausted) => break,
        }
    }
    outgoing.truncate(start);
    Err("TLS has used up its keys")
}

/// What a mistake of TLS is counted as.
pub(crate) fn refused(error: &Error) -> Refused {
    let why = match error {
        Error::NoCertificatesPresented => Refusal::TlsNoCertificate,
        Error::InvalidCertificate(_) | Error::InvalidCertRevocationList(_) => Refusal::TlsCertificate,
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Refusal::TlsVersion,
        Error::AlertReceived(AlertDescription::CloseNotify) => Refusal::HandshakeAborted,
        Error::AlertReceived(_) => Refusal::TlsAlert,
        Error::InvalidMessage(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => Refusal::TlsMalformed,
        _ => Refusal::TlsOther,
    };
    Refused::new(why, error.to_string())
}
