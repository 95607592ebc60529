//! A pool of links, one for each sender, against an upstream that is played by hand.

use std::collections::BTreeMap;

use super::*;
use crate::uplink::PoolRules;

/// One lane; what each link was sent and has not answered.
struct Pool {
    carrier: Carrier,
    records: Vec<Vec<u8>>,
    open: BTreeMap<String, Vec<Written>>,
    now: u64,
}

fn pool_rules() -> PoolRules {
    PoolRules {
        links_max: 3,
        opens_per_sec: 1_000,
        idle_millis: 60_000,
        answer_millis: 20_000,
        backoff_millis: (100, 1_000),
        own: "gw".into(),
        seed: 7,
    }
}

impl Pool {
    fn new(pool: PoolRules) -> Pool {
        let mut carrier = Carrier::pooled(rules(), pool, std::sync::Arc::new(mapping()));
        carrier.add_lane(LANE, Priority::DEFAULT, seq(1), seq(1));
        Pool { carrier, records: Vec::new(), open: BTreeMap::new(), now: 10 }
    }

    fn publish(&mut self, sender: &str) {
        let payload = format!("{sender}{}", self.records.len() + 1);
        self.records.push(record(sender, payload.as_bytes()));
        self.carrier.grown(LANE, seq(self.records.len() as u64 + 1));
    }

    fn pass(&mut self, millis: u64) {
        self.now += millis;
    }

    fn fill(&mut self) {
        let now = at(self.now);
        let mut out = Vec::new();
        for _ in 0..1_000 {
            let Some(mut reading) = self.carrier.next_reading(0, now.instant) else { return };
            let from = reading.from.get() as usize;
            let up_to = self.records.len().min(from - 1 + reading.messages_max);
            for place in from..=up_to {
                let record = &self.records[place - 1];
                self.carrier.offer(&mut reading, seq(place as u64), record, None, now, &mut out);
            }
            self.carrier.passed(&reading, seq(up_to as u64 + 1));
            self.carrier.invariants();
        }
        panic!("the carrier reads for ever");
    }

    /// Links that are wanted now, in order.
    fn opens(&mut self) -> Vec<String> {
        self.fill();
        let mut opens = Vec::new();
        // Each one waits for its pace.
        for _ in 0..20 {
            self.pass(2);
            opens.extend(self.carrier.next_open(at(self.now).instant).map(|identity| identity.to_string()));
        }
        opens
    }

    fn up(&mut self, identity: &str, window: u16) {
        self.carrier.link_connected(identity, setup(window), at(self.now)).expect("opens");
        self.carrier.take_out(identity, &mut Vec::new());
        let (_, is_new) =
            self.carrier.link_read(identity, &connack(u16::MAX, None), at(self.now)).expect("accepted");
        assert!(is_new);
        self.open.insert(identity.to_owned(), Vec::new());
    }

    /// What one link is sent now.
    fn sent(&mut self, identity: &str) -> Vec<String> {
        self.fill();
        let mut out = Vec::new();
        self.carrier.take_out(identity, &mut out);
        let written = take_written(&mut out);
        let texts = written.iter().map(|it| {
            format!("{}{}", String::from_utf8_lossy(&it.payload), if it.dup { " again" } else { "" })
        });
        let texts = texts.collect();
        self.open.entry(identity.to_owned()).or_default().extend(written);
        texts
    }

    /// A message of each, sent and answered: their links are up, with such windows.
    fn introduce(&mut self, identities: [&str; 2], window: u16) {
        identities.into_iter().for_each(|sender| self.publish(sender));
        self.opens();
        for identity in identities {
            self.up(identity, window);
            self.sent(identity);
            self.take_all(identity);
        }
    }

    /// Answers everything that a link was sent.
    fn take_all(&mut self, identity: &str) {
        for written in std::mem::take(self.open.get_mut(identity).expect("it was up")) {
            self.carrier
                .link_read(identity, &puback(written.id, ReasonCode::SUCCESS), at(self.now))
                .expect("an answer");
        }
        self.carrier.invariants();
    }

