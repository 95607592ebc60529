//! The program as its users have it: what it says when something is wrong, what it leaves behind, and its exit codes.
//!
//! Knows: the `loadgen` binary, null sinks with faults, and servers that do not behave. Never: how punctual this machine is:
//! where that would decide, any slip is allowed.
#![expect(clippy::unwrap_used, reason = "tests; clippy does not see that helpers beside them are tests too")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use loadgen::null::{Faults, Manners, NullBroker, NullHandle};
use serde_json::Value;
use tempfile::TempDir;

/// Two pairs, bounded by a count.
const PAIRS: &str = "name = \"pairs\"\n[run]\nduration_secs = 20\nwarmup_secs = 0\ndrain_secs = 2\nslip_max_percent = 100\n\
                     [publishers]\ncount = 2\nrate = \"max\"\nmessages = 1000\nqos = 1\n[subscribers]\ncount = 2\nqos = 1\n";
/// The same in an open loop of a second.
const OPEN: &str = "name = \"open\"\n[run]\nduration_secs = 1\nwarmup_secs = 0\ndrain_secs = 2\nslip_max_percent = 100\n\
                    [publishers]\ncount = 2\nrate = 100\nqos = 1\n[subscribers]\ncount = 2\nqos = 1\n";

/// A folder with a scenario, and the program to run on it.
struct Bench {
    folder: TempDir,
}

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Bench {
    fn new(scenario: &str) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("s.toml"), scenario).unwrap();
        Bench { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
        command.current_dir(self.folder.path()).env("XDG_CACHE_HOME", self.folder.path());
        command
    }

    fn run(&self, url: &str, arguments: &[&str]) -> Said {
        let mut command = self.program();
        command.args(["run", "s.toml", "--quiet", "--url", url]).args(arguments);
        said(&command.output().unwrap())
    }

    fn json(&self, name: &str) -> Value {
        let text = std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        serde_json::from_str(&text).unwrap()
    }
}

fn said(output: &Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

impl Said {
    #[track_caller]
    fn check(&self, code: i32, sentence: &str) {
        let Said { out, err, .. } = self;
        assert_eq!(self.code, Some(code), "\nout: {out}\nerr: {err}");
        assert!(err.contains(sentence) || out.contains(sentence), "{sentence}\nout: {out}\nerr: {err}");
        assert!(err.lines().count() <= 8, "a sentence, not a story: {err}");
    }
}

fn sink(faults: Faults) -> NullHandle {
    NullBroker::start(faults).unwrap()
}

/// A server that does this with each connection, for as long as the test lasts.
fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    let serve = std::sync::Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    url
}

/// Copies in both directions until either side ends.
fn relay(first: &[u8], client: TcpStream, broker: &str) {
    let mut broker = TcpStream::connect(broker).unwrap();
    broker.write_all(first).unwrap();
    let (mut from, mut to) = (client.try_clone().unwrap(), broker.try_clone().unwrap());
    std::thread::spawn(move || std::io::copy(&mut from, &mut to).ok());
    let mut client = client;
    std::io::copy(&mut broker, &mut client).ok();
}

// ---- what every run leaves behind ----

