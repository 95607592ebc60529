//! The clause table: every normative statement of MQTT 3.1.1 and 5.0 against the tests that cite it.
//!
//! In: `router/docs/mqtt-conformance.toml` (ids, our words, exceptions), citations such as `[MQTT-3.3.1-5]` in the comments
//! above or within tests, and in packet scripts. Out: `router/docs/mqtt-conformance.md`, which must be as it would be
//! written now; `MILLRACE_BLESS=1` writes it.
//! Always: a cited id exists, a statement that binds us has a test or an exception with its reason, no id is missing
//! from a section: the standards number without gaps.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::tree::{Source, expect_none, files_below, read, read_toml, root};

const DATA: &str = "router/docs/mqtt-conformance.toml";
const PAGE: &str = "router/docs/mqtt-conformance.md";

/// Statements in the whole of both standards, to notice one that gets lost.
const STATEMENTS: (usize, usize) = (141, 255);

/// Folders with tests that can prove a statement.
const ROOMS: &[&str] = &["router", "tests"];

/// A clause of a standard, in the order of the standards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    v5: bool,
    section: [u16; 3],
    number: u16,
}

impl Id {
    /// Reads `MQTT-3.3.1-5` or `MQTT3-…`.
    fn parse(text: &str) -> Option<Id> {
        let (v5, rest) = match text.strip_prefix("MQTT-") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("MQTT3-")?),
        };
        let (section, number) = rest.split_once('-')?;
        let mut parts = section.split('.').map(|part| part.parse().ok());
        let section = [parts.next()??, parts.next()??, parts.next()??];
        let id = Id { v5, section, number: number.parse().ok()? };
        (parts.next().is_none() && id.to_string() == text).then_some(id)
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [one, two, three] = self.section;
        let standard = if self.v5 { "MQTT" } else { "MQTT3" };
        write!(f, "{standard}-{one}.{two}.{three}-{}", self.number)
    }
}

