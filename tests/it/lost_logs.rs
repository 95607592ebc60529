//! Write-ahead logs that are gone, damaged or torn: the start says so where something that was acknowledged is missing, a
//! repair mends it, and the rest is served.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use harness::{Received, Recorder, Router, Setup, until};

use crate::space::{cut_off, lost, number, publish, store_command};

const COUNT: usize = 6_000;

/// The write-ahead logs of a store, oldest first.
fn logs(store: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(store.join("rocksdb")).expect("a directory").filter_map(Result::ok);
    let mut logs: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "log"))
        .collect();
    logs.sort();
    logs
}

/// A router with messages in several logs, killed.
fn killed(setup: &Setup) -> Router {
    killed_after(setup, |_| ())
}

/// The same, once something has happened to its messages.
fn killed_after(setup: &Setup, happened: impl FnOnce(&Router)) -> Router {
    let mut router = setup.clone().start();
    (0..6).for_each(|part| publish(&router, part * 1_000..(part + 1) * 1_000));
    happened(&router);
    until("the newest log to be noted", || {
        let noted = fs::read_to_string(router.store().join("newest-log")).ok()?;
        let newest = logs(&router.store()).pop()?;
        let number: u64 = newest.file_stem()?.to_str()?.parse().ok()?;
        (noted.trim().parse() == Ok(number)).then_some(())
    });
    router.kill();
    assert!(logs(&router.store()).len() > 1, "{:?}", logs(&router.store()));
    router
}

/// The store does not start and says what to do; a repair does it.
#[track_caller]
fn expect_a_repair_to_be_needed(setup: &Setup, store: &Path) -> String {
    let (code, said) = setup.clone().store(store).fail_to_start();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("millrace store repair") && said.contains(&store.display().to_string()), "{said}");
    let (code, said) = store_command(&["verify"], store);
    assert_eq!(code, Some(1), "{said}");
    let (code, said) = store_command(&["repair"], store);
    assert_eq!(code, Some(0), "{said}");
    let (code, verified) = store_command(&["stats"], store);
    assert_eq!(code, Some(0), "{verified}");
    said
}

#[test]
fn without_its_newest_log_a_store_starts_after_a_repair_and_serves_what_is_older() {
    let recorder = Recorder::start();
    let (proxy, setup) = cut_off(&recorder);
    let mut router = killed(&setup);
    let newest = logs(&router.store()).pop().expect("there are some");
    fs::remove_file(newest).expect("a file can be removed");
    let said = expect_a_repair_to_be_needed(&setup, &router.store());
    assert!(said.contains("write-ahead log") && said.contains("nobody can say how much"), "{said}");
    router.start_again();
    publish(&router, COUNT..COUNT + 100);
    proxy.mend();
    until("the lane to drain", || (router.backlog() == 0).then_some(()));
    let arrived: Vec<_> = recorder.record().iter().map(|it| number(it.text())).collect();
    let older = arrived.iter().filter(|number| **number < COUNT).count();
    assert!((COUNT / 3..COUNT).contains(&older), "{older}");
    assert_eq!(arrived, (0..older).chain(COUNT..COUNT + 100).collect::<Vec<_>>(), "in order, each once");
}

/// What was in the lost log was delivered, and its places are given again: a receiver that removes repeats by id must not
/// remove what is new.
#[test]
fn after_a_repair_that_lost_a_log_no_new_message_has_the_id_of_an_old_one() {
    let recorder = Recorder::start();
    let (proxy, setup) = cut_off(&recorder);
    proxy.mend();
    let mut router =
        killed_after(&setup, |router| until("an empty lane", || (router.backlog() == 0).then_some(())));
    let sent = recorder.record().len();
    assert_eq!(sent, COUNT, "each once");
    let newest = logs(&router.store()).pop().expect("there are some");
    fs::remove_file(newest).expect("a file can be removed");
    expect_a_repair_to_be_needed(&setup, &router.store());
    router.start_again();
    publish(&router, COUNT..COUNT + 100);
    until("the lane to drain", || (router.backlog() == 0).then_some(()));
    let record = recorder.record().clone();
    // GATEWAY/STORE-LIFE/LANE/SEQ: what begins anew where a log is lost is STORE, for all lanes and places.
    let lives = |messages: &[Received]| -> BTreeSet<String> {
        let id = |it: &Received| it.user_properties().last().map(|it| it.1.to_owned()).expect("an id");
        let store = |it: &Received| id(it).rsplit(['/', '-']).nth(3).expect("a number").to_owned();
        messages.iter().map(store).collect()
    };
    let (before, after) = (lives(&record[..sent]), lives(&record[sent..]));
    assert_eq!((before.len(), after.len()), (1, 1), "{before:?} {after:?}");
    assert!(before.is_disjoint(&after), "{before:?}");
}

