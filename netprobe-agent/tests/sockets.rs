//! `sock_diag` against real sockets in namespaces, with `ss` and the application's own counts as truth.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use std::{
    collections::{HashMap, HashSet},
    io::{Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
};

use netprobe_agent::{
    flow::sockets::{self, Query, SockDiag, SocketInfo},
    kernel::netns::{DEFAULT_MAX_PIDS, enumerate, in_netns, own_inode},
};

mod common;
use common::TestNs;

fn pair(ns: &TestNs, bind: &str, connect: Option<&str>) -> (TcpListener, TcpStream, TcpStream) {
    in_netns(&ns.ns, || {
        let listener = TcpListener::bind(bind).unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = connect.map_or(listener.local_addr().unwrap().ip(), |c| {
            c.parse::<IpAddr>().unwrap()
        });
        let client = TcpStream::connect((target, port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        (listener, client, server)
    })
    .unwrap()
}

fn cookie(socket: &impl AsFd) -> u64 {
    rustix::net::sockopt::socket_cookie(socket).unwrap()
}

fn by_cookie(found: Vec<SocketInfo>) -> HashMap<u64, SocketInfo> {
    found.into_iter().map(|s| (s.cookie, s)).collect()
}

#[test]
fn namespaces_are_listed_and_entered() {
    let ns = TestNs::new("netns");
    let listed = enumerate(DEFAULT_MAX_PIDS).unwrap();
    let found = listed
        .found
        .iter()
        .find(|n| n.inode == ns.ns.inode)
        .expect("listed by its mount");
    let before = own_inode().unwrap();
    assert_eq!(in_netns(found, || own_inode().unwrap()).unwrap(), ns.ns.inode);
    assert_eq!(own_inode().unwrap(), before, "the caller stays where it is");
    assert_ne!(before, ns.ns.inode);

    // A process inside makes it reachable through /proc as well.
    let mut child = std::process::Command::new("ip")
        .args(["netns", "exec", &ns.name, "sleep", "30"])
        .spawn()
        .unwrap();
    let reached = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let listed = enumerate(DEFAULT_MAX_PIDS).unwrap();
        listed
            .found
            .iter()
            .any(|n| n.inode == ns.ns.inode && n.pid == Some(child.id()))
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(reached);
}

#[test]
fn a_namespace_is_found_again_when_the_process_it_was_found_by_has_ended() {
    let ns = TestNs::new("again");
    let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
    let mut found = ns.ns.clone();
    found.path = format!("/proc/{}/ns/net", child.id()).into();
    // Another namespace behind the path, then none.
    assert!(found.open().is_ok());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(found.open().is_ok());
}

#[test]
fn a_removed_namespace_is_gone() {
    let ns = TestNs::new("gone");
    let stale = ns.ns.clone();
    drop(ns);
    let error = SockDiag::open(&stale).unwrap_err().to_string();
    assert!(error.contains("is gone"), "{error}");
}

#[test]
fn counters_are_those_of_ss_and_of_the_application() {
    let ns = TestNs::new("ss");
    let (_listener, mut client, mut server) = pair(&ns, "127.0.0.1:0", None);
    let (_listener6, mut client6, mut server6) = pair(&ns, "[::1]:0", None);
    for (c, s, sent, answered) in [
        (&mut client, &mut server, 70_000, 500),
        (&mut client6, &mut server6, 1, 20_000),
    ] {
        let mut buffer = vec![7; sent];
        c.write_all(&buffer).unwrap();
        s.read_exact(&mut buffer).unwrap();
        let mut buffer = vec![7; answered];
        s.write_all(&buffer).unwrap();
        c.read_exact(&mut buffer).unwrap();
    }
    // Let delayed acknowledgements go out, so that ss and the dump see the same.
    std::thread::sleep(std::time::Duration::from_millis(300));

    let found = by_cookie(sockets::dump(&ns.ns, Query::TcpConnections).unwrap());
    let text = ns.exec(&["ss", "-tinHeO", "state", "connected", "exclude", "time-wait"]);
    let mut compared = 0;
    for line in text.lines() {
        let value = |name: &str| {
            line.split_whitespace()
                .find_map(|word| word.strip_prefix(name))
                .unwrap_or("0")
                .to_owned()
        };
        let number = |name: &str| value(name).parse::<u64>().unwrap();
        let socket = &found[&u64::from_str_radix(&value("sk:"), 16).unwrap()];
        let tcp = socket.tcp.expect("counters");
        assert_eq!(tcp.bytes_sent, number("bytes_sent:"), "{line}");
        assert_eq!(tcp.bytes_acked, number("bytes_acked:"), "{line}");
        assert_eq!(tcp.bytes_received, number("bytes_received:"), "{line}");
        assert_eq!(tcp.bytes_retrans, number("bytes_retrans:"), "{line}");
        assert_eq!(u64::from(tcp.segs_out), number("segs_out:"), "{line}");
        assert_eq!(u64::from(tcp.segs_in), number("segs_in:"), "{line}");
        assert_eq!(u64::from(socket.inode), number("ino:"), "{line}");
        let rtt = format!("{}/{}", ms(tcp.rtt_us), ms(tcp.rttvar_us));
        assert_eq!(rtt, value("rtt:"), "{line}");
        let addresses: Vec<_> = line.split_whitespace().skip(3).take(2).collect();
        assert_eq!(
            addresses,
            [socket.local.to_string(), socket.remote.to_string()],
            "{line}"
        );
        assert_eq!((socket.netns, socket.state), (ns.ns.inode, 1));
        compared += 1;
    }
    assert_eq!((compared, found.len()), (4, 4), "{text}");

    let ours = &found[&cookie(&client)];
    assert_eq!(ours.local, client.local_addr().unwrap());
    assert_eq!(ours.remote, client.peer_addr().unwrap());
    // One more than the application sent: the SYN.
    let tcp = ours.tcp.unwrap();
    assert_eq!(
        (tcp.bytes_sent, tcp.bytes_acked, tcp.bytes_received),
        (70_000, 70_001, 500)
    );
    let tcp = found[&cookie(&server6)].tcp.unwrap();
    assert_eq!(
        (tcp.bytes_sent, tcp.bytes_acked, tcp.bytes_received),
        (20_000, 20_000, 1)
    );
}

/// As ss prints it.
fn ms(us: u32) -> String {
    let text = format!("{:.3}", f64::from(us) / 1000.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[test]
fn unread_and_unacknowledged_bytes() {
    let ns = TestNs::new("queue");
    let (_listener, mut client, server) = pair(&ns, "127.0.0.1:0", None);
    client.write_all(&[1; 1234]).unwrap();
    let found = by_cookie(sockets::dump(&ns.ns, Query::TcpConnections).unwrap());
    assert_eq!(found[&cookie(&server)].unread, 1234);
    assert_eq!(found[&cookie(&client)].unacked, 0);
    // Fill until the peer's window is closed: what it has not taken is not acknowledged.
    client.set_nonblocking(true).unwrap();
    let mut written = 1234;
    while let Ok(n) = client.write(&[1; 65536]) {
        written += n;
    }
    // Until it is acknowledged, what has arrived counts on both sides.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let found = by_cookie(sockets::dump(&ns.ns, Query::TcpConnections).unwrap());
    let (c, s) = (&found[&cookie(&client)], &found[&cookie(&server)]);
    assert!(c.unacked > 0);
    assert_eq!((s.unread + c.unacked) as usize, written);
}

#[test]
fn mapped_addresses_are_ipv4() {
    let ns = TestNs::new("mapped");
    let (_listener, client, server) = pair(&ns, "[::]:0", Some("127.0.0.1"));
    assert!(matches!(server.local_addr().unwrap().ip(), IpAddr::V6(ip) if ip != Ipv6Addr::LOCALHOST));
    let found = by_cookie(sockets::dump(&ns.ns, Query::TcpConnections).unwrap());
    let (c, s) = (&found[&cookie(&client)], &found[&cookie(&server)]);
    assert!(s.local.is_ipv4());
    assert_eq!((s.local, s.remote), (c.remote, c.local));
}

#[test]
fn time_wait_and_listeners_are_no_connections() {
    let ns = TestNs::new("timewait");
    let (listener, client, server) = pair(&ns, "127.0.0.1:0", None);
    let gone = cookie(&client);
    // The client closes first and waits in TIME_WAIT.
    drop(client);
    drop(server);
    let waiting = (0..50).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        ns.exec(&["ss", "-tnH", "state", "time-wait"]).lines().count() == 1
    });
    assert!(waiting, "ss sees the socket in TIME_WAIT");
    let found = sockets::dump(&ns.ns, Query::TcpConnections).unwrap();
    assert!(found.iter().all(|s| s.cookie != gone), "{found:?}");
    assert_eq!(found, []);
    let listeners = sockets::dump(&ns.ns, Query::TcpListeners).unwrap();
    assert_eq!(
        listeners.iter().map(|s| s.cookie).collect::<Vec<_>>(),
        [cookie(&listener)]
    );
}

#[test]
fn backlog_and_overflows_of_a_listener() {
    let ns = TestNs::new("backlog");
    let before = sockets::listen_drops(&ns.ns).unwrap();
    assert_eq!((before.overflows, before.drops), (Some(0), Some(0)));
    let (listener, address) = in_netns(&ns.ns, || {
        use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
        let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&fd, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
        listen(&fd, 2).unwrap();
        let listener = TcpListener::from(fd);
        let address = listener.local_addr().unwrap();
        (listener, address)
    })
    .unwrap();
    // The queue takes one more than its limit; what comes then gets no answer.
    let waiting: Vec<_> = in_netns(&ns.ns, || {
        (0..3).map(|_| TcpStream::connect(address).unwrap()).collect()
    })
    .unwrap();
    let found = by_cookie(sockets::dump(&ns.ns, Query::TcpListeners).unwrap());
    let backlog = found[&cookie(&listener)].backlog.unwrap();
    assert_eq!((backlog.now, backlog.max), (3, 2));
    assert_eq!(found[&cookie(&listener)].tcp, None);

    let refused = in_netns(&ns.ns, || {
        TcpStream::connect_timeout(&address, std::time::Duration::from_millis(200)).is_err()
    })
    .unwrap();
    assert!(refused);
    let after = sockets::listen_drops(&ns.ns).unwrap();
    assert!(
        after.overflows.unwrap() >= 1 && after.drops >= after.overflows,
        "{after:?}"
    );
    drop(waiting);
}

#[test]
fn udp_sockets() {
    let ns = TestNs::new("udp");
    let (bound, connected, bound6) = in_netns(&ns.ns, || {
        let bound = UdpSocket::bind("127.0.0.1:0").unwrap();
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect(bound.local_addr().unwrap()).unwrap();
        (bound, connected, UdpSocket::bind("[::1]:0").unwrap())
    })
    .unwrap();
    let found = by_cookie(sockets::dump(&ns.ns, Query::Udp).unwrap());
    assert_eq!(found.len(), 3);
    let c = &found[&cookie(&connected)];
    assert_eq!(
        (c.local, c.remote),
        (connected.local_addr().unwrap(), bound.local_addr().unwrap())
    );
    assert_eq!((c.tcp, c.backlog), (None, None));
    let b = &found[&cookie(&bound)];
    assert_eq!((b.local, b.remote.port()), (bound.local_addr().unwrap(), 0));
    assert_eq!(found[&cookie(&bound6)].local, bound6.local_addr().unwrap());
}

#[test]
fn thousands_of_sockets_come_complete_and_from_any_thread() {
    let ns = TestNs::new("many");
    let held: Vec<(TcpStream, TcpStream)> = in_netns(&ns.ns, || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (0..2000)
            .map(|_| {
                let client = TcpStream::connect(address).unwrap();
                (client, listener.accept().unwrap().0)
            })
            .collect()
    })
    .unwrap();
    let cookies: HashSet<u64> = held.iter().flat_map(|(c, s)| [cookie(c), cookie(s)]).collect();
    assert_eq!(cookies.len(), 4000);
    let mut diag = SockDiag::open(&ns.ns).unwrap();
    for _ in 0..2 {
        let found: Vec<_> = diag.dump(Query::TcpConnections).unwrap();
        assert_eq!(found.len(), 4000);
        assert_eq!(found.iter().map(|s| s.cookie).collect::<HashSet<_>>(), cookies);
    }
    assert!(diag.dump(Query::Udp).unwrap().is_empty());
}
