//! .NET's habits, case by case.

use super::*;

#[test]
fn numbers_are_read_in_any_style() {
    for (text, number) in [
        ("4", 4.0),
        (" 4 ", 4.0),
        ("-1.5e3", -1500.0),
        ("1,234.5", 1234.5),
        ("(12)", -12.0),
        ("12-", -12.0),
        ("¤5", 5.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("10e1000", f64::INFINITY),
        ("-Infinity", f64::NEG_INFINITY),
    ] {
        assert_eq!(parse_number(text), Some(number), "{text}");
    }
    for text in ["", "abc", "1 2", "--1", "1e", "(1", "0x10", "1.2.3", ",1", "inf", "+"] {
        assert_eq!(parse_number(text), None, "{text}");
    }
    assert!(parse_number("NaN").is_some_and(f64::is_nan));
}

#[test]
fn only_whole_iso_dates_are_dates() {
    for text in [
        "2017-03-09T00:00:00.000Z",
        "2017-03-09T00:00:00",
        "2020-02-29T23:59:59+01:00",
        "2017-03-09T00:00:00.1234567-0800",
        "/Date(1489017600000)/",
    ] {
        assert!(looks_like_date(text), "{text}");
    }
    for text in [
        "2017-03-09",
        "2017-02-29T00:00:00",
        "2017-03-09 00:00:00",
        "2017-03-09T25:00:00",
        "hello",
        "/Date(x)/",
        "",
    ] {
        assert!(!looks_like_date(text), "{text}");
    }
}
