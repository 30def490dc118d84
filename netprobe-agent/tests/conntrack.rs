//! `ctnetlink` against a gateway namespace that translates, with `conntrack -L` as truth.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::mpsc::Receiver,
    time::{Duration, SystemTime},
};

use netprobe_agent::{
    flow::{
        conntrack::{Answer, Conntrack, Counters, Entry, Tuple, accounting},
        conntrack_events::{Event, Interest, Listener, Options},
    },
    kernel::netns::in_netns,
};

mod common;
use common::{TestNs, run};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// client 10.9.1.2 — 10.9.1.1 gateway 10.9.2.1 — 10.9.2.2 server, and fd09:1::/64, fd09:2::/64 alike.
/// The gateway sends its own port 80 to the server's 8080, from its own address, and counts.
struct Gateway {
    client: TestNs,
    gateway: TestNs,
    server: TestNs,
}

impl Gateway {
    fn new(more_rules: &str) -> Gateway {
        let topology = Gateway {
            client: TestNs::new("c"),
            gateway: TestNs::new("g"),
            server: TestNs::new("s"),
        };
        for (side, net, name) in [(&topology.client, "1", "c"), (&topology.server, "2", "s")] {
            let (gateway, inner) = (&topology.gateway.name, &side.name);
            run(
                "ip",
                &[
                    "-n", inner, "link", "add", "e0", "type", "veth", "peer", name, "netns", gateway,
                ],
            );
            side.exec(&["ip", "addr", "add", &format!("10.9.{net}.2/24"), "dev", "e0"]);
            side.exec(&[
                "ip",
                "addr",
                "add",
                &format!("fd09:{net}::2/64"),
                "dev",
                "e0",
                "nodad",
            ]);
            side.exec(&["ip", "link", "set", "e0", "up"]);
            side.exec(&["ip", "route", "add", "default", "via", &format!("10.9.{net}.1")]);
            let g = &topology.gateway;
            g.exec(&["ip", "addr", "add", &format!("10.9.{net}.1/24"), "dev", name]);
            g.exec(&[
                "ip",
                "addr",
                "add",
                &format!("fd09:{net}::1/64"),
                "dev",
                name,
                "nodad",
            ]);
            g.exec(&["ip", "link", "set", name, "up"]);
            side.exec(&[
                "ip",
                "-6",
                "route",
                "add",
                "default",
                "via",
                &format!("fd09:{net}::1"),
            ]);
        }
        let rules = format!(
            "table inet t {{
                {more_rules}
                chain pre {{ type nat hook prerouting priority dstnat;
                    ip daddr 10.9.1.1 tcp dport 80 dnat ip to 10.9.2.2:8080
                    ip6 daddr fd09:1::1 tcp dport 80 dnat ip6 to [fd09:2::2]:8080; }}
                chain post {{ type nat hook postrouting priority srcnat; oifname s masquerade; }}
            }}"
        );
        let gateway = &topology.gateway;
        gateway.exec(&[
            "sysctl",
            "-qw",
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
        ]);
        gateway.exec(&["sysctl", "-qw", "net.netfilter.nf_conntrack_acct=1"]);
        gateway.exec(&["sysctl", "-qw", "net.netfilter.nf_conntrack_timestamp=1"]);
        gateway.exec(&["nft", &rules]);
        topology
    }

    fn listen(&self, address: &str) -> TcpListener {
        in_netns(&self.server.ns, || TcpListener::bind(address).unwrap()).unwrap()
    }

    fn connect(&self, listener: &TcpListener, to: &str) -> (TcpStream, TcpStream) {
        let to: SocketAddr = to.parse().unwrap();
        let client = in_netns(&self.client.ns, || {
            TcpStream::connect_timeout(&to, Duration::from_secs(5)).expect("through the gateway")
        });
        (client.unwrap(), listener.accept().unwrap().0)
    }

    fn conntrack(&self) -> Conntrack {
        present(Conntrack::open(&self.gateway.ns).unwrap())
    }
}

fn present<T>(answer: Answer<T>) -> T {
    match answer {
        Answer::Present(value) => value,
        Answer::Absent => panic!("this kernel has no connection tracking"),
    }
}

