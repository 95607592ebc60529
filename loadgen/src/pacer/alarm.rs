//! An alarm of the kernel, to the microsecond where it has one.
//!
//! In:  a span. Out: a task woken when it is over. Linux has a timer that is waited for like a socket; elsewhere the runtime's
//! own does, to the millisecond, and the slip that is reported shows it.

#[cfg(target_os = "linux")]
pub(super) use linux::Alarm;
#[cfg(not(target_os = "linux"))]
pub(super) use others::Alarm;

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::{AsFd, AsRawFd, RawFd};
    use std::task::{Context, Poll};
    use std::time::Duration;

    use nix::sys::time::TimeSpec;
    use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    /// One alarm, which is set at most once at a time.
    pub(in super::super) struct Alarm(AsyncFd<Timer>);

    struct Timer(TimerFd);

    impl AsRawFd for Timer {
        fn as_raw_fd(&self) -> RawFd {
            self.0.as_fd().as_raw_fd()
        }
    }

    impl Alarm {
        /// Must be called on a runtime. Fails if the system has no file left.
        pub(in super::super) fn new() -> std::io::Result<Alarm> {
            let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
            let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
            #[expect(
                deprecated,
                reason = "its successor is unsafe for types whose file may change; this one owns its timer until it is dropped"
            )]
            let watched = AsyncFd::with_interest(Timer(timer), Interest::READABLE)?;
            Ok(Alarm(watched))
        }

        /// Sets it, in the place of what it was set to.
        pub(in super::super) fn ring_in(&self, micros: u64) {
            // Zero would switch it off.
            let span = TimeSpec::from_duration(Duration::from_micros(micros.max(1)));
            let set = self.0.get_ref().0.set(Expiration::OneShot(span), TimerSetTimeFlags::empty());
            set.expect("a timer that was made takes every span of time");
        }

        /// Ready if it has rung since it was asked last.
        pub(in super::super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
            match self.0.poll_read_ready(cx) {
                Poll::Pending => Poll::Pending,
                // It need not be read: the next setting makes it ring anew.
                Poll::Ready(Ok(mut rung)) => {
                    rung.clear_ready();
                    Poll::Ready(())
                }
                // The runtime is going down, and everything that is timed with it.
                Poll::Ready(Err(_)) => Poll::Pending,
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod others {
    use std::cell::RefCell;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use tokio::time::Sleep;

    /// One alarm, which is set at most once at a time.
    pub(in super::super) struct Alarm(RefCell<(Option<Pin<Box<Sleep>>>, Option<Waker>)>);

    impl Alarm {
        /// Must be called on a runtime.
        pub(in super::super) fn new() -> std::io::Result<Alarm> {
            Ok(Alarm(RefCell::default()))
        }

        /// Sets it, in the place of what it was set to.
        pub(in super::super) fn ring_in(&self, micros: u64) {
            let (sleep, waker) = &mut *self.0.borrow_mut();
            *sleep = Some(Box::pin(tokio::time::sleep(Duration::from_micros(micros))));
            // Whoever waits must look at the new one.
            waker.iter().for_each(Waker::wake_by_ref);
        }

        /// Ready if it has rung since it was asked last.
        pub(in super::super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
            let (sleep, waker) = &mut *self.0.borrow_mut();
            *waker = Some(cx.waker().clone());
            let Some(waiting) = sleep else { return Poll::Pending };
            let rung = waiting.as_mut().poll(cx);
            if rung.is_ready() {
                *sleep = None;
            }
            rung
        }
    }
}
