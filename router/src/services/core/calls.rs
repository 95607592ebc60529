//! Calls of methods: passed on to clients, and ended with what came of them.
//!
//! In: calls of IoT Hub and of modules here, what clients did. Out: answers for clients, outcomes. Always: a call ends once.
//! Bounds: `core`'s.

use std::sync::Arc;

use broker::{HubAnswer, Unanswered};
use hub::methods::{Call, Outcome};
use hub::topics::{self, Feature};
use model::{ConnId, Instant, ShardId};

use super::{CALLS_MAX, Caller, Calling, Core, Held, Told};
use crate::upstream::Order;

impl Core {
    /// A module of this gateway calls a method; [`Core::take_outcomes`] has what came of it under this ticket, some day.
    pub(in super::super) fn on_call_here(
        &mut self,
        (module, target): (&str, &str),
        call: Call,
        ticket: u64,
        now: Instant,
    ) {
        let module: Box<str> = module.into();
        if self.takes_calls(target).is_some() {
            return self.call(target, call, Caller::Here { ticket, module }, now);
        }
        let until = now.plus_millis(call.connect_millis);
        match call.connect_millis {
            0 => self.end_call(Caller::Here { ticket, module }, &Outcome::NotFound),
            _ if self.held.len() >= CALLS_MAX => {
                self.end_call(Caller::Here { ticket, module }, &Outcome::Busy);
            }
            _ => self.held.push(Held { target: target.into(), call, ticket, module, until }),
        }
    }

    /// What came of calls of modules here.
    pub(in super::super) fn take_outcomes(&mut self) -> Vec<(u64, Outcome)> {
        std::mem::take(&mut self.outcomes)
    }

    /// A client did not get a call.
    pub(in super::super) fn on_unanswered(&mut self, rid: &str, why: Unanswered) {
        let Some(Calling { caller, .. }) = self.calls.take_back(rid) else { return };
        let outcome = match why {
            Unanswered::Gone | Unanswered::NotSubscribed => Outcome::NotFound,
            Unanswered::NoRoom => Outcome::Busy,
        };
        self.end_call(caller, &outcome);
    }

    /// A client may take calls now that have waited for it.
    pub(super) fn call_held(&mut self, client: &str, now: Instant) {
        if self.takes_calls(client).is_none() {
            return;
        }
        let (ready, rest): (Vec<Held>, _) =
            std::mem::take(&mut self.held).into_iter().partition(|held| *held.target == *client);
        self.held = rest;
        for Held { call, ticket, module, .. } in ready {
            self.call(client, call, Caller::Here { ticket, module }, now);
        }
    }

    /// IoT Hub calls a method of a client.
    pub(super) fn on_call(
        &mut self,
        identity: &Arc<str>,
        name: &str,
        rid: &str,
        payload: &[u8],
        now: Instant,
    ) {
        let caller = Caller::Cloud { identity: Arc::clone(identity), rid: rid.into() };
        if self.is_own(identity) {
            return self.on_own_call(name, payload, caller);
        }
        let call = match Call::from_cloud(name, payload) {
            Ok(call) => call,
            Err(problem) => {
                tracing::warn!(%identity, %problem, "a call of a method cannot be passed on");
                return self.end_call(caller, &Outcome::Answered { status: 400, payload: Vec::new() });
            }
        };
        self.call(identity, call, caller, now);
    }

    /// Passes a call on.
    pub(super) fn call(&mut self, client: &str, call: Call, caller: Caller, now: Instant) {
        let Some(at) = self.takes_calls(client) else { return self.end_call(caller, &Outcome::NotFound) };
        self.last_rid += 1;
        let ours: Box<str> = self.last_rid.to_string().into();
        let calling = Calling { caller, to: client.into(), began: now };
        let ends = now.plus_millis(call.response_millis);
        if let Err(calling) = self.calls.begin(&ours, client, ends, calling) {
            return self.end_call(calling.caller, &Outcome::Busy);
        }
        self.numbers.calls += 1;
        let payload = call.payload.into_bytes().into();
        let answer = HubAnswer::Method { name: call.name.into(), rid: ours, payload };
        self.answers.push(Told { at, answer, after: None });
    }

    /// What came of a call that was passed on.
    pub(super) fn end_calling(&mut self, calling: Calling, outcome: &Outcome, now: Instant) {
        let Calling { caller, to, began } = calling;
        let from = match &caller {
            Caller::Cloud { .. } => "upstream",
            Caller::Here { module, .. } => module,
        };
        let secs = now.millis_since(began) as f64 / 1e3;
        self.series.count("methods", &[from, &to]);
        self.series.observe("methods", &[from, &to], secs, self.wall);
        self.end_call(caller, outcome);
    }

    pub(super) fn end_call(&mut self, caller: Caller, outcome: &Outcome) {
        self.numbers.calls_unanswered += u64::from(!matches!(outcome, Outcome::Answered { .. }));
        let (identity, rid) = match caller {
            Caller::Cloud { identity, rid } => (identity, rid),
            Caller::Here { ticket, .. } => return self.outcomes.push((ticket, outcome.clone())),
        };
        let (status, payload) = outcome.to_cloud();
        let mut topic = String::new();
        topics::method_response_topic(status, &rid, &mut topic);
        self.orders.push(Order::Say { identity, topic, payload });
    }

    /// Where a client is that takes calls of methods.
    pub(super) fn takes_calls(&self, client: &str) -> Option<(ShardId, ConnId)> {
        self.clients.get(client).filter(|entry| entry.features.has(Feature::Methods))?.at
    }
}