    fn lost(&mut self, identity: &str, error: Option<&LinkError>) {
        if error.is_none() {
            self.carrier.link_cut_off(identity, at(self.now).instant);
        }
        self.carrier.link_lost(identity, true, error.is_none(), error, at(self.now).instant);
        self.open.remove(identity);
        self.carrier.invariants();
    }

    fn delivered(&mut self) -> Option<u64> {
        let mut delivered = Vec::new();
        self.carrier.delivered(&mut delivered);
        delivered.first().map(|(_, seq)| seq.get())
    }
}

#[test]
fn links_are_opened_on_demand_and_paced_and_the_own_one_is_always_there() {
    let mut pool = Pool::new(PoolRules { opens_per_sec: 10, ..pool_rules() });
    assert_eq!(pool.opens(), ["gw"]);
    pool.publish("a");
    pool.publish("b");
    assert_eq!(pool.opens(), [""; 0], "a tenth of a second has not passed");
    pool.pass(150);
    assert_eq!(pool.opens().len(), 1);
    let at_once = pool.carrier.next_open_at(at(pool.now).instant).expect("the other one waits");
    assert!((10..=150).contains(&at_once.millis_since(at(pool.now).instant)));
}

#[test]
fn a_link_that_is_down_holds_back_its_own_identity_alone() {
    let mut pool = Pool::new(pool_rules());
    ["a", "b", "a", "b"].into_iter().for_each(|sender| pool.publish(sender));
    assert_eq!(pool.opens().len(), 3);
    pool.up("b", 8);
    assert_eq!(pool.sent("b"), ["b2"], "one is tried first");
    pool.take_all("b");
    assert_eq!(pool.sent("b"), ["b4"]);
    pool.take_all("b");
    assert_eq!(pool.delivered(), None, "what is before it waits");
    pool.publish("b");
    assert_eq!(pool.sent("b"), ["b5"]);
    pool.up("a", 8);
    assert_eq!(pool.sent("a"), ["a1"]);
    pool.take_all("a");
    assert_eq!(pool.sent("a"), ["a3"]);
    pool.take_all("a");
    assert_eq!(pool.delivered(), Some(4));
}

#[test]
fn what_was_in_flight_on_a_lost_link_is_sent_again_in_order_and_nothing_else_is() {
    let mut pool = Pool::new(pool_rules());
    pool.introduce(["a", "b"], 8);
    ["a", "b", "a", "b"].into_iter().for_each(|sender| pool.publish(sender));
    assert_eq!(
        (pool.sent("a"), pool.sent("b")),
        (vec!["a3".into(), "a5".into()], vec!["b4".into(), "b6".into()])
    );
    pool.lost("a", None);
    pool.publish("a");
    pool.pass(200);
    assert_eq!(pool.opens(), ["gw", "a"][1..].to_vec());
    pool.up("a", 8);
    assert_eq!(pool.sent("a"), ["a3 again"]);
    pool.take_all("a");
    assert_eq!(pool.sent("a"), ["a5 again", "a7"]);
    assert_eq!(pool.sent("b"), [""; 0]);
}

#[test]
fn a_full_link_makes_the_lane_wait_and_one_that_does_not_answer_does_not() {
    let mut pool = Pool::new(pool_rules());
    pool.introduce(["a", "b"], 1);
    ["a", "a", "b"].into_iter().for_each(|sender| pool.publish(sender));
    assert_eq!(pool.sent("a"), ["a3"]);
    assert_eq!(pool.sent("b"), [""; 0], "in order, for the moment");
    pool.pass(3_000);
    pool.carrier.link_tick("b", at(pool.now)).expect("nothing is wrong");
    assert_eq!(pool.sent("b"), ["b5"]);
    pool.pass(20_000);
    let error = pool.carrier.link_tick("a", at(pool.now));
    assert!(matches!(error, Err(LinkError::Unanswered { inflight: 1, .. })), "{error:?}");
    pool.lost("a", error.as_ref().err());
    pool.opens();
    pool.up("a", 1);
    assert_eq!(pool.sent("a"), ["a3 again"]);
}

