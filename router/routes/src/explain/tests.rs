//! Reports as a person reads them.

use model::{Priority, Property};

use super::*;
use crate::RouteSpec;

fn table(routes: &[(&str, &str)]) -> RouteTable {
    let specs: Vec<RouteSpec> = routes
        .iter()
        .map(|(name, text)| RouteSpec {
            name: (*name).into(),
            text: (*text).into(),
            priority: Priority::DEFAULT,
            ttl_millis: None,
        })
        .collect();
    RouteTable::compile(&specs, &Options::default()).unwrap_or_else(|errors| panic!("{}", errors[0]))
}

#[test]
fn every_route_says_why() {
    let table = table(&[
        ("all", "FROM /* INTO $upstream"),
        ("hot", "FROM /* WHERE $body.temp > 30 AND site = 'A' AND $body.x = 1 INTO $upstream"),
        ("other", "FROM \"plant/#\" INTO $upstream"),
        ("not", "FROM /* WHERE NOT ($body.temp < 30) OR level > 2 INTO $upstream"),
    ]);
    let properties = [Property { name: "site", value: Some("B") }];
    let message = Message { properties: &properties, ..Message::new("t", br#"{"temp": 21.5, "level": 1}"#) };
    assert_eq!(
        table.explain(&message).to_string(),
        "+ all: matches\n    decides sink 0\n\
         - hot: the condition is false\n\
         \x20   $body.temp > 30 is false: $body.temp is 21.5\n\
         \x20   site = 'A' is false: site is 'B'\n\
         \x20   $body.x = 1 is undefined: $body.x is undefined\n\
         - other: the message does not come from \"plant/#\"\n\
         - not: the condition is false\n\
         \x20   NOT ($body.temp < 30) is false: $body.temp is 21.5\n\
         \x20   level > 2 is false: level is 1\n"
    );
}

#[test]
fn an_overruled_route_names_who_decides() {
    let table = table(&[("first", "FROM /* INTO $upstream"), ("second", "FROM /* INTO $upstream")]);
    let explanation = table.explain(&Message::new("t", b""));
    let overruled = Verdict::Matches { sinks: vec![], overruled: vec![(SinkId(0), RouteId(0))] };
    assert_eq!(explanation.routes[1].verdict, overruled);
}

#[test]
fn a_plan_tells_index_reads_and_cost() {
    let mut routes = vec![
        ("all", "FROM /* INTO $upstream"),
        ("never", "FROM /* WHERE 1 = 2 INTO $upstream"),
        ("line", "FROM /* WHERE $body.line = 'L7' INTO $upstream"),
        ("both", "FROM /* WHERE $body.temp > 3 AND $body.line = 'L8' INTO $upstream"),
        ("asked", "FROM /* WHERE $body.a + $body.b > 3 INTO $upstream"),
        ("range", "FROM /* WHERE $body.temp BETWEEN 3 AND 4 INTO $upstream"),
        ("above", "FROM /* WHERE $body.temp > 40 INTO $upstream"),
        ("below", "FROM /* WHERE $body.temp <= 4 INTO $upstream"),
        ("prefix", "FROM /* WHERE starts_with($body.line, 'L') INTO $upstream"),
    ];
    routes.extend([("more", "FROM /* WHERE $topic[1] IN ('a', 'b') INTO $upstream"); 5]);
    let plan: Vec<String> = table(&routes).plan().iter().map(RoutePlan::to_string).collect();
    assert_eq!(
        plan[..10],
        [
            "all from /*: always matches",
            "never from /*: never matches",
            "line from /*: found by equality of $body.line; reads $body.line",
            "both from /*: proposed by equality of $body.line; reads $body.temp, $body.line",
            "asked from /*: asked for every message; reads $body.a, $body.b",
            "range from /*: proposed by interval of $body.temp; reads $body.temp",
            "above from /*: found by range of $body.temp; reads $body.temp",
            "below from /*: found by range of $body.temp; reads $body.temp",
            "prefix from /*: proposed by prefix of $body.line; reads $body.line",
            "more from /*: found by set of $topic[1]; reads $topic[1]",
        ]
    );
}
