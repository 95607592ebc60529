//! The loss ledger: what is gone that somebody may look for, as ranges, with why and when.
//!
//! Knows: entries, their bytes in the store, and the bounds. Never: decides what is lost.
//! In:  losses from housekeeping, readers, shards and uplinks. Out: entries for the next commit; lists and sums to read.
//! Invariant: at most `limits.losses_max` entries of at most [`LOSS_BYTES_MAX`] bytes; above it the oldest are forgotten,
//! and the sums by sink and reason still hold them.
//!
//! In the store: key `e` and the entry's number (u64, big endian), value as [`Entry::encode`] writes it; key `s`, a zero
//! byte, sink, a zero byte and reason, value the messages and bytes so far (u64 each, little endian).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use broker::StateSpace;
use model::{Seq, Timestamp};
use serde::Serialize;
use store::{CommitLog, StoreError};
use tracing::warn;

use super::growing::{Growing, MERGE_MILLIS};
use super::spaces::{LOSSES, space_of};
use super::whose::Part;

/// Most memory that one entry takes: itself and its names, room kept for more of them while the list grows, what the indexes have of it.
pub(crate) const LOSS_BYTES_MAX: usize = 832;
/// Longest name of a lane, a route or a sender that an entry keeps; the rest is cut.
const NAME_BYTES_MAX: usize = 120;
/// Sinks and reasons whose sums are kept apart; more than that are summed up as `other`.
const SUMS_MAX: usize = 1_024;
const VERSION: u8 = 1;

/// Why messages are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub(crate) enum Reason {
    /// Their time to live was over.
    Expired = 1,
    /// The sink's budget was used up, and its policy gives up the oldest.
    DropOldest = 2,
    /// The same, and its policy gives up the newest.
    SinkFull = 3,
    /// The store took no writes, and memory was used up.
    StoreFails = 4,
    /// What was kept of them is damaged or missing.
    Damaged = 5,
    /// Their uplink was not configured for longer than `store.keep_vanished_secs`.
    Vanished = 6,
    /// They were dropped from the poison lane: by somebody, or because it was full.
    PoisonDropped = 7,
    /// The upstream can never take them.
    Impossible = 8,
}

impl Reason {
    /// As in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::Expired => "expired",
            Reason::DropOldest => "drop_oldest",
            Reason::SinkFull => "sink_full",
            Reason::StoreFails => "store_fails",
            Reason::Damaged => "damaged",
            Reason::Vanished => "vanished",
            Reason::PoisonDropped => "poison_dropped",
            Reason::Impossible => "impossible",
        }
    }

    fn from_u8(number: u8) -> Option<Reason> {
        use Reason::*;
        [Expired, DropOldest, SinkFull, StoreFails, Damaged, Vanished, PoisonDropped, Impossible]
            .into_iter()
            .find(|reason| *reason as u8 == number)
    }
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Entry {
    /// Name of the lane.
    pub lane: String,
    /// Name of the route, where it is known: the one that was taken, or for places in a lane the only one that leads there now.
    pub route: Option<String>,
    /// Client identifier of the sender, where it is known and all of them are its.
    pub sender: Option<String>,
    /// Why.
    pub reason: Reason,
    /// First and last place in the lane; those of other senders may lie between. `None` if they never had one.
    pub places: Option<(u64, u64)>,
    /// How many messages.
    pub messages: u64,
    /// Their bytes as records, before compression; 0 where nobody knows them.
    pub bytes: u64,
    /// When the first and the last of them were given up, Unix ms.
    pub first_ms: u64,
    /// See `first_ms`.
    pub last_ms: u64,
}

/// Messages in a row that leave a poison lane for nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// Their places there.
    pub lost: store::Lost,
    /// Why.
    pub reason: Reason,
    /// Client identifier of their sender, if they have the same one.
    pub sender: Option<String>,
}

