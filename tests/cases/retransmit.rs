//! Lossy links: retransmits are counted, and are no payload.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::Agent;
use netprobe_tests::lab::{Lab, addr};
use netprobe_tests::traffic::proto::{Cmd, RecvHow, SendHow};

use super::{Case, Pair, check, check_bytes, hold};

pub(crate) const CASES: &[Case] = &[
    Case::new("retransmits_equal_tcp_info", data_loss),
    Case::new("retransmits_of_the_first_syn", syn_loss),
];

/// Two namespaces; what comes in at the server passes a rule of nftables.
pub(super) fn lossy(rule: &str) -> Result<Lab> {
    let mut lab = Lab::new()?;
    lab.add("cli")?;
    lab.add("srv")?;
    lab.link("cli", "c0", "srv", "s0")?;
    lab.ip("cli", "addr add 10.83.1.2/24 dev c0")?;
    lab.ip("srv", "addr add 10.83.1.1/24 dev s0")?;
    lab.nft(
        "srv",
        &format!(
            "table ip f {{
               chain in {{
                 type filter hook input priority 0;
                 {rule}
               }}
             }}"
        ),
    )?;
    Ok(lab)
}

fn data_loss() -> Result<()> {
    const BYTES: u64 = 1_500_000;
    let lab = lossy("tcp dport 7000 meta length > 100 numgen random mod 100 < 5 drop")?;
    let mut pair = Pair::over(
        Arc::new(lab),
        Agent::shared()?,
        "lossy",
        "cli",
        "srv",
        addr("10.83.1.1", 7000),
    )?;
    let (client, server) = pair.open()?;
    pair.srv.begin(&Cmd::Recv {
        socket: server.socket,
        bytes: Some(BYTES),
        how: RecvHow::Recv,
    })?;
    let how = SendHow::Send;
    pair.cli.call(Cmd::Send {
        socket: client.socket,
        bytes: BYTES,
        chunk: 16_384,
        how,
    })?;
    ensure!(pair.srv.finish()?.bytes == BYTES, "all of it arrives");
    let info = pair
        .cli
        .call(Cmd::Settle {
            socket: client.socket,
            unread: 0,
        })?
        .tcp
        .context("no TCP_INFO")?;
    ensure!(info.total_retrans > 0, "the link lost nothing");
    let (c, s) = pair.finish(client, server)?;
    check_bytes(&c, BYTES, 0)?;
    check_bytes(&s, 0, BYTES)?;
    let flow = c.flow.as_ref().context("no flow")?;
    check(
        &c,
        "retransmits",
        flow.retransmits,
        Some(u64::from(info.total_retrans)),
    )?;
    check(&c, "syn_retransmits", flow.syn_retransmits, Some(0))?;
    check(
        &s,
        "retransmits of the server",
        s.flow.as_ref().and_then(|f| f.retransmits),
        Some(0),
    )
}

fn syn_loss() -> Result<()> {
    // Every other SYN is dropped, beginning with the first.
    let lab = lossy("tcp dport 7001 tcp flags & (syn | ack) == syn numgen inc mod 2 == 0 drop")?;
    let mut pair = Pair::over(
        Arc::new(lab),
        Agent::shared()?,
        "synloss",
        "cli",
        "srv",
        addr("10.83.1.1", 7001),
    )?;
    let (client, server) = pair.open()?;
    let call_ms = (client.call_ns.1 - client.call_ns.0) as f64 / 1e6;
    ensure!(
        call_ms > 500.0,
        "the first SYN was lost: the call took {call_ms} ms"
    );
    let (c, _) = pair.finish(client, server)?;
    let flow = c.flow.as_ref().context("no flow")?;
    check(&c, "syn_retransmits", flow.syn_retransmits, Some(1))?;
    let said = flow.connect_ms.context("no connect_ms")?;
    // The second SYN goes out a second after the first; the caller is woken some time after the answer.
    hold(
        &c,
        &format!("1 s ≤ connect_ms ≤ {call_ms} ms, up to a tick"),
        said > 985.0 && said <= call_ms,
    )
}
