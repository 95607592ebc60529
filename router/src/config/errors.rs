//! What is wrong with a configuration, said so that a tired operator can repair it at once.
//!
//! Knows: how a mistake reads. Never: how it was found.
//! Invariant: the value of a secret key is never part of an error.

use std::fmt;

use super::raw::Origin;

/// One mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where it was written.
    pub origin: Origin,
    /// The dotted key; empty if the layer as a whole is at fault (not readable, not TOML).
    pub key: String,
    /// What is wrong, in a few words; may hold several lines.
    pub problem: String,
    /// The value found.
    pub found: Option<String>,
    /// The values allowed.
    pub allowed: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// All mistakes of a configuration, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigError {
    /// A mistake of which only place, key and problem are known yet.
    pub fn new(origin: Origin, key: impl Into<String>, problem: impl Into<String>) -> ConfigError {
        ConfigError {
            origin,
            key: key.into(),
            problem: problem.into(),
            found: None,
            allowed: None,
            hint: None,
        }
    }
}

impl ConfigErrors {
    /// `errors` must not be empty.
    pub(super) fn new(errors: Vec<ConfigError>) -> ConfigErrors {
        debug_assert!(!errors.is_empty());
        ConfigErrors(errors)
    }

    /// The mistakes in the order in which they were found.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        let mut problem = self.problem.lines();
        f.write_str(problem.next().unwrap_or_default())?;
        // The lines that follow are shown as they are: a caret stands under the right character of a route.
        for line in problem {
            write!(f, "\n    {line}")?;
        }
        let notes = [("found", &self.found), ("allowed", &self.allowed), ("hint", &self.hint)];
        for (label, note) in notes.into_iter().filter_map(|(label, note)| Some((label, note.as_ref()?))) {
            write!(f, "\n    {label}: {note}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.0 {
            writeln!(f, "{error}")?;
        }
        match self.0.len() {
            1 => f.write_str("1 mistake in the configuration"),
            count => write!(f, "{count} mistakes in the configuration"),
        }
    }
}

impl std::error::Error for ConfigError {}
impl std::error::Error for ConfigErrors {}
