//! Space on the disk: budgets hold, a full file system is noticed before it is full, space comes back, and what is gone
//! stands in the ledger.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Proxy, QOS_0, QOS_1, Recorder, Router, Setup, Version, until, v3, v5};
use serde_json::Value;

const ROUTE: &str = r#"FROM "factory/#" INTO $upstream"#;

/// A small store with an uplink that is cut off.
pub(crate) fn cut_off(recorder: &Recorder) -> (Proxy, Setup) {
    let proxy = Proxy::to(recorder.address());
    proxy.cut();
    let setup = Setup::new()
        .shards(1)
        .uplink(proxy.address(), Version::V5)
        .set("routes.all", ROUTE)
        .set("store.memtable_bytes", 1 << 20)
        .set("limits.packet_bytes_max", 65_536);
    (proxy, setup)
}

/// Publishes numbered messages of a kilobyte; each is acknowledged.
pub(crate) fn publish(router: &Router, numbers: std::ops::Range<usize>) {
    let payloads = numbers.map(|number| format!("{number} {}", padding(number)));
    router.connect(&v5("publisher")).publish_all("factory/a", payloads);
}

/// A kilobyte that the store cannot compress, another one for each number.
fn padding(number: usize) -> String {
    letters(number, 1_000)
}

/// So many of them.
pub(crate) fn letters(number: usize, count: usize) -> String {
    let mut state = number as u64 ^ 0x9E37_79B9_7F4A_7C15;
    let letter = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'A' + (state % 58) as u8)
    };
    std::iter::repeat_with(letter).take(count).collect()
}

pub(crate) fn number(text: &str) -> usize {
    text.split(' ').next().and_then(|number| number.parse().ok()).expect("a number comes first")
}

/// Messages that the ledger has for this reason.
pub(crate) fn lost(status: &Value, reason: &str) -> u64 {
    let sums = status["losses"]["sums"].as_array().into_iter().flatten();
    sums.filter(|sum| sum["reason"] == reason).filter_map(|sum| sum["messages"].as_u64()).sum()
}

