//! Waiting for what must come true, with a deadline and a name.
//!
//! In: a question that is asked again and again. Out: its answer, or a panic that names what did not happen.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a test waits for what must happen. Far above what it takes, so that a busy machine does not fail it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Pause between two looks. Not a synchronisation: whatever it is, the answer decides.
const PAUSE: Duration = Duration::from_millis(5);

/// Asks until there is an answer; panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    match within(PATIENCE, &mut ask) {
        Some(answer) => answer,
        None => panic!("waited {} s in vain for: {what}", PATIENCE.as_secs()),
    }
}

/// Asks until there is an answer or the time is over; at least once.
pub fn within<T>(time: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + time;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        sleep(PAUSE);
    }
}
