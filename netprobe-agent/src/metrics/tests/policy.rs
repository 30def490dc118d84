//! Labels: their names, their bounds, and series that come and go.

use std::collections::BTreeMap;

use super::*;

#[test]
fn peers_are_named_by_the_rule() {
    let mut config = MetricsConfig {
        max_peers: 2,
        max_peer_networks: 1,
        ..MetricsConfig::default()
    };
    config
        .peers
        .insert("192.0.2.0/24".parse().unwrap(), "known".to_owned());
    config
        .peers
        .insert("192.0.2.7/32".parse().unwrap(), "mail".to_owned());
    let metrics = with(&config);
    let name = |address: &str, port: u16, role: FlowRole| {
        let peer = Some((address.parse().unwrap(), port));
        metrics.series().pair(Some("s"), peer, role, 0).key.1.to_string()
    };
    use FlowRole::{Client, Server};
    for (address, port, role, expected) in [
        ("192.0.2.7", 25, Client, "mail"),
        ("192.0.2.8", 25, Server, "known"),
        ("10.0.0.1", 80, Client, "10.0.0.1:80"),
        ("10.1.2.3", 50_000, Server, "10.1.0.0/16"),
        ("10.0.0.1", 81, Client, "10.0.0.1:81"),
        ("10.1.0.1", 82, Client, "10.1.0.0/16"),
        ("10.2.0.1", 82, Client, OTHER),
        ("2001:db8::1", 82, Server, OTHER),
        // What was admitted stays admitted.
        ("10.0.0.1", 80, Client, "10.0.0.1:80"),
    ] {
        assert_eq!(name(address, port, role), expected, "{address}:{port}");
    }
    assert_eq!(&*metrics.series().pair(Some("s"), None, Client, 0).key.1, UNKNOWN);
    assert_eq!(
        value(&page(&metrics), "netprobe_label_overflow_total{label=\"peer\"}"),
        Some(3.0)
    );
}

#[test]
fn series_stay_bounded_whatever_the_traffic() {
    let config = MetricsConfig {
        max_services: 5,
        max_pairs: 50,
        max_values: 3,
        ..MetricsConfig::default()
    };
    let metrics = with(&config);
    let total = |metrics: &Metrics| {
        page(metrics)
            .lines()
            .filter(|line| !line.starts_with('#'))
            .count()
    };
    let mut counts = Vec::new();
    for round in 0..3_u16 {
        for index in 0..2000_u16 {
            let service = format!("service-{}", index % 97);
            let mut delta = client((address(index), round * 100 + index % 7));
            delta.service = Some(&service);
            (delta.bytes_sent, delta.established, delta.connect_seconds) = (1, true, Some(0.1));
            metrics.observe_flow(&delta);
            let mut event = fixture::flow();
            let error = format!("E{index}").into();
            event.flow = Some(Flow {
                error: Some(error),
                ..Flow::new(FlowState::Failed)
            });
            metrics.consume(&event);
        }
        counts.push(total(&metrics));
    }
    assert_eq!(counts[0], counts[2], "series grow with flows");
    let page = page(&metrics);
    assert!(series(&page, "netprobe_tcp_bytes_total").len() <= 50 + 6);
    let sum: f64 = series(&page, "netprobe_tcp_bytes_total")
        .iter()
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum();
    assert_eq!(sum, 6000.0, "a bound may hide a name, never an amount");
}

/// Labels without a memory of routes, asked the same, decide the same; and a bound met counts every time.
#[test]
fn kept_decisions_are_the_decisions() {
    let config = MetricsConfig {
        peers: BTreeMap::from([("192.0.7.0/24".parse().unwrap(), "known".to_owned())]),
        max_peers: 100,
        peer_prefix_v4: 24,
        max_peer_networks: 10,
        max_services: 4,
        max_pairs: 60,
        ..MetricsConfig::default()
    };
    let metrics = with(&config);
    let mut labels = labels::Labels::new(&config);
    let mut met = BTreeMap::new();
    // Past the number of decisions kept, and back to the first.
    for index in (0..3000_u16).chain(0..3000).chain(2000..2100) {
        let names = ["a", "b", "c", "d", "e", "~other"];
        let service = names.get(usize::from(index) % 7).copied();
        for role in [FlowRole::Client, FlowRole::Server] {
            let peer = (index % 11 != 0).then(|| (address(index), index % 13));
            let (service_label, peer_label, bounds) = labels.pair(service, peer, role);
            for (_, name) in labels::Bounds::NAMES
                .iter()
                .filter(|(bound, _)| bounds.contains(*bound))
            {
                *met.entry(*name).or_insert(0.0) += 1.0;
            }
            let mut series = metrics.series();
            let pair = series.pair(service, peer, role, 0);
            assert_eq!(pair.key, (service_label, peer_label), "{index}");
        }
    }
    let page = page(&metrics);
    assert_eq!(
        met.keys().copied().collect::<Vec<_>>(),
        ["peer", "service", "service,peer"]
    );
    for (name, count) in met {
        let series = format!("netprobe_label_overflow_total{{label=\"{name}\"}}");
        assert_eq!(value(&page, &series), Some(count), "{name}");
    }
}