/// What a directory takes on the disk, as `du` counts.
pub(crate) fn disk_usage(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(about) if about.is_dir() => disk_usage(&entry.path()),
        Ok(about) => about.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

#[test]
fn an_uplink_that_drops_the_oldest_keeps_its_budget_and_says_what_it_dropped() {
    const COUNT: usize = 8_000;
    let recorder = Recorder::start();
    let (proxy, setup) = cut_off(&recorder);
    let mut router =
        setup.set("uplink.plant.bytes_max", 2_000_000).set("uplink.plant.when_full", "drop-oldest").start();
    publish(&router, 0..COUNT);
    until("the budget to hold", || {
        let lanes = router.status()["lanes"].as_array().cloned().unwrap_or_default();
        let bytes: u64 = lanes.iter().filter_map(|lane| lane["backlog_bytes"].as_u64()).sum();
        (bytes < 2_000_000).then_some(())
    });
    let dropped = lost(&router.status(), "drop_oldest");
    assert_eq!(dropped + router.backlog(), COUNT as u64);
    assert_eq!(
        router.metric(r#"millrace_lost_messages_total{sink="plant",reason="drop_oldest"}"#),
        dropped as f64
    );
    // The ledger survives, and what is left is the newest, in order.
    router.kill();
    router.start_again();
    assert_eq!(lost(&router.status(), "drop_oldest"), dropped);
    proxy.mend();
    let arrived: Vec<_> =
        recorder.wait_for(COUNT - dropped as usize).iter().map(|it| number(it.text())).collect();
    assert_eq!(arrived, (dropped as usize..COUNT).collect::<Vec<_>>());
    router.terminate();
    let (code, said) = store_command(&["losses"], &router.store());
    assert_eq!(code, Some(0));
    assert!(said.contains(&format!("plant: {dropped} messages lost, drop_oldest")), "{said}");
}

#[test]
fn what_expires_gives_its_space_back() {
    let recorder = Recorder::start();
    let (_proxy, setup) = cut_off(&recorder);
    let router = setup.set("routes.all", format!("{{ route = '{ROUTE}', ttl = 10 }}")).start();
    publish(&router, 0..30_000);
    let full = disk_usage(&router.store());
    assert!(full > 25 << 20, "{full}");
    until("expired messages to be gone", || (router.backlog() == 0).then_some(()));
    // The entry comes a moment after the reader has passed.
    until("the last in the ledger", || (lost(&router.status(), "expired") >= 30_000).then_some(()));
    assert_eq!(lost(&router.status(), "expired"), 30_000);
    // What may stay: the write-ahead log, and files that RocksDB has not merged yet.
    until("their space to be back", || (disk_usage(&router.store()) < 22 << 20).then_some(()));
}

/// Routes with and without a time share a lane: what is over leaves it from behind a head that waits, and is told once.
#[test]
fn what_expires_behind_what_does_not_gives_its_space_back() {
    let recorder = Recorder::start();
    let (proxy, setup) = cut_off(&recorder);
    let setup = setup
        .set("routes.all", r#"{ route = 'FROM "factory/#" INTO $upstream' }"#)
        .set("routes.short", r#"{ route = 'FROM "short/#" INTO $upstream', ttl = 2 }"#);
    let mut router = setup.start();
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish("factory/a", "first", QOS_1);
    publisher.publish_all("short/a", (0..20_000).map(padding));
    publisher.publish("factory/a", "last", QOS_1);
    let bytes = || {
        let status = router.status();
        let lanes = status["lanes"].as_array().expect("/status has lanes");
        lanes.iter().filter_map(|lane| lane["backlog_bytes"].as_u64()).sum::<u64>()
    };
    until("expired messages to be gone", || (router.backlog() == 2).then_some(()));
    assert!(bytes() < 1_000, "{}", bytes());
    until("the last in the ledger", || (lost(&router.status(), "expired") >= 20_000).then_some(()));
    router.kill();
    router.start_again();
    assert_eq!(router.backlog(), 2);
    proxy.mend();
    let arrived: Vec<_> = recorder.wait_for(2).iter().map(|it| it.text().to_owned()).collect();
    assert_eq!(arrived, ["first", "last"]);
    until("an empty lane", || (router.backlog() == 0).then_some(()));
    assert_eq!(lost(&router.status(), "expired"), 20_000, "once");
    assert_eq!(router.number("/store/damaged") + router.number("/uplinks/0/dropped"), 0);
    router.terminate();
    let (code, said) = store_command(&["verify"], &router.store());
    assert_eq!(code, Some(0), "{said}");
}

/// Whether this test may mount file systems: as root it must, or say so with `MILLRACE_NO_MOUNT=1`.
pub(crate) fn may_mount() -> bool {
    let is_root = fs::metadata("/proc/self").is_ok_and(|about| about.uid() == 0);
    is_root && std::env::var_os("MILLRACE_NO_MOUNT").is_none()
}

/// A file system of its own, unmounted at the end; `None` where nobody may mount.
pub(crate) struct SmallDisk {
    path: PathBuf,
    _home: tempfile::TempDir,
}

impl SmallDisk {
    pub(crate) fn mount(options: &str) -> Option<SmallDisk> {
        if !may_mount() {
            return None;
        }
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("disk");
        fs::create_dir(&path).expect("a directory");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path).output();
        let done = done.expect("mount is part of util-linux");
        assert!(done.status.success(), "root cannot mount (MILLRACE_NO_MOUNT=1 leaves this out): {done:?}");
        Some(SmallDisk { path, _home: home })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that are free.
    fn free(&self) -> u64 {
        let left = Command::new("df").args(["-B1", "--output=avail"]).arg(&self.path).output().expect("df");
        let left = String::from_utf8_lossy(&left.stdout);
        left.lines().nth(1).and_then(|line| line.trim().parse().ok()).expect("a number")
    }

    /// Leaves so many bytes free, and 64 KiB at most beside them; again and again where a router takes or gives some meanwhile.
    fn leave(&self, bytes: u64) {
        let ballast = self.path.join("ballast");
        drop(fs::remove_file(&ballast));
        until("the disk to be as full as that", || {
            let length = fs::metadata(&ballast).map_or(0, |about| about.len());
            let over = self.free().saturating_sub(bytes);
            if over < 64 << 10 {
                return Some(());
            }
            let wanted = (length + over).to_string();
            let done = Command::new("fallocate").args(["-l", &wanted]).arg(&ballast).output();
            // It fails where somebody was faster, and has then taken as much as there was.
            drop(done.expect("fallocate is part of util-linux"));
            None
        });
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.path).status());
    }
}

pub(crate) fn level(router: &Router) -> String {
    router.status()["store"]["room"].as_str().unwrap_or_default().to_owned()
}

/// Without the right to mount the same is asked of a limit on file sizes, in `durability`.
#[test]
fn a_file_system_that_fills_up_is_noticed_before_it_is_full_and_room_is_noticed_too() {
    let Some(disk) = SmallDisk::mount("size=96m") else { return refuses_and_recovers_by_file_size() };
    let recorder = Recorder::start();
    let (proxy, setup) = cut_off(&recorder);
    let router = setup.store(&disk.path.join("store")).start();
    publish(&router, 0..1_000);
    assert_eq!(level(&router), "roomy");
    disk.leave(1 << 20);
    until("the store to be full", || (level(&router) == "full").then_some(()));
    assert_eq!(router.metric("millrace_store_poisoned"), 0.0, "and that without an error of the disk");
    let mut bystander = router.connect(&v5("bystander"));
    bystander.subscribe("local", QOS_1);
    router.connect(&v5("neighbour")).publish("local", "as ever", QOS_0);
    assert_eq!(bystander.message().text(), "as ever");
    disk.leave(80 << 20);
    until("the store to have room", || (level(&router) == "roomy").then_some(()));
    publish(&router, 1_000..2_000);
    proxy.mend();
    let arrived: Vec<_> = recorder.wait_for(2_000).iter().map(|it| number(it.text())).collect();
    assert_eq!(arrived, (0..2_000).collect::<Vec<_>>());
}

#[test]
fn a_file_system_without_inodes_is_full() {
    let Some(disk) = SmallDisk::mount("size=96m,nr_inodes=300") else {
        return refuses_and_recovers_by_file_size();
    };
    let recorder = Recorder::start();
    let (_proxy, setup) = cut_off(&recorder);
    let router = setup.store(&disk.path.join("store")).start();
    publish(&router, 0..100);
    let files = disk.path.join("files");
    fs::create_dir(&files).expect("a directory");
    let made = (0..).take_while(|number| fs::write(files.join(number.to_string()), "").is_ok()).count();
    assert!(made > 100);
    until("the store to be full", || (level(&router) == "full").then_some(()));
    fs::remove_dir_all(&files).expect("files can be removed");
    until("the store to have room", || (level(&router) == "roomy").then_some(()));
    publish(&router, 100..200);
}

#[test]
fn a_file_system_that_is_really_full_stops_acknowledgements_until_it_is_not() {
    let Some(disk) = SmallDisk::mount("size=64m") else { return refuses_and_recovers_by_file_size() };
    let recorder = Recorder::start();
    let (proxy, setup) = cut_off(&recorder);
    let mut router = setup.store(&disk.path.join("store")).start();
    publish(&router, 0..1_000);
    // 3.1.1 has no word for a refusal: what is not taken is not acknowledged.
    let mut client = router.connect(&v3("client"));
    let mut next = 1_000..;
    let mut send = |client: &mut harness::Client| {
        let payload = next.next().map(|number| format!("{number} {}", letters(number, 4_000)));
        let payload = payload.expect("numbers do not end");
        let publish = harness::OutgoingPublish {
            topic: "factory/a",
            payload: payload.as_bytes(),
            qos: QOS_1,
            ..Default::default()
        };
        client.send(&publish).expect("QoS 1 has an identifier")
    };
    disk.leave(0);
    let mut sent = Vec::new();
    let refuses =
        |router: &Router| level(router) == "full" || router.metric("millrace_store_poisoned") == 1.0;
    until("the disk to refuse", || {
        sent.push(send(&mut client));
        refuses(&router).then_some(())
    });
    let last = send(&mut client);
    let mut bystander = router.connect(&v5("bystander"));
    bystander.subscribe("local", QOS_0);
    router.connect(&v5("neighbour")).publish("local", "as ever", QOS_0);
    assert_eq!(bystander.message().text(), "as ever");
    // Whatever acknowledgement is on its way is taken in here.
    assert!(client.message_within(std::time::Duration::from_millis(200)).is_none());
    assert!(refuses(&router) && !client.has_ack(last), "nothing is acknowledged that cannot be kept");
    disk.leave(48 << 20);
    until("the disk to be well", || {
        (router.get("/readyz").0 == 200 && level(&router) == "roomy").then_some(())
    });
    let count = 1_000 + sent.len() + 1;
    sent.into_iter().chain([last]).for_each(|packet_id| client.await_ack(packet_id));
    publish(&router, count..count + 100);
    router.kill();
    router.start_again();
    proxy.mend();
    until("everything acknowledged to arrive", || {
        let record = recorder.record();
        let arrived: std::collections::BTreeSet<_> = record.iter().map(|it| number(it.text())).collect();
        (0..count + 100).all(|number| arrived.contains(&number)).then_some(())
    });
}

/// The same promise where nobody may mount: no file grows any more, then it may again.
fn refuses_and_recovers_by_file_size() {
    let recorder = Recorder::start();
    let (proxy, setup) = cut_off(&recorder);
    let mut router = setup.start();
    publish(&router, 0..100);
    let limit = |router: &mut Router, bytes: &str| {
        let pid = router.process().id().to_string();
        let limit = format!("--fsize={bytes}:unlimited");
        let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
        assert!(status.expect("prlimit is part of util-linux").success());
    };
    limit(&mut router, "131072");
    let mut publisher = router.connect(&v5("publisher"));
    let payload = vec![b'0'; 4_000];
    let publish =
        harness::OutgoingPublish { topic: "factory/a", payload: &payload, qos: QOS_1, ..Default::default() };
    let sent: Vec<_> = (0..200).filter_map(|_| publisher.send(&publish)).collect();
    until("the disk to refuse", || (router.metric("millrace_store_poisoned") == 1.0).then_some(()));
    limit(&mut router, "unlimited");
    sent.into_iter().for_each(|packet_id| publisher.await_ack(packet_id));
    proxy.mend();
    recorder.wait_for(300);
}

/// Runs `millrace store …` on a store: exit code and everything it said.
pub(crate) fn store_command(arguments: &[&str], store: &Path) -> (Option<i32>, String) {
    let path = store.display().to_string();
    let done = harness::run(&[&["store"], arguments, &[path.as_str()]].concat());
    (done.code, format!("{}{}", done.out, done.err))
}

#[test]
fn a_store_in_use_is_not_touched_and_its_owner_is_named() {
    let recorder = Recorder::start();
    let (_proxy, setup) = cut_off(&recorder);
    let mut router = setup.start();
    publish(&router, 0..100);
    let pid = router.process().id().to_string();
    for command in ["verify", "stats", "losses", "compact", "repair", "export"] {
        let (code, said) = store_command(&[command], &router.store());
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("in use") && said.contains(&pid) && said.contains("millrace status"), "{said}");
    }
    publish(&router, 100..200);
    router.terminate();
    let (code, said) = store_command(&["verify"], &router.store());
    assert_eq!(code, Some(0), "{said}");
    let (_, said) = store_command(&["stats"], &router.store());
    assert!(said.contains("200 messages"), "{said}");
}

#[test]
fn a_store_with_a_sorted_file_missing_or_flipped_is_repaired_and_serves_the_rest() {
    const COUNT: usize = 20_000;
    for is_deleted in [true, false] {
        let recorder = Recorder::start();
        let (proxy, setup) = cut_off(&recorder);
        let mut router = setup.start();
        publish(&router, 0..COUNT);
        router.terminate();
        let (_, stats) = store_command(&["stats"], &router.store());
        assert!(stats.contains("20000 messages"), "{stats}");
        damage(&router.store(), is_deleted);
        let (code, said) = store_command(&["verify"], &router.store());
        assert_eq!(code, Some(1), "{said}");
        let (code, said) = store_command(&["repair"], &router.store());
        assert_eq!(code, Some(0), "{said}");
        router.start_again();
        proxy.mend();
        until("the lane to drain", || (router.backlog() == 0).then_some(()));
        // The entry comes a moment after the reader has passed.
        let lost =
            until("an entry in the ledger", || Some(lost(&router.status(), "damaged")).filter(|it| *it > 0))
                as usize;
        assert!(lost < COUNT / 2, "{lost}");
        let arrived: Vec<_> = recorder.wait_for(COUNT - lost).iter().map(|it| number(it.text())).collect();
        assert!(arrived.is_sorted(), "in order");
        assert_eq!(arrived.len(), COUNT - lost, "each once");
        assert!(router.metric("millrace_store_quarantined_total") > 0.0);
    }
}

/// Deletes the largest of the older sorted files, or flips a bit in it.
fn damage(store: &Path, is_deleted: bool) {
    let mut files: Vec<_> = fs::read_dir(store.join("rocksdb"))
        .expect("a directory")
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "sst"))
        .filter(|path| fs::metadata(path).is_ok_and(|about| about.len() > 50_000))
        .collect();
    files.sort();
    assert!(files.len() > 3, "{files:?}");
    let file = &files[files.len() / 2];
    if is_deleted {
        return fs::remove_file(file).expect("a file can be removed");
    }
    let mut bytes = fs::read(file).expect("a file");
    let at = bytes.len() / 4;
    bytes[at] ^= 8;
    fs::write(file, bytes).expect("a file");
}

