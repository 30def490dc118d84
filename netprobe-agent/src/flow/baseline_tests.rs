//! What counts as forwarded when all there is are lists.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use super::{super::conntrack::Entry, super::conntrack::Tuple as SocketTuple, *};
use crate::flow::survey::Purpose;

const NETNS: u32 = 1;
const ESTABLISHED: u8 = 3;
const TIME_WAIT: u8 = 7;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

/// A list of connections from these ports, each in this state.
fn list(of: &[(u16, u8)]) -> Translations {
    let mut list = Translations::default();
    for (port, state) in of {
        let orig = SocketTuple {
            src: at(*port),
            dst: at(80),
        };
        let tuple = |from: SocketAddr, to: SocketAddr| netprobe_common::Tuple {
            src: address::bytes(from.ip()),
            dst: address::bytes(to.ip()),
            src_port: from.port(),
            dst_port: to.port(),
        };
        list.entries.push(Listed {
            netns: NETNS,
            entry: Entry {
                orig,
                reply: orig.reversed(),
                proto: translations::TCP,
                zone: 0,
                reply_zone: 0,
                status: None,
                tcp_state: Some(*state),
                orig_count: None,
                reply_count: None,
                start_ns: None,
                id: None,
            },
            original: tuple(orig.src, orig.dst),
            reply: tuple(orig.dst, orig.src),
        });
    }
    list
}

fn socket(local: SocketAddr, remote: SocketAddr) -> SocketInfo {
    SocketInfo {
        cookie: 1,
        local,
        remote,
        netns: u64::from(NETNS),
        state: 1,
        uid: 0,
        inode: 0,
        unread: 0,
        unacked: 0,
        tcp: None,
        backlog: None,
    }
}

/// Ports of what is found forwarded between a list, the sockets, and a second list.
fn found(first: &[(u16, u8)], sockets: Vec<SocketInfo>, again: &[(u16, u8)]) -> Vec<u16> {
    let survey = Survey {
        purpose: Purpose::Baseline,
        since_ns: 1,
        took: Duration::ZERO,
        notices: Vec::new(),
        listed: HashSet::from([u64::from(NETNS)]),
        sockets,
        counters: HashMap::new(),
        translations: list(first),
        listen_overflows: BTreeMap::new(),
        accept_queues: Vec::new(),
        older: Vec::new(),
        forwarded: Vec::new(),
    };
    forwarded(&survey, &list(again), &ProbeConfig::default())
        .iter()
        .map(|record| record.original.src_port)
        .collect()
}

#[test]
fn forwarded_is_what_two_lists_have_and_no_socket_in_between() {
    let entry = |port| (port, ESTABLISHED);
    assert_eq!(found(&[entry(1)], Vec::new(), &[entry(1)]), [1]);
    for end in [socket(at(1), at(80)), socket(at(80), at(1))] {
        assert_eq!(
            found(&[entry(1), entry(2)], vec![end], &[entry(1), entry(2)]),
            [2]
        );
    }
}

/// A local connection whose socket went between the first list and that of the sockets looks forwarded in the first
/// list; one whose socket came after, in the second.
#[test]
fn one_list_alone_makes_nothing_forwarded() {
    let entry = |port| (port, ESTABLISHED);
    assert_eq!(found(&[entry(1)], Vec::new(), &[]), [0; 0]);
    assert_eq!(found(&[entry(1)], Vec::new(), &[(1, TIME_WAIT)]), [0; 0]);
    assert_eq!(found(&[], Vec::new(), &[entry(1)]), [0; 0]);
}
