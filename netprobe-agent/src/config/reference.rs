//! What people read about the configuration, made from the types: the shipped default file, the reference page, and
//! a configuration in force with the source of each value.

use std::{collections::BTreeMap, fmt::Write as _};

use clap::ValueEnum as _;
use toml::{Table, Value};
use utoipa::{
    PartialSchema as _, ToSchema as _,
    openapi::{RefOr, Schema},
};

use super::{Config, DEFAULT_PATH, Loaded, Profile, Source, reload::is_live};

/// Width of comments in the default file.
const WIDTH: usize = 110;

/// A key and what its type says about it.
struct Key {
    name: String,
    doc: String,
    default: Value,
}

struct Section {
    name: String,
    doc: String,
    keys: Vec<Key>,
}

/// Every section in the order of the types. The comment of a field is its documentation: nothing is told twice.
fn sections() -> Vec<Section> {
    let mut named = Vec::new();
    Config::schemas(&mut named);
    let named: BTreeMap<_, _> = named.into_iter().collect();
    // Defaults are what `Default` of the types gives, as the file would have it.
    let defaults = Table::try_from(Config::default()).unwrap_or_default();
    let section = |(name, reference): (&String, &RefOr<Schema>)| {
        let RefOr::Ref(reference) = reference else {
            return None;
        };
        let schema = named.get(reference.ref_location.rsplit('/').next()?)?;
        let values = defaults.get(name)?;
        let keys = properties(schema).filter_map(|(key, schema)| {
            Some(Key {
                name: key.clone(),
                doc: description(schema),
                default: values.get(key)?.clone(),
            })
        });
        Some(Section {
            name: name.clone(),
            doc: description(schema),
            keys: keys.collect(),
        })
    };
    properties(&Config::schema()).filter_map(section).collect()
}

fn properties(schema: &RefOr<Schema>) -> impl Iterator<Item = (&String, &RefOr<Schema>)> {
    let object = match schema {
        RefOr::T(Schema::Object(object)) => Some(object),
        _ => None,
    };
    object.into_iter().flat_map(|object| &object.properties)
}

fn description(schema: &RefOr<Schema>) -> String {
    let text = match schema {
        RefOr::T(Schema::Object(object)) => object.description.as_ref(),
        RefOr::T(Schema::Array(array)) => array.description.as_ref(),
        _ => None,
    };
    text.cloned().unwrap_or_default()
}

/// The shipped default file: every key, documented.
pub fn default_file() -> String {
    let mut out = format!(
        "# netprobe, the shipped configuration: every key with its default.\n\
         # Written by `cargo xtask docs` from the types of the configuration; do not edit.\n\
         #\n\
         # Layers, later ones win: these defaults, the profile (`--profile`), the file (`--config`, else\n\
         # {DEFAULT_PATH} when it is there), environment variables NETPROBE_<SECTION>_<KEY>\n\
         # (NETPROBE_FLOW_OPEN_AFTER=2s, NETPROBE_PROBE_PORTS_ONLY=80,443), flags.\n\
         # Durations are a number and a unit: 10ms, 30s, 5m, 1h. Unknown keys are errors.\n"
    );
    for section in sections() {
        out.push_str("\n\n");
        comment(&mut out, &section.doc);
        let _ = writeln!(out, "[{}]", section.name);
        for key in section.keys {
            out.push('\n');
            comment(&mut out, &key.doc);
            let _ = writeln!(out, "{} = {}", key.name, inline(&key.default));
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out
}

/// The reference page.
pub fn page() -> String {
    let mut out = String::from(include_str!("reference.md"));
    out.push_str("\n## Profiles\n\n| key |");
    let profiles = Profile::value_variants();
    for profile in profiles {
        let _ = write!(out, " {} |", profile.name());
    }
    let _ = write!(out, "\n|---|{}\n", "---|".repeat(profiles.len()));
    let of: Vec<_> = profiles
        .iter()
        .map(|profile| Table::try_from(Config::of_profile(*profile)).unwrap_or_default())
        .collect();
    for section in sections() {
        for key in &section.keys {
            let values: Vec<_> = of.iter().map(|table| &table[&section.name][&key.name]).collect();
            if values.iter().any(|value| **value != key.default) {
                let _ = write!(out, "| `{}.{}` |", section.name, key.name);
                for value in values {
                    let _ = write!(out, " `{}` |", inline(value));
                }
                out.push('\n');
            }
        }
    }
    for section in sections() {
        let doc = section.doc.replace('\n', " ");
        let _ = write!(
            out,
            "\n## `[{}]`\n\n{doc}\n\n| key | default | SIGHUP | meaning |\n|---|---|---|---|\n",
            section.name
        );
        for key in section.keys {
            let meaning = key.doc.replace('\n', " ").replace('|', "\\|");
            let live = if is_live(&section.name, &key.name) {
                "yes"
            } else {
                ""
            };
            let _ = writeln!(
                out,
                "| `{}` | `{}` | {live} | {meaning} |",
                key.name,
                inline(&key.default)
            );
        }
    }
    out
}

impl Loaded {
    /// The configuration as a file that reads back, each value with its source.
    pub fn show(&self) -> String {
        let table = Table::try_from(&self.config).unwrap_or_default();
        let mut out = String::new();
        for section in sections() {
            if !out.is_empty() {
                out.push('\n');
            }
            let _ = writeln!(out, "[{}]", section.name);
            for key in section.keys {
                let value = inline(&table[&section.name][&key.name]);
                let _ = write!(out, "{} = {value}", key.name);
                match self.source(&section.name, &key.name) {
                    Source::Default => out.push('\n'),
                    source => {
                        let _ = writeln!(out, "  # {source}");
                    }
                }
            }
        }
        out
    }
}

/// A value on one line.
fn inline(value: &Value) -> String {
    match value {
        Value::Table(pairs) if pairs.is_empty() => "{}".to_owned(),
        Value::Table(pairs) => {
            let quoted = |key: &str| {
                let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                if !key.is_empty() && key.chars().all(bare) {
                    key.to_owned()
                } else {
                    Value::String(key.to_owned()).to_string()
                }
            };
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(key, value)| format!("{} = {}", quoted(key), inline(value)))
                .collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        value => value.to_string(),
    }
}

/// A comment, wrapped; an example keeps a line of its own.
fn comment(out: &mut String, doc: &str) {
    let mut line = String::from("#");
    let mut flush = |line: &mut String| {
        if line.len() > 1 {
            out.push_str(line);
            out.push('\n');
        }
        line.truncate(1);
    };
    for text in doc.lines() {
        if text.starts_with("Example:") {
            flush(&mut line);
        }
        for word in text.split_whitespace() {
            if line.len() + 1 + word.len() > WIDTH {
                flush(&mut line);
            }
            line.push(' ');
            line.push_str(word);
        }
    }
    flush(&mut line);
}
