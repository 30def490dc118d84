//! What the programs are told before they are loaded.

use netprobe_common::*;

use super::{
    super::{facts, filter},
    Kernel, Mode, Own,
};
use crate::config::ProbeConfig;

/// From this kernel on a program that sees a packet may ask which process it runs for, and so leave out the agent's own.
const DATAGRAMS: (u32, u32) = (6, 10);

impl Kernel {
    /// See `netprobe_common::knobs`.
    pub(super) fn knobs(&self, config: &ProbeConfig, own: Own, mode: Mode<'_>) -> [u64; KNOB_COUNT] {
        let method = |fact: &str| mode.choice(fact).and_then(|report| report.method.as_deref());
        let trial = matches!(mode, Mode::Trial { .. });
        let mut knobs = [0; KNOB_COUNT];
        if !config.own_traffic {
            knobs[KNOB_OWN_TGID] = u64::from(std::process::id());
            knobs[KNOB_OWN_NETNS] = u64::from(own.netns);
            knobs[KNOB_OWN_PORT] = u64::from(own.port);
        }
        knobs[KNOB_NETNS] = u64::from(own.followed);
        knobs[KNOB_SAMPLE_NS] = config.sample_interval.0.as_nanos() as u64;
        knobs[KNOB_WAKE_BYTES] = u64::from(config.ring_bytes.get()) / 2;
        knobs[KNOB_PAYLOAD_WAKE_BYTES] = u64::from(config.payload_ring_bytes.get()) / 2;
        knobs[KNOB_PORT_FILTER] = filter::mode(&config.ports_only, &config.ports_except);
        knobs[KNOB_CIDR_FILTER] = filter::mode(&config.cidrs_only, &config.cidrs_except);
        knobs[KNOB_HOPS_AT_QUEUE] = u64::from(method("nat") != Some("kprobe"));
        let parameters = |function: &str, else_: usize| self.btf.parameters(function).unwrap_or(else_) as u64;
        knobs[KNOB_ACCEPT_RET_ARG] = parameters("inet_csk_accept", 2);
        knobs[KNOB_RECV_RET_ARG] = parameters("tcp_recvmsg", 5);
        knobs[KNOB_DATAGRAMS] = u64::from(facts::version(&self.report.release) >= Some(DATAGRAMS));
        knobs[KNOB_UDP] = u64::from(config.udp);
        knobs[KNOB_EMPTY] = u64::from(config.empty_programs);
        knobs[KNOB_BYTE_CHECK] = u64::from(config.byte_check);
        knobs[KNOB_SYS_EXIT_ACCEPT] = u64::from(trial || method("accept") == Some("sys_exit"));
        knobs[KNOB_STATE_IN_HASH] = u64::from(mode.state_in_hash());
        knobs[KNOB_CONNECT_EXIT] = u64::from(method("connect_failed").is_some());
        knobs[KNOB_SYS_EXIT_CONNECT] = u64::from(trial || method("connect_failed") == Some("sys_exit"));
        knobs
    }
}
