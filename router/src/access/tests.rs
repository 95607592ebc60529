//! What operators write is read as meant or refused with its line; who fails too often waits.

use std::net::IpAddr;

use broker::access::{Actions, Effect, Origin, Rule};
use model::Instant;
use proptest::prelude::*;

use super::acl::{self, AclError};
use super::brake::Brake;
use super::passwords::{self, Cost, PasswordFile, PasswordFileError};
use super::recent::Recent;

/// Far too cheap for anything but tests.
const CHEAP: Cost = Cost { memory_kib: 8, passes: 1 };

fn parse(line: &str) -> Result<Rule, AclError> {
    acl::parse_rule(line, Origin { file: "acl".into(), line: 1 })
}

fn file(text: &str) -> Result<PasswordFile, Vec<(u32, PasswordFileError)>> {
    PasswordFile::parse(text, 100, 64 << 20)
}

fn line(user: &str, password: &str) -> String {
    passwords::line(user, password.as_bytes(), [7; 16], CHEAP).expect("a line")
}

#[test]
fn a_rule_reads_as_it_prints() {
    for text in [
        "allow publish a/b",
        "deny user=u all #",
        "allow user=u client=c authenticated subscribe +/%u/%c/#",
        "deny anonymous publish $SYS/#",
        "allow certificate all a b/c",
        "allow user=\"John Smith\" all a",
    ] {
        assert_eq!(parse(text).expect("a rule").to_string(), text);
    }
    let rule = parse("allow   client=\"a b\"\tpublish   \" x \"").expect("a rule");
    assert_eq!((rule.who.client_id.as_deref(), rule.filter.as_str()), (Some("a b"), " x "));
    assert_eq!((rule.effect, rule.actions), (Effect::Allow, Actions::Publish));
}

#[test]
fn a_line_that_is_no_rule_says_why() {
    use AclError::*;
    for (text, error) in [
        ("permit all #", Effect("permit".into())),
        ("allow", NoAction),
        ("allow user=u", NoAction),
        ("allow write a", Word("write".into())),
        ("allow User=u all a", Word("User=u".into())),
        ("allow user= all a", NoName("user=")),
        ("allow client= all a", NoName("client=")),
        ("allow user=a user=b all a", Contradiction("user=b".into())),
        ("allow anonymous user=a all a", Contradiction("user=a".into())),
        ("allow user=a anonymous all a", Contradiction("anonymous".into())),
        ("allow anonymous certificate all a", Contradiction("certificate".into())),
        ("allow all", NoFilter),
        ("allow all \"a", Quote),
        ("allow user=\"a all b", Quote),
    ] {
        assert_eq!(parse(text), Err(error), "{text}");
    }
    assert!(matches!(parse("allow all a/#/b"), Err(Filter(..))));
    assert!(matches!(parse("allow all x-%u"), Err(Filter(..))));
}

#[test]
fn every_bad_line_of_a_file_is_reported_with_its_number() {
    let text = "# rules\n\nallow all a\nalow all b\n  # more\nallow all b/#/c\ndeny all #\n";
    let (rules, errors) = acl::parse("f", text);
    assert_eq!(rules.iter().map(|rule| rule.origin.line).collect::<Vec<_>>(), [3, 7]);
    assert_eq!(errors.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [4, 6]);
}

/// The first line is a test vector of the reference implementation of argon2.
#[test]
fn a_password_is_verified_against_its_line() {
    let reference =
        "ref:$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
    let text = format!("# users\n{reference}\n{}\n\n", line("u", "secret"));
    let users = file(&text).expect("users");
    assert_eq!(users.len(), 2);
    assert_eq!(users.verify("ref", b"password"), users.print_of("ref"));
    assert!(users.verify("u", b"secret").is_some() && users.verify("u", b"secret") == users.print_of("u"));
    for (user, password) in [("u", "Secret"), ("u", ""), ("v", "secret"), ("ref", "secret"), ("", "")] {
        assert_eq!(users.verify(user, password.as_bytes()), None, "{user} {password}");
    }
    assert!(!format!("{users:?}").contains("secret"));
}

