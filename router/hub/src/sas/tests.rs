//! Tests of `sas`: the authentication matrix of tokens, without a clock.

use super::*;

const KEY: &str = "c2VjcmV0LW9mLWQxLWluLWJhc2U2NA==";
const OTHER: &str = "YW5vdGhlci1rZXktb2YtZDE=";
const HUB: &str = "hub.example.net";

fn id(text: &str) -> HubId {
    HubId::parse(text).expect("an id")
}

fn made(client: &str, key: &str, expires: u64) -> String {
    token_with_key(HUB, &id(client), key, expires).expect("base64")
}

#[track_caller]
fn check(token: &str, client: &str, keys: &[&str], now: u64, expected: Result<(), SasError>) {
    let client = id(client);
    let wanted = Wanted { id: &client, hosts: &[HUB, "gateway.local"], now, skew_secs: CLOCK_SKEW_SECS };
    let found = Token::parse(token).and_then(|token| token.verify(&wanted, keys));
    assert_eq!(found, expected, "{token}");
}

#[test]
fn a_known_token() {
    // Computed with Python's hmac: HMAC-SHA256 over "hub.example.net%2Fdevices%2Fd1\n1700000000".
    let token = "SharedAccessSignature sr=hub.example.net%2Fdevices%2Fd1&sig=0IZ3F49CyMDKDLvoRtZsRPIyyOEcaOcR12nKDW1cTl0%3D&se=1700000000";
    assert_eq!(made("d1", KEY, 1_700_000_000), token);
    check(token, "d1", &[KEY], 1_699_999_999, Ok(()));
}

#[test]
fn good_tokens() {
    let token = made("d1", KEY, 1_000);
    check(&token, "d1", &[KEY], 0, Ok(()));
    check(&token, "d1", &[OTHER, KEY], 999, Ok(()));
    check(&token, "D1", &[KEY], 1_000, Ok(()));
    check(&token, "d1", &[KEY], 1_000 + CLOCK_SKEW_SECS, Ok(()));
    // A device's token for one of its modules; the key is the caller's choice.
    check(&token, "d1/m", &[KEY], 0, Ok(()));
    check(&made("d1/m", KEY, 1_000), "d1/m", &[KEY], 0, Ok(()));
    check(&made("gw/$edgeHub", KEY, 1_000), "gw/$edgeHub", &[KEY], 0, Ok(()));
    let at_gateway = token_with_key("Gateway.Local", &id("d1"), KEY, 1_000).expect("base64");
    check(&at_gateway, "d1", &[KEY], 0, Ok(()));
}

#[test]
fn bad_tokens() {
    let token = made("d1", KEY, 1_000);
    check(&token, "d1", &[KEY], 1_001 + CLOCK_SKEW_SECS, Err(SasError::Expired));
    check(&token, "d2", &[KEY], 0, Err(SasError::Identity));
    check(&token, "d2/m", &[KEY], 0, Err(SasError::Identity));
    check(&made("d1/m", KEY, 1_000), "d1", &[KEY], 0, Err(SasError::Identity));
    check(&made("d1/m", KEY, 1_000), "d1/n", &[KEY], 0, Err(SasError::Identity));
    check(&token, "d1", &[OTHER], 0, Err(SasError::Signature));
    check(&token, "d1", &[], 0, Err(SasError::Signature));
    check(&token, "d1", &["", "not base64!"], 0, Err(SasError::Signature));
    let foreign = token_with_key("other.example.net", &id("d1"), KEY, 1_000).expect("base64");
    check(&foreign, "d1", &[KEY], 0, Err(SasError::Host));
    check(&token.replace("se=1000", "se=9000"), "d1", &[KEY], 0, Err(SasError::Signature));
    check(&token.replace("d1&", "d2&"), "d2", &[KEY], 0, Err(SasError::Signature));
}

#[test]
fn what_is_no_token() {
    for (text, expected) in [
        ("", SasError::NotAToken),
        ("secret", SasError::NotAToken),
        ("SharedAccessSignature", SasError::NotAToken),
        ("SharedAccessSignature sig=YQ%3D%3D&se=1", SasError::Missing("sr")),
        ("SharedAccessSignature sr=a&se=1", SasError::Missing("sig")),
        ("SharedAccessSignature sr=a&sig=YQ%3D%3D", SasError::Missing("se")),
        ("SharedAccessSignature sr=a&sig=YQ%3D%3D&se=", SasError::Missing("se")),
        ("SharedAccessSignature sr=a&sig=YQ%3D%3D&se=soon", SasError::Unreadable("se")),
        ("SharedAccessSignature sr=a&sig=YQ%3D%3D&se=-1", SasError::Unreadable("se")),
        ("SharedAccessSignature sr=a&sig=!&se=1", SasError::Unreadable("sig")),
    ] {
        assert_eq!(Token::parse(text).err(), Some(expected), "{text}");
    }
    assert_eq!(Token::parse(&"x".repeat(TOKEN_BYTES_MAX + 1)).err(), Some(SasError::NotAToken));
}

#[test]
fn our_own_audience_is_escaped_twice() {
    assert_eq!(audience("h.net", &id("gw/$edgeHub")), "h.net%2Fdevices%2Fgw%2Fmodules%2F%2524edgeHub");
    assert_eq!(text_to_sign("a", 5), "a\n5");
}

#[test]
fn a_token_does_not_show_its_signature() {
    let token = made("d1", KEY, 1_000);
    let shown = format!("{:?}", Token::parse(&token).expect("a token"));
    assert_eq!(shown, "Token(sr=hub.example.net%2Fdevices%2Fd1, se=1000)");
}

proptest::proptest! {
    /// No text makes the parser panic, and nothing but the right bytes verifies.
    #[test]
    fn a_changed_token_does_not_verify(at in 0usize..120, byte in 33u8..126) {
        let token = made("d1", KEY, 1_000);
        let mut changed = token.clone().into_bytes();
        let at = at % changed.len();
        changed[at] = byte;
        let changed = String::from_utf8(changed).expect("ASCII");
        let client = id("d1");
        let wanted = Wanted { id: &client, hosts: &[HUB], now: 0, skew_secs: 0 };
        let holds = Token::parse(&changed).is_ok_and(|read| read.verify(&wanted, &[KEY]).is_ok());
        // Hex digits of escapes may change case inside `sig`, which is not what is signed.
        let same_signature = changed.to_ascii_lowercase() == token.to_ascii_lowercase();
        proptest::prop_assert!(!holds || same_signature, "{}", changed);
    }
}
