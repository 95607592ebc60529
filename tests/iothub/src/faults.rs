//! What the hub does wrong on command, for everybody or for one identity.
//!
//! In: wishes as the control port writes them. Out: what to do with the next CONNECT or message.

use std::time::{Duration, Instant};

use serde::Deserialize;

/// What to do wrong. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Faults {
    /// Answer every CONNECT with this return code (1 to 5).
    pub refuse_connect: Option<u8>,
    /// Only so many times.
    pub refuse_count: Option<u32>,
    /// Never answer a CONNECT.
    pub ignore_connect: bool,
    /// Answer a CONNECT so much later.
    pub connack_delay_ms: u64,
    /// Close the connection when so many messages have come since the fault was set; the last one is not acknowledged.
    pub drop_after_messages: Option<u64>,
    /// The message that ends the connection never reached the hub: it is not recorded.
    pub drop_unrecorded: bool,
    /// End connections with a reset instead of a goodbye.
    pub reset: bool,
    /// End connections without TLS's goodbye (`close_notify`), as a front end does that falls over: the bytes just end.
    pub no_goodbye: bool,
    /// Close the connection at each message that begins so; it is neither recorded nor acknowledged.
    pub deadly: Option<String>,
    /// Acknowledge messages, but so much later, in order.
    pub ack_delay_ms: u64,
    /// Record messages and never acknowledge them (until told to release).
    pub withhold_acks: bool,
    /// Let messages fall: neither recorded nor acknowledged.
    pub swallow: bool,
    /// Take no more than this.
    pub throttle: Option<Throttle>,
    /// Answer requests about twins with this status and change nothing.
    pub twin_status: Option<u16>,
    /// Never answer requests about twins.
    pub twin_silence: bool,
    /// Never answer PINGREQ: a peer that is silent.
    pub ignore_ping: bool,
}

/// A quota, as a bucket of tokens.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Throttle {
    /// Messages that fit into a second.
    pub per_second: f64,
    /// Messages that are taken at once.
    pub burst: u32,
    /// What happens above it.
    pub mode: Excess,
}

/// What happens with a message above the quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Excess {
    /// It is taken and acknowledged later: shaping, as IoT Hub begins.
    Delay,
    /// It is neither taken nor acknowledged.
    Silence,
    /// It is not taken, and the connection ends, as IoT Hub goes on.
    Disconnect,
}

/// How the hub ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// With everything that belongs to it.
    Polite,
    /// With a reset.
    Reset,
    /// Without TLS's goodbye.
    Bare,
}

impl Faults {
    pub(crate) fn farewell(&self) -> Farewell {
        match (self.reset, self.no_goodbye) {
            (true, _) => Farewell::Reset,
            (_, true) => Farewell::Bare,
            _ => Farewell::Polite,
        }
    }
}

/// What to do with one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// It reaches the hub.
    pub(crate) record: bool,
    /// It is acknowledged, so much later.
    pub(crate) acknowledge: Option<Duration>,
    /// Its acknowledgement can be released.
    pub(crate) withhold: bool,
    /// The connection ends.
    pub(crate) close: bool,
    /// The quota was the reason.
    pub(crate) throttled: bool,
}

/// Faults with what they have seen.
#[derive(Clone, Debug)]
pub(crate) struct Active {
    pub(crate) faults: Faults,
    refused: u32,
    messages: u64,
    tokens: f64,
    filled: Instant,
}

impl Active {
    pub(crate) fn new(faults: Faults, now: Instant) -> Active {
        let tokens = faults.throttle.as_ref().map_or(0.0, |it| f64::from(it.burst));
        Active { faults, refused: 0, messages: 0, tokens, filled: now }
    }

    /// The return code for a CONNECT that must be refused.
    pub(crate) fn refusal(&mut self) -> Option<u8> {
        let code = self.faults.refuse_connect?;
        if self.faults.refuse_count.is_some_and(|count| self.refused >= count) {
            return None;
        }
        self.refused += 1;
        Some(code)
    }

    /// What to do with the next message.
    pub(crate) fn on_message(&mut self, body: &[u8], now: Instant) -> Verdict {
        self.messages += 1;
        let faults = &self.faults;
        if faults.deadly.as_ref().is_some_and(|deadly| body.starts_with(deadly.as_bytes())) {
            return Verdict { close: true, ..Verdict::default() };
        }
        let mut delay = Duration::from_millis(faults.ack_delay_ms);
        if let Some(throttle) = &faults.throttle {
            let elapsed = now.duration_since(self.filled).as_secs_f64();
            self.tokens = (self.tokens + elapsed * throttle.per_second).min(f64::from(throttle.burst));
            self.filled = now;
            self.tokens -= 1.0;
            if self.tokens < 0.0 {
                match throttle.mode {
                    Excess::Delay => delay += Duration::from_secs_f64(-self.tokens / throttle.per_second),
                    mode => {
                        self.tokens += 1.0;
                        return Verdict {
                            close: mode == Excess::Disconnect,
                            throttled: true,
                            ..Verdict::default()
                        };
                    }
                }
            }
        }
        if faults.swallow {
            return Verdict::default();
        }
        if faults.drop_after_messages.is_some_and(|count| self.messages == count.max(1)) {
            return Verdict { record: !faults.drop_unrecorded, close: true, ..Verdict::default() };
        }
        let throttled = delay > Duration::from_millis(faults.ack_delay_ms);
        if faults.withhold_acks {
            return Verdict { record: true, withhold: true, throttled, ..Verdict::default() };
        }
        Verdict { record: true, acknowledge: Some(delay), throttled, ..Verdict::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Active, Excess, Faults, Throttle};

    #[test]
    fn a_quota_fills_with_time() {
        let now = Instant::now();
        let throttle = Throttle { per_second: 10.0, burst: 2, mode: Excess::Silence };
        let mut active = Active::new(Faults { throttle: Some(throttle), ..Faults::default() }, now);
        assert!(active.on_message(b"", now).record && active.on_message(b"", now).record);
        assert!(active.on_message(b"", now).throttled);
        assert!(active.on_message(b"", now + Duration::from_millis(110)).record);
    }

    #[test]
    fn shaping_delays_more_and_more() {
        let now = Instant::now();
        let throttle = Throttle { per_second: 10.0, burst: 1, mode: Excess::Delay };
        let mut active = Active::new(Faults { throttle: Some(throttle), ..Faults::default() }, now);
        let delays = [(); 3].map(|()| active.on_message(b"", now).acknowledge);
        assert_eq!(delays, [0, 100, 200].map(|it| Some(Duration::from_millis(it))));
    }

    #[test]
    fn a_connection_ends_once() {
        let now = Instant::now();
        let mut active = Active::new(Faults { drop_after_messages: Some(2), ..Faults::default() }, now);
        let closed = [(); 3].map(|()| active.on_message(b"", now).close);
        assert_eq!(closed, [false, true, false]);
    }

    #[test]
    fn refusals_can_be_counted() {
        let mut active = Active::new(
            Faults { refuse_connect: Some(3), refuse_count: Some(1), ..Faults::default() },
            Instant::now(),
        );
        assert_eq!([active.refusal(), active.refusal()], [Some(3), None]);
    }
}
