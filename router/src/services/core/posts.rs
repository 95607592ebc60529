//! Messages of the cloud: passed on to devices, and completed there when their devices have acknowledged them.
//!
//! In: messages as they come over links, what became of them at clients, links that go down. Out: messages for clients,
//! acknowledgements for IoT Hub, and the wish to get again what a client did not take. Always: a message is acknowledged in IoT
//! Hub when its device has acknowledged it, and never otherwise; one that comes again over a new link while its device
//! still has it, or has acknowledged it meanwhile, is not passed on again. What was acknowledged over a link that may have
//! been lost is only known again by an identifier (`$.mid`): without one it could be another message that says the same. It is
//! known again once, as long as IoT Hub may not have heard of its end ([`DOUBT_MILLIS`]) and soon after the next link has come
//! up ([`REPEAT_MILLIS`]): IoT Hub does not demand identifiers that are unique, and a command may be given again as it was.
//! MQTT has no word for *abandon*: what is not acknowledged comes again over the next link, so the link is closed for it.
//! Bound: [`POSTS_MAX`] for each client.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::num::NonZeroU16;
use std::sync::Arc;

use broker::{HubAnswer, Unanswered};
use hub::topics::Feature;
use model::Instant;

use super::{Core, Link, Told};
use crate::upstream::Order;

/// Messages of the cloud that one client may have before it has taken them; IoT Hub keeps 50 at most.
const POSTS_MAX: usize = 64;
/// How long a message stays in IoT Hub for which there was no room. Its deliveries are counted there, and are few.
const AGAIN_MILLIS: u64 = 30_000;

/// An acknowledgement that is so old, over a link that is still there, has arrived: a link that is dead is known to be so after
/// one and a half times its `keep_alive_secs` (60).
const DOUBT_MILLIS: u64 = 120_000;
/// What IoT Hub sends again comes at once over the next link. Later it is another message that says the same.
const REPEAT_MILLIS: u64 = 60_000;

/// What IoT Hub acknowledges a message by: the link it came over, and its packet identifier.
type Ack = (u64, NonZeroU16);

/// A message of the cloud that a client has, or had.
#[derive(Debug)]
pub(super) struct Post {
    identity: Arc<str>,
    /// What it says, in short: it may come again under another identifier.
    content: u64,
    /// It has an identifier of its own: another one never says the same.
    is_unique: bool,
    /// `None`: the link that it came over is gone.
    ack: Option<Ack>,
    /// The device has acknowledged it. IoT Hub does not know that, or may not: the link may have been lost already.
    is_taken: bool,
    /// When it is not known again any more; `None`: it has not been taken, or no link is there that could bring it.
    forget_at: Option<Instant>,
}

impl Core {
    /// The cloud has a message for a client.
    pub(super) fn post(&mut self, identity: &Arc<str>, bag: &str, payload: &[u8], ack: Ack, now: Instant) {
        let content = content(bag, payload);
        if self.is_known(identity, content, ack) {
            return;
        }
        let entry = self.clients.get(&**identity);
        let listener = entry.filter(|entry| entry.features.has(Feature::CloudToDevice));
        let Some(at) = listener.and_then(|entry| entry.at) else { return self.leave_post(identity) };
        let mut of_client = self.posts.iter().filter(|(_, post)| post.identity == *identity);
        if of_client.clone().count() >= POSTS_MAX {
            // What IoT Hub has not sent again it does not have any more.
            let over = of_client.find(|(_, post)| post.is_taken).map(|(token, _)| *token);
            match over {
                Some(over) => drop(self.posts.remove(&over)),
                None => return self.leave_post_for_long(identity, now),
            }
        }
        self.last_rid += 1;
        let token = self.last_rid;
        let is_unique = bag.split('&').any(|it| it.starts_with("%24.mid=") || it.starts_with("$.mid="));
        let post = Post {
            identity: Arc::clone(identity),
            content,
            is_unique,
            ack: Some(ack),
            is_taken: false,
            forget_at: None,
        };
        self.posts.insert(token, post);
        let answer = HubAnswer::CloudToDevice { bag: bag.into(), payload: payload.into(), token };
        self.answers.push(Told { at, answer, after: None });
    }

