//! `bench instructions`: how many instructions the inner steps take, counted by callgrind, not timed.
//!
//! Knows: decode, match, append, and what a publication takes in the broker (`decisions`); a stored baseline. Never: clocks, so that a busy machine gives the same figures.
//! How: the step runs n and 3n times in a process of its own under callgrind; the difference by 2n is one step, without
//! what starting costs. The toolchain is pinned, so that the figures of a commit are the same everywhere but for the
//! system's own libraries, which have a few percent of allowance.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use model::{Message, Priority, Qos, Timestamp};
use routes::{Options, RouteSpec, RouteTable, Scratch};
use store::{CommitLog, Log};
use wire::{OutgoingPublish, Packet, Version};

use crate::decisions::{self, BATCH, FANS};

const TOPIC: &str = "site/a/line/7/press/0042";
const BODY: &str =
    r#"{"deviceId":"press-0042","line":"L7","temperature":71.25,"pressure":3.481,"state":"running"}"#;
const PAYLOAD: [u8; 256] = [0x5A; 256];
const ROUTES: usize = 100;
const PACKET_BYTES_MAX: u32 = 1 << 20;

/// A step that is none of ours: it moves only with the machine, the C library or the compiler, and then nothing is judged.
const YARDSTICK: &str = "yardstick";

/// A step: its name, how often it runs at least, and what may be added before it counts as slower.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    times: u64,
    /// What it does each time, for a figure of one: messages delivered.
    units: u16,
    allowance: f64,
    run: fn(u64) -> anyhow::Result<()>,
}

/// The hot path in steps: first what is inside, then whole publications, from the bytes of one socket to those of others.
pub(crate) const STEPS: &[Step] = &[
    Step { name: YARDSTICK, times: 5_000, units: 1, allowance: 0.01, run: yardstick },
    Step { name: "decode", times: 20_000, units: 1, allowance: 0.03, run: decode },
    Step { name: "match", times: 5_000, units: 1, allowance: 0.03, run: matching },
    // RocksDB's own threads run beside it.
    Step { name: "append", times: 5_000, units: 1, allowance: 0.10, run: append },
    Step { name: "qos0", times: 300, units: BATCH, allowance: 0.03, run: decisions::qos0 },
    Step { name: "qos1", times: 200, units: BATCH, allowance: 0.03, run: decisions::qos1 },
    Step { name: "single", times: 5_000, units: 1, allowance: 0.03, run: decisions::single },
    Step { name: "fan-out", times: 50, units: BATCH * FANS, allowance: 0.03, run: decisions::fan_out },
];

/// Runs one step so often; what callgrind looks at.
pub(crate) fn work(name: &str, times: u64) -> anyhow::Result<()> {
    let step = STEPS.iter().find(|step| step.name == name).context("there is no such step")?;
    (step.run)(times)
}

/// What the standard library and the C library take to copy, to sort into a map and to write numbers.
fn yardstick(times: u64) -> anyhow::Result<()> {
    use std::fmt::Write as _;
    let (mut bytes, mut text, mut map) = (Vec::new(), String::new(), BTreeMap::new());
    for number in 0..times {
        bytes.clear();
        text.clear();
        for size in [16, 64, PAYLOAD.len()] {
            bytes.extend_from_slice(black_box(&PAYLOAD[..size]));
        }
        write!(text, "{}", black_box(number % 1_000 + 1_000))?;
        map.insert(number % 64, bytes.len() + text.len());
    }
    black_box(map.len());
    Ok(())
}

/// Whether the counts can be compared with the stored ones: the yardstick is as long as it was.
pub(crate) fn is_comparable(found: &Baseline, baseline: &Baseline) -> bool {
    match (found.get(YARDSTICK), baseline.get(YARDSTICK)) {
        (Some(now), Some(before)) => (now / before - 1.0).abs() <= 0.01,
        _ => true,
    }
}

fn decode(times: u64) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    let packet_id = NonZeroU16::new(7);
    let qos = Qos::AtLeastOnce;
    let publish = OutgoingPublish { qos, packet_id, topic: TOPIC, payload: &PAYLOAD, ..Default::default() };
    wire::encode_publish(&mut bytes, Version::V3, &publish)?;
    for _ in 0..times {
        let frame = wire::split(black_box(&bytes), PACKET_BYTES_MAX)?.context("it is whole")?;
        if let Packet::Publish(publish) = wire::decode(frame, Version::V3)? {
            black_box(publish.payload.len());
        }
    }
    Ok(())
}

fn matching(times: u64) -> anyhow::Result<()> {
    let spec = |at: usize| RouteSpec {
        name: format!("r{at}"),
        text: format!(
            "FROM /messages/* WHERE $body.line = 'M{at}' AND $body.temperature > {at} INTO uplink(\"u\")"
        ),
        priority: Priority::DEFAULT,
        ttl_millis: None,
    };
    let specs: Vec<RouteSpec> = (0..ROUTES).map(spec).collect();
    let Ok(table) = RouteTable::compile(&specs, &Options::default()) else {
        bail!("our own routes do not compile")
    };
    let (mut scratch, mut matches) = (Scratch::new(), Vec::new());
    let message = Message::new(TOPIC, BODY.as_bytes());
    for _ in 0..times {
        table.matches(black_box(&message), &mut scratch, &mut matches);
        black_box(matches.len());
    }
    Ok(())
}