/// The sums of one sink and reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Sum {
    /// Messages.
    pub messages: u64,
    /// Bytes, as far as known.
    pub bytes: u64,
}

/// What can be read of the ledger.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contents {
    /// Oldest first.
    pub entries: VecDeque<(u64, Entry)>,
    /// By sink and reason, of all times.
    pub sums: BTreeMap<(String, String), Sum>,
    /// Entries that made room for newer ones since the start.
    pub forgotten: u64,
    /// Entries below this number are published, and grow no more.
    pub published: u64,
    /// Entries that are new or have grown since the last group that was written.
    grown: BTreeSet<u64>,
    growing: Growing,
    on_disk: OnDisk,
}

/// Which numbers the disk may have. An entry that makes room for a newer one leaves memory at once, and the disk with the next
/// group that comes to something.
#[derive(Clone, Copy, Debug, Default)]
struct OnDisk {
    /// Below this number none is left.
    gone_to: u64,
    /// The same once the group that is being collected is written.
    staged_to: u64,
    /// None was ever written from this number on.
    end: u64,
}

/// The ledger: written by the disk thread, read by everybody.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    contents: Mutex<Contents>,
    entries_max: usize,
}

impl Entry {
    /// A range of places of a lane.
    pub(crate) fn range(lane: &str, reason: Reason, lost: &store::Lost, now: Timestamp) -> Entry {
        Entry::part(lane, None, reason, &Part::of(lost), now)
    }

    /// A part of such a range.
    pub(super) fn part(
        lane: &str,
        route: Option<&str>,
        reason: Reason,
        part: &Part,
        now: Timestamp,
    ) -> Entry {
        Entry {
            lane: cut(lane),
            route: route.map(cut),
            sender: part.sender.as_deref().map(cut),
            reason,
            places: part.places,
            messages: part.messages,
            bytes: part.bytes,
            first_ms: now.0,
            last_ms: now.0,
        }
    }

    /// What left a poison lane for nowhere.
    pub(crate) fn dropped(lane: &str, dropped: &Dropped, now: Timestamp) -> Entry {
        let sender = dropped.sender.as_deref().map(cut);
        Entry { sender, ..Entry::range(lane, dropped.reason, &dropped.lost, now) }
    }

    /// The sink that a lane belongs to, for sums: an uplink, or all sessions together.
    fn sink(&self) -> String {
        sink_of(&self.lane)
    }

    /// Whether `next` may become part of this entry.
    fn takes(&self, next: &Entry) -> bool {
        let belongs = match (self.places, next.places) {
            // What is damaged is looked for by place: its entries have no holes.
            (Some((_, last)), Some((first, _))) if self.reason == Reason::Damaged => {
                Seq::new(last).map(Seq::next).map(Seq::get) == Some(first)
            }
            // A full poison lane drops from its front on; what somebody drops elsewhere is an entry of its own.
            (Some((_, last)), Some((first, _))) if self.reason == Reason::PoisonDropped => first > last,
            // Everything else is told apart by sender, and between the places of some may lie those of others.
            (Some(_), Some(_)) | (None, None) => true,
            _ => false,
        };
        belongs
            && (&self.lane, &self.route, &self.sender, self.reason)
                == (&next.lane, &next.route, &next.sender, next.reason)
            && next.last_ms.abs_diff(self.first_ms) < MERGE_MILLIS
    }

