//! Stories of archives whose truth is known.

use super::{
    testing::{Host, at, store},
    timeline::{self, Cause, Question, Report},
};
use crate::{
    archive::store::Store,
    event::{AgentAction, CloseReason, Flow, FlowRole, FlowState, Severity},
    filter::Filter,
};

const DB: &str = "10.0.0.5:5432";

async fn ask(store: &Store, since: f64, until: f64, filter: Filter) -> Report {
    let question = Question::new(at(since), at(until), filter).unwrap();
    timeline::report(store, &question, |_| {}).await.unwrap()
}

fn causes(report: &Report, incident: usize) -> Vec<(Cause, u64)> {
    let causes = report.incidents[incident].causes.iter();
    causes.map(|total| (total.cause, total.count)).collect()
}

/// Connected after SYN retransmits.
fn late(host: &mut Host, second: f64, peer: &str) {
    let mut flow = Flow::new(FlowState::Closed);
    (flow.connect_ms, flow.syn_retransmits) = (Some(1002.0), Some(1));
    flow.close_reason = Some(CloseReason::Fin);
    let event = host.flow(second, 1010.0, peer, flow);
    host.tell(second + 1.01, event);
}

#[tokio::test]
async fn a_story_has_first_symptom_causes_whom_and_recovery() {
    let store = store();
    let mut host = Host::new(&store, "web-1", 1);
    for second in 0..300 {
        let second = f64::from(second);
        match second as u32 {
            // First it loses SYNs, then it refuses.
            50..60 => late(&mut host, second, DB),
            60..90 => host.failed(second, 0.1, DB, CloseReason::Refused),
            _ => host.served(second, DB),
        }
        host.served(second, "10.0.0.6:80");
    }
    host.gap(70.0, "kernel", "ring_full", None);
    host.seal().await;
    let report = ask(&store, 0.0, 300.0, Filter::default()).await;
    assert_eq!(report.incidents.len(), 1);
    let incident = &report.incidents[0];
    assert_eq!(causes(&report, 0), [(Cause::SynLoss, 10), (Cause::Refused, 30)]);
    let first = &incident.episodes[0];
    assert_eq!(
        (first.cause, first.from, first.role),
        (Cause::SynLoss, at(50.0), FlowRole::Client)
    );
    assert_eq!((first.count, first.tried), (10, 10));
    assert_eq!(incident.to, at(89.0001));
    assert_eq!(incident.recovered_at, Some(at(90.002)));
    assert_eq!(incident.services.iter().collect::<Vec<_>>(), ["shop.service"]);
    assert_eq!(incident.destinations.iter().collect::<Vec<_>>(), [DB]);
    assert_eq!(incident.losses[0].loss.reason, "ring_full");
    assert_eq!(report.series.len(), 1);
    let (good, bad) = report.series[0]
        .points
        .iter()
        .fold((0, 0), |sum, point| (sum.0 + point.good, sum.1 + point.bad));
    assert_eq!((good, bad), (260, 40));
}

#[tokio::test]
async fn background_is_no_incident_and_quiet_minutes_part_two() {
    let store = store();
    let mut host = Host::new(&store, "web-1", 1);
    // Two refused are too few; three of a thousand too small a part.
    for (peer, refused) in [(DB, 2), ("10.0.0.6:80", 3)] {
        for n in 0..1000 {
            let second = f64::from(n) / 250.0;
            host.served(second, peer);
            if n % 300 == 0 && n / 300 < refused {
                host.failed(second, 0.1, peer, CloseReason::Refused);
            }
        }
    }
    for second in [200, 201, 202, 262, 330, 331, 332] {
        host.failed(f64::from(second), 0.1, "10.0.0.7:80", CloseReason::Unreachable);
    }
    host.seal().await;
    let report = ask(&store, 0.0, 400.0, Filter::default()).await;
    let background: Vec<_> = report.background.iter().map(|episode| episode.count).collect();
    assert_eq!(background, [2, 3]);
    assert_eq!(
        (causes(&report, 0), causes(&report, 1)),
        (vec![(Cause::Unreachable, 4)], vec![(Cause::Unreachable, 3)])
    );
    assert_eq!(report.incidents[1].recovered_at, None);
    assert!(report.markdown().contains("Recovered: not known"));
}

