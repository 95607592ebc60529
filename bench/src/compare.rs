//! `bench compare`: the same load on Millrace and its peers, in turn, and what the figures say about each other.
//!
//! Knows: rounds and summaries. May use: `contestants`, `load`, `rows`, `stats`. Never: files; `page` writes them.
//! In:  rows and a number of rounds. Out: a [`Finding`] per row.
//! How: A B C, B C A, C A B …, each started fresh, so that a slow minute of the machine hits all of them and nobody is
//! always the first; ratios are taken within a round. Load is one process, the contestant another; both share the
//! machine.

use serde::Serialize;

use crate::contestants::{Binaries, System};
use crate::load::{self, Sample, Times};
use crate::rows::{Row, Target};
use crate::stats::{Spread, ratios};

/// What one row has shown.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) row: &'static str,
    pub(crate) question: &'static str,
    pub(crate) scenario: &'static str,
    pub(crate) systems: Vec<Summary>,
    pub(crate) ratios: Vec<Ratio>,
    pub(crate) targets: Vec<TargetResult>,
    /// Peers that could not be measured in this row, and why.
    pub(crate) absent: Vec<String>,
    pub(crate) samples: Vec<Sample>,
}

/// All rounds of one contestant.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) system: System,
    pub(crate) delivered_per_sec: Spread,
    pub(crate) cpu_secs_per_million: Spread,
    pub(crate) p50_micros: Spread,
    pub(crate) p99_micros: Spread,
    pub(crate) p999_micros: Spread,
    pub(crate) rss_bytes: Spread,
    /// Sum over all rounds.
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) out_of_order: u64,
    /// Rounds whose load was not offered as planned.
    pub(crate) invalid_rounds: usize,
    /// Share of the machine that others used or the host took, in the worst round.
    pub(crate) noise_percent_max: f64,
}

/// Millrace by a peer, round by round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Ratio {
    pub(crate) peer: System,
    pub(crate) delivered: Spread,
    pub(crate) cpu: Spread,
    pub(crate) p50: Spread,
    pub(crate) p99: Spread,
}

/// Whether a target is reached, by the medians.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TargetResult {
    pub(crate) target: String,
    pub(crate) found: f64,
    pub(crate) reached: bool,
}

/// Who takes part beside Millrace, and what is to be reached.
#[derive(Clone)]
pub(crate) struct Contest {
    pub(crate) peers: Vec<System>,
    pub(crate) targets: &'static [Target],
    /// Rounds in which others used more of the machine do not count and are repeated, up to as many as count.
    pub(crate) noise_percent_max: f64,
    /// Rounds that may fail to come about (a port that is taken, a load that does not start) and are repeated.
    pub(crate) failures_max: u32,
}

impl Contest {
    /// Without targets, every round counting.
    pub(crate) fn with(peers: &[System]) -> Contest {
        Contest { peers: peers.to_vec(), targets: &[], noise_percent_max: f64::INFINITY, failures_max: 0 }
    }

    /// The row's own and those that were named, where other brokers can do it at all; or another Millrace alone if there
    /// is one.
    pub(crate) fn of(row: &'static Row, binaries: &Binaries) -> Contest {
        let (peers, targets): (&[System], &[Target]) = match binaries.before {
            Some(_) => (&[System::Before], &[Target::NotSlowerThan(System::Before)]),
            None => (row.peers, row.targets),
        };
        let mut contest = Contest { targets, ..Contest::with(peers) };
        if binaries.before.is_none() && peers.contains(&System::Mosquitto) {
            contest.peers.extend(binaries.foreign.iter().map(|(system, _)| *system));
        }
        contest
    }

    fn counts(&self, round: &[Sample]) -> bool {
        round.iter().all(|sample| sample.noise_percent() <= self.noise_percent_max)
    }
}

