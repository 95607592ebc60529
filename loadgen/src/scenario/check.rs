//! The judge of scenarios: which keys there are, what they may be, and which of them contradict one another.
//!
//! In:  tables. Out: a [`Scenario`], or errors noted in the sections. Never: files, overrides.

use std::path::PathBuf;
use std::time::Duration;

use model::Qos;
use wire::Version;

use super::fields;
use super::section::Section;
use super::{
    Clients, Endpoint, Join, Leave, Pacing, Publishers, RunPlan, Scenario, Subscribers, UpstreamPlan,
    WillPlan,
};
use crate::address::Address;
use crate::clock::Micros;
use crate::ledger::Rules;
use crate::null::Manners;
use crate::replay::Replay;
use crate::schedule::Arrivals;
use crate::tls::TlsPlan;

/// A closed loop at most so far ahead of its subscribers: far enough for large batches, and 50 publishers of 256 B
/// stay below the queues that brokers usually have.
const AHEAD_DEFAULT: u32 = 1024;

/// Judges the whole. `None` only if an error was noted.
pub(super) fn scenario(mut root: Section<'_>) -> Option<Scenario> {
    let name = root.text("name").unwrap_or_else(|| "unnamed".to_owned());
    let description = root.text("description").unwrap_or_default();
    let url = root.text("url").unwrap_or_else(|| "mqtt://127.0.0.1:1883".to_owned());
    let login = login(&mut root);
    let tls = root.section("tls").map(check_tls);
    let run = root.section("run").and_then(check_run);
    let keep = Defaults { url, login };
    let publishers = if root.has("publishers") {
        root.section("publishers").map(|s| check_publishers(s, &keep))
    } else {
        None
    };
    let subscribers = if root.has("subscribers") {
        root.section("subscribers").map(|s| check_subscribers(s, &keep))
    } else {
        None
    };
    let clients = match root.has("clients") {
        true => root.section("clients").map(|s| check_clients(s, &keep)),
        false => None,
    };
    let upstream = match root.has("upstream") {
        true => root.section("upstream").map(check_upstream),
        false => None,
    };
    if publishers.is_none() && subscribers.is_none() && clients.is_none() {
        root.error("publishers", "at least one of [publishers], [subscribers] and [clients] must be there");
    }
    let mut run = run?;
    let publishers = match publishers {
        Some(found) => Some(found?),
        None => None,
    };
    let subscribers = match subscribers {
        Some(found) => Some(found?),
        None => None,
    };
    let clients = match clients {
        Some(found) => Some(found?),
        None => None,
    };
    let upstream = match upstream {
        Some(found) => Some(found?),
        None => None,
    };
    let messages = publishers.as_ref().and_then(|publishers: &Publishers| publishers.messages);
    match (run.duration, messages) {
        // A count alone bounds the run; a day is there so that a lost message does not make it endless.
        (None, Some(_)) => run.duration = Some(Duration::from_secs(24 * 3600)),
        (None, None) => root.error("run.duration_secs", "missing: give it, or publishers.messages"),
        (Some(_), _) => {}
    }
    if let (Some(publishers), Some(subscribers)) = (&publishers, &subscribers) {
        check_together(&mut root, publishers, subscribers);
    }
    for (key, qos, endpoint) in [
        (
            "publishers.clean",
            publishers.as_ref().map(|it| it.qos),
            publishers.as_ref().map(|it| &it.endpoint),
        ),
        (
            "subscribers.clean",
            subscribers.as_ref().map(|it| it.qos),
            subscribers.as_ref().map(|it| &it.endpoint),
        ),
    ] {
        let forgets = endpoint.is_some_and(|endpoint| endpoint.clean);
        if run.plan.reconnect && qos == Some(Qos::ExactlyOnce) && forgets {
            root.error(
                key,
                "must be false with QoS 2 and run.reconnect: exactly once needs the session to last",
            );
        }
    }
    // A message may go to a second member of a group only when the first is gone with it unacknowledged.
    run.plan.rules.expect_one_member = !run.plan.reconnect;
    root.finish();
    Some(Scenario {
        name,
        description,
        run: run.into_plan()?,
        tls: tls?,
        publishers,
        subscribers,
        clients,
        upstream,
        source: toml::Table::new(),
    })
}