/// Flips a bit of a message that `publish` wrote, where it lies in a sorted file.
fn flip(store: &Path, message: usize) {
    let text = padding(message).into_bytes();
    for entry in fs::read_dir(store.join("rocksdb")).expect("a directory").filter_map(Result::ok) {
        let path = entry.path();
        if path.extension().is_none_or(|kind| kind != "sst") {
            continue;
        }
        let mut bytes = fs::read(&path).expect("a file");
        // Letters as random as these are hardly packed: most of them lie there as they are.
        let mut parts = text.chunks(20);
        if let Some(at) = parts.find_map(|part| bytes.windows(part.len()).position(|it| it == part)) {
            bytes[at] ^= 8;
            return fs::write(&path, bytes).expect("a file");
        }
    }
    panic!("message {message} is in no sorted file");
}

/// What the ledger has as damaged, once it has something.
fn damaged(router: &Router) -> usize {
    until("an entry in the ledger", || Some(lost(&router.status(), "damaged")).filter(|it| *it > 0)) as usize
}

#[test]
fn damage_at_the_head_of_a_lane_stops_neither_a_start_nor_a_paced_uplink() {
    const COUNT: usize = 4_000;
    let recorder = Recorder::start();
    let (proxy, setup) = cut_off(&recorder);
    let mut router = setup.set("uplink.plant.pace_messages_per_sec", 2_000).start();
    publish(&router, 0..COUNT);
    router.terminate();
    // The store is in sorted files after one more start.
    router.start_again();
    router.terminate();
    // The second one is what a read of the running router ends before.
    [0, COUNT / 2].into_iter().for_each(|message| flip(&router.store(), message));
    let (code, said) = store_command(&["stats"], &router.store());
    assert!(code == Some(0) && said.contains("4000 messages"), "{said}");
    let listed = harness::run(&["lanes", "--store", &router.store().display().to_string(), "list"]);
    assert!(listed.out.contains("u/plant/default"), "{}{}", listed.out, listed.err);
    router.start_again();
    assert_eq!(router.backlog(), COUNT as u64);
    assert!(router.metric("millrace_lane_messages{name=\"u/plant/default\"}") > 0.0);
    proxy.mend();
    until("the lane to drain", || (router.backlog() == 0).then_some(()));
    let lost = damaged(&router);
    assert!(lost < 3 * COUNT / 4, "{lost}");
    let arrived: Vec<_> = recorder.wait_for(COUNT - lost).iter().map(|it| number(it.text())).collect();
    assert!(arrived.is_sorted() && arrived.len() == COUNT - lost, "{} and {lost}", arrived.len());
    assert_eq!(router.number("/uplinks/0/reconnects"), 0, "the link never went down for it");
}

