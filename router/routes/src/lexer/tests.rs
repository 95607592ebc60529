//! The lexer's habits, one by one (`reference/edgehub.md` §3.4).

use super::*;

#[track_caller]
fn check(text: &str, expected: &[(Kind, &str)]) {
    let seen: Vec<(Kind, &str)> = tokens(text)
        .into_iter()
        .filter(|token| token.kind != Kind::End)
        .map(|token| (token.kind, &text[token.span]))
        .collect();
    assert_eq!(seen, expected);
}

#[test]
fn keywords_ignore_case_but_literals_do_not() {
    check(
        "select FROM Where into AnD oR nOt",
        &[
            (Kind::Select, "select"),
            (Kind::From, "FROM"),
            (Kind::Where, "Where"),
            (Kind::Into, "into"),
            (Kind::And, "AnD"),
            (Kind::Or, "oR"),
            (Kind::Not, "nOt"),
        ],
    );
    check(
        "true TRUE null Null",
        &[(Kind::True, "true"), (Kind::Name, "TRUE"), (Kind::Null, "null"), (Kind::Name, "Null")],
    );
}

#[test]
fn operator_characters_inside_a_word_belong_to_the_name() {
    for word in ["a-b", "temp+1", "3*4", "a!", "-undefined", "!flag", "a||b", "a.b", "a'b", "a%b"] {
        check(word, &[(Kind::Name, word)]);
    }
}

#[test]
fn spaces_make_operators() {
    check(
        "a - b != 3",
        &[
            (Kind::Name, "a"),
            (Kind::Minus, "-"),
            (Kind::Name, "b"),
            (Kind::NotEqual, "!="),
            (Kind::Integer, "3"),
        ],
    );
    check("a!= 3", &[(Kind::Name, "a!"), (Kind::Equal, "="), (Kind::Integer, "3")]);
}

#[test]
fn numbers_take_sign_fraction_and_exponent() {
    check(
        "-12 0100 0x1F -1.5e3 .5 1e10",
        &[
            (Kind::Integer, "-12"),
            (Kind::Integer, "0100"),
            (Kind::Hex, "0x1F"),
            (Kind::Real, "-1.5e3"),
            (Kind::Real, ".5"),
            (Kind::Real, "1e10"),
        ],
    );
    check("-(3)", &[(Kind::Minus, "-"), (Kind::Open, "("), (Kind::Integer, "3"), (Kind::Close, ")")]);
}

#[test]
fn the_longest_match_wins_even_over_a_string() {
    check("'abc'x", &[(Kind::Name, "'abc'x")]);
    check("'a c'x", &[(Kind::Text, "'a c'"), (Kind::Name, "x")]);
    check(r#""a\"b\u0041" 'it\'s'"#, &[(Kind::Text, r#""a\"b\u0041""#), (Kind::Text, r"'it\'s'")]);
    check("\"2 = 24", &[(Kind::TextUnterminated, "\"2 = 24")]);
}

#[test]
fn dollar_words_may_hold_brackets() {
    check("$body.a[0].b", &[(Kind::Dollar, "$body.a[0].b")]);
    check("a[0]", &[(Kind::Path, "a[0]")]);
    check("{ $a }", &[(Kind::BraceOpen, "{"), (Kind::Dollar, "$a"), (Kind::BraceClose, "}")]);
}

#[test]
fn a_slash_star_is_a_comment_only_if_it_ends() {
    check(
        "FROM /* INTO",
        &[(Kind::From, "FROM"), (Kind::Slash, "/"), (Kind::Star, "*"), (Kind::Into, "INTO")],
    );
    check("a /* b */ c", &[(Kind::Name, "a"), (Kind::Name, "c")]);
}

#[test]
fn stray_characters_are_unknown() {
    check("@ ; é", &[(Kind::Unknown, "@"), (Kind::Unknown, ";"), (Kind::Name, "é")]);
}

#[test]
fn many_openings_of_comments_stay_linear() {
    let text = "/* ".repeat(200_000);
    assert!(tokens(&text).len() > 200_000);
}
