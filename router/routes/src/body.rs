//! From a payload to filled slots: which format it has, and what is counted when it cannot be used.
//!
//! Knows: content types and encodings (`reference/edgehub.md` §3.5). May use: `scan`, `slots`, `scratch`, `value`.
//! In:  a message. Out: filled body slots, and where their texts lie.
//! Invariant: an unusable body leaves no slot filled and one counter higher; it is never an error.

use model::Message;

use crate::Mode;
use crate::binary::{self, Encoding};
use crate::scan::{BodyFault, scan};
use crate::scratch::Scratch;
use crate::table::RouteTable;

/// Where the texts of a body lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body<'t> {
    /// Nobody asked for it.
    NotRead,
    /// It gives no values.
    Unusable,
    /// In the payload itself, which is this text.
    AsItCame(&'t str),
    /// In `Scratch::decoded`.
    Decoded,
    /// Beside the other texts that could not stay where they were.
    Binary(Encoding),
}

impl<'t> Body<'t> {
    /// The text that slots refer to.
    pub(crate) fn text<'s>(self, decoded: &'s str) -> &'s str
    where
        't: 's,
    {
        match self {
            Body::AsItCame(text) => text,
            Body::Decoded => decoded,
            Body::NotRead | Body::Unusable | Body::Binary(_) => "",
        }
    }

    /// How it is encoded, if not as JSON.
    pub(crate) fn encoding(self) -> Option<Encoding> {
        match self {
            Body::Binary(encoding) => Some(encoding),
            _ => None,
        }
    }
}

/// How the bytes of a payload become text.
enum Format {
    Json,
    JsonUtf16,
    JsonUtf32,
    Binary(Encoding),
    Other,
}

/// Scans the body of `message` into the slots.
pub(crate) fn fill<'t>(table: &RouteTable, message: &Message<'t>, scratch: &mut Scratch) -> Body<'t> {
    let body = try_fill(table, message, scratch);
    if body == Body::Unusable {
        scratch.filled.forget();
    }
    body
}

fn try_fill<'t>(table: &RouteTable, message: &Message<'t>, scratch: &mut Scratch) -> Body<'t> {
    let format = format(table.mode, message);
    if matches!(format, Format::Other) {
        scratch.counters.bodies_other_type += 1;
        return Body::Unusable;
    }
    if message.body.len() > table.limits.body_scan_bytes_max as usize {
        scratch.counters.bodies_too_long += 1;
        return Body::Unusable;
    }
    if let Format::Binary(encoding) = format {
        return fill_binary(table, message, encoding, scratch);
    }
    if matches!(format, Format::Json) && !starts_as_object(message.body) {
        scratch.counters.bodies_malformed += 1;
        return Body::Unusable;
    }
    let (body, text) = match format {
        Format::Json => match std::str::from_utf8(message.body) {
            Ok(text) => (Body::AsItCame(text), text),
            // .NET replaces what it cannot decode and goes on.
            Err(_) if table.mode == Mode::EdgeHub => {
                scratch.decoded.clear();
                scratch.decoded.push_str(&String::from_utf8_lossy(message.body));
                (Body::Decoded, scratch.decoded.as_str())
            }
            Err(_) => {
                scratch.counters.bodies_malformed += 1;
                return Body::Unusable;
            }
        },
        Format::JsonUtf16 => {
            decode_utf16(message.body, &mut scratch.decoded);
            (Body::Decoded, scratch.decoded.as_str())
        }
        Format::JsonUtf32 | Format::Binary(_) | Format::Other => {
            decode_utf32(message.body, &mut scratch.decoded);
            (Body::Decoded, scratch.decoded.as_str())
        }
    };
    scratch.counters.bodies_scanned += 1;
    let dates_are_undefined = table.mode == Mode::EdgeHub;
    let depth = table.limits.body_depth_max;
    let paths = table.slots.paths();
    let scanned = scan(text, paths, depth, dates_are_undefined, &mut scratch.levels, &mut scratch.filled);
    finish(table, scanned, body, scratch)
}

