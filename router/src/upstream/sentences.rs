//! Why a connection to an upstream is not there, in a sentence that says what to do.
//!
//! In: what ended it, the uplink's name. Out: text for the log and the status. Never: a secret.

use broker::uplink::LinkError;
use wire::ReasonCode;

/// What to do about an end of the link; nothing for most, which mend themselves.
pub(super) fn advice(error: &LinkError, uplink: &str) -> Option<String> {
    let key = |key: &str| format!("uplink.{uplink}.{key}");
    let reason = match error {
        LinkError::Refused(reason) | LinkError::Disconnected(reason) => *reason,
        LinkError::NeverAnswers => {
            return Some(format!(
                "allow QoS 1 there; or write {} = 0, and qos=0 into {}, if they may be lost",
                key("qos"),
                key("topics")
            ));
        }
        _ => return None,
    };
    Some(match reason {
        ReasonCode::BAD_USER_NAME_OR_PASSWORD => {
            format!("mend {} and {}, or the account there", key("user"), key("password"))
        }
        ReasonCode::NOT_AUTHORIZED | ReasonCode::BANNED => format!(
            "it knows who we are and does not let us in: ask for the rights of {} there, or mend {} and {}",
            key("client_id"),
            key("user"),
            key("password")
        ),
        ReasonCode::CLIENT_IDENTIFIER_NOT_VALID => {
            format!("it does not take this client identifier; set {}", key("client_id"))
        }
        ReasonCode::UNSUPPORTED_PROTOCOL_VERSION => {
            format!("it speaks another version; set {} to the other one", key("version"))
        }
        ReasonCode::SESSION_TAKEN_OVER => format!(
            "another client has connected with our client identifier; give each its own {}",
            key("client_id")
        ),
        ReasonCode::USE_ANOTHER_SERVER | ReasonCode::SERVER_MOVED => {
            format!("it sends us elsewhere; set {} to where it is now", key("url"))
        }
        ReasonCode::SERVER_UNAVAILABLE | ReasonCode::SERVER_BUSY | ReasonCode::SERVER_SHUTTING_DOWN => {
            "it is up and cannot serve us now; nothing to do here".to_owned()
        }
        _ => return None,
    })
}

/// An error with what to do about it.
pub(super) fn with_advice(error: &LinkError, uplink: &str) -> String {
    match advice(error, uplink) {
        Some(advice) => format!("{error}; {advice}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_says_what_to_do() {
        let say = |reason| with_advice(&LinkError::Refused(reason), "plant");
        let password = say(ReasonCode::BAD_USER_NAME_OR_PASSWORD);
        assert!(password.contains("mend uplink.plant.user and uplink.plant.password"), "{password}");
        assert!(say(ReasonCode::NOT_AUTHORIZED).contains("does not let us in"));
        assert!(say(ReasonCode::UNSUPPORTED_PROTOCOL_VERSION).contains("set uplink.plant.version"));
        assert_eq!(with_advice(&LinkError::Silent, "plant"), "the upstream is silent");
    }
}
