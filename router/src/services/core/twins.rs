//! Twins of clients: given, reported, changed by the cloud, and what IoT Hub is asked about them.
//!
//! In: requests of clients, answers and patches of IoT Hub. Out: answers for clients, questions for IoT Hub, twins to be kept.
//! Always: what a client reported is pending until IoT Hub has it; one report of a client is on its way at a time.

use broker::HubAnswer;
use hub::topics::{self, Feature};
use hub::twin::{self, Desired, Twin, TwinError};
use model::{ConnId, Instant, ShardId};

use super::{AGAIN_MILLIS, ANSWER_MILLIS, ASKED_MAX, Asked, Core, Link, REPORT_MILLIS, Told, What};
use crate::upstream::Order;

impl Core {
    pub(super) fn on_get(&mut self, at: (ShardId, ConnId), client: &str, rid: Box<str>, now: Instant) {
        let Some(entry) = self.clients.get(client) else { return };
        if entry.link == Link::Down {
            return self.give_twin(at, client, rid, (false, 0.0));
        }
        if entry.asked >= ASKED_MAX {
            self.numbers.refused += 1;
            return self.tell_twin(at, 429, rid, Box::default(), None);
        }
        self.ask(client, What::Get { at, rid }, now);
    }

    pub(super) fn on_report(
        &mut self,
        at: (ShardId, ConnId),
        client: &str,
        rid: Option<Box<str>>,
        patch: &[u8],
        now: Instant,
    ) {
        let has_cloud = self.has_cloud;
        let Some(entry) = self.clients.get_mut(client) else { return };
        let before = entry.twin.clone();
        let taken = twin::object(patch).and_then(|patch| entry.twin.report(&patch));
        let status = match taken {
            Ok(()) => 204,
            Err(problem) => {
                tracing::warn!(client, %problem, "a report is not taken");
                if matches!(problem, TwinError::Pending(_)) { 429 } else { 400 }
            }
        };
        if status == 204 {
            if !has_cloud {
                let next = entry.twin.reported_version.unwrap_or_default() + 1;
                entry.twin.keep_here(next);
            }
            self.changed.entry(client.into()).or_insert(before);
            self.numbers.reports += 1;
            self.reported.push(client.into());
            let answer = HubAnswer::TwinChange { sender: client.into(), patch: patch.into() };
            self.answers.push(Told { at, answer, after: Some(client.into()) });
        } else {
            self.numbers.refused += 1;
        }
        if let Some(rid) = rid {
            let after = (status == 204).then(|| client.into());
            self.tell_twin(at, status, rid, Box::default(), after);
        }
        self.report_up(client, now);
    }

    /// Sends what is pending, if it may be sent now.
    pub(super) fn report_up(&mut self, client: &str, now: Instant) {
        let Some(entry) = self.clients.get_mut(client).filter(|entry| entry.may_report(now)) else { return };
        let Some(patch) = entry.twin.next_report().cloned() else { return };
        entry.is_reporting = true;
        entry.report_at = now.plus_millis(REPORT_MILLIS);
        self.ask(client, What::Report(patch), now);
    }

    pub(super) fn ask(&mut self, client: &str, what: What, now: Instant) {
        let Some(entry) = self.clients.get_mut(client) else { return };
        entry.asked += 1;
        let is_held = entry.link == Link::Opening;
        self.last_rid += 1;
        if !is_held {
            self.orders.push(order(client, self.last_rid, &what));
        }
        let until = now.plus_millis(ANSWER_MILLIS);
        self.asked.insert(self.last_rid, Asked { client: client.into(), what, is_held, until });
    }

    /// Sends what has waited for the link of a client.
    pub(super) fn ask_held(&mut self, client: &str) {
        for (rid, asked) in &mut self.asked {
            if *asked.client == *client && std::mem::take(&mut asked.is_held) {
                self.orders.push(order(client, *rid, &asked.what));
            }
        }
    }

    /// IoT Hub answers.
    pub(super) fn on_answer(&mut self, asked: Asked, about: (u16, Option<u64>), body: &[u8], now: Instant) {
        let (status, version) = about;
        let Asked { client, what, until, .. } = asked;
        let secs = ANSWER_MILLIS.saturating_sub(until.millis_since(now)) as f64 / 1e3;
        let Some(entry) = self.clients.get_mut(&client) else { return };
        entry.asked -= 1;
        let is_good = (200..300).contains(&status);
        match what {
            What::Report(sent) => {
                entry.is_reporting = false;
                let before = entry.twin.clone();
                if is_good {
                    entry.twin.reported(&sent, version);
                    self.numbers.reports_up += 1;
                    self.series.count("reported", &["upstream", &client]);
                    self.series.observe("reported", &["upstream", &client], secs, self.wall);
                } else if (400..500).contains(&status) && status != 408 && status != 429 {
                    // It will never be taken; the client was told 204, so that this is all that is left to say.
                    tracing::error!(%client, status, "IoT Hub does not take reported properties; they stay here alone");
                    entry.twin.reported(&sent, None);
                    self.numbers.reports_rejected += 1;
                } else {
                    tracing::warn!(%client, status, "IoT Hub does not take reported properties now");
                    entry.report_at = now.plus_millis(AGAIN_MILLIS);
                    return;
                }
                if entry.twin.pending.is_leaving() {
                    // The rest of what is one report; IoT Hub does not take it at once.
                    entry.report_at = now;
                }
                self.changed.entry(client.clone()).or_insert(before);
                self.let_go(&client);
                self.report_up(&client, now);
            }
            What::Refresh | What::Get { .. } => {
                let fresh = if is_good {
                    Twin::parse(body).map_err(|error| error.to_string())
                } else {
                    Err(format!("status {status}"))
                };
                match fresh {
                    Ok(fresh) => self.renew(&client, fresh, matches!(what, What::Refresh)),
                    Err(problem) => tracing::warn!(%client, problem, "IoT Hub does not give the twin"),
                }
                if let What::Get { at, rid } = what {
                    self.give_twin(at, &client, rid, (is_good, secs));
                }
                self.report_up(&client, now);
            }
        }
    }

