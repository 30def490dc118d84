//! The rules of Grafana's public dashboard linter, over what is rendered.

use std::collections::BTreeSet;

use super::*;

/// Units the dashboards use, each a name Grafana knows: an unknown one is shown as text behind the number.
const UNITS: &[&str] = &[
    "Bps",
    "bytes",
    "cps",
    "none",
    "percentunit",
    "pps",
    "reqps",
    "s",
    "short",
];

fn rendered() -> Vec<(String, Value)> {
    files()
        .unwrap()
        .into_iter()
        .map(|(path, text)| (path, serde_json::from_str(&text).unwrap()))
        .collect()
}

fn list<'a>(of: &'a Value, pointer: &str) -> &'a [Value] {
    of.pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], |list| list)
}

fn text<'a>(of: &'a Value, key: &str) -> &'a str {
    of[key].as_str().unwrap_or_default()
}

/// Panels that show something, of every dashboard.
fn panels(of: &Value) -> impl Iterator<Item = &Value> {
    list(of, "/panels")
        .iter()
        .filter(|panel| text(panel, "type") != "row")
}

fn expressions(panel: &Value) -> impl Iterator<Item = &str> {
    list(panel, "/targets").iter().map(|target| text(target, "expr"))
}

/// Names of metrics with what follows each, and what stands before it.
fn metrics(expression: &str) -> Vec<(&str, &str, &str)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(start) = expression[from..].find(is_name).map(|at| from + at) {
        let end = expression[start..]
            .find(|c| !is_name(c))
            .map_or(expression.len(), |n| start + n);
        let name = &expression[start..end];
        if name.contains("netprobe_") && !name.starts_with(char::is_numeric) {
            found.push((&expression[..start], name, &expression[end..]));
        }
        from = end;
    }
    found
}

#[test]
fn there_are_eight_and_the_files_are_those_of_the_sources() {
    let files = files().unwrap();
    assert_eq!(files.len(), 8);
    for (path, text) in files {
        let there = fs::read_to_string(sh::root().join(&path)).unwrap_or_default();
        assert!(
            there == text,
            "{path} is not what its source makes: run `cargo xtask docs`"
        );
    }
}

#[test]
fn data_source_job_and_instance_are_variables() {
    for (path, board) in rendered() {
        let variables = list(&board, "/templating/list");
        let names: Vec<_> = variables
            .iter()
            .take(3)
            .map(|of| (text(of, "name"), text(of, "label")))
            .collect();
        assert_eq!(
            names,
            [
                ("datasource", "Data source"),
                ("job", "Job"),
                ("instance", "Instance")
            ],
            "{path}"
        );
        assert_eq!(
            (text(&variables[0], "type"), text(&variables[0], "query")),
            ("datasource", "prometheus")
        );
        for variable in &variables[1..] {
            assert_eq!(text(variable, "type"), "query", "{path}");
            assert_eq!(text(&variable["datasource"], "uid"), "${datasource}", "{path}");
            assert_eq!(
                (&variable["multi"], &variable["includeAll"]),
                (&json!(true), &json!(true)),
                "{path}"
            );
            assert_eq!(
                (text(variable, "allValue"), &variable["refresh"]),
                (".+", &json!(2)),
                "{path}"
            );
            assert!(text(variable, "query").starts_with("label_values("), "{path}");
        }
        assert_eq!(board["editable"], false, "{path}");
    }
}

