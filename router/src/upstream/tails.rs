//! How far the lanes of uplinks reach: written by the disk thread after each group, read by the uplinks.

use std::collections::HashMap;
use std::sync::Arc;

use model::{LaneId, Seq};
use tokio::sync::Notify;

/// Wakes one uplink.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    notify: Notify,
}

impl Bell {
    /// Something changed.
    pub(crate) fn ring(&self) {
        self.notify.notify_one();
    }

    /// Waits until somebody rings; returns at once if that happened since the last wait.
    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }
}

/// Which uplink is woken by which lane. Fixed at start.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    bells: HashMap<LaneId, Arc<Bell>>,
}

impl Tails {
    /// Lets `bell` ring when `lane` grows.
    pub(crate) fn add(&mut self, lane: LaneId, bell: Arc<Bell>) {
        self.bells.insert(lane, bell);
    }

    /// These lanes grew. Lanes of sessions are nobody's business here.
    pub(crate) fn grown(&self, lanes: &[(LaneId, Seq)]) {
        if !self.bells.is_empty() {
            lanes.iter().for_each(|(lane, _)| self.ring(*lane));
        }
    }

    /// This lane grew.
    pub(crate) fn ring(&self, lane: LaneId) {
        if let Some(bell) = self.bells.get(&lane) {
            bell.ring();
        }
    }
}
