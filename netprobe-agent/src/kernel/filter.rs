//! The kernel-side filter: ports and networks from the configuration into the programs' maps.

use std::net::{IpAddr, SocketAddr};

use aya::{
    Ebpf,
    maps::{Array, LpmTrie, MapError, lpm_trie::Key},
};
use ipnet::IpNet;

use super::load::Own;
use crate::{config::ProbeConfig, error::AgentError};

/// IPv4 addresses lie behind this many bits of `::ffff:0:0/96`.
const MAPPED_BITS: u32 = 96;

/// Whether the programs would leave out a connection, for those found otherwise. `service_port`: of its serving side.
pub fn excludes(
    config: &ProbeConfig,
    own: Own,
    netns: u64,
    local: SocketAddr,
    remote: SocketAddr,
    service_port: u16,
) -> bool {
    let with_agent = !config.own_traffic
        && own.port != 0
        && netns == u64::from(own.netns)
        && [local, remote]
            .iter()
            .any(|end| end.port() == own.port && end.ip().is_loopback());
    let port = match mode(&config.ports_only, &config.ports_except) {
        1 => !config.ports_only.contains(&service_port),
        2 => config.ports_except.contains(&service_port),
        _ => false,
    };
    let within = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&remote.ip()));
    let network = match mode(&config.cidrs_only, &config.cidrs_except) {
        1 => !within(&config.cidrs_only),
        2 => within(&config.cidrs_except),
        _ => false,
    };
    with_agent || port || network
}

/// How the programs use a list: 0 not at all, 1 only what is listed, 2 all but what is listed. "Only" wins.
pub(super) const fn mode<T>(only: &[T], except: &[T]) -> u64 {
    if !only.is_empty() {
        1
    } else if !except.is_empty() {
        2
    } else {
        0
    }
}

/// Fills the maps; before anything is attached.
pub(super) fn fill(ebpf: &mut Ebpf, config: &ProbeConfig) -> Result<(), AgentError> {
    ports(ebpf, listed(&config.ports_only, &config.ports_except))
        .and_then(|()| networks(ebpf, listed(&config.cidrs_only, &config.cidrs_except)))
        .map_err(|error| {
            AgentError::other(
                format!("the kernel-side filter cannot be set: {error}"),
                "list at most 1,024 networks in `probe.cidrs_only` or `probe.cidrs_except`",
            )
        })
}

fn listed<'a, T>(only: &'a [T], except: &'a [T]) -> &'a [T] {
    if only.is_empty() { except } else { only }
}

fn ports(ebpf: &mut Ebpf, ports: &[u16]) -> Result<(), MapError> {
    if ports.is_empty() {
        return Ok(());
    }
    let map = ebpf.map_mut("FILTER_PORTS").ok_or(MapError::InvalidName {
        name: "FILTER_PORTS".to_owned(),
    })?;
    let mut map: Array<_, u8> = Array::try_from(map)?;
    ports.iter().try_for_each(|port| map.set(u32::from(*port), 1, 0))
}

fn networks(ebpf: &mut Ebpf, networks: &[IpNet]) -> Result<(), MapError> {
    if networks.is_empty() {
        return Ok(());
    }
    let map = ebpf.map_mut("FILTER_NETWORKS").ok_or(MapError::InvalidName {
        name: "FILTER_NETWORKS".to_owned(),
    })?;
    let mut map: LpmTrie<_, [u8; 16], u8> = LpmTrie::try_from(map)?;
    networks.iter().try_for_each(|network| {
        let bits = u32::from(network.prefix_len());
        let (address, bits) = match network.addr() {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped(), bits + MAPPED_BITS),
            IpAddr::V6(v6) => (v6, bits),
        };
        map.insert(&Key::new(bits, address.octets()), 1, 0)
    })
}
