//! Wall-clock time in events.

use std::{
    borrow::Cow,
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use jiff::fmt::temporal::DateTimePrinter;
use serde::{Deserialize, Serialize};

/// Nanoseconds since the Unix epoch; RFC 3339 in UTC with all nine digits where people read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, utoipa::ToSchema)]
#[schema(value_type = String, format = DateTime)]
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

/// Room for `2026-11-21T10:00:00.123456789Z`: an event has two times, so their text goes through no formatter.
#[derive(Default)]
struct Text {
    bytes: [u8; 30],
    len: usize,
}

impl Text {
    /// `None` never: every `i64` of nanoseconds lies within the years 1677 to 2262.
    fn print(&mut self, time: Nanos) -> Option<&str> {
        const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(9));
        let (second, nanos) = (time.0.div_euclid(1_000_000_000), time.0.rem_euclid(1_000_000_000));
        let time = jiff::Timestamp::new(second, i32::try_from(nanos).ok()?).ok()?;
        PRINTER.print_timestamp(&time, &mut *self).ok()?;
        std::str::from_utf8(self.bytes.get(..self.len)?).ok()
    }
}

impl jiff::fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> Result<(), jiff::Error> {
        let end = self.len + text.len();
        let room = self.bytes.get_mut(self.len..end);
        room.ok_or_else(|| jiff::Error::from_args(format_args!("no room for a time")))?
            .copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Text::default();
        f.write_str(text.print(*self).ok_or(fmt::Error)?)
    }
}

impl Serialize for Nanos {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = Text::default();
        let text = text.print(*self);
        serializer.serialize_str(text.ok_or_else(|| serde::ser::Error::custom("time without text"))?)
    }
}

impl<'de> Deserialize<'de> for Nanos {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Nanos::parse(&text).map_err(serde::de::Error::custom)
    }
}