    fn absorb(&mut self, next: &Entry) {
        let both = self.places.zip(next.places);
        self.places = both.map(|(had, gets)| (had.0.min(gets.0), had.1.max(gets.1)));
        self.messages += next.messages;
        self.bytes += next.bytes;
        self.last_ms = self.last_ms.max(next.last_ms);
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, self.reason as u8];
        let (first, last) = self.places.unwrap_or_default();
        for number in [first, last, self.messages, self.bytes, self.first_ms, self.last_ms] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for text in [Some(&self.lane), self.route.as_ref(), self.sender.as_ref()] {
            let text = text.map_or("", |text| text.as_str());
            bytes.push(text.len() as u8); // cut to less than 256
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Entry> {
        let (&[VERSION, reason], mut rest) = bytes.split_first_chunk::<2>()? else { return None };
        let mut number = || {
            let (number, behind) = rest.split_first_chunk::<8>()?;
            rest = behind;
            Some(u64::from_le_bytes(*number))
        };
        let [first, last, messages, bytes, first_ms, last_ms] =
            [number()?, number()?, number()?, number()?, number()?, number()?];
        let mut text = || {
            let (&len, behind) = rest.split_first()?;
            let (text, behind) = behind.split_at_checked(usize::from(len))?;
            rest = behind;
            Some(String::from_utf8_lossy(text).into_owned())
        };
        let [lane, route, sender] = [text()?, text()?, text()?];
        Some(Entry {
            lane,
            route: Some(route).filter(|it| !it.is_empty()),
            sender: Some(sender).filter(|it| !it.is_empty()),
            reason: Reason::from_u8(reason)?,
            places: (first > 0).then_some((first, last)),
            messages,
            bytes,
            first_ms,
            last_ms,
        })
    }
}

impl Ledger {
    /// Reads what the store has of it. What cannot be read is left out: the ledger must not stop a start.
    pub(crate) fn load(reader: &store::Reader, entries_max: usize) -> Result<Ledger, StoreError> {
        let mut contents = Contents::default();
        // One by one: damage to the entries leaves the sums, and the other way round.
        for prefix in [b"e", b"s"] {
            let scanned = reader.state_scan(LOSSES, prefix, &mut |key, value| {
                contents.load(key, value);
                ControlFlow::Continue(())
            });
            scanned.or_else(without_the_rest)?;
        }
        // Told again is better than not told.
        contents.published = published(reader).or_else(|error| without_the_rest(error).map(|()| 0))?;
        for (number, entry) in &contents.entries {
            contents.growing.begins(entry, *number, contents.published);
        }
        contents.on_disk.staged_to = contents.on_disk.gone_to;
        contents.entries.shrink_to_fit();
        Ok(Ledger { contents: Mutex::new(contents), entries_max: entries_max.max(1) })
    }

    /// Adds an entry and puts it into the group that is being collected. After an error it still stands in memory, and
    /// goes with [`Ledger::stage_again`].
    pub(crate) fn add(&self, log: &mut impl CommitLog, entry: Entry) -> Result<(), StoreError> {
        let mut contents = self.lock();
        let (sum_at, sum) = contents.sum_of(entry.sink(), entry.reason);
        sum.messages += entry.messages;
        sum.bytes += entry.bytes;
        let sum = sum.encode();
        contents.list_grows(self.entries_max);
        let number = contents.enter(entry);
        let encoded = contents.at(number).map(|(_, entry)| entry.encode()).unwrap_or_default();
        contents.make_room(self.entries_max);
        log.state_put(LOSSES, &sum_at, &sum)?;
        log.state_put(LOSSES, &entry_key(number), &encoded)?;
        contents.on_disk.end = contents.on_disk.end.max(number + 1);
        contents.stage_deletes(log)
    }

    /// After a group that came to nothing: what was put into it is put into the next one.
    pub(crate) fn stage_again(&self, log: &mut impl CommitLog, since: u64) -> Result<(), StoreError> {
        let mut contents = self.lock();
        contents.on_disk.staged_to = contents.on_disk.gone_to;
        let is_missing = |number: u64| number >= since || contents.grown.contains(&number);
        for (number, entry) in contents.entries.iter().filter(|(number, _)| is_missing(*number)) {
            log.state_put(LOSSES, &entry_key(*number), &entry.encode())?;
        }
        contents.on_disk.end = contents.on_disk.end.max(contents.next_number());
        for ((sink, reason), sum) in &contents.sums {
            log.state_put(LOSSES, &sum_key(sink, reason), &sum.encode())?;
        }
        contents.stage_deletes(log)
    }

