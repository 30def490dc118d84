//! Route templates: what many paths have in common, and nothing of what they carry.
//!
//! A path is cut at `?`, `#` and, in each segment, at `;`. Escapes are decoded once, `.` and `..` are resolved, empty
//! segments go. The patterns of the configuration come first, in their order; then each segment becomes, by the first
//! rule that fits:
//!
//! | segment | becomes |
//! |---|---|
//! | an escape that is more than a letter, a digit or `-._~`; not UTF-8; `=` in it; longer than 64 bytes | `:value` |
//! | something`@`something`.`something | `:email` |
//! | `2026-11`, `2026-11-21`, the same with a time behind `T` | `:date` |
//! | digits alone; a UUID; 8 and more hex digits with a decimal one among them, or 16 and more | `:id` |
//! | more than two decimal digits; 32 and more bytes without `-`, `_` or `.` | `:id` |
//! | anything else | itself |
//!
//! A variable segment keeps an ending of up to 4 lower-case letters: `/img/4711.png` is `/img/:id.png`. What is behind
//! the tenth segment is `/*`. A template is its own template.

use std::{borrow::Cow, sync::Arc};

use percent_encoding::percent_decode_str;

use crate::config::RoutePattern;

/// A longer segment is data.
const LONGEST_SEGMENT: usize = 64;
/// A path longer than this is not looked at.
const LONGEST_PATH: usize = 8 << 10;

/// Makes templates of paths.
#[derive(Clone, Debug, Default)]
pub struct Templates {
    patterns: Vec<RoutePattern>,
}

impl Templates {
    /// With patterns that come before the rules.
    pub fn new(patterns: &[RoutePattern]) -> Templates {
        Templates {
            patterns: patterns.to_vec(),
        }
    }

    /// The template of a request's target; `None` when it has no path (`CONNECT host:port`) or one that is too long.
    pub fn of(&self, target: &str) -> Option<Arc<str>> {
        let path = target.split(['?', '#']).next().unwrap_or_default();
        if path == "*" {
            return Some("*".into());
        }
        let path = if path.starts_with('/') {
            path
        } else {
            // Absolute form, as sent to proxies.
            let (scheme, rest) = path.split_once("://")?;
            if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return None;
            }
            rest.find('/').map_or("/", |slash| &rest[slash..])
        };
        if path.len() > LONGEST_PATH {
            return None;
        }
        if let Some(same) = self.patterns.iter().find(|pattern| **pattern.text() == *path) {
            return Some(same.text().clone());
        }
        let segments = segments(path);
        if let Some(pattern) = self.patterns.iter().find(|pattern| pattern.matches(&segments)) {
            return Some(pattern.text().clone());
        }
        let mut out = String::with_capacity(path.len());
        for (index, segment) in segments.iter().enumerate() {
            out.push('/');
            if index == RoutePattern::MOST_SEGMENTS {
                out.push('*');
                break;
            }
            push(&mut out, segment);
        }
        if out.is_empty() {
            out.push('/');
        }
        Some(out.into())
    }
}

/// Decoded segments without parameters, empty ones and dots.
fn segments(path: &str) -> Vec<Cow<'_, str>> {
    let mut segments: Vec<Cow<'_, str>> = Vec::new();
    for raw in path.split('/') {
        let raw = raw.split(';').next().unwrap_or_default();
        // What is not UTF-8 gets a character that is not plain.
        let segment = percent_decode_str(raw).decode_utf8_lossy();
        match &*segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    segments
}

fn push(out: &mut String, segment: &str) {
    let class = class(segment);
    let Some(class) = class else {
        out.push_str(segment);
        return;
    };
    out.push_str(class);
    if class == ID
        && let Some((_, ending)) = segment.rsplit_once('.')
        && (1..=4).contains(&ending.len())
        && ending.bytes().all(|byte| byte.is_ascii_lowercase())
    {
        out.push('.');
        out.push_str(ending);
    }
}

