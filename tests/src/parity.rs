//! The same traffic gives the same events, whatever method serves a fact: events as comparable fields, the table of
//! what is expected, and the differences that are permitted, with their cause.
//!
//! `fixtures/parity/expected.toml` says for every event of the script what each field holds, so a field that is null
//! everywhere does not pass for parity. `fixtures/parity/differences.toml` says what another method or an older kernel
//! shows instead.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::Event;

/// The fields of one event: path to what it holds, in a form that is the same in every run.
pub type Fields = BTreeMap<String, String>;

/// Chosen method by fact.
pub type Methods = BTreeMap<String, String>;

/// Different in every run; what matters is that they are there.
const PRESENT: &[&str] = &[
    "host",
    "boot_id",
    "run",
    "seq",
    "ts",
    "started_at",
    "connection_id",
    "trace_id",
    "span_id",
];
/// Durations: null, zero or more.
const DURATIONS: &[&str] = &[
    "elapsed_ms",
    "flow.connect_ms",
    "flow.rtt_ms",
    "flow.rtt_var_ms",
    "flow.accept_wait_ms",
];
/// Counts that depend on how the kernel schedules.
const COUNTS: &[&str] = &[
    "flow.syn_retransmits",
    "flow.retransmits",
    "flow.segments_out",
    "flow.segments_in",
];

/// What the values of one run stand for: last word of the path, value, name.
#[derive(Clone, Debug, Default)]
pub struct Names(Vec<(&'static str, String, &'static str)>);

impl Names {
    /// Calls `value` by `name` wherever the last word of a field's path ends with `word`.
    pub fn add(&mut self, word: &'static str, value: impl ToString, name: &'static str) {
        self.0.push((word, value.to_string(), name));
    }

    fn of(&self, word: &str, value: &str) -> Option<&'static str> {
        self.0
            .iter()
            .find(|(ending, known, _)| word.ends_with(ending) && known == value)
            .map(|(_, _, name)| *name)
    }
}

/// An event as comparable fields.
pub fn fields(event: &Event, names: &Names) -> Result<Fields> {
    let mut fields = Fields::new();
    flatten("", &serde_json::to_value(event)?, names, &mut fields);
    Ok(fields)
}

fn flatten(path: &str, value: &Value, names: &Names, fields: &mut Fields) {
    let below = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    match value {
        Value::Object(object) => object
            .iter()
            .for_each(|(name, value)| flatten(&below(name), value, names, fields)),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (index, item) in items.iter().enumerate() {
                flatten(&below(&index.to_string()), item, names, fields);
            }
        }
        leaf => {
            fields.insert(path.to_owned(), shown(path, leaf, names));
        }
    }
}

fn shown(path: &str, value: &Value, names: &Names) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let word = path.rsplit('.').next().unwrap_or(path);
    let kind = |list: &[&str]| list.contains(&path);
    if value.is_null() {
        text
    } else if kind(PRESENT) {
        "present".to_owned()
    } else if kind(DURATIONS) && value.as_f64().is_some_and(|ms| ms > 0.0) {
        "> 0".to_owned()
    } else if kind(COUNTS) && value.is_u64() {
        "a number".to_owned()
    } else {
        names.of(word, &text).map_or(text, str::to_owned)
    }
}

/// A difference that is permitted, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// Where these methods serve together (`fact=method`, or `fact=none`); empty: under any.
    #[serde(default)]
    pub methods: Vec<String>,
    /// On kernels before this one.
    pub below: Option<String>,
    /// The events it concerns.
    pub events: Vec<String>,
    /// What these fields hold instead. Empty: there is no such event.
    #[serde(default)]
    pub fields: Fields,
    /// Why it cannot be otherwise.
    pub cause: String,
}

impl Difference {
    /// Whether it holds with these methods on this kernel.
    pub fn applies(&self, methods: &Methods, kernel: (u32, u32)) -> bool {
        let serves = |wanted: &String| {
            wanted
                .split_once('=')
                .is_some_and(|(fact, method)| methods.get(fact).map_or("none", String::as_str) == method)
        };
        let by_method = self.methods.iter().all(serves);
        let by_kernel = self
            .below
            .as_ref()
            .is_none_or(|floor| version(floor).is_some_and(|floor| kernel < floor));
        by_method && by_kernel
    }
}

/// Major and minor number at the start of a release.
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What the script must give, and how it may differ.
#[derive(Debug, Default)]
pub struct Table {
    expected: BTreeMap<String, Fields>,
    differences: Vec<Difference>,
}