#[test]
fn a_good_run_ends_with_0_and_leaves_a_report_in_every_form() {
    let (bench, broker) = (Bench::new(PAIRS), sink(Faults::default()));
    let files = ["--json", "r.json", "--html", "r.html", "--hlog", "r.hlog", "--ledger", "l.json"];
    bench.run(&broker.url(), &files).check(0, "every promise was kept");
    let report = bench.json("r.json");
    assert_eq!((&report["valid"], &report["verdict"]["arrived"]), (&true.into(), &2_000.into()));
    for figure in ["p50", "p90", "p99", "p999", "p9999", "max"] {
        assert!(report["latency_micros"][figure].as_u64() > Some(0), "{figure}");
    }
    assert!(report["loadgen"]["cpu_secs"].is_number(), "the cost of the generator stands in each report");
    let page = std::fs::read_to_string(bench.path("r.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("every promise was kept"));
    let log = loadgen::hlog::read(&std::fs::read(bench.path("r.hlog")).unwrap()).unwrap();
    assert_eq!(loadgen::hlog::total(&log).unwrap().len(), 2_000);
    assert!(bench.json("l.json")["publishers"].is_object());
}

#[test]
fn a_broken_promise_ends_with_1_and_is_named() {
    let bench = Bench::new(PAIRS);
    let check = |faults: Faults, set: &[&str], sentence: &str| {
        let broker = sink(faults);
        let mut arguments = vec!["--json", "r.json", "--set", "run.drain_secs=3"];
        arguments.extend(set);
        bench.run(&broker.url(), &arguments).check(1, sentence);
        assert_ne!(bench.json("r.json")["verdict"]["broken"], serde_json::json!([]));
    };
    let none = Faults::default();
    check(Faults { lose_every: 100, ..none }, &[], "20 acknowledged and lost");
    check(Faults { corrupt_every: 400, ..none }, &[], "5 corrupt");
    check(Faults { delay_every: 500, ..none }, &[], "out of order");
    let exactly = ["--set", "publishers.qos=2", "--set", "subscribers.qos=2"];
    check(Faults { repeat_every: 100, ..none }, &exactly, "20 delivered more than once at QoS 2");
    let once = ["--set", "publishers.qos=0", "--set", "subscribers.qos=0"];
    check(Faults { repeat_every: 100, ..none }, &once, "20 delivered more than once at QoS 0");
}

#[test]
fn what_a_contract_allows_ends_with_0() {
    let bench = Bench::new(PAIRS);
    let broker = sink(Faults { repeat_every: 100, ..Faults::default() });
    bench.run(&broker.url(), &[]).check(0, "duplicated 20");
    let broker = sink(Faults { lose_every: 100, ..Faults::default() });
    let once = ["--set", "publishers.qos=0", "--set", "subscribers.qos=0", "--set", "run.drain_secs=3"];
    bench.run(&broker.url(), &once).check(0, "QoS 0: 20");
}

// ---- bad input ----

#[test]
fn a_broker_that_is_not_there_is_said_to_be_so() {
    let bench = Bench::new(PAIRS);
    let said = bench.run("mqtt://127.0.0.1:1", &["--json", "r.json"]);
    said.check(3, "cannot connect to 127.0.0.1:1");
    said.check(3, "is the broker running there?");
    assert!(!bench.path("r.json").exists(), "nothing was measured, and nothing is claimed");
}

#[test]
fn a_refused_connection_is_told_with_the_broker_s_reason() {
    let url = server(|mut stream| {
        let mut buffer = [0; 512];
        if stream.read(&mut buffer).is_ok() {
            // CONNACK, 3.1.1: not authorised.
            stream.write_all(&[0x20, 0x02, 0x00, 0x05]).ok();
        }
    });
    let said = Bench::new(PAIRS).run(&url, &[]);
    said.check(3, "the broker refused the connection: ");
    said.check(3, "of 4 connections came up");
}

#[test]
fn what_is_not_mqtt_is_said_to_be_so() {
    let url = server(|mut stream| {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").ok();
    });
    Bench::new(PAIRS).run(&url, &[]).check(3, "the broker sent ");
}

#[test]
fn unknown_keys_and_values_are_refused_all_at_once_and_nothing_is_started() {
    let bench = Bench::new(PAIRS);
    let check = |set: &str, sentence: &str| {
        bench.run("mqtt://127.0.0.1:1", &["--set", set]).check(2, sentence);
    };
    check("publishers.colour=red", "publishers.colour");
    check("run.slips=1", "run.slips");
    check("publishers.qos=3", "publishers.qos");
    check("nonsense", "--set nonsense: write it as key=value");
    let both = ["--set", "publishers.colour=1", "--set", "subscribers.taste=2"];
    let said = bench.run("mqtt://127.0.0.1:1", &both);
    said.check(2, "publishers.colour");
    said.check(2, "subscribers.taste");
    bench.run("gopher://127.0.0.1", &[]).check(2, "gopher");
    let replay = Bench::new("[run]\nduration_secs = 1\n[publishers]\nreplay = \"nowhere.csv\"\n");
    replay.run("mqtt://127.0.0.1:1", &[]).check(2, "nowhere.csv: No such file");
}

#[test]
fn rates_that_make_no_sense_are_refused_with_what_is_possible() {
    let bench = Bench::new(OPEN);
    for rate in ["0", "-5", "nan", "inf", "1e12"] {
        let said = bench.run("mqtt://127.0.0.1:1", &["--set", &format!("publishers.rate={rate}")]);
        said.check(2, "publishers.rate");
        said.check(2, "1000000000");
    }
}

/// Two hundred million a second is more than any process makes, even for somebody who takes everything at once; what it did
/// is kept, and not for use.
#[test]
fn a_rate_that_the_generator_cannot_keep_makes_the_run_invalid_and_keeps_what_there_is() {
    let url = server(|mut stream| {
        let mut buffer = vec![0; 1 << 20];
        if stream.read(&mut buffer).is_ok() {
            stream.write_all(&[0x20, 0x02, 0x00, 0x00]).ok();
        }
        while stream.read(&mut buffer).is_ok_and(|len| len > 0) {}
    });
    let bench = Bench::new(
        "name = \"impossible\"\n[run]\nduration_secs = 0.2\nwarmup_secs = 0\n[publishers]\ncount = 2\nrate = 100000000\n",
    );
    let said = bench.run(&url, &["--json", "r.json", "--html", "r.html"]);
    said.check(3, "the run is not valid: INVALID: ");
    said.check(3, "of the messages due were never sent, and no latency shows them");
    let report = bench.json("r.json");
    assert_eq!(report["valid"], false);
    let slip = |key: &str| report["slip"][key].as_u64().unwrap();
    assert!(slip("scheduled") == 40_000_000 && slip("unsent") > 400_000, "{}", report["slip"]);
    assert!(slip("slipped") + slip("blocked") <= slip("scheduled"), "{}", report["slip"]);
    assert!(report["verdict"]["sent"].as_u64() > Some(0), "what was sent is kept");
    let page = std::fs::read_to_string(bench.path("r.html")).unwrap();
    assert!(page.contains("the figures are not valid"));
}

#[test]
fn a_file_limit_that_is_too_low_is_told_with_the_number_that_it_takes() {
    let bench = Bench::new(PAIRS);
    let limited = |arguments: &str| {
        let script = format!("ulimit -n 64; exec {} {arguments}", env!("CARGO_BIN_EXE_loadgen"));
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &script])
            .current_dir(bench.folder.path())
            .env("XDG_CACHE_HOME", bench.folder.path());
        said(&shell.output().unwrap())
    };
    let said = limited("run s.toml --set publishers.count=500 --set subscribers.count=500");
    said.check(3, "1000 connections need more open files than the 64 this shell allows");
    said.check(3, "ulimit -n 1040");
    // A calibration keeps what it found before that.
    let said = limited("calibrate --duration 0.2 --connections 1000 --json c.json");
    said.check(3, "ulimit -n 1040");
    let found = bench.json("c.json");
    assert!(found["published_per_cpu_sec"].as_f64() > Some(0.0) && found["crowd"].is_null(), "{found}");
}

