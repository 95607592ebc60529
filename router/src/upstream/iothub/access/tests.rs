//! How identities get into IoT Hub, and what is said where they do not.

use super::*;
use crate::config::{Child, Secret, Speakers};

const NOW: u64 = 1_800_000_000;
const KEY: &str = "c2VjcmV0IGtleSBvZiBhIGRldmljZQ==";

fn config(on_behalf_of: bool) -> IotHub {
    let child = HubId::module("gw1", "filter").expect("an id");
    IotHub {
        hub: "plant.azure-devices.net".to_owned(),
        host: None,
        id: HubId::module("gw1", "$edgeHub").expect("an id"),
        is_edge: false,
        key: Some(Secret(KEY.to_owned())),
        token_secs: 3_600,
        on_behalf_of,
        children: vec![Child { id: child, proof: Proof::Key(Secret("b3RoZXIga2V5".to_owned())) }],
        speakers: Speakers::Users(Default::default()),
        link_idle_millis: 1_000,
        answer_millis: 1_000,
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

#[test]
fn the_gateway_connects_as_itself_with_a_token_that_is_renewed_in_time() {
    let keyring = Keyring::new(&config(false), None);
    let access = now(keyring.access("gw1/$edgeHub", NOW, 5)).expect("it may");
    assert_eq!(access.client_id, "gw1/$edgeHub");
    assert!(access.user.starts_with(
        "plant.azure-devices.net/gw1/$edgeHub/?api-version=2020-09-30&DeviceClientType=Millrace%2F"
    ));
    let token = access.token.expect("a token");
    let parsed = sas::Token::parse(&token).expect("a token");
    assert_eq!(parsed.expires(), NOW + 3_600);
    let key = hub::sas::sign(KEY, "x").expect("base64");
    assert!(!key.is_empty() && !token.contains(KEY));
    assert_eq!(access.renew_after_secs, Some(3_600 * 80 / 100));
}

#[test]
fn a_child_has_its_own_key_and_others_ours_if_that_is_allowed() {
    let keyring = Keyring::new(&config(false), None);
    let access = now(keyring.access("gw1/filter", NOW, 0)).expect("it may");
    assert!(access.user.contains("/gw1/filter/?") && !access.user.contains("auth-chain"));
    assert_eq!(now(keyring.access("d7", NOW, 0)).expect_err("it may not"), "d7 has no identity here");
    let keyring = Keyring::new(&config(true), None);
    let access = now(keyring.access("d7", NOW, 0)).expect("it may");
    assert_eq!(access.client_id, "d7");
    assert!(access.user.ends_with("&auth-chain=d7%3Bgw1"), "{}", access.user);
    // The audience of the token is ours (`reference/edgehub.md` §5.3).
    assert!(
        access
            .token
            .expect("a token")
            .contains("sr=plant.azure-devices.net%2Fdevices%2Fgw1%2Fmodules%2F%2524edgeHub&")
    );
}

#[test]
fn a_clock_before_this_program_is_told_apart() {
    let keyring = Keyring::new(&config(false), None);
    let error = now(keyring.access("gw1/$edgeHub", 86_400, 0)).expect_err("no token is valid then");
    assert!(
        error.contains("clock says 1970-01-02 00:00:00 UTC") && error.contains("set the clock"),
        "{error}"
    );
}

#[test]
fn somebody_else_may_sign() {
    #[derive(Debug)]
    struct Elsewhere;
    impl Signer for Elsewhere {
        fn sign<'a>(&'a self, text: &'a str) -> super::super::signer::Signature<'a> {
            let is_whole = text.ends_with(&(NOW + 3_600).to_string());
            Box::pin(std::future::ready(if is_whole { Ok(vec![1, 2, 3]) } else { Err("no".to_owned()) }))
        }
    }
    let keyring = Keyring::new(&IotHub { key: None, ..config(false) }, Some(Arc::new(Elsewhere)));
    let token = now(keyring.access("gw1/$edgeHub", NOW, 0)).expect("it may").token.expect("a token");
    assert!(token.contains("&sig=AQID&"), "{token}");
}

#[test]
fn each_way_in_has_its_own_advice() {
    let keyring = Keyring::new(&config(true), None);
    let facts = Facts { now: NOW, ..Facts::default() };
    let own = keyring.advice("gw1/$edgeHub", "cloud", &facts);
    assert!(
        own.contains("uplink.cloud.shared_access_key") && own.contains("2027-01-15 08:00:00 UTC"),
        "{own}"
    );
    assert!(
        keyring
            .advice("gw1/filter", "cloud", &facts)
            .contains("uplink.cloud.identity.\"gw1/filter\".shared_access_key")
    );
    assert!(keyring.advice("d7", "cloud", &facts).contains("d7 does not stand below gw1"));
    let certified = Keyring::new(&IotHub { key: None, ..config(false) }, None);
    assert!(certified.advice("gw1/$edgeHub", "cloud", &facts).contains("mend uplink.cloud.cert"));
}

/// A device that connects with the token that it has shown here.
#[derive(Debug)]
struct Shown;

impl Signer for Shown {
    fn sign<'a>(&'a self, _: &'a str) -> crate::upstream::Signature<'a> {
        Box::pin(std::future::ready(Err("not asked".to_owned())))
    }

    fn token_of(&self, identity: &str) -> Option<(String, u64)> {
        (identity == "d1").then(|| ("its own".to_owned(), NOW + 1_000))
    }
}

#[test]
fn a_token_that_a_device_has_shown_is_looked_at_anew_before_it_is_over() {
    let keyring = Keyring::new(&config(true), Some(Arc::new(Shown)));
    let access = now(keyring.access("d1", NOW, 5)).expect("it may");
    assert_eq!((access.token.as_deref(), access.renew_after_secs), (Some("its own"), Some(800)));
    let over = now(keyring.access("d1", NOW + 1_000, 5)).expect_err("it is over");
    assert!(over.contains("has not come with another one"), "{over}");
}
