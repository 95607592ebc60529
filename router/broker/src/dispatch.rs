//! Station 3: where a publication goes, and what its acknowledgement must wait for. Station 4 is `admit`.
//!
//! In: a publication that passed the session rules. Out: deliveries, appends, handoffs, and a [`Promise`].
//! Always: routes are evaluated once, on the shard that received the publication; subscriptions on each shard that
//! has a match. An uplink gets a publication once, however many routes lead there.

use std::rc::Rc;

use model::{LaneId, Match, Message, Now, Priority, Property, SpillTicket, Timestamp};

use crate::acks::Promise;
use crate::admit::WhenFull;
use crate::broker::{Broker, append};
use crate::effects::{Control, Effects, HandoffBatch, Write};
use crate::envelope::Envelope;
use crate::plan::{Durability, Plan, SinkPlan};
use crate::sharing::Lot;
use crate::subscriptions::Shards;
use crate::subscriptions::shares::{ShareKey, Shares};

/// A publication on its way, borrowed for the turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Publication<'t> {
    pub(crate) envelope: Envelope<'t>,
    /// The publisher's user; empty if it is anonymous. Routes can ask for it; it travels with the envelope only where that is
    /// wanted.
    pub(crate) user: &'t str,
    /// When it is worth nothing any more (MQTT 5.0 §3.3.2.3.3).
    pub(crate) expires: Option<Timestamp>,
    /// When it came.
    pub(crate) now: Now,
    /// What routes see of it, if it came in the IoT Hub dialect.
    pub(crate) hub: Option<&'t hub::mapping::Properties<'t>>,
    /// Whether stored sessions write it before they send it; else only if they must.
    pub(crate) is_written: bool,
    /// It is for an input of a module: how urgent it is there.
    pub(crate) input: Option<Priority>,
}

impl Publication<'_> {
    /// The same as lanes get it.
    pub(crate) fn for_lanes(mut self, plan: &Plan) -> Self {
        if plan.keeps_user {
            self.envelope.user = self.user;
        }
        self
    }
}

/// One uplink that a publication goes to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forward {
    pub(crate) uplink: u32,
    pub(crate) lane: LaneId,
    pub(crate) best: Match,
    pub(crate) durability: Durability,
    pub(crate) when_full: WhenFull,
}

/// To which shards a publication is handed, and what for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way<'a> {
    /// The shards with subscriptions of their own.
    pub(crate) ordinary: u64,
    /// All of them, and those that must keep it.
    pub(crate) to: Shards,
    /// As what it is retained there; 0 if it is not. See [`Broker::retain_from`].
    pub(crate) version: u64,
    /// The groups of which a shard was drawn.
    pub(crate) lots: &'a [Lot],
}

/// A publication as another shard gave it to us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given<'a> {
    /// Who.
    pub(crate) from: model::ShardId,
    /// Its number of it, if it is for groups.
    pub(crate) handoff: u64,
    /// What to give back if it cannot be placed here.
    pub(crate) bytes: &'a [u8],
}

/// A handed over publication is for the subscriptions of the shard.
const TO_SUBSCRIPTIONS: u8 = 0b01;
/// It is for groups, which are named.
const TO_GROUPS: u8 = 0b10;
/// It is retained; its version follows.
const TO_RETAIN: u8 = 0b100;
/// Stored sessions need not write it.
const UNWRITTEN: u8 = 0b1000;
/// The upper half: it is for an input, and how urgent it is there; see [`input_bits`].
const INPUT: u32 = 4;

impl Broker {
    /// Sends a publication everywhere it belongs; what its acknowledgement waits for, and whether anybody takes it.
    pub(crate) fn dispatch(
        &mut self,
        publication: &Publication<'_>,
        effects: &mut Effects,
    ) -> (Promise, bool) {
        let mut promise = Promise::default();
        let mut matched = self.publish(publication, &mut promise, effects);
        if !self.plan.table.is_empty() {
            matched |= self.route(publication, &mut promise, effects);
        }
        self.counters.unmatched += u64::from(!matched);
        (promise, matched)
    }

    /// Sends it to subscribers, here and on other shards; whether there was one.
    pub(crate) fn publish(
        &mut self,
        publication: &Publication<'_>,
        promise: &mut Promise,
        effects: &mut Effects,
    ) -> bool {
        let mut found = std::mem::take(&mut self.scratch.found);
        self.deliver_all(&mut found, publication, promise, effects);
        let mut remote = found.remote;
        let retain = publication.envelope.retain;
        let mut matched = !found.entries.is_empty() || remote.any != 0 || retain;
        let version = if retain { self.retain(publication, &mut remote, promise, effects) } else { 0 };
        if remote.any != 0 || !found.shares.is_empty() {
            matched |= self.send_further(remote, version, &found.shares, publication, promise, effects);
        }
        self.scratch.found = found;
        matched
    }

