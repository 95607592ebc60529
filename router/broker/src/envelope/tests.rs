//! Envelopes survive the round trip and never panic on foreign bytes.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        topic in "[a-z/]{1,40}", client_id in "[a-z0-9]{0,20}", user in "[a-z]{0,9}", qos in 0u8..3, retain: bool,
        properties in proptest::collection::vec(any::<u8>(), 0..60),
        payload in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let envelope = Envelope {
            user: &user,
            topic: &topic, client_id: &client_id, qos: Qos::from_bits(qos).unwrap(), retain,
            properties: &properties, payload: &payload,
        };
        let mut bytes = Vec::new();
        envelope.encode(&mut bytes);
        prop_assert_eq!(bytes.len(), envelope.encoded_len());
        prop_assert_eq!(has_payload(&bytes), !payload.is_empty());
        prop_assert_eq!(Envelope::decode(&bytes), Ok(envelope));
    }

    #[test]
    fn foreign_bytes_are_refused_or_read_but_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(envelope) = Envelope::decode(&bytes) {
            prop_assert_eq!(envelope.encoded_len(), bytes.len());
        }
    }
}
