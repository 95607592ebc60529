//! What services have with IoT Hub: requests and answers over the links that carry telemetry, since an identity has one
//! connection there and no second one.
//!
//! In: orders of services. Out: news for them. Never: what a topic means; `services` knows. Bound: [`ORDERS_MAX`] orders and
//! [`NEWS_MAX`] news wait; whoever has more waits itself.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::sync::Arc;

use broker::uplink::Heard;
use tokio::sync::mpsc;

/// Orders that may wait.
pub(crate) const ORDERS_MAX: usize = 4_096;
/// News that may wait.
pub(crate) const NEWS_MAX: usize = 4_096;

/// What a service wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// To hear this on behalf of an identity, whose link stays while there is something; nothing: not any more.
    Listen {
        /// Who.
        identity: Arc<str>,
        /// Topic filters.
        filters: BTreeSet<String>,
    },
    /// What it heard is taken.
    Acknowledge {
        /// On whose behalf it heard it.
        identity: Arc<str>,
        /// What came with it.
        ack: (u64, NonZeroU16),
    },
    /// What it heard and is not acknowledged is to be sent again: the link is closed, and opened when it is wanted.
    Return {
        /// Whose.
        identity: Arc<str>,
    },
    /// To send something, with QoS 0. Where the link is down it is not sent; [`News::Down`] has said so.
    Say {
        /// On whose behalf.
        identity: Arc<str>,
        /// The topic.
        topic: String,
        /// The payload.
        payload: Vec<u8>,
    },
}

/// What a service is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// The link of an identity is up, and what it wants to hear is subscribed to. Also told with each [`Order::Listen`] while
    /// it is.
    Up(Arc<str>),
    /// It is down, or did not come about.
    Down(Arc<str>),
    /// Something came over it.
    Heard(Arc<str>, Heard),
}

/// The uplink's ends.
#[derive(Debug)]
pub(crate) struct Line {
    /// What services want.
    pub(super) orders: mpsc::Receiver<Order>,
    /// What they are told.
    pub(super) news: mpsc::Sender<News>,
}

/// The services' ends.
#[derive(Debug)]
pub(crate) struct Operator {
    /// What they want.
    pub(crate) orders: mpsc::Sender<Order>,
    /// What they are told.
    pub(crate) news: mpsc::Receiver<News>,
}

/// A line between an uplink and services.
pub(crate) fn line() -> (Line, Operator) {
    let (order, orders) = mpsc::channel(ORDERS_MAX);
    let (tell, news) = mpsc::channel(NEWS_MAX);
    (Line { orders, news: tell }, Operator { orders: order, news })
}
