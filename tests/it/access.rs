//! Users, rules, and the commands about them, with foreign clients.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::foreign::{Subscriber, publish, subscribe};
use harness::{
    Connect, Connection, Incoming, QOS_0, QOS_1, ReasonCode, Recorder, Router, Setup, Version, millrace, run,
    until, v3, v5,
};
use tempfile::TempDir;

/// Files of users and rules.
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().expect("a directory for the test"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Creates or changes a user; cheap to verify unless `more` says otherwise.
    #[track_caller]
    fn user(&self, user: &str, password: &str, more: &[&str]) -> String {
        passwd(&self.path("passwords"), user, password, more).expect("millrace passwd")
    }

    fn acl(&self, text: &str) {
        fs::write(self.path("acl"), text).expect("a file of rules");
    }

    fn setup(&self) -> Setup {
        self.acl("");
        Setup::new().set("auth.anonymous", false).file(&self.config())
    }

    fn config(&self) -> String {
        format!("auth.password_file = {:?}\nauth.acl_file = {:?}\n", self.path("passwords"), self.path("acl"))
    }
}

/// Runs `millrace passwd` with a password on standard input: what it printed, or what it complained about.
pub(crate) fn passwd(file: &Path, user: &str, password: &str, more: &[&str]) -> Result<String, String> {
    let mut command = Command::new(millrace());
    let cheap: &[&str] =
        if more.contains(&"--memory-kib") { &[] } else { &["--memory-kib", "8", "--passes", "1"] };
    command.arg("passwd").arg(file).arg(user).args(cheap).args(more);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("millrace can be started");
    child.stdin.take().expect("a pipe").write_all(format!("{password}\n").as_bytes()).ok();
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

pub(crate) fn as_user(mut connect: Connect, user: &str, password: &str) -> Connect {
    (connect.user_name, connect.password) = (Some(user.to_owned()), Some(password.as_bytes().to_vec()));
    connect
}

/// The reason with which a CONNECT is answered.
#[track_caller]
fn answer(router: &Router, connect: &Connect) -> ReasonCode {
    let mut connection = Connection::open(router.address(), connect.version).expect("a socket");
    connection.greet(connect).expect("a CONNACK").reason
}

/// [MQTT-3.1.4-2] [MQTT3-3.2.2-4]
#[test]
fn passwords_and_rules_hold_for_foreign_clients() {
    let files = Files::new();
    files.user("alice", "wonder land", &[]);
    files.user("bob", "builder", &[]);
    let router_setup = files.setup();
    files.acl("allow all own/%u/#\nallow user=alice subscribe news\nallow user=bob publish news\n");
    let router = router_setup.start();
    let address = router.address();
    for version in [Version::V3, Version::V5] {
        let alice = ["-u", "alice", "-P", "wonder land"];
        let bob = ["-u", "bob", "-P", "builder"];
        let listener = Subscriber::start(address, version, 1, &[&alice[..], &["-t", "news"]].concat());
        publish(address, version, &[&bob[..], &["-t", "news", "-m", "x", "-q", "1"]].concat());
        assert_eq!(listener.messages(), ["news|0|x"]);
        // To one's own corner and nobody else's.
        let own = Subscriber::start(address, version, 1, &[&alice[..], &["-t", "own/alice/#"]].concat());
        publish(address, version, &[&bob[..], &["-t", "own/alice/1", "-m", "no"]].concat());
        publish(address, version, &[&alice[..], &["-t", "own/alice/1", "-m", "yes"]].concat());
        assert_eq!(own.messages(), ["own/alice/1|0|yes"]);
        let refused =
            subscribe(address, version, &[&bob[..], &["-t", "own/alice/#", "-C", "1", "-W", "20"]].concat());
        assert!(
            !format!("{}{}", refused.out, refused.err).is_empty(),
            "mosquitto_sub says that nothing was granted"
        );
        for wrong in
            [&["-u", "alice", "-P", "wonderland"][..], &["-u", "eve", "-P", "x"], &["-u", "bob"], &[]]
        {
            let refused =
                subscribe(address, version, &[wrong, &["-t", "news", "-C", "1", "-W", "20"]].concat());
            assert_ne!(refused.code, Some(0), "{wrong:?}");
        }
    }
    let (v5, v3) = (v5("c"), v3("c"));
    for (connect, reason) in [
        (as_user(v5.clone(), "alice", "x"), ReasonCode::BAD_USER_NAME_OR_PASSWORD),
        (as_user(v3.clone(), "alice", "x"), ReasonCode::BAD_USER_NAME_OR_PASSWORD),
        (v5, ReasonCode::NOT_AUTHORIZED),
        (v3, ReasonCode::NOT_AUTHORIZED),
    ] {
        assert_eq!(answer(&router, &connect), reason, "{connect:?}");
    }
    router.wait_for("/counters/denied_publish", 2);
    router.wait_for("/counters/denied_subscribe", 2);
    let log = until("the denial in the log", || Some(router.log()).filter(|log| log.contains("own/alice/1")));
    assert!(log.contains("bob") && !log.contains("builder"), "{log}");
}

#[test]
fn a_reload_of_users_and_rules_drops_only_those_it_means() {
    let files = Files::new();
    for user in ["stays", "goes", "changes"] {
        files.user(user, "x", &[]);
    }
    // One shard: others hear of a reload a moment later.
    let setup = files.setup().shards(1);
    files.acl("allow all #\n");
    let mut router = setup.start();
    let client = |user: &str| router.connect(&as_user(v5(user), user, "x"));
    let (mut stays, mut goes, mut changes) = (client("stays"), client("goes"), client("changes"));
    stays.subscribe("a/#", QOS_0);
    stays.subscribe("b", QOS_0);

    files.acl("alow all #\n");
    router.reload(&files.config());
    let error =
        until("a word about the mistake", || router.status()["reload_error"].as_str().map(str::to_owned));
    assert!(error.contains("acl:1") && error.contains("alow"), "{error}");
    stays.ping();
    stays.publish("b", "1", QOS_1);
    assert_eq!(stays.texts(1), ["1"], "the old rules hold");

    files.acl("allow publish #\nallow subscribe b\n");
    files.user("goes", "", &["--delete"]);
    files.user("changes", "y", &[]);
    router.reload(&files.config());
    for gone in [&mut goes, &mut changes] {
        assert_eq!(gone.ending().reason, Some(ReasonCode::ADMINISTRATIVE_ACTION));
    }
    stays.publish("a/1", "2", QOS_1);
    stays.publish("b", "3", QOS_1);
    assert_eq!(stays.texts(1), ["3"], "the subscription to a/# is gone");
    assert_eq!(answer(&router, &as_user(v5("goes"), "goes", "x")), ReasonCode::BAD_USER_NAME_OR_PASSWORD);
    assert_eq!(
        answer(&router, &as_user(v5("changes"), "changes", "x")),
        ReasonCode::BAD_USER_NAME_OR_PASSWORD
    );
    assert_eq!(answer(&router, &as_user(v5("changes"), "changes", "y")), ReasonCode::SUCCESS);
}

/// 200 clients come at once, each with a password that costs what passwords cost; a pair that is there does not notice.
#[test]
fn a_storm_of_logins_does_not_stall_those_who_are_there() {
    let files = Files::new();
    files.user("u", "secret", &["--memory-kib", "19456", "--passes", "2"]);
    // All of them are let in, however long their turn takes to come.
    let setup = files.setup().set("auth.anonymous", true).set("auth.cache_secs", 0);
    let setup = setup.set("limits.authentication_timeout_millis", 3_600_000);
    files.acl("allow all #\n");
    let router = setup.set("limits.connect_timeout_millis", 3_600_000).start();
    let mut pair = router.connect(&v5("pair"));
    pair.subscribe("pair", QOS_0);
    let mut storm: Vec<Connection> = (0..200)
        .map(|number| {
            let mut bytes = Vec::new();
            let connect = as_user(v5(&format!("storm-{number}")), "u", "secret");
            wire::encode_connect(&mut bytes, &connect).expect("a CONNECT");
            let mut connection = Connection::open(router.address(), Version::V5).expect("a socket");
            connection.write(&bytes).expect("written");
            connection
        })
        .collect();
    let mut slowest = Duration::ZERO;
    let mut rounds = 0;
    let begin = Instant::now();
    while router.number("/sessions") < 201 {
        assert!(
            begin.elapsed() < Duration::from_secs(300),
            "{} of 200 are in",
            router.number("/sessions") - 1
        );
        for _ in 0..10 {
            let sent = Instant::now();
            pair.publish("pair", "x", QOS_1);
            pair.messages(1);
            slowest = slowest.max(sent.elapsed());
            rounds += 1;
        }
    }
    let took = begin.elapsed();
    for connection in &mut storm {
        let answer = connection.receive(Duration::from_secs(60)).expect("a socket").expect("a CONNACK");
        assert!(matches!(answer, Incoming::ConnAck(ack) if ack.reason == ReasonCode::SUCCESS));
    }
    let said = format!("{rounds} rounds beside 200 logins in {took:?}, the slowest took {slowest:?}");
    println!("{said}");
    // A verification alone takes longer than a round; 200 of them on this thread would be most of the time in one round.
    assert!(rounds >= 50 && slowest < took / 4, "{said}");
}

/// `limits.authentication_queue_max`: who comes while as many wait is told that we are busy, and may try again.
#[test]
fn logins_that_find_the_queue_full_are_told_so() {
    let files = Files::new();
    files.user("u", "secret", &["--memory-kib", "65536", "--passes", "3"]);
    let setup = files.setup().set("auth.cache_secs", 0).set("limits.authentication_queue_max", 1);
    let router = setup.start();
    let mut logins: Vec<Connection> = (0..20)
        .map(|number| {
            let mut bytes = Vec::new();
            let connect = as_user(v5(&format!("login-{number}")), "u", "secret");
            wire::encode_connect(&mut bytes, &connect).expect("a CONNECT");
            let mut connection = Connection::open(router.address(), Version::V5).expect("a socket");
            connection.write(&bytes).expect("written");
            connection
        })
        .collect();
    let answers: Vec<ReasonCode> = logins
        .iter_mut()
        .map(|login| match login.receive(Duration::from_secs(60)).expect("a socket").expect("a CONNACK") {
            Incoming::ConnAck(ack) => ack.reason,
            other => panic!("{other:?}"),
        })
        .collect();
    let count = |reason: ReasonCode| answers.iter().filter(|answer| **answer == reason).count();
    let (busy, let_in) = (count(ReasonCode::SERVER_BUSY), count(ReasonCode::SUCCESS));
    assert!(busy > 0 && let_in > 0 && busy + let_in == 20, "{answers:?}");
    // Counters are told a few times a second.
    router.wait_for("/counters/refused_busy", busy as u64);
    assert_eq!(router.number("/counters/refused_busy"), busy as u64);
    assert_eq!(answer(&router, &as_user(v5("later"), "u", "secret")), ReasonCode::SUCCESS);
}

#[test]
fn guessing_is_slowed_down() {
    let files = Files::new();
    files.user("u", "secret", &[]);
    let router = files.setup().set("auth.failures_free", 3).start();
    let wrong = as_user(v5("c"), "u", "guess");
    let right = as_user(v5("c"), "u", "secret");
    let answers: Vec<_> = (0..4).map(|_| answer(&router, &wrong)).collect();
    assert_eq!(answers, [ReasonCode::BAD_USER_NAME_OR_PASSWORD; 4]);
    // Each further failure doubles the wait: in the end it is longer than two attempts take, on whatever machine.
    until("the brake, for the right password too", || match answer(&router, &wrong) {
        ReasonCode::CONNECTION_RATE_EXCEEDED => {
            (answer(&router, &right) == ReasonCode::CONNECTION_RATE_EXCEEDED).then_some(())
        }
        reason => {
            assert_eq!(reason, ReasonCode::BAD_USER_NAME_OR_PASSWORD);
            None
        }
    });
    until("the brake to let go", || (answer(&router, &right) == ReasonCode::SUCCESS).then_some(()));
}

#[test]
fn a_password_file_is_written_for_its_owner_alone_and_keeps_the_rest() {
    let files = Files::new();
    let path = files.path("passwords");
    assert!(files.user("u", "1", &[]).contains("created"));
    let mode = || fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    let text = fs::read_to_string(&path).expect("text");
    fs::write(&path, format!("# ours\n{text}")).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("changed");
    assert!(files.user("v", "2", &[]).contains("created"));
    assert!(files.user("u", "3", &[]).contains("changed"));
    assert_eq!(mode(), 0o600);
    let after = fs::read_to_string(&path).expect("text");
    assert!(
        after.starts_with("# ours\nu:$argon2id$v=19$m=8,t=1,p=1$") && !after.contains(text.trim()),
        "{after}"
    );
    assert!(files.user("u", "", &["--delete"]).contains("deleted"));
    assert_eq!(fs::read_dir(files.0.path()).expect("a directory").count(), 1, "nothing is left behind");
    for (user, password, more) in
        [("u", "", &["--delete"][..]), ("u", "", &[]), ("a:b", "x", &[]), ("", "x", &[])]
    {
        let before = fs::read_to_string(&path).expect("text");
        assert!(passwd(&path, user, password, more).is_err(), "{user:?}");
        assert_eq!(fs::read_to_string(&path).expect("text"), before);
    }
    fs::write(&path, "v:broken\n").expect("written");
    assert!(passwd(&path, "u", "x", &[]).is_err_and(|error| error.contains("passwords:1")));
}

#[test]
fn check_names_every_bad_line_of_users_and_rules() {
    let files = Files::new();
    fs::write(files.path("passwords"), "# users\nu:plain\n\nno colon\n").expect("written");
    files.acl("allow all #\nallow everything\n");
    fs::write(files.path("c.toml"), files.config()).expect("written");
    let refused = run(&["check", "--config", files.path("c.toml").to_str().expect("text")]).expect(2);
    for place in
        ["passwords:2: auth.password_file", "passwords:4: auth.password_file", "acl:2: auth.acl_file"]
    {
        assert!(refused.err.contains(place), "{place} is missing in:\n{}", refused.err);
    }
    assert!(!refused.err.contains("plain"), "what may be a password is not repeated");
}

#[test]
fn authz_explains_what_a_client_may_do() {
    let files = Files::new();
    files.acl("allow user=plc publish plant/alarm\ndeny publish plant/alarm\nallow all own/%u/#\n");
    fs::write(files.path("c.toml"), format!("auth.acl_file = {:?}\n", files.path("acl"))).expect("written");
    let config = files.path("c.toml");
    let explain = |code, arguments: &[&str]| {
        let config = config.to_str().expect("text");
        run(&[&["authz", "explain", "--config", config], arguments].concat()).expect(code).out
    };
    let denied = explain(1, &["--user", "press7", "--client", "c", "publish", "plant/alarm"]);
    assert!(denied.contains("DENIED") && denied.contains("acl:2: deny publish plant/alarm"), "{denied}");
    assert!(denied.contains("acl:1: allow user=plc") && denied.contains("is about another user"), "{denied}");
    let allowed = explain(0, &["--user", "u", "--client", "c", "subscribe", "$share/g/own/u/+"]);
    assert!(allowed.contains("ALLOWED") && allowed.contains("acl:3"), "{allowed}");
    assert!(explain(1, &["--client", "c", "subscribe", "#"]).contains("no rule fits"));
    explain(2, &["--client", "c", "publish", "a/#"]);
}

#[test]
fn a_topic_upstream_can_tell_who_published() {
    let files = Files::new();
    files.user("alice", "wonder land", &[]);
    let setup = files.setup();
    files.acl("allow all #\n");
    let upstream = Recorder::start();
    let router = setup
        .set("auth.anonymous", true)
        .uplink(upstream.address(), Version::V5)
        .set("uplink.plant.topics", r##"["factory/# -> by/{user|nobody}/{topic[1..]}"]"##)
        .set("routes.all", r#"FROM "factory/#" INTO $upstream"#)
        .start();
    router.connect(&as_user(v5("c1"), "alice", "wonder land")).publish("factory/a", "1", QOS_1);
    router.connect(&v5("c2")).publish("factory/a", "2", QOS_1);
    let record = upstream.wait_for(2);
    let topics: Vec<_> = record.iter().map(|it| &*it.topic).collect();
    assert_eq!(topics, ["by/alice/a", "by/nobody/a"]);
}