/// Its first try waits for what was read before and is to be sent. That is no longer than their lane waits for a full link: a
/// tenth of a second at once.
#[test]
fn a_long_backlog_of_one_identity_delays_the_first_message_of_another_by_a_tenth_of_a_second() {
    let mut pool = Pool::new(pool_rules());
    for _ in 1..rules().held_max {
        pool.publish("a");
    }
    pool.publish("b");
    assert_eq!(pool.opens().len(), 3, "gw, a and b");
    pool.up("a", 10);
    assert_eq!(pool.sent("a"), ["a1"]);
    // From now on all of them are to be sent, and its link is soon full.
    pool.take_all("a");
    pool.up("b", 10);
    let (begin, mut came) = (pool.now, Vec::new());
    while came.is_empty() {
        assert!(pool.now - begin < 150, "it waits for {} ms", pool.now - begin);
        came = pool.sent("b");
        pool.pass(10);
        pool.carrier.link_tick("a", at(pool.now)).expect("it lives");
    }
    assert_eq!(came, ["b50"]);
    assert_eq!(pool.sent("a").len(), 10, "the other one had its window meanwhile");
}

/// The bound: with as many messages waiting as a lane may hold, whoever they are of, it waits for one of their links.
#[test]
fn a_lane_that_holds_as_much_as_it_may_waits_for_a_link() {
    let mut pool = Pool::new(pool_rules());
    for _ in 0..rules().held_max {
        pool.publish("a");
    }
    pool.publish("b");
    let opens = pool.opens();
    assert!(
        !opens.iter().any(|identity| identity == "b"),
        "nobody has seen that there is something for b: {opens:?}"
    );
    pool.up("a", 100);
    assert_eq!(pool.sent("a"), ["a1"]);
    pool.take_all("a");
    assert_eq!(pool.opens(), ["b"], "there is room to look further");
}

#[test]
fn whoever_fails_all_the_time_takes_nobodys_turn() {
    let mut pool = Pool::new(PoolRules { links_max: 100, backoff_millis: (1, 1), ..pool_rules() });
    let rules = Rules { senders_max: 10, ..rules() };
    pool.carrier = Carrier::pooled(
        rules,
        PoolRules { links_max: 100, backoff_millis: (1, 1), ..pool_rules() },
        std::sync::Arc::new(mapping()),
    );
    pool.carrier.add_lane(LANE, Priority::DEFAULT, seq(1), seq(1));
    for number in 0..5 {
        pool.publish(&format!("d{number}"));
    }
    pool.fill();
    let mut opened = Vec::new();
    for _ in 0..6 {
        pool.pass(10);
        let identity = pool.carrier.next_open(at(pool.now).instant).expect("somebody waits").to_string();
        pool.carrier.link_lost(&identity, true, false, None, at(pool.now).instant);
        opened.push(identity);
    }
    opened.sort_unstable();
    assert_eq!(opened, ["d0", "d1", "d2", "d3", "d4", "gw"]);
}

#[test]
fn a_link_that_ends_before_anything_is_answered_is_opened_more_and_more_rarely() {
    let mut pool = Pool::new(pool_rules());
    pool.publish("a");
    let mut waits = Vec::new();
    pool.opens();
    for _ in 0..3 {
        pool.up("a", 8);
        pool.lost("a", None);
        let begin = pool.now;
        while !pool.opens().contains(&"a".to_owned()) {}
        waits.push(pool.now - begin);
    }
    assert!(waits[2] > waits[0], "{waits:?}");
}

/// Each answer lets one message through, so that it never seems to be stuck.
#[test]
fn a_link_that_is_slow_and_steady_does_not_give_its_lane_its_pace() {
    let mut pool = Pool::new(pool_rules());
    pool.introduce(["a", "b"], 1);
    (0..20).for_each(|_| pool.publish("a"));
    pool.publish("b");
    let mut waited = 0;
    while pool.sent("b").is_empty() {
        assert!(waited < 300, "{waited} ms for one message");
        pool.sent("a");
        pool.pass(50);
        waited += 50;
        pool.take_all("a");
    }
}

