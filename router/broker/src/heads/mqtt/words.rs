//! What we say to people: reason strings, and where they may go (MQTT 5.0 §3.1.2.11.7, §3.1.2.11.4).
//!
//! In: a reason code and what it is about. Out: a short sentence that names the limit or the clause.
//! Always: a packet of ours never exceeds what the client takes [MQTT-3.1.2-24]; words are the first to be left out
//! [MQTT-3.2.2-19] [MQTT-3.9.2-1] [MQTT-3.11.2-1] [MQTT-3.14.2-3].

use model::{Limits, TopicFilter};
use wire::{ReasonCode, Unencodable};

use super::topic_fits;
use crate::connections::Connection;

/// Appends a packet of ours to `out`: with words if the client wants them and they fit, else without. `false`, and
/// nothing is appended, if even that is more than the client takes, or cannot be said.
pub(super) fn append_fitting(
    out: &mut Vec<u8>,
    (wants_words, bytes_max): (bool, u32),
    encode: impl Fn(&mut Vec<u8>, bool) -> Result<(), Unencodable>,
) -> bool {
    let start = out.len();
    for words in [true, false] {
        if words && !wants_words {
            continue; // [MQTT-3.1.2-29]
        }
        if encode(out, words).is_ok() && out.len() - start <= bytes_max as usize {
            return true;
        }
        out.truncate(start);
    }
    false
}

/// What bounds the packets that we make for a connection.
pub(super) fn room(connection: &Connection) -> (bool, u32) {
    (connection.wants_words, connection.packet_bytes_max)
}

/// Why a CONNECT is refused, or was before it came (`at_the_door`).
pub(super) fn of_refusal(reason: ReasonCode, at_the_door: bool, limits: &Limits) -> Option<String> {
    Some(match reason {
        ReasonCode::CONNECTION_RATE_EXCEEDED => {
            format!("limits.connects_per_sec_max ({}) is exceeded", limits.connects_per_sec_max)
        }
        ReasonCode::QUOTA_EXCEEDED if at_the_door => {
            format!("limits.connections_max ({}) is reached", limits.connections_max)
        }
        ReasonCode::BAD_AUTHENTICATION_METHOD => "this server knows no authentication method".to_owned(),
        ReasonCode::CLIENT_IDENTIFIER_NOT_VALID => {
            format!(
                "the client identifier is longer than limits.client_id_bytes_max ({})",
                limits.client_id_bytes_max
            )
        }
        ReasonCode::TOPIC_NAME_INVALID => format!("the Will Topic {}", too_long(limits)),
        ReasonCode::QUOTA_EXCEEDED => format!("limits.sessions_max ({}) is reached", limits.sessions_max),
        ReasonCode::PACKET_TOO_LARGE => "this CONNACK does not fit into the Maximum Packet Size".to_owned(),
        ReasonCode::SERVER_UNAVAILABLE => {
            "the store takes no writes: a session cannot be stored now".to_owned()
        }
        _ => return None,
    })
}

/// Why a subscription is refused.
pub(super) fn of_filter(filter: &str, reason: ReasonCode, own_count: usize, limits: &Limits) -> String {
    let why = match reason {
        ReasonCode::TOPIC_FILTER_INVALID => match TopicFilter::new(filter) {
            Err(error) => error.to_string(),
            Ok(_) if !topic_fits(filter, limits) => format!("it {}", too_long(limits)),
            Ok(_) => "it is not allowed here".to_owned(),
        },
        ReasonCode::QUOTA_EXCEEDED if own_count < limits.subscriptions_per_session_max as usize => {
            format!("limits.subscriptions_max ({}) is reached", limits.subscriptions_max)
        }
        ReasonCode::QUOTA_EXCEEDED => format!(
            "limits.subscriptions_per_session_max ({}) is reached",
            limits.subscriptions_per_session_max
        ),
        other => other.name().to_owned(),
    };
    // The filter is the client's own text and may be long.
    let shown = filter.char_indices().nth(64).map_or(filter, |(at, _)| &filter[..at]);
    format!("\"{shown}\": {why}")
}

fn too_long(limits: &Limits) -> String {
    format!(
        "has more than limits.topic_bytes_max ({}) bytes or limits.topic_levels_max ({}) levels",
        limits.topic_bytes_max, limits.topic_levels_max
    )
}