    /// Whether a message that came over an earlier link has come again.
    fn is_known(&mut self, identity: &Arc<str>, content: u64, ack: Ack) -> bool {
        let known = self
            .posts
            .iter_mut()
            .find(|(_, post)| post.ack.is_none() && post.content == content && post.identity == *identity);
        let Some((token, post)) = known else { return false };
        post.ack = Some(ack);
        if post.is_taken {
            let token = *token;
            self.posts.remove(&token);
            self.orders.push(Order::Acknowledge { identity: Arc::clone(identity), ack });
        }
        true
    }

    /// A device has acknowledged a message.
    pub(super) fn on_posted(&mut self, token: u64, now: Instant) {
        let Some(post) = self.posts.get_mut(&token).filter(|post| !post.is_taken) else { return };
        post.is_taken = true;
        self.numbers.posted += 1;
        let identity = Arc::clone(&post.identity);
        match post.ack {
            None => self.expect_repeats(&identity, now),
            Some(ack) => {
                post.forget_at = Some(now.plus_millis(DOUBT_MILLIS));
                if !post.is_unique {
                    self.posts.remove(&token);
                }
                self.orders.push(Order::Acknowledge { identity, ack });
            }
        }
    }

    /// Over a link that is up, and brings messages of the cloud, comes again soon what does so at all.
    pub(super) fn expect_repeats(&mut self, identity: &Arc<str>, now: Instant) {
        let Some(entry) = self.clients.get(&**identity) else { return };
        if entry.link == Link::Up && entry.features.has(Feature::CloudToDevice) {
            let of_client = self.posts.values_mut().filter(|post| post.identity == *identity);
            for post in of_client.filter(|post| post.is_taken && post.ack.is_none()) {
                post.forget_at.get_or_insert(now.plus_millis(REPEAT_MILLIS));
            }
        }
    }

    /// Forgets what does not come again any more.
    pub(super) fn forget_posts(&mut self, now: Instant) {
        self.posts.retain(|_, post| post.forget_at.is_none_or(|at| now < at));
    }

    /// A client did not get a message of the cloud, or did not acknowledge it. IoT Hub sends it again.
    pub(in super::super) fn on_unposted(&mut self, token: u64, why: Unanswered, now: Instant) {
        if self.posts.get(&token).is_none_or(|post| post.is_taken) {
            return;
        }
        let Some(Post { identity, ack, .. }) = self.posts.remove(&token) else { return };
        tracing::debug!(%identity, ?why, "a message of the cloud waits there");
        match (ack, why) {
            // The next link brings it.
            (None, _) => self.numbers.unposted += 1,
            (Some(_), Unanswered::NoRoom) => self.leave_post_for_long(&identity, now),
            (Some(_), Unanswered::Gone | Unanswered::NotSubscribed) => self.leave_post(&identity),
        }
    }

    /// A message stays in IoT Hub, and may come again at once.
    fn leave_post(&mut self, identity: &Arc<str>) {
        self.numbers.unposted += 1;
        let order = Order::Return { identity: Arc::clone(identity) };
        if !self.orders.contains(&order) {
            self.orders.push(order);
        }
    }

    /// It stays there for some time.
    fn leave_post_for_long(&mut self, identity: &Arc<str>, now: Instant) {
        self.numbers.unposted += 1;
        if let Some(entry) = self.clients.get_mut(&**identity) {
            entry.return_at.get_or_insert(now.plus_millis(AGAIN_MILLIS));
        }
    }

    /// Asks again for what there was no room for.
    pub(super) fn return_posts(&mut self, now: Instant) {
        for (client, entry) in &mut self.clients {
            if entry.return_at.is_some_and(|at| at <= now) {
                entry.return_at = None;
                self.orders.push(Order::Return { identity: (&**client).into() });
            }
        }
    }

    /// The link of an identity is gone: what is not completed comes again over the next one, under other identifiers.
    pub(super) fn forget_acks_of_posts(&mut self, identity: &str) {
        for post in self.posts.values_mut().filter(|post| *post.identity == *identity) {
            (post.ack, post.forget_at) = (None, None);
        }
        if let Some(entry) = self.clients.get_mut(identity) {
            entry.return_at = None;
        }
    }
}

/// Enough to know a message again.
fn content(bag: &str, payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (bag, payload).hash(&mut hasher);
    hasher.finish()
}
