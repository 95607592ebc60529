//! Who comes in, who is counted, who must go; over a local file, without a socket.

use std::sync::Arc;
use std::time::Duration;

use broker::Authentication;
use broker::access::Verdict;
use hub::HubId;
use hub::sas::token_with_key;
use model::{ConnId, Limits, ShardId};

use super::{Gatekeeper, GatekeeperSetup, Waiting};
use crate::iotedge::directory::{Directory, Source};
use crate::iotedge::local::{LocalFile, Method};
use crate::iotedge::now_secs;
use crate::iotedge::vault::{Keeper, Vault};
use crate::mail::{Mail, Mailbox};

struct Bench {
    folder: tempfile::TempDir,
    file: LocalFile,
    gatekeeper: Arc<Gatekeeper>,
    waiting: Option<Waiting>,
    mailbox: Arc<Mailbox>,
}

fn id(text: &str) -> HubId {
    HubId::parse(text).unwrap()
}

const SHARD: ShardId = ShardId(0);

impl Bench {
    async fn new(clients_max: Option<u32>) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identities.json");
        let mut file = LocalFile::new(&id("gw1")).unwrap();
        for name in ["d1", "d2"] {
            file.create(&id(name), Method::Keys, false, None).unwrap();
        }
        file.write(&path).unwrap();
        let vault = Arc::new(Vault::open(folder.path(), Keeper::File).await.unwrap());
        let pauses = (Duration::from_secs(60), Duration::from_secs(3_600));
        let source = Source::Local(path);
        let directory =
            Directory::open(source, id("gw1"), folder.path().to_owned(), vault, 100, pauses).unwrap();
        let mailbox = Arc::new(Mailbox::new(16));
        let (gatekeeper, waiting) = Gatekeeper::new(GatekeeperSetup {
            directory: Arc::new(directory),
            hosts: vec!["gw.local".to_owned()],
            takes_certificates: true,
            forwarder: id("gw1/IoTEdgeAPIProxy"),
            clients_max,
            lookup_timeout: Duration::from_secs(5),
            failures_free: 5,
            limits: &Limits { identity_lookups_max: 2, ..Limits::DEFAULT },
            mailboxes: vec![Arc::clone(&mailbox)],
            visitors: None,
            cards: None,
        });
        Bench { folder, file, gatekeeper, waiting: Some(waiting), mailbox }
    }

    fn token(&self, name: &str, expires: u64) -> String {
        let key = self.file.find(&id(name)).unwrap().auth.keys()[0].to_owned();
        token_with_key("gw.local", &id(name), &key, expires).unwrap()
    }

    fn good(&self, name: &str) -> String {
        self.token(name, now_secs() + 600)
    }

    fn knock(&self, conn: u64, name: &str, password: &str) -> Option<Verdict> {
        self.knock_as(conn, name, name, password)
    }

    fn knock_as(&self, conn: u64, client_id: &str, name: &str, password: &str) -> Option<Verdict> {
        let authentication = Authentication {
            conn: ConnId(conn),
            listener: 0,
            client_id: client_id.into(),
            user: format!("gw.local/{name}/?api-version=2021-04-12").into(),
            password: Some(password.as_bytes().into()),
            is_identity: true,
            shown: None,
        };
        self.gatekeeper.ask(SHARD, authentication, None)
    }

    fn change(&mut self, change: impl FnOnce(&mut LocalFile)) {
        change(&mut self.file);
        self.file.write(&self.folder.path().join("identities.json")).unwrap();
    }

    /// The next verdict that comes by mail.
    async fn verdict(&self) -> Verdict {
        loop {
            match self.mailbox.take() {
                Some(Mail::Authenticated { verdict, .. }) => return verdict,
                Some(other) => panic!("{other:?}"),
                None => self.mailbox.wait().await,
            }
        }
    }
}

fn identified(name: &str) -> Option<Verdict> {
    Some(Verdict::Identified { user: name.into() })
}

#[tokio::test]
async fn a_known_identity_comes_in_at_once_and_is_counted_until_it_goes() {
    let bench = Bench::new(None).await;
    assert_eq!(bench.knock(1, "d1", &bench.good("d1")), identified("d1"));
    assert_eq!(bench.gatekeeper.numbers().connected, 1);
    // Its next connection takes the place of the first, whose end then changes nothing.
    assert_eq!(bench.knock(2, "d1", &bench.good("d1")), identified("d1"));
    bench.gatekeeper.gone(SHARD, ConnId(1));
    let numbers = bench.gatekeeper.numbers();
    assert_eq!((numbers.connected, numbers.accepted["d1"], numbers.left["d1"]), (1, 2, 1));
    bench.gatekeeper.gone(SHARD, ConnId(2));
    bench.gatekeeper.gone(SHARD, ConnId(2));
    let numbers = bench.gatekeeper.numbers();
    assert_eq!((numbers.connected, numbers.left["d1"]), (0, 2));
}