/// What the senders and the receivers of one scenario must agree on.
fn check_together(root: &mut Section<'_>, publishers: &Publishers, subscribers: &Subscribers) {
    if subscribers.join == Join::After {
        if !publishers.retain {
            root.error(
                "subscribers.join",
                "\"after\" needs publishers.retain = true: else nothing is left to get",
            );
        }
        if publishers.qos == Qos::AtMostOnce {
            root.error(
                "publishers.qos",
                "0 found, 1 or 2 expected with join = \"after\": else nobody knows when it is kept",
            );
        }
        if publishers.messages != Some(u64::from(publishers.topics)) {
            root.error(
                "publishers.messages",
                "must be publishers.topics with join = \"after\": one of each is kept",
            );
        }
    }
    // The referee counts streams, a publisher as a receiver sees it: all of its topics belong to one, or none.
    let Ok(filter) = model::TopicFilter::new(&subscribers.filter.expand(subscribers.first)) else { return };
    let matches = |topic: u64| {
        let name = publishers.topic.expand_with(publishers.first, topic);
        model::filter_matches(filter.as_str(), &name)
    };
    if [2, 3, u64::from(publishers.topics)].iter().any(|&topic| matches(topic) != matches(1)) {
        root.error(
            "subscribers.filter",
            "matches some topics of a publisher and not others: all or none can be judged",
        );
    }
}

struct Defaults {
    url: String,
    login: Option<(String, String)>,
}

/// [`RunPlan`], while the duration may still come from elsewhere.
struct RawRun {
    duration: Option<Duration>,
    plan: RunPlan,
}

impl RawRun {
    fn into_plan(self) -> Option<RunPlan> {
        Some(RunPlan { duration: self.duration?, ..self.plan })
    }
}

fn check_run(mut run: Section<'_>) -> Option<RawRun> {
    let day = 24.0 * 3600.0;
    let duration = run.seconds("duration_secs", 0.1..=7.0 * day);
    let plan = RunPlan {
        duration: Duration::ZERO,
        warmup: run.seconds("warmup_secs", 0.0..=day).unwrap_or(Duration::from_secs(1)),
        drain: run.seconds("drain_secs", 0.0..=day).unwrap_or(Duration::from_secs(10)),
        threads: run.number("threads", 1..=64).unwrap_or(1),
        spin: Duration::from_micros(run.number("spin_micros", 0..=1_000_000).unwrap_or(0)),
        seed: run.number("seed", 0..=i64::MAX).unwrap_or(1),
        slip_max_percent: run.real("slip_max_percent", 0.0..=100.0).unwrap_or(1.0),
        slip_tolerance: Duration::from_millis(run.number("slip_tolerance_millis", 1..=60_000).unwrap_or(10)),
        rules: Rules {
            expect_qos0: run.flag("expect_qos0").unwrap_or(false),
            expect_order: run.flag("expect_order").unwrap_or(true),
            expect_one_member: true,
        },
        reconnect: run.flag("reconnect").unwrap_or(false),
        part: check_part(&mut run),
        begin_at: run.number("begin_at_micros", 0..=i64::MAX).map(Micros),
        id: run.number("id", 1..=i64::from(u32::MAX)),
        keep_alive: Duration::from_secs(run.number("keep_alive_secs", 0..=65_535).unwrap_or(60)),
    };
    run.finish();
    Some(RawRun { duration, plan })
}

/// `"2/3"`: the second of three processes.
fn check_part(run: &mut Section<'_>) -> (u32, u32) {
    let Some(text) = run.text("part") else { return (0, 1) };
    let part = text.split_once('/').and_then(|(part, parts)| Some((part.parse().ok()?, parts.parse().ok()?)));
    match part {
        Some((part, parts)) if (1..=parts).contains(&part) && parts <= 64 => (part - 1, parts),
        _ => {
            run.error(
                "part",
                &format!("\"{text}\" found, PART/PARTS with at most 64 parts expected, as in \"1/3\""),
            );
            (0, 1)
        }
    }
}

fn check_tls(mut section: Section<'_>) -> TlsPlan {
    let file = |section: &mut Section<'_>, key| section.text(key).map(PathBuf::from);
    let plan = TlsPlan {
        ca: file(&mut section, "ca"),
        cert: file(&mut section, "cert"),
        key: file(&mut section, "key"),
        server_name: section.text("server_name"),
    };
    if plan.cert.is_some() != plan.key.is_some() {
        section.error("cert", "cert and key come together");
    }
    section.finish();
    plan
}

fn check_upstream(mut section: Section<'_>) -> Option<UpstreamPlan> {
    let listen = section.text("listen").unwrap_or_else(|| "127.0.0.1:1884".to_owned());
    if listen.parse::<std::net::SocketAddr>().is_err() {
        section
            .error("listen", &format!("\"{listen}\" found, ADDRESS:PORT expected, as in \"127.0.0.1:1884\""));
    }
    let refuse = section.text("refuse").map(|filter| model::TopicFilter::new(&filter));
    let refuse = match refuse {
        Some(parsed) => Some(section.parsed("refuse", parsed)?),
        None => None,
    };
    let per_second = section.real("per_second", 0.1..=1e7);
    section.finish();
    Some(UpstreamPlan { listen, manners: Manners { refuse, per_second, ..Manners::default() } })
}

