//! A set of sequence numbers that stays small when they come almost in order.
//!
//! Knows: numbers from 1 upwards. May use: the standard library. Never: MQTT, I/O.
//! Memory: nothing for numbers without gaps before them, else at most one bit per number between the first
//! gap and the highest number. Never an entry per message: a run of 10⁸ messages with loss all over takes 12 MiB.
//! Invariant: everything in `1..=floor` is in, `floor + 1` is not; `above` holds nothing at or below `floor`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};

/// Numbers per chunk. 512 B of bits: a fleet of 5 000 publishers with one gap each costs 2.5 MiB per set.
const CHUNK_NUMBERS: u64 = 4096;
const WORDS: usize = (CHUNK_NUMBERS / 64) as usize;

/// The numbers of one chunk above the floor.
#[derive(Clone, Debug)]
enum Chunk {
    Full,
    Some { count: u32, bits: Box<[u64; WORDS]> },
}

/// A set of numbers from 1 upwards, compact when it is nearly `1..=n`.
///
/// Serialises as a list of closed ranges `[[from, to], …]`, ascending and not touching.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(into = "Vec<(u64, u64)>", from = "Vec<(u64, u64)>")]
pub struct SeqSet {
    floor: u64,
    above: BTreeMap<u64, Chunk>,
    above_len: u64,
}

impl SeqSet {
    /// A set without numbers.
    #[must_use]
    pub fn new() -> SeqSet {
        SeqSet::default()
    }

    /// Adds a number; `true` if it was not in. 0 is never in and is not added.
    ///
    /// Cost: a comparison when numbers come in order, a tree lookup when there is a gap below.
    #[inline]
    pub fn insert(&mut self, number: u64) -> bool {
        if number == self.floor + 1 && self.above.is_empty() {
            self.floor = number;
            return true;
        }
        self.insert_slow(number)
    }

    fn insert_slow(&mut self, number: u64) -> bool {
        if number <= self.floor {
            return false;
        }
        if number == self.floor + 1 {
            self.floor = number;
            if self.contains(number + 1) {
                self.absorb();
            }
            return true;
        }
        let (chunk, bit) = place(number);
        let added = match self.above.entry(chunk) {
            Entry::Vacant(vacant) => {
                let mut bits = Box::new([0; WORDS]);
                bits[bit / 64] |= 1 << (bit % 64);
                vacant.insert(Chunk::Some { count: 1, bits });
                true
            }
            Entry::Occupied(mut occupied) => match occupied.get_mut() {
                Chunk::Full => false,
                Chunk::Some { count, bits } => {
                    let (word, mask) = (&mut bits[bit / 64], 1 << (bit % 64));
                    let added = *word & mask == 0;
                    *word |= mask;
                    *count += u32::from(added);
                    if u64::from(*count) == CHUNK_NUMBERS {
                        occupied.insert(Chunk::Full);
                    }
                    added
                }
            },
        };
        self.above_len += u64::from(added);
        added
    }

    /// Adds all numbers of `from..=to`. Cost: one step per number at the edges, one per chunk in between.
    pub fn insert_range(&mut self, from: u64, to: u64) {
        let mut next = from.max(1);
        if next <= self.floor + 1 && to > self.floor {
            self.raise_floor(to);
            return;
        }
        while next <= to {
            let (chunk, bit) = place(next);
            let end = last_of(chunk);
            if bit == 0 && end <= to && next > self.floor + 1 {
                let before = match self.above.insert(chunk, Chunk::Full) {
                    None => 0,
                    Some(Chunk::Full) => CHUNK_NUMBERS,
                    Some(Chunk::Some { count, .. }) => u64::from(count),
                };
                self.above_len += CHUNK_NUMBERS - before;
            } else {
                for number in next..=end.min(to) {
                    self.insert(number);
                }
            }
            next = end.saturating_add(1);
        }
    }

