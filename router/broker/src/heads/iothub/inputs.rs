//! Messages that routes send to inputs of modules: `BrokeredEndpoint("/modules/m/inputs/i")`.
//!
//! In: a match of a route; modules that come and go. Out: a publication to the module's own topic.
//! The queues of a module are lanes of its session (see `lanes`), so that what is in them outlives everything, goes out in
//! order, and as many at a time as its window takes. For that the session of a module of this edge device is always a stored one and
//! has a subscription of its own, `devices/E/modules/M/inputs/+/#`, whether or not the module has come (decision 0036).
//! Always: a module gets nothing from its inputs before it has subscribed to them: it is *parked*.

use hub::topics::{self, Feature, Features, Filter};
use model::{Match, Message, Now, Qos};

use crate::acks::Promise;
use crate::broker::Broker;
use crate::dispatch::Publication;
use crate::effects::Effects;
use crate::envelope::Envelope;
use crate::plan::{Durability, Plan};
use crate::sessions::{Keeping, SubscriptionOptions};
use crate::subscriptions::SessionKey;

impl Broker {
    /// The filter of the subscription that the session of a module of this edge device has by itself.
    pub(crate) fn inputs_filter(&self, client_id: &str) -> Option<String> {
        let setup = self.hub.as_ref()?;
        let module = client_id.strip_prefix(&*setup.edge_device)?.strip_prefix('/')?;
        let is_one = !module.is_empty() && !module.contains('/');
        is_one.then(|| format!("devices/{}/modules/{module}/inputs/+/#", setup.edge_device))
    }

    /// Sends a message to an input.
    pub(crate) fn send_to_input(
        &mut self,
        found: &Match,
        plan: &Plan,
        message: &Message<'_>,
        selected: &Publication<'_>,
        promise: &mut Promise,
        effects: &mut Effects,
    ) {
        let mut topic = std::mem::take(&mut self.scratch.topic);
        if !self.input_topic(found, plan, &mut topic) {
            self.counters.bugs += 1;
            self.scratch.topic = topic;
            return;
        }
        hub::mapping::bag_for_client(
            message.properties.iter().map(|it| (it.name, it.value)),
            message.system.iter().map(|it| (it.name, it.value)),
            &mut topic,
        );
        let sink = plan.table.sinks().get(found.sink.0 as usize);
        if let (Some(routes::Sink::Input { module, input }), Some(setup)) = (sink, self.hub.clone()) {
            let before = self.before_input(&format!("{}/{module}", setup.edge_device));
            if self.publish_to_input(found, plan, &topic, selected, promise, effects) {
                let system = |wanted: &str| {
                    let found = message.system.iter().find(|it| it.name == wanted);
                    found.and_then(|it| it.value).unwrap_or_default()
                };
                let (device, sender) = (system("connectionDeviceId"), system("connectionModuleId"));
                let priority = found.priority.to_string();
                let labels = [device, sender, module, system("outputName"), input, &priority];
                self.hub_series.count("sent", &labels);
                if let Some(before) = before {
                    self.measure_input(before, &labels, selected.now);
                }
            }
        }
        self.scratch.topic = topic;
    }

    /// Messages were sent again to the client of a session.
    #[cold]
    pub(crate) fn note_redelivered(&mut self, key: SessionKey, messages: u64) {
        let Some(session) = self.sessions.get(key.0 as usize) else { return };
        if self.inputs_filter(&session.client_id).is_some() {
            self.hub_series.add("again", &[&session.client_id], messages);
        }
    }

    /// Writes the topic of the input that a match leads to, without a bag; `false` if it leads to none.
    pub(crate) fn input_topic(&self, found: &Match, plan: &Plan, topic: &mut String) -> bool {
        let Some(setup) = &self.hub else { return false };
        let sink = plan.table.sinks().get(found.sink.0 as usize);
        let Some(routes::Sink::Input { module, input }) = sink else { return false };
        hub::topics::input(&setup.edge_device, module, input, "", topic);
        true
    }