#[test]
fn a_broker_that_goes_away_leaves_a_report_that_is_not_valid() {
    let (bench, broker) = (Bench::new(OPEN), sink(Faults::default()));
    let url = broker.url();
    let mut command = bench.program();
    command
        .args(["run", "s.toml", "--url", &url, "--json", "r.json", "--html", "r.html", "--hlog", "r.hlog"]);
    command.args(["--set", "run.duration_secs=30", "--set", "run.drain_secs=0.2"]);
    let mut child =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    // Its first line is its first second: then there is something to keep.
    let mut first = [0; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    drop(broker);
    let said = said(&child.wait_with_output().unwrap());
    // What was on its way when the sink went was acknowledged and never delivered, or nothing was.
    assert!(matches!(said.code, Some(1 | 3)), "{:?} {}", said.code, said.err);
    let report = bench.json("r.json");
    assert_eq!(report["valid"], false, "{}", report["remarks"]);
    assert!(
        report["remarks"][0].as_str().unwrap().starts_with("INVALID: 4 connections were lost"),
        "{report}"
    );
    assert!(report["verdict"]["arrived"].as_u64() > Some(0));
    assert!(bench.path("r.html").exists() && bench.path("r.hlog").exists());
}

/// In front of the C library's: half a second after the start the wall clock is ten seconds earlier.
const SET_BACK: &str = "\
#include <time.h>
#include <unistd.h>
#include <sys/syscall.h>
static struct timespec begun;
__attribute__((constructor)) static void begin(void) { syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &begun); }
int clock_gettime(clockid_t id, struct timespec *out) {
  int failed = syscall(SYS_clock_gettime, id, out);
  if (failed || id != CLOCK_REALTIME) return failed;
  struct timespec now;
  syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
  if ((now.tv_sec - begun.tv_sec) * 1e9 + (now.tv_nsec - begun.tv_nsec) > 5e8) out->tv_sec -= 10;
  return 0;
}
";