const ID: &str = ":id";

/// What stands for a segment; `None`: itself.
fn class(segment: &str) -> Option<&'static str> {
    let bytes = segment.as_bytes();
    if bytes.len() > LONGEST_SEGMENT
        || !bytes
            .iter()
            .all(|byte| RoutePattern::is_plain(*byte) && *byte != b'=')
    {
        return Some(":value");
    }
    if let Some((user, host)) = segment.split_once('@')
        && !user.is_empty()
        && host
            .split_once('.')
            .is_some_and(|(a, b)| !a.is_empty() && !b.is_empty())
    {
        return Some(":email");
    }
    if is_date(bytes) {
        return Some(":date");
    }
    let digits = bytes.iter().filter(|byte| byte.is_ascii_digit()).count();
    let letters = bytes.iter().filter(|byte| byte.is_ascii_alphabetic()).count();
    let hex = bytes.iter().all(u8::is_ascii_hexdigit);
    let random = bytes.len() >= 32 && !bytes.iter().any(|byte| b".-_".contains(byte));
    let id = digits > 2
        || (digits > 0 && letters == 0)
        || (hex && bytes.len() >= if digits > 0 { 8 } else { 16 })
        || random;
    id.then_some(ID)
}

/// `YYYY-MM`, `YYYY-MM-DD`, and anything behind a `T`.
fn is_date(bytes: &[u8]) -> bool {
    let shape = |from: usize, len: usize| {
        bytes
            .get(from..from + len)
            .is_some_and(|part| part.iter().all(u8::is_ascii_digit))
    };
    let month = shape(0, 4) && bytes.get(4) == Some(&b'-') && shape(5, 2);
    let day = month && bytes.get(7) == Some(&b'-') && shape(8, 2);
    (month && bytes.len() == 7) || (day && (bytes.len() == 10 || bytes.get(10) == Some(&b'T')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(patterns: &[&str]) -> Templates {
        let patterns: Vec<_> = patterns
            .iter()
            .map(|text| text.parse().expect("a pattern"))
            .collect();
        Templates::new(&patterns)
    }

    fn of(target: &str) -> Option<String> {
        Templates::default().of(target).map(|route| route.to_string())
    }

    #[test]
    fn what_varies_is_left_out() {
        for (target, route) in [
            ("/", "/"),
            ("", ""),
            ("*", "*"),
            ("//", "/"),
            ("/index.html", "/index.html"),
            ("/api/v1/users/4711", "/api/v1/users/:id"),
            ("/api/v1/users/4711/?secret=1", "/api/v1/users/:id"),
            ("/a#fragment", "/a"),
            ("/u/0e2ac7a4-98f6-4b0e-a1b5-3c4c9a6f1a11", "/u/:id"),
            ("/c/da39a3ee5e6b4b0d3255bfef95601890afd80709", "/c/:id"),
            ("/c/deadbeefdeadbeef", "/c/:id"),
            ("/c/facade", "/c/facade"),
            ("/t/c2VjcmV0IGlkIG9mIHNvbWVvbmU", "/t/:id"),
            ("/t/dGhpc19pc19ub3RfcmVhbGx5X2Ffd29yZA", "/t/:id"),
            ("/t/abcdefghijklmnopqrstuvwxyzABCDEFGH", "/t/:id"),
            ("/t/getUserByNameAndPassword", "/t/getUserByNameAndPassword"),
            ("/d/2026-11-21", "/d/:date"),
            ("/d/2026-11", "/d/:date"),
            ("/d/2026-11-21T10:11:12Z", "/d/:date"),
            ("/m/jane.doe@example.org", "/m/:email"),
            ("/m/jane%40example.org", "/m/:email"),
            ("/img/4711.png", "/img/:id.png"),
            ("/js/app.3f2a9c1b.js", "/js/:id.js"),
            ("/oauth2/s3/log4j", "/oauth2/s3/log4j"),
            ("/user-123", "/:id"),
            ("/caf%C3%A9", "/:value"),
            ("/caf\u{e9}", "/:value"),
            ("/a%20b", "/:value"),
            ("/a%2Fb", "/:value"),
            ("/%ff%fe", "/:value"),
            ("/%2541", "/:value"),
            ("/%41bc", "/Abc"),
            ("/user=jane", "/:value"),
            ("/x;jsessionid=abcdef/y", "/x/y"),
            ("/a/../b/./c", "/b/c"),
            ("/a/%2e%2e/b", "/b"),
            ("/../../etc/passwd", "/etc/passwd"),
            ("http://example.org:80/a/1?q", "/a/:id"),
            ("http://example.org", "/"),
            ("/a/b/c/d/e/f/g/h/i/j/k/l", "/a/b/c/d/e/f/g/h/i/j/*"),
        ] {
            let expected = (!route.is_empty()).then(|| route.to_owned());
            assert_eq!(of(target), expected, "{target}");
        }
        assert_eq!(of("example.org:443"), None);
        assert_eq!(of(&format!("/{}", "a".repeat(65))).as_deref(), Some("/:value"));
        assert_eq!(of(&"/a".repeat(LONGEST_PATH)), None);
    }

    #[test]
    fn patterns_come_first() {
        let templates = with(&["/users/me", "/users/:name", "/files/*", "/:lang/about"]);
        let of = |target| templates.of(target).map(|route| route.to_string());
        assert_eq!(of("/users/me").as_deref(), Some("/users/me"));
        assert_eq!(of("/users/jane?x=y").as_deref(), Some("/users/:name"));
        assert_eq!(of("/users/jane/posts").as_deref(), Some("/users/jane/posts"));
        assert_eq!(of("/files/a/b/c").as_deref(), Some("/files/*"));
        assert_eq!(of("/files").as_deref(), Some("/files"));
        assert_eq!(of("/de/about").as_deref(), Some("/:lang/about"));
        assert_eq!(with(&["/*"]).of("/x/y").as_deref(), Some("/*"));
    }

    fn target() -> impl Strategy<Value = String> {
        let segment = prop_oneof![
            "[a-z]{1,8}",
            "[0-9]{1,9}",
            "[0-9a-f]{6,40}",
            "[A-Za-z0-9_-]{10,70}",
            Just("..".to_owned()),
            "%[0-9a-f]{2}[a-z]{0,4}",
            "[a-z]{1,3};[a-z]=[0-9]",
            ":[a-z]{1,5}",
            Just("*".to_owned()),
            ".{0,6}",
            Just("users".to_owned()),
            "[0-9]{3}\\.[a-z]{2,5}",
            "[a-z]{1,4}@[a-z]{1,3}\\.[a-z]{1,3}",
        ];
        proptest::collection::vec(segment, 0..14).prop_map(|segments| format!("/{}", segments.join("/")))
    }

    proptest! {
        #[test]
        fn a_template_is_its_own_template(target in target()) {
            let plain = Templates::default();
            let own = with(&["/users/me", "/users/:name", "/users/*", "/:any", "/a/:b", "/*"]);
            let few = with(&["/users/:name", "/users/:name/*", "/a/b"]);
            for templates in [plain, own, few] {
                let once = templates.of(&target);
                if let Some(once) = &once {
                    let twice = templates.of(once);
                    prop_assert_eq!(twice.as_ref(), Some(once));
                    prop_assert!(!once.contains(['?', '#', '%', ';', '=']), "{}", once);
                    prop_assert!(once.len() <= 11 * (LONGEST_SEGMENT + 1));
                }
            }
        }

        #[test]
        fn nothing_behind_the_path_shows(path in "/[a-z]{1,5}", query in "\\PC{0,40}") {
            let bare = of(&path);
            prop_assert_eq!(of(&format!("{path}?{query}")), bare.clone());
            prop_assert_eq!(of(&format!("{path}#{query}")), bare);
        }
    }
}
