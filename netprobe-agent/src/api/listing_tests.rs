//! What is handed out: pages of flows and events, the scrape, the stream, the dashboard.

use super::*;

#[test]
fn flows_come_in_pages_without_holes() {
    let api = start("flows", Pipeline::Answers { flows: 4500 });
    let mut ports = Vec::new();
    let mut cursor = String::new();
    loop {
        let json = api.get(&format!("/api/v1/flows?limit=1700{cursor}")).json();
        for flow in json["flows"].as_array().unwrap() {
            assert_eq!((&flow["kind"], &flow["seq"]), (&"flow".into(), &Value::Null));
            ports.push(flow["internal_port"].as_u64().unwrap());
        }
        match json["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(ports, (1..=4500).collect::<Vec<_>>());
    let json = api.get("/api/v1/flows?port=4321&limit=5").json();
    assert_eq!(json["flows"].as_array().unwrap().len(), 1);
    assert_eq!(json["next_cursor"], Value::Null);
}

#[test]
fn events_go_on_from_a_cursor_and_tell_what_was_missed() {
    let mut api = start("events", Pipeline::Answers { flows: 0 });
    let numbers = |json: &Value| -> Vec<u64> {
        json["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["seq"].as_u64().unwrap())
            .collect()
    };
    let empty = api.get("/api/v1/events").json();
    assert_eq!((numbers(&empty), &empty["more"]), (vec![], &false.into()));
    for _ in 0..10 {
        api.fanout.emit(fixture::flow());
    }
    let cursor = |json: &Value| json["next_cursor"].as_str().unwrap().to_owned();
    let first = api
        .get(&format!("/api/v1/events?limit=4&cursor={}", cursor(&empty)))
        .json();
    assert_eq!(
        (numbers(&first), &first["more"]),
        (vec![1, 2, 3, 4], &true.into())
    );
    let second = api
        .get(&format!("/api/v1/events?cursor={}", cursor(&first)))
        .json();
    assert_eq!(
        (numbers(&second), &second["more"]),
        (vec![5, 6, 7, 8, 9, 10], &false.into())
    );
    let last = api.get("/api/v1/events?last=3").json();
    assert_eq!((numbers(&last), cursor(&last)), (vec![8, 9, 10], cursor(&second)));
    let none = api.get("/api/v1/events?last=3&kind=gap").json();
    assert_eq!((numbers(&none), cursor(&none)), (vec![], cursor(&second)));
    assert_eq!(
        numbers(&api.get("/api/v1/events?until=2000-01-01T00:00:00Z").json()),
        [0; 0]
    );

    for _ in 0..60 {
        api.fanout.emit(fixture::flow());
    }
    // 70 emitted, 50 held: 21 to 70. The reader had seen 10.
    let late = api
        .get(&format!("/api/v1/events?limit=1&cursor={}", cursor(&second)))
        .json();
    assert_eq!((numbers(&late), &late["missed"]), (vec![21], &10.into()));
    let other = api.get("/api/v1/events?limit=1&cursor=ffffffffffffffff-5").json();
    assert_eq!((numbers(&other), &other["run_changed"]), (vec![21], &true.into()));
}

#[test]
fn metrics_are_negotiated() {
    let api = start("metrics", Pipeline::Answers { flows: 0 });
    let plain = api.get("/metrics");
    assert!(
        plain.head.contains("content-type: text/plain; version=0.0.4"),
        "{}",
        plain.head
    );
    assert!(
        plain
            .body
            .contains("netprobe_probe_attached{fact=\"lifecycle\",method=\"tp_btf\"} 1\n")
    );
    assert!(!plain.body.contains("# EOF"));
    let open = api.ask(
        "GET /metrics",
        "Host: localhost\r\nAccept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n",
    );
    assert!(
        open.head
            .contains("content-type: application/openmetrics-text; version=1.0.0")
    );
    assert!(open.body.ends_with("# EOF\n"));
}

#[test]
fn recent_events_are_shared_not_copied() {
    let mut recent = Recent::new(5, usize::MAX);
    let mut event = fixture::flow();
    event.ts = Nanos(1);
    let event = Arc::new(event);
    recent.consume(&event);
    assert!(Arc::ptr_eq(&recent.all().events[0], &event));
}

#[test]
fn a_stream_that_cannot_be_is_refused_before_the_upgrade() {
    let api = start("stream", Pipeline::Answers { flows: 0 });
    let ask = |query: &str, headers: &str| {
        // `ask` closes; a browser's `Connection` names both.
        api.ask(&format!("GET /api/v1/stream{query}"), headers)
    };
    for (query, word) in [
        ("?filter=port%3D%3D", "column"),
        ("?run=00000000000000aa", "from_seq"),
        ("?run=00000000000000aa&from_seq=0", "from_seq"),
        ("?nonsense=1", "nonsense"),
    ] {
        let answer = ask(query, UPGRADE);
        assert_eq!(answer.status, 400, "{query}");
        assert!(problem(&answer).contains(word), "{}", answer.body);
    }
    let answer = ask("", "Host: localhost\r\n");
    assert_eq!(answer.status, 426);
    assert!(problem(&answer).contains("WebSocket"), "{}", answer.body);
    for foreign in [
        "Origin: https://evil.example\r\n",
        "Origin: http://localhost:1\r\n",
    ] {
        assert_eq!(ask("", &format!("{UPGRADE}{foreign}")).status, 403, "{foreign}");
    }
    assert_eq!(ask("", &UPGRADE.replace("localhost", "evil.example")).status, 403);
}

#[test]
fn a_stream_too_many_is_refused_with_a_time_to_come_back() {
    let api = start("seats", Pipeline::Answers { flows: 0 });
    let url = format!("ws://{}/api/v1/stream", api.address);
    let connect = || {
        let socket = TcpStream::connect(api.address).unwrap();
        tokio_tungstenite::tungstenite::client(&url, socket).map_err(|error| error.to_string())
    };
    let (first, answer) = connect().expect("the first client");
    assert_eq!(answer.status(), 101);
    let refused = connect().expect_err("there is one seat");
    assert!(refused.contains("503"), "{refused}");
    drop(first);
}

#[test]
fn the_dashboard_loads_nothing_from_elsewhere() {
    let api = start("dashboard", Pipeline::Answers { flows: 0 });
    let page = api.get("/");
    assert_eq!(page.status, 200);
    assert!(page.head.contains("content-type: text/html"), "{}", page.head);
    let policy = "content-security-policy: default-src 'none'; script-src 'self'";
    assert!(page.head.contains(policy), "{}", page.head);
    let own = page.body.split('"').filter_map(|word| word.strip_prefix("./"));
    let files: Vec<_> = own.collect();
    assert!(files.len() >= 2, "a script and a style sheet: {}", page.body);
    for file in files {
        let answer = api.get(&format!("/{file}"));
        assert_eq!(answer.status, 200, "{file}");
        assert!(
            answer.head.contains("nosniff") && answer.head.contains("immutable"),
            "{}",
            answer.head
        );
    }
    for path in [
        "/assets/no-such-file.js",
        "/assets/..%2findex.html",
        "/assets/%2e%2e/%2e%2e/Cargo.toml",
    ] {
        assert_eq!(api.get(path).status, 404, "{path}");
    }
}