/// What of an entry `conntrack -L -o extended,id` shows, in one comparable line.
fn line(proto: u8, ends: [SocketAddr; 4], counts: [Option<Counters>; 2], zone: u16, id: u32) -> String {
    format!("{proto} {ends:?} {counts:?} zone {zone} id {id}")
}

fn ours(entry: &Entry) -> String {
    let ends = [entry.orig.src, entry.orig.dst, entry.reply.src, entry.reply.dst];
    let id = entry.id.expect("each entry has a number");
    line(
        entry.proto,
        ends,
        [entry.orig_count, entry.reply_count],
        entry.zone,
        id,
    )
}

fn theirs(text: &str) -> String {
    let values = |name: &str| -> Vec<&str> {
        text.split_whitespace()
            .filter_map(|w| w.strip_prefix(name)?.strip_prefix('='))
            .collect()
    };
    let (src, dst, sport, dport) = (values("src"), values("dst"), values("sport"), values("dport"));
    let (packets, bytes) = (values("packets"), values("bytes"));
    let end = |ip: &str, port: &str| SocketAddr::new(ip.parse().unwrap(), port.parse().unwrap());
    let count = |i: usize| {
        let number = |v: &[&str]| v[i].parse().unwrap();
        (!packets.is_empty()).then(|| Counters {
            packets: number(&packets),
            bytes: number(&bytes),
        })
    };
    line(
        text.split_whitespace().nth(3).unwrap().parse().unwrap(),
        [
            end(src[0], sport[0]),
            end(dst[0], dport[0]),
            end(src[1], sport[1]),
            end(dst[1], dport[1]),
        ],
        [count(0), count(1)],
        values("zone").first().map_or(0, |zone| zone.parse().unwrap()),
        values("id")[0].parse().unwrap(),
    )
}

/// Neighbour discovery and the like come when they please.
fn with_ports(entries: Vec<Entry>) -> Vec<Entry> {
    entries
        .into_iter()
        .filter(|e| e.proto == TCP || e.proto == UDP)
        .collect()
}

#[test]
fn entries_are_those_of_conntrack() {
    let topology = Gateway::new("");
    let (listener, listener6) = (
        topology.listen("10.9.2.2:8080"),
        topology.listen("[fd09:2::2]:8080"),
    );
    let before = SystemTime::now();
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(topology.connect(&listener, "10.9.1.1:80"));
        held.push(topology.connect(&listener6, "[fd09:1::1]:80"));
    }
    for (client, server) in &mut held {
        client.write_all(b"ask").unwrap();
        server.read_exact(&mut [0; 3]).unwrap();
    }
    let udp = in_netns(&topology.client.ns, || UdpSocket::bind("10.9.1.2:5000").unwrap()).unwrap();
    udp.send_to(b"hello", "10.9.2.2:6000").unwrap();
    // Delayed acknowledgements still count.
    std::thread::sleep(Duration::from_millis(300));

    let entries = with_ports(topology.conntrack().dump().unwrap());
    let mut text = String::new();
    for family in ["ipv4", "ipv6"] {
        text += &topology
            .gateway
            .exec(&["conntrack", "-L", "-f", family, "-o", "extended,id"]);
    }
    let truth: BTreeSet<_> = text
        .lines()
        .filter(|l| l.contains(" tcp ") || l.contains(" udp "))
        .map(theirs)
        .collect();
    assert_eq!(truth.len(), 101, "{text}");
    assert_eq!(entries.iter().map(ours).collect::<BTreeSet<_>>(), truth);

    for entry in &entries {
        assert!(entry.translated(), "{entry:?}");
        assert_eq!(entry.tcp_state, (entry.proto == TCP).then_some(3), "{entry:?}");
        let start = SystemTime::UNIX_EPOCH + Duration::from_nanos(entry.start_ns.unwrap());
        assert!(start >= before && start <= SystemTime::now(), "{entry:?}");
    }
    // And what the sockets themselves know.
    let (client, server) = &held[0];
    let own = entries
        .iter()
        .find(|e| e.orig.src == client.local_addr().unwrap())
        .unwrap();
    assert_eq!(own.orig.dst, "10.9.1.1:80".parse().unwrap());
    assert_eq!(own.reply.src, server.local_addr().unwrap());
    assert_eq!(own.reply.dst, server.peer_addr().unwrap());
}

