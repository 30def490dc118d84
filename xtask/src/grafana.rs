//! Grafana dashboards: from `dashboards/grafana/source/*.toml`, which says what is shown, to the JSON that Grafana reads.
//!
//! What all of them share (data source, job and instance as variables, links between them, colours, legends, where a
//! panel stands) is here and nowhere else. `$on` in an expression stands for the matchers of job and instance.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::sh;

/// Where the sources are; what is made of them stands one folder above.
const SOURCES: &str = "dashboards/grafana/source";
const RENDERED: &str = "dashboards/grafana";
/// Every dashboard has it, and links to all others that do.
const TAG: &str = "netprobe";
/// Matchers of every expression.
const ON: &str = r#"job=~"$job",instance=~"$instance""#;
/// Columns of Grafana's grid.
const GRID: u64 = 24;

/// A dashboard, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dashboard {
    title: String,
    description: String,
    /// Time shown at first, like `now-1h`.
    from: String,
    /// Variables beside those all have.
    #[serde(default)]
    variable: Vec<Variable>,
    row: Vec<Row>,
}

/// A choice among the values of a label.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    label: String,
    /// The metric whose label `name` is chosen from.
    metric: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    title: String,
    panel: Vec<Panel>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Panel {
    title: String,
    description: String,
    /// Grafana's name of a unit.
    unit: String,
    #[serde(default)]
    kind: Kind,
    /// Of 24 columns.
    #[serde(default = "third")]
    width: u64,
    /// Series on top of each other.
    #[serde(default)]
    stack: bool,
    /// From here on it is red.
    alarm: Option<f64>,
    query: Vec<Query>,
}

/// A legend (heading of the column in a table), an expression, and in a table the column's unit.
#[derive(Debug, Deserialize)]
struct Query(String, String, #[serde(default)] Option<String>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// Lines over time.
    #[default]
    Lines,
    /// One number, now.
    Number,
    /// Rows of labels and numbers, now.
    Table,
}

fn third() -> u64 {
    8
}

/// Every rendered file by its path below the root, with its text.
pub(crate) fn files() -> Result<Vec<(String, String)>> {
    let folder = sh::root().join(SOURCES);
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .context("a file without a name")?;
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let dashboard: Dashboard =
            toml::from_str(&text).with_context(|| format!("{} is no dashboard", path.display()))?;
        let json = render(name, &dashboard).with_context(|| path.display().to_string())?;
        files.push((
            format!("{RENDERED}/netprobe-{name}.json"),
            format!("{}\n", serde_json::to_string_pretty(&json)?),
        ));
    }
    files.sort();
    Ok(files)
}

fn source() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

fn render(name: &str, dashboard: &Dashboard) -> Result<Value> {
    let mut panels = Vec::new();
    let mut top = 0;
    for row in &dashboard.row {
        panels.push(json!({
            "id": panels.len() + 1, "type": "row", "title": row.title, "collapsed": false, "panels": [],
            "gridPos": {"x": 0, "y": top, "w": GRID, "h": 1},
        }));
        top += 1;
        let (mut left, mut tallest) = (0, 0);
        for panel in &row.panel {
            ensure!(
                (1..=GRID).contains(&panel.width),
                "{}: a width is 1 to {GRID}",
                panel.title
            );
            if left + panel.width > GRID {
                (left, top, tallest) = (0, top + tallest, 0);
            }
            let height = panel.height();
            panels.push(panel.render(
                panels.len() + 1,
                json!({"x": left, "y": top, "w": panel.width, "h": height}),
            ));
            left += panel.width;
            tallest = tallest.max(height);
        }
        top += tallest;
    }
    let mut variables = vec![
        json!({
            "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
            "hide": 0, "includeAll": false, "multi": false, "refresh": 1, "regex": "", "current": {}, "options": [],
        }),
        variable("job", "Job", "label_values(netprobe_build_info, job)"),
        variable(
            "instance",
            "Instance",
            r#"label_values(netprobe_build_info{job=~"$job"}, instance)"#,
        ),
    ];
    variables.extend(dashboard.variable.iter().map(|of| {
        let query = format!("label_values({}{{{ON}}}, {})", of.metric, of.name);
        variable(&of.name, &of.label, &query)
    }));
    Ok(json!({
        "uid": format!("netprobe-{name}"),
        "title": format!("netprobe / {}", dashboard.title),
        "description": dashboard.description,
        "tags": [TAG],
        "editable": false,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": 39,
        "time": {"from": dashboard.from, "to": "now"},
        "timezone": "browser",
        "links": [{
            "title": "netprobe", "type": "dashboards", "tags": [TAG], "asDropdown": true,
            "includeVars": true, "keepTime": true, "targetBlank": false, "icon": "external link", "url": "", "tooltip": "",
        }],
        "annotations": {"list": []},
        "templating": {"list": variables},
        "panels": panels,
    }))
}

