//! Budgets on the disk: what is taken, and what is refused with the smallest number that would do.

use super::*;

const UPLINK: &str = "uplink.a.url = 'mqtt://h'\n";

#[test]
fn without_a_word_the_store_takes_what_there_is_and_refuses_when_that_is_used_up() {
    let config = good(UPLINK, &[], &[]);
    assert_eq!((config.store.bytes_max, config.store.reserve_percent), (None, 10));
    assert_eq!(config.store.keep_vanished_secs, 7 * 24 * 3600);
    assert_eq!((config.uplinks[0].bytes_max, config.uplinks[0].when_full), (None, WhenFull::Refuse));
}

#[test]
fn budgets_and_policies_are_taken() {
    let set = [
        "store.bytes_max=4_000_000_000",
        "uplink.a.bytes_max=1_000_000_000",
        "uplink.a.when_full=drop-oldest",
    ];
    let config = good(UPLINK, &[], &set);
    assert_eq!(config.store.bytes_max, Some(4_000_000_000));
    assert_eq!(config.uplinks[0].bytes_max, Some(1_000_000_000));
    assert_eq!(config.uplinks[0].when_full, WhenFull::DropOldest);
}

/// The number in "from N on".
#[track_caller]
fn least(error: &ConfigError) -> u64 {
    let allowed = error.allowed.as_deref().unwrap_or_default();
    let words = allowed.split_once("from ").and_then(|(_, rest)| rest.split_once(" on"));
    words.and_then(|(number, _)| number.parse().ok()).unwrap_or_else(|| panic!("{error}"))
}

/// Expects one mistake at `key`, and that the number it names is the smallest one that will do.
#[track_caller]
fn least_is_enough(text: &str, key: &str) {
    let with = |bytes: u64| format!("{text}{key} = {bytes}\n");
    let errors = bad(&with(1_000), &[], &[]);
    let [error] = errors.as_slice() else { panic!("{errors:#?}") };
    assert_eq!(error.key, key);
    let least = least(error);
    good(&with(least), &[], &[]);
    bad(&with(least - 1_000), &[], &[]);
}

#[test]
fn a_store_smaller_than_its_own_files_is_refused() {
    least_is_enough("", "store.bytes_max");
    least_is_enough("store.memtable_bytes = 1_048_576\n", "store.bytes_max");
    least_is_enough("store.reserve_percent = 50\n", "store.bytes_max");
    least_is_enough("store.reserve_percent = 0\n", "store.bytes_max");
}

#[test]
fn a_part_that_holds_no_message_is_refused() {
    least_is_enough(UPLINK, "uplink.a.bytes_max");
}

#[test]
fn parts_that_are_more_than_the_whole_are_refused() {
    let text = format!(
        "{UPLINK}uplink.b.url = 'mqtt://g'\nuplink.a.bytes_max = 2_000_000_000\nuplink.b.bytes_max = 3_000_000_000\n"
    );
    let errors = bad(&format!("{text}store.bytes_max = 5_000_000_000"), &[], &[]);
    let [error] = errors.as_slice() else { panic!("{errors:#?}") };
    assert_eq!(error.key, "store.bytes_max");
    assert!(error.problem.contains("5000000000 bytes"), "{error}");
    good(&format!("{text}store.bytes_max = {}", least(error)), &[], &[]);
}

#[test]
fn policies_and_reserves_that_do_not_exist_are_refused() {
    refused(
        &format!("{UPLINK}uplink.a.when_full = 'drop_oldest'"),
        "uplink.a.when_full",
        "\"refuse\", \"drop-oldest\" or \"drop-newest\"",
        "drop-oldest",
    );
    refused("store.reserve_percent = 51", "store.reserve_percent", "from 0 to 50", "");
    refused("store.keep_vanished_secs = -1", "store.keep_vanished_secs", "from 0 to 4294967295", "");
}
