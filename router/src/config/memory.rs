//! The memory ceiling: what the router can hold at most, as a sum of its holders (DESIGN §8, never 5).
//!
//! Knows: `Limits` and what is counted per connection, shard or uplink. In: a `Config`. Out: bytes by holder.
//! Not counted: code, stacks, the allocator's own share, route tables; together some 12 MiB.

use super::Config;

/// One term of the ceiling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Who holds the bytes.
    pub name: &'static str,
    /// How the bytes come about, in key names.
    pub formula: String,
    /// Most bytes held.
    pub bytes: u64,
}

impl Config {
    /// The terms of the memory ceiling; their sum is the ceiling. Costs nothing worth counting.
    pub fn memory_ceiling(&self) -> Vec<Holder> {
        let limits = &self.limits;
        let shards = self.shards as u64;
        let uplinks = self.uplinks.len() as u64;
        let connections = u64::from(limits.connections_max);
        let holder = |name, count: u64, of: &str, bytes: u64| Holder {
            name,
            formula: format!("{count} {of}"),
            bytes: count.saturating_mul(bytes),
        };
        vec![
            holder(
                "packets not yet complete",
                connections,
                "× limits.packet_bytes_max",
                u64::from(limits.packet_bytes_max),
            ),
            holder(
                "read in this turn",
                shards,
                "shards × limits.turn_read_bytes_max",
                u64::from(limits.turn_read_bytes_max),
            ),
            holder(
                "for sockets that take nothing now",
                connections,
                "× limits.outbox_bytes_max",
                u64::from(limits.outbox_bytes_max),
            ),
            holder(
                "waiting for connected sessions",
                connections,
                "× limits.session_queue_bytes_max",
                u64::from(limits.session_queue_bytes_max),
            ),
            holder(
                "on the way from shard to shard",
                shards * (shards - 1) * u64::from(limits.handoff_batches_max),
                "batches × limits.handoff_batch_bytes_max",
                u64::from(limits.handoff_batch_bytes_max),
            ),
            holder(
                "on the way to the disk",
                shards,
                "shards × limits.commit_bytes_max",
                u64::from(limits.commit_bytes_max),
            ),
            // One memtable takes writes while the one before is written out.
            holder("in the store", 2, "× store.memtable_bytes", self.store.memtable_bytes as u64),
            holder(
                "read ahead for uplinks",
                uplinks,
                "uplinks × limits.uplink_read_bytes_max",
                u64::from(limits.uplink_read_bytes_max),
            ),
        ]
    }
}
