//! Who sent what, what arrived, and whether that is what was promised.
//!
//! In: how many messages of each publisher were acknowledged, and everything that arrived, in order. Out: a verdict.
//! A payload can be made again from seed, publisher and number, so every bit of it is compared. Where messages carry ids, each is that
//! of one message alone.

use std::collections::{BTreeMap, HashMap};

use harness::{Random, Received};

use crate::chaos::Chaos;
use crate::traffic::TRAFFIC;

/// The topic of a publisher.
pub(crate) fn topic(publisher: usize) -> String {
    format!("load/{publisher}")
}

/// The payload of one message: its number, then up to a kilobyte that follows from it.
pub(crate) fn payload(seed: u64, publisher: usize, number: u64) -> Vec<u8> {
    let mut random = Random::new(seed ^ (publisher as u64) << 56 ^ number);
    let mut payload = number.to_be_bytes().to_vec();
    for _ in 0..random.below(128) {
        payload.extend_from_slice(&random.number().to_be_bytes());
    }
    payload
}

/// The books of one test.
pub(crate) struct Ledger {
    seed: u64,
    /// Messages of each publisher that were acknowledged: all numbers below.
    acknowledged: Vec<u64>,
    /// Next number that has not arrived yet, by publisher.
    next: Vec<u64>,
    repeats: u64,
    /// Which message has which id: a receiver may drop what has one that it has seen.
    ids: HashMap<String, (usize, u64)>,
    /// Whether a repeat is a fault.
    once: bool,
    faults: BTreeMap<&'static str, (u64, String)>,
}

impl Ledger {
    pub(crate) fn new(seed: u64, acknowledged: Vec<u64>) -> Ledger {
        let next = vec![0; acknowledged.len()];
        Ledger {
            seed,
            acknowledged,
            next,
            repeats: 0,
            ids: HashMap::new(),
            once: false,
            faults: BTreeMap::new(),
        }
    }

    /// From now on everything must arrive once, and not more often.
    pub(crate) fn exactly_once(mut self) -> Ledger {
        self.once = true;
        self
    }

    /// Enters one message, in the order of arrival.
    pub(crate) fn arrived(&mut self, message: &Received) {
        let publisher = message.topic.strip_prefix("load/").and_then(|text| text.parse::<usize>().ok());
        let number = message.payload.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        let (Some(publisher), Some(number)) = (publisher, number) else {
            return self.fault("not of this test", format!("{message:?}"));
        };
        if publisher >= self.next.len() || payload(self.seed, publisher, number) != message.payload {
            return self.fault("corrupt", format!("{} says it is {number}", message.topic));
        }
        for (_, id) in message.user_properties().into_iter().filter(|(name, _)| *name == "millrace-id") {
            let first = *self.ids.entry(id.to_owned()).or_insert((publisher, number));
            if first != (publisher, number) {
                self.fault(
                    "with the id of another message",
                    format!("{id}: {first:?}, then {publisher}, {number}"),
                );
            }
        }
        let next = self.next[publisher];
        if number < next {
            self.repeats += 1;
            if self.once {
                self.fault("repeated", format!("publisher {publisher}: {number} again, after {}", next - 1));
            }
        } else if number == next {
            self.next[publisher] += 1;
        } else {
            self.next[publisher] = number + 1;
            self.fault("lost or out of order", format!("publisher {publisher}: {number} instead of {next}"));
        }
    }

    fn fault(&mut self, kind: &'static str, example: String) {
        self.faults.entry(kind).or_insert((0, example)).0 += 1;
    }

    /// Whether everything that was acknowledged has arrived.
    pub(crate) fn is_complete(&self) -> bool {
        self.next.iter().zip(&self.acknowledged).all(|(next, acknowledged)| next >= acknowledged)
    }

    /// The verdict.
    #[track_caller]
    pub(crate) fn reconcile(mut self, chaos: &Chaos) {
        for publisher in 0..self.next.len() {
            let (next, acknowledged) = (self.next[publisher], self.acknowledged[publisher]);
            if next < acknowledged {
                let example = format!("publisher {publisher}: {next} arrived of {acknowledged}");
                self.fault("acknowledged and lost", example);
            }
        }
        let total: u64 = self.acknowledged.iter().sum();
        println!("{chaos}: {total} acknowledged, {} repeats", self.repeats);
        assert!(self.faults.is_empty(), "{chaos}: {:#?}", self.faults);
        assert!(total > TRAFFIC, "{chaos}: a test without traffic proves nothing");
    }
}