#[test]
fn a_link_that_was_stuck_goes_on_in_order_once_it_answers() {
    let mut pool = Pool::new(pool_rules());
    pool.introduce(["a", "b"], 1);
    ["a", "a", "a", "b"].into_iter().for_each(|sender| pool.publish(sender));
    assert_eq!(pool.sent("a"), ["a3"]);
    pool.pass(3_000);
    pool.carrier.link_tick("b", at(pool.now)).expect("nothing is wrong");
    assert_eq!(pool.sent("b"), ["b6"]);
    pool.take_all("a");
    assert_eq!(pool.sent("a"), ["a4"], "the same connection");
    pool.publish("a");
    assert_eq!(pool.sent("a"), [""; 0]);
    for next in ["a5", "a7"] {
        pool.take_all("a");
        assert_eq!(pool.sent("a"), [next]);
    }
    pool.take_all("a");
    pool.take_all("b");
    assert_eq!(pool.delivered(), Some(7));
}

#[test]
fn a_link_that_is_throttled_has_a_smaller_window_and_the_others_do_not_notice() {
    let mut pool = Pool::new(pool_rules());
    let rules = Rules { look_ahead_max: 1_000, held_max: 1_000, ..rules() };
    pool.carrier = Carrier::pooled(rules, pool_rules(), std::sync::Arc::new(mapping()));
    pool.carrier.add_lane(LANE, Priority::DEFAULT, seq(1), seq(1));
    (0..100).for_each(|_| pool.publish("a"));
    for _ in 0..3 {
        pool.pass(2_000);
        pool.opens();
        pool.up("a", 1_000);
        assert_eq!(pool.sent("a").len(), 1, "the first one after a lost link goes alone");
        pool.take_all("a");
        pool.sent("a");
        pool.lost("a", None);
    }
    let pressure = pool.carrier.pressure();
    assert!(pressure.is_throttled && pressure.throttles > 0, "{pressure:?}");
    pool.pass(2_000);
    pool.opens();
    pool.up("a", 1_000);
    pool.sent("a");
    pool.take_all("a");
    let sent = pool.sent("a").len();
    assert!((1..=32).contains(&sent), "{sent}");
    // It is full; whoever shares its lane goes on.
    (0..5).for_each(|_| pool.publish("b"));
    pool.opens();
    pool.up("b", 1_000);
    pool.sent("b");
    pool.take_all("b");
    assert_eq!(pool.sent("b").len(), 4);
    assert_eq!(pool.carrier.pressure().window, pool.carrier.inflight() - 4 + 64, "each its own");
}

#[test]
fn a_window_grows_with_what_its_own_link_answers() {
    let mut pool = Pool::new(pool_rules());
    let rules = Rules { look_ahead_max: 10_000, held_max: 10_000, ..rules() };
    pool.carrier = Carrier::pooled(rules, pool_rules(), std::sync::Arc::new(mapping()));
    pool.carrier.add_lane(LANE, Priority::DEFAULT, seq(1), seq(1));
    pool.publish("a");
    pool.opens();
    pool.up("a", 10_000);
    pool.sent("a");
    pool.pass(100);
    pool.take_all("a");
    (0..4_000).for_each(|_| pool.publish("a"));
    let mut most = 0;
    for _ in 0..7 {
        most = pool.sent("a").len();
        pool.pass(100);
        pool.take_all("a");
    }
    assert!(most > 200, "after seven round trips {most} fit");
}

#[test]
fn an_identity_that_is_refused_for_good_does_not_fill_the_lane() {
    let mut pool = Pool::new(pool_rules());
    pool.publish("a");
    pool.publish("b");
    pool.opens();
    pool.up("gw", 8);
    pool.up("b", 8);
    let refused = LinkError::Refused(ReasonCode::NOT_AUTHORIZED);
    for _ in 0..3 {
        pool.lost("a", Some(&refused));
        pool.pass(1_000);
        pool.opens();
    }
    pool.lost("a", Some(&refused));
    pool.sent("b");
    pool.take_all("b");
    pool.fill();
    let aside = pool.carrier.next_aside().expect("it does not wait any longer");
    assert_eq!((aside.seq, aside.why), (seq(1), Refusal::Unfit(Unfit::Identity)));
    pool.carrier.is_aside(LANE, seq(1));
    assert_eq!(pool.delivered(), Some(2));
}

