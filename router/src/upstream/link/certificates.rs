//! What is to be said of certificates on every connection: theirs, ours, or that nobody asks for one.
//!
//! In: a connection, what is configured for it. Out: lines in the log, days in the status. Never: a decision; whom to believe
//! is decided in `trust`.

use std::sync::atomic::Ordering;

use tracing::warn;

use super::super::transport::Stream;
use super::super::watchdogs::{self, Notice};
use super::Uplink;
use crate::config::{Transport, UplinkTls};

impl Uplink {
    /// Whoever believes everybody is told so with every connection.
    pub(super) fn say_if_insecure(&self, to: &Transport) {
        if to.tls.as_ref().is_some_and(|tls| tls.insecure) {
            warn!(uplink = %self.name, "insecure: whoever answers is believed, and everybody on the way can read and change everything");
        }
    }

    /// Notes when the other end's certificate ends, and warns before it does.
    pub(super) fn look_at_certificate(&self, stream: &Stream) {
        let status = &self.setup.status;
        let days = stream.certificate_days();
        status.has_certificate.store(days.is_some(), Ordering::Relaxed);
        status.certificate_days.store(days.unwrap_or_default(), Ordering::Relaxed);
        if let Some(text) = days.and_then(watchdogs::warning) {
            warn!(uplink = %self.name, "{text}");
        }
    }

    /// Warns before our own certificate ends; once it has, or before it begins, what is wrong with it. `identity`: whose it is,
    /// where it is not the uplink's.
    pub(super) fn look_at_own_certificate(&self, tls: &UplinkTls, identity: Option<&str>) -> Option<String> {
        let notice = self.own_certificate(tls, identity)?;
        if notice.is_over {
            return Some(notice.text);
        }
        warn!(uplink = %self.name, "{}", notice.text);
        None
    }

    /// What is to be said about our own certificate, if anything is.
    pub(super) fn own_certificate(&self, tls: &UplinkTls, identity: Option<&str>) -> Option<Notice> {
        let section = identity.map_or_else(String::new, |identity| format!(".identity.{identity:?}"));
        watchdogs::own_certificate(tls, &format!("uplink.{}{section}.cert", self.name))
    }
}
