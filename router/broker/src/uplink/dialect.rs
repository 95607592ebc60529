//! How a message looks at the other end: topic, QoS, properties and payload there.
//!
//! In: a message as it is kept, and its place. Out: a [`Form`], or why there is none. Never: the link, its window, time.
//! Always: the same message at the same place gets the same form, so that a repeat is the same bytes with DUP.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use model::{LaneId, Qos, Seq, Timestamp};
use wire::BlockBuilder;

use super::Refusal;
use crate::envelope::Envelope;

/// Writes messages as one kind of upstream wants them.
pub trait Dialect: fmt::Debug + Send + Sync {
    /// Fills `form`, which was cleared, for one message. An error is final: the same message has no form, ever.
    fn write(&self, message: &Outgoing<'_>, form: &mut Form) -> Result<(), Refusal>;

    /// The identity that a message is sent by, where each has a link of its own.
    fn identity<'a>(&'a self, envelope: &Envelope<'a>) -> Result<Cow<'a, str>, Refusal> {
        Ok(envelope.client_id.into())
    }
}

/// A message that goes upstream.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// As it is kept.
    pub envelope: &'a Envelope<'a>,
    /// Its lane.
    pub lane: LaneId,
    /// Its place there.
    pub seq: Seq,
    /// From when on it does not matter any more.
    pub expires: Option<Timestamp>,
}

/// A message as the other end gets it; buffers are used again.
#[derive(Debug, Default)]
pub struct Form {
    /// Topic name.
    pub topic: String,
    /// QoS of this hop.
    pub qos: Qos,
    /// RETAIN of this hop.
    pub retain: bool,
    /// 5.0: properties; written by 3.1.1 dialects for nobody.
    pub properties: BlockBuilder,
    /// The payload, if it is not that of the message.
    pub payload: Option<Vec<u8>>,
    /// It had properties that the other end does not get.
    pub is_poorer: bool,
}

impl Form {
    /// Nothing of an earlier message is left.
    pub fn clear(&mut self) {
        self.topic.clear();
        self.qos = Qos::AtLeastOnce;
        self.retain = false;
        self.properties.begin(&[]);
        self.payload = None;
        self.is_poorer = false;
    }
}

/// Who this gateway is to those who read its messages: a name, and which life of its store.
///
/// A store that was made anew counts places from 1 again; without the second part its messages would seem to be repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    text: Arc<str>,
}

impl Origin {
    /// `gateway` has no `/`.
    pub fn new(gateway: &str, incarnation: u32) -> Origin {
        Origin { text: format!("{gateway}/{incarnation:08x}/").into() }
    }

    /// Writes the id of a message: `GATEWAY/INCARNATION/LANE/SEQ`. The same for every repeat, and for nothing else.
    pub fn write_id(&self, lane: LaneId, seq: Seq, out: &mut String) {
        use fmt::Write as _;
        out.push_str(&self.text);
        write!(out, "{}/{}", lane.0, seq.get()).expect("a string takes everything");
    }

    /// Whether the message with this id has been sent by us.
    pub fn is_mine(&self, id: &str) -> bool {
        id.starts_with(&*self.text)
    }
}
