//! Where shards ask what they do not know.
//!
//! In: questions of shards. Out: the same, in order for each shard. A full desk is an answer: the shard keeps the question,
//! reads nothing meanwhile, and comes back. Bound: [`QUESTIONS_MAX`].

use broker::{HubRequest, Unanswered};
use hub::methods::{Call, Outcome};
use model::ShardId;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::web::ARRIVALS_MAX;
use crate::net::Arrival;

/// Questions that may wait.
const QUESTIONS_MAX: usize = 4_096;

/// What a shard asks or tells.
#[derive(Debug)]
pub(crate) enum Question {
    /// A client did something that concerns a service.
    Request {
        /// Where it is connected.
        shard: ShardId,
        /// What.
        request: HubRequest,
    },
    /// A module calls a method of a client.
    Call {
        /// Which module.
        caller: Box<str>,
        /// Whose.
        target: Box<str>,
        /// What.
        call: Call,
        /// What came of it.
        done: oneshot::Sender<Outcome>,
    },
    /// A client did not get a message of the cloud.
    Unposted {
        /// Of the message.
        token: u64,
        /// Why not.
        why: Unanswered,
    },
    /// A client did not get the call of a method.
    Unanswered {
        /// Which call.
        rid: Box<str>,
        /// Why not.
        why: Unanswered,
    },
}

/// The shards' end.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    questions: mpsc::Sender<Question>,
    arrivals: mpsc::Sender<Arrival>,
}

/// The service's end.
#[derive(Debug)]
pub(crate) struct Questions(pub(super) mpsc::Receiver<Question>);

/// A desk; its last part is for [`super::Web`].
pub(crate) fn desk() -> (Desk, Questions, mpsc::Receiver<Arrival>) {
    let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
    let (arrivals, arrived) = mpsc::channel(ARRIVALS_MAX);
    (Desk { questions, arrivals }, Questions(asked), arrived)
}

impl Desk {
    /// Asks; gives the question back if there are too many.
    pub(crate) fn ask(&self, question: Question) -> Result<(), Question> {
        match self.questions.try_send(question) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(question)) => Err(question),
            // The router stops; nobody is told anything any more.
            Err(TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Asks for somebody who may wait.
    pub(super) async fn call(&self, question: Question) {
        // Whoever waits for the outcome sees that there will be none.
        self.questions.send(question).await.unwrap_or_default();
    }

    /// Takes a connection that speaks HTTP; gives it back if too many wait.
    pub(crate) fn receive(&self, arrival: Arrival) -> Result<(), Box<Arrival>> {
        self.arrivals.try_send(arrival).map_err(|error| match error {
            TrySendError::Full(arrival) | TrySendError::Closed(arrival) => Box::new(arrival),
        })
    }
}
