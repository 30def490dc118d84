use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::event::{Event, fixture};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Golden {
    case: Vec<Case>,
    error: Vec<Failure>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    expression: Option<String>,
    pairs: Option<Vec<(String, String)>>,
    canonical: String,
    matches: Vec<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Failure {
    expression: Option<String>,
    pairs: Option<Vec<(String, String)>>,
    message: String,
}

fn read(expression: Option<&str>, pairs: Option<&[(String, String)]>) -> Result<Filter, FilterError> {
    match (expression, pairs) {
        (Some(expression), None) => Filter::parse(expression),
        (None, Some(pairs)) => Filter::from_pairs(pairs.iter().map(|(name, value)| (name, value))),
        _ => panic!("a case has either an expression or pairs"),
    }
}

fn golden() -> Golden {
    toml::from_str(include_str!("../../../tests/fixtures/filters.toml")).unwrap()
}

/// The events of the golden cases: 1 a client, 2 a server, 3 a gateway, 4 a gap.
fn events() -> Vec<Event> {
    include_str!("../../../tests/fixtures/filters.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn golden_cases() {
    let events = events();
    for case in golden().case {
        let filter = read(case.expression.as_deref(), case.pairs.as_deref())
            .unwrap_or_else(|error| panic!("{}: {error}", case.canonical));
        assert_eq!(filter.to_string(), case.canonical);
        assert_eq!(Filter::parse(&case.canonical).as_ref(), Ok(&filter));
        let found: Vec<_> = events
            .iter()
            .filter(|event| filter.matches(event))
            .filter_map(|event| event.seq)
            .collect();
        assert_eq!(found, case.matches, "{}", case.canonical);
    }
}

#[test]
fn golden_errors() {
    for case in golden().error {
        let error = read(case.expression.as_deref(), case.pairs.as_deref()).unwrap_err();
        assert_eq!(error.to_string(), case.message);
    }
}

#[test]
fn request_flags_select_requests() {
    let request = fixture::request();
    for (name, value, holds) in [
        ("route", "/items/*", true),
        ("route", "/*", false),
        ("route", "/**", true),
        ("status", "2xx", true),
        ("status", "200", true),
        ("status", "3xx", false),
        ("method", "GET", true),
        ("kind", "request", true),
    ] {
        assert_eq!(
            Filter::from_pairs([(name, value)]).unwrap().matches(&request),
            holds,
            "{name}={value}"
        );
    }
    assert!(Filter::parse("request.tls==false").unwrap().matches(&request));
}

/// Every scalar of the JSON can be named, and its value as JSON shows it selects the event.
#[test]
fn every_scalar_of_the_schema_is_a_field() {
    for event in [
        fixture::flow(),
        fixture::request(),
        fixture::gap(),
        fixture::agent(),
    ] {
        let mut scalars = Vec::new();
        flatten("", &serde_json::to_value(&event).unwrap(), &mut scalars);
        for (path, value) in scalars {
            let text = match value {
                serde_json::Value::String(text) => format!("{path}==\"{text}\""),
                value => format!("{path}=={value}"),
            };
            let filter = Filter::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(filter.matches(&event), "{text}");
            let negated = Filter::parse(&format!("!{text}")).unwrap();
            assert!(!negated.matches(&event), "!{text}");
        }
    }
}

fn flatten(path: &str, value: &serde_json::Value, into: &mut Vec<(String, serde_json::Value)>) {
    match value {
        serde_json::Value::Object(members) => {
            for (name, member) in members {
                flatten(
                    &if path.is_empty() {
                        name.clone()
                    } else {
                        format!("{path}.{name}")
                    },
                    member,
                    into,
                );
            }
        }
        // Lists are the hops of NAT, which have no path, and the flags, each a value.
        serde_json::Value::Array(items) if path == "flags" => {
            into.extend(items.iter().map(|item| (path.to_owned(), item.clone())));
        }
        serde_json::Value::Array(_) => {}
        // An object that does not apply is null as a whole; only its members are fields.
        serde_json::Value::Null if !field::names().contains(&path) => {}
        value => into.push((path.to_owned(), value.clone())),
    }
}

fn any_term() -> impl Strategy<Value = String> {
    let field = prop::sample::select(field::names());
    let op = prop::sample::select(vec!["==", "!=", ">=", "<=", ">", "<", "~"]);
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("\"null\"".to_owned()),
        Just("error".to_owned()),
        Just("10.1.0.0/16".to_owned()),
        any::<u64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| number.to_string()),
        "[a-z*. ]{1,8}",
        any::<String>().prop_map(|text| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))),
    ];
    (any::<bool>(), field, op, value)
        .prop_map(|(not, field, op, value)| format!("{}{field}{op}{value}", if not { "!" } else { "" }))
}

proptest! {
    #[test]
    fn never_panics(text in any::<String>()) {
        let _ = Filter::parse(&text);
        let _ = Filter::from_pairs([("route", &text), ("filter", &text), ("status", &text)]);
    }

    #[test]
    fn what_it_prints_reads_back(terms in prop::collection::vec(any_term(), 0..4)) {
        // Most random values do not fit their field; those that do must survive.
        if let Ok(filter) = Filter::parse(&terms.join(",")) {
            let again = Filter::parse(&filter.to_string());
            prop_assert_eq!(again.as_ref(), Ok(&filter), "{}", filter);
            for event in [fixture::flow(), fixture::gap()] {
                prop_assert_eq!(again.as_ref().unwrap().matches(&event), filter.matches(&event));
            }
        }
    }
}

#[test]
fn the_documentation_names_every_field_and_flag() {
    let page = include_str!("../../../docs/schema.md");
    let flags = FLAGS.iter().map(|flag| format!("--{}", flag.name));
    for name in field::names().into_iter().map(str::to_owned).chain(flags) {
        assert!(
            page.contains(&format!("`{name}`")),
            "docs/schema.md does not name `{name}`"
        );
    }
    for reason in crate::event::CloseReason::ALL {
        assert!(page.contains(&format!("`{}`", reason.name())), "{reason:?}");
    }
    for (_, flag) in crate::event::Flags::NAMES {
        assert!(page.contains(&format!("`{flag}`")), "{flag}");
    }
}

#[test]
fn a_demanded_value_is_one_that_nothing_else_can_stand_for() {
    let demanded = |text: &str| {
        let filter = Filter::parse(text).unwrap();
        filter.demanded("service").map(str::to_owned)
    };
    assert_eq!(demanded("port==80,service==nginx").as_deref(), Some("nginx"));
    for text in [
        "service!=nginx",
        "!service==nginx",
        "service~nginx",
        "service==null",
        "comm==nginx",
        "",
    ] {
        assert_eq!(demanded(text), None, "{text}");
    }
}
