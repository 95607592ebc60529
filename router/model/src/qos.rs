//! Quality of service (MQTT 5.0 §4.3).

/// What sender and receiver promise each other about one message (MQTT 5.0 §4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Qos {
    /// QoS 0: at most once, no acknowledgement.
    #[default]
    AtMostOnce = 0,
    /// QoS 1: at least once, acknowledged by PUBACK.
    AtLeastOnce = 1,
    /// QoS 2: exactly once, acknowledged in two steps.
    ExactlyOnce = 2,
}

impl Qos {
    /// The level with this number; `None` above 2 (3 is a malformed packet, [MQTT-3.3.1-4]).
    #[inline]
    pub const fn from_bits(bits: u8) -> Option<Qos> {
        match bits {
            0 => Some(Qos::AtMostOnce),
            1 => Some(Qos::AtLeastOnce),
            2 => Some(Qos::ExactlyOnce),
            _ => None,
        }
    }

    /// The number on the wire, 0 to 2.
    #[inline]
    pub const fn bits(self) -> u8 {
        self as u8
    }
}
