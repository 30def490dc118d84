//! The one filter grammar, of the command line, HTTP and everything else that selects events.
//!
//! ```text
//! filter = term { "," term }                      every term must hold
//! term   = [ "!" ] field operator value           "!" negates
//! field  = dotted path of the event, or ip, port, pid, comm, route, method, status, state, nat,
//!          from.ip, from.port, to.ip, to.port
//! operator = "==" | "!=" | ">=" | "<=" | ">" | "<" | "~"
//! value  = null | word | quoted string with \" and \\
//! ```
//!
//! `ip`, `port`, `pid` and `comm` stand for several fields: one of them has to match. `from` is the side that opened
//! the connection. An address may be a network (`ip==10.0.0.0/8`); `severity>=warning` goes by rank; `~` is a regular
//! expression over the value as text. A field that is `null` matches nothing but `==null`, and what negates it.
//! Flags and query parameters ([`Filter::from_pairs`]) become terms of this grammar.

mod field;
mod flags;
mod parse;

use std::{cmp::Ordering, fmt};

use ipnet::IpNet;
use regex::Regex;

use crate::event::{Event, Nanos, Severity};
use field::{Field, Value};

/// Names of flags and query parameters that select events.
pub use flags::{FLAGS, Flag};

/// A filter: every term must hold. Without terms it holds for every event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    terms: Vec<Term>,
}

/// Why a filter cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter, column {column}: {message}")]
pub struct FilterError {
    /// Column of the text, from 1.
    pub column: usize,
    /// What is wrong and what is allowed.
    pub message: String,
}

#[derive(Clone, Debug)]
struct Term {
    negated: bool,
    field: &'static Field,
    op: Op,
    /// The value as written, without quotes.
    text: String,
    operand: Operand,
}

impl PartialEq for Term {
    fn eq(&self, other: &Term) -> bool {
        // The operand follows from the field, the operator and the text.
        self.negated == other.negated
            && self.field.name == other.field.name
            && self.op == other.op
            && self.text == other.text
            && matches!(self.operand, Operand::Null) == matches!(other.operand, Operand::Null)
    }
}

/// How a value is compared. `!=` is a negated `==`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Equal,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
    Like,
}

impl Op {
    const fn text(self) -> &'static str {
        match self {
            Op::Equal => "==",
            Op::Greater => ">",
            Op::GreaterEqual => ">=",
            Op::Less => "<",
            Op::LessEqual => "<=",
            Op::Like => "~",
        }
    }

    fn holds(self, order: Option<Ordering>) -> bool {
        let Some(order) = order else { return false };
        match self {
            Op::Equal => order.is_eq(),
            Op::Greater => order.is_gt(),
            Op::GreaterEqual => order.is_ge(),
            Op::Less => order.is_lt(),
            Op::LessEqual => order.is_le(),
            Op::Like => false,
        }
    }
}

/// What a value is compared with, made ready once.
#[derive(Clone, Debug)]
enum Operand {
    Null,
    Text,
    Integer(u64),
    Float(f64),
    Severity(Severity),
    Network(IpNet),
    Time(Nanos),
    Pattern(Regex),
}

impl Filter {
    /// Reads a filter. Empty text is the filter that holds for everything.
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        parse::filter(text).map(|terms| Filter { terms })
    }

    /// Reads flags or query parameters, in their order: `not` negates the next one, `filter` is an expression.
    pub fn from_pairs<K: AsRef<str>, V: AsRef<str>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Filter, FilterError> {
        flags::filter(pairs).map(|terms| Filter { terms })
    }

    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The one value a field must have for the filter to hold, when a term says so: what an index can be asked for.
    pub fn demanded(&self, field: &str) -> Option<&str> {
        let term = self.terms.iter().find(|term| {
            term.field.name == field
                && !term.negated
                && term.op == Op::Equal
                && matches!(term.operand, Operand::Text)
        })?;
        Some(&term.text)
    }

    /// Whether every term holds for the event.
    pub fn matches(&self, event: &Event) -> bool {
        self.terms.iter().all(|term| term.matches(event))
    }
}

impl Term {
    fn matches(&self, event: &Event) -> bool {
        let mut found = false;
        (self.field.read)(event, &mut |value| found |= self.compare(&value));
        found != self.negated
    }

    fn compare(&self, value: &Value<'_>) -> bool {
        match (&self.operand, value) {
            (Operand::Null, value) => matches!(value, Value::Null),
            (_, Value::Null) => false,
            (Operand::Pattern(pattern), Value::Text(text)) => pattern.is_match(text),
            (Operand::Pattern(pattern), value) => pattern.is_match(&value.to_string()),
            (Operand::Text, Value::Text(text)) => *text == self.text,
            (Operand::Text, value) => value.to_string() == self.text,
            (Operand::Integer(number), Value::Integer(value)) => self.op.holds(Some(value.cmp(number))),
            (Operand::Integer(number), Value::Float(value)) => {
                self.op.holds(value.partial_cmp(&(*number as f64)))
            }
            (Operand::Float(number), Value::Integer(value)) => {
                self.op.holds((*value as f64).partial_cmp(number))
            }
            (Operand::Float(number), Value::Float(value)) => self.op.holds(value.partial_cmp(number)),
            (Operand::Severity(severity), Value::Severity(value)) => self.op.holds(Some(value.cmp(severity))),
            (Operand::Network(network), Value::Address(address)) => network.contains(address),
            (Operand::Time(time), Value::Time(value)) => self.op.holds(Some(value.cmp(time))),
            _ => false,
        }
    }
}

impl fmt::Display for Filter {
    /// The filter as text that reads back as the same filter.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            term.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, op) = match (self.negated, self.op) {
            (true, Op::Equal) => ("", "!="),
            (true, op) => ("!", op.text()),
            (false, op) => ("", op.text()),
        };
        write!(f, "{before}{}{op}", self.field.name)?;
        if matches!(self.operand, Operand::Null) {
            return f.write_str("null");
        }
        let plain = |c: char| c.is_alphanumeric() || "-_./:+*@%".contains(c);
        if !self.text.is_empty() && self.text != "null" && self.text.chars().all(plain) {
            return f.write_str(&self.text);
        }
        write!(f, "\"{}\"", self.text.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

#[cfg(test)]
mod tests;