#[test]
fn every_panel_has_title_description_unit_and_queries() {
    for (path, board) in rendered() {
        let (mut ids, mut titles) = (BTreeSet::new(), BTreeSet::new());
        let mut row = "";
        for panel in list(&board, "/panels") {
            assert!(ids.insert(panel["id"].as_u64()), "{path}: an id twice");
            if text(panel, "type") == "row" {
                row = text(panel, "title");
                continue;
            }
            let title = text(panel, "title");
            assert!(titles.insert((row, title)), "{path}: {title} twice in {row}");
            assert!(
                !title.is_empty() && text(panel, "description").ends_with('.'),
                "{path}: {title}"
            );
            let unit = panel
                .pointer("/fieldConfig/defaults/unit")
                .and_then(Value::as_str)
                .unwrap();
            assert!(UNITS.contains(&unit), "{path}: {title}: unit {unit}");
            for over in list(panel, "/fieldConfig/overrides") {
                let unit = over
                    .pointer("/properties/0/value")
                    .and_then(Value::as_str)
                    .unwrap();
                assert!(UNITS.contains(&unit), "{path}: {title}: unit {unit}");
            }
            assert_eq!(
                text(&panel["datasource"], "uid"),
                "${datasource}",
                "{path}: {title}"
            );
            assert!(expressions(panel).next().is_some(), "{path}: {title}: no query");
            for target in list(panel, "/targets") {
                assert!(
                    !text(target, "legendFormat").is_empty(),
                    "{path}: {title}: a query without legend"
                );
            }
        }
    }
}

#[test]
fn panels_do_not_overlap() {
    let corner = |panel: &Value| ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
    for (path, board) in rendered() {
        let all: Vec<_> = list(&board, "/panels").iter().map(corner).collect();
        for (index, [x, y, w, h]) in all.iter().enumerate() {
            assert!(x + w <= GRID, "{path}");
            for [ox, oy, ow, oh] in &all[..index] {
                let apart = x + w <= *ox || ox + ow <= *x || y + h <= *oy || oy + oh <= *y;
                assert!(apart, "{path}: two panels at {x},{y}");
            }
        }
    }
}

#[test]
fn every_metric_is_chosen_by_job_and_instance() {
    for (path, board) in rendered() {
        for expression in panels(&board).flat_map(expressions) {
            let metrics = metrics(expression);
            assert!(
                !metrics.is_empty() || expression.contains("ALERTS{"),
                "{path}: {expression}"
            );
            for (_, name, rest) in metrics {
                let matchers = rest
                    .strip_prefix('{')
                    .and_then(|rest| rest.split('}').next())
                    .unwrap_or_default();
                assert!(
                    matchers.contains(r#"job=~"$job""#),
                    "{path}: {name} in {expression}"
                );
                // A rule of level job has no instance left.
                let summed = name.starts_with("job");
                assert!(
                    summed || matchers.contains(r#"instance=~"$instance""#),
                    "{path}: {name} in {expression}"
                );
            }
        }
    }
}

#[test]
fn counters_are_seen_as_rates_over_fitting_times() {
    for (path, board) in rendered() {
        for expression in panels(&board).flat_map(expressions) {
            for (before, name, rest) in metrics(expression) {
                let rated = ["rate(", "increase("]
                    .iter()
                    .any(|function| before.ends_with(function));
                // How many series there are is a question of its own.
                let counted = before.ends_with("count by (peer, service) (");
                let is_counter = ["_total", "_bucket"].iter().any(|end| name.ends_with(end));
                assert_eq!(is_counter && !counted, rated, "{path}: {name} in {expression}");
                if before.ends_with("rate(") {
                    let range = rest.split_once('}').map_or("", |(_, range)| range);
                    assert!(range.starts_with("[$__rate_interval]"), "{path}: {expression}");
                }
            }
            let depth = expression.chars().try_fold(0_i32, |depth, c| {
                let depth = depth + i32::from("([{".contains(c)) - i32::from(")]}".contains(c));
                (depth >= 0).then_some(depth)
            });
            assert_eq!(depth, Some(0), "{path}: brackets in {expression}");
        }
    }
}

#[test]
fn recorded_series_are_those_of_the_rules() {
    let rules = fs::read_to_string(sh::root().join("dashboards/prometheus/recording.yaml")).unwrap();
    let recorded: BTreeSet<_> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- record: "))
        .collect();
    for (path, board) in rendered() {
        for expression in panels(&board).flat_map(expressions) {
            for (_, name, _) in metrics(expression)
                .into_iter()
                .filter(|(_, name, _)| name.contains(':'))
            {
                assert!(recorded.contains(name), "{path}: no rule records {name}");
            }
        }
    }
}