#[test]
fn without_its_oldest_log_nothing_that_is_in_sorted_files_is_thrown_away() {
    let recorder = Recorder::start();
    let (_proxy, setup) = cut_off(&recorder);
    let mut router = killed(&setup);
    fs::remove_file(&logs(&router.store())[0]).expect("a file can be removed");
    let said = expect_a_repair_to_be_needed(&setup, &router.store());
    assert!(said.contains("found/NUMBER"), "{said}");
    // The name of the lane was in that log: nobody can deliver its messages, and everybody can have them.
    let (code, exported) = store_command(&["export"], &router.store());
    assert_eq!(code, Some(0), "{exported}");
    let messages = exported.lines().filter(|line| line.contains("\"place\"")).count();
    assert!(messages > COUNT / 2, "{messages}");
    router.start_again();
    publish(&router, 0..10);
    let shown = router.status()["vanished_lanes"].clone();
    assert!(shown.to_string().contains("found/"), "{shown}");
}

#[test]
fn a_bit_that_flips_in_an_older_log_is_noticed_and_the_rest_serves_after_a_repair() {
    let recorder = Recorder::start();
    let (proxy, setup) = cut_off(&recorder);
    let mut router = killed(&setup);
    // The first log has the names of lanes; one in the middle has messages.
    let logs = logs(&router.store());
    let log = &logs[logs.len() / 2];
    let mut bytes = fs::read(log).expect("a file");
    let at = bytes.len() / 2;
    bytes[at] ^= 8;
    fs::write(log, bytes).expect("a file");
    expect_a_repair_to_be_needed(&setup, &router.store());
    let set_aside = fs::read(router.store().join("quarantine").join(log.file_name().expect("it has a name")));
    assert!(set_aside.is_ok_and(|kept| kept.len() > at), "the damaged log is kept as it is");
    router.start_again();
    proxy.mend();
    until("the lane to drain", || (router.backlog() == 0).then_some(()));
    let lost = lost(&router.status(), "damaged") as usize;
    let arrived: Vec<_> = recorder.record().iter().map(|it| number(it.text())).collect();
    assert!(arrived.is_sorted(), "in order");
    assert_eq!(arrived.len() + lost, COUNT, "each once, or in the ledger");
    assert!(lost < 1_500, "{lost}");
}

#[test]
fn a_torn_tail_of_the_newest_log_stops_no_start_and_costs_what_was_torn() {
    let recorder = Recorder::start();
    let (proxy, setup) = cut_off(&recorder);
    let mut router = killed(&setup);
    let newest = logs(&router.store()).pop().expect("there are some");
    let bytes = fs::read(&newest).expect("a file");
    // A log that is used again has old bytes at its end; what was written last ends before the last byte that is not 0.
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("it has content");
    fs::write(&newest, &bytes[..end - end / 8]).expect("a file");
    router.start_again();
    proxy.mend();
    until("the lane to drain", || (router.backlog() == 0).then_some(()));
    let arrived: Vec<_> = recorder.record().iter().map(|it| number(it.text())).collect();
    assert!((COUNT / 2..=COUNT).contains(&arrived.len()), "{}", arrived.len());
    assert_eq!(arrived, (0..arrived.len()).collect::<Vec<_>>(), "what is before the tear is whole");
}
