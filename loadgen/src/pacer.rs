//! Wakes tasks at microseconds, where tokio's timer knows milliseconds only.
//!
//! Knows: due times of the tasks of one worker thread. Never: what they do when woken.
//! How: one alarm thread per worker parks until the earliest due time (a futex with a timeout, with the timer slack
//! set to the least), then wakes one task of the runtime, which wakes everything that is due. So a tick costs one
//! wake-up across threads, however many publishers are due at it.
//! Invariant: a timer whose due time is set is either in the queue, or its task has been woken since.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::{Clock, Micros};

/// Due times by slot, and which is next. Pure: time is an argument.
#[derive(Debug, Default)]
struct Dues {
    by_slot: Vec<Micros>,
    queue: BinaryHeap<Reverse<(Micros, usize)>>,
}

impl Dues {
    fn add_slot(&mut self) -> usize {
        self.by_slot.push(Micros::NEVER);
        self.by_slot.len() - 1
    }

    /// Sets when a slot is due; what it was before is forgotten.
    fn set(&mut self, slot: usize, due: Micros) {
        if self.by_slot[slot] != due {
            self.by_slot[slot] = due;
            self.queue.push(Reverse((due, slot)));
        }
    }

    /// Takes one slot that is due at `now`; it is due no more until it is set again.
    fn pop(&mut self, now: Micros) -> Option<usize> {
        self.drop_forgotten();
        let &Reverse((due, slot)) = self.queue.peek()?;
        if due > now {
            return None;
        }
        self.queue.pop();
        self.by_slot[slot] = Micros::NEVER;
        Some(slot)
    }

    fn next(&mut self) -> Micros {
        self.drop_forgotten();
        self.queue.peek().map_or(Micros::NEVER, |Reverse((due, _))| *due)
    }

    /// When something may be due after the next; may be too early, as it may be forgotten already.
    fn after_next(&self) -> Micros {
        // The second smallest of a heap is a child of the smallest.
        let children = self.queue.as_slice().iter().skip(1).take(2);
        children.map(|Reverse((due, _))| *due).min().unwrap_or(Micros::NEVER)
    }

    fn drop_forgotten(&mut self) {
        while let Some(&Reverse((due, slot))) = self.queue.peek()
            && self.by_slot[slot] != due
        {
            self.queue.pop();
        }
    }
}

/// What the worker and its alarm thread share.
#[derive(Debug)]
struct Alarm {
    next: AtomicU64,
    /// What `next` becomes when it rings, so that in a steady schedule the thread need not be told: that would cost
    /// one more change of threads per message. Taken once; too early is only a ring for nothing.
    after_next: AtomicU64,
    stop: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// The timers of one worker thread.
pub(crate) struct Pacer {
    timers: Rc<Timers>,
    thread: Option<JoinHandle<()>>,
}

struct Timers {
    clock: Clock,
    alarm: Arc<Alarm>,
    alarm_thread: std::thread::Thread,
    dues: RefCell<Dues>,
    wakers: RefCell<Vec<Option<Waker>>>,
    /// The waker that the alarm has.
    driver: RefCell<Option<Waker>>,
    /// The alarm rings at this time or earlier.
    armed: Cell<Micros>,
}

/// One task's timer.
pub(crate) struct Timer {
    timers: Rc<Timers>,
    slot: usize,
}

impl Pacer {
    /// Starts the alarm thread. Fails if the system has no thread left.
    pub(crate) fn start(clock: Clock) -> std::io::Result<Pacer> {
        let alarm = Arc::new(Alarm {
            next: AtomicU64::new(Micros::NEVER.0),
            after_next: AtomicU64::new(Micros::NEVER.0),
            stop: AtomicBool::new(false),
            waker: Mutex::new(None),
        });
        let shared = alarm.clone();
        let thread =
            std::thread::Builder::new().name("pacer".to_owned()).spawn(move || ring(&shared, clock))?;
        let timers = Timers {
            clock,
            alarm,
            alarm_thread: thread.thread().clone(),
            dues: RefCell::default(),
            wakers: RefCell::default(),
            driver: RefCell::default(),
            armed: Cell::new(Micros::NEVER),
        };
        Ok(Pacer { timers: Rc::new(timers), thread: Some(thread) })
    }

    /// A timer for one task of this worker.
    pub(crate) fn timer(&self) -> Timer {
        let slot = self.timers.dues.borrow_mut().add_slot();
        self.timers.wakers.borrow_mut().push(None);
        Timer { timers: self.timers.clone(), slot }
    }

    /// Wakes what is due, for ever; to be spawned once on the worker's runtime.
    pub(crate) fn drive(&self) -> impl Future<Output = ()> + use<> {
        let timers = self.timers.clone();
        std::future::poll_fn(move |cx| {
            timers.wake_due(cx);
            Poll::Pending
        })
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.timers.alarm.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of the alarm thread has been printed by itself; there is nothing to add.
            thread.join().ok();
        }
    }
}