fn check_publishers(mut section: Section<'_>, defaults: &Defaults) -> Option<Publishers> {
    let count = section.number("count", 1..=100_000).unwrap_or(1);
    let first = section.number("first", 1..=1_000_000_000).unwrap_or(1);
    let endpoint = check_endpoint(&mut section, defaults, "publisher", "loadgen-p{publisher}");
    let topic = section.pattern("topic", &["publisher", "topic"], "load/{publisher}");
    let topics = section.number("topics", 1..=10_000_000).unwrap_or(1);
    if topic.as_ref().is_some_and(|topic| topics > 1 && !topic.varies_in_second()) {
        section.error("topic", "several topics need {topic} in it, to differ");
    }
    if let Some(Err(error)) = topic.as_ref().map(|topic| model::validate_name(&topic.expand(first))) {
        section.error("topic", &format!("not a topic name: {error}"));
    }
    let qos = section.qos("qos");
    let batch = section.number("batch", 1..=65_535).unwrap_or(64);
    let pacing = check_pacing(&mut section, count, batch);
    let replay = section.text("replay").map(PathBuf::from);
    let speed = section.real("speed", 0.001..=1_000.0);
    if speed.is_some() && replay.is_none() {
        section.error("speed", "only means something with replay");
    }
    let replay = replay.map(|file| Replay { file, speed: speed.unwrap_or(1.0) });
    let window = section.number("window", 1..=65_535).unwrap_or(100);
    let ahead = section.number("ahead", 0..=1_000_000).unwrap_or(AHEAD_DEFAULT);
    let retain = section.flag("retain").unwrap_or(false);
    let user_properties = section.pairs("user_properties");
    let version = endpoint.as_ref().map(|endpoint: &Endpoint| endpoint.version);
    if version == Some(Version::V3) && user_properties.as_ref().is_some_and(|pairs| !pairs.is_empty()) {
        section.error("user_properties", "3.1.1 has none: give version = \"5\" beside them");
    }
    let content_type = section.text("content_type");
    if version == Some(Version::V3) && content_type.is_some() {
        section.error("content_type", "3.1.1 has none: give version = \"5\" beside it");
    }
    let messages = section.number("messages", 1..=i64::MAX);
    let payload = section.section("payload").and_then(fields::payload);
    section.finish();
    Some(Publishers {
        count,
        first,
        endpoint: endpoint?,
        topic: topic?,
        topics,
        qos: qos?,
        retain,
        user_properties: user_properties?,
        content_type,
        pacing: pacing?,
        replay,
        batch,
        window,
        ahead,
        messages,
        payload: payload?,
    })
}

fn check_pacing(section: &mut Section<'_>, count: u32, batch: u32) -> Option<Pacing> {
    let arrivals_name = section.choice("arrivals", &["constant", "poisson", "bursts"]).unwrap_or("constant");
    let burst = section.number("burst", 1..=1_000_000);
    if burst.is_some() && arrivals_name != "bursts" {
        section.error("burst", "only means something with arrivals = \"bursts\"");
    }
    let arrivals = match arrivals_name {
        "poisson" => Arrivals::Poisson,
        "bursts" => Arrivals::Bursts(burst.unwrap_or(batch)),
        _ => Arrivals::Constant,
    };
    let total = section.real("rate_total", 0.001..=1e9);
    if section.has("replay") {
        for key in ["rate", "rate_total", "arrivals"] {
            if section.has(key) {
                section.error(key, "cannot stand beside replay: the recording has its own timing");
            }
        }
        return Some(Pacing::Replay);
    }
    if section.is_text("rate") {
        section.choice("rate", &["max"])?;
        if total.is_some() {
            section.error("rate_total", "cannot stand beside rate = \"max\": take one of them");
        }
        if section.has("arrivals") {
            section.error("arrivals", "means nothing with rate = \"max\": there is no schedule");
        }
        return Some(Pacing::Max);
    }
    let rate = match (section.real("rate", 0.001..=1e9), total) {
        (Some(_), Some(_)) => {
            section.error("rate", "cannot stand beside rate_total: take one of them");
            None
        }
        (Some(rate), None) => Some(rate),
        (None, Some(total)) => Some(total / f64::from(count)),
        (None, None) => {
            if !section.has("rate") && !section.has("rate_total") {
                section.error(
                    "rate",
                    "missing: messages a second and publisher, or \"max\"; or give rate_total",
                );
            }
            None
        }
    };
    Some(Pacing::Open { rate: rate?, arrivals })
}

