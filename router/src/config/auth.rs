//! `[auth]`: users and rules, with the files they stand in.
//!
//! Reads: the password file and the file of rules. In: the keys. Out: an [`Auth`] that needs no further question, or
//! every mistake with its file and line. Knows how text becomes rules; what rules mean is `broker::access`.

use std::path::PathBuf;
use std::sync::Arc;

use broker::access::{Access, ClientIds, DeniedV3, Effect, ListenerAccess, Rule, Ruleset};
use model::Limits;

use super::errors::ConfigError;
use super::judge::Judge;
use super::raw::Origin;
use super::schema::{self, Key};
use crate::access::{PasswordFile, acl};

/// Who may connect, and who may do what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Whether clients without credentials may.
    pub anonymous: bool,
    /// The password file, if there is one.
    pub password_file: Option<PathBuf>,
    /// Its users.
    pub users: Option<Arc<PasswordFile>>,
    /// What clients may publish and subscribe to, in order; `None`: everything.
    pub rules: Option<Vec<Rule>>,
    /// What holds where no rule fits.
    pub acl_default: Effect,
    /// What a 3.1.1 client is told whose publication is refused.
    pub denied_v3: DeniedV3,
    /// Which client identifiers a user may have.
    pub client_ids: ClientIds,
    /// Threads that verify passwords, at least 1.
    pub verify_threads: usize,
    /// How long good credentials are remembered, in seconds.
    pub cache_secs: u64,
    /// Failed attempts without consequence.
    pub failures_free: u32,
}

impl Auth {
    /// What the broker decides by. `listeners` as the broker numbers them.
    pub fn access(&self, listeners: Vec<ListenerAccess>) -> Access {
        let prints =
            |users: &Arc<PasswordFile>| users.prints().map(|(user, print)| (user.into(), print)).collect();
        let takes_identities = listeners.iter().any(|listener| listener.identities);
        Access {
            listeners,
            users: self.users.as_ref().map(prints),
            // Identities have topics of their own, and nobody else's: that takes a set of rules, even an empty one.
            rules: self
                .ruleset()
                .or_else(|| takes_identities.then(|| Ruleset::new(Vec::new(), Effect::Allow))),
            denied_v3: self.denied_v3,
            client_ids: self.client_ids,
        }
    }

    /// The rules, compiled; `None` if there are none.
    pub fn ruleset(&self) -> Option<Ruleset> {
        self.rules.clone().map(|rules| Ruleset::new(rules, self.acl_default))
    }

    /// What only a start reads.
    pub fn needs_restart(&self, new: &Auth) -> bool {
        (self.verify_threads, self.cache_secs, self.failures_free)
            != (new.verify_threads, new.cache_secs, new.failures_free)
    }
}

/// Judges `[auth]` and reads its files.
pub(super) fn check(judge: &mut Judge<'_>, limits: &Limits, cores: usize) -> Auth {
    let anonymous = judge.boolean(&schema::AUTH_ANONYMOUS, "").unwrap_or_default();
    let password_file = judge.text(&schema::AUTH_PASSWORD_FILE, "").map(PathBuf::from);
    let users = password_file.as_ref().and_then(|path| check_passwords(judge, path, limits));
    let acl_default = match judge.text(&schema::AUTH_ACL_DEFAULT, "").as_deref() {
        Some("allow") => Effect::Allow,
        _ => Effect::Deny,
    };
    let rules = check_rules(judge, limits);
    let written = judge.is_written(&schema::AUTH_ACL_DEFAULT, "");
    Auth {
        anonymous,
        password_file,
        users,
        rules: rules.or_else(|| written.then(Vec::new)),
        acl_default,
        denied_v3: match judge.text(&schema::AUTH_DENIED_PUBLISH_V3, "").as_deref() {
            Some("disconnect") => DeniedV3::Disconnect,
            _ => DeniedV3::Acknowledge,
        },
        client_ids: match judge.text(&schema::AUTH_CLIENT_ID, "").as_deref() {
            Some("starts-with-user") => ClientIds::StartWithUser,
            Some("is-user") => ClientIds::AreUser,
            _ => ClientIds::Any,
        },
        verify_threads: match judge.integer(&schema::AUTH_VERIFY_THREADS, "").unwrap_or_default() {
            0 => (cores / 2).max(1),
            count => count as usize,
        },
        cache_secs: judge.integer(&schema::AUTH_CACHE_SECS, "").unwrap_or_default(),
        failures_free: judge.integer(&schema::AUTH_FAILURES_FREE, "").unwrap_or_default() as u32,
    }
}

