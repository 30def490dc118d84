//! Why a connection ended, from its final record.

use netprobe_common::{FlowRecord, Role, flow_flags};

use super::{
    errno,
    live::{Live, role},
};
use crate::event::{CloseReason, FlowState};

// TCP states of the kernel.
const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const SYN_RECV: u8 = 3;
const CLOSE_WAIT: u8 = 8;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// `closed` or `failed`.
    pub state: FlowState,
    /// Why.
    pub reason: CloseReason,
    /// Positive errno; 0: none.
    pub errno: u32,
    /// Bytes were unread or unacknowledged.
    pub data_lost: bool,
}

/// Reads the ending of `record`. `accepts_seen`: a method that sees every accept serves.
pub fn of(record: &FlowRecord, live: &Live, accepts_seen: bool) -> Ending {
    let fin = u32::from(record.flags & flow_flags::FIN_RECEIVED != 0);
    let fin_sent = u32::from(record.flags & flow_flags::FIN_SENT != 0);
    let unread = record.tcp.unread.saturating_sub(fin) > 0;
    let unacked = record.tcp.unacked.saturating_sub(fin_sent) > 0;
    if record.last_state == SYN_SENT {
        return Ending {
            state: FlowState::Failed,
            reason: failed(record.error),
            errno: record.error,
            data_lost: false,
        };
    }
    Ending {
        state: FlowState::Closed,
        reason: closed(record, live, accepts_seen),
        errno: record.error,
        data_lost: unread || unacked,
    }
}

/// Reason of a connect that failed with `errno`; 0: the application gave up.
pub fn failed(errno: u32) -> CloseReason {
    match errno {
        0 => CloseReason::Abandoned,
        errno::ECONNREFUSED => CloseReason::Refused,
        errno::ETIMEDOUT => CloseReason::Timeout,
        other if errno::UNREACHABLE.contains(&other) => CloseReason::Unreachable,
        _ => CloseReason::Error,
    }
}

fn closed(record: &FlowRecord, live: &Live, accepts_seen: bool) -> CloseReason {
    let nobody = live.accepted_ns == 0 && record.io_process.tgid == 0;
    if accepts_seen && role(record.role) == Role::Server && nobody && record.flags & flow_flags::PARTIAL == 0
    {
        return CloseReason::Unaccepted;
    }
    if record.error == errno::ETIMEDOUT {
        return CloseReason::Timeout;
    }
    if record.flags & flow_flags::RESET_RECEIVED != 0 {
        return CloseReason::ResetRemote;
    }
    if record.flags & flow_flags::RESET_SENT != 0 || record.error == errno::ECONNABORTED {
        return CloseReason::ResetLocal;
    }
    if record.error != 0 {
        return CloseReason::Error;
    }
    match record.last_state {
        // Left for CLOSE without a FIN of our own: closed with data unread or linger 0, the reset follows.
        ESTABLISHED | SYN_RECV | CLOSE_WAIT => CloseReason::ResetLocal,
        _ if record.flags & flow_flags::MISSED_CLOSE != 0 => CloseReason::Vanished,
        _ => CloseReason::Fin,
    }
}
