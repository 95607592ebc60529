//! The matrix of who comes in: tokens, certificates, chains; good, bad, expired, of another, disabled, unknown.

use std::sync::Arc;

use hub::HubId;
use hub::connect::parse_user_name;
use hub::identity::{Auth, Identity};
use hub::sas::{SasError, token_with_key};
use hub::tree::{ChainError, Tree};
use rcgen::{CertificateParams, DnType, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::{Claim, Denied, Hosts, Law, Proof, Until, thumbprints};

const NOW: u64 = 1_800_000_000;
const KEY: &str = "a2V5LW9uZS1rZXktb25lLWtleS1vbmUtMDAwMDAwMDE=";
const OTHER_KEY: &str = "a2V5LXR3by1rZXktdHdvLWtleS10d28tMDAwMDAwMDI=";
const WRONG_KEY: &str = "d3Jvbmcta2V5LXdyb25nLWtleS13cm9uZy1rZXktMDA=";

fn id(text: &str) -> HubId {
    HubId::parse(text).unwrap()
}

fn sas() -> Auth {
    Auth::Sas { primary: KEY.to_owned(), secondary: OTHER_KEY.to_owned() }
}

fn identity(name: &str, auth: Auth) -> Identity {
    Identity {
        id: id(name),
        generation: "1".to_owned(),
        enabled: true,
        auth,
        is_edge: false,
        scope: Some("scope-gw1".to_owned()),
        parent_scopes: Vec::new(),
    }
}

/// `gw1` with a module, leaves `d1`, `off`, and below it the edge device `gw2` with the leaf `d2`.
fn tree() -> Tree {
    let mut tree = Tree::new(id("gw1"), 100);
    let edge = |name: &str, scope: &str, parents: &[&str]| Identity {
        is_edge: true,
        scope: Some(scope.to_owned()),
        parent_scopes: parents.iter().map(|parent| (*parent).to_owned()).collect(),
        ..identity(name, sas())
    };
    for identity in [
        edge("gw1", "scope-gw1", &[]),
        identity("gw1/filter", sas()),
        identity("gw1/keyless", Auth::None),
        identity("d1", sas()),
        identity("d1/m", Auth::Sas { primary: WRONG_KEY.to_owned(), secondary: String::new() }),
        Identity { enabled: false, ..identity("off", sas()) },
        identity("off/m", sas()),
        identity("cert", Auth::Authority),
        edge("gw2", "scope-gw2", &["scope-gw1"]),
        identity("gw2/$edgeHub", sas()),
        Identity { scope: Some("scope-gw2".to_owned()), ..identity("d2", sas()) },
    ] {
        tree.set(identity).unwrap();
    }
    tree
}

fn judge_with(
    tree: &Tree,
    authorities: Option<&dyn ClientCertVerifier>,
    name: &str,
    proof: Proof,
    now: u64,
) -> Result<Until, Denied> {
    let hosts = Hosts(vec!["hub.example".to_owned(), "gw.local".to_owned()]);
    let law = Law { tree, hosts: &hosts, authorities, takes_certificates: true, now };
    law.judge(&Claim { name: parse_user_name(name).unwrap(), proof })
}

fn judge(name: &str, token: &str) -> Result<Until, Denied> {
    judge_with(&tree(), None, name, Proof::Token(token.into()), NOW)
}

fn user_name(who: &str) -> String {
    format!("gw.local/{who}/?api-version=2021-04-12")
}

fn token(host: &str, of: &str, key: &str, expires: u64) -> String {
    token_with_key(host, &id(of), key, expires).unwrap()
}

#[test]
fn tokens_are_taken_and_refused_as_edgehub_does() {
    let soon = NOW + 3_600;
    let good = Ok(Until(soon + 300));
    let signature = || Err(Denied::Token(SasError::Signature));
    for (who, token, expected) in [
        ("d1", token("hub.example", "d1", KEY, soon), good.clone()),
        ("d1", token("hub.example", "d1", OTHER_KEY, soon), good.clone()),
        ("d1", token("GW.local", "d1", KEY, soon), good.clone()),
        ("gw1/filter", token("gw.local", "gw1/filter", KEY, soon), good.clone()),
        // The device's token, and the device's key, are good for its modules.
        ("gw1/filter", token("hub.example", "gw1", KEY, soon), good.clone()),
        ("d1/m", token("hub.example", "d1", KEY, soon), good.clone()),
        ("d1/m", token("hub.example", "d1/m", OTHER_KEY, soon), good.clone()),
        ("gw1/keyless", token("hub.example", "gw1", KEY, soon), good),
        ("d1", token("hub.example", "d1", WRONG_KEY, soon), signature()),
        ("d1/m", token("hub.example", "d1/m", "AAAA", soon), signature()),
        ("d1", token("hub.example", "d1", KEY, NOW - 301), Err(Denied::Token(SasError::Expired))),
        ("d1", token("hub.example", "d1", KEY, NOW - 300), Ok(Until(NOW))),
        ("d1", token("other.example", "d1", KEY, soon), Err(Denied::Token(SasError::Host))),
        ("d1", token("hub.example", "d2", KEY, soon), Err(Denied::Token(SasError::Identity))),
        ("d1", token("hub.example", "d1/m", KEY, soon), Err(Denied::Token(SasError::Identity))),
        ("d1", "password".to_owned(), Err(Denied::Token(SasError::NotAToken))),
        ("off", token("hub.example", "off", KEY, soon), Err(Denied::Disabled(id("off")))),
        ("off/m", token("hub.example", "off/m", KEY, soon), Err(Denied::Disabled(id("off")))),
        ("new", token("hub.example", "new", KEY, soon), Err(Denied::Unknown(id("new")))),
        ("cert", token("hub.example", "cert", KEY, soon), Err(Denied::Method(id("cert")))),
    ] {
        assert_eq!(judge(&user_name(who), &token), expected, "{who} {token}");
    }
}

#[test]
fn only_what_newer_knowledge_can_change_is_looked_up() {
    for (denied, expected) in [
        (Denied::Unknown(id("d")), true),
        (Denied::Disabled(id("d")), true),
        (Denied::Method(id("d")), true),
        (Denied::Token(SasError::Signature), true),
        (Denied::Thumbprint, true),
        (Denied::Chain(ChainError::NotBelow), true),
        (Denied::Token(SasError::Expired), false),
        (Denied::Token(SasError::Host), false),
        (Denied::Token(SasError::Identity), false),
        (Denied::Token(SasError::NotAToken), false),
        (Denied::ClientId, false),
        (Denied::NothingShown, false),
        (Denied::Dates, false),
        (Denied::CommonName, false),
        (Denied::Authority, false),
        (Denied::ModuleCertificate, false),
    ] {
        assert_eq!(denied.may_be_outdated(), expected, "{denied:?}");
    }
}

#[test]
fn a_child_gateway_stands_in_for_what_is_below_it_and_for_nothing_else() {
    let soon = NOW + 60;
    let hub_token = token("hub.example", "gw2/$edgeHub", KEY, soon);
    let with = |who: &str, chain: &str| {
        format!("gw.local/{who}/?api-version=2021-04-12&auth-chain={}", chain.replace(';', "%3B"))
    };
    assert_eq!(judge(&with("d2", "d2;gw2"), &hub_token), Ok(Until(soon + 300)));
    // The leaf's own key is not asked for; nor does it help.
    let own = token("hub.example", "d2", KEY, soon);
    assert_eq!(judge(&with("d2", "d2;gw2"), &own), Err(Denied::Token(SasError::Identity)));
    // Not below gw2.
    assert_eq!(judge(&with("d1", "d1;gw2"), &hub_token), Err(Denied::Chain(ChainError::NotBelow)));
    // A chain for somebody else.
    assert_eq!(judge(&with("d2", "d1;gw2"), &hub_token), Err(Denied::Chain(ChainError::Target)));
    // A chain of one is no chain.
    assert_eq!(judge(&with("d1", "d1"), &token("hub.example", "d1", KEY, soon)), Ok(Until(soon + 300)));
    assert_eq!(judge(&with("new", "new;gw2"), &hub_token), Err(Denied::Unknown(id("new"))));
}

/// An authority, and a certificate of it for `name`.
fn issue(name: &str, ca: &Issuer<'_, KeyPair>, days: std::ops::Range<i64>) -> Box<[u8]> {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let at = |day: i64| time::OffsetDateTime::from_unix_timestamp(NOW as i64 + day * 86_400).unwrap();
    (params.not_before, params.not_after) = (at(days.start), at(days.end));
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&KeyPair::generate().unwrap(), ca).unwrap();
    certificate.der().to_vec().into()
}

