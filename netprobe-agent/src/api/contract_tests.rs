//! What the contract says, held against what is served; and what is too much.

use super::*;

#[test]
fn the_contract_is_the_one_in_the_documents() {
    const COMMITTED: &str = include_str!("../../../docs/openapi.json");
    assert!(contract() == COMMITTED, "run `cargo xtask docs`");
    let api = start("contract", Pipeline::Answers { flows: 0 });
    assert_eq!(api.get("/openapi.json").body, COMMITTED);
}

#[test]
fn every_path_of_the_contract_is_served() {
    let api = start("paths", Pipeline::Answers { flows: 0 });
    let contract: Value = serde_json::from_str(contract()).unwrap();
    for (path, methods) in contract["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let answer = api.ask(
                &format!("{} {path}", method.to_uppercase()),
                "Host: localhost\r\n",
            );
            assert!(
                ![404, 405].contains(&answer.status),
                "{method} {path}: {}",
                answer.status
            );
        }
    }
}

#[test]
fn events_have_the_fields_of_the_contract() {
    let contract: Value = serde_json::from_str(contract()).unwrap();
    let fields = |json: &Value| -> Vec<String> { json.as_object().unwrap().keys().cloned().collect() };
    let mut event = serde_json::to_value(fixture::flow()).unwrap();
    event["flow"] = Value::Null;
    let schema = &contract["components"]["schemas"]["Event"]["properties"];
    assert_eq!(fields(&event), fields(schema));
    let flow = serde_json::to_value(fixture::flow().flow).unwrap();
    let schema = &contract["components"]["schemas"]["Flow"]["properties"];
    assert_eq!(fields(&flow), fields(schema));
    let states = &contract["components"]["schemas"]["FlowState"]["enum"];
    assert_eq!(*states, serde_json::json!(["open", "update", "closed", "failed"]));
}

#[test]
fn what_is_too_large_is_a_problem() {
    let api = start("large", Pipeline::Answers { flows: 0 });
    let long = "a".repeat(9 << 10);
    assert_eq!(
        api.problem(&format!("/api/v1/flows?comm={long}"), 414),
        "path and query of 9235 bytes; 8192 bytes are allowed"
    );
    let many: String = (0..20).map(|n| format!("x-{n}: {}\r\n", &long[..1024])).collect();
    let answer = api.ask("GET /health/live", &format!("Host: localhost\r\n{many}"));
    assert_eq!(answer.status, 431);
    assert!(
        problem(&answer).ends_with("16384 bytes are allowed"),
        "{}",
        answer.body
    );
    let answer = api.ask("PUT /api/v1/log", "Host: localhost\r\nContent-Length: 70000\r\n");
    assert_eq!(answer.status, 413);
    assert_eq!(problem(&answer), "body of 70000 bytes; 65536 bytes are allowed");
    // Beyond what the server reads at all, it answers by itself, and the agent goes on.
    let head = format!("Host: localhost\r\nx: {}\r\n", "a".repeat(100 << 10));
    let mut stream = TcpStream::connect(api.address).unwrap();
    let request = format!("GET /health/live HTTP/1.1\r\n{head}\r\n");
    let sent = stream.write_all(request.as_bytes());
    let mut answer = [0; 12];
    if sent.is_ok() && stream.read_exact(&mut answer).is_ok() {
        assert_eq!(&answer, b"HTTP/1.1 431");
    }
    assert_eq!(api.get("/health/live").status, 200);
}

#[test]
fn paths_lead_nowhere_else() {
    let api = start("traversal", Pipeline::Answers { flows: 0 });
    for path in [
        "/../../etc/passwd",
        "/assets/../../etc/passwd",
        "/assets/%2e%2e/%2e%2e/etc/passwd",
        "/api/v1/..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/%00",
    ] {
        assert!(
            api.problem(path, 404).starts_with("there is nothing at"),
            "{path}"
        );
    }
}

#[test]
fn answers_carry_their_request_id_and_compress() {
    let api = start("headers", Pipeline::Answers { flows: 50 });
    let answer = api.ask("GET /api/v1/probe", "Host: localhost\r\nX-Request-Id: mine-7\r\n");
    assert!(answer.head.contains("x-request-id: mine-7"), "{}", answer.head);
    assert!(answer.head.contains("x-content-type-options: nosniff"));
    assert!(answer.head.contains("cache-control: no-store"));
    assert!(
        api.get("/nothing").head.contains("x-request-id: "),
        "one of our own"
    );
    let mut stream = TcpStream::connect(api.address).unwrap();
    let request = "GET /api/v1/flows HTTP/1.1\r\nConnection: close\r\nAccept-Encoding: gzip\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
    assert!(head.contains("content-encoding: gzip"), "{head}");
    let plain = api.get("/api/v1/flows").body.len();
    assert!(bytes.len() * 4 < plain, "{} of {plain}", bytes.len());
}

#[test]
fn a_client_that_sends_no_request_is_let_go_and_holds_nobody_up() {
    let mut config = config("slow");
    config.max_connections = 20;
    let api = start_with(config, Pipeline::Answers { flows: 0 });
    let slow: Vec<_> = (0..60)
        .map(|_| {
            let mut stream = TcpStream::connect(api.address).unwrap();
            let _ = stream.write_all(b"GET /health/live HT");
            stream
        })
        .collect();
    // The Unix socket has seats of its own.
    let request = "GET /health/live HTTP/1.1\r\nConnection: close\r\n\r\n";
    let answer = exchange(UnixStream::connect(&api.socket).unwrap(), request);
    assert_eq!(answer.status, 200);
    // All 60 end: 40 at once, 20 when their head did not come in time.
    let begin = std::time::Instant::now();
    let mut early = 0;
    for mut stream in slow {
        stream.set_read_timeout(Some(2 * HEAD)).unwrap();
        // An answer (408) or none: the connection ends.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        early += usize::from(begin.elapsed() < HEAD / 2);
    }
    assert!(begin.elapsed() < 2 * HEAD);
    assert!(early <= 40, "{early} of 60 ended early, and 20 have a seat");
    assert_eq!(api.get("/health/live").status, 200);
}
