//! `millrace lanes …`: what waits, what no upstream wanted, and what to do about it.
//!
//! A running router is asked through its control socket. Without one the store is opened: to look (nothing changes), or
//! to drop; sending again takes a running router. In: arguments. Out: lines for a tired operator.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use broker::{AppendTray, Write as Change};
use model::{LaneId, Seq};
use serde::de::DeserializeOwned;
use store::{CommitLog as _, Inspection, Log, OpenError, ReadOut};

use super::client;
use super::report::{self, LISTED_MAX, LaneReport, PoisonList, PoisonReport};
use crate::cli::{Exit, LanesArgs, LanesCommand, PoisonCommand};
use crate::config;
use crate::disk::losses::{Entry, Ledger};
use crate::disk::space_of;
use crate::upstream::poison::{Obeyed, dropped_one, note_dropped, places, poison_lane_name, settle};

/// Where to look.
struct Target {
    socket: Option<PathBuf>,
    store: store::Options,
}

/// Does it.
pub fn lanes(args: &LanesArgs, out: &mut impl Write, err: &mut impl Write) -> anyhow::Result<Exit> {
    let target = match target(args) {
        Ok(target) => target,
        Err(errors) => {
            writeln!(err, "{errors}")?;
            return Ok(Exit::BadConfig);
        }
    };
    match &args.command {
        LanesCommand::List => {
            let lanes = target.look("/lanes", report::lanes)?;
            write_lanes(&lanes, out)?;
        }
        LanesCommand::Poison { command } => poison(&target, command, out)?,
    }
    Ok(Exit::Done)
}

fn target(args: &LanesArgs) -> Result<Target, config::ConfigErrors> {
    if let Some(path) = &args.store {
        let options = store::Options { create_if_missing: false, ..store::Options::new(path) };
        return Ok(Target { socket: Some(path.join("control.sock")), store: options });
    }
    let config = config::load(&args.config, config::environment())?;
    let options = store::Options { create_if_missing: false, ..config.store_options() };
    Ok(Target { socket: config.control, store: options })
}

impl Target {
    fn connect(&self) -> anyhow::Result<Option<std::os::unix::net::UnixStream>> {
        self.socket.as_deref().map_or(Ok(None), client::connect)
    }

    /// Asks the running router, or looks into the store.
    fn look<T: DeserializeOwned>(
        &self,
        path: &str,
        offline: impl FnOnce(&store::Reader) -> Result<T, store::StoreError>,
    ) -> anyhow::Result<T> {
        if let Some(stream) = self.connect()? {
            let answer = client::ask(stream, "GET", path)?;
            return serde_json::from_value(answer).context("this router is of another version");
        }
        let inspection = Inspection::open(&self.store.path).map_err(|error| self.explain(error))?;
        Ok(offline(inspection.reader())?)
    }

    fn explain(&self, error: OpenError) -> anyhow::Error {
        match (&error, &self.socket) {
            (OpenError::LockedByAnother { .. }, Some(socket)) => anyhow::anyhow!(
                "the store at {} is in use, and nobody answers at {}: if the router runs with another control.path, \
                 give its --config; if `millrace store` works on it, wait",
                self.store.path.display(),
                socket.display()
            ),
            (OpenError::LockedByAnother { .. }, None) => anyhow::anyhow!(
                "the router runs with control.path = \"off\", so that it cannot be asked; stop it first"
            ),
            _ => error.into(),
        }
    }
}

fn poison(target: &Target, command: &PoisonCommand, out: &mut impl Write) -> anyhow::Result<()> {
    match command {
        PoisonCommand::List { uplink, json } => {
            let path =
                uplink.as_ref().map_or("/poison".to_owned(), |uplink| format!("/poison?uplink={uplink}"));
            let list = target.look(&path, |reader| report::poison(reader, uplink.as_deref()))?;
            let list: PoisonList = list.with_context(|| {
                format!("the store has no poison lane of uplink {:?}", uplink.as_deref().unwrap_or_default())
            })?;
            if *json {
                serde_json::to_writer(&mut *out, &list)?;
                writeln!(out)?;
            } else {
                write_poison(&list, out)?;
            }
        }
        PoisonCommand::Show { uplink, place } => {
            let path = format!("/poison/{uplink}/{place}");
            let found = target.look(&path, |reader| Ok(report::poisoned(reader, uplink, *place)))?;
            let found: PoisonReport = found
                .with_context(|| format!("there is no message {place} in the poison lane of {uplink}"))?;
            serde_json::to_writer_pretty(&mut *out, &found)?;
            writeln!(out)?;
        }
        PoisonCommand::Retry(which) => {
            let Some(stream) = target.connect()? else {
                bail!(
                    "no router runs on this store: what is to be sent again needs one that does; start it first"
                );
            };
            let path = format!("/poison/{}/{}/retry", which.uplink, which.places());
            let answer = client::ask(stream, "POST", &path)?;
            let obeyed = serde_json::from_value(answer).context("this router is of another version")?;
            write_sent_again(&obeyed, out)?;
        }
        PoisonCommand::Drop(which) => {
            let count = match target.connect()? {
                Some(stream) => {
                    let path = format!("/poison/{}/{}/drop", which.uplink, which.places());
                    client::ask(stream, "POST", &path)?["messages"].as_u64().unwrap_or_default()
                }
                None => drop_offline(target, which)?,
            };
            writeln!(out, "{count} dropped")?;
        }
    }
    Ok(())
}

