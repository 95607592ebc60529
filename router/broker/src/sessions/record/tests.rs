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

proptest! {
    #[test]
    fn a_session_is_read_as_it_was_written(
        lane: u32, expiry_secs: u32, disconnected_at: u64, sent_before: Option<u32>,
        subscriptions in proptest::collection::btree_map("[a-z/+#]{1,20}", any_options(), 0..8),
    ) {
        let subscriptions: BTreeMap<Box<str>, _> =
            subscriptions.into_iter().map(|(filter, options)| (filter.into(), options)).collect();
        let sent_before = sent_before.and_then(|number| Seq::new(u64::from(number)));
        let mut bytes = Vec::new();
        encode_session(
            &mut bytes, LaneId(lane), expiry_secs, Timestamp(disconnected_at), sent_before, &subscriptions,
        );
        let record = decode_session(&bytes).unwrap();
        prop_assert_eq!(record, SessionRecord {
            lane: LaneId(lane), expiry_secs, disconnected_at: Timestamp(disconnected_at), sent_before, subscriptions,
        });
        for cut in 0..bytes.len() {
            prop_assert_eq!(decode_session(&bytes[..cut]), Err(InvalidRecord));
        }
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
        drop(decode_session(&bytes));
        drop(decode_head(&bytes));
    }
}
