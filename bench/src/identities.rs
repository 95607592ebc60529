//! Part of `bench uplink`: a gateway with many devices below it, each with a link of its own to an IoT Hub over a bad network.
//!
//! Knows: the test hub (`tests/iothub`), which lives in this process, at the far end of the emulated network; TLS, tokens and
//! topics are those of the service. May use: `contestants`, `fleet`. Needs root. Out: an [`Identities`].
//! How: the way swallows everything; every device leaves its messages with the gateway; the way is opened. Counted is from
//! the moment at which all links are up, until everything is there. The hub checks everything, in this machine's time: at short
//! round trips the row tells as much of the hub as of the gateway, whose CPU is its own in any case.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use iothub::{Config, Hub, Identity};
use loadgen::emulated::{Emulated, Way};
use loadgen::process::Sample as Process;
use loadgen::run::Run;
use serde::Serialize;

use crate::contestants::{Binaries, Routes, System};
use crate::fleet::{Fleet, backlog, wait};

const PATIENCE: Duration = Duration::from_secs(120);
/// Longest measured part.
const MEASURED: Duration = Duration::from_secs(15);
/// Links opened a second: the bound is the service's, not ours; it would only make the bench longer.
const OPENS_PER_SEC: u32 = 200;
const HOST: &str = "hub.example";
const PORT: u16 = 8_883;
/// A child's name, with the number of its publisher.
const DEVICE: &str = "device-";

/// One cell.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Identities {
    pub(crate) identities: u64,
    pub(crate) rtt_millis: u64,
    pub(crate) lost_percent: f64,
    pub(crate) messages: u64,
    /// From the opened way until every link is up.
    pub(crate) up_secs: f64,
    /// Arrived a second, once they are.
    pub(crate) per_sec: f64,
    /// Seconds of CPU of the gateway per 10⁶ of these.
    pub(crate) cpu_secs_per_million: f64,
    pub(crate) rss_bytes: u64,
    /// All of them arrived within the measured time.
    pub(crate) is_drained: bool,
    /// More than was sent.
    pub(crate) duplicates: u64,
    /// Rules of the service that were broken.
    pub(crate) violations: u64,
}

