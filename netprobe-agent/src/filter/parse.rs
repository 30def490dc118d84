//! Text to terms.

use ipnet::IpNet;
use regex::RegexBuilder;

use super::{FilterError, Op, Operand, Term, field};
use crate::event::{Nanos, Severity};

/// Memory a compiled regular expression may take.
const PATTERN_BYTES: usize = 1 << 20;

pub(super) fn filter(text: &str) -> Result<Vec<Term>, FilterError> {
    let mut reader = Reader { text, at: 0 };
    let mut terms = Vec::new();
    reader.skip_space();
    if reader.rest().is_empty() {
        return Ok(terms);
    }
    loop {
        terms.push(reader.term()?);
        reader.skip_space();
        if reader.rest().is_empty() {
            return Ok(terms);
        }
        if !reader.eat(",") {
            return Err(reader.error("expected `,` or the end; quote a value that holds other characters"));
        }
    }
}

/// A term of checked parts. `column` is where the value stands.
pub(super) fn term(
    negated: bool,
    name: &str,
    op: Op,
    value: Literal,
    columns: (usize, usize),
) -> Result<Term, FilterError> {
    let at = |column, message: String| FilterError { column, message };
    let Some(field) = field::find(name) else {
        let near = field::near(name);
        let hint = if near.is_empty() {
            "docs/schema.md lists every field".to_owned()
        } else {
            format!("did you mean {}?", list(&near))
        };
        return Err(at(columns.0, format!("there is no field `{name}`; {hint}")));
    };
    let operand = operand(field, op, &value).map_err(|message| at(columns.1, message))?;
    Ok(Term {
        negated,
        field,
        op,
        text: value.text,
        operand,
    })
}

/// A value as written.
pub(super) struct Literal {
    pub(super) text: String,
    pub(super) quoted: bool,
}

impl Literal {
    pub(super) fn quoted(text: impl Into<String>) -> Literal {
        Literal {
            text: text.into(),
            quoted: true,
        }
    }
}

fn operand(field: &field::Field, op: Op, value: &Literal) -> Result<Operand, String> {
    let text = value.text.as_str();
    let name = field.name;
    if op == Op::Like {
        return RegexBuilder::new(text)
            .size_limit(PATTERN_BYTES)
            .build()
            .map(Operand::Pattern)
            .map_err(|error| format!("`{text}` is not a regular expression: {}", last_line(&error)));
    }
    let ordered = op != Op::Equal;
    if text == "null" && !value.quoted {
        return if ordered {
            Err(format!(
                "`null` has no rank; allowed are {name}==null and {name}!=null"
            ))
        } else {
            Ok(Operand::Null)
        };
    }
    match field.holds {
        field::Type::Number => {
            if let Ok(number) = text.parse() {
                return Ok(Operand::Integer(number));
            }
            match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(Operand::Float(number)),
                _ => Err(format!("`{text}` is not a number, and {name} is one")),
            }
        }
        field::Type::Severity => Severity::from_name(text).map(Operand::Severity).ok_or_else(|| {
            one_of(
                name,
                text,
                &Severity::ALL.iter().map(|s| s.name()).collect::<Vec<_>>(),
            )
        }),
        field::Type::Time => Nanos::parse(text)
            .map(Operand::Time)
            .map_err(|_| format!("`{text}` is not a time; write it like 2026-11-21T10:00:00Z")),
        _ if ordered => Err(format!("{name} has no rank; allowed are ==, != and ~")),
        field::Type::Address => match text.parse::<IpNet>() {
            Ok(network) => Ok(Operand::Network(network)),
            Err(_) => text
                .parse()
                .map(|address| Operand::Network(IpNet::from(normal(address))))
                .map_err(|_| format!("`{text}` is neither an address nor a network like 10.0.0.0/8")),
        },
        field::Type::Name(names) if !names.contains(&text) => Err(one_of(name, text, names)),
        field::Type::Name(_) | field::Type::Text => Ok(Operand::Text),
    }
}

/// Events hold IPv4 as IPv4, so `::ffff:a.b.c.d` means that.
fn normal(address: std::net::IpAddr) -> std::net::IpAddr {
    address.to_canonical()
}

fn one_of(name: &str, text: &str, names: &[&str]) -> String {
    format!("`{text}` is not a value of {name}; allowed are {}", list(names))
}

fn list(names: &[&str]) -> String {
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The regex crate's message is a picture of several lines; its last line is the sentence.
fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines()
        .last()
        .unwrap_or_default()
        .trim_start_matches("error: ")
        .to_owned()
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn column(&self) -> usize {
        self.text[..self.at].chars().count() + 1
    }

    fn error(&self, message: impl Into<String>) -> FilterError {
        FilterError {
            column: self.column(),
            message: message.into(),
        }
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn term(&mut self) -> Result<Term, FilterError> {
        self.skip_space();
        let mut negated = self.eat("!");
        self.skip_space();
        let field_column = self.column();
        let name = self.take(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
        if name.is_empty() {
            return Err(self.error("expected a field, like `peer_ip` or `flow.state`"));
        }
        self.skip_space();
        let op = if self.eat("==") {
            Op::Equal
        } else if self.eat("!=") {
            negated = !negated;
            Op::Equal
        } else if self.eat(">=") {
            Op::GreaterEqual
        } else if self.eat("<=") {
            Op::LessEqual
        } else if self.eat(">") {
            Op::Greater
        } else if self.eat("<") {
            Op::Less
        } else if self.eat("~") {
            Op::Like
        } else {
            return Err(self.error("expected one of ==, !=, >=, <=, >, <, ~"));
        };
        self.skip_space();
        let value_column = self.column();
        let value = self.value()?;
        term(negated, name, op, value, (field_column, value_column))
    }

    fn value(&mut self) -> Result<Literal, FilterError> {
        if !self.rest().starts_with('"') {
            let word = self.take(|c| c != ',' && c != '"').trim_end();
            return if word.is_empty() {
                Err(self.error("expected a value; write \"\" for the empty one"))
            } else {
                Ok(Literal {
                    text: word.to_owned(),
                    quoted: false,
                })
            };
        }
        let open = self.column();
        let mut text = String::new();
        let mut escaped = false;
        for (index, c) in self.rest().char_indices().skip(1) {
            match c {
                _ if escaped => {
                    text.push(c);
                    escaped = false;
                }
                '\\' => escaped = true,
                '"' => {
                    self.at += index + 1;
                    return Ok(Literal { text, quoted: true });
                }
                _ => text.push(c),
            }
        }
        Err(FilterError {
            column: open,
            message: "this quote is not closed".to_owned(),
        })
    }
}
