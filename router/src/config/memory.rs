//! The memory ceiling: what the router can hold at most, as a sum of its holders (DESIGN §8, never 5).
//!
//! Knows: `Limits` and what is counted per connection, shard or uplink. In: a `Config`. Out: bytes by holder.
//! Not counted: code, stacks, the allocator's own share, route tables; together some 12 MiB.

use model::Limits;

use super::{Config, Listener, Store, Uplink};

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
                "topic aliases",
                connections * 2 * u64::from(limits.topic_alias_max),
                "aliases × limits.topic_bytes_max",
                u64::from(limits.topic_bytes_max),
            ),
            holder(
                "TLS records and WebSocket frames on their way",
                if self.listeners.iter().any(Listener::has_layers) { connections } else { 0 },
                "connections × what one may have half in and half out",
                (crate::net::LAYER_BYTES_MAX as u64).max(u64::from(limits.handshake_bytes_max)),
            ),
            holder(
                "read in this turn",
                shards,
                "shards × limits.turn_read_bytes_max",
                u64::from(limits.turn_read_bytes_max),
            ),
            holder(
                "waiting for clients, in sessions and for sockets",
                1,
                "× limits.waiting_bytes_max",
                limits.waiting_bytes_max,
            ),
            holder(
                "retained messages",
                shards,
                "shards × limits.retained_bytes_max",
                limits.retained_bytes_max,
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
            holder(
                "of spill and memory routes, not written",
                u64::from(uplinks > 0),
                "× limits.spill_bytes_max",
                limits.spill_bytes_max,
            ),
            holder(
                "edgeHub's series",
                if self.edge.is_some() { 3 * (shards + 2 + uplinks) } else { 0 },
                "(three for each shard, each uplink, the services and the disk) × limits.series_bytes_max",
                u64::from(limits.series_bytes_max),
            ),
            holder(
                "in the store",
                1,
                "× what store.memtable_bytes and limits.packet_bytes_max lead to",
                self.store_options().memory_bytes_max(),
            ),
            holder(
                "entries of the loss ledger",
                u64::from(limits.losses_max),
                "entries × what one takes at most",
                crate::disk::LOSS_BYTES_MAX as u64,
            ),
            holder(
                "verifying passwords",
                self.auth.users.as_ref().map_or(0, |_| self.auth.verify_threads as u64),
                "threads × what the most expensive user takes",
                self.auth.users.as_ref().map_or(0, |users| users.memory_bytes_max()),
            ),
            holder(
                "read ahead for uplinks",
                uplinks,
                "uplinks × limits.uplink_read_bytes_max",
                u64::from(limits.uplink_read_bytes_max),
            ),
            holder(
                "links of identities at IoT Hubs",
                self.uplinks.iter().filter(|uplink| uplink.hub.is_some()).count() as u64
                    * u64::from(limits.uplink_links_max),
                "links × limits.packet_bytes_max and what waits for a socket",
                u64::from(limits.packet_bytes_max) + crate::upstream::LINK_BYTES_MAX,
            ),
            holder(
                "places underway to upstreams",
                uplinks * model::Priority::all().count() as u64,
                "lanes × the larger of limits.uplink_look_ahead_max and limits.uplink_inflight_max × 64",
                u64::from(limits.uplink_look_ahead_max.max(limits.uplink_inflight_max.into())) * 64,
            ),
            holder(
                "places of refused senders",
                uplinks * model::Priority::all().count() as u64,
                "lanes × limits.uplink_held_messages_max × 4",
                // Twice: by lane and by sender.
                u64::from(limits.uplink_held_messages_max) * 4,
            ),
            holder(
                "packing messages",
                self.uplinks.iter().filter(|uplink| uplink.compression.is_some()).count() as u64,
                "uplinks with compression × 16 MiB and a dictionary of 8 MiB",
                24 << 20,
            ),
            holder(
                "unpacking messages",
                self.listeners.iter().filter(|it| it.decompression.is_some()).count() as u64,
                "listeners with accept_zstd × a dictionary of 8 MiB",
                8 << 20,
            ),
            holder(
                "unpacked in this turn",
                if self.listeners.iter().any(|it| it.decompression.is_some()) { shards } else { 0 },
                "shards × (128 × limits.turn_read_bytes_max + 3 × limits.packet_bytes_max)",
                // Two buffers change places, and one message at a time is unpacked beside them; of what waited for its end
                // from earlier reads there is one packet.
                2 * (u64::from(limits.turn_read_bytes_max) * crate::packing::EXPANSION_MAX as u64
                    + u64::from(limits.packet_bytes_max))
                    + u64::from(limits.packet_bytes_max),
            ),
            holder(
                "senders that wait for upstreams",
                self.uplinks.iter().map(|uplink| self.senders_waiting_max(uplink)).sum(),
                "senders (limits.uplink_waiting_senders_max; at IoT Hubs one for each place looked ahead) × 512",
                512,
            ),
            holder(
                "messages in flight to upstreams",
                uplinks,
                "uplinks × limits.uplink_inflight_max × 160",
                u64::from(limits.uplink_inflight_max) * 160,
            ),
        ]
    }

    /// Whoever was in flight on a link of an identity that was lost waits, whatever the number of those who wait already.
    fn senders_waiting_max(&self, uplink: &Uplink) -> u64 {
        let limits = &self.limits;
        let most = u64::from(limits.uplink_waiting_senders_max);
        let places = u64::from(limits.uplink_look_ahead_max.max(limits.uplink_inflight_max.into()));
        match &uplink.hub {
            Some(_) => most.max(places * model::Priority::all().count() as u64),
            None => most,
        }
    }

    /// How the store is opened.
    pub fn store_options(&self) -> store::Options {
        self.store.options(&self.limits)
    }
}

impl Store {
    /// How it is opened: everything in proportion to the memory it may take.
    pub fn options(&self, limits: &Limits) -> store::Options {
        let memtable_bytes = self.memtable_bytes as u64;
        // Room for the largest packet with its topic and the store's own words, whatever the memtable.
        let record_bytes_max = limits.record_bytes_max();
        store::Options {
            sync: self.sync,
            memtable_bytes,
            // Two full memtables and what is being written; below 8 MiB the log would be cut all the time.
            wal_bytes_max: (memtable_bytes * 5 / 2).max(8 << 20),
            cache_bytes: (memtable_bytes / 4).clamp(1 << 20, 8 << 20),
            open_files_max: if memtable_bytes < 8 << 20 { 64 } else { 256 },
            sorted_file_bytes: memtable_bytes.clamp(4 << 20, 32 << 20),
            commit_bytes_max: (memtable_bytes / 2).clamp(1 << 20, 16 << 20).max(record_bytes_max),
            quarantine_bytes_max: limits.quarantine_bytes_max,
            // What was sent at QoS 2 does not expire, and may stand anywhere in a session's lane.
            whole_lanes: Some(crate::disk::SESSION_LANES),
            ..store::Options::new(&self.path)
        }
    }
}
