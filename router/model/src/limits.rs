//! Every bound of the router, by name (DESIGN §8, never 5).

/// Bounds of one process. A buffer, queue or map that is not named here may not grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, over all shards.
    pub connections_max: u32,
    /// How long a connection may stay without a complete CONNECT.
    pub connect_timeout_millis: u64,
    /// How long a client waits for its password to be verified.
    pub authentication_timeout_millis: u64,
    /// Passwords that wait to be verified; above it a client is refused and told that we are busy.
    pub authentication_queue_max: u32,
    /// Devices and modules that may be known.
    pub identities_max: u32,
    /// Clients that wait while their identity is looked up.
    pub identity_lookups_max: u32,
    /// Credentials that were found good a moment ago and are not verified again.
    pub authentication_cache_max: u32,
    /// Users and addresses whose failed attempts are remembered.
    pub failed_attempts_max: u32,
    /// Users in the password file.
    pub password_entries_max: u32,
    /// Memory that verifying one password may take.
    pub password_memory_bytes_max: u32,
    /// Rules of who may publish and subscribe.
    pub acl_rules_max: u32,
    /// Bytes of a PROXY header, TLS handshake or WebSocket request that have come and are not the whole of it.
    pub handshake_bytes_max: u32,
    /// Largest MQTT packet we accept, in bytes, fixed header included.
    pub packet_bytes_max: u32,
    /// Longest client identifier, in bytes.
    pub client_id_bytes_max: u32,
    /// Longest topic, in bytes.
    pub topic_bytes_max: u32,
    /// Most levels of a topic.
    pub topic_levels_max: u32,
    /// Topic aliases of one connection, in each direction (MQTT 5.0 §3.3.2.3.4); 0 is none.
    pub topic_alias_max: u16,
    /// Longest keep-alive of an MQTT 5.0 client, in seconds; one that wants more, or none, is told. 0 is no bound.
    pub keep_alive_secs_max: u16,
    /// Connections accepted per second, over all listeners, with a burst of as many; 0 is no bound.
    pub connects_per_sec_max: u32,
    /// Subscriptions of all sessions together.
    pub subscriptions_max: u32,
    /// Subscriptions of one session.
    pub subscriptions_per_session_max: u32,
    /// Sessions kept, connected or not.
    pub sessions_max: u32,
    /// QoS 1 and 2 messages on their way to one client, not yet acknowledged. Acknowledged ones behind an open one are
    /// remembered, up to [`Limits::session_inflight_span`] in all.
    pub session_inflight_max: u16,
    /// Messages that wait in memory for one connected session beyond those in flight.
    pub session_queue_messages_max: u32,
    /// The same, in bytes.
    pub session_queue_bytes_max: u32,
    /// Messages that wait on disk for one session.
    pub session_stored_messages_max: u64,
    /// Lanes of the inputs of one module, one for each input and priority; what goes to further ones is in the lane of its
    /// session.
    pub module_lanes_max: u16,
    /// Longest session expiry we grant, in seconds (MQTT 5.0 §3.1.2.11.2).
    pub session_expiry_secs_max: u32,
    /// Topics with a retained message.
    pub retained_messages_max: u32,
    /// Bytes of all retained messages, 128 for each of them included; every shard holds that much.
    pub retained_bytes_max: u64,
    /// Bytes encoded for one socket that it has not taken yet; QoS 0 above it is dropped and counted.
    pub outbox_bytes_max: u32,
    /// Bytes of messages that wait for all clients together, in outboxes and queues; above it QoS 0 and clean sessions'
    /// messages are dropped and counted, and stored sessions wait on disk.
    pub waiting_bytes_max: u64,
    /// Bytes read from one socket in one turn.
    pub turn_read_bytes_max: u32,
    /// Publications that one client may have waiting for the disk, and with MQTT 5 waiting for its PUBREL (our Receive
    /// Maximum).
    pub receive_max: u16,
    /// Bytes appended by one shard and not yet durable; above it the shard stops reading sockets, or, while the store takes
    /// no writes, those whose next packet needs the disk.
    pub commit_bytes_max: u32,
    /// Bytes read behind a packet that waits for room on the disk, to find PINGREQ and acknowledgements there.
    pub withheld_bytes_max: u32,
    /// Batches on their way from one shard to another.
    pub handoff_batches_max: u32,
    /// Bytes of one such batch.
    pub handoff_batch_bytes_max: u32,
    /// Routes in one table.
    pub routes_max: u32,
    /// Longest route text, in bytes.
    pub route_bytes_max: u32,
    /// Deepest nesting of a route's condition.
    pub route_depth_max: u32,
    /// Names in one `$body` path.
    pub body_path_names_max: u32,
    /// Bytes of a body that predicates look at; a longer body is undefined to them.
    pub body_scan_bytes_max: u32,
    /// Deepest nesting of a JSON body that predicates look at.
    pub body_depth_max: u32,
    /// Bytes of arrays in one body that ANY and ALL look at, all routes together; what goes beyond is undefined.
    pub body_elements_bytes_max: u32,
    /// Keys that one shard's SAMPLE, THROTTLE and CHANGED clauses remember; the least used are forgotten.
    pub route_keys_max: u32,
    /// Memory that messages of `spill` routes take while the upstream keeps up and they need not be written, over all
    /// uplinks; above it the most of one lane is written.
    pub spill_bytes_max: u64,
    /// Memory that edgeHub's series take, by identity and output, on each shard; above it further ones are counted together.
    pub series_bytes_max: u32,
    /// Messages in flight to one upstream.
    pub uplink_inflight_max: u16,
    /// Bytes read ahead from the lanes of one uplink.
    pub uplink_read_bytes_max: u32,
    /// Messages of one lane that may be sent and not settled.
    pub uplink_look_ahead_max: u32,
    /// Messages of one lane that may wait for their senders, which the upstream refuses.
    pub uplink_held_messages_max: u32,
    /// Senders of one uplink that may wait because the upstream refuses their messages.
    pub uplink_waiting_senders_max: u32,
    /// Links of one uplink whose identities have links of their own.
    pub uplink_links_max: u32,
    /// Links of one such uplink opened per second.
    pub uplink_opens_per_sec: u32,
    /// Entries of the loss ledger; above it the oldest are forgotten and counted.
    pub losses_max: u32,
    /// Bytes of damaged data that the store sets aside.
    pub quarantine_bytes_max: u64,
}