/// The compiler is the one that links Rust's programs, too.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn a_clock_that_is_set_back_makes_a_run_invalid_and_what_it_measured_is_kept() {
    let (bench, broker) = (Bench::new(OPEN), sink(Faults::default()));
    let (source, library) = (bench.path("clock.c"), bench.path("clock.so"));
    std::fs::write(&source, SET_BACK).unwrap();
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(compiled.unwrap().success());
    let mut command = bench.program();
    command.args([
        "run",
        "s.toml",
        "--quiet",
        "--url",
        &broker.url(),
        "--json",
        "r.json",
        "--html",
        "r.html",
    ]);
    let said = said(&command.env("LD_PRELOAD", &library).output().unwrap());
    said.check(3, "INVALID: the system's clock went back by 10.0 s during the run");
    let report = bench.json("r.json");
    assert_eq!((&report["valid"], &report["verdict"]["arrived"]), (&false.into(), &200.into()));
    assert!(report["latency_micros"]["count"].as_u64() == Some(200), "measured by a clock that nobody sets");
    assert!(std::fs::read_to_string(bench.path("r.html")).unwrap().contains("the figures are not valid"));
}

#[test]
fn a_process_to_watch_that_does_not_exist_is_named() {
    let (bench, broker) = (Bench::new(PAIRS), sink(Faults::default()));
    bench.run(&broker.url(), &["--broker-pid", "4194304"]).check(2, "cannot look at process 4194304");
    bench.run(&broker.url(), &["--count-syncs"]).check(2, "--count-syncs: whose?");
}

// ---- several processes ----

#[test]
fn several_processes_make_one_report() {
    let (bench, broker) = (Bench::new(OPEN), sink(Faults::default()));
    let own = std::process::id().to_string();
    let files = ["--json", "r.json", "--html", "r.html", "--hlog", "r.hlog", "--broker-pid", &own];
    let mut arguments =
        vec!["--processes", "3", "--set", "publishers.count=6", "--set", "subscribers.count=6"];
    arguments.extend(files);
    bench.run(&broker.url(), &arguments).check(0, "every promise was kept");
    let report = bench.json("r.json");
    assert_eq!((&report["processes"], &report["valid"]), (&3.into(), &true.into()), "{}", report["remarks"]);
    let arrived = report["verdict"]["arrived"].as_u64();
    assert_eq!((report["verdict"]["sent"].as_u64(), arrived), (Some(600), Some(600)));
    assert_eq!(report["latency_micros"]["count"].as_u64(), Some(600));
    assert!(report["broker"]["cpu_secs"].is_number() && report["slip"]["scheduled"] == 600, "{report}");
    let log = loadgen::hlog::read(&std::fs::read(bench.path("r.hlog")).unwrap()).unwrap();
    assert_eq!(loadgen::hlog::total(&log).unwrap().len(), 600);
    let page = std::fs::read_to_string(bench.path("r.html")).unwrap();
    assert!(page.contains("3 processes"));
}

#[test]
fn a_process_that_fails_is_named_and_what_the_others_saw_is_kept() {
    let (bench, broker) = (Bench::new(OPEN), sink(Faults::default()));
    let behind = broker.url().trim_start_matches("mqtt://").to_owned();
    let url = server(move |mut client| {
        let mut connect = [0; 512];
        let len = client.read(&mut connect).unwrap_or(0);
        // The second publisher belongs to the second process.
        if !connect[..len].windows(10).any(|id| id == b"loadgen-p2") {
            relay(&connect[..len], client, &behind);
        }
    });
    let said = bench.run(&url, &["--processes", "2", "--json", "r.json"]);
    said.check(3, "process 2 of 2 ended with exit status: 3, and what it saw is missing");
    let report = bench.json("r.json");
    assert_eq!(report["valid"], false);
    assert_eq!(report["verdict"]["sent"].as_u64(), Some(100), "the first publisher's, in whole");
}

// ---- the other commands ----

#[test]
fn the_knee_of_a_sink_with_a_pace_is_not_beyond_its_pace() {
    let manners = Manners { per_second: Some(400.0), ..Manners::default() };
    let broker = NullBroker::start_at("127.0.0.1:0", Faults::default(), manners).unwrap();
    let bench = Bench::new(&OPEN.replace("count = 2", "count = 1"));
    let mut command = bench.program();
    command.args(["saturate", "s.toml", "--url", &broker.url(), "--duration", "1", "--from", "50"]);
    command.args(["--p99-max-micros", "400000", "--precision", "30", "--json", "k.json", "--html", "k.html"]);
    let said = said(&command.output().unwrap());
    said.check(0, "knee: ");
    let found = bench.json("k.json");
    // A second of 400 and what fits into the bound of the last one; a slow machine finds less, never more.
    let knee = found["rate"].as_f64().unwrap();
    assert!((50.0..=640.0).contains(&knee), "{found}");
    assert!(found["steps"].as_array().unwrap().iter().any(|step| step["broken"].is_string()), "{found}");
    assert!(std::fs::read_to_string(bench.path("k.html")).unwrap().contains("messages a second"));
}