/// A message of each identity, and what comes of it: so often they are let try, and all are refused.
fn attempts_of(pool: &mut Pool, identities: &[String]) -> usize {
    let refused = LinkError::Refused(ReasonCode::NOT_AUTHORIZED);
    identities.iter().for_each(|identity| pool.publish(identity));
    let opens = pool.opens();
    opens.iter().for_each(|identity| pool.lost(identity, Some(&refused)));
    let_go(pool);
    opens.len()
}

/// What nobody will take goes aside.
fn let_go(pool: &mut Pool) {
    pool.fill();
    while let Some(aside) = pool.carrier.next_aside() {
        assert_eq!(aside.why, Refusal::Unfit(Unfit::Identity));
        pool.carrier.is_aside(LANE, aside.seq);
    }
}

#[test]
fn a_refused_identity_is_remembered_and_tried_once_per_longest_wait() {
    let mut pool = Pool::new(PoolRules { backoff_millis: (100, 5_000), ..pool_rules() });
    pool.opens();
    pool.up("gw", 8);
    let begin = pool.now;
    let mut attempts = 0;
    while pool.now - begin < 120_000 {
        attempts += attempts_of(&mut pool, &["a".into()]);
        pool.pass(1_000);
    }
    assert!((10..=28).contains(&attempts), "{attempts} attempts in two minutes");
    // Once let in, it is as if nothing had been.
    loop {
        pool.publish("a");
        if pool.opens().contains(&"a".to_owned()) {
            break;
        }
        pool.pass(100);
    }
    pool.up("a", 8);
    assert!(!pool.sent("a").is_empty());
}

#[test]
fn no_more_refused_identities_are_remembered_than_there_may_be_links() {
    let mut pool = Pool::new(PoolRules { backoff_millis: (10, 600_000), ..pool_rules() });
    pool.opens();
    pool.up("gw", 8);
    let all: Vec<String> = (0..12).map(|number| format!("d{number}")).collect();
    for few in all.chunks(2) {
        for _ in 0..3 {
            attempts_of(&mut pool, few);
            pool.pass(100);
        }
        // One by one.
        for _ in 0..20 {
            pool.pass(1_000);
            let_go(&mut pool);
        }
    }
    pool.opens();
    assert!(pool.carrier.identities() <= 1 + 3, "{}", pool.carrier.identities());
    assert_eq!(attempts_of(&mut pool, &all[11..]), 0, "the last ones are");
}

#[test]
fn a_pace_in_bytes_counts_what_is_sent_over_all_links() {
    let mut pool = Pool::new(pool_rules());
    pool.carrier = Carrier::pooled(
        Rules { bytes_per_sec: 10_000, look_ahead_max: 10_000, held_max: 10_000, ..rules() },
        pool_rules(),
        std::sync::Arc::new(mapping()),
    );
    pool.carrier.add_lane(LANE, Priority::DEFAULT, seq(1), seq(1));
    pool.introduce(["a", "b"], 100);
    (0..2_000).for_each(|number| pool.publish(["a", "b"][number % 2]));
    let mut bytes = 0;
    for _ in 0..500 {
        pool.pass(10);
        pool.fill();
        for identity in ["a", "b"] {
            let mut out = Vec::new();
            pool.carrier.take_out(identity, &mut out);
            bytes += out.len();
            let written = take_written(&mut out);
            pool.open.get_mut(identity).expect("it is up").extend(written);
            pool.take_all(identity);
        }
    }
    assert!((48_000..=53_000).contains(&bytes), "{bytes} in 5 s");
}

#[test]
fn while_not_even_we_get_in_nobody_else_is_condemned() {
    let mut pool = Pool::new(pool_rules());
    pool.publish("a");
    pool.opens();
    for _ in 0..10 {
        pool.lost("a", Some(&LinkError::Refused(ReasonCode::NOT_AUTHORIZED)));
        pool.pass(1_000);
        pool.opens();
    }
    assert_eq!(pool.carrier.next_aside(), None);
}

