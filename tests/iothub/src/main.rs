//! The hub as a program, for tests in other languages: `test-iothub [--host NAME] [--address IP] [--ports fixed|free]`.
//!
//! In: options. Out: one line of JSON on standard output as soon as it listens (as `GET /ready` gives it). Ends with its
//! standard input, so that it never outlives the test that started it.

use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;

use iothub::{Config, Hub};

fn main() -> io::Result<()> {
    let config = configure(std::env::args().skip(1)).map_err(io::Error::other)?;
    let hub = Hub::start(config)?;
    let ready = serde_json::json!({
        "host": hub.host(), "mqtt": hub.mqtt_address().to_string(), "https": hub.https_address().to_string(),
        "control": hub.control_address().to_string(), "caPem": hub.ca_pem(),
    });
    let mut out = io::stdout().lock();
    writeln!(out, "{ready}")?;
    out.flush()?;
    // Whatever comes is not looked at; its end is ours.
    let mut rest = [0; 512];
    while io::stdin().read(&mut rest)? > 0 {}
    Ok(())
}

fn configure(mut arguments: impl Iterator<Item = String>) -> Result<Config, String> {
    let (mut host, mut address, mut fixed) = (None, IpAddr::from([127, 0, 0, 1]), false);
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--host" => host = Some(value),
            "--address" => {
                address = value.parse().map_err(|_| format!("--address is {value:?}, no IP address"))?
            }
            "--ports" if value == "fixed" => fixed = true,
            "--ports" if value == "free" => fixed = false,
            _ => {
                return Err(format!(
                    "{option} {value}: --host NAME, --address IP, --ports fixed|free are allowed"
                ));
            }
        }
    }
    let mut config = if fixed { Config::at(address) } else { Config::default() };
    if !fixed {
        for place in [&mut config.mqtt, &mut config.https, &mut config.control] {
            place.set_ip(address);
        }
    }
    if let Some(host) = host {
        config.host = host;
    }
    Ok(config)
}