#[test]
fn an_uplink_that_drops_the_oldest_goes_on_over_a_damaged_head() {
    const COUNT: usize = 4_000;
    let recorder = Recorder::start();
    let (proxy, setup) = cut_off(&recorder);
    let mut router =
        setup.set("uplink.plant.bytes_max", 2_000_000).set("uplink.plant.when_full", "drop-oldest").start();
    publish(&router, 0..COUNT);
    let dropped = |router: &Router| lost(&router.status(), "drop_oldest") as usize;
    until("the budget to hold", || {
        (dropped(&router) as u64 + router.backlog() == COUNT as u64 && dropped(&router) > 0).then_some(())
    });
    router.terminate();
    router.start_again();
    let head = dropped(&router);
    router.terminate();
    flip(&router.store(), head);
    router.start_again();
    // Acknowledged, with the link still down; the cap holds.
    publish(&router, COUNT..2 * COUNT);
    let damaged = damaged(&router);
    until("the budget to hold", || {
        let lanes = router.status()["lanes"].as_array().cloned().unwrap_or_default();
        let bytes: u64 = lanes.iter().filter_map(|lane| lane["backlog_bytes"].as_u64()).sum();
        (bytes > 0 && bytes < 2_000_000).then_some(())
    });
    until("every message to be in one place", || {
        ((dropped(&router) + damaged) as u64 + router.backlog() == 2 * COUNT as u64).then_some(())
    });
    assert!(dropped(&router) > head);
    proxy.mend();
    let left = 2 * COUNT - dropped(&router) - damaged;
    let arrived: Vec<_> = recorder.wait_for(left).iter().map(|it| number(it.text())).collect();
    assert_eq!(arrived, (2 * COUNT - left..2 * COUNT).collect::<Vec<_>>());
}

