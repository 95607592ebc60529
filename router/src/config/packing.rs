//! Compression between Millrace and Millrace: which uplinks pack, and which listeners unpack.
//!
//! Knows: the keys about that, on both sides. In: a judge. Out: values as used.

use std::path::PathBuf;

use super::checked::MqttVersion;
use super::errors::ConfigError;
use super::judge::Judge;
use super::schema::{Allowed, Default, Key, integer, key, words};

pub(super) static COMPRESSION: Key = words(
    "uplink.*.compression",
    &["none", "zstd"],
    "none",
    "`zstd` packs payloads for a Millrace at the other end whose listener has `accept_zstd = true`; needs version 5. \
     Any other receiver gets packed payloads, with the user property `content-encoding` = `zstd`.",
);
pub(super) static COMPRESSION_LEVEL: Key =
    integer("uplink.*.compression_level", 1, 9, 3, "How hard it tries: more costs more time, for less.");
pub(super) static COMPRESSION_DICTIONARY: Key = key(
    "uplink.*.compression_dictionary",
    Allowed::Text,
    Default::Unset,
    "File with a dictionary of zstd (`zstd --train SAMPLES -o FILE`), the same at both ends: small messages are packed \
     well only with one. Read anew for every connection.",
);
pub(super) static ACCEPT_ZSTD: Key = key(
    "listener.*.accept_zstd",
    Allowed::Boolean,
    Default::Boolean(false),
    "Unpacks messages (5.0) that say `content-encoding` = `zstd`. A message that would grow more than 64 times, or \
     beyond the largest packet, or is packed with another dictionary, ends its connection (`compression`).",
);
pub(super) static ZSTD_DICTIONARY: Key = key(
    "listener.*.zstd_dictionary",
    Allowed::Text,
    Default::Unset,
    "File with the dictionary that senders use. Read at the start.",
);

/// How an uplink packs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compression {
    /// 1 to 9: above, a context takes hundreds of megabytes.
    pub level: i32,
    /// What both ends know.
    pub dictionary: Option<PathBuf>,
}

/// How a listener unpacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decompression {
    /// What both ends know.
    pub dictionary: Option<PathBuf>,
}

impl Compression {
    /// `None` if nothing is packed.
    pub(super) fn check(judge: &mut Judge<'_>, name: &str, version: MqttVersion) -> Option<Compression> {
        let is_on = judge.text(&COMPRESSION, name).as_deref() == Some("zstd");
        let level = judge.integer(&COMPRESSION_LEVEL, name);
        let dictionary = judge.text(&COMPRESSION_DICTIONARY, name).map(PathBuf::from);
        if !is_on {
            for key in [&COMPRESSION_LEVEL, &COMPRESSION_DICTIONARY] {
                needs(judge, key, name, "does nothing without compression = \"zstd\"");
            }
            return None;
        }
        if version == MqttVersion::V311 {
            needs(
                judge,
                &COMPRESSION,
                name,
                "needs version = \"5\": MQTT 3.1.1 has nothing to announce it with",
            );
        }
        Some(Compression { level: level? as i32, dictionary })
    }
}

impl Decompression {
    /// `None` if nothing is unpacked.
    pub(super) fn check(judge: &mut Judge<'_>, name: &str) -> Option<Decompression> {
        let is_on = judge.boolean(&ACCEPT_ZSTD, name).unwrap_or_default();
        let dictionary = judge.text(&ZSTD_DICTIONARY, name).map(PathBuf::from);
        if !is_on {
            needs(judge, &ZSTD_DICTIONARY, name, "does nothing without accept_zstd = true");
            return None;
        }
        Some(Decompression { dictionary })
    }
}

fn needs(judge: &mut Judge<'_>, key: &'static Key, name: &str, problem: &str) {
    if judge.is_written(key, name) {
        judge.complain(key, name, |error| ConfigError { problem: problem.to_owned(), ..error });
    }
}
