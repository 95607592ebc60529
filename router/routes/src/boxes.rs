//! Routes that bound several values at once (`temp > 20 AND pressure < 3`), where no single bound rules out much.
//!
//! Knows: sets of routes as bits, one row of bits for every 64 bounds. May use: `index` (keys), `program`, `value`.
//! In:  bounds while compiling; filled slots while matching. Out: the routes all of whose bounds hold.
//! Invariant: memory is about `routes² / 512` bytes per bounded value and side; there are at most [`SIDES_MAX`].

use std::cmp::Ordering;

use crate::index::{Candidate, Key};
use crate::program::Machine;
use crate::value::{Value, numbers};

/// Most sides (a value with a direction) of one group; with more, each route is found by one bound alone.
pub(crate) const SIDES_MAX: usize = 16;

/// A bound of one route.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bound {
    pub(crate) key: Key,
    /// `Less`: the bound lies below the value (`value > bound`); `Greater`: above it.
    pub(crate) side: Ordering,
    pub(crate) bound: f64,
    pub(crate) excluded: bool,
}

/// Routes and their bounds.
#[derive(Debug, Default)]
pub(crate) struct Boxes {
    sides: Vec<Side>,
    routes: Vec<Candidate>,
}

#[derive(Debug)]
struct Side {
    key: Key,
    side: Ordering,
    /// Bound, excluded, place of its route; ordered so that what holds is a prefix.
    rows: Vec<(f64, bool, u32)>,
    /// The routes that have no bound here.
    free: Vec<u64>,
    /// For every 64th row the routes of all rows before it, `words` each.
    held: Vec<u64>,
}

impl Boxes {
    pub(crate) fn new(routes: &[(Candidate, Vec<Bound>)]) -> Boxes {
        let mut boxes = Boxes { sides: Vec::new(), routes: routes.iter().map(|(route, _)| *route).collect() };
        for (place, (_, bounds)) in routes.iter().enumerate() {
            for bound in bounds {
                boxes.side(bound).rows.push((bound.bound, bound.excluded, place as u32));
            }
        }
        let words = boxes.words();
        for side in &mut boxes.sides {
            side.finish(routes.len(), words);
        }
        boxes
    }

    fn side(&mut self, bound: &Bound) -> &mut Side {
        let known = self.sides.iter().position(|side| side.key == bound.key && side.side == bound.side);
        let at = known.unwrap_or_else(|| {
            let (key, side) = (bound.key, bound.side);
            self.sides.push(Side { key, side, rows: Vec::new(), free: Vec::new(), held: Vec::new() });
            self.sides.len() - 1
        });
        &mut self.sides[at]
    }

    fn words(&self) -> usize {
        self.routes.len().div_ceil(64)
    }

    /// Appends the routes all of whose bounds hold. `bits` is working space.
    pub(crate) fn find(&self, machine: &Machine<'_>, bits: &mut Vec<u64>, candidates: &mut Vec<Candidate>) {
        let words = self.words();
        bits.clear();
        bits.resize(words * 2, u64::MAX);
        let (all, holds) = bits.split_at_mut(words);
        for side in &self.sides {
            side.restrict(machine, all, holds);
        }
        for (word, bits) in all.iter().enumerate() {
            let mut rest = *bits;
            while rest != 0 {
                let place = word * 64 + rest.trailing_zeros() as usize;
                candidates.extend(self.routes.get(place));
                rest &= rest - 1;
            }
        }
    }
}

impl Side {
    fn finish(&mut self, routes: usize, words: usize) {
        let side = self.side;
        self.rows.sort_by(|left, right| {
            let order = numbers(left.0, right.0);
            (if side == Ordering::Less { order } else { order.reverse() }).then(left.1.cmp(&right.1))
        });
        // A route with two bounds on one side holds where the stricter one does: only the later row counts.
        let mut last = vec![u32::MAX; routes];
        for (at, row) in self.rows.iter().enumerate() {
            last[row.2 as usize] = at as u32;
        }
        let mut at = 0;
        self.rows.retain(|row| {
            at += 1;
            last[row.2 as usize] == at - 1
        });
        self.free = vec![u64::MAX; words];
        let mut held = vec![0; words];
        for (at, (_, _, place)) in self.rows.iter().enumerate() {
            if at % 64 == 0 {
                self.held.extend(&held);
            }
            clear(&mut self.free, *place);
            set(&mut held, *place);
        }
        if self.rows.len().is_multiple_of(64) {
            self.held.extend(&held);
        }
    }

    /// Leaves in `all` the routes that have no bound here or whose bound holds.
    fn restrict(&self, machine: &Machine<'_>, all: &mut [u64], holds: &mut [u64]) {
        let Value::Number(value) = self.key.value(machine) else {
            all.iter_mut().zip(&self.free).for_each(|(all, free)| *all &= free);
            return;
        };
        let satisfied = self.rows.partition_point(|(bound, excluded, _)| match numbers(*bound, value) {
            Ordering::Equal => !excluded,
            order => order == self.side,
        });
        let (row, words) = (satisfied / 64, all.len());
        holds.copy_from_slice(&self.held[row * words..(row + 1) * words]);
        for (_, _, place) in &self.rows[row * 64..satisfied] {
            set(holds, *place);
        }
        for ((all, free), holds) in all.iter_mut().zip(&self.free).zip(holds.iter()) {
            *all &= free | holds;
        }
    }
}

fn set(bits: &mut [u64], place: u32) {
    bits[place as usize / 64] |= 1 << (place % 64);
}

fn clear(bits: &mut [u64], place: u32) {
    bits[place as usize / 64] &= !(1 << (place % 64));
}
