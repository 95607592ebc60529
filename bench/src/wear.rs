//! `bench wear`: bytes written to the disk per accepted payload byte, with the upstream there and away, for each durability;
//! and what the gateway's CPU and its publishers have of it.
//!
//! Knows: one load, two states of the line. May use: `contestants`, `stats`, the load generator. Out: a [`Table`].
//! How: 5 000 messages a second of 256 B at QoS 1, for so many seconds; what the kernel says that the process wrote, from
//! the first message until the lane is as empty as it gets. Online the plant is another Millrace; offline nobody is there,
//! and nothing is drained.
//! Time: six times (seconds + 5) a round.

use std::time::Duration;

use loadgen::process::Sample as Process;
use loadgen::run::Run;
use loadgen::scenario::Scenario;

use crate::contestants::{Binaries, Routes, System};
use crate::page::{Table, decimals};
use crate::stats::Spread;

/// Bytes of a payload.
const MESSAGE_BYTES: u64 = 256;
const RATE: u64 = 5_000;
/// After the last message, for what is still written.
const CALM: Duration = Duration::from_secs(3);
/// What an acknowledgement may promise; `spill` writes only what the upstream does not take.
pub(crate) const DURABILITIES: [&str; 3] = ["disk", "spill", "memory"];

/// Measures all of them.
pub(crate) async fn run(
    binaries: &Binaries,
    rounds: u32,
    seconds: f64,
    interrupted: impl Fn() -> bool,
) -> anyhow::Result<Option<Table>> {
    let mut rows = Vec::new();
    for durability in DURABILITIES {
        for is_online in [true, false] {
            let mut columns: [Vec<f64>; 4] = Default::default();
            for _ in 0..rounds {
                let found = round(durability, is_online, binaries, seconds).await?;
                columns.iter_mut().zip(found).for_each(|(column, value)| column.push(value));
                if interrupted() {
                    return Ok(None);
                }
            }
            let upstream = if is_online { "there" } else { "away" };
            let figures = columns.map(Spread::of);
            let texts = figures.iter().map(|it| it.as_ref().map_or_else(String::new, |it| decimals(it, 2)));
            rows.push([durability, upstream].map(str::to_owned).into_iter().chain(texts).collect());
        }
    }
    Ok(Some(Table {
        title: "wear".to_owned(),
        question: format!(
            "{RATE} messages a second of {MESSAGE_BYTES} B, QoS 1, for {seconds} s. *Written*: bytes to the disk per accepted \
             payload byte, as the kernel counts them for the process; write-ahead log, sorted files and merges included. *CPU* of \
             the gateway, user and system. *PUBACK*: from the intended time of a message to its acknowledgement."
        ),
        columns: ["durability", "upstream", "written ×", "CPU s/10⁶", "PUBACK p50 ms", "p99 ms"]
            .map(str::to_owned)
            .into(),
        rows,
    }))
}

/// Bytes written per accepted byte, CPU seconds per 10⁶ messages, p50 and p99 of acknowledgements in ms.
async fn round(
    durability: &'static str,
    is_online: bool,
    binaries: &Binaries,
    seconds: f64,
) -> anyhow::Result<[f64; 4]> {
    let plant = binaries.start(System::Millrace, Routes::None)?;
    // Port 9, discard: nobody listens there.
    let upstream = if is_online { plant.address } else { ([127, 0, 0, 1], 9).into() };
    let mut gateway = binaries.start(System::Millrace, Routes::Durability(durability, upstream))?;
    let url = format!("url=\"mqtt://{}\"", gateway.address);
    let run = Run::start(Scenario::parse("wear", &text(seconds), &[url])?)?;
    run.ready(Duration::from_secs(20)).await?;
    let before = Process::of(gateway.pid())?;
    run.begin();
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    run.stop_publishing();
    tokio::time::sleep(CALM).await;
    gateway.check()?;
    let after = Process::of(gateway.pid())?;
    let acknowledged = run.live().acked.max(1) as f64;
    let acks = run.finish().times.ack;
    let written = after.written_bytes.saturating_sub(before.written_bytes) as f64;
    let cpu_secs = after.cpu_secs - before.cpu_secs;
    let millis = |quantile| acks.value_at_quantile(quantile) as f64 / 1e3;
    Ok([
        written / (acknowledged * MESSAGE_BYTES as f64),
        cpu_secs * 1e6 / acknowledged,
        millis(0.5),
        millis(0.99),
    ])
}

fn text(seconds: f64) -> String {
    format!(
        "name = \"wear\"\n[publishers]\ncount = 20\nqos = 1\nrate_total = {RATE}\nwindow = 1000\n\
         payload = {{ kind = \"binary\", bytes = {MESSAGE_BYTES} }}\n[run]\nduration_secs = {}\nwarmup_secs = 0\n\
         keep_alive_secs = 0\n",
        seconds.ceil() as u64 + 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scenario_is_one() {
        let url = "url=\"mqtt://127.0.0.1:1\"".to_owned();
        assert!(Scenario::parse("wear", &text(1.0), &[url]).unwrap().subscribers.is_none());
    }
}
