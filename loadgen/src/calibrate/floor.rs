//! What belongs to the machine: one byte at each of the same times, to an echo and back, by system calls alone.
//!
//! Knows: sockets, the kernel's timer, threads of its own. Never: MQTT, the generator's runtime.
//! In:  a rate, and whether both ends sleep or ask again and again. Out: how late a thread wakes, and when the byte is back.
//! No generator that sends to another process and gets something back can be quicker than this here.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use hdrhistogram::Histogram;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::{Times, Waiting};
use crate::clock::{Clock, Micros};
use crate::process::{Processor, stay_on};
use crate::report::Percentiles;
use crate::schedule::{Arrivals, Schedule};
use crate::stats::histogram;

/// An answer that takes longer than this does not come any more.
const PATIENCE: Duration = Duration::from_secs(2);

/// Measures for `seconds`, at the Poisson times of one seed.
pub fn floor(per_sec: u32, seconds: f64, waiting: Waiting) -> std::io::Result<Times> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
    }
    far.set_nonblocking(waiting == Waiting::Awake)?;
    near.set_nonblocking(true)?;
    // Threads that never sleep are kept apart, as those are that this is compared with.
    let keep = move |processor| {
        if waiting == Waiting::Awake {
            stay_on(processor);
        }
    };
    let echoing = std::thread::Builder::new().name("echo".to_owned()).spawn(move || {
        keep(Processor::First);
        echo(far)
    })?;
    let pinging = std::thread::Builder::new().name("ping".to_owned()).spawn(move || {
        keep(Processor::FromLast(0));
        Pinger::new(near, per_sec, seconds)?.run(waiting)
    })?;
    let panicked = |_| std::io::Error::other("a thread of the calibration panicked, please report");
    let measured = pinging.join().map_err(panicked)?;
    // The near end is closed, and so the echo is over.
    echoing.join().map_err(panicked)??;
    measured
}

/// Sends back what comes, until the other side closes.
fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return Ok(()),
            // A socket takes more than there is ever on the way.
            Ok(count) => stream.write_all(&bytes[..count])?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

struct Pinger {
    stream: TcpStream,
    timer: TimerFd,
    clock: Clock,
    schedule: Schedule,
    next_due: Micros,
    end: Micros,
    /// The due times of the bytes on the way, in order; at most what was due in [`PATIENCE`].
    on_the_way: VecDeque<Micros>,
    lateness: Histogram<u64>,
    echo: Histogram<u64>,
}

impl Pinger {
    fn new(stream: TcpStream, per_sec: u32, seconds: f64) -> std::io::Result<Pinger> {
        let clock = Clock::start();
        let start = clock.now().plus(Duration::from_millis(5));
        let mut schedule = Schedule::new(Arrivals::Poisson, f64::from(per_sec), start, 0.0, 1);
        Ok(Pinger {
            stream,
            timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?,
            clock,
            next_due: schedule.next_due(),
            schedule,
            end: start.plus(Duration::from_secs_f64(seconds)),
            on_the_way: VecDeque::new(),
            lateness: histogram(),
            echo: histogram(),
        })
    }

    fn run(mut self, waiting: Waiting) -> std::io::Result<Times> {
        while self.next_due < self.end || !self.on_the_way.is_empty() {
            let now = self.clock.now();
            self.send_due(now)?;
            self.take_echo()?;
            if now > self.end.plus(PATIENCE) {
                return Err(std::io::Error::new(ErrorKind::TimedOut, "the echo of a byte did not come back"));
            }
            if waiting == Waiting::Asleep {
                self.sleep()?;
            }
        }
        Ok(Times {
            lateness_micros: Percentiles::of(&self.lateness),
            latency_micros: Percentiles::of(&self.echo),
        })
    }

    fn send_due(&mut self, now: Micros) -> std::io::Result<()> {
        while self.next_due <= now && self.next_due < self.end {
            self.stream.write_all(&[0])?;
            self.lateness.saturating_record(now.since(self.next_due).max(1));
            self.on_the_way.push_back(self.next_due);
            self.next_due = self.schedule.next_due();
        }
        Ok(())
    }

    fn take_echo(&mut self) -> std::io::Result<()> {
        let mut bytes = [0; 256];
        let count = match self.stream.read(&mut bytes) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let now = self.clock.now();
        for due in self.on_the_way.drain(..count.min(self.on_the_way.len())) {
            self.echo.saturating_record(now.since(due).max(1));
        }
        Ok(())
    }

    /// Until a byte is due or one is back.
    fn sleep(&mut self) -> std::io::Result<()> {
        let due = if self.next_due < self.end { self.next_due } else { self.end.plus(PATIENCE) };
        let wait = Duration::from_micros(due.since(self.clock.now()).max(1));
        let wait = Expiration::OneShot(TimeSpec::from_duration(wait));
        self.timer.set(wait, TimerSetTimeFlags::empty())?;
        let mut either = [
            PollFd::new(self.timer.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.stream.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut either, PollTimeout::NONE)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_sent_and_comes_back_however_they_wait() {
        for waiting in [Waiting::Asleep, Waiting::Awake] {
            let times = floor(2_000, 0.2, waiting).unwrap();
            assert!((300..500).contains(&times.latency_micros.count), "{times:?}");
            assert_eq!(times.latency_micros.count, times.lateness_micros.count);
            assert!(times.latency_micros.p50 >= times.lateness_micros.p50, "{times:?}");
        }
    }
}