    /// What was put into the group is on the disk.
    pub(crate) fn written(&self) {
        let mut contents = self.lock();
        contents.grown.clear();
        contents.on_disk.gone_to = contents.on_disk.staged_to;
    }

    /// The number of the newest entry.
    pub(crate) fn newest(&self) -> u64 {
        self.lock().entries.back().map_or(0, |(number, _)| *number)
    }

    /// Everything, as of now.
    pub(crate) fn contents(&self) -> Contents {
        self.lock().clone()
    }

    /// Entries from the one with this number on, oldest first, as long as `wanted` says so. They grow no more: what
    /// follows them begins an entry of its own. Also the number behind the last one.
    pub(crate) fn publish(&self, from: u64, mut wanted: impl FnMut(u64, &Entry) -> bool) -> u64 {
        let mut contents = self.lock();
        let mut next = from;
        for (number, entry) in contents.entries.iter().skip_while(|(number, _)| *number < from) {
            if !wanted(*number, entry) {
                break;
            }
            next = number + 1;
        }
        contents.published = contents.published.max(next);
        next
    }

    /// The newest entries, newest first.
    pub(crate) fn latest(&self, count: usize) -> Vec<Entry> {
        self.lock().entries.iter().rev().take(count).map(|(_, entry)| entry.clone()).collect()
    }

    /// The sums by sink and reason.
    pub(crate) fn sums(&self) -> BTreeMap<(String, String), Sum> {
        self.lock().sums.clone()
    }