fn authority() -> (Issuer<'static, KeyPair>, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "root");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let at = |day: i64| time::OffsetDateTime::from_unix_timestamp(NOW as i64 + day * 86_400).unwrap();
    (params.not_before, params.not_after) = (at(-10), at(1_000));
    let der = params.self_signed(&key).unwrap().der().to_vec();
    (Issuer::new(params, key), der)
}

fn believing(roots: &[&[u8]]) -> Arc<dyn ClientCertVerifier> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.to_vec().into()).unwrap();
    }
    let provider = Arc::new(ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).build().unwrap()
}

#[test]
fn certificates_of_an_authority_are_for_the_device_that_they_name() {
    let (ca, root) = authority();
    let (other_ca, _) = authority();
    let trusts = believing(&[&root]);
    let judge = |who: &str, certificate: Box<[u8]>, trusts: Option<&dyn ClientCertVerifier>| {
        judge_with(&tree(), trusts, &user_name(who), Proof::Certificates([certificate].into()), NOW)
    };
    let good = Ok(Until(NOW + 2 * 86_400));
    assert_eq!(judge("cert", issue("cert", &ca, -1..2), Some(&*trusts)), good);
    assert_eq!(judge("cert", issue("CERT", &ca, -1..2), Some(&*trusts)), Err(Denied::CommonName));
    assert_eq!(judge("cert", issue("d1", &ca, -1..2), Some(&*trusts)), Err(Denied::CommonName));
    assert_eq!(judge("cert", issue("cert", &other_ca, -1..2), Some(&*trusts)), Err(Denied::Authority));
    assert_eq!(judge("cert", issue("cert", &ca, -1..2), None), Err(Denied::Authority));
    assert_eq!(judge("cert", issue("cert", &ca, -3..-1), Some(&*trusts)), Err(Denied::Dates));
    assert_eq!(judge("cert", issue("cert", &ca, 1..2), Some(&*trusts)), Err(Denied::Dates));
    assert_eq!(judge("cert", Box::from(&b"nonsense"[..]), Some(&*trusts)), Err(Denied::Certificate));
    assert_eq!(judge("d1", issue("d1", &ca, -1..2), Some(&*trusts)), Err(Denied::Method(id("d1"))));
    assert_eq!(judge("new", issue("new", &ca, -1..2), Some(&*trusts)), Err(Denied::Unknown(id("new"))));
    let module = judge("gw1/filter", issue("filter", &ca, -1..2), Some(&*trusts));
    assert_eq!(module, Err(Denied::ModuleCertificate));
}