    /// Sends it to one member of each group, wherever that is, and to the subscribers of other shards; whether a group
    /// had a member. `version`: as what they retain it; 0 if they do not.
    pub(crate) fn send_further(
        &mut self,
        remote: Shards,
        version: u64,
        groups: &[ShareKey],
        publication: &Publication<'_>,
        promise: &mut Promise,
        effects: &mut Effects,
    ) -> bool {
        let mut lots = std::mem::take(&mut self.scratch.lots);
        lots.clear();
        let (shared, drawn) = self.share_out(groups, publication, &mut lots, promise, effects);
        let mut to = Shards { any: remote.any | drawn.any, kept: remote.kept | drawn.kept };
        if publication.envelope.qos == model::Qos::AtMostOnce {
            to.kept = 0;
        }
        if to.any != 0 {
            self.hand_off(
                publication,
                Way { ordinary: remote.any, to, version, lots: &lots },
                promise,
                effects,
            );
        }
        self.scratch.lots = lots;
        shared
    }

    /// Publications from another shard: their routes were evaluated there, their subscribers are here.
    pub(crate) fn on_handoff(
        &mut self,
        from: model::ShardId,
        batch: &HandoffBatch,
        now: Now,
        effects: &mut Effects,
    ) {
        let mut rest = &batch.bytes[..];
        let mut promise = Promise::default();
        let mut found = std::mem::take(&mut self.scratch.found);
        while let Some((handoff, groups, start)) = ways(rest)
            && let Some((mut publication, after)) = next_handed_over(start, now)
        {
            let ways = rest[0];
            publication.is_written = ways & UNWRITTEN == 0;
            publication.input = input_of_bits(ways >> INPUT);
            let given = Given { from, handoff, bytes: &start[..start.len() - after.len()] };
            rest = after;
            if ways & TO_SUBSCRIPTIONS != 0 {
                let topic = publication.envelope.topic;
                let measured = if self.has_hub { self.before_handed_over(topic) } else { None };
                self.deliver_all(&mut found, &publication, &mut promise, effects);
                if let Some(before) = measured {
                    self.measure_handed_over(before, topic, publication.input, now);
                }
            } else {
                self.scratch.frames.clear();
            }
            if ways & TO_RETAIN != 0
                && let Some((version, after)) = rest.split_first_chunk()
            {
                rest = after;
                let ticket = self.retain_from(u64::from_le_bytes(*version), &publication, effects);
                promise.ticket = promise.ticket.max(ticket);
            }
            for name in names(groups) {
                self.take_share(name, &publication, given, &mut promise, effects);
            }
        }
        self.scratch.found = found;
        if !rest.is_empty() {
            self.counters.bugs += 1;
        }
        if !batch.wants_mark {
            return;
        }
        if self.marks_owed.is_empty() && self.acks.check(&promise).is_some() {
            effects.controls.push((from, Control::Kept { from: self.setup.shard, up_to: batch.last }));
        } else {
            // Not its own ticket but the latest: marks then leave in the order of their tickets.
            self.marks_owed.push_back((effects.appends.last, from, batch.last));
        }
    }

    /// A shard that was drawn for a group had nobody left in it: another one is drawn, and the promise goes on to that.
    pub(crate) fn on_returned(
        &mut self,
        handoff: u64,
        group: &str,
        publication: &[u8],
        now: Now,
        effects: &mut Effects,
    ) {
        let Some((publication, _)) = next_handed_over(publication, now) else {
            self.counters.bugs += 1;
            return;
        };
        let mut promise = Promise::default();
        self.share_again(group, &publication, &mut promise, effects);
        self.acks.extend(handoff, promise);
    }

