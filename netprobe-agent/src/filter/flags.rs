//! Flags and query parameters to terms.

use super::{FilterError, Op, Term, parse};

/// A flag, which is also a query parameter.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Its name.
    pub name: &'static str,
    /// What stands for its value in help texts.
    pub value: &'static str,
    /// One line of help.
    pub help: &'static str,
}

/// Every flag that takes a value, in the order of help texts.
pub const FLAGS: &[Flag] = &[
    flag(
        "filter",
        "EXPRESSION",
        "terms of the filter grammar, e.g. 'bytes_sent>1000,process.comm~^nginx'",
    ),
    flag(
        "ip",
        "ADDRESS",
        "address or network (10.0.0.0/8) on either side, before or after translation",
    ),
    flag("port", "PORT", "port on either side, before or after translation"),
    flag(
        "from-ip",
        "ADDRESS",
        "address or network of the side that opened the connection",
    ),
    flag("from-port", "PORT", "port of the side that opened the connection"),
    flag(
        "to-ip",
        "ADDRESS",
        "address or network of the side that was dialed",
    ),
    flag("to-port", "PORT", "port of the side that was dialed"),
    flag("pid", "PID", "process that connected, accepted, sent or received"),
    flag("comm", "NAME", "command name of that process"),
    flag("service", "NAME", "container, systemd service or command name"),
    flag(
        "route",
        "GLOB",
        "route of a request; * stays within a segment, ** does not",
    ),
    flag("method", "NAME", "method of a request"),
    flag("status", "CODE", "status of a request: 404 or 5xx"),
    flag(
        "severity",
        "LEVEL",
        "debug, info, warning, error or critical, or worse",
    ),
    flag("kind", "KIND", "flow, request, gap or agent"),
    flag("state", "STATE", "open, update, closed or failed"),
    flag(
        "nat",
        "STATUS",
        "none, snat, dnat, snat+dnat, unresolved or unavailable",
    ),
];

const fn flag(name: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag { name, value, help }
}

pub(super) fn filter<K: AsRef<str>, V: AsRef<str>>(
    pairs: impl IntoIterator<Item = (K, V)>,
) -> Result<Vec<Term>, FilterError> {
    let mut terms = Vec::new();
    let mut negate = false;
    let whole = |message: String| FilterError { column: 1, message };
    for (name, value) in pairs {
        let (name, value) = (name.as_ref().replace('_', "-"), value.as_ref());
        if name == "not" {
            if negate {
                return Err(whole(
                    "`not` stands twice; it negates the one parameter after it".to_owned(),
                ));
            }
            negate = true;
            continue;
        }
        let negated = std::mem::take(&mut negate);
        if name == "filter" {
            let mut inner = parse::filter(value)?;
            if negated {
                let [term] = inner.as_mut_slice() else {
                    return Err(whole(
                        "`not` negates one term, and this filter has another number of them; write ! before a term"
                            .to_owned(),
                    ));
                };
                term.negated = !term.negated;
            }
            terms.extend(inner);
            continue;
        }
        let term = desugar(&name, value, negated)
            .map_err(|error| whole(format!("{name}={value}: {}", error.message)))?;
        terms.push(term);
    }
    if negate {
        return Err(whole(
            "`not` stands last; it negates the parameter after it".to_owned(),
        ));
    }
    Ok(terms)
}

fn desugar(name: &str, value: &str, negated: bool) -> Result<Term, FilterError> {
    let (field, op, text) = match name {
        "ip" | "port" | "pid" | "comm" | "service" | "method" | "kind" | "state" | "nat" => {
            (name, Op::Equal, value.to_owned())
        }
        "from-ip" => ("from.ip", Op::Equal, value.to_owned()),
        "from-port" => ("from.port", Op::Equal, value.to_owned()),
        "to-ip" => ("to.ip", Op::Equal, value.to_owned()),
        "to-port" => ("to.port", Op::Equal, value.to_owned()),
        "severity" => ("severity", Op::GreaterEqual, value.to_owned()),
        "route" => ("route", Op::Like, glob(value)),
        "status" => match value.as_bytes() {
            [class @ b'1'..=b'9', b'x' | b'X', b'x' | b'X'] => {
                ("status", Op::Like, format!("^{}..$", char::from(*class)))
            }
            _ => ("status", Op::Equal, value.to_owned()),
        },
        _ => {
            let names: Vec<_> = FLAGS.iter().map(|flag| flag.name).collect();
            let message = format!(
                "there is no such parameter; allowed are not, {}",
                names.join(", ")
            );
            return Err(FilterError { column: 1, message });
        }
    };
    parse::term(negated, field, op, parse::Literal::quoted(text), (1, 1))
}

/// A glob as a regular expression: `**` is anything, `*` anything but `/`, `?` one character but `/`.
fn glob(pattern: &str) -> String {
    let mut expression = String::from("^");
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '*' if rest.next_if_eq(&'*').is_some() => expression.push_str(".*"),
            '*' => expression.push_str("[^/]*"),
            '?' => expression.push_str("[^/]"),
            c => expression.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    expression.push('$');
    expression
}