#[test]
fn a_thumbprint_is_one_of_two_in_either_length_and_any_case() {
    let (ca, _) = authority();
    let (certificate, other) = (issue("x", &ca, -1..2), issue("x", &ca, -1..2));
    let [sha1, sha256] = thumbprints(&certificate);
    assert_eq!((sha1.len(), sha256.len()), (40, 64));
    let judge = |primary: Option<&str>, secondary: Option<&str>, certificate: &[u8]| {
        let mut tree = tree();
        let text = |thumbprint: Option<&str>| thumbprint.map(str::to_owned);
        let auth = Auth::Thumbprint { primary: text(primary), secondary: text(secondary) };
        tree.set(identity("self", auth)).unwrap();
        judge_with(&tree, None, &user_name("self"), Proof::Certificates([certificate.into()].into()), NOW)
    };
    let good = Ok(Until(NOW + 2 * 86_400));
    for thumbprint in [&sha1, &sha256, &sha1.to_lowercase(), &sha256.to_lowercase()] {
        assert_eq!(judge(Some(thumbprint), None, &certificate), good);
        assert_eq!(judge(None, Some(thumbprint), &certificate), good);
        assert_eq!(judge(Some(thumbprint), None, &other), Err(Denied::Thumbprint));
    }
    assert_eq!(judge(None, None, &certificate), Err(Denied::Thumbprint));
    assert_eq!(judge(Some(""), None, &certificate), Err(Denied::Thumbprint));
    assert_eq!(judge(Some(&sha1), None, &issue("x", &ca, -3..-1)), Err(Denied::Dates));
}

#[test]
fn nothing_that_is_shown_can_be_read_in_a_log() {
    let proof = Proof::Token("SharedAccessSignature sig=secret".into());
    let claim = Claim { name: parse_user_name(&user_name("d1")).unwrap(), proof };
    assert_eq!(format!("{claim:?}"), "Claim(d1, token)");
}
