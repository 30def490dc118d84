//! What the events say against what the generator wrote down.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::seen::Ends;
use super::{Phase, Run, Way, watch};
use crate::agent::Ledger;
use crate::traffic::load::{Ending, Line};

impl Run<'_> {
    pub(super) fn compare(
        &mut self,
        phase: &mut Phase,
        lines: &[Line],
        before: &Ledger,
        after: &Ledger,
    ) -> Result<()> {
        let mut collected = std::mem::take(
            &mut *self
                .collected
                .lock()
                .map_err(|_| anyhow::anyhow!("the reader panicked"))?,
        );
        for fault in collected.faults.drain(..) {
            self.fault(|| fault);
        }
        let (mut missing, mut missing_bytes) = (0u64, (0u64, 0u64));
        for line in lines {
            let (out, back) = (u64::from(line.to_server), u64::from(line.to_client));
            let ends = [
                (line.client, "client", out, back),
                (line.server, "server", back, out),
            ];
            for (cookie, role, sent, received) in ends.into_iter().filter(|end| end.0 != 0) {
                phase.bytes.0 += sent;
                phase.bytes.1 += received;
                let Some(event) = collected.ends.remove(&cookie) else {
                    missing += 1;
                    missing_bytes.0 += sent;
                    missing_bytes.1 += received;
                    if !self.exact {
                        self.fault(|| format!("no final {role} event of {line:?}"));
                    }
                    continue;
                };
                phase.events += 1;
                phase.event_bytes.0 += event.sent;
                phase.event_bytes.1 += event.received;
                if let Some(fault) = self.differs(&event, line, role, sent, received) {
                    self.fault(|| format!("{fault}: {event:?} of {line:?}"));
                }
                if self.way == Way::Nat {
                    phase.pairs.0 += 1;
                }
            }
        }
        let lost = after.lost_finals - before.lost_finals;
        let lost_bytes = (
            after.lost_bytes.0 - before.lost_bytes.0,
            after.lost_bytes.1 - before.lost_bytes.1,
        );
        phase.lost += lost;
        phase.lost_bytes.0 += lost_bytes.0;
        phase.lost_bytes.1 += lost_bytes.1;
        if self.exact && (missing != lost || missing_bytes != lost_bytes) {
            self.fault(|| {
                format!(
                    "{missing} final events with {missing_bytes:?} bytes are missing, \
                     {lost} with {lost_bytes:?} are counted as lost"
                )
            });
        }
        if self.way != Way::Loopback {
            let forwarded = collected.forwarded(self.lab.inode("gw")?);
            phase.forwarded += forwarded;
            if forwarded != lines.len() as u64 {
                self.fault(|| format!("{forwarded} forwarded flows for {} connections", lines.len()));
            }
        }
        Ok(())
    }

    /// In what an event differs from the log, if it does.
    fn differs(&self, event: &Ends, line: &Line, role: &str, sent: u64, received: u64) -> Option<String> {
        if event.count != 1 {
            return Some(format!("{} final events", event.count));
        }
        if event.role != role {
            return Some(format!("role is not {role}"));
        }
        if event.failed != (line.ending == Ending::Refused) {
            return Some("state is wrong".to_owned());
        }
        if (event.sent, event.received) != (sent, received) {
            return Some(format!("bytes are not {sent} and {received}"));
        }
        // The same addresses whether translated or not: what each socket has, and what the other one has.
        let [internal, external, peer, actual] = match (line.ending, role) {
            (Ending::Refused, _) => return None,
            (_, "client") => [
                line.client_local,
                line.server_remote,
                line.dialed,
                line.server_local,
            ],
            _ => [
                line.server_local,
                line.dialed,
                line.server_remote,
                line.client_local,
            ],
        };
        // Hops were lost: of these connections it cannot be told, and is not guessed.
        if self.exact && event.nat == "unresolved" {
            let want = [Some(internal), None, Some(peer), None];
            return (event.addresses != want).then(|| format!("addresses are not {want:?}"));
        }
        let status = if self.way == Way::Nat { "snat+dnat" } else { "none" };
        if event.nat != status {
            return Some(format!("nat.status is not {status}"));
        }
        let want = [internal, external, peer, actual].map(Some);
        (event.addresses != want).then(|| format!("addresses are not {want:?}"))
    }

    /// The sockets' view of the translation against conntrack's own events.
    pub(super) fn compare_pairs(
        &mut self,
        phase: &mut Phase,
        lines: &[Line],
        entries: BTreeMap<watch::Key, Vec<watch::Key>>,
    ) -> Result<()> {
        let mut told = 0;
        for line in lines {
            let Some(replies) = entries.get(&(line.client_local, line.dialed)) else {
                continue;
            };
            told += 1;
            if !replies.contains(&(line.server_local, line.server_remote)) {
                self.fault(|| format!("conntrack says {replies:?} of {line:?}"));
            }
        }
        phase.pairs.1 += told;
        ensure!(
            told > 0 || lines.is_empty(),
            "conntrack told of no connection at all"
        );
        Ok(())
    }
}
