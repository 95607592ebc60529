//! How much room there is on the disk, as the disk thread says it to the shards: numbers, no messages.
//!
//! In: [`Levels`], whenever they change. Out: the same, on each shard, at its next turn.
//! Always: a reader that saw an older version, or half of a newer one, finds another version at its next look.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use broker::{Level, Levels};

/// Written by the disk thread, read by everybody.
#[derive(Debug)]
pub(crate) struct LevelBoard {
    version: AtomicU64,
    takes_writes: AtomicBool,
    store: AtomicU8,
    uplinks: Box<[AtomicU8]>,
    fronts: Box<[AtomicBool]>,
}

impl LevelBoard {
    /// Everything roomy, for this many uplinks.
    pub(crate) fn new(uplinks: usize) -> LevelBoard {
        LevelBoard {
            version: AtomicU64::new(0),
            takes_writes: AtomicBool::new(true),
            store: AtomicU8::new(Level::Roomy as u8),
            uplinks: (0..uplinks).map(|_| AtomicU8::new(Level::Roomy as u8)).collect(),
            fronts: (0..uplinks).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// Changes what is said; whether it was another before: then the shards want to be rung. By the disk thread alone.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Levels)) -> bool {
        let before = self.read();
        let mut levels = before.clone();
        change(&mut levels);
        if levels == before {
            return false;
        }
        self.takes_writes.store(levels.takes_writes, Ordering::Relaxed);
        self.store.store(levels.store as u8, Ordering::Relaxed);
        for (place, level) in self.uplinks.iter().zip(&levels.uplinks) {
            place.store(*level as u8, Ordering::Relaxed);
        }
        for (place, holds) in self.fronts.iter().zip(&levels.fronts) {
            place.store(*holds, Ordering::Relaxed);
        }
        // Release: who sees the version sees what belongs to it.
        self.version.fetch_add(1, Ordering::Release);
        true
    }

    /// What is said now.
    pub(crate) fn read(&self) -> Levels {
        let level = |place: &AtomicU8| Level::from_u8(place.load(Ordering::Relaxed));
        Levels {
            takes_writes: self.takes_writes.load(Ordering::Relaxed),
            store: level(&self.store),
            uplinks: self.uplinks.iter().map(level).collect(),
            fronts: self.fronts.iter().map(|place| place.load(Ordering::Relaxed)).collect(),
        }
    }
}

/// One shard's eye on the board.
#[derive(Debug)]
pub(crate) struct LevelReader {
    board: Arc<LevelBoard>,
    seen: u64,
}

impl LevelReader {
    /// Has seen nothing but the beginning.
    pub(crate) fn new(board: Arc<LevelBoard>) -> LevelReader {
        LevelReader { board, seen: 0 }
    }

    /// What is said now, if it has changed since the last time.
    pub(crate) fn news(&mut self) -> Option<Levels> {
        let version = self.board.version.load(Ordering::Acquire);
        (version != self.seen).then(|| {
            self.seen = version;
            self.board.read()
        })
    }
}

/// A level for people.
pub(crate) const fn word_of(level: Level) -> &'static str {
    match level {
        Level::Roomy => "roomy",
        Level::FullForOrdinary => "full but for urgent priorities",
        Level::FullForUrgent => "full",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_hears_of_each_change_once() {
        let board = Arc::new(LevelBoard::new(2));
        let (mut one, mut other) =
            (LevelReader::new(Arc::clone(&board)), LevelReader::new(Arc::clone(&board)));
        assert_eq!(one.news(), None, "in the beginning everything is roomy");
        assert!(board.change(|levels| levels.uplinks[1] = Level::FullForUrgent));
        assert!(!board.change(|levels| levels.uplinks[1] = Level::FullForUrgent), "nothing new");
        let uplinks = [Level::Roomy, Level::FullForUrgent].into();
        let expected = Levels { takes_writes: true, store: Level::Roomy, uplinks, fronts: [false; 2].into() };
        assert_eq!((one.news(), one.news()), (Some(expected.clone()), None));
        assert!(board.change(|levels| levels.takes_writes = false));
        let expected = Levels { takes_writes: false, ..expected };
        assert_eq!((one.news(), other.news()), (Some(expected.clone()), Some(expected)));
    }
}