#[test]
fn a_link_that_messages_have_waited_for_is_not_idle_when_it_comes_up() {
    let mut pool = Pool::new(PoolRules { links_max: 2, ..pool_rules() });
    pool.publish("a");
    pool.publish("b");
    let opens = pool.opens();
    let (first, other) = if opens.contains(&"a".to_owned()) { ("a", "b") } else { ("b", "a") };
    pool.up("gw", 8);
    pool.pass(100_000);
    pool.carrier.link_connected(first, setup(8), at(pool.now)).expect("opens");
    pool.carrier.take_out(first, &mut Vec::new());
    pool.pass(90_000);
    assert!(!pool.carrier.is_idle(first, at(pool.now).instant), "its message waits");
    pool.up(first, 8);
    assert_eq!(pool.sent(first).len(), 1);
    pool.take_all(first);
    assert!(!pool.carrier.is_idle(first, at(pool.now + 1_000).instant));
    pool.pass(5_000);
    assert!(pool.carrier.is_idle(first, at(pool.now).instant));
    pool.carrier.link_lost(first, false, false, None, at(pool.now).instant);
    assert_eq!(pool.opens(), [other]);
}

#[test]
fn a_link_that_is_made_anew_while_messages_wait_is_opened_again() {
    let mut pool = Pool::new(pool_rules());
    pool.publish("a");
    pool.opens();
    pool.up("a", 8);
    assert_eq!(pool.sent("a"), ["a1"]);
    pool.publish("a");
    assert!(!pool.carrier.rest("a"), "something is in flight");
    pool.fill();
    pool.carrier.link_lost("a", false, false, None, at(pool.now).instant);
    assert_eq!(pool.opens(), ["a"]);
    pool.up("a", 8);
    assert_eq!(pool.sent("a"), ["a1 again"]);
    pool.take_all("a");
    assert_eq!(pool.sent("a"), ["a2"]);
}

#[test]
fn idle_links_are_closed_and_make_room_for_those_that_wait() {
    let mut pool = Pool::new(PoolRules { links_max: 2, ..pool_rules() });
    pool.publish("a");
    assert_eq!(pool.opens().len(), 2);
    pool.up("gw", 8);
    pool.up("a", 8);
    pool.sent("a");
    assert!(!pool.carrier.is_idle("a", at(pool.now + 100_000).instant), "something is in flight");
    pool.take_all("a");
    let later = at(pool.now + 10_000).instant;
    assert!(!pool.carrier.is_idle("a", later) && !pool.carrier.is_idle("gw", at(pool.now + 100_000).instant));
    assert!(pool.carrier.is_idle("a", at(pool.now + 61_000).instant));
    pool.publish("b");
    assert_eq!(pool.opens(), [""; 0], "two are enough");
    pool.pass(10_000);
    assert!(pool.carrier.is_idle("a", at(pool.now).instant), "somebody else waits for its place");
    assert!(pool.carrier.rest("a"));
    pool.carrier.link_lost("a", false, false, None, at(pool.now).instant);
    assert_eq!(pool.opens(), ["b"]);
}

/// What a link was sent that is no message of a lane.
fn line(pool: &mut Pool, identity: &str) -> Vec<String> {
    let (version, mut out, mut taken) = (setup(8).version, Vec::new(), 0);
    pool.carrier.take_out(identity, &mut out);
    let mut texts = Vec::new();
    while let Some(frame) = wire::split(&out[taken..], 1 << 20).expect("packets") {
        taken += frame.total_len();
        texts.push(match wire::decode(frame, version).expect("a packet") {
            wire::Packet::Subscribe(packet) => {
                let filters: Vec<_> = packet.subscriptions.iter().map(|it| it.filter.as_str()).collect();
                format!("+{}", filters.join(" "))
            }
            wire::Packet::Unsubscribe(packet) => format!("-{}", packet.filters.join(" ")),
            wire::Packet::Publish(publish) => {
                assert_eq!(publish.qos, Qos::AtMostOnce);
                format!("{}={}", publish.topic, String::from_utf8_lossy(publish.payload))
            }
            other => format!("{other:?}"),
        });
    }
    texts
}