impl Timer {
    /// Whether `due` is past at `now`; if not, the task is woken when it is. A later call replaces an earlier one.
    pub(crate) fn is_due(&self, cx: &Context<'_>, due: Micros, now: Micros) -> bool {
        if due <= now {
            return true;
        }
        let mut wakers = self.timers.wakers.borrow_mut();
        match &mut wakers[self.slot] {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            other => *other = Some(cx.waker().clone()),
        }
        self.timers.dues.borrow_mut().set(self.slot, due);
        self.timers.arm(due);
        false
    }
}

impl Timers {
    fn wake_due(&self, cx: &Context<'_>) {
        let mut driver = self.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            // The waker is in its place before the alarm is armed, so that no ring finds nobody.
            *driver = Some(cx.waker().clone());
            *self.alarm.waker.lock().unwrap_or_else(PoisonError::into_inner) = driver.clone();
        }
        let mut dues = self.dues.borrow_mut();
        let wakers = self.wakers.borrow();
        let now = self.clock.now();
        while let Some(slot) = dues.pop(now) {
            if let Some(waker) = &wakers[slot] {
                waker.wake_by_ref();
            }
        }
        // Either it has rung, and went on to what it was told for after that; or it will ring at this time.
        self.armed.set(Micros(self.alarm.next.load(Ordering::Acquire)));
        self.arm(dues.next());
        self.alarm.after_next.store(dues.after_next().0, Ordering::Release);
    }

    fn arm(&self, due: Micros) {
        if due < self.armed.get() {
            self.armed.set(due);
            self.alarm.next.store(due.0, Ordering::Release);
            self.alarm_thread.unpark();
        }
    }
}

/// The alarm thread: sleeps until the next due time, wakes the worker, waits to be armed again.
fn ring(alarm: &Alarm, clock: Clock) {
    sharpen_timers();
    while !alarm.stop.load(Ordering::Acquire) {
        let next = alarm.next.load(Ordering::Acquire);
        if next == Micros::NEVER.0 {
            std::thread::park();
            continue;
        }
        let wait = Micros(next).since(clock.now());
        if wait > 0 {
            std::thread::park_timeout(Duration::from_micros(wait));
            continue;
        }
        let after = alarm.after_next.swap(Micros::NEVER.0, Ordering::AcqRel);
        // Armed anew in between: then the new time decides, and the driver arms again when that rings.
        if alarm.next.compare_exchange(next, after, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            // Cloned, so that the woken worker does not find the lock taken.
            let waker = alarm.waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
            waker.inspect(Waker::wake_by_ref);
        }
    }
}

/// Sets the timer slack of this thread to the least: the kernel's default rounds every sleep up by 50 µs.
///
/// Where that is not allowed or not Linux, sleeps are coarser; the slip that is reported shows it.
fn sharpen_timers() {
    let Ok(link) = std::fs::read_link("/proc/thread-self") else { return };
    if let Some(thread) = link.file_name().and_then(|name| name.to_str()) {
        std::fs::write(format!("/proc/{thread}/timerslack_ns"), "1").ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_in_order_of_their_due_times_and_once() {
        let mut dues = Dues::default();
        let slots: Vec<_> = (0..3).map(|_| dues.add_slot()).collect();
        dues.set(slots[0], Micros(30));
        dues.set(slots[1], Micros(10));
        dues.set(slots[2], Micros(20));
        assert_eq!(dues.pop(Micros(9)), None);
        assert_eq!(dues.next(), Micros(10));
        assert_eq!(
            (dues.pop(Micros(25)), dues.pop(Micros(25)), dues.pop(Micros(25))),
            (Some(1), Some(2), None)
        );
        assert_eq!(dues.next(), Micros(30));
        dues.set(slots[1], Micros(26));
        assert_eq!(
            (dues.pop(Micros(99)), dues.pop(Micros(99)), dues.pop(Micros(99))),
            (Some(1), Some(0), None)
        );
    }

    #[test]
    fn what_comes_after_the_next_is_known() {
        let mut dues = Dues::default();
        assert_eq!(dues.after_next(), Micros::NEVER);
        for due in [50, 20, 40, 10, 30] {
            let slot = dues.add_slot();
            dues.set(slot, Micros(due));
        }
        for (next, after) in [(10, 20), (20, 30), (30, 40), (40, 50)] {
            assert_eq!((dues.next(), dues.after_next()), (Micros(next), Micros(after)));
            dues.pop(Micros(next));
        }
        assert_eq!((dues.next(), dues.after_next()), (Micros(50), Micros::NEVER));
    }

    #[test]
    fn a_due_time_that_was_replaced_is_forgotten() {
        let mut dues = Dues::default();
        let slot = dues.add_slot();
        dues.set(slot, Micros(10));
        dues.set(slot, Micros(40));
        assert_eq!((dues.pop(Micros(10)), dues.next()), (None, Micros(40)));
        assert_eq!((dues.pop(Micros(40)), dues.pop(Micros(40))), (Some(slot), None));
    }
}