fn check_subscribers(mut section: Section<'_>, defaults: &Defaults) -> Option<Subscribers> {
    let count = section.number("count", 1..=100_000).unwrap_or(1);
    let first = section.number("first", 1..=1_000_000_000).unwrap_or(1);
    let endpoint = check_endpoint(&mut section, defaults, "subscriber", "loadgen-s{subscriber}");
    let filter = section.pattern("filter", &["subscriber"], "load/{subscriber}");
    if let Some(Err(error)) = filter.as_ref().map(|f| model::TopicFilter::new(&f.expand(first))) {
        section.error("filter", &format!("not a topic filter: {error}"));
    }
    let qos = section.qos("qos");
    let join = match section.choice("join", &["before", "after"]).unwrap_or("before") {
        "after" => Join::After,
        _ => Join::Before,
    };
    let ballast = section.number("ballast", 0..=100_000).unwrap_or(0);
    let slow = section.number("slow", 0..=i64::from(count)).unwrap_or(0);
    let slow_pause = Duration::from_millis(section.number("slow_pause_millis", 1..=60_000).unwrap_or(100));
    let away_at = section.seconds("away_at_secs", 0.0..=86_400.0);
    let away_for = section.seconds("away_for_secs", 0.0..=86_400.0);
    if away_at.is_some() != away_for.is_some() {
        section.error("away_at_secs", "away_at_secs and away_for_secs come together");
    }
    if away_at.is_some() && endpoint.as_ref().is_some_and(|endpoint| endpoint.clean) {
        section.error("clean", "must be false with away_at_secs: else nothing waits for them");
    }
    section.finish();
    Some(Subscribers {
        count,
        first,
        endpoint: endpoint?,
        filter: filter?,
        qos: qos?,
        join,
        ballast,
        slow,
        slow_pause,
        away: away_at.zip(away_for),
    })
}

fn check_clients(mut section: Section<'_>, defaults: &Defaults) -> Option<Clients> {
    let count = section.number("count", 1..=100_000).unwrap_or(1);
    let first = section.number("first", 1..=1_000_000_000).unwrap_or(1);
    let endpoint = check_endpoint(&mut section, defaults, "client", "loadgen-c{client}");
    let connect_rate = match section.is_text("connect_rate") {
        true => section.choice("connect_rate", &["max"]).and(None),
        false => section.real("connect_rate", 0.1..=1e6),
    };
    let cycles = section.number("cycles", 1..=1_000_000).unwrap_or(1);
    let stay = section.seconds("stay_secs", 0.0..=86_400.0);
    let storm = section.seconds("storm_at_secs", 0.0..=86_400.0);
    if cycles > 1 && stay.is_none() && !(cycles == 2 && storm.is_some()) {
        section.error(
            "cycles",
            "a client comes again only after it left: give stay_secs, or storm_at_secs for one more",
        );
    }
    let leave = match section.choice("leave", &["disconnect", "vanish"]).unwrap_or("disconnect") {
        "vanish" => Leave::Vanish,
        _ => Leave::Disconnect,
    };
    let filter = section.has("filter").then(|| section.pattern("filter", &["client"], "")).flatten();
    let qos = section.qos("qos");
    let will = section.has("will").then(|| section.section("will").and_then(check_will)).flatten();
    if section.has("will") && leave == Leave::Disconnect {
        section.error("leave", "\"vanish\" expected beside a will: after a DISCONNECT there is none");
    }
    section.finish();
    let endpoint = endpoint?;
    Some(Clients {
        count,
        first,
        endpoint,
        connect_rate,
        cycles,
        stay,
        storm,
        leave,
        filter,
        qos: qos?,
        will,
    })
}

fn check_will(mut section: Section<'_>) -> Option<WillPlan> {
    let topic = section.pattern("topic", &["client"], "wills/{client}");
    let qos = section.qos("qos");
    section.finish();
    Some(WillPlan { topic: topic?, qos: qos? })
}

fn check_endpoint(
    section: &mut Section<'_>,
    defaults: &Defaults,
    placeholder: &str,
    client_id: &str,
) -> Option<Endpoint> {
    let url = section.text("url").unwrap_or_else(|| defaults.url.clone());
    let address = section.parsed("url", Address::parse(&url));
    let version = match section.choice("version", &["3.1.1", "5"]).unwrap_or("3.1.1") {
        "5" => Version::V5,
        _ => Version::V3,
    };
    let client_id = section.pattern("client_id", &[placeholder], client_id);
    if client_id.as_ref().is_some_and(|pattern| !pattern.varies())
        && section.integer("count").unwrap_or(1) > 1
    {
        section.error("client_id", &format!("several clients need {{{placeholder}}} in it, to differ"));
    }
    let clean = section.flag("clean").unwrap_or(true);
    let login = login(section).or_else(|| defaults.login.clone());
    Some(Endpoint { address: address?, version, client_id: client_id?, clean, login })
}

fn login(section: &mut Section<'_>) -> Option<(String, String)> {
    let (user, password) = (section.text("username"), section.text("password"));
    if user.is_none() && password.is_some() {
        section.error("password", "needs a username beside it");
    }
    Some((user?, password.unwrap_or_default()))
}