#[test]
fn every_bad_line_of_a_password_file_is_an_error_with_its_number() {
    let good = line("u", "x");
    let phc = good.strip_prefix("u:").expect("a user");
    let changed = |from: &str, to: &str| format!("v:{}", phc.replacen(from, to, 1));
    let cases = [
        "nobody".to_owned(),
        format!(":{phc}"),
        format!("a\tb:{phc}"),
        "v:plain".to_owned(),
        "v:$argon2i$v=19$m=8,t=1,p=1$c29tZXNhbHQ$c29tZXNhbHQ".to_owned(),
        "v:$2b$12$abcdefghijklmnopqrstuv".to_owned(),
        changed("v=19", "v=16"),
        changed("m=8", "m=0"),
        changed("m=8", "m=7"),
        changed("m=8", "m=65537"),
        changed("m=8", "m=99999999999"),
        changed("t=1", "t=0"),
        changed("t=1", "t=1001"),
        changed("p=1", "p=0"),
        changed("p=1", "p=1,keyid=x"),
        changed("m=8,t=1", "t=1,m=8"),
        changed("$BwcH", "$!!!"),
        changed("BwcHBwcHBwcHBwcHBwcHBw", "BwcH"),
        format!("{good}$more"),
        good.clone(), // a second time
    ];
    for case in cases {
        let errors = file(&format!("{good}\n# comment\n{case}\n")).expect_err(&case);
        assert_eq!(errors.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [3], "{case}: {errors:?}");
        assert!(errors.iter().all(|(_, error)| !error.to_string().contains("BwcH")), "no hash in an error");
    }
    assert!(file(&format!("{good}\n{good}\nx\ny:z\n")).is_err_and(|errors| errors.len() == 3), "all at once");
    let many: String =
        (0..101).map(|number| format!("{}\n", good.replacen('u', &format!("u{number}"), 1))).collect();
    assert_eq!(file(&many), Err(vec![(0, PasswordFileError::TooMany(100))]));
}

#[test]
fn one_line_of_a_password_file_is_changed_and_nothing_else() {
    let text = "# first\nu:1\n\n  v:2\n# u:old\n";
    assert_eq!(
        passwords::with_user(text, "u", Some("u:3")),
        ("# first\nu:3\n\n  v:2\n# u:old\n".to_owned(), true)
    );
    assert_eq!(passwords::with_user(text, "v", None), ("# first\nu:1\n\n# u:old\n".to_owned(), true));
    assert_eq!(passwords::with_user(text, "w", Some("w:4")), (format!("{text}w:4\n"), false));
    assert_eq!(passwords::with_user("u:1", "w", Some("w:4")), ("u:1\nw:4\n".to_owned(), false));
    assert!(passwords::line("a:b", b"x", [0; 16], CHEAP).is_err());
    assert!(passwords::line("#a", b"x", [0; 16], CHEAP).is_err());
}

proptest! {
    #[test]
    fn no_text_makes_the_readers_fail_otherwise_than_by_an_error(text in ".{0,200}") {
        let (rules, errors) = acl::parse("f", &text);
        prop_assert!(rules.len() + errors.len() <= text.lines().count());
        drop(file(&text));
    }

    #[test]
    fn damaged_lines_never_become_somebody_else(at in 0usize..60, byte in 0u8..128) {
        let good = line("user", "secret");
        let mut bytes = good.clone().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        let text = String::from_utf8(bytes).expect("ASCII");
        if let Ok(users) = file(&text) {
            // What can still be read is one user or none, and the password is good only if nothing was changed but the name.
            prop_assert!(users.len() <= 1 || byte == b'\n' || byte == b'\r');
            prop_assert!(text == good || at < 4 || users.verify("user", b"secret").is_none() || text.trim() == good);
        }
    }
}

fn at(secs: u64) -> Instant {
    Instant::default().plus_millis(secs * 1_000)
}

#[test]
fn who_fails_too_often_waits_longer_and_longer() {
    let mut brake = Brake::new(100, 3);
    let here: Option<IpAddr> = Some([10, 0, 0, 1].into());
    let there: Option<IpAddr> = Some([10, 0, 0, 2].into());
    for _ in 0..3 {
        assert!(brake.may_try(here, "u", at(0)));
        brake.failed(here, "u", at(0));
    }
    assert!(brake.may_try(here, "u", at(0)), "three are free");
    brake.failed(here, "u", at(0));
    assert!(!brake.may_try(here, "u", at(0)) && brake.may_try(here, "u", at(1)));
    assert!(brake.may_try(there, "u", at(0)) && brake.may_try(here, "v", at(0)), "others are not meant");
    brake.failed(here, "u", at(1));
    assert!(!brake.may_try(here, "u", at(2)) && brake.may_try(here, "u", at(3)));
    for _ in 0..40 {
        brake.failed(here, "u", at(3));
    }
    assert!(!brake.may_try(here, "u", at(62)) && brake.may_try(here, "u", at(63)), "a minute at most");
    brake.failed(here, "u", at(1_000));
    assert!(brake.may_try(here, "u", at(1_000)), "all is forgotten after ten minutes");
}