fn check_passwords(
    judge: &mut Judge<'_>,
    path: &std::path::Path,
    limits: &Limits,
) -> Option<Arc<PasswordFile>> {
    let text = read(judge, &schema::AUTH_PASSWORD_FILE, path)?;
    match PasswordFile::parse(&text, limits.password_entries_max, limits.password_memory_bytes_max) {
        Ok(users) => Some(Arc::new(users)),
        Err(errors) => {
            for (line, error) in errors {
                push(judge, &schema::AUTH_PASSWORD_FILE, path, line, error.to_string());
            }
            None
        }
    }
}

/// Rules of the configuration itself come first, then those of the file.
fn check_rules(judge: &mut Judge<'_>, limits: &Limits) -> Option<Vec<Rule>> {
    let inline = judge.list(&schema::AUTH_ACL, "");
    let file = judge.text(&schema::AUTH_ACL_FILE, "").map(PathBuf::from);
    if inline.is_none() && file.is_none() {
        return None;
    }
    let mut rules = Vec::new();
    for (text, origin) in inline.unwrap_or_default() {
        match acl::parse_rule(text.trim(), rule_origin(&origin)) {
            Ok(rule) => rules.push(rule),
            Err(error) => judge.push(ConfigError {
                found: Some(text),
                ..ConfigError::new(origin, schema::AUTH_ACL.path, error.to_string())
            }),
        }
    }
    if let Some(path) = &file
        && let Some(text) = read(judge, &schema::AUTH_ACL_FILE, path)
    {
        let (of_file, errors) = acl::parse(&path.to_string_lossy(), &text);
        rules.extend(of_file);
        for (line, error) in errors {
            push(judge, &schema::AUTH_ACL_FILE, path, line, error.to_string());
        }
    }
    if rules.len() > limits.acl_rules_max as usize {
        let (found, max) = (rules.len(), limits.acl_rules_max);
        judge.complain(
            if file.is_some() { &schema::AUTH_ACL_FILE } else { &schema::AUTH_ACL },
            "",
            |error| ConfigError {
                problem: "there are more rules than limits.acl_rules_max allows".to_owned(),
                found: Some(found.to_string()),
                allowed: Some(format!("at most {max}")),
                ..error
            },
        );
    }
    Some(rules)
}

fn rule_origin(origin: &Origin) -> broker::access::Origin {
    match origin {
        Origin::File { path, line } => {
            broker::access::Origin { file: Arc::clone(path), line: line.unwrap_or_default() as u32 }
        }
        other => broker::access::Origin { file: other.to_string().into(), line: 0 },
    }
}

fn read(judge: &mut Judge<'_>, key: &'static Key, path: &std::path::Path) -> Option<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) => {
            let found = path.display().to_string();
            judge.complain(key, "", |complaint| ConfigError {
                problem: format!("cannot be read: {error}"),
                found: Some(found),
                allowed: Some("a text file that this process may read".to_owned()),
                ..complaint
            });
            None
        }
    }
}

/// A mistake in a line of a file. The line is not repeated: it may hold a hash.
fn push(judge: &mut Judge<'_>, key: &Key, path: &std::path::Path, line: u32, problem: String) {
    let line = (line > 0).then_some(line as usize);
    let origin = Origin::File { path: path.to_string_lossy().into(), line };
    judge.push(ConfigError::new(origin, key.path, problem));
}
