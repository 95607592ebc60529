//! Where ntex and the standard differ: the table of `router/docs/decisions/0002-own-codec-where.md`, row by row.
//!
//! A test that fails here after an upgrade is good news: ntex has come closer, and the page can be looked at again.

use super::{decode_v3, decode_v5};
use crate::Version::{self, V3, V5};
use crate::{decode, split};

/// ntex takes it, we do not.
#[track_caller]
fn ntex_is_laxer(version: Version, bytes: &[u8]) {
    let (ntex, ours) = both(version, bytes);
    assert!(ntex, "ntex has become stricter");
    assert!(!ours, "we take it, too");
}

/// We take it, ntex does not.
#[track_caller]
fn ntex_is_stricter(version: Version, bytes: &[u8]) {
    let (ntex, ours) = both(version, bytes);
    assert!(!ntex, "ntex has become laxer");
    assert!(ours, "we refuse it, too");
}

fn both(version: Version, bytes: &[u8]) -> (bool, bool) {
    let frame = split(bytes, u32::MAX).unwrap().unwrap();
    assert_eq!(frame.total_len(), bytes.len());
    let ntex = match version {
        V3 => decode_v3(frame).is_ok(),
        V5 => decode_v5(frame).is_ok(),
    };
    (ntex, decode(frame, version).is_ok())
}

#[test]
fn strings_with_null() {
    ntex_is_laxer(V3, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01\0"); // [MQTT3-1.5.3-2]
    ntex_is_laxer(V5, b"\x82\x07\0\x01\0\0\x01\0\0"); // [MQTT-1.5.4-2]
    ntex_is_laxer(V5, b"\xE0\x06\0\x04\x1F\0\x01\0");
}

#[test]
fn lengths_in_more_bytes_than_needed() {
    ntex_is_laxer(V5, b"\xE0\x82\0\0\0"); // [MQTT-1.5.5-1]
    ntex_is_laxer(V5, b"\xE0\x03\0\x80\0");
}

#[test]
fn connect() {
    ntex_is_laxer(V3, b"\x10\x0D\0\x04MQTT\x04\x0A\0\0\0\x01c"); // [MQTT3-3.1.2-13]
    ntex_is_laxer(V5, b"\x10\x0E\0\x04MQTT\x05\x0A\0\0\0\0\x01c"); // [MQTT-3.1.2-11]
    ntex_is_laxer(V3, b"\x10\x0D\0\x04MQTT\x04\x22\0\0\0\x01c"); // [MQTT3-3.1.2-15]
    ntex_is_laxer(V5, b"\x10\x0E\0\x04MQTT\x05\x22\0\0\0\0\x01c"); // [MQTT-3.1.2-13]
    ntex_is_laxer(V3, b"\x10\x10\0\x04MQTT\x04\x42\0\0\0\x01c\0\x01p"); // [MQTT3-3.1.2-22]
    ntex_is_laxer(V3, b"\x10\x0E\0\x04MQTT\x04\x02\0\0\0\x01cx"); // bytes after the last field
    ntex_is_laxer(V5, b"\x10\x0F\0\x04MQTT\x05\x02\0\0\0\0\x01cx");
    ntex_is_laxer(V3, b"\x10\x12\0\x04MQTT\x04\x06\0\0\0\x01c\0\x01#\0\0"); // a Will to a wildcard
    ntex_is_laxer(V5, b"\x10\x12\0\x04MQTT\x05\x02\0\0\x04\x16\0\x01d\0\x01c"); // 5.0 §3.1.2.11.10
    ntex_is_stricter(V5, b"\x10\x19\0\x04MQTT\x05\x06\0\0\0\0\x01c\x05\x02\0\0\0\0\0\x01w\0\0"); // Message Expiry 0
}

#[test]
fn connack() {
    ntex_is_laxer(V5, b"\x20\x03\x01\x87\0"); // [MQTT-3.2.2-6]
    ntex_is_laxer(V3, b"\x20\x02\x01\x05"); // [MQTT3-3.2.2-4]
    ntex_is_laxer(V5, b"\x20\x05\0\0\x02\x24\x02"); // Maximum QoS 2
    ntex_is_laxer(V5, b"\x20\x08\0\0\x05\x27\0\0\0\0"); // Maximum Packet Size 0
    ntex_is_laxer(V3, b"\x20\x02\0\x06"); // 3.1.1 §3.2.2.3
    ntex_is_laxer(V3, b"\x20\x03\0\0\0");
}

#[test]
fn subscribe_and_unsubscribe() {
    ntex_is_laxer(V3, b"\x82\x02\0\x01"); // [MQTT3-3.8.3-3]
    ntex_is_laxer(V5, b"\x82\x03\0\x01\0"); // [MQTT-3.8.3-2]
    ntex_is_laxer(V3, b"\x82\x06\0\x01\0\x01a\x04"); // [MQTT3-3.8.3-4]
    ntex_is_laxer(V5, b"\x82\x07\0\x01\0\0\x01a\x40"); // [MQTT-3.8.3-5]
    ntex_is_laxer(V5, b"\x82\x10\0\x01\0\0\x0A$share/g/a\x04"); // [MQTT-3.8.3-4]
    ntex_is_laxer(V3, b"\xA2\x02\0\x01"); // [MQTT3-3.10.3-2]
    ntex_is_laxer(V5, b"\xA2\x03\0\x01\0"); // [MQTT-3.10.3-2]
    ntex_is_laxer(V3, b"\x90\x02\0\x01"); // 3.1.1 §3.9.3
    ntex_is_laxer(V5, b"\xB0\x03\0\x01\0"); // 5.0 §3.11.3
}

#[test]
fn packets_without_a_body_and_auth_without_a_method() {
    ntex_is_laxer(V3, b"\xE0\x01\0"); // 3.1.1 §3.14
    ntex_is_laxer(V3, b"\xC0\x01\0");
    ntex_is_laxer(V5, b"\xD0\x01\0");
    ntex_is_laxer(V5, b"\xF0\x02\x18\0"); // 5.0 §3.15.2.2.2
}
