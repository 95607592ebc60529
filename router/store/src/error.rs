//! Why a store does not open, and why it does not do what it was asked.
//!
//! Knows: RocksDB's error texts and what they mean for us. May use: `model`. Never: acts on them.
//! Invariant: the variant decides what the caller does, the text is one sentence for a tired operator:
//! what happened, where, what to do.

use model::{LaneId, Seq};
use std::path::PathBuf;
use std::sync::Arc;

/// Why a store does not open. Nothing on the disk has been changed, unless the text says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is nothing, and we may not create.
    #[error("there is no store at {}; check store.path, or start once with creation allowed", path.display())]
    Missing {
        /// Where we looked.
        path: PathBuf,
    },
    /// Another process (or another part of this one) has it open.
    #[error("the store at {} is in use by another process; stop that one first, two must never share a store", path.display())]
    LockedByAnother {
        /// The store.
        path: PathBuf,
    },
    /// Written by a later version of Millrace. It is left as it is.
    #[error(
        "the store at {} has format {found}, this version reads up to {supported}; start the newer Millrace again, or choose another store.path (the store was left as it is)",
        path.display()
    )]
    NewerFormat {
        /// The store.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        supported: u32,
    },
    /// The directory holds something else. It is left as it is.
    #[error("{} is not a store ({found}); it was left as it is, choose an empty directory as store.path", path.display())]
    NotAStore {
        /// Where we looked.
        path: PathBuf,
        /// What we saw there.
        found: String,
    },
    /// It is a store, but it cannot be read.
    #[error(
        "the store at {} is damaged: {detail}; keep a copy of the directory, then run `millrace store repair`, which keeps all that can be read, or start with an empty store.path",
        path.display()
    )]
    Corrupt {
        /// The store.
        path: PathBuf,
        /// What is wrong, in RocksDB's or our words.
        detail: String,
    },
    /// The disk is full.
    #[error("the disk of the store at {} is full ({detail}); free some space, nothing is lost", path.display())]
    NoSpace {
        /// The store.
        path: PathBuf,
        /// The system's words.
        detail: String,
    },
    /// The operating system refused something.
    #[error("the store at {} cannot be opened: {detail}; check permissions and the disk", path.display())]
    Io {
        /// The store.
        path: PathBuf,
        /// The system's words.
        detail: String,
    },
}

/// Why the store does not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A write or a sync failed, now or earlier. Nothing of that commit is confirmed and nothing more is written, since
    /// nobody can say what is on the disk; reading goes on. [`crate::Log::try_recover`] starts again from the disk.
    #[error("the store takes no writes since one failed: {0}")]
    Poisoned(Fault),
    /// A read failed for a reason that is not one record's.
    #[error("the store cannot be read: {0}")]
    Unreadable(Fault),
    /// These places of a lane are damaged or missing. What is before and after them is intact:
    /// count them as lost, then go on at the place after `up_to`.
    #[error("lane {lane}: places {from} to {up_to} are damaged or missing")]
    Damaged {
        /// The lane.
        lane: LaneId,
        /// First damaged place.
        from: Seq,
        /// Last one.
        up_to: Seq,
    },
    /// The group would become larger than `commit_bytes_max`. Nothing was added: commit, then append again.
    #[error(
        "{staged_bytes} bytes wait for a commit, {record_bytes} more are over the limit of {limit_bytes}"
    )]
    CommitFull {
        /// Bytes appended since the last commit.
        staged_bytes: u64,
        /// Bytes of this record.
        record_bytes: u64,
        /// `Options::commit_bytes_max`.
        limit_bytes: u64,
    },
    /// The record is larger than any commit may be.
    #[error("a record of {record_bytes} bytes is over the limit of {limit_bytes} (store.commit_bytes_max)")]
    RecordTooLarge {
        /// Its size, overhead included.
        record_bytes: u64,
        /// `Options::commit_bytes_max`.
        limit_bytes: u64,
    },
    /// No such lane, or it was removed.
    #[error("lane {0} does not exist")]
    UnknownLane(LaneId),
    /// A lane's name is empty or longer than `LANE_NAME_BYTES_MAX`.
    #[error("a lane's name has 1 to {} bytes, this one has {bytes}", crate::LANE_NAME_BYTES_MAX)]
    LaneName {
        /// Its length.
        bytes: usize,
    },
    /// All numbers for lanes are used up (4 294 967 294 of them).
    #[error("no lane can be added: all numbers are used up")]
    TooManyLanes,
    /// A cursor cannot pass the end of its lane: a mistake of the caller.
    #[error("lane {lane} ends before {tail}, so nothing was delivered up to {up_to}")]
    NotAppended {
        /// The lane.
        lane: LaneId,
        /// What the caller asked for.
        up_to: Seq,
        /// The next place to be assigned.
        tail: Seq,
    },
    /// Places cannot be passed over while others are handed out: a mistake of the caller.
    #[error("lane {0} collects records: commit before passing over places")]
    Collecting(LaneId),
    /// The log was closed while a reader was still there.
    #[error("the store is closed")]
    Closed,
}

