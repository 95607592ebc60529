//! Disks that break under a running router: a file system that turns read-only, one that answers every call with an I/O
//! error, one without inodes. Acknowledgements stop, what needs no disk goes on, and when the disk is well everything goes
//! on, without a restart.
//!
//! The file systems are real: ext4 on a file, broken by the kernel's own means. That takes root, as CI is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::{OutgoingPublish, QOS_0, QOS_1, ReasonCode, Recorder, Router, until, v5};
use serde_json::Value;

use crate::cloud::{Cloud, drained};
use crate::space::{SmallDisk, cut_off, letters, level, may_mount, number};

/// Runs a program of the system, which must succeed; what it wrote.
#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let done =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&done.stdout).trim().to_owned();
    assert!(
        done.status.success(),
        "{program} {arguments:?}: {said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    said
}

/// An ext4 on a file, which can be broken and mended; unmounted at the end.
struct FragileDisk {
    home: tempfile::TempDir,
    images: u32,
}

impl FragileDisk {
    /// `None` where nobody may mount.
    fn mount() -> Option<FragileDisk> {
        may_mount().then(|| {
            let disk = FragileDisk { home: tempfile::tempdir().expect("a directory"), images: 0 };
            fs::create_dir(disk.path()).expect("a directory");
            let image = disk.image();
            run("truncate", &["--size=128M", &image]);
            run("mkfs.ext4", &["-q", "-F", &image]);
            disk.mount_image();
            disk
        })
    }

    fn path(&self) -> PathBuf {
        self.home.path().join("disk")
    }

    fn image(&self) -> String {
        self.home.path().join(format!("image-{}", self.images)).display().to_string()
    }

    fn mount_image(&self) {
        run("mount", &["-o", "loop,errors=remount-ro", &self.image(), &self.path().display().to_string()]);
    }

    /// The kernel finds an error in it, and takes no writes any more.
    fn turn_read_only(&self) {
        let device = run("findmnt", &["-no", "SOURCE", &self.path().display().to_string()]);
        let device = Path::new(&device).file_name().expect("a device has a name");
        let trigger = Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error");
        fs::write(&trigger, "1").unwrap_or_else(|error| panic!("{}: {error}", trigger.display()));
    }

    /// Every call that needs the medium fails with EIO from now on.
    fn fail(&self) {
        // EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH: what a medium that is pulled out looks like.
        let script = "import fcntl, os, struct, sys; \
                      fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
        run("python3", &["-c", script, &self.path().display().to_string()]);
    }

    /// Somebody takes the medium out, checks it, and puts it back. (A copy of it: the broken file system lives in the kernel
    /// as long as the router has files open there.)
    fn mend(&mut self) {
        run("umount", &["-l", &self.path().display().to_string()]);
        let broken = self.image();
        self.images += 1;
        run("cp", &["--sparse=always", &broken, &self.image()]);
        // 1 says that something was mended.
        let checked = Command::new("e2fsck").args(["-fy", &self.image()]).output().expect("e2fsck is there");
        assert!(checked.status.code().is_some_and(|code| code < 4), "{checked:?}");
        self.mount_image();
    }
}

impl Drop for FragileDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.path()).status());
    }
}

/// Publishes numbered messages, each acknowledged.
fn publish(router: &Router, numbers: std::ops::Range<usize>) {
    let payloads = numbers.map(|number| format!("{number} {}", letters(number, 1_000)));
    router.connect(&v5("publisher")).publish_all("factory/a", payloads);
}