fn filters(filters: &[&str]) -> std::collections::BTreeSet<String> {
    filters.iter().map(|filter| (*filter).to_owned()).collect()
}

#[test]
fn services_hear_and_speak_over_a_link_that_stays_for_them() {
    let mut pool = Pool::new(pool_rules());
    assert!(!pool.carrier.listen("a", filters(&["res/#"]), at(pool.now).instant));
    assert!(!pool.carrier.say("a", "get", b"1", at(pool.now)), "it is not up");
    assert!(pool.opens().contains(&"a".to_owned()));
    pool.up("a", 8);
    let version = setup(8).version;
    assert!(pool.carrier.listen("a", filters(&["calls/#"]), at(pool.now).instant));
    // `up` has taken what was written before CONNACK; SUBSCRIBE comes behind it, and one question at a time.
    assert_eq!(line(&mut pool, "a"), ["+res/#"]);
    // A request waits until its answer was asked for.
    assert!(pool.carrier.say("a", "get", b"1", at(pool.now)));
    assert_eq!(line(&mut pool, "a"), [""; 0]);
    let answer = |pool: &mut Pool, is_new: bool| {
        let (mut bytes, id) = (Vec::new(), NonZeroU16::MAX);
        if is_new {
            let ack = wire::SubAck::new(id, vec![ReasonCode::GRANTED_QOS_1]);
            wire::encode_suback(&mut bytes, version, &ack).expect("a SUBACK");
        } else {
            let ack = wire::UnsubAck::new(id, vec![ReasonCode::SUCCESS]);
            wire::encode_unsuback(&mut bytes, version, &ack).expect("an UNSUBACK");
        }
        pool.carrier.link_read("a", &bytes, at(pool.now)).expect("an answer");
    };
    answer(&mut pool, true);
    assert_eq!(line(&mut pool, "a"), ["+calls/#", "get=1"]);
    assert!(pool.carrier.say("a", "get", b"2", at(pool.now)));
    assert_eq!(line(&mut pool, "a"), ["get=2"]);
    answer(&mut pool, true);
    assert_eq!(line(&mut pool, "a"), ["-res/#"]);
    answer(&mut pool, false);
    assert_eq!(line(&mut pool, "a"), [""; 0]);
    let mut bytes = Vec::new();
    let publish =
        wire::OutgoingPublish { topic: "calls/x", payload: b"2", ..wire::OutgoingPublish::default() };
    wire::encode_publish(&mut bytes, version, &publish).expect("a PUBLISH");
    pool.carrier.link_read("a", &bytes, at(pool.now)).expect("a message");
    let heard =
        |topic: &str, ack| super::super::Heard { topic: topic.to_owned(), payload: b"2".to_vec(), ack };
    assert_eq!(pool.carrier.take_heard("a"), [heard("calls/x", None)]);
    assert_eq!(pool.carrier.take_heard("a"), []);
    // With QoS 1 it is acknowledged when it is taken, and over its own link alone.
    let mut bytes = Vec::new();
    let id = NonZeroU16::new(9).expect("not 0");
    let publish = wire::OutgoingPublish { qos: Qos::AtLeastOnce, packet_id: Some(id), ..publish };
    wire::encode_publish(&mut bytes, version, &publish).expect("a PUBLISH");
    pool.carrier.link_read("a", &bytes, at(pool.now)).expect("a message");
    assert_eq!(pool.carrier.take_heard("a"), [heard("calls/x", Some((1, id)))]);
    assert_eq!(line(&mut pool, "a"), [""; 0]);
    pool.carrier.acknowledge("a", (7, id), at(pool.now));
    assert_eq!(line(&mut pool, "a"), [""; 0]);
    pool.carrier.acknowledge("a", (1, id), at(pool.now));
    let [ack] = &line(&mut pool, "a")[..] else { panic!("one PUBACK") };
    assert!(ack.starts_with("PubAck"), "{ack}");
    pool.pass(120_000);
    assert!(!pool.carrier.is_idle("a", at(pool.now).instant), "somebody listens");
    // It comes again by itself, and is told again.
    pool.lost("a", None);
    pool.pass(2_000);
    assert!(pool.opens().contains(&"a".to_owned()));
    pool.up("a", 8);
    assert_eq!(line(&mut pool, "a"), ["+calls/#"]);
    pool.carrier.listen("a", filters(&[]), at(pool.now).instant);
    pool.pass(120_000);
    assert!(pool.carrier.is_idle("a", at(pool.now).instant));
}