/// Measures one way.
pub(crate) async fn play(
    identities: u64,
    way: Way,
    messages: u64,
    binaries: &Binaries,
) -> anyhow::Result<Identities> {
    let network = Emulated::start(Way { is_black: true, ..way }).context("an emulated network")?;
    let hub = hub_in(&network)?;
    let folder = tempfile::tempdir()?;
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, hub.ca_pem())?;
    hub.put(Identity::gateway("gw")).map_err(|why| anyhow!(why))?;
    hub.put(Identity::module("gw", "$edgeHub")).map_err(|why| anyhow!(why))?;
    // Whatever number the publishers begin with.
    for number in 0..=identities {
        hub.put(Identity::device(&format!("{DEVICE}{number}")).below("gw")).map_err(|why| anyhow!(why))?;
    }
    let login = hub.connection_string("gw/$edgeHub").context("the gateway's module has a key")?;
    let mut set = binaries.set.clone();
    set.extend([
        "uplink.cloud.kind=\"iothub\"".to_owned(),
        format!("uplink.cloud.connection_string={login:?}"),
        format!("uplink.cloud.url=\"mqtts://{}:{PORT}\"", network.far()),
        format!("uplink.cloud.server_name=\"{HOST}\""),
        format!("uplink.cloud.ca={ca:?}"),
        "uplink.cloud.children=\"on-behalf-of\"".to_owned(),
        // The load has no users.
        "uplink.cloud.speakers=[\"*\"]".to_owned(),
        "uplink.cloud.backoff_max_ms=1000".to_owned(),
        format!("limits.uplink_links_max={}", identities + 8),
        format!("limits.uplink_waiting_senders_max={}", identities * 2),
        format!("limits.uplink_opens_per_sec={OPENS_PER_SEC}"),
        "routes.all=\"FROM 'devices/#' INTO $upstream\"".replace('\'', "\\\""),
    ]);
    let binaries = Binaries { set, ..binaries.clone() };
    let mut gateway = binaries.start(System::Millrace, Routes::None)?;
    let each = messages / identities;
    let total = each * identities;
    let pace = backlog(each);
    let topic = format!("devices/{DEVICE}{{publisher}}/messages/events/");
    let fleet =
        Fleet { publishers: identities, topic: &topic, pace: &pace, gateway: gateway.address, plant: None };
    let run = Run::start(fleet.scenario()?)?;
    run.ready(PATIENCE).await?;
    run.begin();
    if !wait(PATIENCE, || run.live().acked >= total).await {
        bail!("the gateway took only {} of {total} messages", run.live().acked);
    }
    let opened = Instant::now();
    network.set(way);
    let are_up =
        wait(PATIENCE, || hub.connections().len() as u64 > identities || hub.recorded() >= total).await;
    gateway.check()?;
    if !are_up {
        bail!("only {} of {identities} links come up over {way:?}", hub.connections().len());
    }
    let up_secs = opened.elapsed().as_secs_f64();
    let (before, from, recorded) = (Process::of(gateway.pid())?, Instant::now(), hub.recorded());
    let is_drained = wait(MEASURED, || hub.recorded() >= total).await;
    let (after, secs) = (Process::of(gateway.pid())?, from.elapsed().as_secs_f64().max(1e-3));
    let came = hub.recorded().saturating_sub(recorded);
    gateway.check()?;
    run.stop_publishing();
    let usage = after.since(&before, came.max(1));
    Ok(Identities {
        identities,
        rtt_millis: way.delay.as_micros() as u64 / 500,
        lost_percent: f64::from(way.lost_permille) / 10.0,
        messages: total,
        up_secs,
        per_sec: came as f64 / secs,
        cpu_secs_per_million: usage.cpu_secs * 1e6 / came.max(1) as f64,
        rss_bytes: usage.rss_bytes,
        is_drained,
        duplicates: hub.recorded().saturating_sub(total),
        violations: hub.violations().len() as u64,
    })
}

/// A hub at the far end: whoever makes its threads is there.
fn hub_in(network: &Emulated) -> anyhow::Result<Hub> {
    let any = |port| SocketAddr::from(([0, 0, 0, 0], port));
    let config = Config {
        host: HOST.to_owned(),
        mqtt: SocketAddr::new(IpAddr::V4(network.far()), PORT),
        https: any(0),
        control: any(0),
    };
    std::thread::scope(|scope| {
        let started = scope.spawn(|| {
            network.enter()?;
            Hub::start(config)
        });
        let started = started.join().map_err(|_| anyhow!("the thread of the hub panicked"))?;
        started.context("a test hub at the far end")
    })
}

impl Identities {
    /// For who watches.
    pub(crate) fn line(&self) -> String {
        format!(
            "{} identities RTT {:3} ms, {:.0} % lost: up after {:.1} s, then {:>7.0}/s, CPU {:.2} s/10⁶{}",
            self.identities,
            self.rtt_millis,
            self.lost_percent,
            self.up_secs,
            self.per_sec,
            self.cpu_secs_per_million,
            if self.is_drained { ", all there" } else { "" },
        )
    }

    pub(crate) const HEAD: &'static str = "\n| RTT ms | lost % | identities | all links up, s | messages/s then | CPU s per 10⁶ | RSS MiB | twice |\n\
                                           |--:|--:|--:|--:|--:|--:|--:|--:|\n";

    /// For the page.
    pub(crate) fn row(&self) -> String {
        format!(
            "| {} | {} | {} | {:.1} | {:.0} | {:.2} | {:.0} | {} |\n",
            self.rtt_millis,
            self.lost_percent,
            self.identities,
            self.up_secs,
            self.per_sec,
            self.cpu_secs_per_million,
            self.rss_bytes as f64 / f64::from(1 << 20),
            self.duplicates
        )
    }
}