/// Breaks the disk of a router with messages that wait, and mends it.
#[track_caller]
fn expect_recovery_without_restart(how: fn(&FragileDisk)) {
    const SENT: usize = 40;
    let Some(mut disk) = FragileDisk::mount() else { return };
    let recorder = Recorder::start();
    let (proxy, setup) = cut_off(&recorder);
    let mut router = setup.store(&disk.path().join("store")).start();
    publish(&router, 0..500);
    how(&disk);
    // Nothing is acknowledged that the disk does not have …
    let mut publisher = router.connect(&v5("waits"));
    let mut sent = Vec::new();
    for number in 500..500 + SENT {
        let payload = format!("{number} {}", letters(number, 1_000));
        sent.extend(publisher.send(&OutgoingPublish {
            topic: "factory/a",
            payload: payload.as_bytes(),
            qos: QOS_1,
            ..Default::default()
        }));
    }
    until("the disk to refuse", || (router.metric("millrace_store_poisoned") == 1.0).then_some(()));
    assert_eq!(router.get("/readyz").0, 503);
    let answer = publisher.connection().receive(Duration::from_millis(500)).expect("it stays connected");
    assert!(answer.is_none(), "acknowledged, and the disk is broken: {answer:?}");
    // … and who needs no disk is served.
    let mut bystander = router.connect(&v5("bystander"));
    bystander.subscribe("local", QOS_1);
    let mut neighbour = router.connect(&v5("neighbour"));
    neighbour.publish("local", "at most once", QOS_0);
    neighbour.publish("local", "at least once", QOS_1);
    assert_eq!(bystander.texts(2), ["at most once", "at least once"]);
    disk.mend();
    until("the disk to be well", || (router.get("/readyz").0 == 200).then_some(()));
    sent.into_iter().for_each(|packet_id| publisher.await_ack(packet_id));
    publish(&router, 500 + SENT..600 + SENT);
    // What was acknowledged is on the new disk.
    router.kill();
    router.start_again();
    proxy.mend();
    until("everything acknowledged to arrive", || {
        let arrived: BTreeSet<_> = recorder.record().iter().map(|it| number(it.text())).collect();
        (0..600 + SENT).all(|number| arrived.contains(&number)).then_some(())
    });
}

#[test]
fn a_file_system_that_turns_read_only_stops_acknowledgements_and_nothing_else_until_it_is_well() {
    expect_recovery_without_restart(FragileDisk::turn_read_only);
}

#[test]
fn a_disk_that_answers_with_i_o_errors_stops_acknowledgements_and_nothing_else_until_it_is_well() {
    expect_recovery_without_restart(FragileDisk::fail);
}

/// A pool looks at its lanes whenever anything happens on any of its links. What it cannot read waits; that is said once, and
/// once more when it is over.
#[test]
fn lanes_of_a_pool_that_cannot_be_read_are_said_once_and_wait() {
    const SENT: usize = 6_000;
    let Some(mut disk) = FragileDisk::mount() else { return };
    let cloud = Cloud::start();
    cloud.hub.set_offline(true);
    let router = cloud
        .gateway()
        .shards(1)
        .set("store.memtable_bytes", 1 << 20)
        .set("limits.packet_bytes_max", 65_536)
        // What was looked at while the hub was away may be in memory; most is not.
        .set("limits.uplink_held_messages_max", 16)
        .store(&disk.path().join("store"))
        .start();
    let payloads = (0..SENT).map(|number| format!("{number} {}", letters(number, 1_000)));
    router.connect(&v5("publisher")).publish_all("site/a", payloads);
    disk.fail();
    let mut waits = router.connect(&v5("waits"));
    let payload = format!("{SENT} {}", letters(SENT, 1_000));
    let last =
        OutgoingPublish { topic: "site/a", payload: payload.as_bytes(), qos: QOS_1, ..Default::default() };
    let sent = waits.send(&last);
    until("the disk to refuse", || (router.metric("millrace_store_poisoned") == 1.0).then_some(()));
    cloud.hub.set_offline(false);
    let faults = || router.metric("millrace_uplink_store_faults_total{name=\"cloud\"}");
    until("lanes that cannot be read again and again", || (faults() >= 4.0).then_some(()));
    let said = |words: &str| router.log().matches(words).count();
    assert_eq!(said("a lane cannot be read; its messages wait"), 1, "{} faults\n{}", faults(), router.log());
    until("the status to say so", || {
        router.status()["uplinks"][0]["warning"]
            .as_str()
            .is_some_and(|it| it.contains("the store"))
            .then_some(())
    });
    disk.mend();
    until("the disk to be well", || (router.get("/readyz").0 == 200).then_some(()));
    sent.into_iter().for_each(|packet_id| waits.await_ack(packet_id));
    let came: BTreeSet<_> = cloud.wait_for(SENT + 1).iter().map(|it| number(&it.text())).collect();
    assert_eq!(came.len(), SENT + 1);
    drained(&router);
    assert_eq!(said("a lane cannot be read; its messages wait"), 1, "{}", router.log());
    assert!(said("the store does again what it failed to do") >= 1, "{}", router.log());
    assert_eq!(router.status()["uplinks"][0]["warning"], Value::Null);
}

