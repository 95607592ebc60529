//! Compression between Millrace and Millrace: payloads packed by an uplink, unpacked where a listener is told to accept them.
//!
//! In: messages, a dictionary that both sides have. Out: the same messages, smaller, announced by the user property
//! `content-encoding` = `zstd`; and back again. Never: sockets. MQTT 5.0 only, for 3.1.1 has no properties.
//! Always: a packed message is smaller than it was, and expands to at most [`EXPANSION_MAX`] times its packet and to no more
//! than a packet may have: what claims more is refused before a byte of it is unpacked.
//! Bounds: one context of compression an uplink, one of decompression a shard.

use std::path::Path;

use broker::Envelope;
use wire::{BlockBuilder, OutgoingPublish, Packet, PacketType, Publish, PublishProperties, Version};
use zstd::zstd_safe::{CCtx, CDict, DCtx, DDict, get_error_name, get_frame_content_size};

/// The property that announces it, and its value.
const PROPERTY: &str = "content-encoding";
const ZSTD: &str = "zstd";
/// Times that a packet may grow when it is unpacked. What repeats itself more is sent as it is: it would be a bomb.
pub(crate) const EXPANSION_MAX: usize = 64;
/// Payloads below this are not worth the property.
const PAYLOAD_BYTES_MIN: usize = 64;
/// Largest dictionary; what trains them makes them of about a hundred thousand bytes.
const DICTIONARY_BYTES_MAX: u64 = 8 << 20;

/// Reads a dictionary; one sentence if it cannot be had.
pub(crate) fn read_dictionary(path: &Path) -> Result<Vec<u8>, String> {
    let len = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?.len();
    if len > DICTIONARY_BYTES_MAX {
        return Err(format!("has {len} bytes; a dictionary has at most {DICTIONARY_BYTES_MAX}"));
    }
    let bytes = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    // Raw content would do as well, but two files that differ would not be told apart.
    if bytes.get(..4) != Some(&[0x37, 0xA4, 0x30, 0xEC]) {
        return Err("is no dictionary of zstd; `zstd --train SAMPLES -o FILE` makes one".to_owned());
    }
    Ok(bytes)
}

/// Packs what goes upstream.
pub(crate) struct Packer {
    context: CCtx<'static>,
    dictionary: CDict<'static>,
    payload: Vec<u8>,
    record: Vec<u8>,
    /// Payload bytes of messages that were packed, before and after.
    pub(crate) bytes: (u64, u64),
}

impl Packer {
    /// With this level, and with or without a dictionary.
    pub(crate) fn new(level: i32, dictionary: &[u8]) -> Packer {
        Packer {
            context: CCtx::create(),
            dictionary: CDict::create(dictionary, level),
            payload: Vec::new(),
            record: Vec::new(),
            bytes: (0, 0),
        }
    }

    /// A record as it is to go: packed where that is worth it.
    pub(crate) fn pack<'a>(&'a mut self, record: &'a [u8]) -> &'a [u8] {
        let Ok(envelope) = Envelope::decode(record) else { return record };
        let is_packed = encoding(envelope.properties).is_some();
        if envelope.payload.len() < PAYLOAD_BYTES_MIN || is_packed {
            return record;
        }
        let Some(block) = announced(envelope.properties) else { return record };
        self.payload.clear();
        self.payload.reserve(zstd::zstd_safe::compress_bound(envelope.payload.len()));
        let packed = self.context.compress_using_cdict(&mut self.payload, envelope.payload, &self.dictionary);
        let was = envelope.payload.len() + envelope.properties.len();
        let is_worth_it = self.payload.len() + block.len() < was;
        // The other side counts the whole packet, which is larger.
        let is_bomb = envelope.payload.len() > EXPANSION_MAX * self.payload.len();
        if packed.is_err() || !is_worth_it || is_bomb {
            return record;
        }
        self.bytes.0 += envelope.payload.len() as u64;
        self.bytes.1 += self.payload.len() as u64;
        self.record.clear();
        Envelope { payload: &self.payload, properties: &block, ..envelope }.encode(&mut self.record);
        &self.record
    }
}

/// What a listener needs to unpack what comes.
pub(crate) struct Unpacking {
    dictionary: DDict<'static>,
    packet_bytes_max: u32,
}

impl std::fmt::Debug for Unpacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacking").field("packet_bytes_max", &self.packet_bytes_max).finish_non_exhaustive()
    }
}

/// The context of a shard in which everything is unpacked in turn.
pub(crate) struct Unpacker(DCtx<'static>);

impl Default for Unpacker {
    fn default() -> Unpacker {
        Unpacker(DCtx::create())
    }
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unpacker")
    }
}

/// How far the packets of one connection are known.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    version: Option<Version>,
    /// The beginning of a packet.
    held: Vec<u8>,
    /// What comes is no MQTT that we understand; the broker will say so.
    is_over: bool,
}

impl Unpacking {
    /// With or without a dictionary; no packet becomes larger than this.
    pub(crate) fn new(dictionary: &[u8], packet_bytes_max: u32) -> Unpacking {
        Unpacking { dictionary: DDict::create(dictionary), packet_bytes_max }
    }

