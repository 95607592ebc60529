//! `millrace status`: what a running router says of itself, for a tired operator.

use std::io::{Read as _, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(5);
/// No honest status is longer.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Asks the router at `address` and prints its answer.
pub fn print(address: SocketAddr, out: &mut impl Write) -> anyhow::Result<()> {
    let status = fetch(address)?;
    write(&status, out).context("output cannot be written")
}

fn fetch(address: SocketAddr) -> anyhow::Result<Value> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).with_context(|| {
        format!("no router answers at http://{address}; is it running, and is http.bind set to this address?")
    })?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("GET /status HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_string(&mut answer)
        .context("the answer did not arrive in whole")?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("{address} does not speak HTTP") };
    let line = head.lines().next().unwrap_or_default();
    if line.split(' ').nth(1) != Some("200") {
        bail!("{address} answers `{line}`; is it a Millrace router?");
    }
    serde_json::from_str(body).context("the answer is not the JSON that a Millrace router gives")
}

fn write(status: &Value, out: &mut impl Write) -> std::io::Result<()> {
    let number = |path: &str| status.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or("-").to_owned();
    let uptime = Duration::from_millis(number("/uptime_ms")).as_secs();
    let ready = if status["ready"].as_bool() == Some(true) { "ready" } else { "NOT READY" };
    writeln!(
        out,
        "millrace {}: {ready}, up {uptime} s, {} shards",
        text(status, "version"),
        number("/shards")
    )?;
    writeln!(
        out,
        "clients {}   sessions {}   received {}   delivered {}   acknowledged {}   dropped {}",
        number("/clients"),
        number("/sessions"),
        number("/received"),
        number("/delivered"),
        number("/acknowledged"),
        number("/dropped")
    )?;
    if number("/withheld") > 0 {
        writeln!(out, "{} clients are not read until there is room on the disk", number("/withheld"))?;
    }
    let none = Vec::new();
    for listener in status["listeners"].as_array().unwrap_or(&none) {
        write_listener(listener, out)?;
    }
    for uplink in status["uplinks"].as_array().unwrap_or(&none) {
        write!(
            out,
            "uplink {}: {}, room on disk: {}, {} in flight, {} forwarded, {} reconnects",
            text(uplink, "name"),
            text(uplink, "state"),
            text(uplink, "room"),
            uplink["inflight"],
            uplink["forwarded"],
            uplink["reconnects"]
        )?;
        writeln!(out, ", at {}", text(uplink, "target"))?;
        if let Some(error) = uplink["last_error"].as_str() {
            writeln!(out, "    last error: {error}")?;
        }
        if uplink["insecure"] == true {
            writeln!(out, "    insecure: whoever answers is believed; name who may with ca or pin")?;
        }
        if let Some(warning) = uplink["warning"].as_str() {
            writeln!(out, "    warning: {warning}")?;
        }
    }
    for lane in status["lanes"].as_array().unwrap_or(&none) {
        let oldest = lane["oldest_ms"]
            .as_u64()
            .map_or("-".to_owned(), |millis| format!("{:.1} s", millis as f64 / 1e3));
        let in_memory = match lane["in_memory"].as_u64() {
            Some(messages @ 1..) => format!(", {messages} of them in memory alone"),
            _ => String::new(),
        };
        writeln!(
            out,
            "lane {}: {} messages, {} bytes, oldest {oldest}{in_memory}",
            text(lane, "name"),
            lane["backlog"],
            lane["backlog_bytes"]
        )?;
    }
    let store = &status["store"];
    writeln!(
        out,
        "store: {}, {}, {} bytes on disk, {} records, {} syncs",
        text(store, "state"),
        text(store, "room"),
        store["bytes_on_disk"],
        store["records"],
        store["syncs"]
    )?;
    if let Some(ranges @ 1..) = store["quarantined"].as_u64() {
        writeln!(
            out,
            "ALARM: {ranges} ranges of stored messages were found damaged and set aside in quarantine; the loss ledger has \
             them. The disk gave back other bytes than were written: exchange it"
        )?;
    }
    for route in status["routes"].as_array().unwrap_or(&none) {
        write_route(route, out)?;
    }
    if let Some(error) = status["reload_error"].as_str() {
        writeln!(out, "the last reload changed nothing:\n{error}")?;
    }
    Ok(())
}

fn write_route(route: &Value, out: &mut impl Write) -> std::io::Result<()> {
    let text = |key: &str| route[key].as_str().unwrap_or("-");
    let sinks: Vec<_> = route["sinks"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let ttl = route["ttl_secs"].as_u64().map_or("none".to_owned(), |secs| format!("{secs} s"));
    writeln!(out, "route {}: {}", text("name"), text("route"))?;
    writeln!(out, "    to {}, priority {}, time to live {ttl}", sinks.join(", "), text("priority"))?;
    writeln!(out, "    an acknowledgement means: {}", text("promise"))?;
    for drain in route["drains"].as_array().into_iter().flatten() {
        let text = |key: &str| drain[key].as_str().unwrap_or("-");
        writeln!(out, "    a backlog for {} drains {}", text("uplink"), text("means"))?;
    }
    Ok(())
}

fn write_listener(listener: &Value, out: &mut impl Write) -> std::io::Result<()> {
    let text = |key: &str| listener[key].as_str().unwrap_or("-").to_owned();
    let refused = listener["refused"].as_object().into_iter().flatten();
    let refused: Vec<_> = refused.map(|(reason, count)| format!("{count} {reason}")).collect();
    write!(
        out,
        "listener {}: {} at {}, {} open, {} accepted",
        text("name"),
        text("kind"),
        text("address"),
        listener["open"],
        listener["accepted"]
    )?;
    if refused.is_empty() {
        writeln!(out)?
    } else {
        writeln!(out, "; refused: {}", refused.join(", "))?
    }
    for certificate in listener["certificates"].as_array().into_iter().flatten() {
        let days = certificate["expires_in_days"].as_i64().unwrap_or_default();
        let file = certificate["file"].as_str().unwrap_or("-");
        match days {
            ..0 => writeln!(out, "    certificate {file}: EXPIRED")?,
            0.. => writeln!(out, "    certificate {file}: {days} days left")?,
        }
    }
    Ok(())
}