fn write_sent_again(obeyed: &Obeyed, out: &mut impl Write) -> std::io::Result<()> {
    match obeyed.expired {
        0 => writeln!(out, "{} sent again: they are at the end of their lanes now", obeyed.messages)?,
        expired => writeln!(
            out,
            "{} sent again, {expired} expired: what was sent is at the end of its lane now, what expired is in the loss ledger",
            obeyed.messages
        )?,
    }
    if let (1.., Some(why)) = (obeyed.left, &obeyed.why) {
        writeln!(out, "{} stay, since they cannot be sent again: {why}", obeyed.left)?;
    }
    Ok(())
}

fn drop_offline(target: &Target, which: &crate::cli::Which) -> anyhow::Result<u64> {
    let mut log = Log::open(&target.store).map_err(|error| target.explain(error))?;
    let reader = log.reader();
    let name = poison_lane_name(&which.uplink);
    let lane = log.find_lane(&name).with_context(|| format!("the store has no lane {name}"))?;
    let mut chosen = places(&reader, lane)?;
    if !which.all {
        let wanted: Vec<Seq> = which.place.iter().copied().filter_map(Seq::new).collect();
        if let Some(missing) = wanted.iter().find(|seq| !chosen.contains(seq)) {
            bail!("there is no message {missing} in the poison lane of {}", which.uplink);
        }
        chosen = wanted.into_iter().collect();
    }
    // While they can still be read.
    enter_dropped(&mut log, lane, &name, &chosen)?;
    let (mut tray, head) = (AppendTray::default(), log.lane_state(lane)?.head);
    settle(lane, head, crate::upstream::poison::done_places(&reader, lane)?, &chosen, &mut tray);
    let mut bytes = &tray.bytes[..];
    for change in &tray.writes {
        match *change {
            Change::Put { space, key_len, .. } => {
                let (key, rest) = bytes.split_at(key_len as usize);
                log.state_put(space_of(space), key, b"")?;
                bytes = rest;
            }
            Change::Delete { space, key_len } => {
                let (key, rest) = bytes.split_at(key_len as usize);
                log.state_delete(space_of(space), key)?;
                bytes = rest;
            }
            Change::Advance { lane, up_to } => log.advance(lane, up_to)?,
            Change::Record { .. } => {}
        }
    }
    log.commit()?;
    log.close()?;
    Ok(chosen.len() as u64)
}

/// What is dropped stands in the ledger, in the same commit. A running router forgets the oldest entries for it.
fn enter_dropped(log: &mut Log, lane: LaneId, name: &str, chosen: &BTreeSet<Seq>) -> anyhow::Result<()> {
    let (reader, mut out, mut dropped) = (log.reader(), ReadOut::new(), Vec::new());
    chosen.iter().for_each(|seq| note_dropped(&mut dropped, dropped_one(&reader, lane, *seq, &mut out)));
    let ledger = Ledger::load(&reader, usize::MAX)?;
    let now = crate::clock::Clock::default().now().timestamp;
    for dropped in &dropped {
        ledger.add(log, Entry::dropped(name, dropped, now))?;
    }
    Ok(())
}

fn write_lanes(lanes: &[LaneReport], out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "{:<32} {:>12} {:>16} {:>14}  oldest", "LANE", "MESSAGES", "BYTES", "NEXT PLACE")?;
    for lane in lanes {
        let oldest = lane.oldest_unix_ms.map_or("-".to_owned(), age);
        writeln!(
            out,
            "{:<32} {:>12} {:>16} {:>14}  {oldest}",
            lane.name, lane.messages, lane.bytes, lane.tail
        )?;
    }
    Ok(())
}

fn write_poison(list: &PoisonList, out: &mut impl Write) -> anyhow::Result<()> {
    if list.total == 0 {
        writeln!(out, "nothing is in the poison lanes")?;
    }
    for message in &list.messages {
        writeln!(
            out,
            "{} {}: topic {}, sender {}, {} bytes, moved {} after {} attempts: {}",
            message.uplink,
            message.place,
            message.topic.as_deref().unwrap_or("-"),
            message.sender.as_deref().unwrap_or("-"),
            message.payload_bytes,
            age(message.moved_unix_ms),
            message.attempts,
            message.reason
        )?;
    }
    if list.total > list.messages.len() as u64 {
        writeln!(
            out,
            "… and {} more; the first {LISTED_MAX} are listed",
            list.total - list.messages.len() as u64
        )?;
    }
    Ok(())
}

fn age(unix_ms: u64) -> String {
    let now = crate::clock::Clock::default().now().timestamp.0;
    format!("{:.1} s ago", now.saturating_sub(unix_ms) as f64 / 1e3)
}