/// Whether JSON can be an object, by its first byte: most bodies that are no JSON are found out here, for nothing.
fn starts_as_object(body: &[u8]) -> bool {
    body.iter().find(|byte| !matches!(byte, b' ' | b'\n' | b'\r' | b'\t')) == Some(&b'{')
}

fn fill_binary<'t>(
    table: &RouteTable,
    message: &Message<'t>,
    encoding: Encoding,
    scratch: &mut Scratch,
) -> Body<'t> {
    scratch.counters.bodies_scanned += 1;
    let (paths, depth) = (table.slots.paths(), table.limits.body_depth_max);
    let scanned =
        binary::scan(message.body, encoding, paths, depth, &mut scratch.opened, &mut scratch.filled);
    finish(table, scanned, Body::Binary(encoding), scratch)
}

fn finish<'t>(
    table: &RouteTable,
    scanned: Result<(), BodyFault>,
    body: Body<'t>,
    scratch: &mut Scratch,
) -> Body<'t> {
    match scanned {
        Ok(()) => {
            scratch.filled.settle(table.slots.paths());
            return body;
        }
        Err(BodyFault::Malformed) => scratch.counters.bodies_malformed += 1,
        Err(BodyFault::TooDeep) => scratch.counters.bodies_too_deep += 1,
    }
    Body::Unusable
}

fn format(mode: Mode, message: &Message<'_>) -> Format {
    let (mut kind, mut encoding) = (None, None);
    for property in message.system {
        // Both names are ASCII, and only ASCII folds to it.
        let is = |name: &str| property.name.eq_ignore_ascii_case(name);
        // Of two properties of one name the first counts.
        if kind.is_none() && is("contentType") {
            kind = property.value;
        } else if encoding.is_none() && is("contentEncoding") {
            encoding = property.value.map(str::trim);
        }
    }
    let is = |wanted: &str| encoding.is_some_and(|encoding| encoding.eq_ignore_ascii_case(wanted));
    let json = match (mode, kind) {
        (Mode::EdgeHub, Some(kind)) => {
            kind.eq_ignore_ascii_case("application/json") && (is("utf-8") || is("utf-16") || is("utf-32"))
        }
        (Mode::EdgeHub, None) => false,
        (Mode::Millrace, Some(kind)) => is_json(kind),
        (Mode::Millrace, None) => true,
    };
    let binary = match mode {
        Mode::Millrace => kind.and_then(binary_encoding),
        Mode::EdgeHub => None,
    };
    match () {
        () if binary.is_some() => binary.map_or(Format::Other, Format::Binary),
        () if !json => Format::Other,
        () if is("utf-16") => Format::JsonUtf16,
        () if is("utf-32") => Format::JsonUtf32,
        () => Format::Json,
    }
}

/// `application/cbor`, `application/anything+cbor`, `application/msgpack` under its several names.
fn binary_encoding(kind: &str) -> Option<Encoding> {
    let kind = kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    match kind.strip_prefix("application/")? {
        "msgpack" | "x-msgpack" | "vnd.msgpack" => Some(Encoding::MessagePack),
        cbor if cbor == "cbor" || cbor.ends_with("+cbor") => Some(Encoding::Cbor),
        other => other.ends_with("+msgpack").then_some(Encoding::MessagePack),
    }
}

/// `application/json`, `text/json`, `application/anything+json`, with or without parameters.
fn is_json(kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or("").trim();
    let suffix = |suffix: &str| {
        let start = kind.len().checked_sub(suffix.len());
        start.and_then(|start| kind.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
    };
    kind.is_empty() || suffix("/json") || suffix("+json")
}

/// Little-endian, as .NET's `utf-16`; halves of pairs become U+FFFD.
fn decode_utf16(bytes: &[u8], out: &mut String) {
    out.clear();
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    out.extend(char::decode_utf16(units).map(|c| c.unwrap_or('\u{FFFD}')));
}

/// Little-endian, as .NET's `utf-32`.
fn decode_utf32(bytes: &[u8], out: &mut String) {
    out.clear();
    let codes = bytes.chunks_exact(4).map(|code| u32::from_le_bytes([code[0], code[1], code[2], code[3]]));
    out.extend(codes.map(|code| char::from_u32(code).unwrap_or('\u{FFFD}')));
}
