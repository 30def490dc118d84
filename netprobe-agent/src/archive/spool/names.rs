//! Names of the files in a spool.

use std::sync::Arc;

/// End of the name of a file in quarantine.
pub(super) const QUARANTINED: &str = ".quarantined";

/// What a file is, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// Mark of a run.
    Run(Arc<str>),
    /// Open segment: run and first number.
    Open(Arc<str>, u64),
    /// Object of a sealed segment.
    Object(u64),
    /// Its manifest.
    Manifest(u64),
    /// Its manifest, once the archive has both.
    Done(u64),
    /// Unfinished.
    Draft,
    /// In quarantine.
    Quarantined,
    /// A key.
    Key,
    /// Place of a follower.
    Cursor,
}

impl Name {
    /// Reads a name; `None` is somebody else's file.
    pub fn parse(name: &str) -> Option<Name> {
        let number = |text: &str| (text.len() == 12).then(|| text.parse().ok()).flatten();
        let (stem, end) = name.split_once('.')?;
        if name.ends_with(QUARANTINED) {
            return Some(Name::Quarantined);
        }
        if name.ends_with(".tmp") {
            return Some(Name::Draft);
        }
        match end {
            "run" if is_run(stem) => Some(Name::Run(stem.into())),
            "open" => {
                let (run, seq) = stem.split_once('-')?;
                let seq = (seq.len() == 20).then(|| seq.parse().ok()).flatten()?;
                is_run(run).then(|| Name::Open(run.into(), seq))
            }
            "jsonl.zst" => number(stem).map(Name::Object),
            "manifest.json" => number(stem).map(Name::Manifest),
            "done.json" => number(stem).map(Name::Done),
            "key" => Some(Name::Key),
            "cursor" => Some(Name::Cursor),
            _ => None,
        }
    }

    /// The name. Drafts, keys, cursors and quarantine have names of their own.
    pub fn text(&self) -> String {
        match self {
            Name::Run(run) => format!("{run}.run"),
            Name::Open(run, seq) => format!("{run}-{seq:020}.open"),
            Name::Object(number) => format!("{number:012}.jsonl.zst"),
            Name::Manifest(number) => format!("{number:012}.manifest.json"),
            Name::Done(number) => format!("{number:012}.done.json"),
            Name::Draft | Name::Quarantined | Name::Key | Name::Cursor => String::new(),
        }
    }
}

fn is_run(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for name in [
            Name::Run("00f1e2d3c4b5a697".into()),
            Name::Open("00f1e2d3c4b5a697".into(), u64::MAX),
            Name::Object(7),
            Name::Manifest(7),
            Name::Done(123_456_789_012),
        ] {
            assert_eq!(Name::parse(&name.text()), Some(name));
        }
        for (text, name) in [
            ("000000000007.manifest.json.tmp", Some(Name::Draft)),
            ("x.open.quarantined", Some(Name::Quarantined)),
            ("signing.key", Some(Name::Key)),
            ("kafka.cursor", Some(Name::Cursor)),
            ("7.jsonl.zst", None),
            ("notes.txt", None),
            ("lost+found", None),
            ("a-1.open", None),
        ] {
            assert_eq!(Name::parse(text), name, "{text}");
        }
    }
}
