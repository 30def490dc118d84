//! The kernel-side filter: which ports and networks are followed, as maps the programs look into.

use std::net::{IpAddr, Ipv6Addr};

use aya::{
    Ebpf,
    maps::{Array, LpmTrie, MapError, lpm_trie::Key},
};
use ipnet::IpNet;
use netprobe_common::FlowKey;

use crate::{config::ProbeConfig, error::AgentError};

/// Bits in front of an IPv4 address in its mapped form.
const MAPPED: u8 = 96;

/// Which list counts: `only` wins over `except`, as in the knobs.
fn listed<'a, T>(only: &'a [T], except: &'a [T]) -> &'a [T] {
    if only.is_empty() { except } else { only }
}

/// Fills the maps. Done before anything is attached, so that no connection is judged by half a list.
pub fn fill(ebpf: &mut Ebpf, config: &ProbeConfig) -> Result<(), AgentError> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        AgentError::other(
            format!("the {what} filter cannot be set: {error}"),
            "list fewer of them",
        )
    };
    let missing = |name: &str| MapError::InvalidName {
        name: name.to_owned(),
    };
    let mut ports = ebpf
        .map_mut("FILTER_PORTS")
        .ok_or_else(|| missing("FILTER_PORTS"))
        .and_then(Array::<_, u8>::try_from)
        .map_err(|error| failed("port", &error))?;
    for port in listed(&config.ports_only, &config.ports_except) {
        ports
            .set(u32::from(*port), 1, 0)
            .map_err(|error| failed("port", &error))?;
    }
    let mut networks = ebpf
        .map_mut("FILTER_NETWORKS")
        .ok_or_else(|| missing("FILTER_NETWORKS"))
        .and_then(LpmTrie::<_, [u8; 16], u8>::try_from)
        .map_err(|error| failed("network", &error))?;
    for network in listed(&config.cidrs_only, &config.cidrs_except) {
        let (prefix, address) = mapped(network);
        networks
            .insert(&Key::new(prefix, address.octets()), 1, 0)
            .map_err(|error| failed("network", &error))?;
    }
    Ok(())
}

/// A network in the 128-bit form of the programs.
fn mapped(network: &IpNet) -> (u32, Ipv6Addr) {
    match network {
        IpNet::V4(v4) => (u32::from(MAPPED + v4.prefix_len()), v4.network().to_ipv6_mapped()),
        IpNet::V6(v6) => (u32::from(v6.prefix_len()), v6.network()),
    }
}

/// Whether a connection older than the agent is left out. Which side serves is not known for sure, so either port
/// counts.
pub fn excludes_older(config: &ProbeConfig, key: &FlowKey) -> bool {
    let ports = [key.local_port, key.remote_port];
    let named = |list: &[u16]| ports.iter().any(|port| list.contains(port));
    let remote = Ipv6Addr::from(key.remote_addr).to_canonical();
    let inside = |list: &[IpNet]| list.iter().any(|network| holds(network, remote));
    excludes(&config.ports_only, &config.ports_except, named)
        || excludes(&config.cidrs_only, &config.cidrs_except, inside)
}

fn excludes<T>(only: &[T], except: &[T], hit: impl Fn(&[T]) -> bool) -> bool {
    if only.is_empty() { hit(except) } else { !hit(only) }
}

fn holds(network: &IpNet, address: IpAddr) -> bool {
    network.contains(&address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(remote: &str, local_port: u16, remote_port: u16) -> FlowKey {
        let remote: IpAddr = remote.parse().unwrap();
        let remote_addr = match remote {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        FlowKey {
            remote_addr,
            local_port,
            remote_port,
            ..FlowKey::default()
        }
    }

    #[test]
    fn networks_take_the_mapped_form() {
        let (prefix, address) = mapped(&"10.1.2.3/8".parse().unwrap());
        assert_eq!((prefix, address), (104, "::ffff:10.0.0.0".parse().unwrap()));
        let (prefix, address) = mapped(&"2001:db8::1/32".parse().unwrap());
        assert_eq!((prefix, address), (32, "2001:db8::".parse().unwrap()));
    }

    #[test]
    fn older_connections_follow_the_same_lists() {
        let mut config = ProbeConfig::default();
        assert!(!excludes_older(&config, &key("10.0.0.1", 1, 2)));
        config.ports_only = vec![443];
        assert!(excludes_older(&config, &key("10.0.0.1", 1, 2)));
        assert!(!excludes_older(&config, &key("10.0.0.1", 40_000, 443)));
        assert!(!excludes_older(&config, &key("10.0.0.1", 443, 40_000)));
        config.cidrs_except = vec!["10.0.0.0/8".parse().unwrap()];
        assert!(excludes_older(&config, &key("10.0.0.1", 443, 40_000)));
        assert!(!excludes_older(&config, &key("192.0.2.1", 443, 40_000)));
    }
}
