//! What the router publishes of its own loss ledger: like a client's message of QoS 1, into subscriptions and routes.
//!
//! In: a part of the ledger as bytes, and its end. Out: records and deliveries, and behind them on the same tray a note how
//! far the ledger is published; if other shards must keep something of it, once they have. Always: the note is not durable
//! before the part is, so a crash repeats a part and loses none; nothing is published while a sink has no room for it,
//! because that would be a loss that makes a loss.

use model::{Now, Qos};

use crate::acks::{Acks, Answer, NOBODY};
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
        let publication =
            Publication { envelope, user: "", expires: None, now, hub: None, is_written: true, input: None };
        if self.is_careful {
            let needs = self.needs_of(&publication);
            if needs.refused || needs.dropped || !self.levels.takes_writes {
                self.give_back_room();
                return false;
            }
        }
        let (promise, _) = self.dispatch(&publication, effects);
        self.give_back_room();
        if promise.shards == 0 {
            self.note_published(next, effects);
        } else {
            self.acks.wait(Acks::queue(&promise), NOBODY, promise, Answer::Losses(next));
        }
        true
    }

    /// Writes down how far the ledger is published. The same part may be on its way twice: it never goes back.
    pub(crate) fn note_published(&mut self, next: u64, effects: &mut Effects) {
        self.losses_published = self.losses_published.max(next);
        let value = self.losses_published.to_le_bytes();
        let put_value = |bytes: &mut Vec<u8>| bytes.extend_from_slice(&value);
        put(&mut self.appended_bytes, effects, StateSpace::LossesPublished, |_| {}, put_value);
    }
}
