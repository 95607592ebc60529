//! What is a route and what is not (`reference/edgehub.md` §3.8).

use super::*;

#[track_caller]
fn accepted(text: &str, mode: Mode) {
    if let Err(fault) = parse(text, mode, &Limits::DEFAULT) {
        panic!("{}", fault.in_route("r", text));
    }
}

#[track_caller]
fn refused(text: &str, mode: Mode, part: &str) {
    match parse(text, mode, &Limits::DEFAULT) {
        Ok(_) => panic!("accepted: {text}"),
        Err(fault) => {
            let shown = fault.in_route("r", text).to_string();
            assert!(shown.contains(part), "{shown}\nhas no: {part}");
        }
    }
}

#[test]
fn edgehub_routes_are_accepted_in_both_modes() {
    for mode in [Mode::EdgeHub, Mode::Millrace] {
        accepted("FROM /* INTO $upstream", mode);
        accepted("SELECT * FROM /messages/* INTO $UpStream", mode);
        accepted("from /messages/modules/m1/outputs/o1 into brokeredendpoint('/modules/m2/inputs/i1')", mode);
        accepted("FROM /messages/* WHERE a = 'b' INTO BrokeredEndpoint( \"/a/b/c/d/\" )", mode);
        accepted("FROM /messages /* a comment */ WHERE true INTO $upstream", mode);
    }
}

#[test]
fn what_edgehub_refuses_is_refused() {
    for text in [
        "",
        "FORM /* INTO $upstream",
        "SELECT FROM /* INTO $upstream",
        "FROM INTO $upstream",
        "FROM /* WHERE INTO $upstream",
        "FROM /*",
        "FROM /* INTO",
        "FROM /* INTO upstream",
        "FROM /* INTO $downstream",
        "FROM /* INTO \"/modules/m/inputs/i\"",
        "FROM /* INTO /modules/m/inputs/i",
        "FROM /* INTO BrokeredEndpoint(\"/modules/m/inputs/i\"",
        "FROM /* INTO BrokeredEndpoint \"/modules/m/inputs/i\")",
        "FROM /* INTO BrokeredEndpoint(\"/modules/m\")",
        "FROM /* INTO BrokeredEndpoint(\"/modules/m/inputs/i')",
        "FROM /* INTO BrokeredEndpoint(/modules/m/inputs/i)",
    ] {
        refused(text, Mode::EdgeHub, "");
        refused(text, Mode::Millrace, "");
    }
}

#[test]
fn errors_say_what_was_expected() {
    let mode = Mode::Millrace;
    refused("FORM /* INTO $upstream", mode, "did you mean FROM?");
    refused("FROM /* INTO upstream", mode, "did you mean $upstream?");
    refused("FROM /* INTO BrokerdEndpoint(\"/a/b/c/d\")", mode, "did you mean BrokeredEndpoint(…)?");
    refused("FROM /* WHERE (2 + 22 = 24 INTO $upstream", mode, "missing closing ')'");
    refused("FROM /* WHERE (2 + 22 )) = 24 INTO $upstream", mode, "unmatched closing ')'");
    refused("FROM /* WHERE \"2 = 24 INTO $upstream", mode, "unterminated string");
    refused("FROM /* WHERE 3 = @ 3 INTO $upstream", mode, "invalid symbol '@'");
    refused("FROM \"a/#/b\" INTO $upstream", mode, "'#' must be the last character");
    refused("FROM /* INTO $upstream, INTO", mode, "expected a sink");
}

#[test]
fn extensions_are_refused_in_edgehub_mode_only() {
    for text in [
        "FROM \"site/+/line/#\" INTO $upstream",
        "FROM /* INTO topic \"a/b\"",
        "FROM /* INTO uplink(\"plant\")",
        "FROM /* WHERE a IN ('x', 'y') INTO $upstream",
        "FROM /* WHERE a NOT LIKE 'x%' INTO $upstream",
        "FROM /* WHERE $body.a BETWEEN 1 AND 2 AND true INTO $upstream",
        "FROM /* WHERE !(a = 'b') INTO $upstream",
        "FROM /* WHERE $body.a == 1 INTO $upstream",
        "FROM /* WHERE a = 'b' && true INTO $upstream",
        "FROM /* WHERE a GLOB 'x*' INTO $upstream",
        "FROM /* WHERE ANY($body.l[*] > 1) INTO $upstream",
        "SELECT * EXCEPT $body.a FROM /* INTO $upstream",
        "SELECT $body.a AS b FROM /* INTO $upstream",
        "FROM /* SAMPLE 1 IN 10 INTO $upstream",
        "FROM /* THROTTLE 1 PER 1s BY $connectionDeviceId INTO $upstream",
        "FROM /* CHANGED($body.x, 0.5) BY $connectionDeviceId INTO $upstream",
    ] {
        // Some are seen by the parser, some only when types are checked.
        let compiles = |mode| {
            let (name, text) = ("r".into(), text.to_owned());
            let spec = crate::RouteSpec { name, text, priority: model::Priority::DEFAULT, ttl_millis: None };
            crate::RouteTable::compile(&[spec], &crate::Options { mode, ..Default::default() }).is_ok()
        };
        assert_eq!([Mode::Millrace, Mode::EdgeHub].map(compiles), [true, false], "{text}");
    }
}