/// Runs one row. `progress` is told after each run.
///
/// Ends early, with the rounds that are whole, when `interrupted` says so; `None` if there is not a single one.
pub(crate) async fn run(
    row: &'static Row,
    contest: Contest,
    binaries: &Binaries,
    rounds: u32,
    times: Times,
    mut progress: impl FnMut(&Sample),
    interrupted: impl Fn() -> bool,
) -> anyhow::Result<Option<Finding>> {
    let mut systems: Vec<System> =
        std::iter::once(System::Millrace).chain(contest.peers.iter().copied()).collect();
    let (mut samples, mut counting, mut failures): (Vec<Sample>, _, _) = (Vec::new(), 0, 0);
    let mut absent = Vec::new();
    'rounds: for round in 1..=rounds * 2 {
        let mut whole = Vec::new();
        let turn = (round as usize - 1) % systems.len();
        let order: Vec<System> = systems[turn..].iter().chain(&systems[..turn]).copied().collect();
        for system in order {
            match measure(system, row, binaries, times, round).await {
                Ok(_) if interrupted() => break 'rounds,
                Ok(sample) => {
                    progress(&sample);
                    whole.push(sample);
                }
                // A broker that somebody named and that cannot do this: the others are compared without it.
                Err(error) if matches!(system, System::Foreign(_)) => {
                    absent.push(format!("{} is left out: {error:#}", system.name()));
                    systems.retain(|other| *other != system);
                    samples.retain(|sample| sample.system != system);
                }
                Err(error) if failures < contest.failures_max => {
                    eprintln!("  round {round} does not count: {error:#}");
                    failures += 1;
                    continue 'rounds;
                }
                Err(error) => return Err(error),
            }
        }
        counting += u32::from(contest.counts(&whole));
        samples.append(&mut whole);
        // As many again would not be quiet either.
        let hopeless = round >= rounds && counting == 0;
        if counting == rounds || hopeless {
            break;
        }
    }
    let finding = summarise(row, &systems, contest.targets, samples);
    Ok(finding.map(|finding| Finding { absent, ..finding }))
}

async fn measure(
    system: System,
    row: &'static Row,
    binaries: &Binaries,
    times: Times,
    round: u32,
) -> anyhow::Result<Sample> {
    let mut running = binaries.start(system, row.routes)?;
    load::run(system, &mut running, row.scenario, times, round).await
}

fn summarise(
    row: &'static Row,
    systems: &[System],
    targets: &[Target],
    samples: Vec<Sample>,
) -> Option<Finding> {
    let of = |system: System| samples.iter().filter(move |sample| sample.system == system);
    let summaries: Option<Vec<Summary>> = systems.iter().map(|&system| summary(system, of(system))).collect();
    let peers = systems.iter().filter(|system| **system != System::Millrace);
    let ratios: Option<Vec<Ratio>> = peers
        .map(|&peer| {
            let pairs = |value: fn(&Sample) -> f64| {
                let values = |system| of(system).map(value).collect::<Vec<f64>>();
                ratios(&values(System::Millrace), &values(peer))
            };
            Some(Ratio {
                peer,
                delivered: pairs(|sample| sample.delivered_per_sec)?,
                cpu: pairs(|sample| sample.cpu_secs_per_million)?,
                p50: pairs(|sample| sample.latency.p50 as f64)?,
                p99: pairs(|sample| sample.latency.p99 as f64)?,
            })
        })
        .collect();
    let (systems, ratios) = (summaries?, ratios?);
    let targets = targets.iter().flat_map(|target| judge(*target, &systems, &ratios)).collect();
    let Row { name, question, scenario, .. } = *row;
    Some(Finding { row: name, question, scenario, systems, ratios, targets, absent: Vec::new(), samples })
}