/// What the data says of one statement.
#[derive(Debug)]
struct Statement {
    words: String,
    /// Its table and the reason given there.
    exception: Option<(&'static str, String)>,
}

/// The tables of exceptions. `client`: binds others. `not_applicable`: asks nothing of us. `deviations`: we do otherwise.
/// `untested`: holds, and no test can show it.
const EXCEPTIONS: [&str; 4] = ["client", "not_applicable", "deviations", "untested"];

/// Tests by the statements they cite: where, and by what name.
type Tests = BTreeMap<Id, BTreeSet<(String, String)>>;

fn statements() -> BTreeMap<Id, Statement> {
    let data = read_toml(DATA);
    let mut found = BTreeMap::new();
    let table = |name: &str| data.get(name).and_then(toml::Value::as_table).cloned().unwrap_or_default();
    for (id, words) in table("statements") {
        let words = words.as_str().expect("words are a string").to_owned();
        let id = Id::parse(&id).unwrap_or_else(|| panic!("{DATA}: {id} is no clause"));
        found.insert(id, Statement { words, exception: None });
    }
    for name in EXCEPTIONS {
        for (id, reason) in table(name) {
            let statement = Id::parse(&id).and_then(|id| found.get_mut(&id));
            let statement = statement.unwrap_or_else(|| panic!("{DATA}: [{name}] {id} is no statement"));
            let reason = reason.as_str().expect("a reason is a string").to_owned();
            let before = statement.exception.replace((name, reason));
            assert!(before.is_none(), "{DATA}: {id} has two exceptions");
        }
    }
    let unknown = data.keys().filter(|key| *key != "statements" && !EXCEPTIONS.contains(&key.as_str()));
    expect_none(&format!("tables in {DATA} that nobody knows"), &unknown.cloned().collect::<Vec<_>>());
    found
}

/// What stands between each pair of these marks and reads like a clause, with its place in the text.
fn clauses(text: &str, open: char, close: char) -> impl Iterator<Item = &str> {
    text.split(open)
        .skip(1)
        .filter_map(move |rest| rest.split_once(close))
        .map(|(inside, _)| inside)
        .filter(|inside| inside.starts_with("MQTT") && inside.contains('-') && inside.contains('.'))
}

/// Collects what the tests of one Rust file cite.
fn collect(file: &Source, tests: &mut Tests) {
    let lines: Vec<&str> = file.text.lines().collect();
    for at in (0..lines.len()).filter(|at| lines[*at].trim() == "#[test]") {
        let above = (0..at).rev().take_while(|line| lines[*line].trim_start().starts_with(['/', '#'])).last();
        let indent = lines[at].len() - lines[at].trim_start().len();
        let end = format!("{}}}", &lines[at][..indent]);
        let name = lines[at..].iter().find_map(|line| line.trim_start().strip_prefix("fn "));
        let Some((name, _)) = name.and_then(|line| line.split_once('(')) else { continue };
        let own = lines[above.unwrap_or(at)..].iter().scan(false, |over, line| {
            let seen = !*over;
            *over |= **line == end;
            seen.then_some(*line)
        });
        let own: String = own.flat_map(|line| [line, "\n"]).collect();
        if own.contains("#[ignore") {
            continue; // it proves nothing yet
        }
        let mut cited: Vec<&str> = clauses(&own, '[', ']').collect();
        // A table of cases names its clauses in its rows.
        if own.contains("the clauses of its rows") {
            cited.extend(clauses(&file.text, '"', '"'));
        }
        for id in cited.into_iter().filter_map(Id::parse) {
            tests.entry(id).or_default().insert((file.name.clone(), name.to_owned()));
        }
    }
}

fn tests() -> Tests {
    let mut tests = Tests::new();
    let code = [read("tests/it/scripts.rs"), read("tests/it/malformed.rs")].concat();
    let players: Vec<&str> = code.split("#[test]").collect();
    for file in files_below(ROOMS) {
        if file.name.ends_with(".rs") {
            collect(&file, &mut tests);
        } else if let Some(script) = file.name.strip_prefix("tests/it/scripts/") {
            let is_played =
                players.iter().any(|player| player.contains(script) && !player.contains("#[ignore"));
            for line in file.text.lines().filter(|_| is_played) {
                // A conversation has a title, a row of a table only its table.
                let title = line.strip_prefix("== ").and_then(|line| line.split(" [").next());
                let name = title.map_or(script.to_owned(), |title| format!("{script}: {title}"));
                for id in clauses(line, '[', ']').filter_map(Id::parse) {
                    tests.entry(id).or_default().insert((file.name.clone(), name.clone()));
                }
            }
        }
    }
    tests
}

/// The room a file belongs to, as the page shows it.
fn room(file: &str) -> &str {
    let mut folders = file.split('/');
    match (folders.next(), folders.next()) {
        (Some("router"), Some("src")) => "router",
        (_, Some(room)) => room,
        _ => file,
    }
}

fn verdict(statement: &Statement, tests: usize) -> String {
    match &statement.exception {
        Some(("client", reason)) => format!("binds clients: {reason}"),
        Some(("not_applicable", reason)) => format!("not applicable: {reason}"),
        Some(("deviations", reason)) => format!("**deviation**: {reason}"),
        Some((_, reason)) => format!("yes: {reason}"),
        None if tests > 0 => "yes".to_owned(),
        None => "pending".to_owned(),
    }
}

fn page(statements: &BTreeMap<Id, Statement>, tests: &Tests) -> String {
    let mut page = String::from(
        "# Conformance\n\n\
        Every normative statement of MQTT 3.1.1 and MQTT 5.0, by its id in the standard and in our words, with our verdict and \
        the tests that prove it. Generated from `mqtt-conformance.toml` and from the citations in tests; a tidy test keeps it \
        so. `MQTT3-…` are the statements of 3.1.1, `MQTT-…` those of 5.0. Behind a test stands its room: `wire` and `broker` are \
        tests of one crate, `it` and `crash` run real processes.\n",
    );
    let count = |verdict: &str, v5: bool| {
        let of = statements.iter().filter(|(id, _)| id.v5 == v5);
        of.filter(|(id, it)| self::verdict(it, tests.get(id).map_or(0, BTreeSet::len)).starts_with(verdict))
            .count()
    };
    page.push_str(
        "\n| | yes | deviation | not applicable | binds clients | pending |\n|---|---|---|---|---|---|\n",
    );
    for (name, v5) in [("MQTT 3.1.1", false), ("MQTT 5.0", true)] {
        let counts =
            ["yes", "**dev", "not", "binds", "pending"].map(|verdict| count(verdict, v5).to_string());
        writeln!(page, "| {name} | {} |", counts.join(" | ")).expect("a string takes everything");
    }
    let mut section = None;
    for (id, statement) in statements {
        let chapter = (id.v5, id.section[0]);
        if section.map(|(v5, _)| v5) != Some(id.v5) {
            page.push_str(if id.v5 { "\n## MQTT 5.0\n" } else { "\n## MQTT 3.1.1\n" });
        }
        if section != Some(chapter) {
            section = Some(chapter);
            writeln!(
                page,
                "\n### Chapter {}\n\n| Clause | Statement | Verdict | Tests |\n|---|---|---|---|",
                id.section[0]
            )
            .expect("a string takes everything");
        }
        let cited = tests.get(id).into_iter().flatten();
        let cited: Vec<_> = cited.map(|(file, name)| format!("`{name}` ({})", room(file))).collect();
        let verdict = verdict(statement, cited.len());
        writeln!(page, "| {id} | {} | {verdict} | {} |", statement.words, cited.join(", "))
            .expect("a string takes everything");
    }
    page
}

#[test]
fn the_standards_are_there_without_a_gap() {
    let statements = statements();
    let mut last: Option<Id> = None;
    let mut gaps = Vec::new();
    for id in statements.keys() {
        let expected = match last {
            Some(last) if (last.v5, last.section) == (id.v5, id.section) => last.number + 1,
            // The one section that begins with its second statement, in the standard itself.
            _ if id.v5 && id.section == [2, 2, 1] => 2,
            _ => 1,
        };
        if id.number != expected {
            gaps.push(format!("{id} comes where number {expected} was expected"));
        }
        last = Some(*id);
    }
    expect_none(&format!("statements missing from {DATA}"), &gaps);
    let count = |v5| statements.keys().filter(|id| id.v5 == v5).count();
    assert_eq!((count(false), count(true)), STATEMENTS, "statements of 3.1.1 and of 5.0");
}

#[test]
fn every_cited_clause_exists() {
    let statements = statements();
    let mut faults = Vec::new();
    for file in files_below(&["router", "tests", "loadgen", "bench"]) {
        if !file.name.ends_with(".rs") && !file.name.ends_with(".txt") && !file.name.ends_with(".py") {
            continue;
        }
        for (at, line) in file.text.lines().enumerate() {
            for cited in clauses(line, '[', ']').filter(|it| !it.contains(['…', ' ', 'x', 'n'])) {
                if Id::parse(cited).is_none_or(|id| !statements.contains_key(&id)) {
                    faults.push(format!("{}:{}: {cited}", file.name, at + 1));
                }
            }
        }
    }
    expect_none("clauses that no standard has", &faults);
}

#[test]
fn every_statement_that_binds_us_has_its_test() {
    let (statements, tests) = (statements(), tests());
    let bare = statements.iter().filter(|(id, it)| it.exception.is_none() && !tests.contains_key(id));
    let bare: Vec<_> = bare.map(|(id, statement)| format!("{id}: {}", statement.words)).collect();
    expect_none("statements without a test or an exception", &bare);
}

#[test]
fn the_page_is_as_it_would_be_written_now() {
    let page = page(&statements(), &tests());
    if std::env::var_os("MILLRACE_BLESS").is_some() {
        std::fs::write(root().join(PAGE), &page).expect("the page can be written");
    } else {
        assert!(read(PAGE) == page, "{PAGE} is out of date: run the tidy tests once with MILLRACE_BLESS=1");
    }
}