    /// Hands a publication to the shards in `way.to.any`; the promise then waits for those in `kept`.
    pub(crate) fn hand_off(
        &mut self,
        publication: &Publication<'_>,
        way: Way<'_>,
        promise: &mut Promise,
        effects: &mut Effects,
    ) {
        self.handoff += 1;
        self.counters.handed_off += 1;
        let Shards { any, kept } = way.to;
        for shard in bits(any) {
            let batch = &mut effects.handoffs[shard];
            if way.lots.is_empty() && way.version == 0 {
                let unwritten = if publication.is_written { 0 } else { UNWRITTEN };
                batch.bytes.push(TO_SUBSCRIPTIONS | unwritten | input_bits(publication.input) << INPUT);
            } else {
                self.subscriptions.shares.append_ways(&mut batch.bytes, shard, way, self.handoff);
            }
            let len = publication.envelope.encoded_len() as u32;
            batch.bytes.extend_from_slice(&len.to_le_bytes());
            batch.bytes.extend_from_slice(&publication.expires.map_or(0, |at| at.0).to_le_bytes());
            publication.envelope.encode(&mut batch.bytes);
            if way.version != 0 {
                batch.bytes.extend_from_slice(&way.version.to_le_bytes());
            }
            batch.last = self.handoff;
            batch.wants_mark |= kept & 1 << shard != 0;
        }
        promise.shards |= kept;
        promise.handoff = self.handoff;
        // One packet may be handed over several times (republished by routes), to different shards: all that the
        // promise waits for must mark its last number, or the promise would wait for ever.
        for shard in bits(promise.shards) {
            effects.handoffs[shard].last = self.handoff;
        }
    }

    /// Evaluates the routes and acts on every match; whether there was one.
    pub(crate) fn route(
        &mut self,
        publication: &Publication<'_>,
        promise: &mut Promise,
        effects: &mut Effects,
    ) -> bool {
        let publication = &publication.for_lanes(&self.plan);
        let (table, scratch) = (&self.plan.table, &mut self.scratch);
        let parts = MessageParts::new(publication, table.needs_properties());
        let message = parts.message(publication);
        if table.needs_state() {
            let now = publication.now.instant;
            table.matches_at(&message, now, &mut self.gates, &mut scratch.routes, &mut scratch.matches);
        } else {
            table.matches(&message, &mut scratch.routes, &mut scratch.matches);
        }
        let matched = !scratch.matches.is_empty();
        if matched {
            self.counters.routed += 1;
            self.send_to_sinks(&message, publication, promise, effects);
        }
        matched
    }

    /// Acts on the matches of the routes.
    fn send_to_sinks(
        &mut self,
        message: &Message<'_>,
        publication: &Publication<'_>,
        promise: &mut Promise,
        effects: &mut Effects,
    ) {
        let plan = Rc::clone(&self.plan);
        let matches = std::mem::take(&mut self.scratch.matches);
        let mut forwards = std::mem::take(&mut self.scratch.forwards);
        forwards.clear();
        for found in &matches {
            match plan.sink(found) {
                Some(SinkPlan::Lanes { .. }) => {
                    self.counters.bugs += u64::from(!add_forward(&mut forwards, &plan, found));
                }
                Some(SinkPlan::Topic) => self.republish(found, &plan, message, publication, promise, effects),
                Some(SinkPlan::Input) => {
                    let mut body = std::mem::take(&mut self.scratch.body);
                    if let Some(selected) = self.select(&plan, found, message, publication, &mut body) {
                        self.send_to_input(found, &plan, message, &selected, promise, effects);
                    }
                    self.scratch.body = body;
                }
                None => self.counters.bugs += 1,
            }
        }
        let mut body = std::mem::take(&mut self.scratch.body);
        for forward in &forwards {
            if self.is_careful && !self.has_room_for(forward, publication, effects) {
                continue;
            }
            let taken = publication.envelope.encoded_len() as u64;
            let Some(publication) = self.select(&plan, &forward.best, message, publication, &mut body) else {
                self.setup.rooms.give_back(forward.uplink, taken);
                continue;
            };
            if self.is_careful {
                self.setup.rooms.correct(forward.uplink, taken, publication.envelope.encoded_len() as u64);
            }
            self.append_to_lane(forward, &publication, plan.ttl_millis, promise, effects);
        }
        self.scratch.body = body;
        self.scratch.matches = matches;
        self.scratch.forwards = forwards;
    }

