//! What the broker counted; plain numbers that the edge publishes from time to time.

macro_rules! counters {
    ($( $(#[$doc:meta])* $name:ident ),* $(,)?) => {
        /// Everything one shard counted since the start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $( $(#[$doc])* pub $name: u64 ),* }

        impl Counters {
            /// Every counter with its name, for status and metrics.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$( (stringify!($name), self.$name) ),*].into_iter()
            }

            /// Adds the numbers of another shard.
            pub fn add(&mut self, other: &Counters) {
                $( self.$name += other.$name; )*
            }
        }
    };
}

counters! {
    /// CONNECTs accepted.
    connects_accepted,
    /// CONNECTs refused, for whatever reason.
    connects_refused,
    /// Subscriptions refused, for whatever reason.
    subscriptions_refused,
    /// CONNECTs refused because user name and password do not belong together, or to nobody.
    refused_credentials,
    /// CONNECTs refused because the client may not connect like this: without a user, with this client identifier, with
    /// this will.
    refused_not_authorized,
    /// CONNECTs refused because too many attempts failed before.
    refused_too_many_attempts,
    /// CONNECTs refused because nobody had time to verify the password.
    refused_busy,
    /// Connections closed because their user is gone or has a new password, or may not be anonymous any more.
    closed_access_withdrawn,
    /// Publications of hub clients dropped because their topic is none of the dialect, nor allowed by rules.
    hub_unknown_topics,
    /// Publications of hub clients refused because their twin topic asks for nothing, or for an answer to nobody.
    hub_bad_twin_topics,
    /// Publications of hub clients dropped because their topic names another sender.
    hub_sender_mismatches,
    /// Publications of hub clients dropped because their property bag is none.
    hub_bad_bags,
    /// Publications of hub clients dropped because body and properties are too large.
    hub_too_large,
    /// Subscriptions of hub clients refused: another client's topics, or none of the dialect and not allowed by rules.
    hub_refused_filters,
    /// Requests of hub clients given to services: twins, reported properties, answers to methods.
    hub_requests,
    /// Requests of hub clients refused because too many came in one turn.
    hub_requests_refused,
    /// Reports of hub clients given to routes as messages.
    hub_twin_changes,
    /// The same, dropped because there was no room for them.
    dropped_twin_change,
    /// What services told hub clients.
    hub_answers,
    /// What services told hub clients that were gone, had not subscribed or did not read.
    hub_unanswered,
    /// Modules with no queue for what routes send to them: there are `limits.sessions_max` sessions.
    hub_modules_not_kept,
    /// Messages that routes sent to inputs of modules.
    sent_to_inputs,
    /// Messages of `memory` routes given to modules without being written.
    delivered_unwritten,
    /// Messages for inputs dropped because there is no queue for the module.
    dropped_input_unknown,
    /// Messages for inputs dropped because their properties make no topic.
    dropped_input_topic,
    /// Publications dropped because a rule denies them.
    denied_publish,
    /// Subscriptions refused because a rule denies them.
    denied_subscribe,
    /// Subscriptions and wills removed because new rules deny them.
    access_withdrawn,
    /// Connections closed because the peer sent bytes that are no MQTT packet.
    closed_malformed,
    /// Connections closed because the peer broke a protocol rule.
    closed_protocol,
    /// Connections closed because nothing came within one and a half keep-alive periods.
    closed_keep_alive,
    /// Connections closed because no CONNECT came in time.
    closed_connect_timeout,
    /// Connections closed because another one took over the client identifier.
    closed_taken_over,
    /// Wills published because a connection ended without a goodbye.
    wills,
    /// Wills sent at QoS 0, or not retained, because the store had no room for them.
    wills_weakened,
    /// Publications refused with Quota exceeded because a sink of theirs is full.
    refused_sink_full,
    /// Times that a connection was not read for want of room on the disk.
    withheld,
    /// PUBLISH packets received.
    received,
    /// Payload bytes received.
    received_bytes,
    /// Bytes taken from sockets.
    bytes_in,
    /// Bytes that sockets took.
    bytes_out,
    /// Messages written towards local subscribers.
    delivered,
    /// Messages given to a member of a group that shares a subscription.
    shared,
    /// Messages of groups given to another member because theirs has left.
    shared_again,
    /// Messages that matched at least one route.
    routed,
    /// Messages without any subscriber or route; acknowledged all the same.
    unmatched,
    /// Records handed to the commit log.
    appended,
    /// Publications handed to other shards.
    handed_off,
    /// PUBACKs and PUBRECs sent to publishers.
    acknowledged,
    /// QoS 2 publications that came again with an identifier in use: answered, not forwarded.
    repeats_ignored,
    /// QoS 0 messages dropped because the subscriber's socket takes nothing.
    dropped_outbox_full,
    /// QoS 1 and 2 messages dropped because a connected clean session's queue is full.
    dropped_queue_full,
    /// Messages without a place on disk dropped because all clients together hold the maximum in memory.
    dropped_memory_full,
    /// QoS 1 and 2 messages dropped because a stored session has its maximum waiting.
    dropped_session_full,
    /// Messages of a group dropped because its member has left and nobody else is in it.
    dropped_share_empty,
    /// Messages dropped because they exceed the subscriber's maximum packet size.
    dropped_too_large,
    /// Messages dropped because they expired before they could be delivered.
    dropped_expired,
    /// Messages dropped for an uplink because its budget is used up.
    dropped_sink_full,
    /// QoS 0 messages dropped for an uplink because the store takes no writes and memory holds as much as it may.
    dropped_store_fails,
    /// Messages dropped because a route's topic template gave no valid topic for them.
    dropped_invalid_template,
    /// PUBLISH packets refused because their payload is not the UTF-8 that it is said to be.
    dropped_payload_format,
    /// Messages not sent on a route because its SELECT cannot read the body.
    dropped_not_selectable,
    /// Messages dropped because a client published under `$SYS/`, which is ours.
    dropped_system_topic,
    /// Records that could not be read back as messages.
    dropped_unreadable,
    /// Publications with RETAIN refused because as much is retained as may be.
    retained_refused,
    /// Publications with RETAIN forwarded but not retained, for the same reason.
    retained_not,
    /// Retained messages removed because they expired.
    retained_expired,
    /// QoS 1 and 2 messages sent again after a resumed session.
    redelivered,
    /// PUBACKs, PUBRECs, PUBRELs and PUBCOMPs from clients for packet identifiers that were not in use.
    unexpected_acks,
    /// Faults of our own that closed one session; each is a defect worth a report.
    bugs,
}
