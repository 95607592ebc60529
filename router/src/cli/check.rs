//! `millrace check`: the mistakes of a configuration, or a plan of what would run.
//!
//! Knows: how a `Config` reads. Never: how it is judged (that is `config`, and `run` uses the same).

use std::io::{self, Write};

use super::{CheckArgs, Exit};
use crate::config::{self, Config, Drains, Edge, Listener, LogFormat, OwnCertificate, Standing};
use crate::net::{CertificateInfo, load_tls};

/// Judges a configuration and writes the plan to `out`, or every mistake to `err`.
///
/// Fails only if the writers fail.
pub fn check(
    args: &CheckArgs,
    env: impl Iterator<Item = (String, String)>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<Exit> {
    if args.reference {
        out.write_all(config::page().as_bytes())?;
        return Ok(Exit::Done);
    }
    match config::load(&args.config, env) {
        Ok(config) => {
            // Everything but the certificates is judged without a file; these would stop the start as well.
            let certificates = match certificates(&config) {
                Ok(certificates) => certificates,
                Err(error) => {
                    writeln!(err, "{error}")?;
                    return Ok(Exit::BadConfig);
                }
            };
            plan(&config, &certificates, out)?;
            Ok(Exit::Done)
        }
        Err(errors) => {
            writeln!(err, "{errors}")?;
            Ok(Exit::BadConfig)
        }
    }
}

/// The router's own certificates, by listener.
fn certificates(config: &Config) -> Result<Vec<Vec<CertificateInfo>>, String> {
    let edge = crate::iotedge::own_certificate(config).map_err(|error| error.to_string())?;
    let of_listener = |listener: &Listener| match &listener.tls {
        None => Ok(Vec::new()),
        // The runtime issues it at the start; a check asks nobody.
        Some(tls) if tls.certificate == OwnCertificate::Edge && edge.is_none() => Ok(Vec::new()),
        Some(tls) => match load_tls(&listener.name, listener.kind, tls, edge.as_ref()) {
            Ok(server) => Ok(server.certificates),
            Err(error) => Err(error.to_string()),
        },
    };
    config.listeners.iter().map(of_listener).collect()
}

fn plan(config: &Config, certificates: &[Vec<CertificateInfo>], out: &mut impl Write) -> io::Result<()> {
    for (listener, certificates) in config.listeners.iter().zip(certificates) {
        writeln!(out, "listener  {}  {}  {}", listener.name, listener.kind, listener.bind)?;
        for certificate in certificates {
            let (path, days) = (certificate.path.display(), certificate.days_left());
            let names = certificate.names.join(", ");
            writeln!(out, "          certificate {path} for {names}: {days} days left")?;
        }
    }
    match config.http {
        Some(bind) => writeln!(out, "http      {bind}  /healthz /readyz /metrics")?,
        None => writeln!(out, "http      none (http.bind is not set)")?,
    }
    access(config, out)?;
    edge(config, out)?;
    writeln!(out, "shards    {}", config.shards)?;
    let store = &config.store;
    writeln!(
        out,
        "store     {}  {}, {}",
        store.path.display(),
        match store.bytes_max {
            Some(most) => format!(
                "at most {} on disk, {} % of it kept for priorities 0 to 2",
                bytes(most),
                store.reserve_percent
            ),
            None => "as much disk as there is, but for what merging needs".to_owned(),
        },
        if store.sync { "synced before every acknowledgement" } else { "NOT SYNCED" },
    )?;
    writeln!(out, "sessions  {}", config.session.durability)?;
    let format = match config.log.format {
        LogFormat::Json => "json",
        LogFormat::Syslog => "syslog",
        LogFormat::Text => "text",
    };
    writeln!(out, "log       {}  as {format}", config.log.filter)?;
    uplinks(config, out)?;
    routes(config, out)?;
    memory(config, out)?;
    if !config.warnings.is_empty() || certificates.iter().flatten().any(|it| it.warning().is_some()) {
        writeln!(out, "\nwarnings")?;
    }
    config.warnings.iter().try_for_each(|warning| writeln!(out, "  {warning}"))?;
    let ending = certificates.iter().flatten().filter_map(CertificateInfo::warning);
    for warning in ending {
        writeln!(out, "  {warning}")?;
    }
    Ok(())
}

/// The place in Azure IoT Edge, if there is one.
fn edge(config: &Config, out: &mut impl Write) -> io::Result<()> {
    let Some(edge) = &config.edge else { return Ok(()) };
    let (from, how) = match &edge.standing {
        Standing::Alone(path) => (path.display().to_string(), "without IoT Hub".to_owned()),
        Standing::Key(_) => (scope_of(edge), "by a connection string".to_owned()),
        Standing::Runtime { uri, version, .. } => {
            (scope_of(edge), format!("with the runtime at {uri}, version {version}"))
        }
    };
    writeln!(out, "edge      {} as {}, {how}", edge.module, edge.host_name)?;
    let most = edge.clients_max.map_or("any number".to_owned(), |max| format!("at most {max}"));
    writeln!(out, "          identities from {from}, {most} of them at once")
}

fn scope_of(edge: &Edge) -> String {
    let host = edge.parent_host.as_ref().or(edge.hub_host.as_ref());
    format!("the device scope at {}", host.map_or("?", String::as_str))
}

/// Who may connect, and what for.
fn access(config: &Config, out: &mut impl Write) -> io::Result<()> {
    let auth = &config.auth;
    let users = auth.users.as_ref().map(|users| {
        let (count, threads) = (users.len(), auth.verify_threads);
        format!("{count} users with passwords (verified on {threads} threads of their own)")
    });
    let some = |what: &str, is_so: &dyn Fn(&Listener) -> bool| {
        let all = &config.listeners;
        let names: Vec<_> = all.iter().filter(|it| is_so(it)).map(|it| it.name.as_str()).collect();
        match names.len() {
            0 => None,
            count if count == all.len() => Some(what.to_owned()),
            _ => Some(format!("{what} at {}", names.join(" and "))),
        }
    };
    let certificates = some("users of client certificates", &Listener::names_users);
    let anonymous = some("anonymous", &|listener| config.listener_access(listener).anonymous);
    let who: Vec<_> = users.into_iter().chain(certificates).chain(anonymous).collect();
    let who = if who.is_empty() { "none may connect".to_owned() } else { who.join(", ") };
    writeln!(out, "clients   {who}")?;
    match &auth.rules {
        Some(rules) => {
            writeln!(out, "rules     {}, the first that fits decides, else {}", rules.len(), auth.acl_default)
        }
        None => writeln!(out, "rules     none: every client may publish and subscribe to everything"),
    }
}

fn uplinks(config: &Config, out: &mut impl Write) -> io::Result<()> {
    if !config.uplinks.is_empty() {
        writeln!(out, "\nuplinks")?;
    }
    for uplink in &config.uplinks {
        writeln!(
            out,
            "  {}  MQTT {} to {} port {}, as {:?}, {} messages in flight, {}, {}: {}",
            uplink.name,
            uplink.version,
            uplink.transport.host,
            uplink.transport.port,
            uplink.client_id,
            uplink.window,
            match uplink.pace_messages_per_sec {
                Some(pace) => format!("at most {pace} a second"),
                None => "not paced".to_owned(),
            },
            match uplink.bytes_max {
                Some(most) => format!("at most {} waiting, then", bytes(most)),
                None => "when the store is full".to_owned(),
            },
            uplink.when_full,
        )?;
        let idle = bytes(uplink.idle_bytes_per_hour());
        let pacing = &uplink.pacing;
        if pacing.hours.are_limited() {
            let always = match pacing.hours_always {
                Some(priority) => format!("priorities 0 to {priority}"),
                None => "nothing".to_owned(),
            };
            writeln!(out, "      only {}; outside, {always} may go", pacing.hours)?;
        }
        writeln!(out, "      an idle hour of its connection costs {idle} on the wire (IPv4)")?;
        if let Some((looks, all)) = uplink.looks_per_hour() {
            let all = bytes(all);
            writeln!(
                out,
                "      while another address is in use, {looks} looks an hour at the first one cost about {all} more"
            )?;
        }
    }
    Ok(())
}

fn routes(config: &Config, out: &mut impl Write) -> io::Result<()> {
    if config.routes.is_empty() {
        return writeln!(out, "\nroutes    none: messages reach local subscribers only");
    }
    writeln!(out, "\nroutes")?;
    let drains = Drains::of(config);
    for (index, route) in config.routes.iter().enumerate() {
        let spec = &route.spec;
        let sinks = config.sinks(index).map(|sink| match config.uplink(sink) {
            Some(uplink) => {
                format!("uplink {} ({}:{})", uplink.name, uplink.transport.host, uplink.transport.port)
            }
            None => super::route::sink_name(sink),
        });
        let sinks = sinks.collect::<Vec<_>>().join(", ");
        writeln!(out, "  {}  {}", spec.name, spec.text)?;
        write!(out, "    to {sinks}")?;
        write!(out, ", priority {}", spec.priority)?;
        match config.ttl_of(route) {
            Some(ttl) => writeln!(out, ", dropped after {} s", ttl / 1_000)?,
            None => writeln!(out, ", kept until delivered")?,
        }
        if config.sinks(index).any(|sink| config.uplink(sink).is_some()) {
            let promise = route.durability.promise();
            writeln!(out, "    acknowledged ({}) means: {promise}", route.durability)?;
            let mut uplinks: Vec<_> = config.sinks(index).filter_map(|sink| config.uplink(sink)).collect();
            uplinks.dedup_by(|one, other| one.name == other.name);
            for uplink in uplinks {
                writeln!(out, "    a backlog for {} drains {}", uplink.name, drains.sentence(uplink, route))?;
            }
        } else {
            writeln!(
                out,
                "    published again here: an acknowledgement promises what each subscriber's session does"
            )?;
        }
    }
    Ok(())
}

fn memory(config: &Config, out: &mut impl Write) -> io::Result<()> {
    let holders = config.memory_ceiling();
    let total = holders.iter().fold(0u64, |sum, holder| sum.saturating_add(holder.bytes));
    writeln!(out, "\nmemory    at most {}, if every holder is full at once", bytes(total))?;
    for holder in holders.iter().filter(|holder| holder.bytes > 0) {
        writeln!(out, "  {:>10}  {}: {}", bytes(holder.bytes), holder.name, holder.formula)?;
    }
    Ok(())
}

/// A length for people, rounded to three digits or so.
pub(super) fn bytes(count: u64) -> String {
    let (shift, name) = match count {
        0..1_048_576 => (10, "KiB"),
        1_048_576..1_073_741_824 => (20, "MiB"),
        1_073_741_824..1_099_511_627_776 => (30, "GiB"),
        _ => (40, "TiB"),
    };
    let amount = count as f64 / (1_u64 << shift) as f64;
    if amount >= 10.0 || amount.fract() == 0.0 {
        format!("{amount:.0} {name}")
    } else {
        format!("{amount:.1} {name}")
    }
}
