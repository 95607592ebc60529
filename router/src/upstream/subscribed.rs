//! What uplinks have subscribed to in earlier lives: an upstream keeps a session of ours, and with it subscriptions that the
//! configuration no longer names.
//!
//! In: filters of the configuration, what was kept. Out: those to end, and what is to be kept. They are ended in each session
//! that is found there, since there is one at each address, and one that nobody has any more costs a packet.
//! Bound: [`GONE_MAX`] filters of an uplink, besides those of the configuration; the oldest are forgotten.

use store::{CommitLog as _, Log, StoreError};

use crate::disk::GATEWAY;

/// Filters that are not in the configuration any more.
const GONE_MAX: usize = 64;
/// What keys begin with; the name of the uplink follows.
const KEY: &str = "subscribed/";

/// Filters that this uplink has subscribed to and is not to any more. The next commit keeps what it subscribes to now.
pub(crate) fn begin<'a>(
    uplink: &str,
    filters: impl Iterator<Item = &'a str>,
    log: &mut Log,
) -> Result<Vec<String>, StoreError> {
    let key = [KEY, uplink].concat();
    let kept = log.state_get(GATEWAY, key.as_bytes())?;
    // What is no list of ours is none.
    let before: Vec<String> =
        kept.as_deref().and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default();
    let now: Vec<&str> = filters.collect();
    let mut gone: Vec<String> =
        before.iter().filter(|filter| !now.contains(&filter.as_str())).cloned().collect();
    gone.drain(..gone.len().saturating_sub(GONE_MAX));
    let all: Vec<&str> = gone.iter().map(String::as_str).chain(now).collect();
    if all != before {
        // Texts can always be written.
        log.state_put(GATEWAY, key.as_bytes(), &serde_json::to_vec(&all).unwrap_or_default())?;
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use store::Options;

    use super::*;

    #[test]
    fn what_is_taken_out_of_the_configuration_is_ended_in_every_life() {
        let dir = tempfile::tempdir().expect("a directory");
        let start = |uplink: &str, filters: &[&str]| {
            let mut log = Log::open(&Options::new(dir.path())).expect("a store");
            let gone = begin(uplink, filters.iter().copied(), &mut log).expect("readable");
            log.commit().expect("a commit");
            log.close().expect("closed");
            gone
        };
        assert_eq!(start("plant", &["a/#", "b/#"]), [""; 0]);
        assert_eq!(start("plant", &["b/#"]), ["a/#"]);
        assert_eq!(start("other", &["b/#"]), [""; 0]);
        assert_eq!(start("plant", &[]), ["a/#", "b/#"]);
        assert_eq!(start("plant", &["a/#"]), ["b/#"], "it is wanted again");
        let many: Vec<String> = (0..80).map(|number| format!("many/{number}")).collect();
        start("plant", &many.iter().map(String::as_str).collect::<Vec<_>>());
        let gone = start("plant", &[]);
        assert_eq!((gone.len(), gone[0].as_str()), (GONE_MAX, "many/16"));
    }
}