/// What went wrong below us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What it means.
    pub kind: FaultKind,
    /// RocksDB's words.
    pub detail: Arc<str>,
}

/// What a fault means for whoever must act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// The disk or the quota is full: free space, then recover.
    NoSpace,
    /// The system refused to write or sync for another reason: the medium may be dying.
    Io,
    /// Bytes are not what was written.
    Corrupt,
    /// Anything else.
    Other,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.kind {
            FaultKind::NoSpace => "the disk is full",
            FaultKind::Io => "the disk refused",
            FaultKind::Corrupt => "the disk gave back other bytes than were written",
            FaultKind::Other => "RocksDB refused",
        };
        write!(f, "{what} ({})", self.detail)
    }
}

impl From<rocksdb::Error> for Fault {
    fn from(error: rocksdb::Error) -> Fault {
        let kind = match error.kind() {
            // Once a background write has failed, RocksDB repeats its text behind other status codes.
            _ if says_no_space(error.as_ref()) => FaultKind::NoSpace,
            rocksdb::ErrorKind::IOError => FaultKind::Io,
            rocksdb::ErrorKind::Corruption => FaultKind::Corrupt,
            _ => FaultKind::Other,
        };
        Fault { kind, detail: error.into_string().into() }
    }
}

impl StoreError {
    /// For a read that failed.
    pub(crate) fn unreadable(error: rocksdb::Error) -> StoreError {
        StoreError::Unreadable(error.into())
    }
}

impl OpenError {
    /// What RocksDB's refusal to open means.
    pub(crate) fn from_engine(path: &std::path::Path, error: rocksdb::Error) -> OpenError {
        let path = path.to_owned();
        let text: &str = error.as_ref();
        // RocksDB's own lock: only if somebody opened the inner directory with another tool.
        if text.contains("lock file") || text.contains("lock hold by") {
            return OpenError::LockedByAnother { path };
        }
        let fault = Fault::from(error);
        let detail = fault.detail.to_string();
        match fault.kind {
            FaultKind::NoSpace => OpenError::NoSpace { path, detail },
            FaultKind::Io => OpenError::Io { path, detail },
            FaultKind::Corrupt | FaultKind::Other => OpenError::Corrupt { path, detail },
        }
    }

    /// What the operating system's refusal means.
    pub(crate) fn from_io(path: &std::path::Path, error: std::io::Error) -> OpenError {
        let (path, detail) = (path.to_owned(), error.to_string());
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                OpenError::NoSpace { path, detail }
            }
            _ => OpenError::Io { path, detail },
        }
    }
}

fn says_no_space(text: &str) -> bool {
    // glibc's and musl's words for ENOSPC, and for EDQUOT; RocksDB hands them on.
    text.contains("No space left on device")
        || text.contains("Disk quota exceeded")
        || text.contains("Quota exceeded")
        || text.contains("NoSpace")
}