    /// What the route of a match sends of a publication. `None`, counted, if its SELECT cannot read the body: then
    /// nothing may be sent, because what the route hides is in there.
    fn select<'t>(
        &mut self,
        plan: &Plan,
        found: &Match,
        message: &Message<'_>,
        publication: &Publication<'t>,
        body: &'t mut Vec<u8>,
    ) -> Option<Publication<'t>> {
        if !plan.table.routes().get(found.route.0 as usize).is_some_and(routes::CompiledRoute::projects) {
            return Some(*publication);
        }
        match plan.table.project(found.route, message, &mut self.scratch.routes, body) {
            Ok(routes::Projected::Unchanged) => Some(*publication),
            Ok(routes::Projected::Rewritten) => {
                let envelope = Envelope { payload: body, ..publication.envelope };
                Some(Publication { envelope, ..*publication })
            }
            Err(routes::ProjectError::Body) => {
                self.counters.dropped_not_selectable += 1;
                None
            }
        }
    }

    fn append_to_lane(
        &mut self,
        forward: &Forward,
        publication: &Publication<'_>,
        ttl_millis: Option<u64>,
        promise: &mut Promise,
        effects: &mut Effects,
    ) {
        let now = publication.now.timestamp;
        let by_route = forward.best.ttl_millis.or(ttl_millis).map(|millis| now.plus_millis(millis));
        let expires = [by_route, publication.expires].into_iter().flatten().min();
        let len = publication.envelope.encoded_len() as u32;
        let durability = forward.durability.of(publication.envelope.qos);
        let mut spill = SpillTicket(0);
        match durability {
            Durability::Spill => {
                self.spilled = self.spilled.next();
                (spill, promise.spill) = (self.spilled, self.spilled);
            }
            Durability::Memory => spill = SpillTicket::NOBODY,
            Durability::Disk => {}
        }
        effects.appends.spills += u32::from(durability != Durability::Disk);
        self.counters.appended += 1;
        let ticket = append(&mut self.appended_bytes, effects, |bytes| {
            publication.envelope.encode(bytes);
            Write::Record { lane: forward.lane, len, enqueued: now, expires, spill }
        });
        if durability == Durability::Disk {
            promise.ticket = promise.ticket.max(ticket);
        }
    }

    /// A sink in our own topic space. Routes are not evaluated again: a route cannot feed itself.
    fn republish(
        &mut self,
        found: &Match,
        plan: &Plan,
        message: &Message<'_>,
        publication: &Publication<'_>,
        promise: &mut Promise,
        effects: &mut Effects,
    ) {
        let Some(routes::Sink::Topic(template)) = plan.table.sinks().get(found.sink.0 as usize) else {
            self.counters.bugs += 1;
            return;
        };
        let mut topic = std::mem::take(&mut self.scratch.topic);
        let mut body = std::mem::take(&mut self.scratch.body);
        topic.clear();
        if template.render(message, &mut topic).is_err() || model::validate_name(&topic).is_err() {
            self.counters.dropped_invalid_template += 1;
        } else if let Some(selected) = self.select(plan, found, message, publication, &mut body) {
            let envelope = Envelope { topic: &topic, retain: false, ..selected.envelope };
            // Under this topic it is telemetry no more, and its sender gets it as everybody.
            self.publish(&Publication { envelope, hub: None, ..selected }, promise, effects);
        }
        self.scratch.topic = topic;
        self.scratch.body = body;
    }
}

/// Adds the uplink that a match leads to, or keeps the most urgent way there. The promise is that of the strictest route.
/// `false` if there is none: a mistake of ours.
pub(crate) fn add_forward(forwards: &mut Vec<Forward>, plan: &Plan, found: &Match) -> bool {
    let Some(SinkPlan::Lanes { uplink, lanes, when_full }) = plan.sink(found) else { return false };
    let lane = lanes.iter().find(|(have, _)| *have == found.priority);
    let Some((_, lane)) = lane else { return false };
    let forward = Forward {
        uplink: *uplink,
        lane: *lane,
        best: *found,
        durability: plan.durability(found.route),
        when_full: *when_full,
    };
    let Some(have) = forwards.iter_mut().find(|have| have.uplink == forward.uplink) else {
        forwards.push(forward);
        return true;
    };
    let durability = have.durability.stricter(forward.durability);
    if forward.best.priority < have.best.priority {
        *have = forward;
    }
    have.durability = durability;
    true
}

/// How urgent a publication is for an input: 0 if it is for none, else 1 to 10, and 11 for the default.
fn input_bits(input: Option<Priority>) -> u8 {
    input.map_or(0, |priority| priority.get().min(10) as u8 + 1)
}

fn input_of_bits(bits: u8) -> Option<Priority> {
    let number = bits.checked_sub(1)?;
    Some(Priority::new(i64::from(number)).unwrap_or(Priority::DEFAULT))
}

/// The numbers of the bits that are set.
fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (set != 0).then(|| set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(bit)
    })
}