#[test]
fn one_entry_by_either_tuple() {
    let topology = Gateway::new("");
    let listener = topology.listen("[fd09:2::2]:8080");
    let (client, server) = topology.connect(&listener, "[fd09:1::1]:80");
    let mut conntrack = topology.conntrack();
    let orig = Tuple {
        src: client.local_addr().unwrap(),
        dst: client.peer_addr().unwrap(),
    };
    let reply = Tuple {
        src: server.local_addr().unwrap(),
        dst: server.peer_addr().unwrap(),
    };
    let found = conntrack
        .get(TCP, orig, 0)
        .unwrap()
        .expect("by the original tuple");
    assert_eq!((found.orig, found.reply), (orig, reply));
    assert_eq!(
        conntrack.get(TCP, reply, 0).unwrap().expect("by the reply").id,
        found.id
    );
    assert_eq!(conntrack.get(TCP, orig, 9).unwrap(), None, "another zone");
    assert_eq!(conntrack.get(UDP, orig, 0).unwrap(), None, "another protocol");
    let mixed = Tuple {
        src: orig.src,
        dst: "10.0.0.1:1".parse().unwrap(),
    };
    assert!(conntrack.get(TCP, mixed, 0).is_err());
    // The socket is still of use after a refusal.
    assert!(conntrack.get(TCP, orig, 0).unwrap().is_some());
}

#[test]
fn zones_of_both_and_of_one_direction() {
    let raw = "chain raw { type filter hook prerouting priority raw;
        iifname c tcp dport 80 ct zone set 7
        iifname s tcp sport 8080 ct zone set 7
        iifname c tcp dport 9000 ct original zone set 5; }";
    let topology = Gateway::new(raw);
    let listener = topology.listen("10.9.2.2:8080");
    let (client, _server) = topology.connect(&listener, "10.9.1.1:80");
    let direct = topology.listen("10.9.2.2:9000");
    let (one_sided, _other) = topology.connect(&direct, "10.9.2.2:9000");

    let mut conntrack = topology.conntrack();
    let entries = with_ports(conntrack.dump().unwrap());
    let zones = |socket: &TcpStream| {
        let entry = entries
            .iter()
            .find(|e| e.orig.src == socket.local_addr().unwrap())
            .unwrap();
        (entry.zone, entry.reply_zone)
    };
    assert_eq!(zones(&client), (7, 7));
    assert_eq!(zones(&one_sided), (5, 0));
    let orig = Tuple {
        src: client.local_addr().unwrap(),
        dst: client.peer_addr().unwrap(),
    };
    assert!(conntrack.get(TCP, orig, 7).unwrap().is_some());
    assert_eq!(conntrack.get(TCP, orig, 0).unwrap(), None);
}

#[test]
fn untranslated_and_uncounted() {
    let ns = TestNs::new("plain");
    assert_eq!(accounting(&ns.ns).unwrap(), Some(false));
    ns.exec(&[
        "nft",
        "table inet t { chain c { type filter hook input priority 0; ct state new accept; }; }",
    ]);
    let (_listener, _client, _server) = in_netns(&ns.ns, || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap();
        (listener, client, server)
    })
    .unwrap();
    let entries = present(Conntrack::open(&ns.ns).unwrap()).dump().unwrap();
    assert_eq!(entries.len(), 1);
    assert!(!entries[0].translated());
    assert_eq!(
        (entries[0].orig_count, entries[0].reply_count, entries[0].start_ns),
        (None, None, None)
    );
    ns.exec(&["sysctl", "-qw", "net.netfilter.nf_conntrack_acct=1"]);
    assert_eq!(accounting(&ns.ns).unwrap(), Some(true));
}

fn listener(topology: &Gateway, interest: Interest, capacity: usize) -> (Listener, Receiver<Event>) {
    let options = Options {
        interest,
        capacity,
        ..Options::default()
    };
    present(Listener::start(&topology.gateway.ns, options).unwrap())
}

fn flush(topology: &Gateway) {
    topology.gateway.exec(&["conntrack", "-F"]);
}