impl Limits {
    /// What a gateway has that says nothing else.
    pub const DEFAULT: Limits = Limits {
        connections_max: 10_000,
        connect_timeout_millis: 10_000,
        authentication_timeout_millis: 30_000,
        authentication_queue_max: 4_096,
        identities_max: 10_000,
        identity_lookups_max: 256,
        authentication_cache_max: 10_000,
        failed_attempts_max: 10_000,
        password_entries_max: 100_000,
        password_memory_bytes_max: 64 << 20,
        acl_rules_max: 100_000,
        handshake_bytes_max: 16 << 10,
        packet_bytes_max: 1 << 20,
        client_id_bytes_max: 1_024,
        topic_bytes_max: 4_096,
        topic_levels_max: 64,
        topic_alias_max: 16,
        keep_alive_secs_max: 0,
        connects_per_sec_max: 0,
        subscriptions_max: 250_000,
        subscriptions_per_session_max: 1_000,
        sessions_max: 20_000,
        session_inflight_max: 1_024,
        session_queue_messages_max: 100_000,
        session_queue_bytes_max: 16 << 20,
        session_stored_messages_max: 1_000_000,
        module_lanes_max: 64,
        session_expiry_secs_max: 30 * 24 * 3600,
        retained_messages_max: 200_000,
        retained_bytes_max: 64 << 20,
        outbox_bytes_max: 4 << 20,
        waiting_bytes_max: 256 << 20,
        turn_read_bytes_max: 256 << 10,
        receive_max: 4_096,
        commit_bytes_max: 32 << 20,
        withheld_bytes_max: 8 << 10,
        handoff_batches_max: 1_024,
        handoff_batch_bytes_max: 1 << 20,
        routes_max: 20_000,
        route_bytes_max: 16 << 10,
        route_depth_max: 64,
        body_path_names_max: 32,
        body_scan_bytes_max: 1 << 20,
        body_depth_max: 64,
        body_elements_bytes_max: 4 << 20,
        route_keys_max: 100_000,
        spill_bytes_max: 8 << 20,
        series_bytes_max: 8 << 20,
        uplink_inflight_max: 16_384,
        uplink_read_bytes_max: 4 << 20,
        uplink_look_ahead_max: 16_384,
        uplink_held_messages_max: 1 << 20,
        uplink_waiting_senders_max: 256,
        uplink_links_max: 128,
        uplink_opens_per_sec: 10,
        losses_max: 10_000,
        quarantine_bytes_max: 16 << 20,
    };
}

impl Limits {
    /// Bytes of the largest record that a publication becomes: a topic alias may stand for a long topic.
    pub const fn record_bytes_max(&self) -> u64 {
        self.packet_bytes_max as u64 + (64 << 10)
    }

    /// How far ahead of the oldest message that a client has not acknowledged it may be sent others.
    #[inline]
    pub const fn session_inflight_span(&self) -> u32 {
        4 * self.session_inflight_max as u32
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits::DEFAULT
    }
}