#[test]
fn refused_names_share_a_series() {
    let config = MetricsConfig {
        max_services: 1,
        max_values: 1,
        ..MetricsConfig::default()
    };
    let metrics = with(&config);
    for service in ["a", "b", "c", "a"] {
        metrics.move_active(None, Some((Some(service), FlowRole::Server)));
        let mut event = fixture::flow();
        event.nat.as_mut().unwrap().method = Some(service.to_owned().into());
        metrics.consume(&event);
    }
    let page = page(&metrics);
    for (series, expected) in [
        ("tcp_connections_active{service=\"a\",role=\"server\"}", 2.0),
        ("tcp_connections_active{service=\"~other\",role=\"server\"}", 2.0),
        ("nat_lookups_total{result=\"snat+dnat\",method=\"a\"}", 2.0),
        ("nat_lookups_total{result=\"snat+dnat\",method=\"~other\"}", 2.0),
        ("label_overflow_total{label=\"service\"}", 2.0),
        ("label_overflow_total{label=\"method\"}", 2.0),
    ] {
        assert_eq!(
            value(&page, &format!("netprobe_{series}")),
            Some(expected),
            "{series}"
        );
    }
}

/// A series leaves when nothing was counted in it for long, sooner when a bound was met, and goes on where it stood.
#[test]
fn idle_series_leave_and_come_back_where_they_stood() {
    let config = MetricsConfig {
        max_peers: 2,
        max_peer_networks: 0,
        ..MetricsConfig::default()
    };
    let (idle, min_age) = (3_600_000, 600_000);
    let mut series = series::Series::new(&config);
    let count = |series: &mut series::Series, peer: u16, now_ms: u64| {
        let mut delta = client((address(peer), 80));
        (delta.bytes_sent, delta.established, delta.connect_seconds) = (10, true, Some(1e-3));
        series.observe(&delta, now_ms, "boot");
    };
    let shown = |series: &series::Series, peer: &str| {
        let mut page = text::TextPage::new(false);
        series.snapshot(0).write(&mut page);
        let page = page.finish();
        let of = |name: &str| {
            value(
                &page,
                &format!(
                    "netprobe_{name}{{service=\"curl\",peer=\"{peer}\",{}}}",
                    if name.ends_with("count") {
                        "role=\"client\""
                    } else {
                        "direction=\"sent\""
                    }
                ),
            )
        };
        (of("tcp_bytes_total"), of("tcp_connect_duration_seconds_count"))
    };
    count(&mut series, 1, 0);
    count(&mut series, 2, 1000);
    count(&mut series, 2, idle);
    series.sweep(idle - 1);
    assert_eq!(shown(&series, "192.0.0.1:80"), (Some(10.0), Some(1.0)));
    series.sweep(idle);
    assert_eq!(shown(&series, "192.0.0.1:80"), (None, None));
    assert_eq!(shown(&series, "192.0.0.2:80"), (Some(20.0), Some(2.0)));
    count(&mut series, 1, idle + 1);
    assert_eq!(shown(&series, "192.0.0.1:80"), (Some(20.0), Some(2.0)));
    // No room for a third: what is idle for long enough makes way.
    count(&mut series, 3, idle + min_age - 1);
    assert_eq!(shown(&series, OTHER), (Some(10.0), Some(1.0)));
    series.sweep(idle + min_age);
    assert_eq!(shown(&series, "192.0.0.2:80"), (None, None));
    count(&mut series, 3, idle + min_age);
    assert_eq!(shown(&series, "192.0.0.3:80"), (Some(10.0), Some(1.0)));
    assert_eq!(shown(&series, OTHER), (Some(10.0), Some(1.0)));
}

#[test]
fn services_not_on_the_list_are_others_and_no_overflow() {
    let metrics = with(&MetricsConfig {
        services_only: vec!["nginx".to_owned()],
        ..MetricsConfig::default()
    });
    for service in ["nginx", "curl"] {
        metrics.move_active(None, Some((Some(service), FlowRole::Client)));
    }
    let page = page(&metrics);
    let active = series(&page, "netprobe_tcp_connections_active");
    assert_eq!(active.len(), 2, "{active:?}");
    assert!(
        active.iter().any(|line| line.contains("service=\"~other\"")),
        "{active:?}"
    );
    let overflow = value(&page, "netprobe_label_overflow_total{label=\"service\"}");
    assert_eq!(overflow, Some(0.0));
}
