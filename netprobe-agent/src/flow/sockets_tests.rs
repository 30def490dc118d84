//! Decoding, on answers captured from a 6.18 kernel (`tests/fixtures/sock_diag`).

use super::*;

const TCP4: &[u8] = include_bytes!("../../../tests/fixtures/sock_diag/tcp4.bin");
const MAPPED: &[u8] = include_bytes!("../../../tests/fixtures/sock_diag/mapped.bin");
const LISTENER: &[u8] = include_bytes!("../../../tests/fixtures/sock_diag/listener.bin");
const TIME_WAIT: &[u8] = include_bytes!("../../../tests/fixtures/sock_diag/timewait.bin");
const UDP4: &[u8] = include_bytes!("../../../tests/fixtures/sock_diag/udp4.bin");

fn socket(body: &[u8]) -> SocketInfo {
    decode(body, 4_026_531_840).unwrap().unwrap()
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn tcp_connection() {
    let s = socket(TCP4);
    assert_eq!(
        (s.local, s.remote),
        (addr("127.0.0.1:40000"), addr("127.0.0.1:8080"))
    );
    assert_eq!((s.cookie, s.state, s.uid, s.netns), (4106, 1, 0, 4_026_531_840));
    assert_eq!((s.unread, s.unacked, s.backlog), (7, 0, None));
    let tcp = s.tcp.unwrap();
    assert_eq!(
        (
            tcp.bytes_sent,
            tcp.bytes_acked,
            tcp.bytes_received,
            tcp.bytes_retrans
        ),
        (100, 101, 7, 0)
    );
    assert_eq!((tcp.segs_out, tcp.segs_in, tcp.retransmits), (4, 3, 0));
    assert!(tcp.rtt_us > 0 && tcp.rttvar_us > 0);
}

#[test]
fn cookie_has_its_low_word_first() {
    let mut body = TCP4.to_vec();
    body[44..52].copy_from_slice(&[1u32.to_ne_bytes(), 2u32.to_ne_bytes()].concat());
    assert_eq!(socket(&body).cookie, 0x2_0000_0001);
}

#[test]
fn mapped_addresses_become_ipv4() {
    let s = socket(MAPPED);
    assert_eq!(
        (s.local, s.remote),
        (addr("127.0.0.1:8081"), addr("127.0.0.1:40001"))
    );
}

#[test]
fn listener_has_a_backlog_and_no_counters() {
    let s = socket(LISTENER);
    assert_eq!((s.local, s.remote), (addr("127.0.0.1:8080"), addr("0.0.0.0:0")));
    assert_eq!((s.backlog, s.tcp), (Some(Backlog { now: 0, max: 16 }), None));
    assert_eq!((s.unread, s.unacked), (0, 0));
}

#[test]
fn time_wait_is_left_out() {
    assert_eq!(decode(TIME_WAIT, 0).unwrap(), None);
}

#[test]
fn udp_socket() {
    let s = socket(UDP4);
    assert_eq!(
        (s.local, s.remote),
        (addr("127.0.0.1:5353"), addr("127.0.0.1:53"))
    );
    assert_eq!((s.tcp, s.backlog), (None, None));
}

#[test]
fn short_answers_are_errors() {
    for length in 0..72 {
        assert!(decode(&TCP4[..length], 0).is_err(), "{length} bytes");
    }
    // An attribute cut in its middle is not taken for an absent one.
    assert!(decode(&TCP4[..TCP4.len() - 4], 0).is_err());
}

#[test]
fn listener_counters() {
    let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 0 5 18446744073709551615\n\
        IpExt: ListenDrops\nIpExt: 3\n";
    assert_eq!(tcp_ext(text, "ListenOverflows"), Some(5));
    assert_eq!(tcp_ext(text, "ListenDrops"), Some(u64::MAX));
    assert_eq!(tcp_ext(text, "Other"), None);
    assert_eq!(tcp_ext("TcpExt: ListenDrops\n", "ListenDrops"), None);
}
