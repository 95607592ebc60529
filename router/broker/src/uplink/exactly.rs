//! Publications of QoS 2 on their way upstream: the sender's half of MQTT 5.0 §4.3.3, over any number of connections.
//!
//! Knows: which identifier a place has, and how far each is. Never: packets, what a message looks like.
//! In: places to send, PUBREC, PUBCOMP, new connections. Out: identifiers, what is answered.
//! A message has its identifier from its first PUBLISH until PUBCOMP, over connections, as long as the upstream keeps the
//! session [MQTT-4.4.0-1]; from PUBREC on only PUBREL is repeated. An upstream that has forgotten the session may have
//! forgotten what it had not passed on, too: then everything without PUBCOMP is sent as something new. An earlier life of this
//! process may have left exchanges behind that the upstream remembers: then an identifier is released before it is used for
//! the first time, or something new would be taken for a repeat. All of that is between us and one address of the upstream: at
//! another one nothing is known of it, and an identifier may stand for something else there.
//! Bound: [`IDS`] identifiers; the window is far below.

use std::collections::BTreeMap;

use model::Seq;

use super::link::Sending;

/// The upper half of all identifiers, but the last; the lower half is for QoS 1.
const FIRST_ID: u16 = 32_768;
pub(super) const IDS: u16 = 32_766;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Exchange {
    about: Sending,
    /// PUBREC has come, or nobody wants the message any more.
    is_releasing: bool,
    /// Nobody waits for its end.
    is_unwanted: bool,
    /// How many had been sent on this connection before it; `None` if it was not sent on this one.
    number: Option<u64>,
    /// PUBLISH or PUBREL was sent on this connection.
    is_under_way: bool,
}

/// The end of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) about: Sending,
    /// How many had been sent on this connection before it, if it was.
    pub(super) number: Option<u64>,
}

/// What sending a place comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// PUBLISH.
    Publish {
        /// With this identifier.
        id: u16,
        /// The upstream may have it under this identifier.
        is_repeat: bool,
        /// PUBREL goes first.
        release_first: bool,
    },
    /// Nothing: the upstream has it, and was sent PUBREL.
    Released,
}

/// All exchanges of one uplink.
#[derive(Debug)]
pub(super) struct Exchanges {
    open: BTreeMap<u16, Exchange>,
    /// Identifiers of places whose end is waited for.
    ids: BTreeMap<(usize, Seq), u16>,
    next: u16,
    /// Identifiers that were not used since the start.
    unused: u16,
    /// The upstream may remember exchanges of an earlier life, or of an earlier time with this address.
    may_have_a_past: bool,
    under_way: usize,
    /// The address that they are with: the one that let us in last.
    address: Option<usize>,
}

impl Default for Exchanges {
    fn default() -> Self {
        Exchanges {
            open: BTreeMap::new(),
            ids: BTreeMap::new(),
            next: 0,
            unused: IDS,
            may_have_a_past: true,
            under_way: 0,
            address: None,
        }
    }
}