    #[cfg(test)]
    pub(super) fn with_entries_max(entries_max: usize) -> Ledger {
        Ledger { entries_max, ..Ledger::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ledger goes on without what the disk does not give; any other error is given back.
fn without_the_rest(error: StoreError) -> Result<(), StoreError> {
    match error {
        StoreError::Unreadable(_) => {
            warn!(%error, "a part of the loss ledger is damaged: it goes on without it");
            Ok(())
        }
        error => Err(error),
    }
}

impl Contents {
    /// Takes over what the store has under this key.
    fn load(&mut self, key: &[u8], value: &[u8]) {
        match key.split_first() {
            Some((b'e', number)) => {
                if let Ok(number) = number.try_into().map(u64::from_be_bytes) {
                    if self.on_disk.end == 0 {
                        self.on_disk.gone_to = number; // they ascend
                    }
                    self.on_disk.end = number + 1;
                    self.entries.extend(Entry::decode(value).map(|entry| (number, entry)));
                }
            }
            Some((b's', names)) => {
                let mut names = names.split(|byte| *byte == 0).skip(1).map(String::from_utf8_lossy);
                let sum = value.split_first_chunk::<8>().and_then(|(messages, rest)| {
                    let bytes = rest.first_chunk::<8>()?;
                    Some(Sum { messages: u64::from_le_bytes(*messages), bytes: u64::from_le_bytes(*bytes) })
                });
                if let (Some(sink), Some(reason), Some(sum)) = (names.next(), names.next(), sum) {
                    self.sums.insert((sink.into_owned(), reason.into_owned()), sum);
                }
            }
            _ => {}
        }
    }

    /// Adds it to the entry that it belongs to, or behind the others; that one's number.
    fn enter(&mut self, mut entry: Entry) -> u64 {
        let mut goes_on = self.newest_that_takes(&entry);
        if goes_on.is_none()
            && entry.sender.is_some()
            && !self.growing.has_a_name_left(&entry, self.published)
        {
            entry.sender = None;
            goes_on = self.newest_that_takes(&entry);
        }
        // Not only behind the last one: if that could not be read, its number is published all the same.
        let number = goes_on.unwrap_or(self.next_number().max(self.published));
        match goes_on.and_then(|number| self.at(number)) {
            Some((_, have)) => have.absorb(&entry),
            None => {
                self.growing.begins(&entry, number, self.published);
                self.entries.push_back((number, entry));
            }
        }
        self.grown.insert(number);
        number
    }

    fn newest_that_takes(&mut self, entry: &Entry) -> Option<u64> {
        let number = self.growing.newest(entry).filter(|number| *number >= self.published)?;
        self.at(number).filter(|(_, have)| have.takes(entry)).map(|(number, _)| *number)
    }

    fn at(&mut self, number: u64) -> Option<&mut (u64, Entry)> {
        let index = self.entries.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        self.entries.get_mut(index)
    }

    /// What must always hold; for tests.
    #[cfg(test)]
    pub(super) fn invariants(&self) {
        self.growing.invariants(self.entries.len());
        assert!(self.grown.len() <= self.entries.len());
    }

    fn next_number(&self) -> u64 {
        self.entries.back().map_or(0, |(number, _)| number + 1)
    }

    /// Makes the list longer before it is full: twice as long, as lists grow, but not beyond its bound.
    fn list_grows(&mut self, entries_max: usize) {
        let len = self.entries.len();
        if len == self.entries.capacity() {
            self.entries.reserve_exact(len.max(16).min((entries_max + 1).saturating_sub(len)));
        }
    }

    /// Forgets the oldest above the bound, whatever the disk does meanwhile.
    fn make_room(&mut self, entries_max: usize) {
        while self.entries.len() > entries_max
            && let Some((number, entry)) = self.entries.pop_front()
        {
            self.growing.left(&entry, number);
            self.grown.remove(&number);
            self.forgotten += 1;
        }
    }

    /// What memory has forgotten the disk forgets, too. An error leaves the rest for the next time.
    fn stage_deletes(&mut self, log: &mut impl CommitLog) -> Result<(), StoreError> {
        let first = self.entries.front().map_or(self.on_disk.end, |(number, _)| *number);
        while self.on_disk.staged_to < first.min(self.on_disk.end) {
            log.state_delete(LOSSES, &entry_key(self.on_disk.staged_to))?;
            self.on_disk.staged_to += 1;
        }
        Ok(())
    }

    /// The sum that this belongs to, with its key in the store.
    fn sum_of(&mut self, sink: String, reason: Reason) -> (Vec<u8>, &mut Sum) {
        let mut key = (sink, reason.as_str().to_owned());
        if self.sums.len() >= SUMS_MAX && !self.sums.contains_key(&key) {
            key.0 = "other".to_owned();
        }
        let in_store = sum_key(&key.0, &key.1);
        (in_store, self.sums.entry(key).or_default())
    }
}

/// The number of the first entry that is not published, as the store has it.
pub(crate) fn published(reader: &store::Reader) -> Result<u64, StoreError> {
    let value = reader.state_get(space_of(StateSpace::LossesPublished), b"")?;
    Ok(value.and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?))).unwrap_or(0))
}

/// The uplink of a lane, or `sessions`.
pub(crate) fn sink_of(lane: &str) -> String {
    match lane.split_once('/') {
        Some(("u" | "p", rest)) => rest.split('/').next().unwrap_or(rest).to_owned(),
        Some(("s" | "m", _)) => "sessions".to_owned(),
        _ => "other".to_owned(),
    }
}

/// Text that fits into an entry.
pub(crate) fn cut(text: &str) -> String {
    let end = (0..=NAME_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or(0)].to_owned()
}

impl Sum {
    fn encode(&self) -> Vec<u8> {
        [self.messages.to_le_bytes(), self.bytes.to_le_bytes()].concat()
    }
}

fn sum_key(sink: &str, reason: &str) -> Vec<u8> {
    [b"s\0", sink.as_bytes(), b"\0", reason.as_bytes()].concat()
}

fn entry_key(number: u64) -> Vec<u8> {
    [b"e".as_slice(), &number.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(from: u64, up_to: u64) -> store::Lost {
        let seq = |place| Seq::new(place).expect("places start at 1");
        store::Lost {
            lane: model::LaneId(1),
            from: seq(from),
            up_to: seq(up_to),
            bytes: 10 * (up_to - from + 1),
        }
    }

    fn entry(from: u64, up_to: u64, millis: u64) -> Entry {
        Entry::range("u/plant/5", Reason::Damaged, &lost(from, up_to), Timestamp(millis))
    }

    fn open(directory: &tempfile::TempDir) -> store::Log {
        store::Log::open(&store::Options::small(directory.path().join("store"))).expect("a store")
    }

    fn kept(ledger: &Ledger) -> Vec<(u64, u64)> {
        ledger.contents().entries.iter().filter_map(|(_, entry)| entry.places).collect()
    }

    #[test]
    fn an_entry_is_read_back() {
        let whole = Entry {
            route: Some("alarms".to_owned()),
            sender: Some("press7".to_owned()),
            places: None,
            reason: Reason::SinkFull,
            ..entry(3, 9, 1_000)
        };
        for entry in [entry(3, 9, 1_000), whole] {
            assert_eq!(Entry::decode(&entry.encode()), Some(entry.clone()));
        }
        let encoded = entry(1, 2, 3).encode();
        for end in 0..encoded.len() {
            assert_eq!(Entry::decode(&encoded[..end]), None);
        }
    }

    /// What the ledger holds, with what an allocator may add to a name.
    fn memory_bytes(contents: &Contents) -> usize {
        let name_bytes = |name: &String| name.capacity().next_multiple_of(16);
        let names = |entry: &Entry| {
            let optional = [&entry.route, &entry.sender].into_iter().flatten().map(name_bytes);
            name_bytes(&entry.lane) + optional.sum::<usize>()
        };
        // While it grows the list is there twice.
        let list = (contents.entries.capacity() + contents.entries.len()) * size_of::<(u64, Entry)>();
        let names: usize = contents.entries.iter().map(|(_, entry)| names(entry)).sum();
        // A node has eleven numbers and is half full at least.
        let grown = contents.grown.len() * 3 * size_of::<u64>();
        list + names + grown + contents.growing.memory_bytes()
    }

    /// Also where tables have just grown to twice their size.
    #[test]
    fn no_entry_takes_more_memory_than_the_ceiling_says() {
        for entries_max in [16, 1_000, 4_096, 7_169, 8_193, 10_000] {
            let mut log = store::MemoryLog::new(1 << 26);
            let ledger = Ledger::with_entries_max(entries_max);
            for number in 1..=entries_max as u64 + 1 {
                let name =
                    |kind: char| format!("u/{number:08}/{}", String::from(kind).repeat(NAME_BYTES_MAX));
                let lost = lost(number, number);
                let whole = Entry {
                    route: Some(cut(&name('r'))),
                    sender: Some(cut(&name('s'))),
                    ..Entry::range(&name('l'), Reason::Expired, &lost, Timestamp(1))
                };
                ledger.add(&mut log, whole).expect("there is room");
            }
            let contents = ledger.lock();
            assert_eq!(contents.entries.len(), entries_max);
            let (bytes, most) = (memory_bytes(&contents), entries_max * LOSS_BYTES_MAX);
            assert!(bytes <= most, "{} of {LOSS_BYTES_MAX} each of {entries_max}", bytes / entries_max);
            assert!(
                entries_max != 8_193 || bytes > most * 17 / 20,
                "the ceiling is not far from what may be: {bytes}"
            );
        }
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let name = "ä".repeat(200);
        let cut = cut(&name);
        assert!(cut.len() <= NAME_BYTES_MAX && name.starts_with(&cut) && cut.len() > NAME_BYTES_MAX - 2);
    }

    #[test]
    fn what_goes_on_is_one_entry_for_a_minute() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut log = open(&directory);
        let ledger = Ledger::load(&log.reader(), 100).expect("readable");
        for one in [entry(1, 10, 0), entry(11, 20, 30_000), entry(21, 30, 60_000), entry(41, 50, 60_001)] {
            ledger.add(&mut log, one).expect("the disk takes it");
        }
        assert_eq!(kept(&ledger), [(1, 20), (21, 30), (41, 50)]);
        log.commit().expect("the disk takes it");
        let read = Ledger::load(&log.reader(), 100).expect("readable");
        assert_eq!(read.contents().entries, ledger.contents().entries);
        let sum = Sum { messages: 40, bytes: 400 };
        assert_eq!(read.sums(), BTreeMap::from([(("plant".to_owned(), "damaged".to_owned()), sum)]));
    }

    /// Entries of which the disk gives back only a part stop no start; what can be read stands.
    #[test]
    fn a_ledger_that_is_damaged_goes_on_with_what_can_be_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut log = open(&directory);
        let ledger = Ledger::load(&log.reader(), 10_000).expect("readable");
        for number in 1..=4_000 {
            ledger.add(&mut log, entry(2 * number, 2 * number, 0)).expect("the disk takes it");
        }
        log.commit().expect("the disk takes it");
        drop(log);
        drop(open(&directory)); // what was in memory is in sorted files now
        let sorted = std::fs::read_dir(directory.path().join("store/rocksdb"))
            .expect("a directory")
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|kind| kind == "sst"))
            .max_by_key(|path| std::fs::metadata(path).map_or(0, |about| about.len()))
            .expect("a sorted file");
        let mut bytes = std::fs::read(&sorted).expect("a file");
        let at = bytes.len() / 4;
        bytes[at] ^= 8;
        std::fs::write(&sorted, bytes).expect("a file");

        let mut log = open(&directory);
        let read = Ledger::load(&log.reader(), 10_000).expect("what can be read");
        let entries = kept(&read).len();
        assert!((1..4_000).contains(&entries), "{entries} of 4000");
        let messages: u64 = read.sums().values().map(|sum| sum.messages).sum();
        assert_eq!(messages, 4_000, "the sums stand elsewhere");
        read.add(&mut log, entry(9_999, 9_999, 0)).expect("the disk takes it");
        log.commit().expect("the disk takes it");
    }

    /// Several senders that lose messages in turn have one entry each, also if the first of them grows in a group that fails.
    #[test]
    fn losses_of_senders_in_turn_are_one_entry_each() {
        let mut log = store::MemoryLog::new(1 << 20);
        let ledger = Ledger { entries_max: 100, ..Ledger::default() };
        let of = |sender: &str, place| Entry {
            sender: Some(sender.to_owned()),
            reason: Reason::Expired,
            ..entry(place, place, 0)
        };
        for place in [1, 4] {
            for (at, sender) in ["a", "b", "c"].into_iter().enumerate() {
                ledger.add(&mut log, of(sender, place + at as u64)).expect("the disk takes it");
            }
            log.commit().expect("the disk takes it");
            ledger.written();
        }
        assert_eq!(kept(&ledger), [(1, 4), (2, 5), (3, 6)]);
        ledger.add(&mut log, of("a", 7)).expect("the disk takes it");
        log.fail_writes(true);
        log.commit().expect_err("the disk is full");
        log.fail_writes(false);
        log.crash();
        ledger.stage_again(&mut log, ledger.newest()).expect("the disk takes it");
        log.commit().expect("the disk takes it");
        let mut first = None;
        let mut visit = |_: &[u8], value: &[u8]| {
            first = Entry::decode(value);
            ControlFlow::Break(())
        };
        log.state_scan(LOSSES, b"e", &mut visit).expect("readable");
        assert_eq!(first.and_then(|entry| entry.places), Some((1, 7)));
    }

    #[test]
    fn an_entry_behind_ones_that_cannot_be_read_is_published() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut log = open(&directory);
        log.state_put(space_of(StateSpace::LossesPublished), b"", &7_u64.to_le_bytes()).expect("room");
        log.commit().expect("the disk takes it");
        let ledger = Ledger::load(&log.reader(), 100).expect("readable");
        ledger.add(&mut log, entry(1, 10, 0)).expect("the disk takes it");
        let mut seen = Vec::new();
        let next = ledger.publish(7, |number, _| {
            seen.push(number);
            true
        });
        assert_eq!((seen, next), (vec![7], 8));
    }

    #[test]
    fn the_oldest_make_room_and_the_sums_stay() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut log = open(&directory);
        let ledger = Ledger::load(&log.reader(), 16).expect("readable");
        for number in 1..=100 {
            ledger.add(&mut log, entry(2 * number, 2 * number, 0)).expect("the disk takes it");
        }
        log.commit().expect("the disk takes it");
        let read = Ledger::load(&log.reader(), 16).expect("readable");
        assert_eq!(kept(&read), (85..=100).map(|number| (2 * number, 2 * number)).collect::<Vec<_>>());
        assert_eq!(
            (ledger.contents().forgotten, ledger.sums().values().map(|sum| sum.messages).sum()),
            (84, 100)
        );
        // Numbers go on where they were.
        read.add(&mut log, entry(999, 999, 0)).expect("the disk takes it");
        assert_eq!(read.newest(), 100);
    }

    /// Numbers of the entries on the disk.
    fn on_disk(log: &impl CommitLog) -> Vec<u64> {
        let mut numbers = Vec::new();
        let mut visit = |key: &[u8], _: &[u8]| {
            let number = key.strip_prefix(b"e").map(|it| it.try_into().expect("a number"));
            numbers.extend(number.map(u64::from_be_bytes));
            ControlFlow::Continue(())
        };
        log.state_scan(LOSSES, b"", &mut visit).expect("readable");
        numbers
    }

    /// A deletion that goes down with its group comes in the next one.
    #[test]
    fn what_made_room_leaves_the_disk_whatever_becomes_of_its_group() {
        let mut log = store::MemoryLog::new(1 << 20);
        let ledger = Ledger { entries_max: 4, ..Ledger::default() };
        let mut written = 0;
        for number in 0..60 {
            ledger.add(&mut log, entry(2 * number + 2, 2 * number + 2, 0)).expect("the disk takes it");
            if number % 3 == 0 {
                log.fail_writes(true);
                log.commit().expect_err("the disk is full");
                ledger.add(&mut log, entry(1, 1, 0)).expect_err("it takes nothing");
                log.fail_writes(false);
                log.crash();
                ledger.stage_again(&mut log, written).expect("the disk takes it");
            }
            log.commit().expect("the disk takes it");
            ledger.written();
            written = ledger.newest();
            let newest: Vec<_> = (written.saturating_sub(3)..=written).collect();
            assert_eq!(on_disk(&log), newest);
        }
    }

    #[test]
    fn memory_is_bounded_while_the_store_takes_no_writes() {
        let mut log = store::MemoryLog::new(1 << 20);
        let ledger = Ledger { entries_max: 8, ..Ledger::default() };
        log.fail_writes(true);
        log.commit().expect_err("the disk is full");
        for number in 1..=100 {
            ledger.add(&mut log, entry(2 * number, 2 * number, 0)).expect_err("it takes nothing");
        }
        assert_eq!((kept(&ledger).len(), ledger.contents().forgotten), (8, 92));
        log.fail_writes(false);
        log.crash();
        ledger.stage_again(&mut log, 0).expect("the disk takes it");
        log.commit().expect("the disk takes it");
        assert_eq!(on_disk(&log), (92..100).collect::<Vec<_>>());
    }
}
