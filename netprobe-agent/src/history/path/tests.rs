//! Connections over several hosts whose way is known.

use std::net::SocketAddr;

use super::{
    super::testing::{Host, store},
    *,
};
use crate::event::{CloseReason, Flow, FlowState, Origin, Request, Severity};

const CLIENT: &str = "10.1.0.2:40000";
const VIRTUAL: &str = "10.1.0.100:80";
const GATEWAY: &str = "10.2.0.1:40000";
const SERVER: &str = "10.2.0.2:8080";

/// A final event of a connection of a host, told when it ended; its id.
fn tell(host: &mut Host, begin: f64, role: FlowRole, client: (&str, &str), server: (&str, &str)) -> String {
    let mut flow = Flow::new(FlowState::Closed);
    flow.close_reason = Some(CloseReason::Fin);
    let mut event = host.flow(begin, 5.0, client.1, flow);
    let end = |text: &str| {
        let end: SocketAddr = text.parse().unwrap();
        (Some(end.ip()), Some(end.port()))
    };
    let (internal, peer, external, actual) = match role {
        FlowRole::Server => (server.1, server.0, client.1, client.0),
        _ => (client.0, client.1, server.0, server.1),
    };
    event.role = Some(role);
    (event.internal_ip, event.internal_port) = end(internal);
    (event.peer_ip, event.peer_port) = end(peer);
    (event.external_ip, event.external_port) = end(external);
    (event.actual_peer_ip, event.actual_peer_port) = end(actual);
    let id = event.connection_id.as_deref().unwrap().to_owned();
    host.tell(begin + 0.005, event);
    id
}

struct Fleet {
    store: Store,
    client: Host,
    gateway: Host,
    server: Host,
}

impl Fleet {
    fn new() -> Fleet {
        let store = store();
        let host = |name, run| Host::new(&store, name, run);
        Fleet {
            client: host("client", 1),
            gateway: host("gateway", 2),
            server: host("server", 3),
            store,
        }
    }

    /// A connection from the client through the gateway, which translates both of its ends.
    fn translated(&mut self, begin: f64) -> [String; 3] {
        let (before, after) = ((CLIENT, VIRTUAL), (GATEWAY, SERVER));
        [
            tell(&mut self.client, begin, FlowRole::Client, before, before),
            tell(&mut self.gateway, begin + 0.1, FlowRole::Forwarded, before, after),
            tell(&mut self.server, begin - 0.3, FlowRole::Server, after, after),
        ]
    }

    async fn ask(&mut self, id: &str) -> Option<Path> {
        for host in [&mut self.client, &mut self.gateway, &mut self.server] {
            host.seal().await;
        }
        let question = Question {
            connection: id.to_owned(),
            span: Span::default(),
            at_once: 1,
        };
        path(&self.store, &question, |_| {}).await.unwrap()
    }
}

fn ids(path: &Path) -> Vec<&str> {
    path.legs
        .iter()
        .map(|leg| leg.flow.connection_id.as_deref().unwrap())
        .collect()
}

#[tokio::test]
async fn any_id_of_it_gives_the_whole_way() {
    for asked in 0..3 {
        let mut fleet = Fleet::new();
        // Others, of the same client and to the same server.
        let beside = ("10.1.0.2:40001", VIRTUAL);
        tell(&mut fleet.client, 9.0, FlowRole::Client, beside, beside);
        tell(
            &mut fleet.server,
            9.0,
            FlowRole::Server,
            ("10.2.0.1:40001", SERVER),
            ("10.2.0.1:40001", SERVER),
        );
        let all = fleet.translated(10.0);
        let path = fleet.ask(&all[asked]).await.unwrap();
        assert_eq!(ids(&path), all, "asked for the {asked}.");
        assert!(!path.alike);
        assert_eq!(path.sources.hosts.len(), 3);
    }
}

#[tokio::test]
async fn of_connections_with_the_same_addresses_the_nearest_is_taken() {
    let mut fleet = Fleet::new();
    fleet.translated(10.0);
    let second = fleet.translated(40.0);
    // Far away: another connection altogether.
    fleet.translated(400.0);
    let path = fleet.ask(&second[1]).await.unwrap();
    assert_eq!(ids(&path), second);
    assert!(path.alike);
}

#[tokio::test]
async fn a_host_that_is_missing_ends_the_way() {
    let mut fleet = Fleet::new();
    let all = fleet.translated(10.0);
    fleet.gateway = Host::new(&fleet.store, "gateway", 4);
    let path = fleet.ask(&all[0]).await.unwrap();
    assert_eq!(ids(&path), [&all[0]]);
    assert!(fleet.ask("nobody-1").await.is_none());
}

#[tokio::test]
async fn requests_are_told_with_the_host_that_read_them() {
    let mut fleet = Fleet::new();
    let all = fleet.translated(10.0);
    for id in [&*all[2], "other-1"] {
        let origin = Origin::new("server", "boot", "3");
        let event = Event::request(&origin, id.into(), Severity::Info, Request::default());
        fleet.server.tell(10.004, event);
    }
    let path = fleet.ask(&all[0]).await.unwrap();
    let requests: Vec<usize> = path.legs.iter().map(|leg| leg.requests.len()).collect();
    assert_eq!(requests, [0, 0, 1]);
}

#[tokio::test]
async fn loopback_is_another_machine_on_each_host() {
    let mut fleet = Fleet::new();
    let local = ("127.0.0.1:40000", "127.0.0.1:80");
    let id = tell(&mut fleet.client, 10.0, FlowRole::Client, local, local);
    let same = tell(&mut fleet.client, 10.0, FlowRole::Server, local, local);
    tell(&mut fleet.server, 10.0, FlowRole::Server, local, local);
    let path = fleet.ask(&id).await.unwrap();
    assert_eq!(ids(&path), [&*id, &*same]);
}

#[tokio::test]
async fn gateways_stand_in_the_order_of_the_wire() {
    let mut fleet = Fleet::new();
    let hops = [
        ("10.1.0.2:1", "10.1.0.9:80"),
        ("10.5.0.1:1", "10.5.0.9:80"),
        ("10.6.0.1:1", "10.6.0.9:80"),
    ];
    let mut second = Host::new(&fleet.store, "a-second", 9);
    // The one nearer to the server is told first.
    let far = tell(&mut second, 10.0, FlowRole::Forwarded, hops[1], hops[2]);
    let near = tell(&mut fleet.gateway, 10.5, FlowRole::Forwarded, hops[0], hops[1]);
    let client = tell(&mut fleet.client, 10.6, FlowRole::Client, hops[0], hops[0]);
    let server = tell(&mut fleet.server, 10.0, FlowRole::Server, hops[2], hops[2]);
    second.seal().await;
    let path = fleet.ask(&server).await.unwrap();
    assert_eq!(ids(&path), [&client, &near, &far, &server]);
}
