//! The page `router/docs/configuration.md`, made from the schema so that the two cannot differ.
//!
//! Knows: how a key reads on a page. In: the schema. Out: Markdown.

use std::fmt::Write;

use super::profiles;
use super::schema::{self, Allowed, Default, Key};

/// The text of `router/docs/configuration.md`.
pub fn page() -> String {
    let mut page = String::from(HEAD);
    let mut section = "";
    for key in schema::keys() {
        let of_key = key.path.split_once('.').map_or("", |(section, _)| section);
        if of_key != section || page.len() == HEAD.len() {
            section = of_key;
            push(&mut page, format_args!("\n## {}\n\n", title(section)));
            push(&mut page, format_args!("| Key | Takes | Default | What it does |\n|---|---|---|---|\n"));
        }
        let takes = cell(&takes(key));
        let (path, default, doc) = (key.path.replace('*', "NAME"), default(key), cell(key.doc));
        push(&mut page, format_args!("| `{path}` | {takes} | {default} | {doc} |\n"));
    }
    push(&mut page, format_args!("\n## Profiles\n\n"));
    for name in profiles::names() {
        push(
            &mut page,
            format_args!("### `{name}`\n\n```toml\n{}```\n\n", profiles::text(name).unwrap_or_default()),
        );
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

const HEAD: &str = "\
# Configuration

Generated from `router/src/config/schema.rs` by `millrace check --reference`; a test keeps the two equal.

`millrace run --config FILE --profile NAME --set KEY=VALUE …` reads TOML. Weakest first: the defaults below,
the profile (`gateway` if none is named), the file, the environment, `--set` flags. What a stronger layer
writes wins, key by key; of several `--set` flags for one key the last one wins.

- In the environment a key is `MILLRACE__` and its parts in capitals, joined by two underscores:
  `MILLRACE__LISTENER__TCP__BIND=0.0.0.0:1883`. Names that the file spells with capitals or `-` are found.
- `--set` takes a dotted key and a value: `--set routes.all='FROM /messages/* INTO $upstream'`. Quotes around
  text are not needed; a value in quotes or braces is read as TOML.
- A key that does not exist, a value of the wrong kind and a route that does not compile are mistakes. All are
  reported at once, with file and line, and the exit code is 2. `millrace check` does it without a start.
- Units stand in the names: `_bytes`, `_secs`, `_ms`, `_millis`, `_per_sec`. Digits may be grouped by `_`.
";

fn title(section: &str) -> String {
    if section.is_empty() { "The process".to_owned() } else { format!("`[{section}]`") }
}

fn takes(key: &Key) -> String {
    match key.allowed {
        Allowed::Choice { later, .. } if !later.is_empty() => {
            format!("{} (not yet: {})", key.allowed.describe(), later.join(", "))
        }
        _ => key.allowed.describe(),
    }
}

fn default(key: &Key) -> String {
    match key.default {
        Default::Integer(number) => format!("`{number}`"),
        Default::Boolean(truth) => format!("`{truth}`"),
        Default::Text(text) => format!("`\"{text}\"`"),
        Default::Derived(from) => from.to_owned(),
        Default::Required => "must be written".to_owned(),
        Default::Unset => "not set".to_owned(),
    }
}

/// Text as it may stand in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('*', "\\*")
}

/// Writing to a `String` does not fail.
fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).unwrap_or_default();
}