    /// Takes what came on a connection; whole packets, unpacked, are appended to `out`. An error is a message that cannot be
    /// unpacked, or must not be.
    pub(crate) fn take_in(
        &self,
        progress: &mut Progress,
        unpacker: &mut Unpacker,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        // A packet that comes in small pieces grows where it is: to copy it with each piece would be quadratic.
        let mut held = std::mem::take(&mut progress.held);
        let is_joined = !held.is_empty();
        if is_joined {
            held.extend_from_slice(bytes);
        }
        let mut rest = if is_joined { &held[..] } else { bytes };
        while !rest.is_empty() {
            let frame = match wire::split(rest, self.packet_bytes_max) {
                Ok(Some(frame)) if !progress.is_over => frame,
                Ok(None) if !progress.is_over => {
                    let kept = rest.len();
                    progress.held = if is_joined {
                        held.drain(..held.len() - kept);
                        held
                    } else {
                        rest.to_vec()
                    };
                    return Ok(());
                }
                // The broker finds what is wrong with it, and has the words for it.
                _ => {
                    progress.is_over = true;
                    out.extend_from_slice(rest);
                    return Ok(());
                }
            };
            let (packet, behind) = rest.split_at(frame.total_len());
            rest = behind;
            match (progress.version, frame.packet_type()) {
                (None, _) => {
                    if let Ok(Packet::Connect(connect)) = wire::decode(frame, Version::V5) {
                        progress.version = Some(connect.version);
                    }
                    out.extend_from_slice(packet);
                }
                (Some(Version::V5), Some(PacketType::Publish)) => match wire::decode(frame, Version::V5) {
                    Ok(Packet::Publish(publish)) if encoding(publish.properties.block()).is_some() => {
                        self.unpack(&publish, packet.len(), unpacker, out)?;
                    }
                    _ => out.extend_from_slice(packet),
                },
                _ => out.extend_from_slice(packet),
            }
        }
        Ok(())
    }

    fn unpack(
        &self,
        publish: &Publish<'_>,
        packet_bytes: usize,
        unpacker: &mut Unpacker,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let about = |problem: String| format!("a message to {} is packed and {problem}", publish.topic);
        let size = match get_frame_content_size(publish.payload) {
            Ok(Some(size)) => usize::try_from(size).unwrap_or(usize::MAX),
            Ok(None) => return Err(about("does not say how large it is".to_owned())),
            Err(_) => return Err(about("is no zstd".to_owned())),
        };
        let most = (EXPANSION_MAX * packet_bytes).min(self.packet_bytes_max as usize);
        if size > most {
            return Err(about(format!("says that it has {size} bytes, of at most {most}")));
        }
        let mut payload = Vec::with_capacity(size);
        unpacker.0.decompress_using_ddict(&mut payload, publish.payload, &self.dictionary).map_err(
            |code| {
                about(format!(
                    "cannot be unpacked: {} (have both sides the same dictionary?)",
                    get_error_name(code)
                ))
            },
        )?;
        let block =
            plain(&publish.properties).ok_or_else(|| about("has properties that are too long".to_owned()))?;
        let unpacked = OutgoingPublish {
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            packet_id: publish.packet_id,
            topic: publish.topic,
            topic_alias: publish.properties.topic_alias(),
            expiry_secs: publish.properties.expiry_secs(),
            properties: &block,
            payload: &payload,
            ..OutgoingPublish::default()
        };
        wire::encode_publish(out, Version::V5, &unpacked)
            .map(drop)
            .map_err(|_| about("would be too long unpacked".to_owned()))
    }
}

/// How a message is packed, if it is.
fn encoding(block: &[u8]) -> Option<&str> {
    // Mostly there are none.
    if block.is_empty() {
        return None;
    }
    let properties = PublishProperties::from_block(block).ok()?;
    properties
        .user_properties()
        .find(|(name, value)| *name == PROPERTY && *value == ZSTD)
        .map(|(_, value)| value)
}

/// A block with the announcement behind everything else.
fn announced(block: &[u8]) -> Option<Vec<u8>> {
    let mut more = BlockBuilder::new();
    more.user(PROPERTY, ZSTD).ok()?;
    Some([block, more.as_bytes()].concat())
}

/// A block without the announcement, and without what belongs to the hop.
fn plain(properties: &PublishProperties<'_>) -> Option<Vec<u8>> {
    let mut block = BlockBuilder::new();
    if let Some(yes) = properties.payload_is_utf8() {
        block.payload_is_utf8(yes);
    }
    if let Some(text) = properties.content_type() {
        block.content_type(text).ok()?;
    }
    if let Some(topic) = properties.response_topic() {
        block.response_topic(topic).ok()?;
    }
    if let Some(bytes) = properties.correlation() {
        block.correlation(bytes).ok()?;
    }
    let mut is_first = true;
    for (name, value) in properties.user_properties() {
        // Only ours: somebody may have packed it before, in another way.
        if name == PROPERTY && value == ZSTD && std::mem::take(&mut is_first) {
            continue;
        }
        block.user(name, value).ok()?;
    }
    Some(block.into_bytes())
}

#[cfg(test)]
mod tests;
