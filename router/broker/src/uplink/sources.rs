//! Whose messages the upstream took, and how long that took: what edgeHub's series are labelled with
//! (`reference/edgehub.md` §8).
//!
//! In: messages that are sent, and what becomes of them. Out: counts and summaries by sender, output and priority.
//! Cost: when a message is sent, a look at its topic and one search by a number; when it is taken, one addition. No text is
//! compared and nothing allocated but for a source that is new. One message at a time is measured.
//! Bound: the bytes that names and summaries may take; what comes from further sources is counted together.

use std::collections::HashMap;
use std::hash::BuildHasher as _;

use foldhash::fast::FixedState;
use hub::series::{FURTHER, Series};
use hub::topics::{self, Inbound};
use model::{Instant, Now, Priority, Seq, Timestamp};

use crate::labels::{output, unescaped};

/// What a source takes beside its names.
const SOURCE_BYTES: usize = 256;

/// A sender with one of its outputs, by its place in the list; 0 stands for those that had no room there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Source(u32);

#[derive(Debug)]
struct Named {
    from: Box<str>,
    output: Box<str>,
    /// Messages taken, by lane.
    taken: Vec<u64>,
    /// Messages sent again.
    again: u64,
}

/// One that is on its way, and when it was kept and sent.
#[derive(Clone, Copy, Debug)]
struct Measured {
    lane: usize,
    seq: Seq,
    source: Source,
    kept: Option<Timestamp>,
    sent: Now,
}

/// All of one uplink.
#[derive(Debug)]
pub(super) struct Sources {
    by_hash: HashMap<u64, Source, FixedState>,
    named: Vec<Named>,
    priorities: Vec<Priority>,
    bytes: usize,
    bytes_max: usize,
    measured: Option<Measured>,
    measures: Series,
}

impl Sources {
    /// None yet; names may take half of so many bytes, and summaries the other half.
    pub(super) fn within(bytes_max: usize) -> Sources {
        let bytes_max = bytes_max / 2;
        let further = Named { from: FURTHER.into(), output: FURTHER.into(), taken: Vec::new(), again: 0 };
        Sources {
            by_hash: HashMap::with_hasher(FixedState::with_seed(0)),
            named: vec![further],
            priorities: Vec::new(),
            bytes: 0,
            bytes_max,
            measured: None,
            measures: Series::within(bytes_max),
        }
    }

    /// Lanes in the order in which the carrier has them.
    pub(super) fn add_lane(&mut self, priority: Priority) {
        self.priorities.push(priority);
        self.named.iter_mut().for_each(|named| named.taken.push(0));
    }

    /// The source of a message.
    pub(super) fn of(&mut self, topic: &str, client_id: &str) -> Source {
        let (device, module, output) = match topics::inbound(topic) {
            Ok(Inbound::Telemetry { device, module, bag }) => (device, module, output(bag)),
            _ => (client_id, None, ""),
        };
        let hash = self.by_hash.hasher().hash_one((device, module, output));
        if let Some(source) = self.by_hash.get(&hash) {
            return *source;
        }
        let bytes = SOURCE_BYTES + device.len() + module.map_or(0, str::len) + output.len();
        if self.bytes + bytes > self.bytes_max {
            return Source::default();
        }
        self.bytes += bytes;
        let from = module.map_or_else(|| device.into(), |module| format!("{device}/{module}").into());
        let source = Source(self.named.len() as u32);
        let taken = vec![0; self.priorities.len()];
        let output = unescaped(output);
        self.named.push(Named { from, output: output.into(), taken, again: 0 });
        self.by_hash.insert(hash, source);
        source
    }

    /// A message is on its way.
    pub(super) fn sent(&mut self, source: Source, (lane, seq): (usize, Seq), is_repeat: bool, now: Now) {
        if is_repeat {
            if let Some(named) = self.named.get_mut(source.0 as usize) {
                named.again += 1;
            }
        } else if self.measured.is_none() {
            self.measured = Some(Measured { lane, seq, source, kept: None, sent: now });
        }
    }

    /// When the message was kept that is measured, if it is this one.
    pub(super) fn note_kept(&mut self, lane: usize, seq: Seq, kept: Timestamp) {
        if let Some(measured) = self.measured.as_mut().filter(|it| it.lane == lane && it.seq == seq) {
            measured.kept = Some(kept);
        }
    }

    /// The upstream has it.
    #[inline]
    pub(super) fn taken(&mut self, source: Source, (lane, seq): (usize, Seq), now: Instant) {
        let named = self.named.get_mut(source.0 as usize);
        if let Some(count) = named.and_then(|named| named.taken.get_mut(lane)) {
            *count += 1;
        }
        if self.is_measured(lane, seq) {
            self.measure(now);
        }
    }

    /// The upstream does not take it now: it waits, and may expire before it is sent again.
    pub(super) fn refused(&mut self, (lane, seq): (usize, Seq)) {
        if self.is_measured(lane, seq) {
            self.measured = None;
        }
    }

    /// The one that is measured will not be taken on this link.
    pub(super) fn forget_measured(&mut self) {
        self.measured = None;
    }

    fn is_measured(&self, lane: usize, seq: Seq) -> bool {
        self.measured.is_some_and(|measured| measured.lane == lane && measured.seq == seq)
    }

