//! Names of objects in the archive.
//!
//! `v1/date=YYYY-MM-DD/hour=HH/host={host}/{run}-{first_seq}-{last_seq}.jsonl.zst` below the prefix, with the manifest
//! beside it. Hive partitions, so that engines which know them read only what they need.

use crate::event::Nanos;

/// End of an object's name.
pub const OBJECT: &str = ".jsonl.zst";
/// End of a manifest's name.
pub const MANIFEST: &str = ".manifest.json";
/// End of a tombstone's name.
pub const TOMBSTONE: &str = ".tombstone.json";
/// Version of the layout, first part of every name.
pub const ROOT: &str = "v1";

const HOUR_NS: i64 = 3_600_000_000_000;

/// Hours since the epoch: events of one segment are of one hour.
pub const fn hour(ts: Nanos) -> i64 {
    ts.0.div_euclid(HOUR_NS)
}

/// Name of the object of a segment, below the prefix.
pub fn key(host: &str, run: &str, first_seq: u64, last_seq: u64, first_ts: Nanos) -> String {
    // RFC 3339: date and hour stand at fixed places.
    let time = first_ts.to_string();
    let (date, hour) = (&time[..10], &time[11..13]);
    format!(
        "{ROOT}/date={date}/hour={hour}/host={}/{run}-{first_seq:020}-{last_seq:020}{OBJECT}",
        encode(host)
    )
}

/// `date=…` of a time.
pub fn date(ts: Nanos) -> String {
    format!("date={}", &ts.to_string()[..10])
}

/// The name without its ending, whatever of the three it has.
pub fn stem(key: &str) -> &str {
    [OBJECT, MANIFEST, TOMBSTONE]
        .iter()
        .find_map(|end| key.strip_suffix(end))
        .unwrap_or(key)
}

/// Percent-encodes what is not plain in a host name.
pub fn encode(host: &str) -> String {
    let mut text = String::with_capacity(host.len());
    for byte in host.bytes() {
        // A name of dots alone would be a step up the tree.
        let plain = byte.is_ascii_alphanumeric()
            || byte == b'-'
            || byte == b'_'
            || (byte == b'.' && host.bytes().any(|other| other != b'.'));
        if plain {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_documented() {
        let ts = Nanos::parse("2026-11-21T10:59:59.5Z").unwrap();
        assert_eq!(
            key("web-1.example", "00f1e2d3c4b5a697", 7, 1234, ts),
            "v1/date=2026-11-21/hour=10/host=web-1.example/00f1e2d3c4b5a697-00000000000000000007-00000000000000001234.jsonl.zst"
        );
        assert_eq!(date(ts), "date=2026-11-21");
        assert_eq!(stem("a/b.manifest.json"), "a/b");
        assert_eq!(stem("a/b.jsonl.zst"), "a/b");
    }

    #[test]
    fn hosts_cannot_leave_their_folder() {
        assert_eq!(encode("a/../b c=ü%"), "a%2F..%2Fb%20c%3D%C3%BC%25");
        assert_eq!(encode(".."), "%2E%2E");
    }

    #[test]
    fn hours_change_on_the_hour() {
        let at = |text: &str| hour(Nanos::parse(text).unwrap());
        assert_eq!(at("2026-11-21T10:00:00Z"), at("2026-11-21T10:59:59.999999999Z"));
        assert_eq!(at("2026-11-21T11:00:00Z"), at("2026-11-21T10:00:00Z") + 1);
    }
}
