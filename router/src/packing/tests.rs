//! Packed and unpacked again, over any cut of the stream; and what is refused.

use std::num::NonZeroU16;

use model::Qos;

use super::*;

const MAX: u32 = 1 << 20;

fn connect(version: Version) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode_connect(&mut bytes, &wire::Connect::new(version, "gateway".to_owned())).unwrap();
    bytes
}

fn publish(properties: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let publish = OutgoingPublish {
        topic: "a/b",
        qos: Qos::AtLeastOnce,
        packet_id: NonZeroU16::new(7),
        properties,
        payload,
        ..OutgoingPublish::default()
    };
    wire::encode_publish(&mut bytes, Version::V5, &publish).unwrap();
    bytes
}

fn record(properties: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let envelope = Envelope {
        topic: "a/b",
        client_id: "c",
        user: "",
        qos: Qos::AtLeastOnce,
        retain: false,
        properties,
        payload,
    };
    envelope.encode(&mut bytes);
    bytes
}

fn telemetry(number: usize) -> Vec<u8> {
    format!(
        r#"{{"device":"press{}","temperature":{}.5,"pressure":{},"state":"running","unit":"celsius"}}"#,
        number % 7,
        number % 90,
        number * 31 % 1_013
    )
    .into_bytes()
}

/// Everything that comes out, and the sentence if there is one.
fn unpack(dictionary: &[u8], stream: &[u8], cut: usize) -> Result<Vec<u8>, String> {
    let unpacking = Unpacking::new(dictionary, MAX);
    let (mut progress, mut unpacker, mut out) = (Progress::default(), Unpacker::default(), Vec::new());
    for chunk in stream.chunks(cut) {
        unpacking.take_in(&mut progress, &mut unpacker, chunk, &mut out)?;
    }
    out.extend_from_slice(&progress.held);
    Ok(out)
}

#[test]
fn what_is_packed_comes_out_as_it_was_however_the_stream_is_cut() {
    let mut properties = BlockBuilder::new();
    properties.content_type("application/json").unwrap().user("tenant", "north").unwrap();
    let properties = properties.into_bytes();
    let (mut packer, mut stream, mut expected) =
        (Packer::new(3, &[]), connect(Version::V5), connect(Version::V5));
    for number in 0..50 {
        let payload = telemetry(number).repeat(1 + number % 3);
        let record = record(&properties, &payload);
        let packed = Envelope::decode(packer.pack(&record)).unwrap();
        stream.extend(publish(packed.properties, packed.payload));
        expected.extend(publish(&properties, &payload));
    }
    assert!(packer.bytes.1 < packer.bytes.0 && stream.len() < expected.len(), "{:?}", packer.bytes);
    for cut in [1, 2, 7, 100, stream.len()] {
        assert_eq!(unpack(&[], &stream, cut).unwrap(), expected, "cut {cut}");
    }
}

#[test]
fn small_messages_random_ones_and_packed_ones_go_as_they_are() {
    let mut packer = Packer::new(3, &[]);
    let random: Vec<u8> =
        (0..200u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for payload in [b"short".to_vec(), random, vec![b'x'; 1 << 20]] {
        let record = record(&[], &payload);
        assert_eq!(packer.pack(&record), record, "{} bytes", payload.len());
    }
    let first = record(&[], &telemetry(1).repeat(3));
    let once = packer.pack(&first).to_vec();
    assert!(once.len() < first.len());
    assert_eq!(packer.pack(&once), once);
}

#[test]
fn bombs_lies_and_other_dictionaries_are_refused() {
    let announced = announced(&[]).unwrap();
    let refused = |payload: &[u8], words: &str| {
        let stream = [connect(Version::V5), publish(&announced, payload)].concat();
        let error = unpack(&[], &stream, stream.len()).expect_err(words);
        assert!(error.contains(words) && error.contains("a/b"), "{error}");
    };
    let bomb = zstd::bulk::compress(&vec![0; 100 << 20], 19).unwrap();
    refused(&bomb, "says that it has 104857600 bytes");
    refused(b"not packed at all", "is no zstd");
    let mut torn = zstd::bulk::compress(&telemetry(3).repeat(4), 3).unwrap();
    torn.truncate(torn.len() - 3);
    refused(&torn, "cannot be unpacked");
    // A frame that understates its size: the room it asked for is all it gets.
    let mut liar = zstd::bulk::compress(&telemetry(3).repeat(4), 3).unwrap();
    assert_eq!(liar[4] >> 5 & 1, 1, "one segment, whose size stands at byte 5");
    liar[5] = 10;
    liar[6] = 0;
    refused(&liar, "cannot be unpacked");
}

#[test]
fn other_packets_other_versions_and_broken_streams_pass_as_they_are() {
    let payload = zstd::bulk::compress(&telemetry(1).repeat(4), 3).unwrap();
    let marked = publish(&announced(&[]).unwrap(), &payload);
    let mut other = BlockBuilder::new();
    other.user(PROPERTY, "gzip").unwrap();
    for stream in [
        [connect(Version::V5), publish(other.as_bytes(), &payload)].concat(),
        [connect(Version::V5), vec![0xC0, 0], publish(&[], b"plain")].concat(),
        // Without properties these bytes are a payload.
        [connect(Version::V3), marked].concat(),
        [connect(Version::V5), vec![0xF7, 3, 1, 2, 3, 4, 5, 6]].concat(),
    ] {
        for cut in [1, stream.len()] {
            assert_eq!(unpack(&[], &stream, cut).unwrap(), stream);
        }
    }
}

#[test]
fn a_dictionary_is_recognised() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dictionary");
    assert!(read_dictionary(&path).unwrap_err().contains("cannot be read"));
    std::fs::write(&path, b"samples, not a dictionary").unwrap();
    assert!(read_dictionary(&path).unwrap_err().contains("zstd --train"));
}
