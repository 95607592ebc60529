//! The profiles that travel inside the program: what `--profile NAME` stands for.
//!
//! Knows: names and texts. Never: what they mean; a test loads each of them.

/// What holds without `--profile`.
pub(super) const DEFAULT: &str = "gateway";

/// The TOML text of a profile.
pub(super) fn text(name: &str) -> Option<&'static str> {
    PROFILES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// Every profile there is.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    PROFILES.iter().map(|(name, _)| *name)
}

macro_rules! profiles {
    ($($name:literal),*) => {
        &[$(($name, include_str!(concat!("../../../configs/profiles/", $name, ".toml")))),*]
    };
}

static PROFILES: &[(&str, &str)] = profiles![
    "quickstart",
    "gateway-small",
    "gateway",
    "throughput",
    "low-latency",
    "flash-saver",
    "edgehub"
];