#[test]
fn with_more_listeners_than_links_each_has_its_turn() {
    let mut pool = Pool::new(pool_rules());
    for identity in ["a", "b", "c", "d"] {
        pool.carrier.listen(identity, filters(&["res/#"]), at(pool.now).instant);
        pool.pass(1);
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..8 {
        for identity in pool.opens() {
            seen.insert(identity.clone());
            pool.up(&identity, 8);
            line(&mut pool, &identity);
        }
        pool.pass(3_000);
        let idle = pool.open.keys().find(|it| pool.carrier.is_idle(it, at(pool.now).instant)).cloned();
        if let Some(idle) = idle {
            pool.carrier.link_lost(&idle, false, false, None, at(pool.now).instant);
            pool.open.remove(&idle);
        }
    }
    assert_eq!(seen.len(), 5, "{seen:?}");
}

/// What nobody takes comes again over the next link, so the link is closed for it, and opened while somebody listens.
#[test]
fn a_link_with_something_to_give_back_is_closed_once() {
    let mut pool = Pool::new(pool_rules());
    pool.carrier.listen("a", filters(&["c2d/#"]), at(pool.now).instant);
    pool.carrier.give_back("a"); // there is none
    assert!(pool.opens().contains(&"a".to_owned()));
    pool.up("a", 8);
    assert!(!pool.carrier.is_idle("a", at(pool.now).instant), "somebody listens");
    pool.publish("a");
    assert_eq!(pool.sent("a").len(), 1);
    pool.carrier.give_back("a");
    assert!(pool.carrier.is_idle("a", at(pool.now).instant), "whoever listens");
    assert!(!pool.carrier.rest("a"), "but what is in flight is answered first");
    pool.take_all("a");
    assert!(pool.carrier.rest("a"));
    pool.carrier.link_lost("a", false, false, None, at(pool.now).instant);
    pool.open.remove("a");
    assert_eq!(pool.opens(), ["a"], "it is wanted again");
    pool.up("a", 8);
    assert!(!pool.carrier.is_idle("a", at(pool.now).instant), "once");
}

#[test]
fn a_message_of_the_cloud_is_never_acknowledged_for_nobody() {
    let mut pool = Pool::new(pool_rules());
    pool.carrier.listen("a", filters(&["res/#"]), at(pool.now).instant);
    assert!(pool.opens().contains(&"a".to_owned()));
    pool.up("a", 8);
    line(&mut pool, "a");
    pool.carrier.listen("a", filters(&[]), at(pool.now).instant);
    line(&mut pool, "a");
    let (version, id) = (setup(8).version, NonZeroU16::new(9).expect("not 0"));
    for (topic, is_heard) in [("devices/a/messages/devicebound/x=1", true), ("other", false)] {
        let mut bytes = Vec::new();
        let publish = wire::OutgoingPublish {
            topic,
            qos: Qos::AtLeastOnce,
            packet_id: Some(id),
            ..wire::OutgoingPublish::default()
        };
        wire::encode_publish(&mut bytes, version, &publish).expect("a PUBLISH");
        pool.carrier.link_read("a", &bytes, at(pool.now)).expect("a message");
        assert_eq!(pool.carrier.take_heard("a").len(), usize::from(is_heard), "{topic}");
        assert_eq!(line(&mut pool, "a").len(), usize::from(!is_heard), "{topic}: acknowledged for nobody");
    }
}