impl Shares {
    /// Appends what a publication handed to `shard` is for; see [`HandoffBatch`].
    fn append_ways(&self, out: &mut Vec<u8>, shard: usize, way: Way<'_>, handoff: u64) {
        let groups = || way.lots.iter().filter(|lot| usize::from(lot.shard.0) == shard);
        let count = groups().count() as u16;
        let ordinary = if way.ordinary & 1 << shard != 0 { TO_SUBSCRIPTIONS } else { 0 };
        let retain = if way.version != 0 { TO_RETAIN } else { 0 };
        out.push(ordinary | retain | if count > 0 { TO_GROUPS } else { 0 });
        if count == 0 {
            return;
        }
        out.extend_from_slice(&handoff.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        for lot in groups() {
            let name = self.group(lot.group).name();
            out.extend_from_slice(&(name.len() as u16).to_le_bytes());
            out.extend_from_slice(name.as_bytes());
        }
    }
}

/// For groups the sender's number of a publication and their names, as bytes; and what follows.
fn ways(bytes: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (ways, rest) = bytes.split_first()?;
    if ways & TO_GROUPS == 0 {
        return Some((0, &[], rest));
    }
    let (handoff, rest) = rest.split_first_chunk()?;
    let (count, names) = rest.split_first_chunk()?;
    let mut rest = names;
    for _ in 0..u16::from_le_bytes(*count) {
        let (len, name) = rest.split_first_chunk()?;
        (_, rest) = name.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
    }
    Some((u64::from_le_bytes(*handoff), &names[..names.len() - rest.len()], rest))
}

/// The names one by one.
fn names(bytes: &[u8]) -> impl Iterator<Item = &str> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (len, name) = rest.split_first_chunk()?;
        let (name, after) = name.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        rest = after;
        std::str::from_utf8(name).ok()
    })
}

fn next_handed_over(bytes: &[u8], now: Now) -> Option<(Publication<'_>, &[u8])> {
    let (len, rest) = bytes.split_at_checked(4)?;
    let (expires, rest) = rest.split_at_checked(8)?;
    let len = u32::from_le_bytes(len.try_into().ok()?) as usize;
    let (envelope, rest) = rest.split_at_checked(len)?;
    let expires = u64::from_le_bytes(expires.try_into().ok()?);
    let publication = Publication {
        envelope: Envelope::decode(envelope).ok()?,
        user: "",
        expires: (expires != 0).then_some(Timestamp(expires)),
        now,
        hub: None,
        is_written: true,
        input: None,
    };
    Some((publication, rest))
}

/// The properties of a publication as routes see them. Allocates only if the publication has user properties and a
/// route looks at them.
pub(crate) struct MessageParts<'t> {
    properties: Vec<Property<'t>>,
    system: [Property<'t>; 2],
    system_len: usize,
    /// Of a message in the IoT Hub dialect, in place of `system`, and its source.
    hub: Option<(Vec<Property<'t>>, String)>,
}

impl<'t> MessageParts<'t> {
    pub(crate) fn new(publication: &Publication<'t>, wanted: bool) -> MessageParts<'t> {
        let none = Property { name: "", value: None };
        let mut parts = MessageParts { properties: Vec::new(), system: [none; 2], system_len: 0, hub: None };
        if let Some(hub) = publication.hub {
            // The source is always wanted; properties also where no condition asks: they go to inputs.
            let mut source = String::new();
            hub.source(&mut source);
            parts.properties = hub.application_properties();
            parts.hub = Some((hub.system_properties(), source));
            return parts;
        }
        let raw = publication.envelope.properties;
        if !raw.is_empty()
            && let Ok(block) = wire::PublishProperties::from_block(raw)
        {
            if let Some(content_type) = block.content_type() {
                parts.add_system("contentType", content_type);
            }
            if wanted {
                let pairs = block.user_properties();
                parts.properties.extend(pairs.map(|(name, value)| Property { name, value: Some(value) }));
            }
        }
        if wanted {
            parts.add_system("connectionDeviceId", publication.envelope.client_id);
        }
        parts
    }

    fn add_system(&mut self, name: &'t str, value: &'t str) {
        self.system[self.system_len] = Property { name, value: Some(value) };
        self.system_len += 1;
    }

    pub(crate) fn message<'a>(&'a self, publication: &Publication<'a>) -> Message<'a>
    where
        't: 'a,
    {
        let plain = Message::new(publication.envelope.topic, publication.envelope.payload);
        let (system, source) = match &self.hub {
            Some((system, source)) => (&system[..], source.as_str()),
            None => (&self.system[..self.system_len], plain.source),
        };
        Message {
            properties: &self.properties,
            system,
            source,
            client_id: publication.envelope.client_id,
            user: publication.user,
            qos: publication.envelope.qos,
            retain: publication.envelope.retain,
            ..plain
        }
    }
}