/// A variable with several values; all of them stands for whatever there is.
fn variable(name: &str, label: &str, query: &str) -> Value {
    json!({
        "name": name, "label": label, "type": "query", "datasource": source(), "query": query,
        "multi": true, "includeAll": true, "allValue": ".+", "current": {"text": "All", "value": "$__all"},
        "hide": 0, "refresh": 2, "regex": "", "sort": 1, "options": [],
    })
}

impl Panel {
    fn height(&self) -> u64 {
        match self.kind {
            Kind::Lines => 8,
            Kind::Number => 4,
            Kind::Table => 9,
        }
    }

    fn render(&self, id: usize, place: Value) -> Value {
        let now = self.kind != Kind::Lines;
        let targets: Vec<Value> = ('A'..='Z')
            .zip(&self.query)
            .map(|(letter, Query(legend, expression, _))| {
                json!({
                    "refId": letter.to_string(), "datasource": source(), "legendFormat": legend,
                    "expr": expression.replace("$on", ON).split_whitespace().collect::<Vec<_>>().join(" "),
                    "instant": now, "range": !now, "format": if self.kind == Kind::Table { "table" } else { "time_series" },
                })
            })
            .collect();
        let steps = match self.alarm {
            None => json!([{"color": "text", "value": null}]),
            Some(from) => json!([{"color": "green", "value": null}, {"color": "red", "value": from}]),
        };
        let mut defaults = json!({
            "unit": self.unit, "thresholds": {"mode": "absolute", "steps": steps},
            "color": {"mode": if self.kind == Kind::Lines { "palette-classic" } else { "thresholds" }},
        });
        let (kind, options) = match self.kind {
            Kind::Lines => {
                defaults["min"] = json!(0);
                defaults["custom"] = json!({
                    "drawStyle": "line", "lineWidth": 1, "fillOpacity": if self.stack { 40 } else { 8 },
                    "showPoints": "never", "spanNulls": false,
                    "stacking": {"mode": if self.stack { "normal" } else { "none" }, "group": "A"},
                    "thresholdsStyle": {"mode": if self.alarm.is_some() { "line" } else { "off" }},
                });
                let options = json!({
                    "legend": {"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []},
                    "tooltip": {"mode": "multi", "sort": "desc"},
                });
                ("timeseries", options)
            }
            Kind::Number => {
                let options = json!({
                    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false},
                    "colorMode": "value", "graphMode": "none", "textMode": "auto", "justifyMode": "auto",
                });
                ("stat", options)
            }
            Kind::Table => ("table", json!({"showHeader": true, "cellHeight": "sm"})),
        };
        let mut panel = json!({
            "id": id, "type": kind, "title": self.title, "description": self.description, "gridPos": place,
            "datasource": source(), "targets": targets, "options": options,
            "fieldConfig": {"defaults": defaults, "overrides": []},
        });
        if self.kind == Kind::Table {
            self.as_table(&mut panel);
        }
        panel
    }

    /// One row for the same labels, a named column for each query, the first one sorted by.
    fn as_table(&self, panel: &mut Value) {
        // With one query Grafana calls its column `Value`, with more `Value #A` and so on.
        let single = self.query.len() == 1;
        let column = |letter: char| {
            if single {
                "Value".to_owned()
            } else {
                format!("Value #{letter}")
            }
        };
        let columns = || ('A'..='Z').zip(&self.query);
        let names: serde_json::Map<String, Value> = columns()
            .map(|(letter, of)| (column(letter), json!(of.0)))
            .collect();
        panel["transformations"] = json!([
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": {"Time": true}, "renameByName": names}},
        ]);
        panel["fieldConfig"]["overrides"] = columns()
            .filter_map(|(_, Query(name, _, unit))| {
                Some(json!({
                    "matcher": {"id": "byName", "options": name},
                    "properties": [{"id": "unit", "value": unit.as_ref()?}],
                }))
            })
            .collect();
        panel["options"]["sortBy"] = json!([{"displayName": self.query[0].0, "desc": true}]);
    }
}

#[cfg(test)]
mod tests;