#[test]
fn edgehub_ignores_what_follows_the_sink() {
    accepted("FROM /* INTO $upstream and more", Mode::EdgeHub);
    refused("FROM /* INTO $upstream and more", Mode::Millrace, "the end of the route");
}

#[test]
fn depth_and_length_are_bounded_but_chains_of_and_are_not() {
    let deep = format!("FROM /* WHERE {}true{} INTO $upstream", "(".repeat(100), ")".repeat(100));
    refused(&deep, Mode::Millrace, "nested deeper than");
    let sum = format!("FROM /* WHERE 1{} = 2 INTO $upstream", " + 1".repeat(100));
    refused(&sum, Mode::Millrace, "nested deeper than");
    let chain = format!("FROM /* WHERE true{} INTO $upstream", " AND a = 'b'".repeat(1_000));
    accepted(&chain, Mode::Millrace);
    let long = format!("FROM /* WHERE a = '{}' INTO $upstream", "x".repeat(20_000));
    refused(&long, Mode::Millrace, "bytes long");
}

/// `body_path_names_max`: wherever a path of the body is written.
#[test]
fn a_path_of_the_body_has_so_many_names_at_most() {
    let path = |names: usize| format!("$body{}", ".a".repeat(names));
    for form in [
        "FROM /* WHERE PATH = 1 INTO $upstream",
        "SELECT * EXCEPT PATH FROM /* INTO $upstream",
        "SELECT PATH AS x FROM /* INTO $upstream",
    ] {
        let errors = |names: usize| {
            let text = form.replace("PATH", &path(names));
            let spec = crate::RouteSpec {
                name: "r".into(),
                text,
                priority: model::Priority::DEFAULT,
                ttl_millis: None,
            };
            let compiled = crate::RouteTable::compile(&[spec], &crate::Options::default());
            compiled.err().map(|errors| errors[0].to_string()).unwrap_or_default()
        };
        let most = Limits::DEFAULT.body_path_names_max as usize;
        assert_eq!(errors(most), "", "{form}");
        assert!(errors(most + 1).contains("more than 32"), "{form}: {}", errors(most + 1));
    }
}

#[test]
fn strings_are_unescaped_in_edgehubs_two_passes() {
    assert_eq!(unescape(r#"a\"b\'c\\d"#), r#"a"b'c\d"#);
    assert_eq!(unescape(r"Tch\u00FCss \uD83D\uDE00"), "Tchüss 😀");
    assert_eq!(unescape(r"\\u0041"), r"\A");
    assert_eq!(unescape(r"\x"), r"\x");
}

/// §3.8: edgeHub's messages and the place of the offending token within the condition, line and column from 1.
#[test]
fn edgehubs_messages_come_with_the_same_words_and_places() {
    for (condition, words, column) in [
        ("3 + '4' = 7", "have 'number' and 'string', expected 'number' and 'number'", 3),
        ("as_number(true) = true", "nvalid arguments to built-in function 'as_number': as_number(bool)", 1),
        ("nope(true) = true", "nvalid built-in function 'nope'", 1),
        ("(2 + 22 = 24", "yntax error: missing closing ')'", 1),
        ("as_number(\"2\" = 24", "yntax error", 19),
        ("(2 + 22 )) = 24", "yntax error: unmatched closing ')'", 10),
        ("as_number(\"2\")) = 24", "yntax error: unmatched closing ')'", 15),
        ("\"2 = 24", "yntax error: unterminated string", 1),
        ("3 = @ 3", "yntax error: invalid symbol '@'", 5),
        ("@32 = 32", "yntax error: invalid symbol '@'", 1),
        ("(@)", "yntax error: invalid symbol '@'", 2),
        ("32 = [32]", "yntax error", 6),
    ] {
        let options = crate::Options { mode: Mode::EdgeHub, ..Default::default() };
        let errors = crate::RouteTable::of_condition(condition, &options).unwrap_err();
        assert!(errors[0].message.contains(words), "{}", errors[0]);
        assert_eq!(errors[0].position(), (1, column), "{}", errors[0]);
    }
}