fn summary<'s>(system: System, samples: impl Iterator<Item = &'s Sample> + Clone) -> Option<Summary> {
    let spread = |value: fn(&Sample) -> f64| Spread::of(samples.clone().map(value));
    let sum = |value: fn(&Sample) -> u64| samples.clone().map(value).sum();
    Some(Summary {
        system,
        delivered_per_sec: spread(|sample| sample.delivered_per_sec)?,
        cpu_secs_per_million: spread(|sample| sample.cpu_secs_per_million)?,
        p50_micros: spread(|sample| sample.latency.p50 as f64)?,
        p99_micros: spread(|sample| sample.latency.p99 as f64)?,
        p999_micros: spread(|sample| sample.latency.p999 as f64)?,
        rss_bytes: spread(|sample| sample.rss_bytes as f64)?,
        lost: sum(|sample| sample.lost),
        duplicated: sum(|sample| sample.duplicated),
        out_of_order: sum(|sample| sample.out_of_order),
        invalid_rounds: samples.clone().filter(|sample| !sample.valid).count(),
        noise_percent_max: spread(Sample::noise_percent)?.max,
    })
}

fn judge(target: Target, systems: &[Summary], ratios: &[Ratio]) -> Vec<TargetResult> {
    let at_most =
        |target: String, found: f64, limit: f64| TargetResult { target, found, reached: found <= limit };
    let peer_ratio = |peer: System| ratios.iter().find(|ratio| ratio.peer == peer);
    match target {
        Target::Cpu(limit) => {
            let own = systems.iter().find(|summary| summary.system == System::Millrace);
            let text = format!("CPU s per 10⁶ delivered ≤ {limit:.2}");
            own.map(|own| at_most(text, own.cpu_secs_per_million.median, limit)).into_iter().collect()
        }
        Target::CpuTimes(limit, peer) => {
            let text = format!("CPU ≤ {limit:.2} × {}", peer.name());
            peer_ratio(peer).map(|ratio| at_most(text, ratio.cpu.median, limit)).into_iter().collect()
        }
        Target::NotSlowerThan(peer) => peer_ratio(peer)
            .map(|ratio| {
                let delivered = ratio.delivered.median;
                let text = format!("delivered ≥ 0.90 × {}", peer.name());
                [
                    at_most(format!("CPU ≤ 1.10 × {}", peer.name()), ratio.cpu.median, 1.10),
                    TargetResult { target: text, found: delivered, reached: delivered >= 0.90 },
                ]
            })
            .into_iter()
            .flatten()
            .collect(),
        Target::LatencyOf(peer) => peer_ratio(peer)
            .map(|ratio| {
                let text = |quantile: &str| format!("{quantile} ≤ 1 × {}", peer.name());
                [at_most(text("p50"), ratio.p50.median, 1.0), at_most(text("p99"), ratio.p99.median, 1.0)]
            })
            .into_iter()
            .flatten()
            .collect(),
    }
}

impl Finding {
    /// What was broken of MQTT's promises, by whomever.
    pub(crate) fn broken(&self) -> Vec<String> {
        self.broken_by(|_| true)
    }

    /// The same, of ours alone: what a peer breaks is a finding, not our failure.
    pub(crate) fn broken_by_us(&self) -> Vec<String> {
        self.broken_by(|system| matches!(system, System::Millrace | System::Before))
    }

    fn broken_by(&self, whose: impl Fn(System) -> bool) -> Vec<String> {
        let samples = self.samples.iter().filter(|sample| whose(sample.system));
        let broken = samples.flat_map(|sample| {
            let place = move |text: &String| {
                format!("{}, {}, round {}: {text}", self.row, sample.system.name(), sample.round)
            };
            sample.broken.iter().map(place)
        });
        broken.collect()
    }

    /// What a reader must know about single runs, each remark once.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let mut remarks: Vec<String> = self.absent.clone();
        for sample in self.samples.iter().filter(|sample| !sample.valid) {
            for remark in &sample.remarks {
                let text = format!("{}, round {}: {remark}", sample.system.name(), sample.round);
                if !remarks.contains(&text) {
                    remarks.push(text);
                }
            }
        }
        remarks
    }
}