fn append(times: u64) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut log = Log::open(&store::Options::new(folder.path().join("store")))?;
    let lane = log.lane("bench")?;
    for _ in 0..times {
        log.append(lane, &[&PAYLOAD], Timestamp(1_700_000_000_000), None)?;
    }
    log.commit()?;
    Ok(())
}

/// Instructions of one step. `program` is [`stripped`].
pub(crate) fn count(program: &Path, step: &Step) -> anyhow::Result<f64> {
    let (once, thrice) = (collected(program, step, step.times)?, collected(program, step, 3 * step.times)?);
    Ok((thrice - once) / (2 * step.times * u64::from(step.units)) as f64)
}

/// Our own binary without line tables, in a folder: valgrind gives up at those of a Rust that is newer than it.
pub(crate) fn stripped(folder: &Path) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("our own binary cannot be found")?;
    let copy = folder.join("bench");
    let status = Command::new("strip").arg("--strip-debug").arg("-o").arg(&copy).arg(own).status();
    let status = status.context("strip does not start; it is in the package binutils")?;
    if status.success() { Ok(copy) } else { bail!("strip ended with {status}") }
}

fn collected(program: &Path, step: &Step, times: u64) -> anyhow::Result<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["work", step.name, &times.to_string()])
        .output()
        .context("valgrind does not start; `make guard` installs it")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{} under valgrind ended with {}: {said}", step.name, output.status);
    }
    total(&said).with_context(|| format!("valgrind told no count: {said}"))
}

/// `==42== Collected : 1234567`
fn total(said: &str) -> Option<f64> {
    let line = said.lines().find(|line| line.contains("Collected :"))?;
    line.rsplit(':').next()?.trim().parse().ok()
}

/// Instructions of each step, as stored.
pub(crate) type Baseline = BTreeMap<String, f64>;

/// Reads the stored counts.
pub(crate) fn load(file: &Path) -> anyhow::Result<Baseline> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no baseline", file.display()))
}

/// One line for people, and whether the step takes clearly more than it did.
pub(crate) fn judge(step: &Step, found: f64, baseline: &Baseline) -> (String, bool) {
    match baseline.get(step.name) {
        None => (format!("{:8} {found:>10.1} instructions, no baseline yet", step.name), false),
        Some(before) => {
            let more = found > before * (1.0 + step.allowance);
            let change = 100.0 * (found / before - 1.0);
            let word = if more { "MORE" } else { "fine" };
            (
                format!(
                    "{:8} {found:>10.1} instructions, baseline {before:.1} ({change:+.1} %): {word}",
                    step.name
                ),
                more,
            )
        }
    }
}

/// Counts every step and judges it by the stored counts, or stores what is found: exit code 1 if one takes more.
pub(crate) fn run(file: &Path, bless: bool) -> anyhow::Result<ExitCode> {
    let baseline = if bless { Baseline::new() } else { load(file)? };
    let folder = tempfile::tempdir()?;
    let program = stripped(folder.path())?;
    let (mut found, mut more) = (Baseline::new(), false);
    for step in STEPS {
        let count = count(&program, step)?;
        let (line, is_more) = judge(step, count, &baseline);
        println!("{line}");
        more |= is_more;
        found.insert(step.name.to_owned(), count);
    }
    if bless {
        std::fs::write(file, serde_json::to_string_pretty(&found)? + "\n")?;
    }
    if more && !is_comparable(&found, &baseline) {
        println!(
            "not judged: the yardstick has another length here, so the machine, the C library or the compiler differ"
        );
        return Ok(ExitCode::SUCCESS);
    }
    Ok(if more { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_in_what_callgrind_says() {
        assert_eq!(total("==7== Events    : Ir\n==7== Collected : 1234567\n==7==\n"), Some(1_234_567.0));
        assert_eq!(total("==7== nothing\n"), None);
    }

    #[test]
    fn a_step_may_grow_by_its_allowance_only() {
        let baseline = Baseline::from([("decode".to_owned(), 100.0)]);
        let decode = STEPS.iter().find(|step| step.name == "decode").unwrap();
        let more = |found: f64| judge(decode, found, &baseline).1;
        assert_eq!((more(102.0), more(104.0), more(50.0)), (false, true, false));
        assert!(judge(&STEPS[2], 1.0, &baseline).0.ends_with("no baseline yet"));
    }

    #[test]
    fn counts_of_another_machine_are_not_judged() {
        let with = |length: f64| Baseline::from([(YARDSTICK.to_owned(), length)]);
        assert!(is_comparable(&with(100.0), &with(100.5)));
        assert!(!is_comparable(&with(100.0), &with(103.0)) && !is_comparable(&with(100.0), &with(97.0)));
        assert!(is_comparable(&with(100.0), &Baseline::new()));
    }

    #[test]
    fn every_step_works() {
        for step in STEPS {
            work(step.name, 10).unwrap();
        }
    }
}