impl Exchanges {
    /// Exchanges that count for the window.
    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }

    /// Whether this address need not remember anything for us.
    pub(super) fn is_empty(&self, address: usize) -> bool {
        self.open.is_empty() || self.address != Some(address)
    }

    /// A new connection begins: nothing is sent on it yet. `is_wanted` says of a place whether it is still to be delivered.
    pub(super) fn begin_connection(&mut self, mut is_wanted: impl FnMut(Sending) -> bool) {
        self.under_way = 0;
        for exchange in self.open.values_mut() {
            (exchange.number, exchange.is_under_way) = (None, false);
            if !exchange.is_unwanted && !is_wanted(exchange.about) {
                self.ids.remove(&place(exchange.about));
                (exchange.is_unwanted, exchange.is_releasing) = (true, true);
            }
        }
    }

    /// The upstream has let us in at this address; identifiers for which PUBREL is due are returned.
    pub(super) fn let_in(&mut self, address: usize, has_session: bool) -> Vec<u16> {
        let is_other = self.address.replace(address) != Some(address);
        if is_other {
            // What a session remembers here is of an earlier time. The messages that were under way there go here as new ones;
            // what the other address holds of them is released, or forgotten, when it is used again.
            self.unused = IDS;
        }
        if is_other || !has_session {
            self.open.clear();
            self.ids.clear();
            self.may_have_a_past = has_session;
            return Vec::new();
        }
        let mut due = Vec::new();
        for (id, exchange) in self.open.iter_mut().filter(|(_, exchange)| exchange.is_releasing) {
            exchange.is_under_way = true;
            due.push(FIRST_ID + *id);
        }
        self.under_way += due.len();
        due
    }

    /// A place is about to be sent. `None` if every identifier is taken.
    pub(super) fn begin(&mut self, about: Sending, number: u64) -> Option<Begun> {
        if let Some(id) = self.ids.get(&place(about)).copied()
            && let Some(exchange) = self.open.get_mut(&id)
        {
            exchange.number = Some(number);
            if exchange.is_releasing {
                return Some(Begun::Released);
            }
            exchange.is_under_way = true;
            self.under_way += 1;
            return Some(Begun::Publish { id: FIRST_ID + id, is_repeat: true, release_first: false });
        }
        let id = (0..IDS).map(|ahead| (self.next + ahead) % IDS).find(|id| !self.open.contains_key(id))?;
        self.next = (id + 1) % IDS;
        let release_first = self.unused > 0 && self.may_have_a_past;
        self.unused = self.unused.saturating_sub(1);
        let exchange = Exchange {
            about,
            is_releasing: false,
            is_unwanted: false,
            number: Some(number),
            is_under_way: true,
        };
        self.ids.insert(place(about), id);
        self.open.insert(id, exchange);
        self.under_way += 1;
        Some(Begun::Publish { id: FIRST_ID + id, is_repeat: false, release_first })
    }

    /// The PUBLISH that was begun last could not be sent.
    pub(super) fn undo(&mut self, begun: Begun) {
        let Begun::Publish { id, is_repeat, release_first } = begun else { return };
        let Some(exchange) = self.open.get_mut(&(id - FIRST_ID)) else { return };
        self.under_way -= 1;
        if is_repeat {
            (exchange.number, exchange.is_under_way) = (None, false);
            return;
        }
        self.ids.remove(&place(exchange.about));
        self.open.remove(&(id - FIRST_ID));
        // Nor was its PUBREL.
        self.next = id - FIRST_ID;
        self.unused += u16::from(release_first);
    }

    /// PUBREC has come. `is_taken`: the upstream has the message now, and PUBREL is due; else this is the end.
    pub(super) fn received(&mut self, id: u16, is_taken: bool) -> Option<Ended> {
        let id = id.checked_sub(FIRST_ID)?;
        let exchange = self.open.get_mut(&id).filter(|exchange| !exchange.is_releasing)?;
        if is_taken {
            exchange.is_releasing = true;
            return None;
        }
        self.end(id)
    }

    /// PUBCOMP has come: what has ended with it, if somebody waits for that.
    pub(super) fn completed(&mut self, id: u16) -> Option<Ended> {
        let id = id.checked_sub(FIRST_ID)?;
        self.open.get(&id).filter(|exchange| exchange.is_releasing)?;
        self.end(id)
    }

    fn end(&mut self, id: u16) -> Option<Ended> {
        let exchange = self.open.remove(&id)?;
        self.under_way -= usize::from(exchange.is_under_way);
        if exchange.is_unwanted {
            return None;
        }
        self.ids.remove(&place(exchange.about));
        Some(Ended { about: exchange.about, number: exchange.number })
    }

    /// The first of this connection's that has not ended.
    pub(super) fn first(&self) -> Option<(u64, Sending)> {
        let sent = self.open.values().filter_map(|exchange| Some((exchange.number?, exchange.about)));
        sent.min_by_key(|(number, _)| *number)
    }

    /// What must always hold; for tests.
    #[cfg(test)]
    pub(super) fn invariants(&self) {
        let count = |is: fn(&Exchange) -> bool| self.open.values().filter(|exchange| is(exchange)).count();
        assert_eq!(count(|it| !it.is_unwanted), self.ids.len());
        assert_eq!(count(|it| it.is_under_way), self.under_way);
        assert_eq!(count(|it| it.is_unwanted && !it.is_releasing), 0);
        assert!(self.ids.iter().all(|(at, id)| self.open.get(id).is_some_and(|it| place(it.about) == *at)));
    }
}

fn place(about: Sending) -> (usize, Seq) {
    (about.sender.lane, about.seq)
}

#[cfg(test)]
mod tests {
    use super::super::senders::Sender;
    use super::super::sources::Source;
    use super::super::tests::seq;
    use super::*;

    fn about(number: u64) -> Sending {
        Sending { sender: Sender { lane: 0, client: 7 }, seq: seq(number), source: Source::default() }
    }

    /// Identifier, whether it is a repeat, whether PUBREL goes first.
    #[track_caller]
    fn publish(exchanges: &mut Exchanges, number: u64) -> (u16, bool, bool) {
        let begun = exchanges.begin(about(number), number).expect("an identifier");
        exchanges.invariants();
        match begun {
            Begun::Publish { id, is_repeat, release_first } => (id, is_repeat, release_first),
            Begun::Released => panic!("the upstream has it"),
        }
    }

    fn without_past() -> Exchanges {
        let mut exchanges = Exchanges::default();
        assert!(exchanges.let_in(0, false).is_empty());
        exchanges
    }

    #[test]
    fn an_identifier_stays_over_connections_until_pubcomp() {
        let mut exchanges = without_past();
        let [first, second] = [1, 2].map(|number| publish(&mut exchanges, number).0);
        assert_ne!(first, second);
        assert_eq!(exchanges.received(first, true), None);
        assert_eq!(exchanges.received(first, true), None, "a second PUBREC says nothing new");
        assert_eq!(exchanges.under_way(), 2);
        exchanges.begin_connection(|_| true);
        assert_eq!((exchanges.under_way(), exchanges.let_in(0, true)), (0, vec![first]));
        assert_eq!(exchanges.begin(about(1), 0), Some(Begun::Released));
        assert_eq!(publish(&mut exchanges, 2), (second, true, false));
        assert_eq!(exchanges.completed(second), None, "without PUBREC it means nothing");
        assert_eq!(exchanges.completed(first), Some(Ended { about: about(1), number: Some(0) }));
        exchanges.received(second, true);
        assert_eq!(exchanges.completed(second).map(|it| it.about), Some(about(2)));
        exchanges.invariants();
        assert_eq!((exchanges.under_way(), exchanges.first()), (0, None));
    }

