use netprobe_common::{FlowKey, Header, HopRecord, Role, Tuple};

use super::*;

fn address(last: u8) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last]
}

/// Client 1:1000 dials 9:80, is sent to 2:8080, and seen there as 5:2000.
fn hop(conntrack: u64, cookie: u64, role: Role, ts_ns: u64) -> HopRecord {
    let key = match role {
        Role::Server => FlowKey {
            local_addr: address(2),
            remote_addr: address(5),
            local_port: 8080,
            remote_port: 2000,
            netns: 3,
        },
        _ => client_key(),
    };
    HopRecord {
        header: Header {
            ts_ns,
            ..Header::default()
        },
        cookie,
        key,
        conntrack,
        netns: 2,
        zone: 0,
        role: role as u8,
        reserved: 0,
        original: Tuple {
            src: address(1),
            dst: address(9),
            src_port: 1000,
            dst_port: 80,
        },
        reply: Tuple {
            src: address(2),
            dst: address(5),
            src_port: 8080,
            dst_port: 2000,
        },
    }
}

fn client_key() -> FlowKey {
    FlowKey {
        local_addr: address(1),
        remote_addr: address(9),
        local_port: 1000,
        remote_port: 80,
        netns: 1,
    }
}

#[test]
fn binds_by_cookie_even_between_equal_addresses() {
    let mut table = NatTable::default();
    table.add(&hop(1, 100, Role::Client, 10));
    table.add(&hop(2, 200, Role::Client, 11));
    let path = table.resolve(200, &client_key(), Role::Client, 5);
    assert_eq!(path.hops.iter().map(|hop| hop.conntrack).collect::<Vec<_>>(), [2]);
    // A third client with the same addresses passed no translation: both entries are bound to others.
    assert_eq!(
        table.resolve(300, &client_key(), Role::Client, 5),
        Path::default()
    );
}

#[test]
fn matches_by_address_only_what_is_unique() {
    let mut table = NatTable::default();
    table.add(&hop(1, 0, Role::Server, 10));
    let path = table.resolve(300, &client_key(), Role::Client, 5);
    assert!(path.by_address && path.hops.len() == 1);
    table.add(&hop(2, 0, Role::Server, 11));
    let path = table.resolve(300, &client_key(), Role::Client, 5);
    assert_eq!(status(&path), NatStatus::Unresolved);
    // An entry older than the connection belongs to an earlier one.
    assert_eq!(
        table.resolve(300, &client_key(), Role::Client, 50),
        Path::default()
    );
}

#[test]
fn orders_hops_from_originator_to_responder() {
    let mut table = NatTable::default();
    let mut second = hop(2, 7, Role::Client, 11);
    second.netns = 4;
    table.add(&hop(1, 7, Role::Client, 10));
    table.add(&second);
    table.add(&hop(1, 7, Role::Client, 12)); // the SYN again
    let path = table.resolve(7, &client_key(), Role::Client, 5);
    assert_eq!(
        path.hops.iter().map(|hop| hop.conntrack).collect::<Vec<_>>(),
        [1, 2]
    );

    let mut far = hop(1, 0, Role::Server, 21);
    far.netns = 4;
    table.add(&hop(2, 0, Role::Server, 20));
    table.add(&far);
    let path = table.resolve(9, &far.key, Role::Server, 30);
    assert_eq!(
        path.hops.iter().map(|hop| hop.conntrack).collect::<Vec<_>>(),
        [1, 2]
    );
}

#[test]
fn names_the_union_of_translations() {
    let path = |change: fn(&mut HopRecord)| {
        let mut hop = hop(1, 1, Role::Client, 1);
        change(&mut hop);
        status(&Path {
            hops: vec![hop],
            ..Path::default()
        })
    };
    assert_eq!(path(|_| {}), NatStatus::SnatDnat);
    assert_eq!(
        path(|hop| (hop.reply.src, hop.reply.src_port) = (hop.original.dst, 80)),
        NatStatus::Snat
    );
    assert_eq!(
        path(|hop| (hop.reply.dst, hop.reply.dst_port) = (hop.original.src, 1000)),
        NatStatus::Dnat
    );
    assert_eq!(status(&Path::default()), NatStatus::None);
}

#[test]
fn forgets_with_time() {
    let mut table = NatTable::default();
    table.add(&hop(1, 7, Role::Client, 10));
    table.expire(10 + MATCH_NS + 1);
    assert!(table.seen.is_empty() && table.by_original.is_empty() && table.by_reply.is_empty());
    table.expire(10 + KEEP_NS + 1);
    assert!(table.pending.is_empty());
    assert_eq!(table.expired, 1);
}
