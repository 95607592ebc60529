//! Splits bytes into packets: first byte, Remaining Length, body (MQTT 5.0 §2.1).
//!
//! Knows: the fixed header and its flags, and the largest packet we accept. May use: `varint`, `malformed`.
//! Never: buffers of its own; the caller keeps the bytes and calls again when there are more.
//! In: what has been read so far. Out: one packet borrowed from it, "not yet", or a rule that was broken.
//! Invariant: the answer depends on the bytes of the first packet only, not on how the network cut them.

use crate::malformed::{Malformed, Rule};
use crate::packet::{PacketType, Version};
use crate::varint::{self, Varint};

/// One whole packet, borrowed from the read buffer. Its flags are legal, its body is not looked at yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'t> {
    bytes: &'t [u8],
    body_at: u8,
}

impl<'t> Frame<'t> {
    /// The first byte: packet type and flags.
    #[inline]
    pub const fn header(&self) -> u8 {
        self.bytes[0]
    }

    /// Everything after the Remaining Length.
    #[inline]
    pub fn body(&self) -> &'t [u8] {
        &self.bytes[usize::from(self.body_at)..]
    }

    /// The whole packet, fixed header included.
    #[inline]
    pub const fn bytes(&self) -> &'t [u8] {
        self.bytes
    }

    /// Length of the whole packet: by so much the caller moves on in its buffer.
    #[inline]
    pub const fn total_len(&self) -> usize {
        self.bytes.len()
    }

    /// The type of the packet.
    #[inline]
    pub const fn packet_type(&self) -> Option<PacketType> {
        PacketType::from_header(self.header())
    }

    /// Whether the Remaining Length takes as few bytes as possible: a must in 5.0, not in 3.1.1.
    #[inline]
    pub(crate) const fn is_minimal(&self) -> bool {
        let body_at = self.body_at as usize;
        body_at == 1 + varint::len((self.bytes.len() - body_at) as u32)
    }
}

/// Splits the first packet off `bytes`; `None` if it is not there in whole yet.
///
/// A packet above `packet_bytes_max` (fixed header included) and wrong flags are refused as soon as the fixed
/// header is there, so that nobody makes us wait for, or hold, what we will not take.
/// Cost: constant; the body is not looked at.
#[inline]
pub fn split(bytes: &[u8], packet_bytes_max: u32) -> Result<Option<Frame<'_>>, Malformed> {
    let Some(&header) = bytes.first() else {
        return Ok(None);
    };
    if !flags_are_legal(header) {
        return Err(illegal_header(header));
    }
    match varint::read(&bytes[1..]) {
        Varint::Whole(remaining, len) => {
            let total = 1 + len + remaining as usize;
            if total > packet_bytes_max as usize {
                // [MQTT-3.2.2-15]
                return Err(broken(header, Rule::PacketTooLarge));
            }
            Ok(bytes.get(..total).map(|bytes| Frame { bytes, body_at: 1 + len as u8 }))
        }
        Varint::Cut => Ok(None),
        Varint::TooLong => Err(broken(header, Rule::VarintTooLong)),
    }
}

/// Length of the first packet in `bytes`, fixed header included, as soon as its length field is there.
///
/// For whoever makes room in a read buffer; it says nothing about whether the packet is acceptable.
#[inline]
pub fn bytes_needed(bytes: &[u8]) -> Option<usize> {
    match varint::read(bytes.get(1..)?) {
        Varint::Whole(remaining, len) => Some(1 + len + remaining as usize),
        Varint::Cut | Varint::TooLong => None,
    }
}

/// [MQTT-2.1.3-1] [MQTT3-2.2.2-1]: the flags of every type but PUBLISH are fixed.
#[inline]
const fn flags_are_legal(header: u8) -> bool {
    let flags = header & 0x0F;
    match header >> 4 {
        0 => false,
        // [MQTT-3.3.1-4]: not QoS 3. [MQTT-3.3.1-2]: DUP only with a QoS above 0.
        3 => flags & 0b0110 != 0b0110 && flags & 0b1110 != 0b1000,
        // [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT3-3.6.1-1] [MQTT3-3.8.1-1] [MQTT3-3.10.1-1]
        6 | 8 | 10 => flags == 0b0010,
        _ => flags == 0,
    }
}

#[cold]
fn illegal_header(header: u8) -> Malformed {
    let rule = match header >> 4 {
        0 => Rule::ReservedPacketType,
        3 if header & 0b0110 == 0b0110 => Rule::QosReserved,
        3 => Rule::DupWithQos0,
        _ => Rule::ReservedFlags,
    };
    broken(header, rule)
}

#[cold]
fn broken(header: u8, rule: Rule) -> Malformed {
    Malformed { packet: PacketType::from_header(header), version: None::<Version>, rule }
}