#[test]
fn a_flipped_file_does_not_stop_a_running_router() {
    const COUNT: usize = 20_000;
    let recorder = Recorder::start();
    let (proxy, setup) = cut_off(&recorder);
    let mut router = setup.start();
    publish(&router, 0..COUNT);
    router.terminate();
    damage(&router.store(), false);
    router.start_again();
    proxy.mend();
    until("the lane to drain", || (router.backlog() == 0).then_some(()));
    let lost =
        until("an entry in the ledger", || Some(lost(&router.status(), "damaged")).filter(|it| *it > 0))
            as usize;
    assert!(lost < 1_000, "{lost}");
    assert_eq!(recorder.wait_for(COUNT - lost).len(), COUNT - lost);
    assert!(fs::read_dir(router.store().join("quarantine")).expect("it is there").count() > 0);
    // The alarm, for machines and for people.
    let ranges = router.metric("millrace_store_quarantined_total");
    assert!(ranges > 0.0);
    assert_eq!(router.number("/store/quarantined") as f64, ranges);
    let http = router.http().to_string();
    let shown = harness::run(&["status", "--http", &http]).expect(0).out;
    assert!(shown.contains("ALARM") && shown.contains("damaged"), "{shown}");
    // And it goes on.
    publish(&router, COUNT..COUNT + 100);
    recorder.wait_for(COUNT - lost + 100);
}

