//! Runs of publications: what many QoS 0 packets to one topic have in common is decided once.
//!
//! In: a [`Run`] of one connection. Out: the same as if its packets had come one by one; only the order in which
//! different sessions and routes are served differs. Its subscribers are looked up once, and each of them gets the
//! packets in one piece, as they came if it speaks the publisher's version.
//! Never: QoS above 0, RETAIN, properties; those packets go their own way through `dispatch`.

use model::{ConnId, Now, Qos};
use wire::{OutgoingPublish, Publish, Run, Version};

use crate::acks::Promise;
use crate::broker::Broker;
use crate::connections::Phase;
use crate::delivery::agree;
use crate::dispatch::Publication;
use crate::effects::Effects;
use crate::envelope::Envelope;
use crate::heads::iothub::is_reserved;
use crate::heads::mqtt::Fault;
use crate::retained::is_system;
use crate::subscriptions::{Entry, SessionKey};

/// Bytes of a run, about: what its receivers' outboxes may exceed their bound by.
const RUN_BYTES_MAX: usize = 16 << 10;

/// A run on its way, borrowed for the turn.
struct Running<'t> {
    run: Run<'t>,
    version: Version,
    client_id: &'t str,
    user: &'t str,
    now: Now,
}

impl<'t> Running<'t> {
    fn publication(&self, payload: &'t [u8]) -> Publication<'t> {
        let envelope = Envelope {
            user: "",
            topic: self.run.topic(),
            client_id: self.client_id,
            qos: Qos::AtMostOnce,
            retain: false,
            properties: &[],
            payload,
        };
        Publication {
            envelope,
            user: self.user,
            expires: None,
            now: self.now,
            hub: None,
            is_written: true,
            input: None,
        }
    }
}

impl Broker {
    /// Takes a run from the start of `bytes`; `None` if there is none.
    #[inline]
    pub(crate) fn read_run(
        &mut self,
        conn: ConnId,
        bytes: &[u8],
        now: Now,
        effects: &mut Effects,
    ) -> Result<Option<usize>, Fault> {
        let Some(connection) = self.connections.get(conn) else { return Ok(None) };
        let Phase::Open(key) = connection.phase else { return Ok(None) };
        let version = connection.version;
        let Some(run) = Run::split(bytes, version, connection.inbound_bytes_max, RUN_BYTES_MAX) else {
            return Ok(None);
        };
        if is_system(run.topic()) || self.has_hub && (connection.hub.is_some() || is_reserved(run.topic())) {
            return Ok(None); // each is refused, or read, on its own
        }
        let publish = Publish {
            dup: false,
            qos: Qos::AtMostOnce,
            retain: false,
            packet_id: None,
            topic: run.topic(),
            properties: wire::PublishProperties::NONE,
            payload: &[],
        };
        self.check_publish(&publish)?;
        if self.has_rules && !self.may_publish(conn, run.topic()) {
            return Ok(None); // each of them is denied on its own
        }
        let session = &self.sessions[key.0 as usize];
        let (client_id, owner) = (std::rc::Rc::clone(&session.client_id), session.owner.clone());
        let user = owner.as_deref().unwrap_or_default();
        self.dispatch_run(&Running { run, version, client_id: &client_id, user, now }, effects);
        Ok(Some(run.bytes().len()))
    }

    /// Sends a run everywhere it belongs.
    fn dispatch_run(&mut self, running: &Running<'_>, effects: &mut Effects) {
        let run = &running.run;
        let count = run.len() as u64;
        self.counters.received += count;
        self.counters.received_bytes += run.payload_bytes() as u64;
        let mut found = std::mem::take(&mut self.scratch.found);
        self.subscriptions.find(run.topic(), &mut found);
        let mut other_version = std::mem::take(&mut self.scratch.body);
        other_version.clear();
        for entries in found.entries.chunk_by(|one, other| one.session == other.session) {
            if !self.deliver_run(entries, running, &mut other_version, effects) {
                self.deliver_singly(entries, running, effects);
            }
        }
        self.scratch.body = other_version;
        let remote = found.remote;
        let has_subscriber = !found.entries.is_empty() || remote.any != 0;
        let has_routes = !self.plan.table.is_empty();
        let goes_further = remote.any != 0 || !found.shares.is_empty();
        if !goes_further && !has_routes {
            self.scratch.found = found;
            self.counters.unmatched += if has_subscriber { 0 } else { count };
            return;
        }
        let groups = std::mem::take(&mut found.shares);
        self.scratch.found = found; // routes look up the topics that they republish to
        let mut promise = Promise::default();
        for payload in run.payloads() {
            let publication = running.publication(payload);
            let mut matched = has_subscriber;
            if goes_further {
                self.scratch.frames.clear();
                matched |= self.send_further(remote, 0, &groups, &publication, &mut promise, effects);
            }
            matched |= has_routes && self.route(&publication, &mut promise, effects);
            self.counters.unmatched += u64::from(!matched);
        }
        self.scratch.found.shares = groups;
    }

    /// Puts a run into the outbox of one session; `false` if its packets must be looked at one by one.
    fn deliver_run(
        &mut self,
        entries: &[Entry],
        running: &Running<'_>,
        other_version: &mut Vec<u8>,
        effects: &mut Effects,
    ) -> bool {
        let SessionKey(key) = entries[0].session;
        if self.is_memory_full() {
            return false;
        }
        let Some(session) = self.sessions.get(key as usize) else { return false };
        let mut ids = std::mem::take(&mut self.scratch.ids);
        ids.clear();
        let wanted = agree(entries, session, running.client_id, false, &mut ids).is_some();
        let has_ids = !ids.is_empty();
        self.scratch.ids = ids;
        if !wanted {
            return true;
        }
        let Some(connection) = session.conn.and_then(|conn| self.connections.find(conn)) else { return true };
        let fits = running.run.largest() < connection.packet_bytes_max as usize
            && connection.outbox.len() <= self.setup.limits.outbox_bytes_max as usize;
        let is_plain = !has_ids && connection.aliases_out.is_none();
        if !matches!(connection.phase, Phase::Open(_)) || !fits || !is_plain {
            return false;
        }
        let bytes = if connection.version == running.version {
            running.run.bytes()
        } else {
            encode_for(connection.version, running, other_version)
        };
        connection.write(&mut effects.dirty).extend_from_slice(bytes);
        connection.count_outbox(&mut self.waiting_bytes);
        self.counters.delivered += running.run.len() as u64;
        true
    }

    /// Sends the packets of a run to one session, each on its own.
    fn deliver_singly(&mut self, entries: &[Entry], running: &Running<'_>, effects: &mut Effects) {
        for payload in running.run.payloads() {
            self.scratch.frames.clear();
            self.deliver(entries, "", &running.publication(payload), effects);
        }
    }
}

/// The run in the words of another version; made once for all receivers that need it.
fn encode_for<'b>(version: Version, running: &Running<'_>, bytes: &'b mut Vec<u8>) -> &'b [u8] {
    if bytes.is_empty() {
        for payload in running.run.payloads() {
            let topic = running.run.topic();
            let outgoing = OutgoingPublish { topic, payload, ..OutgoingPublish::default() };
            let encoded = wire::encode_publish(bytes, version, &outgoing);
            debug_assert!(encoded.is_ok(), "a byte more or less than what was read");
        }
    }
    bytes
}
