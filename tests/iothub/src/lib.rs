//! Doubles for tests: an IoT Hub that checks everything strictly and does wrong on command, and the Workload API of a
//! gateway's security daemon.
//!
//! Knows: IoT Hub's dialect of MQTT 3.1.1, its user names, tokens, topics, twins, methods and scope requests, written from
//! the description of the protocol and not from the product, so that a mistake of the one is found by the other.
//! May use: `wire` and `model` for the bytes of MQTT. Never: the rooms `hub`, `broker` or `millrace` itself.
//! In: clients. Out: what they sent, and every rule they broke, by method calls or over a small HTTP control port.
//!
//! ```no_run
//! use iothub::{Config, Hub, Identity};
//!
//! let hub = Hub::start(Config::default())?;
//! hub.put(Identity::device("d1"))?;
//! println!("{} trusts {}", hub.mqtt_address(), hub.ca_pem());
//! // … a client connects and sends …
//! assert_eq!(hub.violations(), []);
//! assert_eq!(hub.telemetry()[0].system("$.ct"), Some("application/json"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod admission;
mod authority;
pub mod bag;
mod control;
mod faults;
mod hub;
mod identity;
mod rest;
pub mod sas;
mod session;
mod state;
mod tls;
mod topics;
mod twin;
mod username;
mod websocket;
pub mod workload;

pub use authority::{Authority, Issued};
pub use faults::{Excess, Faults, Throttle};
pub use hub::{CallError, Certificate, Config, Connected, Hub};
pub use identity::{Authentication, Identity, random_key};
pub use session::PACKET_BYTES_MAX;
pub use state::{CloudMessage, Event, Feedback, RECORDS_MAX, Telemetry};
pub use twin::{Half, Twin};
pub use username::Username;

/// `2026-01-31T12:00:00.000Z`.
pub(crate) fn rfc3339(at: std::time::SystemTime) -> String {
    let at = time::OffsetDateTime::from(at);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond()
    )
}