#[test]
fn a_bit_that_flips_in_the_write_ahead_log_stops_no_start() {
    let recorder = Recorder::start();
    let (proxy, setup) = cut_off(&recorder);
    let mut router = setup.start();
    (0..50).for_each(|group| publish(&router, 10 * group..10 * (group + 1)));
    router.kill();
    let log = fs::read_dir(router.store().join("rocksdb"))
        .expect("a directory")
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "log"))
        .max_by_key(|path| fs::metadata(path).map_or(0, |about| about.len()))
        .expect("a write-ahead log");
    let mut bytes = fs::read(&log).expect("a file");
    let at = 300_000;
    bytes[at] ^= 8;
    fs::write(&log, bytes).expect("a file");
    router.start_again();
    proxy.mend();
    until("the lane to drain", || (router.backlog() == 0).then_some(()));
    // What follows the flip cannot be told from a torn tail (storage-format.md §7); what is before it is whole.
    let arrived: Vec<_> = recorder.record().iter().map(|it| number(it.text())).collect();
    assert!((100..500).contains(&arrived.len()), "{}", arrived.len());
    assert_eq!(arrived, (0..arrived.len()).collect::<Vec<_>>());
}

#[test]
fn messages_for_an_uplink_that_is_gone_wait_and_go_on_when_it_is_back() {
    let recorder = Recorder::start();
    let (proxy, setup) = cut_off(&recorder);
    let home = tempfile::tempdir().expect("a directory");
    let store = home.path().join("store");
    let mut router = setup.clone().store(&store).start();
    publish(&router, 0..100);
    router.terminate();

    let without = || Setup::new().shards(1).set("store.memtable_bytes", 1 << 20).store(&store);
    let mut other = without().start();
    let vanished = other.status()["vanished_lanes"].clone();
    assert_eq!(
        (vanished[0]["messages"].as_u64(), vanished[0]["lane"].as_str()),
        (Some(100), Some("u/plant/default"))
    );
    other.terminate();

    let mut router = setup.clone().store(&store).start();
    assert_eq!(router.status()["vanished_lanes"].as_array().map(Vec::len), Some(0));
    proxy.mend();
    recorder.wait_for(100);
    // Their acknowledgements, too: a cut would have the last of them wait again.
    until("an empty lane", || (router.backlog() == 0).then_some(()));
    proxy.cut();
    publish(&router, 100..150);
    router.terminate();

    let mut other = without().set("store.keep_vanished_secs", 0).start();
    until("the lane to be removed", || (lost(&other.status(), "vanished") == 50).then_some(()));
    other.terminate();
    let (code, said) = store_command(&["verify"], &store);
    assert_eq!(code, Some(0), "{said}");
    let (_, said) = store_command(&["losses"], &store);
    assert!(said.contains("u/plant/default: 50 messages, vanished"), "{said}");
}