#[tokio::test]
async fn requests_are_slow_by_their_own_measure() {
    let store = store();
    let mut host = Host::new(&store, "web-1", 1);
    for second in 0..100 {
        // One service is quick and becomes slow; another is always as slow as that.
        let ms = if (40..50).contains(&second) { 120.0 } else { 5.0 };
        host.request(f64::from(second), ms, DB, Some(200));
        host.request(f64::from(second), 120.0, "10.0.0.6:80", Some(200));
        let status = (second < 90).then_some(200);
        host.request(f64::from(second), 2.0, "10.0.0.7:80", status);
    }
    host.seal().await;
    let report = ask(&store, 0.0, 100.0, Filter::default()).await;
    assert_eq!(
        causes(&report, 0),
        [(Cause::SlowFirstByte, 10), (Cause::NotAnswered, 10)]
    );
    let slow = &report.incidents[0].episodes[0];
    assert_eq!((&*slow.destination, slow.recovered_at), (DB, Some(at(50.005))));
    assert_eq!(report.incidents[0].recovered_at, None);
}

#[tokio::test]
async fn ends_and_the_servers_side_are_told() {
    let store = store();
    let mut host = Host::new(&store, "web-1", 1);
    for n in 0..5 {
        let second = f64::from(n);
        for (reason, lost) in [
            (CloseReason::ResetRemote, false),
            (CloseReason::ResetLocal, true),
            (CloseReason::ResetLocal, false),
            (CloseReason::Timeout, true),
            (CloseReason::Unaccepted, false),
        ] {
            let mut flow = Flow::new(FlowState::Closed);
            flow.close_reason = Some(reason);
            let mut event = host.flow(second, 50.0, DB, flow);
            if lost {
                event.severity = Severity::Error;
            }
            if reason == CloseReason::Unaccepted {
                event.role = Some(FlowRole::Server);
                (event.internal_ip, event.internal_port) = (Some([10, 0, 0, 1].into()), Some(80));
            }
            host.tell(second + 0.05, event);
        }
        let mut flow = Flow::new(FlowState::Closed);
        (flow.retransmits, flow.segments_out) = (Some(6), Some(50));
        let event = host.flow(second, 50.0, "10.0.0.6:80", flow);
        host.tell(second + 0.05, event);
    }
    host.seal().await;
    let report = ask(&store, 0.0, 100.0, Filter::default()).await;
    let mut told = causes(&report, 0);
    told.sort();
    let five = [
        Cause::AcceptQueue,
        Cause::TimedOut,
        Cause::ResetByPeer,
        Cause::ResetHere,
        Cause::Retransmits,
    ];
    assert_eq!(told, five.map(|cause| (cause, 5)));
    let at_server = report.incidents[0]
        .episodes
        .iter()
        .find(|of| of.role == FlowRole::Server);
    assert_eq!(at_server.unwrap().destination, "10.0.0.1:80");
}

#[tokio::test]
async fn hosts_and_agents_speak_for_themselves_whatever_the_filter() {
    let store = store();
    for name in ["web-1", "web-2"] {
        let mut host = Host::new(&store, name, 1);
        host.agent(0.0, AgentAction::Start);
        for second in 0..10 {
            host.failed(f64::from(second), 3000.0, DB, CloseReason::Timeout);
        }
        host.agent(20.0, AgentAction::Stop);
        host.seal().await;
    }
    let report = ask(&store, 0.0, 100.0, Filter::default()).await;
    let seen: Vec<_> = report.incidents[0]
        .episodes
        .iter()
        .map(|episode| &*episode.host)
        .collect();
    assert_eq!(seen, ["web-1", "web-2"]);
    // A hanging connect is in trouble from its begin on.
    assert_eq!(report.incidents[0].from, at(0.0));
    assert_eq!(report.agents.len(), 4);
    let none = Filter::from_pairs([("service", "none")]).unwrap();
    let narrow = ask(&store, 0.0, 100.0, none).await;
    assert_eq!((narrow.incidents.len(), narrow.agents.len()), (0, 4));
    assert!(narrow.markdown().contains("No incident"));
}

#[tokio::test]
async fn a_page_runs_nothing_and_names_stay_names() {
    let store = store();
    let mut host = Host::new(&store, "web-1", 1);
    host.service = "<script>alert(1)</script>";
    for second in 0..10 {
        host.failed(f64::from(second), 0.1, DB, CloseReason::Refused);
    }
    host.seal().await;
    let report = ask(&store, 0.0, 100.0, Filter::default()).await;
    let html = report.html();
    assert!(
        !html.contains("<script") && html.contains("&lt;script&gt;"),
        "{html}"
    );
    assert!(
        html.contains("default-src 'none'") && html.contains("<svg"),
        "{html}"
    );
    for outside in ["http:", "https:", "src=", "href=", "url("] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert_eq!(html, ask(&store, 0.0, 100.0, Filter::default()).await.html());
}