    /// Takes the whole twin over; `tells`: the client is told what is new for it.
    pub(super) fn renew(&mut self, client: &str, fresh: Twin, tells: bool) {
        let Some(entry) = self.clients.get_mut(client) else { return };
        let before = entry.twin.clone();
        if std::mem::take(&mut entry.was_given_nothing) && entry.twin.desired_version.is_none() {
            // It may have told its client nothing; now everything is new.
            entry.twin.desired_version = Some(0);
        }
        let patch = entry.twin.renew(fresh);
        if entry.twin != before {
            self.changed.entry(client.into()).or_insert(before);
        }
        let version = self.clients.get(client).and_then(|entry| entry.twin.desired_version);
        if let (Some(patch), Some(version), true) = (patch, version, tells) {
            let patch = serde_json::to_vec(&patch).unwrap_or_default();
            self.tell_desired(client, version, patch.into());
        }
    }

    pub(super) fn on_desired(&mut self, client: &str, version: u64, body: &[u8], now: Instant) {
        let Some(entry) = self.clients.get_mut(client) else { return };
        let patch = match twin::object(body) {
            Ok(patch) => patch,
            Err(problem) => return tracing::warn!(client, %problem, "IoT Hub sends a patch that is none"),
        };
        let before = entry.twin.clone();
        match entry.twin.desire(&patch, version) {
            Desired::Applied => {
                self.changed.entry(client.into()).or_insert(before);
                self.tell_desired(client, version, body.into());
            }
            Desired::Gap => {
                if before.desired_version.is_none() {
                    // Nothing is missing for a client that was told nothing; of the whole twin it hears when it asks.
                    self.tell_desired(client, version, body.into());
                }
                self.ask(client, What::Refresh, now);
            }
            Desired::Old => {}
        }
    }

    pub(super) fn tell_desired(&mut self, client: &str, version: u64, patch: Box<[u8]>) {
        let Some(entry) = self.clients.get(client) else { return };
        if let Some(at) = entry.at.filter(|_| entry.features.has(Feature::Desired)) {
            self.numbers.desired += 1;
            let answer = HubAnswer::Desired { version, patch };
            self.answers.push(Told { at, answer, after: None });
        }
    }

    /// Gives a client its twin as it is known; whether IoT Hub has just said it, and how many seconds that took.
    pub(super) fn give_twin(
        &mut self,
        at: (ShardId, ConnId),
        client: &str,
        rid: Box<str>,
        (by_cloud, secs): (bool, f64),
    ) {
        let Some(entry) = self.clients.get_mut(client) else { return };
        entry.was_given_nothing = !by_cloud && entry.twin.desired_version.is_none();
        let body = entry.twin.to_body().into();
        if by_cloud {
            self.numbers.gets_by_cloud += 1;
        } else {
            self.numbers.gets_from_here += 1;
        }
        let source = if by_cloud { "upstream" } else { "edge_hub" };
        self.series.count("gettwin", &[source, client]);
        self.series.observe("gettwin", &[source, client], secs, self.wall);
        self.tell_twin(at, 200, rid, body, None);
    }

    pub(super) fn tell_twin(
        &mut self,
        at: (ShardId, ConnId),
        status: u16,
        rid: Box<str>,
        body: Box<[u8]>,
        after: Option<Box<str>>,
    ) {
        let answer = HubAnswer::Twin { status, rid, version: None, body };
        self.answers.push(Told { at, answer, after });
    }

    /// Gives up what IoT Hub was asked and has not answered.
    pub(super) fn forget_asked(&mut self, which: impl Fn(&Asked) -> bool, now: Instant) {
        let over: Vec<u64> =
            self.asked.iter().filter(|(_, asked)| which(asked)).map(|(rid, _)| *rid).collect();
        for Asked { client, what, until, .. } in
            over.into_iter().filter_map(|rid| self.asked.remove(&rid)).collect::<Vec<_>>()
        {
            let Some(entry) = self.clients.get_mut(&client) else { continue };
            entry.asked -= 1;
            match what {
                What::Report(_) => {
                    entry.is_reporting = false;
                    entry.report_at = now.plus_millis(REPORT_MILLIS);
                }
                What::Get { at, rid } => {
                    let secs = ANSWER_MILLIS.saturating_sub(until.millis_since(now)) as f64 / 1e3;
                    self.give_twin(at, &client, rid, (false, secs));
                }
                What::Refresh => {}
            }
        }
    }
}

/// The question for IoT Hub.
fn order(client: &str, rid: u64, what: &What) -> Order {
    let rid = rid.to_string();
    let (mut topic, mut payload) = (String::new(), Vec::new());
    match what {
        What::Refresh | What::Get { .. } => topics::twin_get(&rid, &mut topic),
        What::Report(patch) => {
            topics::twin_reported(&rid, &mut topic);
            // An object that came as JSON is JSON again.
            payload = serde_json::to_vec(patch).unwrap_or_default();
        }
    }
    Order::Say { identity: client.into(), topic, payload }
}