/// What expired behind the head of such a lane is in the ledger already.
#[test]
fn what_expired_in_a_lane_that_is_removed_is_not_counted_twice() {
    let recorder = Recorder::start();
    let (_proxy, setup) = cut_off(&recorder);
    let home = tempfile::tempdir().expect("a directory");
    let store = home.path().join("store");
    let setup = setup
        .set("routes.all", r#"{ route = 'FROM "factory/#" INTO $upstream' }"#)
        .set("routes.short", r#"{ route = 'FROM "short/#" INTO $upstream', ttl = 2 }"#);
    let mut router = setup.store(&store).start();
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish("factory/a", "first", QOS_1);
    publisher.publish_all("short/a", (0..100).map(padding));
    publisher.publish("factory/a", "last", QOS_1);
    until("expired messages to be gone", || (router.backlog() == 2).then_some(()));
    until("them in the ledger", || (lost(&router.status(), "expired") >= 100).then_some(()));
    router.terminate();

    let without = Setup::new().shards(1).set("store.memtable_bytes", 1 << 20).store(&store);
    let mut other = without.set("store.keep_vanished_secs", 0).start();
    until("the two that are left to be lost", || (lost(&other.status(), "vanished") == 2).then_some(()));
    other.terminate();
    let (code, said) = store_command(&["verify"], &store);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn an_export_has_every_waiting_message_and_compacting_changes_none() {
    let recorder = Recorder::start();
    let (_proxy, setup) = cut_off(&recorder);
    let mut router = setup.start();
    publish(&router, 0..200);
    router.terminate();
    let (code, before) = store_command(&["export"], &router.store());
    assert_eq!((code, before.lines().count()), (Some(0), 200));
    let places: Vec<_> = before
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok()?["place"].as_u64())
        .collect();
    assert_eq!(places, (1..=200).collect::<Vec<_>>());
    let (code, said) = store_command(&["compact"], &router.store());
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(store_command(&["export"], &router.store()).1, before);
}