impl Table {
    /// Reads both files.
    pub fn read(expected: &str, differences: &str) -> Result<Table> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Listed {
            #[serde(default)]
            difference: Vec<Difference>,
        }
        let table = Table {
            expected: toml::from_str(expected).context("expected.toml")?,
            differences: toml::from_str::<Listed>(differences)
                .context("differences.toml")?
                .difference,
        };
        for difference in &table.differences {
            for event in &difference.events {
                anyhow::ensure!(
                    table.expected.contains_key(event),
                    "differences.toml speaks of {event}, which the script does not give"
                );
            }
        }
        Ok(table)
    }

    /// The differences that hold with these methods on this kernel.
    pub fn permitted(&self, methods: &Methods, kernel: (u32, u32)) -> Vec<&Difference> {
        self.differences
            .iter()
            .filter(|difference| difference.applies(methods, kernel))
            .collect()
    }

    /// What an event must hold; `None`: there must be none.
    pub fn expected(&self, event: &str, permitted: &[&Difference]) -> Result<Option<Fields>> {
        let mut fields = self
            .expected
            .get(event)
            .with_context(|| format!("expected.toml does not know {event}"))?
            .clone();
        for difference in permitted {
            if !difference.events.iter().any(|name| name == event) {
                continue;
            }
            if difference.fields.is_empty() {
                return Ok(None);
            }
            for (path, value) in &difference.fields {
                set(&mut fields, path, value);
            }
        }
        Ok(Some(fields))
    }
}

/// Sets a field; what stood below it or in its place as a whole goes.
fn set(fields: &mut Fields, path: &str, value: &str) {
    let below = format!("{path}.");
    fields.retain(|known, _| !known.starts_with(&below) && !path.starts_with(&format!("{known}.")));
    fields.insert(path.to_owned(), value.to_owned());
}

/// Every field in which two events differ, as a line.
pub fn differences(event: &str, got: &Fields, expected: &Fields) -> Vec<String> {
    let nothing = "(no such field)";
    let all: std::collections::BTreeSet<&String> = got.keys().chain(expected.keys()).collect();
    all.into_iter()
        .filter_map(|path| {
            let side = |fields: &Fields| fields.get(path).map_or(nothing, String::as_str).to_owned();
            let (is, must) = (side(got), side(expected));
            (is != must).then(|| format!("{event}: {path} is {is}, expected {must}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: &str =
        "[\"local/server\"]\nrole = \"server\"\n\"process.pid\" = \"$near\"\nio_process = \"null\"\n";

    fn table(differences: &str) -> Table {
        Table::read(EXPECTED, differences).unwrap()
    }

    fn methods(list: &[(&str, &str)]) -> Methods {
        list.iter()
            .map(|(f, m)| ((*f).to_owned(), (*m).to_owned()))
            .collect()
    }

    #[test]
    fn a_difference_needs_its_method_and_its_kernel() {
        let table = table(
            "[[difference]]\nmethods = [\"accept=first_io\"]\nbelow = \"6.3\"\nevents = [\"local/server\"]\n\
             fields = { process = \"null\" }\ncause = \"c\"\n",
        );
        let first_io = methods(&[("accept", "first_io")]);
        assert_eq!(table.permitted(&first_io, (6, 1)).len(), 1);
        assert_eq!(table.permitted(&first_io, (6, 3)).len(), 0);
        assert_eq!(table.permitted(&methods(&[("accept", "fexit")]), (6, 1)).len(), 0);
    }

    #[test]
    fn a_fact_without_a_method_has_a_name() {
        let table =
            table("[[difference]]\nmethods = [\"udp=none\"]\nevents = [\"local/server\"]\ncause = \"c\"\n");
        let permitted = table.permitted(&methods(&[]), (6, 1));
        assert_eq!(table.expected("local/server", &permitted).unwrap(), None);
        assert_eq!(table.permitted(&methods(&[("udp", "tp_btf")]), (6, 1)).len(), 0);
    }

    #[test]
    fn a_whole_object_can_go_and_come() {
        let table = table(
            "[[difference]]\nevents = [\"local/server\"]\nfields = { process = \"null\", \"io_process.pid\" = \"$near\" }\n\
             cause = \"c\"\n",
        );
        let permitted = table.permitted(&methods(&[]), (6, 1));
        let expected = table.expected("local/server", &permitted).unwrap().unwrap();
        let listed: Vec<_> = expected.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(listed, ["io_process.pid=$near", "process=null", "role=server"]);
    }

    #[test]
    fn null_is_not_a_number_and_names_stand_for_values() {
        let mut names = Names::default();
        names.add("port", 4000, "$port");
        let of = |path: &str, value: Value| shown(path, &value, &names);
        assert_eq!(of("flow.connect_ms", Value::Null), "null");
        assert_eq!(of("flow.connect_ms", 0.5.into()), "> 0");
        assert_eq!(of("elapsed_ms", (-1.0).into()), "-1.0");
        assert_eq!(of("flow.retransmits", 3.into()), "a number");
        assert_eq!(of("internal_port", 4000.into()), "$port");
        assert_eq!(of("bytes_sent", 4000.into()), "4000");
        assert_eq!(of("trace_id", "ab".into()), "present");
    }

    #[test]
    fn what_differs_is_said_on_both_sides() {
        let of = |text: &str| -> Fields { toml::from_str(text).unwrap() };
        let told = differences("e", &of("a = \"1\"\nb = \"2\""), &of("a = \"1\"\nc = \"3\""));
        assert_eq!(
            told,
            [
                "e: b is 2, expected (no such field)",
                "e: c is (no such field), expected 3"
            ]
        );
    }

    #[test]
    fn a_difference_of_an_unknown_event_is_an_error() {
        assert!(Table::read(EXPECTED, "[[difference]]\nevents = [\"x\"]\ncause = \"c\"\n").is_err());
    }
}
