//! The layers of a configuration: profile < file < environment < `--set` flags.
//!
//! Knows: where each layer comes from and how its keys are spelt there. May use: one file, read once.
//! In:  command-line flags and environment variables. Out: a `Raw`; what cannot be read is a fault in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::errors::ConfigError;
use super::profiles;
use super::raw::{Origin, Raw, split_key};
use super::suggest;
use crate::iotedge::environment;

/// The flags that say what the configuration is.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ConfigArgs {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Set of defaults to start from.
    #[arg(long, value_name = "NAME", default_value = profiles::DEFAULT, global = true)]
    pub profile: Option<String>,
    /// One key, as in listener.tcp.bind=0.0.0.0:1883; stronger than file and environment, the last one wins.
    #[arg(long = "set", value_name = "KEY=VALUE", global = true)]
    pub set: Vec<String>,
}

/// The environment of this process, without what is not Unicode (no key and no value of ours can be that).
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Reads all layers.
pub(super) fn collect(args: &ConfigArgs, env: impl Iterator<Item = (String, String)>) -> Raw {
    let mut raw = Raw::default();
    add_profile(&mut raw, args.profile.as_deref().unwrap_or(profiles::DEFAULT));
    if let Some(path) = &args.config {
        let name: Arc<str> = path.to_string_lossy().into();
        match std::fs::read_to_string(path) {
            Ok(text) => {
                raw.add_document(&text, &|line| Origin::File { path: name.clone(), line: Some(line) });
            }
            Err(error) => {
                let origin = Origin::File { path: name, line: None };
                raw.add_fault(ConfigError::new(origin, "", format!("cannot be read: {error}")));
            }
        }
    }
    let env: Vec<_> = env.collect();
    if args.profile.as_deref() == Some(EDGEHUB) {
        add_edgehub_environment(&mut raw, &env);
    }
    add_environment(&mut raw, env.into_iter());
    args.set.iter().for_each(|flag| add_flag(&mut raw, flag));
    raw
}

/// The routes of a file: its `[routes]` if it is TOML by name, else one route per line, named `line-N`; empty
/// lines and lines that begin with `#` are none.
pub(super) fn collect_routes(path: &Path) -> Raw {
    let mut raw = Raw::default();
    let name: Arc<str> = path.to_string_lossy().into();
    let origin = |line| Origin::File { path: name.clone(), line: Some(line) };
    match std::fs::read_to_string(path) {
        Ok(text) if path.extension().is_some_and(|extension| extension == "toml") => {
            raw.add_document(&text, &origin);
            raw.keep_section("routes");
        }
        Ok(text) => {
            for (at, route) in text.lines().enumerate() {
                let route = route.trim();
                if !route.is_empty() && !route.starts_with('#') {
                    let path = ["routes".to_owned(), format!("line-{}", at + 1)];
                    raw.add_value(&path, route, &origin(at + 1));
                }
            }
        }
        Err(error) => {
            let origin = Origin::File { path: name.clone(), line: None };
            raw.add_fault(ConfigError::new(origin, "", format!("cannot be read: {error}")));
        }
    }
    raw
}

fn add_profile(raw: &mut Raw, name: &str) {
    match profiles::text(name) {
        Some(text) => raw.add_document(text, &|_| Origin::Profile(name.into())),
        None => raw.add_fault(ConfigError {
            found: Some(format!("{name:?}")),
            allowed: Some(profiles::names().collect::<Vec<_>>().join(", ")),
            hint: suggest::nearest_word(name, &profiles::names().collect::<Vec<_>>()),
            ..ConfigError::new(Origin::Nowhere, "--profile", "there is no such profile")
        }),
    }
}

/// The profile that reads edgeHub's own variables.
const EDGEHUB: &str = "edgehub";

/// What the IoT Edge runtime and a deployment manifest say to edgeHub.
fn add_edgehub_environment(raw: &mut Raw, env: &[(String, String)]) {
    let mapped = environment::map(env);
    for (key, value, name) in mapped.values {
        let origin = Origin::Environment(name.as_str().into());
        // A route has its name in the variable's.
        let (path, value) = match (key.strip_suffix(".*"), value.split_once('\n')) {
            (Some(section), Some((name, value))) => (vec![section.to_owned(), name.to_owned()], value),
            _ => (key.split('.').map(str::to_owned).collect(), value.as_str()),
        };
        raw.add_value(&path, value, &origin);
    }
    for (name, value, allowed) in mapped.faults {
        raw.add_fault(ConfigError {
            found: Some(format!("{value:?}")),
            allowed: Some(allowed.to_owned()),
            ..ConfigError::new(Origin::Environment(name.as_str().into()), "", "cannot be understood")
        });
    }
    for (name, reason) in mapped.ignored {
        raw.add_note(name, format!("ignored: {reason}"));
    }
}

/// `MILLRACE__SECTION__KEY=value`: two underscores separate, one belongs to a name, case does not count.
fn add_environment(raw: &mut Raw, env: impl Iterator<Item = (String, String)>) {
    let mut ours: Vec<_> = env.filter(|(name, _)| name.starts_with(PREFIX)).collect();
    // The system gives no order; two spellings of one key must not win by chance.
    ours.sort();
    for (name, value) in ours {
        let origin = Origin::Environment(name.as_str().into());
        let path: Vec<_> = name[PREFIX.len()..].to_lowercase().split("__").map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            raw.add_fault(ConfigError {
                allowed: Some(format!("{PREFIX}SECTION__KEY, as in {PREFIX}LISTENER__TCP__BIND")),
                ..ConfigError::new(origin, "", "names no key")
            });
            continue;
        }
        let path = raw.existing_spelling(&path);
        raw.add_value(&path, &value, &origin);
    }
}

const PREFIX: &str = "MILLRACE__";

/// `key=value`; the key may hold quoted segments.
fn add_flag(raw: &mut Raw, flag: &str) {
    // A quoted segment may hold `=`, so the first `=` before which the text is a key is the one.
    let split = flag.match_indices('=').find_map(|(at, _)| Some((split_key(&flag[..at])?, &flag[at + 1..])));
    match split {
        Some((path, value)) => raw.add_value(&path, value, &Origin::Set),
        None => raw.add_fault(ConfigError {
            // Not the value: it may be a password.
            found: Some(flag.split('=').next().unwrap_or_default().to_owned()),
            allowed: Some("KEY=VALUE, as in listener.tcp.bind=0.0.0.0:1883".to_owned()),
            ..ConfigError::new(Origin::Set, "", "is not KEY=VALUE")
        }),
    }
}
