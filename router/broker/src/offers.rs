//! What an operator lets the router say to clients, beside its limits: hints that a client may follow.
//!
//! In: configuration. Out: parts of CONNACK and DISCONNECT. Never: a bound; those are in `model::Limits`.

/// Hints and checks that are off unless configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// The basis for response topics (MQTT 5.0 §3.2.2.3.15); `%c` stands for the client identifier.
    pub response_information: Option<Box<str>>,
    /// Where clients should go instead.
    pub redirect: Option<Redirect>,
    /// Whether a payload that its publisher calls UTF-8 is checked to be that (MQTT 5.0 §3.3.2.3.2).
    pub check_payload_format: bool,
}

/// Another server for our clients (MQTT 5.0 §4.11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Its name, as clients know it: `HOST`, `HOST:PORT`, or several with spaces between.
    pub to: Box<str>,
    /// For good: nobody is let in any more. Otherwise clients are sent there when this process stops.
    pub moved: bool,
}

impl Offers {
    /// The basis for response topics of this client.
    pub(crate) fn response_information(&self, client_id: &str) -> Option<String> {
        self.response_information.as_ref().map(|text| text.replace("%c", client_id))
    }
}
