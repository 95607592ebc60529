//! The keys of the store.
//!
//! In and out: as `schema`.

use super::{Allowed, Default, Key, integer, key};

pub(in super::super) static STORE_PATH: Key = key(
    "store.path",
    Allowed::Text,
    Default::Text("millrace-data"),
    "Directory of the commit log and of durable state; created if missing. A relative path counts from the \
     working directory.",
);
pub(in super::super) static STORE_MEMTABLE_BYTES: Key = integer(
    "store.memtable_bytes",
    1 << 20,
    1 << 30,
    32 << 20,
    "Memory in which the store collects writes before it writes a table file. Larger means fewer, larger \
     writes, and a longer restart after a crash.",
);
pub(in super::super) static STORE_SYNC: Key = key(
    "store.sync",
    Allowed::Boolean,
    Default::Boolean(true),
    "Whether an acknowledgement waits until the disk has the message. `false` is for measurements: a power \
     cut then loses acknowledged messages, and every start says so.",
);

pub(in super::super) static STORE_COMMIT_INTERVAL_MS: Key = integer(
    "store.commit_interval_ms",
    0,
    20,
    1,
    "Least time between two small groups on their way to the disk: what comes meanwhile shares a sync, and its acknowledgements \
     wait that long at most. The first message after an idle time does not wait, a group of 16 KiB does not, and nobody does while \
     waiting brings nothing. More spares flash and CPU; 0 never waits.",
);

pub(in super::super) static STORE_BYTES_MAX: Key = integer(
    "store.bytes_max",
    0,
    1 << 50,
    0,
    "Most bytes that the store takes on the disk: messages, write-ahead log, what is quarantined, and the room that \
     merging files needs; at that point `uplink.NAME.when_full` decides. 0 means what the file system has. Space that \
     the file system does not have counts as taken, whatever is written here.",
);
pub(in super::super) static STORE_RESERVE_PERCENT: Key = integer(
    "store.reserve_percent",
    0,
    50,
    10,
    "Part of `store.bytes_max` and of each `uplink.NAME.bytes_max` that only messages of the priorities 0, 1 and 2 may use.",
);
pub(in super::super) static STORE_KEEP_VANISHED_SECS: Key = integer(
    "store.keep_vanished_secs",
    0,
    4_294_967_295,
    604_800,
    "How long messages for an uplink that is not configured any more are kept. Configured again within that time it \
     goes on with them; after it they are removed, with an entry in the loss ledger.",
);
