//! What the router publishes of its own loss ledger: like a client's message of QoS 1, into subscriptions and routes.
//!
//! In: a part of the ledger as bytes, and its end. Out: records and deliveries, and behind them on the same tray a note how
//! far the ledger is published. Always: part and note are durable together, so a crash repeats a part or loses none;
//! nothing is published while a sink has no room for it, because that would be a loss that makes a loss.

use model::{Now, Qos};

use crate::broker::Broker;
use crate::dispatch::Publication;
use crate::effects::{Effects, StateSpace};
use crate::envelope::Envelope;
use crate::saving::put;

impl Broker {
    /// Publishes a part of the ledger; `next` is the number of the first entry behind it. `false` if there is no room now.
    pub fn publish_losses(
        &mut self,
        topic: &str,
        part: &[u8],
        next: u64,
        now: Now,
        effects: &mut Effects,
    ) -> bool {
        let envelope = Envelope {
            user: "",
            topic,
            client_id: "",
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: &[],
            payload: part,
        };
        let publication = Publication { envelope, user: "", expires: None, now, hub: None };
        if self.is_careful {
            let needs = self.needs_of(&publication);
            if needs.refused || needs.dropped || !self.levels.takes_writes {
                self.give_back_room();
                return false;
            }
        }
        self.dispatch(&publication, effects);
        self.give_back_room();
        let value = |bytes: &mut Vec<u8>| bytes.extend_from_slice(&next.to_le_bytes());
        put(&mut self.appended_bytes, effects, StateSpace::LossesPublished, |_| {}, value);
        true
    }
}
