//! Keeps the sink's thread from sleeping between two publications.
//!
//! Knows: how many were taken, the clock. Never: connections. For as long as the manners say; then until the next one.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use super::Hub;
use crate::process::{Processor, stay_on};

/// Begins, if the manners want it; on the thread that serves.
pub(super) fn keep(hub: &Rc<Hub>, tasks: &LocalSet) {
    if hub.manners.spin > Duration::ZERO {
        stay_on(Processor::First);
        tasks.spawn_local(awake(hub.clone()));
    }
}

/// Asks for more again and again for as long as the manners say after each publication; sockets are looked at in between.
async fn awake(hub: Rc<Hub>) {
    let (mut seen, mut until) = (0, Instant::now());
    std::future::poll_fn(|cx| {
        let (taken, now) = (hub.tally.taken.load(Ordering::Relaxed), Instant::now());
        if std::mem::replace(&mut seen, taken) != taken {
            until = now + hub.manners.spin;
        }
        if now < until {
            cx.waker().wake_by_ref();
        } else {
            hub.asleep.set(Some(cx.waker().clone()));
        }
        Poll::<()>::Pending
    })
    .await;
}
