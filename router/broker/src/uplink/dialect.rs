//! How a message looks at the other end: topic, QoS, properties and payload there.
//!
//! In: a message as it is kept, and its place. Out: a [`Form`], or why there is none. Never: the link, its window, time.
//! Always: the same message at the same place gets the same form, so that a repeat is the same bytes with DUP.

use std::borrow::Cow;
use std::collections::BTreeMap;
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

    /// Whether anything is to be sent with QoS 1 or 2, so that it is kept here until it is acknowledged there.
    fn wants_answers(&self) -> bool {
        true
    }

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

/// Who this gateway is to those who read its messages: a name, which store, and which life of it.
///
/// A store that was made anew counts places from 1 again, and one that has crashed gives places again that it had not written
/// (see decisions 0012 and 0064); without these numbers such messages would seem to be repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Of the store: what all its ids begin with.
    text: Arc<str>,
    /// By lane, ascending: from this place on they were given in the life with this number.
    lives: BTreeMap<LaneId, Arc<[(Seq, u32)]>>,
}

impl Origin {
    /// `gateway` has no `/`.
    pub fn new(gateway: &str, store: u32) -> Origin {
        Origin { text: format!("{gateway}/{store:08x}").into(), lives: BTreeMap::new() }
    }

    /// From which places of a lane on which life gave them, ascending.
    pub fn add_lives(&mut self, lane: LaneId, lives: &[(Seq, u32)]) {
        self.lives.insert(lane, lives.into());
    }

    /// Writes the id of a message: `GATEWAY/STORE-LIFE/LANE/SEQ`, without `-LIFE` for a place that is older than all lives that
    /// are known. The same for every repeat, and for nothing else.
    pub fn write_id(&self, lane: LaneId, seq: Seq, out: &mut String) {
        use fmt::Write as _;
        const ROOM: &str = "a string takes everything";
        let lives = self.lives.get(&lane).map_or(&[][..], |lives| &lives[..]);
        out.push_str(&self.text);
        if let Some((_, life)) = lives.iter().rev().find(|(from, _)| *from <= seq) {
            write!(out, "-{life:08x}").expect(ROOM);
        }
        write!(out, "/{}/{}", lane.0, seq.get()).expect(ROOM);
    }

    /// Whether the message with this id has been sent by us, in whatever life.
    pub fn is_mine(&self, id: &str) -> bool {
        id.strip_prefix(&*self.text).is_some_and(|rest| rest.starts_with(['/', '-']))
    }
}