    /// Whether there is a queue for it.
    fn publish_to_input(
        &mut self,
        found: &Match,
        plan: &Plan,
        topic: &str,
        selected: &Publication<'_>,
        promise: &mut Promise,
        effects: &mut Effects,
    ) -> bool {
        if model::validate_name(topic).is_err() {
            self.counters.dropped_input_topic += 1;
            return false;
        }
        // QoS 0 has not been asked at the gate; as with uplinks, a sink without room goes without it.
        if self.is_tight && selected.envelope.qos == Qos::AtMostOnce {
            if self.holds_no_more() {
                self.counters.dropped_store_fails += 1;
                return false;
            }
            if !self.levels.store.takes(found.priority) {
                self.counters.dropped_sink_full += 1;
                return false;
            }
        }
        let by_route = found.ttl_millis.or(plan.ttl_millis);
        let by_route = by_route.map(|millis| selected.now.timestamp.plus_millis(millis));
        let expires = [by_route, selected.expires].into_iter().flatten().min();
        // The queue of an input keeps everything, whatever QoS it came with (edgeHub does, too). Properties of MQTT 5 are
        // in the bag as far as they are properties of the message.
        let envelope =
            Envelope { topic, qos: Qos::AtLeastOnce, retain: false, properties: &[], ..selected.envelope };
        let is_written = plan.durability(found.route) != Durability::Memory;
        let input = Some(found.priority);
        let publication = Publication { envelope, expires, hub: None, is_written, input, ..*selected };
        // The queue of a module is on the disk, so that `spill` is as `disk`: there is no front. What is in memory alone is
        // on its way to the module, and nobody waits for it.
        let is_sent = match is_written {
            true => self.publish(&publication, promise, effects),
            false => self.publish(&publication, &mut Promise::default(), effects),
        };
        if is_sent {
            self.counters.sent_to_inputs += 1;
        } else {
            self.counters.dropped_input_unknown += 1;
        }
        is_sent
    }

    /// Makes the sessions of modules that routes lead to and that have never come, as far as they are at home here. Nothing
    /// is read before they are there, so that no message misses its queue at the start.
    pub(crate) fn keep_inputs(&mut self, effects: &mut Effects) {
        if !std::mem::take(&mut self.inputs_unkept) {
            return;
        }
        let Some(setup) = self.hub.clone() else { return };
        let plan = std::rc::Rc::clone(&self.plan);
        let mut known = Vec::new();
        for sink in plan.table.sinks() {
            let routes::Sink::Input { module, .. } = sink else { continue };
            let client_id = format!("{}/{module}", setup.edge_device);
            if let Some(key) = self.by_client.get(client_id.as_str()) {
                known.push(*key);
                continue;
            }
            if !setup.keep_for_unknown
                || hub::HubId::parse(&client_id).is_err()
                || self.home(&client_id) != self.setup.shard
            {
                continue;
            }
            let sessions_max = self.setup.limits.sessions_max.div_ceil(u32::from(self.setup.shards)) as usize;
            if self.sessions.len() >= sessions_max {
                self.counters.hub_modules_not_kept += 1;
                continue;
            }
            let mut session = self.new_session(&client_id, Keeping::Opening);
            session.expiry_secs = u32::MAX;
            session.awaited = true;
            let key = self.adopt(session);
            self.inputs_opening += 1;
            self.open_lane(key, effects);
        }
        known.sort_unstable();
        known.dedup();
        for key in known {
            self.open_input_lanes(key, effects);
        }
        self.wait_for_inputs();
    }

    /// Until the lanes of new modules are open, this shard reads nothing.
    fn wait_for_inputs(&mut self) {
        let own = 1 << self.setup.shard.0;
        if self.inputs_opening > 0 {
            self.unknown_shards |= own;
        } else {
            self.unknown_shards &= !own;
        }
    }

    /// The lane of a module's session is open: from now on there is a queue for its inputs.
    pub(crate) fn open_inputs(&mut self, key: SessionKey, effects: &mut Effects) {
        self.subscribe_inputs(key, effects);
        self.open_input_lanes(key, effects);
        self.wait_for_inputs();
        let session = self.sessions.get_mut(key.0 as usize);
        if session.is_some_and(|session| std::mem::take(&mut session.awaited)) {
            self.inputs_are_open(effects);
        }
    }