    #[cold]
    fn measure(&mut self, now: Instant) {
        let Some(measured) = self.measured.take() else { return };
        let Some(named) = self.named.get(measured.source.0 as usize) else { return };
        let priority = self.priorities.get(measured.lane).copied().unwrap_or_default().to_string();
        let took = now.0.saturating_sub(measured.sent.instant.0) as f64 / 1e6;
        let at = measured.sent.timestamp;
        self.measures.observe("send", &[&named.from, &named.output], took, at);
        if let Some(kept) = measured.kept {
            let waited = at.0.saturating_sub(kept.0) as f64 / 1e3;
            self.measures.observe("process", &[&named.from, &priority], waited + took, at);
        }
    }

    /// Counts and summaries by name: `forwarded`: sender, output, priority; `repeated`: sender; measured: `send`, from sending
    /// to the answer, by sender and output, and `process`, from when it was kept, by sender and priority, in seconds.
    pub(super) fn series(&self) -> Series {
        // Of its own bytes: what is measured must not push counts together that were apart. One name may come more than once:
        // outputs are told apart as they are escaped, and repeats have none.
        let mut series = Series::within(self.bytes_max);
        for named in &self.named {
            for (priority, count) in self.priorities.iter().zip(&named.taken).filter(|(_, count)| **count > 0)
            {
                series.add("forwarded", &[&named.from, &named.output, &priority.to_string()], *count);
            }
            if named.again > 0 {
                series.add("repeated", &[&named.from], named.again);
            }
        }
        series.merge(&self.measures);
        series
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { instant: Instant(5_000_000), timestamp: Timestamp(1_000) };

    fn place(number: u64) -> (usize, Seq) {
        (0, Seq::new(number).expect("not 0"))
    }

    #[test]
    fn messages_are_counted_by_sender_output_and_priority() {
        let mut sources = Sources::within(100_000);
        sources.add_lane(Priority::HIGHEST);
        sources.add_lane(Priority::DEFAULT);
        let leaf = sources.of("devices/d1/messages/events/a=1", "d1");
        let module = sources.of("devices/gw1/modules/filter/messages/events/a=1&%24.on=alert", "gw1/filter");
        assert_eq!(sources.of("devices/gw1/modules/filter/messages/events/%24.on=alert/", "x"), module);
        let plain = sources.of("factory/temp", "press-7");
        for (source, number) in [(leaf, 1), (leaf, 2), (module, 3), (plain, 4)] {
            sources.sent(source, place(number), false, NOW);
            sources.note_kept(0, place(number).1, Timestamp(900));
        }
        sources.sent(plain, place(4), true, NOW);
        for (source, number) in [(leaf, 1), (leaf, 2), (module, 3)] {
            sources.taken(source, place(number), Instant(5_500_000));
        }
        sources.taken(plain, (1, place(4).1), Instant(5_500_000));
        let series = sources.series();
        let counts: Vec<_> = series.counts().iter().map(|(name, count)| (&**name, *count)).collect();
        assert_eq!(
            counts,
            [
                ("forwarded\0d1\0\x000", 2),
                ("forwarded\0gw1/filter\0alert\x000", 1),
                ("forwarded\0press-7\0\0default", 1),
                ("repeated\0press-7", 1)
            ]
        );
        let of = |name: &str| (series.summaries()[name].count(), series.summaries()[name].sum());
        assert_eq!((of("send\0d1\0"), of("process\0d1\x000")), ((1, 0.5), (1, 0.6)));
    }

    #[test]
    fn sources_that_are_called_the_same_are_one() {
        let mut sources = Sources::within(100_000);
        sources.add_lane(Priority::DEFAULT);
        for (output, number) in [("hot%20air", 1), ("hot air", 2), ("cold", 3)] {
            let topic = format!("devices/gw1/modules/filter/messages/events/%24.on={output}");
            let source = sources.of(&topic, "gw1/filter");
            sources.sent(source, place(number), true, NOW);
            sources.taken(source, place(number), NOW.instant);
        }
        let series = sources.series();
        assert_eq!(series.counts()["forwarded\0gw1/filter\0hot air\0default"], 2);
        assert_eq!(series.counts()["repeated\0gw1/filter"], 3);
    }

    #[test]
    fn a_message_that_is_refused_keeps_no_other_from_being_measured() {
        let mut sources = Sources::within(100_000);
        sources.add_lane(Priority::DEFAULT);
        let source = sources.of("devices/d1/messages/events/", "d1");
        sources.sent(source, place(1), false, NOW);
        sources.sent(source, place(2), false, NOW);
        sources.refused(place(2));
        sources.refused(place(1));
        sources.sent(source, place(3), false, NOW);
        sources.taken(source, place(3), NOW.instant);
        assert_eq!(sources.series().summaries()["send\0d1\0"].count(), 1);
    }

    #[test]
    fn sources_without_room_are_counted_together() {
        let mut sources = Sources::within(10 * (SOURCE_BYTES + 8));
        sources.add_lane(Priority::DEFAULT);
        for number in 1..=100 {
            let source = sources.of(&format!("devices/d{number}/messages/events/"), "");
            sources.taken(source, place(number), NOW.instant);
        }
        let series = sources.series();
        assert!(series.counts().len() <= 12, "{}", series.counts().len());
        assert_eq!(series.counts().values().sum::<u64>(), 100);
        assert!(series.counts()["forwarded\0further\0further\0default"] >= 88);
    }
}
