//! Wall-clock time in events.

use std::{
    borrow::Cow,
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// Nanoseconds since the Unix epoch; RFC 3339 in UTC with all nine digits where people read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub i64);

impl Nanos {
    /// The time of the system clock.
    pub fn now() -> Nanos {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => Nanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)),
            Err(before) => {
                Nanos(i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, i64::wrapping_neg))
            }
        }
    }

    /// Reads RFC 3339.
    pub fn parse(text: &str) -> Result<Nanos, jiff::Error> {
        let nanos = text.parse::<jiff::Timestamp>()?.as_nanosecond();
        Ok(Nanos(i64::try_from(nanos).unwrap_or(if nanos < 0 {
            i64::MIN
        } else {
            i64::MAX
        })))
    }
}

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every i64 of nanoseconds lies within jiff's range of years.
        let time = jiff::Timestamp::from_nanosecond(i128::from(self.0)).map_err(|_| fmt::Error)?;
        write!(f, "{time:.9}")
    }
}

impl Serialize for Nanos {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Nanos {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Nanos::parse(&text).map_err(serde::de::Error::custom)
    }
}
