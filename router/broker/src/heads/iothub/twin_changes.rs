//! What clients report, as messages for routes: `FROM /twinChangeNotifications/*` (`reference/edgehub.md` §3.3).
//!
//! In: a report that a service has taken. Out: a message of `$edgeHub`, whose inputs see who reported; to routes alone, no
//! client subscribes to it. Nobody waits for it: what there is no room for is counted and dropped, the twin has it all the same.
//! Unlike edgeHub's, it says that its body is JSON, so that conditions can read it.

use std::borrow::Cow;

use hub::mapping::Properties;
use hub::{HubId, topics};
use model::{Now, Qos};

use crate::acks::Promise;
use crate::broker::Broker;
use crate::dispatch::Publication;
use crate::effects::Effects;
use crate::envelope::Envelope;

/// The module that says so.
const EDGE_HUB: &str = "$edgeHub";
/// What of it goes along wherever it goes.
const BAG: &str = "%24.ct=application%2Fjson&%24.ce=utf-8&%24.schema=twinChangeNotification";

impl Broker {
    /// A client has reported properties.
    pub(super) fn publish_twin_change(
        &mut self,
        sender: &str,
        patch: &[u8],
        now: Now,
        effects: &mut Effects,
    ) {
        let Some(setup) = self.hub.clone().filter(|_| !self.plan.table.is_empty()) else { return };
        let (Ok(sender), Ok(own)) = (HubId::parse(sender), HubId::module(&setup.edge_device, EDGE_HUB))
        else {
            return;
        };
        let mut properties = Properties::default();
        for (name, value) in [
            ("contentType", "application/json"),
            ("contentEncoding", "utf-8"),
            ("messageSchema", "twinChangeNotification"),
            ("messageType", "twinChangeNotification"),
            ("connectionDeviceId", own.device_id()),
            ("connectionModuleId", EDGE_HUB),
            ("rpSenderDeviceId", sender.device_id()),
        ] {
            properties.set_system(name, Cow::Borrowed(value));
        }
        if let Some(module) = sender.module_id() {
            properties.set_system("rpSenderModuleId", Cow::Borrowed(module));
        }
        let mut topic = String::new();
        topics::events(&own, BAG, &mut topic);
        let envelope = Envelope {
            user: "",
            topic: &topic,
            client_id: own.as_str(),
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: &[],
            payload: patch,
        };
        let publication = Publication {
            envelope,
            user: own.as_str(),
            expires: None,
            now,
            hub: Some(&properties),
            is_written: true,
            input: None,
        };
        if self.is_careful {
            let needs = self.needs_of(&publication);
            if needs.refused || self.holds_no_more() {
                self.give_back_room();
                self.counters.dropped_twin_change += 1;
                return;
            }
        }
        self.counters.hub_twin_changes += 1;
        self.route(&publication, &mut Promise::default(), effects);
        self.give_back_room();
    }
}
