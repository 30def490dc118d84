//! Decoding, on messages captured from a 6.18 kernel (`tests/fixtures/conntrack`): a gateway with port
//! forwarding, masquerade, accounting and timestamps on, the lines of `conntrack -L` beside each.

use proptest::prelude::*;

use super::*;

const TCP4: &[u8] = include_bytes!("../../../tests/fixtures/conntrack/tcp4.bin");
const TCP6: &[u8] = include_bytes!("../../../tests/fixtures/conntrack/tcp6.bin");
const UDP4: &[u8] = include_bytes!("../../../tests/fixtures/conntrack/udp4.bin");
const ICMP: &[u8] = include_bytes!("../../../tests/fixtures/conntrack/icmp.bin");
const ZONE: &[u8] = include_bytes!("../../../tests/fixtures/conntrack/zone.bin");
const DESTROY: &[u8] = include_bytes!("../../../tests/fixtures/conntrack/destroy.bin");

fn tuple(src: &str, dst: &str) -> Tuple {
    Tuple {
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
    }
}

fn count(packets: u64, bytes: u64) -> Option<Counters> {
    Some(Counters { packets, bytes })
}

/// `tcp 6 431998 ESTABLISHED src=10.9.1.2 dst=10.9.1.1 sport=40000 dport=80 packets=2 bytes=112 src=10.9.2.2
/// dst=10.9.2.1 sport=8080 dport=40000 packets=1 bytes=60 [ASSURED] [start=Sat Nov 21 12:47:21 2026] id=2791441060`
#[test]
fn translated_tcp() {
    let entry = decode(TCP4).unwrap();
    assert_eq!(entry.orig, tuple("10.9.1.2:40000", "10.9.1.1:80"));
    assert_eq!(entry.reply, tuple("10.9.2.2:8080", "10.9.2.1:40000"));
    assert_eq!(
        (entry.proto, entry.tcp_state, entry.zone, entry.reply_zone),
        (6, Some(3), 0, 0)
    );
    assert_eq!(
        (entry.orig_count, entry.reply_count),
        (count(2, 112), count(1, 60))
    );
    assert_eq!(entry.id, Some(2_791_441_060));
    assert_eq!(entry.start_ns.unwrap() / 1_000_000_000, 1_795_265_241);
    // IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED | IPS_SRC_NAT | IPS_DST_NAT | both NAT done bits.
    assert_eq!(entry.status.unwrap() & 0x1be, 0x1be);
    assert!(entry.translated());
}

/// `tcp 6 src=fd09:1::2 dst=fd09:1::1 sport=40001 dport=80 packets=2 bytes=152 src=fd09:2::2 dst=fd09:2::1
/// sport=8080 dport=40001 packets=1 bytes=80 id=137247324`
#[test]
fn translated_ipv6() {
    let entry = decode(TCP6).unwrap();
    assert_eq!(entry.orig, tuple("[fd09:1::2]:40001", "[fd09:1::1]:80"));
    assert_eq!(entry.reply, tuple("[fd09:2::2]:8080", "[fd09:2::1]:40001"));
    assert_eq!((entry.orig_count, entry.id), (count(2, 152), Some(137_247_324)));
}

/// `udp 17 29 src=10.9.1.2 dst=10.9.2.2 sport=5000 dport=6000 packets=1 bytes=33 [UNREPLIED] src=10.9.2.2
/// dst=10.9.2.1 sport=6000 dport=5000 packets=0 bytes=0`
#[test]
fn udp_has_no_tcp_state() {
    let entry = decode(UDP4).unwrap();
    assert_eq!(entry.orig, tuple("10.9.1.2:5000", "10.9.2.2:6000"));
    assert_eq!((entry.proto, entry.tcp_state), (17, None));
    assert_eq!((entry.orig_count, entry.reply_count), (count(1, 33), count(0, 0)));
}

#[test]
fn icmp_has_no_ports() {
    let entry = decode(ICMP).unwrap();
    assert_eq!(entry.orig, tuple("10.9.1.2:0", "10.9.2.2:0"));
    assert_eq!((entry.proto, entry.tcp_state), (1, None));
}