#[tokio::test]
async fn what_no_lookup_can_mend_is_refused_at_once() {
    let bench = Bench::new(None).await;
    let (good, expired) = (bench.good("d1"), bench.token("d1", now_secs() - 400));
    for (client_id, name, password, verdict, reason) in [
        ("d2", "d1", good.as_str(), Verdict::NotAuthorized, "client_id"),
        ("d1", "d1", "", Verdict::NotAuthorized, "nothing_shown"),
        ("d1", "d1", "no token", Verdict::NotAuthorized, "not_a_token"),
        ("d1", "d1", expired.as_str(), Verdict::NotAuthorized, "expired"),
        ("d2", "d2", good.as_str(), Verdict::NotAuthorized, "identity"),
    ] {
        assert_eq!(bench.knock_as(1, client_id, name, password), Some(verdict), "{reason}");
        assert_eq!(bench.gatekeeper.numbers().denied.get(&(name.to_owned(), reason)), Some(&1), "{reason}");
    }
    let odd = Authentication {
        conn: ConnId(1),
        listener: 0,
        client_id: "d1".into(),
        user: "gw.local/d1".into(),
        password: None,
        is_identity: true,
        shown: None,
    };
    assert_eq!(bench.gatekeeper.ask(SHARD, odd, None), Some(Verdict::Unusable));
    assert_eq!(bench.gatekeeper.numbers().connected, 0);
}

#[tokio::test]
async fn who_is_not_known_is_looked_up_and_then_comes_in_or_not() {
    let mut bench = Bench::new(None).await;
    tokio::spawn(Arc::clone(&bench.gatekeeper).run_lookups(bench.waiting.take().unwrap()));
    bench.change(|file| file.create(&id("d3"), Method::Keys, false, None).unwrap());
    assert_eq!(bench.knock(1, "d3", &bench.good("d3")), None);
    assert_eq!(Some(bench.verdict().await), identified("d3"));
    // A rotated key is found in the same way.
    bench.change(|file| file.rotate(&id("d1")).unwrap());
    assert_eq!(bench.knock(2, "d1", &bench.good("d1")), None);
    assert_eq!(Some(bench.verdict().await), identified("d1"));
    assert_eq!(bench.knock(3, "nobody", &bench.good("d1")), None);
    assert_eq!(bench.verdict().await, Verdict::NotAuthorized);
    let numbers = bench.gatekeeper.numbers();
    // Names that anybody can make up are not kept.
    assert_eq!(numbers.denied, [(("unknown".to_owned(), "unknown"), 1)].into_iter().collect());
}

#[tokio::test]
async fn those_who_wait_for_a_lookup_are_bounded() {
    let bench = Bench::new(None).await;
    let token = bench.good("d1");
    assert_eq!(bench.knock(1, "n1", &token), None);
    assert_eq!(bench.knock(2, "n2", &token), None);
    assert_eq!(bench.knock(3, "n3", &token), Some(Verdict::Busy));
}

#[tokio::test]
async fn one_more_than_may_be_connected_is_refused_and_one_who_comes_again_is_not() {
    let bench = Bench::new(Some(1)).await;
    assert_eq!(bench.knock(1, "d1", &bench.good("d1")), identified("d1"));
    assert_eq!(bench.knock(2, "d2", &bench.good("d2")), Some(Verdict::TooManyClients));
    assert_eq!(bench.knock(3, "d1", &bench.good("d1")), identified("d1"));
    bench.gatekeeper.gone(SHARD, ConnId(3));
    assert_eq!(bench.knock(4, "d2", &bench.good("d2")), identified("d2"));
}

#[tokio::test]
async fn who_may_not_stay_is_sent_away_once() {
    let mut bench = Bench::new(None).await;
    bench.knock(1, "d1", &bench.good("d1"));
    // A token that is over by now, but within what clocks may differ.
    bench.knock(2, "d2", &bench.token("d2", now_secs() - 300));
    assert_eq!(bench.gatekeeper.review(false), [(SHARD, ConnId(2))]);
    assert_eq!(bench.gatekeeper.review(false), []);
    bench.change(|file| file.enable(&id("d1"), false).unwrap());
    assert_eq!(bench.gatekeeper.review(true), [], "what is known has not changed yet");
    bench.gatekeeper.directory.look_up(&id("d1"), None).await;
    assert_eq!(bench.gatekeeper.review(true), [(SHARD, ConnId(1))]);
    bench.gatekeeper.gone(SHARD, ConnId(1));
    assert_eq!(bench.gatekeeper.numbers().connected, 1);
}

#[tokio::test]
async fn attempts_that_fail_too_often_cost_no_lookup() {
    let mut bench = Bench::new(None).await;
    tokio::spawn(Arc::clone(&bench.gatekeeper).run_lookups(bench.waiting.take().unwrap()));
    let other = bench.good("d1");
    for _ in 0..6 {
        assert_eq!(bench.knock(1, "nobody", &other), None);
        assert_eq!(bench.verdict().await, Verdict::NotAuthorized);
    }
    assert_eq!(bench.knock(1, "nobody", &other), Some(Verdict::TooManyAttempts));
    // Whoever is good comes in all the same.
    assert_eq!(bench.knock(2, "d1", &other), identified("d1"));
}
