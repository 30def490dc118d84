//! Patterns of routes, as an operator writes them.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use super::value::as_text;

/// A pattern like `/users/:name/posts/*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutePattern {
    text: Arc<str>,
    parts: Vec<Part>,
    /// It ends with `*`.
    open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Word(Box<str>),
    Any,
}

impl RoutePattern {
    /// Most segments of a template.
    pub const MOST_SEGMENTS: usize = 10;

    /// Bytes that stand for themselves in a segment of a path.
    pub fn is_plain(byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte)
    }

    /// The pattern as it was written.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Whether it fits decoded segments.
    pub fn matches(&self, segments: &[Cow<'_, str>]) -> bool {
        let enough = if self.open {
            segments.len() > self.parts.len()
        } else {
            segments.len() == self.parts.len()
        };
        enough
            && self.parts.iter().zip(segments).all(|(part, segment)| match part {
                Part::Word(word) => **word == **segment,
                Part::Any => true,
            })
    }
}

impl FromStr for RoutePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<RoutePattern, String> {
        let wrong = |what: &str| Err(format!("`{text}` is not a route: {what}"));
        let Some(rest) = text.strip_prefix('/') else {
            return wrong("it begins with `/`");
        };
        let (rest, open) = match rest.strip_suffix('*') {
            Some("") => ("", true),
            Some(before) => match before.strip_suffix('/') {
                Some("") => return wrong("a segment is not empty"),
                Some(before) => (before, true),
                None => return wrong("`*` is a whole segment, the last one"),
            },
            None => (rest, false),
        };
        let mut parts = Vec::new();
        for segment in rest.split('/').filter(|_| !rest.is_empty()) {
            let plain = |byte: u8| RoutePattern::is_plain(byte) && byte != b'*';
            if matches!(segment, "" | "." | "..") || !segment.bytes().all(plain) {
                return wrong(
                    "a segment is letters, digits and -._~!$&'()+,=:@, or `:` and a name for any one segment",
                );
            }
            parts.push(if segment.starts_with(':') {
                Part::Any
            } else {
                Part::Word(segment.into())
            });
        }
        if parts.len() + usize::from(open) > RoutePattern::MOST_SEGMENTS {
            return wrong("it has more than 10 segments");
        }
        Ok(RoutePattern {
            text: text.into(),
            parts,
            open,
        })
    }
}

impl fmt::Display for RoutePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

as_text!(RoutePattern);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_are_none_are_refused() {
        for text in [
            "",
            "users",
            "/a/*/b",
            "/a*",
            "/a//b",
            "/a/../b",
            "/a b",
            "/a?b",
            "/a;b",
            "//*",
            "/a/b/c/d/e/f/g/h/i/j/k",
        ] {
            assert!(text.parse::<RoutePattern>().is_err(), "{text}");
        }
        for text in ["/", "/*", "/a/:b/c", "/a.b/~c", "/a/*"] {
            assert_eq!(
                text.parse::<RoutePattern>()
                    .map(|route| route.to_string())
                    .as_deref(),
                Ok(text)
            );
        }
    }
}
