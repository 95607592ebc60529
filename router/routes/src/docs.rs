//! Reads the tables of examples in `router/docs/routes.md` and checks every row. Only for tests.
//!
//! Knows: how the tables are written. May use: the public face of this room. In: the page. Out: the first row that is wrong.

use model::{Message, Priority, Property, RouteId};

use crate::{Mode, Options, RouteError, RouteSpec, RouteTable, Scratch};

const PAGE: &str = include_str!("../../docs/routes.md");

/// The rows of the table behind a marker, cell by cell, code marks and escaped bars taken out.
fn rows(marker: &str) -> Vec<Vec<String>> {
    let (_, rest) = PAGE.split_once(marker).expect("the page has this table");
    let table = rest.lines().skip(1).skip_while(|line| !line.starts_with('|'));
    let rows = table.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let row = row.replace("\\|", "\u{1}");
        let cells = row.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().trim_matches('`').replace('\u{1}', "|")).collect()
    })
    .collect()
}

fn compile(text: &str, mode: Mode) -> Result<RouteTable, Vec<RouteError>> {
    let text = format!("{text} INTO $upstream");
    let spec = RouteSpec { name: "example".into(), text, priority: Priority::DEFAULT, ttl_millis: None };
    RouteTable::compile(&[spec], &Options { mode, ..Options::default() })
}

/// `name=value; {$name}=value; json` as application and system properties.
fn properties(cell: &str) -> (Vec<Property<'_>>, Vec<Property<'_>>) {
    let (mut own, mut system) = (Vec::new(), Vec::new());
    for part in cell.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        match name.strip_prefix("{$").and_then(|name| name.strip_suffix('}')) {
            _ if part == "json" => {
                system.push(Property { name: "contentType", value: Some("application/json") });
                system.push(Property { name: "contentEncoding", value: Some("utf-8") });
            }
            Some(name) => system.push(Property { name, value: Some(value) }),
            None => own.push(Property { name, value: Some(value) }),
        }
    }
    (own, system)
}

#[test]
fn the_examples_of_the_page_hold() {
    let rows = rows("<!-- examples:");
    assert!(rows.len() >= 30);
    for row in rows {
        let [route, topic, listed, body, millrace, edgehub] = &row[..] else { panic!("{row:?}") };
        let (own, system) = properties(listed);
        let message = Message { properties: &own, system: &system, ..Message::new(topic, body.as_bytes()) };
        for (mode, expected) in [(Mode::Millrace, millrace), (Mode::EdgeHub, edgehub)] {
            let found = match compile(route, mode) {
                Err(_) => "refused",
                Ok(table) => {
                    let mut matches = Vec::new();
                    table.matches(&message, &mut Scratch::new(), &mut matches);
                    if matches.is_empty() { "no" } else { "yes" }
                }
            };
            assert_eq!(found, expected, "{mode:?}: {row:?}");
        }
    }
}

#[test]
fn the_selections_of_the_page_hold() {
    let rows = rows("<!-- selections:");
    assert!(rows.len() >= 4);
    for row in rows {
        let [selection, body, sent] = &row[..] else { panic!("{row:?}") };
        let table = compile(&format!("SELECT {selection} FROM /*"), Mode::Millrace)
            .unwrap_or_else(|errors| panic!("{}", errors[0]));
        let (message, mut out) = (Message::new("t", body.as_bytes()), Vec::new());
        let done = table.project(RouteId(0), &message, &mut Scratch::new(), &mut out);
        assert!(done.is_ok(), "{row:?}");
        assert_eq!(String::from_utf8_lossy(&out), *sent);
    }
}

#[test]
fn every_function_is_on_the_page() {
    for name in crate::functions::names() {
        let listed = PAGE.contains(name) || PAGE.to_lowercase().contains(&format!("{name}("));
        assert!(listed, "{name}");
    }
}