/// Nobody writes while the disk is away, so nothing fails; that another one stands at the path is noticed all the same.
#[test]
fn a_disk_that_was_exchanged_while_nobody_wrote_is_opened_anew() {
    const SENT: usize = 500;
    let Some(mut disk) = FragileDisk::mount() else { return };
    let recorder = Recorder::start();
    let (proxy, setup) = cut_off(&recorder);
    let router = setup.store(&disk.path().join("store")).start();
    publish(&router, 0..SENT);
    disk.fail();
    disk.mend();
    until("the store to be opened anew", || {
        router.log().contains("the store takes writes again").then_some(())
    });
    publish(&router, SENT..SENT + 10);
    proxy.mend();
    let came: BTreeSet<_> = recorder.wait_for(SENT + 10).iter().map(|it| number(it.text())).collect();
    assert_eq!(came.len(), SENT + 10);
    drained(&router);
    assert_eq!(router.metric("millrace_store_quarantined_total"), 0.0);
}

#[test]
fn a_file_system_without_inodes_refuses_what_must_be_stored_and_serves_the_rest() {
    let Some(disk) = SmallDisk::mount("size=96m,nr_inodes=300") else { return };
    let recorder = Recorder::start();
    let (proxy, setup) = cut_off(&recorder);
    let router = setup.store(&disk.path().join("store")).start();
    publish(&router, 0..100);
    let files = disk.path().join("files");
    fs::create_dir(&files).expect("a directory");
    let made = (0..).take_while(|number| fs::write(files.join(number.to_string()), "").is_ok()).count();
    assert!(made > 100);
    until("the store to be full", || (level(&router) == "full").then_some(()));
    let mut publisher = router.connect(&v5("publisher"));
    let refused = OutgoingPublish { topic: "factory/a", payload: b"0 no", qos: QOS_1, ..Default::default() };
    assert_eq!(publisher.reason_of(&refused), ReasonCode::QUOTA_EXCEEDED);
    let mut bystander = router.connect(&v5("bystander"));
    bystander.subscribe("local", QOS_1);
    publisher.publish("local", "as ever", QOS_1);
    assert_eq!(bystander.message().text(), "as ever");
    fs::remove_dir_all(&files).expect("files can be removed");
    until("the store to have room", || (level(&router) == "roomy").then_some(()));
    publish(&router, 100..200);
    proxy.mend();
    let arrived: Vec<_> = recorder.wait_for(200).iter().map(|it| number(it.text())).collect();
    assert_eq!(arrived, (0..200).collect::<Vec<_>>());
}

/// A start on a disk that takes no writes says so and touches nothing.
#[test]
fn a_start_on_a_read_only_file_system_says_so() {
    let Some(mut disk) = FragileDisk::mount() else { return };
    let recorder = Recorder::start();
    let (proxy, setup) = cut_off(&recorder);
    let setup = setup.store(&disk.path().join("store"));
    let mut router = setup.clone().start();
    publish(&router, 0..50);
    router.terminate();
    run("mount", &["-o", "remount,ro", &disk.path().display().to_string()]);
    let (code, said) = setup.fail_to_start();
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.to_lowercase().contains("read-only") && said.contains("check permissions and the disk"),
        "{said}"
    );
    disk.mend();
    router.start_again();
    proxy.mend();
    recorder.wait_for(50);
}