#[test]
fn guessing_from_many_places_or_many_names_is_seen_too() {
    let mut brake = Brake::new(10_000, 1);
    let address = |number: u8| Some(IpAddr::from([10, 0, 0, number]));
    for number in 0..11 {
        assert!(brake.may_try(address(number), "root", at(0)), "{number}");
        brake.failed(address(number), "root", at(0));
    }
    assert!(!brake.may_try(address(99), "root", at(0)));
    for number in 0..21 {
        assert!(brake.may_try(address(200), &format!("u{number}"), at(0)), "{number}");
        brake.failed(address(200), &format!("u{number}"), at(0));
    }
    assert!(!brake.may_try(address(200), "new", at(0)));
}

#[test]
fn another_address_of_the_same_public_network_is_no_new_place() {
    let ip = |text: &str| Some(text.parse::<IpAddr>().expect("an address"));
    for (one, other, same) in [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
        ("fd00::1", "fd00::2", false),
        ("fe80::1", "fe80::2", false),
        ("192.0.2.7", "::ffff:192.0.2.7", true),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.8", false),
    ] {
        let mut brake = Brake::new(100, 1);
        brake.failed(ip(one), "u", at(0));
        brake.failed(ip(one), "u", at(0));
        assert!(!brake.may_try(ip(one), "u", at(0)));
        assert_eq!(brake.may_try(ip(other), "u", at(0)), !same, "{one} {other}");
    }
}

#[test]
fn a_success_forgives_and_memory_stays_bounded() {
    let mut brake = Brake::new(30, 1);
    brake.failed(None, "u", at(0));
    brake.failed(None, "u", at(0));
    assert!(!brake.may_try(None, "u", at(0)));
    brake.succeeded(None, "u");
    assert!(brake.may_try(None, "u", at(0)));
    for number in 0..1_000 {
        brake.failed(
            Some([10, 0, (number / 256) as u8, number as u8].into()),
            &number.to_string(),
            at(number),
        );
        assert!(brake.len() <= 30);
    }
}

#[test]
fn good_credentials_are_remembered_for_a_while() {
    let mut recent = Recent::new([1; 32], 2, 60_000);
    recent.add("u", b"secret", 5, at(0));
    assert_eq!(recent.find("u", b"secret", at(59)), Some(5));
    for (user, password) in [("u", "other"), ("us", "ecret"), ("", "usecret")] {
        assert_eq!(recent.find(user, password.as_bytes(), at(0)), None);
    }
    assert_eq!(recent.find("u", b"secret", at(60)), None);
    for number in 0..10 {
        recent.add(&number.to_string(), b"x", number, at(1));
        assert!(recent.len() <= 2);
    }
    let mut off = Recent::new([1; 32], 2, 0);
    off.add("u", b"x", 1, at(0));
    assert_eq!(off.len(), 0);
}

/// The rules and the table of answers in the documentation, as they stand there.
#[test]
fn the_examples_of_the_documentation_hold() {
    use broker::access::{Action, Identity, Ruleset};
    let page = include_str!("../../docs/access.md");
    let block = page.split("```acl\n").nth(1).and_then(|rest| rest.split("```").next()).expect("rules");
    let (rules, errors) = acl::parse("acl", block);
    assert_eq!(errors, []);
    let set = Ruleset::new(rules, Effect::Deny);
    let mut answers = 0;
    for row in page.lines().filter(|line| line.starts_with('|') && line.ends_with("|")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [user, client_id, action, topic, answer] = cells.as_slice() else { continue };
        let action = match *action {
            "publish" => Action::Publish,
            "subscribe" => Action::Subscribe,
            _ => continue,
        };
        let user = (*user != "–").then_some(*user);
        let subject = set.subject(Identity { user, client_id, certificate: false, by_edge: false });
        let topic = topic.trim_matches('`');
        let found = match action {
            Action::Publish => set.may_publish(&subject, topic),
            Action::Subscribe => set.may_subscribe(&subject, topic),
        };
        let effect = if found.effect == Effect::Allow { "allowed" } else { "denied" };
        let by =
            found.rule.map_or("default".to_owned(), |rule| format!("line {}", set.rules()[rule].origin.line));
        assert_eq!(format!("{effect} by {by}"), *answer, "{row}");
        answers += 1;
    }
    assert_eq!(answers, 12);
}

#[test]
fn the_shipped_rules_are_good() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/access.toml");
    let args = crate::config::ConfigArgs { config: Some(path.into()), ..Default::default() };
    let config = crate::config::load(&args, std::iter::empty()).expect("a configuration");
    let rules = config.auth.rules.expect("rules");
    assert_eq!((rules.len(), rules[0].origin.line), (6, 9));
    assert_eq!(rules[2].to_string(), "allow authenticated all devices/%u/#");
}
