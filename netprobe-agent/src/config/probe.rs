//! `[probe]`.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::value::{Period, RingBytes, networks};

/// What is measured in the kernel, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProbeConfig {
    /// Fact = method: use this method or fail, instead of the best one that works. `off`: do without this fact.
    /// `netprobe doctor` lists both.
    /// Example: methods = { nat = "ctnetlink" }
    pub methods: BTreeMap<String, String>,
    /// Size of the ring buffer between kernel and agent: a power of two from 65536 (64 KiB) to 1073741824 (1 GiB).
    #[schema(value_type = u32)]
    pub ring_bytes: RingBytes,
    /// Size of the second ring buffer, for payload that requests are read from: as ring_bytes.
    #[schema(value_type = u32)]
    pub payload_ring_bytes: RingBytes,
    /// Longest time a record waits in the ring before the agent reads it: 1ms to 1s.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "drain_interval")]
    pub drain_interval: Period,
    /// Time between two samples of the counters of a live connection: 100ms to 1h.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "sample_interval")]
    pub sample_interval: Period,
    /// Only connections whose serving side has one of these ports. Empty: all. Not together with ports_except.
    pub ports_only: Vec<u16>,
    /// No connections whose serving side has one of these ports.
    pub ports_except: Vec<u16>,
    /// Only connections with a remote address in one of these networks, like "10.0.0.0/8". Empty: all.
    /// Not together with cidrs_except. No network may lie within another of the list.
    #[schema(value_type = Vec<String>)]
    #[serde(deserialize_with = "networks")]
    pub cidrs_only: Vec<IpNet>,
    /// No connections with a remote address in one of these networks.
    #[schema(value_type = Vec<String>)]
    #[serde(deserialize_with = "networks")]
    pub cidrs_except: Vec<IpNet>,
    /// Only connections of this network namespace, a file like /run/netns/blue or /proc/1/ns/net as it is when the agent
    /// starts: for an agent that stands for one of several hosts on a machine. Empty: all. DNS, and requests of
    /// connections older than the agent, are not read then.
    pub netns: String,
    /// Whether the agent's own connections are reported.
    pub own_traffic: bool,
    /// Whether UDP is followed.
    pub udp: bool,
    /// Whether sums of send and receive calls are checked against the kernel's own counters.
    pub byte_check: bool,
    /// Whether BPF run statistics are switched on while the agent runs: cost per program, for some ns a run.
    pub statistics: bool,
    /// Processors the agent may use, like 0.5: it sheds detail before it uses more. 0: as many as it takes.
    #[serde(deserialize_with = "cpu_budget")]
    pub cpu_budget: f64,
    /// For benchmarks: attach programs that return at once. Nothing is reported then.
    pub empty_programs: bool,
    /// Whether the BPF programs write debug lines into the log from the start. SIGUSR1 switches them on
    /// together with log level debug, SIGUSR2 goes back to the configuration.
    pub kernel_log: bool,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        ProbeConfig {
            methods: BTreeMap::new(),
            ring_bytes: RingBytes::default(),
            payload_ring_bytes: RingBytes::default(),
            drain_interval: Period::millis(10),
            sample_interval: Period::seconds(1),
            ports_only: Vec::new(),
            ports_except: Vec::new(),
            cidrs_only: Vec::new(),
            cidrs_except: Vec::new(),
            netns: String::new(),
            own_traffic: false,
            udp: true,
            byte_check: true,
            statistics: false,
            cpu_budget: 0.5,
            empty_programs: false,
            kernel_log: false,
        }
    }
}

fn cpu_budget<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let processors = f64::deserialize(deserializer)?;
    if (0.0..=1024.0).contains(&processors) {
        Ok(processors)
    } else {
        Err(serde::de::Error::custom(format_args!(
            "a budget is 0 to 1024 processors, not {processors}"
        )))
    }
}

fn drain_interval<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
    Period::between(deserializer, Period::millis(1), Period::seconds(1))
}

fn sample_interval<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
    Period::between(deserializer, Period::millis(100), Period::seconds(3600))
}
