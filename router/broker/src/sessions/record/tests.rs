//! Records survive the round trip; foreign bytes are refused, never a panic.

use proptest::prelude::*;

use super::*;

fn any_options() -> impl Strategy<Value = SubscriptionOptions> {
    (0u8..3, any::<bool>(), any::<bool>(), any::<u32>()).prop_map(
        |(qos, no_local, retain_as_published, subscription_id)| SubscriptionOptions {
            qos: Qos::from_bits(qos).unwrap(),
            no_local,
            retain_as_published,
            subscription_id,
        },
    )
}

fn any_will() -> impl Strategy<Value = Will> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..9).prop_map(Into::into);
    (("[a-z/]{1,9}", bytes(), bytes()), 0u8..3, any::<bool>(), any::<u32>(), any::<Option<u32>>()).prop_map(
        |((topic, payload, properties), qos, retain, delay_secs, expiry_secs)| Will {
            topic: topic.into(),
            payload,
            qos: Qos::from_bits(qos).unwrap(),
            retain,
            delay_secs,
            expiry_secs,
            properties,
        },
    )
}

fn any_vouched() -> impl Strategy<Value = Vouched> {
    proptest::sample::select(vec![Vouched::Users, Vouched::Certificate, Vouched::Edge])
}

proptest! {
    #[test]
    fn a_session_is_read_as_it_was_written(
        lane: u32, expiry_secs: u32, disconnected_at: u64, sent_before: Option<u32>,
        owner in proptest::option::of(("[a-z]{0,9}", any_vouched())),
        will in proptest::option::of((any_will(), any::<Option<u32>>())),
    ) {
        let sent_before = sent_before.and_then(|number| Seq::new(u64::from(number)));
        let will = will.map(|(will, due_at)| (will, due_at.map(|at| Timestamp(u64::from(at)))));
        let disconnected_at = Timestamp(disconnected_at);
        let lane = LaneId(lane);
        let parts = SessionParts {
            lane, expiry_secs, disconnected_at, sent_before,
            owner: owner.as_ref().map(|(user, vouched)| (&user[..], *vouched)),
            will: will.as_ref().map(|(will, at)| (will, *at)),
        };
        let mut bytes = Vec::new();
        encode_session(&mut bytes, parts);
        let payload_len = will.as_ref().map_or(0, |(will, _)| will.payload.len());
        let owner = owner.map(|(user, vouched)| (user.into(), vouched));
        let record = SessionRecord { lane, expiry_secs, disconnected_at, sent_before, owner, will };
        prop_assert_eq!(decode_session(&bytes), Ok(record));
        for cut in 0..bytes.len() - payload_len {
            prop_assert_eq!(decode_session(&bytes[..cut]), Err(InvalidRecord));
        }
        bytes[0] = 1;
        prop_assert_eq!(decode_session(&bytes), Err(InvalidRecord), "another version is refused");
    }

    #[test]
    fn a_subscription_is_read_as_it_was_written(options in any_options()) {
        let mut bytes = Vec::new();
        encode_subscription(&mut bytes, &options);
        prop_assert_eq!(decode_subscription(&bytes), Ok(options));
        for cut in 0..bytes.len() {
            prop_assert_eq!(decode_subscription(&bytes[..cut]), Err(InvalidRecord));
        }
    }

    #[test]
    fn keys_say_whose_they_are(client_id in "[^\0]{0,9}", filter in "[^\0]{1,9}", id: NonZeroU16, seq in 1u64..) {
        let mut key = Vec::new();
        subscription_key(&mut key, &client_id, &filter);
        prop_assert_eq!(split_key(&key), Ok((&client_id[..], filter.as_bytes())));
        key.clear();
        received_key(&mut key, &client_id, id);
        prop_assert_eq!(split_key(&key), Ok((&client_id[..], &id.get().to_be_bytes()[..])));
        key.clear();
        mark_key(&mut key, &client_id, Seq::new(seq).unwrap());
        prop_assert_eq!(split_key(&key), Ok((&client_id[..], &seq.to_be_bytes()[..])));
    }

    #[test]
    fn a_message_head_is_read_as_it_was_written(
        qos in 0u8..3,
        retain: bool,
        ids in proptest::collection::vec(1u32.., 0..5),
        share in "(\\$share/[a-z]{1,3}/[a-z+/]{1,9})?",
    ) {
        let qos = Qos::from_bits(qos).unwrap();
        let mut bytes = Vec::new();
        encode_head(&mut bytes, qos, retain, &ids, &share);
        bytes.extend_from_slice(b"envelope");
        let head = decode_head(&bytes).unwrap();
        prop_assert_eq!((head.qos, head.retain, head.share, head.envelope), (qos, retain, &share[..], &b"envelope"[..]));
        prop_assert_eq!(head.subscription_ids().collect::<Vec<_>>(), ids);
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        decode_session(&bytes).ok();
        decode_subscription(&bytes).ok();
        decode_mark(&bytes).ok();
        split_key(&bytes).ok();
        decode_head(&bytes).ok();
    }
}

#[test]
fn only_marks_that_must_survive_have_a_value() {
    for mark in [Mark::Released, Mark::Completed] {
        assert_eq!(encode_mark(mark).map(|value| decode_mark(&[value])), Some(Ok(mark)));
    }
    assert_eq!(encode_mark(Mark::Settled), None);
}