    /// Whether the number is in.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        if number <= self.floor {
            return number > 0;
        }
        let (chunk, bit) = place(number);
        match self.above.get(&chunk) {
            None => false,
            Some(Chunk::Full) => true,
            Some(Chunk::Some { bits, .. }) => bits[bit / 64] & (1 << (bit % 64)) != 0,
        }
    }

    /// How many numbers are in.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.floor + self.above_len
    }

    /// Whether nothing is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The maximal closed ranges, ascending. Cost: what is walked.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut next = 1;
        std::iter::from_fn(move || {
            let from = self.first_in(next)?;
            next = self.first_out(from);
            Some((from, next - 1))
        })
    }

    /// The maximal closed ranges of what is in `self` and not in `other`, ascending.
    pub fn missing_in<'a>(&'a self, other: &'a SeqSet) -> impl Iterator<Item = (u64, u64)> + 'a {
        let mut next = 1;
        std::iter::from_fn(move || {
            loop {
                let from = self.first_in(next)?;
                if other.contains(from) {
                    next = other.first_out(from);
                    continue;
                }
                next = self.first_out(from).min(other.first_in(from).unwrap_or(u64::MAX));
                return Some((from, next - 1));
            }
        })
    }

    /// Adds everything of `other`; how many of those were in already.
    pub fn merge(&mut self, other: &SeqSet) -> u64 {
        let before = self.len();
        for (from, to) in other.ranges() {
            self.insert_range(from, to);
        }
        before + other.len() - self.len()
    }

    /// The smallest member at or above `from`.
    fn first_in(&self, from: u64) -> Option<u64> {
        if from <= self.floor {
            return Some(from.max(1));
        }
        let (chunk, _) = place(from);
        self.above.range(chunk..).find_map(|(&index, held)| {
            let start = from.max(first_of(index));
            match held {
                Chunk::Full => Some(start),
                Chunk::Some { bits, .. } => scan(bits, start, false),
            }
        })
    }

    /// The smallest number at or above `from` that is not in.
    fn first_out(&self, from: u64) -> u64 {
        let mut from = from.max(self.floor + 1);
        loop {
            let (chunk, _) = place(from);
            match self.above.get(&chunk) {
                None => return from,
                Some(Chunk::Full) => {}
                Some(Chunk::Some { bits, .. }) => {
                    if let Some(found) = scan(bits, from, true) {
                        return found;
                    }
                }
            }
            from = last_of(chunk) + 1;
        }
    }

    /// Takes over into the floor what lies directly above it.
    fn absorb(&mut self) {
        let to = self.first_out(self.floor + 1) - 1;
        self.raise_floor(to);
    }

    /// Makes the floor at least `to`, drops what it covers, and takes over what then lies directly above.
    fn raise_floor(&mut self, to: u64) {
        self.floor = self.floor.max(to);
        while let Some(mut first) = self.above.first_entry() {
            let index = *first.key();
            if first_of(index) > self.floor {
                break;
            }
            let whole = last_of(index) <= self.floor;
            let dropped = match first.get_mut() {
                Chunk::Full if whole => CHUNK_NUMBERS,
                // A full chunk that the floor ends in lies directly above it: the floor takes the rest too.
                Chunk::Full => {
                    self.floor = last_of(index);
                    CHUNK_NUMBERS
                }
                Chunk::Some { count, .. } if whole => u64::from(*count),
                Chunk::Some { count, bits } => {
                    let keep_from = place(self.floor + 1).1;
                    for bit in 0..keep_from {
                        bits[bit / 64] &= !(1 << (bit % 64));
                    }
                    let left: u32 = bits.iter().map(|word| word.count_ones()).sum();
                    let dropped = *count - left;
                    *count = left;
                    self.above_len -= u64::from(dropped);
                    if left == 0 {
                        first.remove();
                    }
                    break;
                }
            };
            self.above_len -= dropped;
            first.remove();
        }
        if self.contains(self.floor + 1) {
            self.absorb();
        }
    }

    #[cfg(test)]
    fn invariants(&self) {
        assert!(!self.contains(self.floor + 1), "the floor reaches the first gap");
        let mut held = 0;
        for (&index, chunk) in &self.above {
            assert!(last_of(index) > self.floor, "a chunk at or below the floor is dropped");
            held += match chunk {
                Chunk::Full => CHUNK_NUMBERS,
                Chunk::Some { count, bits } => {
                    let ones: u32 = bits.iter().map(|word| word.count_ones()).sum();
                    assert_eq!(ones, *count, "the count is the number of bits");
                    assert!(
                        ones > 0 && u64::from(ones) < CHUNK_NUMBERS,
                        "empty and full chunks have their own form"
                    );
                    u64::from(ones)
                }
            };
        }
        assert_eq!(held, self.above_len, "the length is the sum of the chunks");
    }
}

impl PartialEq for SeqSet {
    fn eq(&self, other: &SeqSet) -> bool {
        self.len() == other.len() && self.missing_in(other).next().is_none()
    }
}

impl Eq for SeqSet {}

impl From<SeqSet> for Vec<(u64, u64)> {
    fn from(set: SeqSet) -> Self {
        set.ranges().collect()
    }
}

impl From<Vec<(u64, u64)>> for SeqSet {
    fn from(ranges: Vec<(u64, u64)>) -> Self {
        ranges.into_iter().collect()
    }
}

impl FromIterator<(u64, u64)> for SeqSet {
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(ranges: I) -> Self {
        let mut set = SeqSet::new();
        for (from, to) in ranges {
            set.insert_range(from, to);
        }
        set
    }
}

/// The chunk and the bit of a number (from 1).
const fn place(number: u64) -> (u64, usize) {
    ((number - 1) / CHUNK_NUMBERS, ((number - 1) % CHUNK_NUMBERS) as usize)
}

const fn first_of(chunk: u64) -> u64 {
    chunk * CHUNK_NUMBERS + 1
}

const fn last_of(chunk: u64) -> u64 {
    (chunk + 1) * CHUNK_NUMBERS
}

/// The first number at or above `from`, within its chunk, whose bit is set (or clear, if `inverted`).
fn scan(bits: &[u64; WORDS], from: u64, inverted: bool) -> Option<u64> {
    let (chunk, bit) = place(from);
    let flip = if inverted { u64::MAX } else { 0 };
    let mut mask = u64::MAX << (bit % 64);
    for (index, word) in bits.iter().enumerate().skip(bit / 64) {
        let hits = (word ^ flip) & mask;
        if hits != 0 {
            return Some(first_of(chunk) + index as u64 * 64 + u64::from(hits.trailing_zeros()));
        }
        mask = u64::MAX;
    }
    None
}

#[cfg(test)]
mod tests;