    /// One lane less to wait for.
    pub(crate) fn inputs_are_open(&mut self, effects: &mut Effects) {
        self.inputs_opening = self.inputs_opening.saturating_sub(1);
        if self.inputs_opening > 0 {
            return;
        }
        self.wait_for_inputs();
        if std::mem::take(&mut self.restored_unsaid) {
            self.say_restored(effects);
        }
    }

    /// Gives a module's session the subscription that it has by itself.
    pub(crate) fn subscribe_inputs(&mut self, key: SessionKey, effects: &mut Effects) {
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return };
        let client_id = std::rc::Rc::clone(&session.client_id);
        let Some(filter) = self.inputs_filter(&client_id) else { return };
        let options = SubscriptionOptions {
            qos: Qos::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            subscription_id: 0,
        };
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return };
        if session.subscriptions.contains_key(filter.as_str()) {
            return;
        }
        session.subscriptions.insert(filter.as_str().into(), options);
        self.subscriptions.insert(&filter, options.entry(key, true), true);
        self.announce(&filter, None, effects);
        self.save_subscription(key, &filter, effects);
    }

    /// A module that has not subscribed to its inputs gets nothing of them yet.
    pub(in crate::heads) fn park_inputs(
        &mut self,
        key: SessionKey,
        features: Features,
        now: Now,
        effects: &mut Effects,
    ) {
        let was_parked = self.sessions.get(key.0 as usize).is_some_and(|session| session.parked);
        self.park_on_connect(key, features);
        self.match_inputs_qos(key, effects);
        let is_parked = self.sessions.get(key.0 as usize).is_some_and(|session| session.parked);
        if was_parked && !is_parked {
            self.pump(key, now, effects);
        }
    }

    /// The same when it comes: it may have subscribed at an earlier time.
    pub(in crate::heads) fn park_on_connect(&mut self, key: SessionKey, features: Features) {
        let Some(session) = self.sessions.get(key.0 as usize) else { return };
        let has_queue = self.inputs_filter(&session.client_id).is_some();
        if let Some(session) = self.sessions.get_mut(key.0 as usize) {
            session.parked = has_queue && !features.has(Feature::Inputs);
        }
    }

    /// A module that wants its inputs at QoS 0 gets them so [MQTT-3.8.4-8], and then nothing is kept for it.
    fn match_inputs_qos(&mut self, key: SessionKey, effects: &mut Effects) {
        let Some(session) = self.sessions.get(key.0 as usize) else { return };
        let (Some(implied), Ok(id)) =
            (self.inputs_filter(&session.client_id), hub::HubId::parse(&session.client_id))
        else {
            return;
        };
        let is_inputs = |filter: &str| topics::filter(filter, &id) == Filter::Feature(Feature::Inputs);
        let others = session.subscriptions.iter().filter(|(filter, _)| ***filter != *implied);
        let wanted = others.filter(|(filter, _)| is_inputs(filter)).map(|(_, options)| options.qos).max();
        let qos = wanted.unwrap_or(Qos::AtLeastOnce).min(Qos::AtLeastOnce);
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return };
        let Some(options) = session.subscriptions.get_mut(implied.as_str()) else { return };
        if options.qos == qos {
            return;
        }
        options.qos = qos;
        let entry = options.entry(key, true);
        self.subscriptions.insert(&implied, entry, true);
        self.announce(&implied, None, effects);
        self.save_subscription(key, &implied, effects);
    }

    /// A module begins anew: it keeps the queue of its inputs, and nothing else of its session (edgeHub's queues are not
    /// part of sessions).
    pub(in crate::heads) fn begin_module_anew(&mut self, key: SessionKey, effects: &mut Effects) {
        let Some(session) = self.sessions.get_mut(key.0 as usize) else { return };
        let received: Vec<_> = session.received.iter().collect();
        session.received = crate::sessions::Exchanges::default();
        let client_id = std::rc::Rc::clone(&session.client_id);
        let kept = self.inputs_filter(&client_id);
        let Some(session) = self.sessions.get(key.0 as usize) else { return };
        let others: Vec<Box<str>> = session
            .subscriptions
            .keys()
            .filter(|filter| kept.as_deref() != Some(&***filter))
            .cloned()
            .collect();
        for filter in others {
            self.forget_subscription(key, &filter, effects);
        }
        for packet_id in received {
            self.delete_received(key, packet_id, effects);
        }
    }
}