#[test]
fn beginnings_and_ends_with_final_counters() {
    let topology = Gateway::new("");
    let (listening, events) = listener(&topology, Interest::NewAndDestroy, 1000);
    let server = topology.listen("10.9.2.2:8080");
    let held: Vec<_> = (0..20)
        .map(|_| topology.connect(&server, "10.9.1.1:80"))
        .collect();
    let table = with_ports(topology.conntrack().dump().unwrap());
    flush(&topology);

    let (mut new, mut ended) = (Vec::new(), Vec::new());
    while ended.len() < held.len() {
        match events.recv_timeout(Duration::from_secs(10)).expect("an event") {
            Event::New(entry) if entry.proto == TCP => new.push(entry),
            Event::Destroy(entry) if entry.proto == TCP => ended.push(entry),
            _ => {}
        }
    }
    let ids = |entries: &[Entry]| entries.iter().map(|e| e.id.unwrap()).collect::<BTreeSet<_>>();
    assert_eq!(ids(&table).len(), held.len());
    assert_eq!((ids(&new), ids(&ended)), (ids(&table), ids(&table)));
    for entry in &ended {
        let same = table.iter().find(|e| e.id == entry.id).unwrap();
        assert_eq!((entry.orig, entry.reply), (same.orig, same.reply));
        // SYN, SYN-ACK, ACK.
        assert_eq!(
            (
                entry.orig_count.unwrap().packets,
                entry.reply_count.unwrap().packets
            ),
            (2, 1)
        );
    }
    let counted = listening.counters();
    assert_eq!((counted.dropped, counted.rejected, counted.overruns), (0, 0, 0));
    assert_eq!(counted.received, counted.delivered);
    assert!(counted.delivered >= 40);
}

#[test]
fn what_the_reader_does_not_take_is_counted() {
    let topology = Gateway::new("");
    let (listening, events) = listener(&topology, Interest::Destroy, 3);
    let server = topology.listen("10.9.2.2:8080");
    let held: Vec<_> = (0..20)
        .map(|_| topology.connect(&server, "10.9.1.1:80"))
        .collect();
    flush(&topology);
    let all = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        listening.counters().received >= held.len() as u64
    });
    assert!(all, "{:?}", listening.counters());
    drop(held);
    let counted = listening.counters();
    assert_eq!((counted.delivered, counted.dropped), (3, counted.received - 3));
    assert_eq!(events.try_iter().count(), 3);
    assert!(listening.running());
    drop(listening);
    assert!(
        events.recv().is_err(),
        "the end of the listener is the end of the events"
    );
}

#[test]
fn an_overrun_of_the_kernels_queue_is_counted() {
    let topology = Gateway::new("");
    // Room for a few messages, and thousands that come within one system call.
    let options = Options {
        interest: Interest::Destroy,
        capacity: 10_000,
        receive_buffer: 2048,
    };
    let (listening, events) = present(Listener::start(&topology.gateway.ns, options).unwrap());
    let udp = in_netns(&topology.client.ns, || UdpSocket::bind("10.9.1.2:5000").unwrap()).unwrap();
    for port in 10_000..14_000 {
        udp.send_to(b"x", ("10.9.2.2", port)).unwrap();
    }
    let made = with_ports(topology.conntrack().dump().unwrap()).len() as u64;
    assert!(made > 3000, "{made} entries");
    flush(&topology);
    let overrun = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        listening.counters().overruns > 0
    });
    let counted = listening.counters();
    assert!(overrun && counted.received < made, "{counted:?}");
    assert_eq!(counted.delivered, counted.received);
    // It goes on after an overrun.
    while events.try_recv().is_ok() {}
    let server = topology.listen("10.9.2.2:8080");
    let held = topology.connect(&server, "10.9.1.1:80");
    flush(&topology);
    let ours = held.0.local_addr().unwrap();
    let seen = (0..10).any(|_| {
        matches!(events.recv_timeout(Duration::from_secs(10)), Ok(Event::Destroy(e)) if e.orig.src == ours)
    });
    assert!(seen, "{:?}", listening.counters());
}

#[test]
fn without_a_reader_the_listener_ends() {
    let topology = Gateway::new("");
    let (listening, events) = listener(&topology, Interest::NewAndDestroy, 10);
    drop(events);
    let server = topology.listen("10.9.2.2:8080");
    let _held = topology.connect(&server, "10.9.1.1:80");
    let ended = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        !listening.running()
    });
    assert!(ended);
    assert_eq!(listening.counters().dropped, 1);
}
