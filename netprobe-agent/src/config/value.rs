//! Values with a range: refused while they are read, so that the error has a line.

use std::{collections::BTreeMap, fmt, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize, de::Error};

/// In the configuration a value of this type is what it is as text.
macro_rules! as_text {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(super) use as_text;

/// A span of time, written like `10ms`, `1s` or `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

impl Period {
    /// This many milliseconds.
    pub const fn millis(millis: u64) -> Period {
        Period(Duration::from_millis(millis))
    }

    /// This many seconds.
    pub const fn seconds(seconds: u64) -> Period {
        Period(Duration::from_secs(seconds))
    }

    /// Reads a span of time as people write it.
    pub fn parse(text: &str) -> Result<Period, String> {
        let signed: jiff::SignedDuration = text.parse().map_err(|_| {
            format!("`{text}` is not a duration; write a number and a unit, like 10ms, 30s, 5m or 1h")
        })?;
        Duration::try_from(signed)
            .map(Period)
            .map_err(|_| format!("`{text}` is negative; a duration is not"))
    }

    /// Reads one and holds it against its range.
    pub(super) fn between<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
        least: Period,
        most: Period,
    ) -> Result<Period, D::Error> {
        let period = Period::deserialize(deserializer)?;
        if (least..=most).contains(&period) {
            Ok(period)
        } else {
            Err(D::Error::custom(format_args!(
                "`{period}` is out of range; allowed is {least} to {most}"
            )))
        }
    }
}

/// Reads a share of a whole.
pub(super) fn share<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let share = f64::deserialize(deserializer)?;
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err(D::Error::custom(format_args!("a share is 0 to 1, not {share}")))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::SignedDuration::try_from(self.0) {
            Ok(signed) => write!(f, "{signed:#}"),
            Err(_) => write!(f, "{}s", self.0.as_secs()),
        }
    }
}

impl Serialize for Period {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Period::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Size of a ring buffer: the kernel wants a power of two of whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct RingBytes(u32);

impl RingBytes {
    /// Smallest ring.
    pub const LEAST: u32 = 64 << 10;
    /// Largest ring.
    pub const MOST: u32 = 1 << 30;

    /// A size, if it is allowed.
    pub const fn new(bytes: u32) -> Option<RingBytes> {
        if bytes >= Self::LEAST && bytes <= Self::MOST && bytes.is_power_of_two() {
            Some(RingBytes(bytes))
        } else {
            None
        }
    }

    /// The size in bytes.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Default for RingBytes {
    fn default() -> Self {
        RingBytes(8 << 20)
    }
}

impl<'de> Deserialize<'de> for RingBytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = u64::deserialize(deserializer)?;
        u32::try_from(bytes).ok().and_then(RingBytes::new).ok_or_else(|| {
            D::Error::custom(format_args!(
                "{bytes} is not allowed; a ring is a power of two from {} to {} bytes",
                RingBytes::LEAST,
                RingBytes::MOST
            ))
        })
    }
}

/// A count that may not be zero.
pub(super) fn at_least_one<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match usize::deserialize(deserializer)? {
        0 => Err(D::Error::custom("0 is not allowed; at least 1 is")),
        count => Ok(count),
    }
}

/// Whether nothing is set behind the prefix of a network: which one was meant is not known otherwise.
fn whole(network: &IpNet) -> Result<(), String> {
    if network.trunc() == *network {
        return Ok(());
    }
    Err(format!(
        "`{network}` has bits set behind its prefix; write {}",
        network.trunc()
    ))
}

/// Networks with names. One may lie within another, of which it is the exception.
pub(super) fn named_networks<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<IpNet, String>, D::Error> {
    let networks = BTreeMap::<IpNet, String>::deserialize(deserializer)?;
    networks.keys().try_for_each(whole).map_err(D::Error::custom)?;
    Ok(networks)
}

/// A list of networks of which none lies within another: that one would be without effect, and is a mistake.
pub(super) fn networks<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let networks = Vec::<IpNet>::deserialize(deserializer)?;
    for (index, network) in networks.iter().enumerate() {
        whole(network).map_err(D::Error::custom)?;
        for other in &networks[index + 1..] {
            let (outer, inner) = if other.contains(network) {
                (other, network)
            } else {
                (network, other)
            };
            if outer.contains(inner) {
                return Err(D::Error::custom(format_args!(
                    "`{inner}` lies within `{outer}`; leave one of them out"
                )));
            }
        }
    }
    Ok(networks)
}