    #[test]
    fn without_the_session_everything_is_new() {
        let mut exchanges = without_past();
        let [first, second] = [1, 2].map(|number| publish(&mut exchanges, number).0);
        exchanges.received(first, true);
        exchanges.begin_connection(|_| true);
        assert!(exchanges.let_in(0, false).is_empty());
        for number in [1, 2] {
            let (id, is_repeat, _) = publish(&mut exchanges, number);
            assert!(id != first && id != second && !is_repeat);
        }
    }

    #[test]
    fn what_nobody_wants_any_more_is_released() {
        let mut exchanges = without_past();
        let (first, ..) = publish(&mut exchanges, 1);
        publish(&mut exchanges, 2);
        exchanges.begin_connection(|it| it == about(2));
        exchanges.invariants();
        assert_eq!(exchanges.let_in(0, true), [first]);
        assert_eq!(exchanges.completed(first), None);
        exchanges.invariants();
    }

    #[test]
    fn with_a_past_each_identifier_is_released_before_its_first_use() {
        let mut exchanges = Exchanges::default();
        assert!(exchanges.is_empty(0) && exchanges.let_in(0, true).is_empty());
        let (first, _, release_first) = publish(&mut exchanges, 1);
        assert!(release_first && !exchanges.is_empty(0));
        // PUBCOMP of that PUBREL.
        assert_eq!(exchanges.completed(first), None);
        assert_eq!(exchanges.first(), Some((1, about(1))));
        exchanges.received(first, false);
        for number in 2..=u64::from(IDS) {
            let (next, _, release_first) = publish(&mut exchanges, number);
            assert!(release_first);
            exchanges.received(next, false);
        }
        assert!(!publish(&mut exchanges, 100_000).2, "used before");
    }

    #[test]
    fn what_could_not_be_sent_leaves_nothing() {
        let mut exchanges = Exchanges::default();
        exchanges.let_in(0, true);
        let begun = exchanges.begin(about(1), 0).expect("an identifier");
        exchanges.undo(begun);
        exchanges.invariants();
        assert_eq!((exchanges.under_way(), exchanges.is_empty(0)), (0, true));
        assert_eq!(exchanges.begin(about(2), 0), Some(begun));
    }

    /// A answers PUBREC and dies; B, which has a session of an earlier time, must not hear a PUBREL for it: its PUBCOMP would
    /// end what A never passes on.
    #[test]
    fn another_address_knows_nothing_of_what_the_first_was_sent() {
        let mut exchanges = without_past();
        let [taken, sent] = [1, 2].map(|number| publish(&mut exchanges, number).0);
        exchanges.received(taken, true);
        exchanges.begin_connection(|_| true);
        assert!(exchanges.is_empty(1) && !exchanges.is_empty(0));
        assert!(exchanges.let_in(1, true).is_empty(), "no PUBREL");
        exchanges.invariants();
        assert_eq!(exchanges.completed(taken), None);
        for number in [1, 2] {
            let (id, is_repeat, release_first) = publish(&mut exchanges, number);
            assert!(!is_repeat && release_first, "{id} may be stuck there");
            assert!(id != taken && id != sent);
        }
    }

    #[test]
    fn back_at_the_first_address_what_is_stuck_there_is_released_before_it_is_used() {
        let mut exchanges = without_past();
        let (stuck, ..) = publish(&mut exchanges, 1);
        exchanges.received(stuck, true);
        // An attempt at the other one that does not get in changes nothing.
        exchanges.begin_connection(|_| true);
        exchanges.begin_connection(|_| true);
        assert_eq!(exchanges.let_in(0, true), [stuck]);
        exchanges.begin_connection(|_| true);
        exchanges.let_in(1, false);
        let (id, is_repeat, release_first) = publish(&mut exchanges, 1);
        assert!(!is_repeat && !release_first, "nothing is stuck where there is no session");
        exchanges.received(id, true);
        assert_eq!(exchanges.completed(id).map(|it| it.about), Some(about(1)));
        exchanges.begin_connection(|_| true);
        assert!(exchanges.is_empty(0));
        assert!(exchanges.let_in(0, true).is_empty());
        let mut ids = std::collections::BTreeSet::new();
        for number in 2..2 + u64::from(IDS) {
            let (id, is_repeat, release_first) = publish(&mut exchanges, number);
            assert!(!is_repeat && release_first);
            exchanges.received(id, false);
            ids.insert(id);
        }
        assert!(ids.contains(&stuck) && ids.len() == usize::from(IDS));
    }
}