/// `src=10.9.1.2 dst=10.9.2.2 sport=40002 dport=9000 zone-orig=5`
#[test]
fn zone_of_one_direction() {
    let entry = decode(ZONE).unwrap();
    assert_eq!((entry.zone, entry.reply_zone), (5, 0));
    assert_eq!(entry.orig, tuple("10.9.1.2:40002", "10.9.2.2:9000"));
}

#[test]
fn destroy_event_has_the_same_entry() {
    let (last, listed) = (decode(DESTROY).unwrap(), decode(TCP4).unwrap());
    assert_eq!(
        (last.orig, last.reply, last.id),
        (listed.orig, listed.reply, listed.id)
    );
    assert_eq!(
        (last.orig_count, last.start_ns),
        (listed.orig_count, listed.start_ns)
    );
    assert_eq!(last.tcp_state, Some(3));
}

#[test]
fn translation_is_any_difference() {
    let mut entry = decode(TCP4).unwrap();
    entry.reply = entry.orig.reversed();
    assert!(!entry.translated());
    for change in [
        |t: &mut Tuple| t.src.set_port(1),
        |t: &mut Tuple| t.dst.set_port(1),
        |t: &mut Tuple| t.src.set_ip([1, 1, 1, 1].into()),
        |t: &mut Tuple| t.dst.set_ip([1, 1, 1, 1].into()),
    ] {
        let mut other = entry.clone();
        change(&mut other.reply);
        assert!(other.translated(), "{other:?}");
    }
}

#[test]
fn incomplete_messages_are_refused() {
    // Until both tuples are whole there is no entry.
    for length in 0..108 {
        assert!(decode(&TCP4[..length]).is_err(), "{length} bytes");
    }
    assert!(
        decode(&TCP4[..TCP4.len() - 4]).is_err(),
        "cut within an attribute"
    );
}

#[test]
fn request_holds_what_the_kernel_sends() {
    let wanted = tuple("10.9.1.2:40000", "10.9.1.1:80");
    let request = lookup(6, wanted, 0).unwrap();
    // The captured message begins with the same header and original tuple.
    assert_eq!(request, TCP4[..request.len()]);
    let zoned = lookup(6, wanted, 7).unwrap();
    assert_eq!(zoned[request.len()..], [6, 0, CTA_ZONE as u8, 0, 0, 7, 0, 0]);
    assert_eq!(lookup(6, tuple("10.9.1.2:1", "[::1]:1"), 0), None);
}

#[test]
fn absence_is_not_an_error_and_missing_rights_are() {
    for errno in [libc::EPROTONOSUPPORT, libc::EINVAL, libc::ENOENT] {
        assert!(means_absent(Some(errno)));
    }
    assert!(!means_absent(Some(libc::EPERM)) && !means_absent(None));
    let refused = NetlinkError::Refused(io::Error::from_raw_os_error(libc::EPERM));
    assert!(matches!(ConntrackError::from(refused), ConntrackError::Forbidden));
}

proptest! {
    #[test]
    fn request_comes_back(
        proto: u8, zone: u16, src: [u8; 16], dst: [u8; 16], ports: (u16, u16), v6: bool,
    ) {
        let ip = |octets: [u8; 16]| if v6 {
            IpAddr::from(octets)
        } else {
            IpAddr::from([octets[0], octets[1], octets[2], octets[3]])
        };
        let wanted = Tuple { src: SocketAddr::new(ip(src), ports.0), dst: SocketAddr::new(ip(dst), ports.1) };
        let mut message = lookup(proto, wanted, zone).unwrap();
        // An answer has both directions: the same attribute once more, as the reply.
        let size = usize::from(u16::from_ne_bytes([message[4], message[5]])).next_multiple_of(4);
        let at = message.len();
        message.extend_from_within(4..4 + size);
        message[at + 2] = CTA_TUPLE_REPLY as u8;
        let entry = decode(&message).unwrap();
        prop_assert_eq!((entry.orig, entry.reply, entry.proto, entry.zone), (wanted, wanted, proto, zone));
    }
}
