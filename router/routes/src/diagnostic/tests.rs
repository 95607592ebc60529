//! Errors as a person sees them.

use super::*;

#[test]
fn an_error_shows_name_message_line_caret_and_help() {
    let text = "FROM /messages/*\nWHERE temperature > 30 INTO $upstream";
    let error = Fault::new(23..34, "expected a number").help("did you mean as_number(temperature)?");
    let shown = error.in_route("hot", text).to_string();
    assert_eq!(
        shown,
        "route 'hot' (line 2, column 7): expected a number\n\
         \x20 | WHERE temperature > 30 INTO $upstream\n\
         \x20 |       ^^^^^^^^^^^\n\
         \x20 = help: did you mean as_number(temperature)?"
    );
}

#[test]
fn a_span_inside_a_character_is_moved_to_its_start() {
    let error = Fault::new(1..2, "odd").in_route("r", "é");
    assert_eq!(error.span, 0..2);
    assert!(error.to_string().contains("^"));
}

#[test]
fn an_error_at_the_end_points_behind_the_text() {
    let error = Fault::new(4..4, "expected a source").in_route("r", "FROM");
    assert_eq!(error.position(), (1, 5));
    assert!(error.to_string().ends_with("  |     ^"));
}

#[test]
fn the_nearest_word_is_proposed_only_when_it_is_near() {
    let known = ["as_number", "is_defined", "length"];
    assert_eq!(nearest("as_numbr", known.into_iter()), Some("as_number"));
    assert_eq!(nearest("AS_NUMBER", known.into_iter()), Some("as_number"));
    assert_eq!(nearest("temperature", known.into_iter()), None);
}