#[test]
fn a_calibration_stands_in_every_later_report_of_this_machine() {
    let (bench, broker) = (Bench::new(PAIRS), sink(Faults::default()));
    bench.run(&broker.url(), &["--json", "r.json"]).check(0, "not calibrated on this machine");
    let output =
        bench.program().args(["calibrate", "--duration", "0.2", "--connections", "50"]).output().unwrap();
    let told = said(&output);
    assert!(matches!(told.code, Some(0 | 3)) && told.out.contains("ceiling"), "{} {}", told.out, told.err);
    assert!(told.out.contains("50 connections in "), "{}", told.out);
    bench.run(&broker.url(), &["--json", "r.json"]).check(0, "ceiling");
    assert!(bench.json("r.json")["calibration"]["published_per_cpu_sec"].is_number());
}

/// A fifth of what is to fit into 512 MiB, in a fifth of that, so that the file limits of most shells allow it.
#[test]
fn connections_take_little_memory() {
    // Whether the kernel rounds memory up to pages of 2 MiB is its matter.
    nix::sys::prctl::set_thp_disable(true).unwrap();
    let bench = Bench::new(PAIRS);
    let mut command = bench.program();
    command.args(["calibrate", "--duration", "0.3", "--connections", "2000", "--json", "c.json"]);
    let told = said(&command.output().unwrap());
    assert!(matches!(told.code, Some(0 | 3)), "{} {}", told.out, told.err);
    let crowd = &bench.json("c.json")["crowd"];
    assert_eq!(crowd["connections"], 2_000, "{} {}", told.out, told.err);
    println!("{crowd}");
    assert!(crowd["rss_bytes"].as_u64() < Some((512 << 20) / 5), "{crowd}");
}

#[test]
fn two_reports_are_compared_and_what_is_worse_can_fail() {
    let bench = Bench::new(&OPEN.replace("duration_secs = 1", "duration_secs = 5"));
    let broker = sink(Faults::default());
    bench.run(&broker.url(), &["--json", "a.json"]).check(0, "every promise was kept");
    let mut command = bench.program();
    command.args(["compare", "a.json", "a.json", "--strict", "--html", "c.html"]);
    said(&command.output().unwrap()).check(0, "95 % interval");
    let page = std::fs::read_to_string(bench.path("c.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("Change, with its 95 % interval"), "{page}");
    let mut report = bench.json("a.json");
    for second in report["series"].as_array_mut().unwrap() {
        let arrived = second["arrived_per_sec"].as_u64().unwrap();
        second["arrived_per_sec"] = (arrived / 2).into();
    }
    std::fs::write(bench.path("b.json"), report.to_string()).unwrap();
    let mut command = bench.program();
    said(&command.args(["compare", "a.json", "b.json", "--strict"]).output().unwrap()).check(1, "WORSE");
    let mut command = bench.program();
    said(&command.args(["compare", "a.json", "nowhere.json"]).output().unwrap())
        .check(2, "cannot read nowhere.json");
    std::fs::write(bench.path("x.json"), "{}").unwrap();
    let mut command = bench.program();
    said(&command.args(["compare", "a.json", "x.json"]).output().unwrap())
        .check(2, "no report of this version");
}

#[test]
fn a_broker_that_does_not_start_or_does_not_listen_is_named() {
    let bench = Bench::new(PAIRS);
    bench
        .run("mqtt://127.0.0.1:1", &["--broker-command", "false"])
        .check(3, "the broker ended with exit status: 1");
    let said = bench.run("mqtt://127.0.0.1:1", &["--kill-at", "1"]);
    assert_eq!(said.code, Some(2), "{}", said.err);
}

#[test]
fn shipped_scenarios_are_read_from_anywhere() {
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/scenarios");
    let files: Vec<PathBuf> =
        std::fs::read_dir(scenarios).unwrap().map(|entry| entry.unwrap().path()).collect();
    let bench = Bench::new(PAIRS);
    let mut command = bench.program();
    let told = said(&command.arg("check").args(&files).output().unwrap());
    told.check(0, "pairs");
    assert_eq!(told.out.lines().count(), files.len());
}
