use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::{
    config::RequestsConfig,
    request::protocol::{Side::ToClient as S, Side::ToServer as C},
};

/// Something that happens, each at a time 10 after the one before.
#[derive(Clone, Debug)]
enum Do {
    /// Bytes of a direction.
    Send(Side, Vec<u8>),
    /// Bytes, and so many behind them that are not captured.
    Cut(Side, Vec<u8>, u64),
}

fn send(side: Side, text: &str) -> Do {
    Do::Send(side, text.as_bytes().to_vec())
}

fn cut(side: Side, text: &str, skipped: u64) -> Do {
    Do::Cut(side, text.as_bytes().to_vec(), skipped)
}

fn reader(resumed: bool) -> Http1 {
    Http1::new(Arc::new(Settings::new(&RequestsConfig::default())), resumed)
}

fn play(mut http: Http1, script: &[Do]) -> Found {
    let mut found = Found::default();
    let mut at = 0;
    for step in script {
        at += 10;
        let (side, bytes, skipped) = match step {
            Do::Send(side, bytes) => (*side, bytes, 0),
            Do::Cut(side, bytes, skipped) => (*side, bytes, *skipped),
        };
        http.feed(side, Piece { at, bytes, skipped }, &mut found);
    }
    http.close(at + 10, &mut found);
    assert!(http.is_opaque());
    found
}

/// An exchange on a line.
fn line(exchange: &Exchange) -> String {
    let mut out = String::new();
    let text = |value: &Option<Arc<str>>| value.as_deref().unwrap_or("-").to_owned();
    let _ = write!(
        out,
        "{} {} {} {} {}>{}",
        exchange.protocol,
        text(&exchange.method),
        text(&exchange.route),
        exchange
            .status_code
            .map_or("-".to_owned(), |status| status.to_string()),
        exchange.bytes_to_server,
        exchange.bytes_to_client,
    );
    let times = exchange.times;
    for time in [
        times.request_first,
        times.request_last,
        times.response_first,
        times.response_last,
    ] {
        let _ = write!(out, " {}", time.map_or("-".to_owned(), |time| time.to_string()));
    }
    let marks = exchange.marks;
    for (name, set) in [
        ("partial", marks.partial),
        ("upper_bound", marks.upper_bound),
        ("ambiguous", marks.ambiguous),
    ] {
        if set {
            let _ = write!(out, " {name}");
        }
    }
    if let Some(error) = exchange.error {
        let _ = write!(out, " {error}");
    }
    out
}

fn lines(script: &[Do]) -> Vec<String> {
    play(reader(false), script).exchanges.iter().map(line).collect()
}

fn resumed(script: &[Do]) -> Vec<String> {
    play(reader(true), script).exchanges.iter().map(line).collect()
}

const GET: &str = "GET /a?secret HTTP/1.1\r\nHost: x\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn one_after_the_other() {
    let script = [send(C, GET), send(S, OK), send(C, GET), send(S, OK)];
    assert_eq!(
        lines(&script),
        [
            "http/1.1 GET /a 200 35>40 10 10 20 20",
            "http/1.1 GET /a 200 35>40 30 30 40 40"
        ]
    );
}

#[test]
fn pipelined() {
    let script = [
        send(C, &format!("{GET}{GET}HEAD /b HTTP/1.1\r\n\r\n")),
        send(S, OK),
        send(S, &format!("{OK}HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")),
    ];
    assert_eq!(
        lines(&script),
        [
            "http/1.1 GET /a 200 35>40 10 10 20 20",
            "http/1.1 GET /a 200 35>40 10 10 30 30",
            "http/1.1 HEAD /b 200 20>41 10 10 30 30"
        ]
    );
}

#[test]
fn bodies_that_are_not_captured() {
    let script = [
        cut(C, "PUT /f HTTP/1.1\r\nContent-Length: 5000\r\n\r\n12345", 995),
        cut(C, "", 4000),
        cut(S, "HTTP/1.1 201 Created\r\nContent-Length: 3000\r\n\r\n", 1000),
        cut(S, "abc", 1997),
        send(C, GET),
        send(S, OK),
    ];
    assert_eq!(
        lines(&script),
        [
            "http/1.1 PUT /f 201 5041>3046 10 20 30 40",
            "http/1.1 GET /a 200 35>40 50 50 60 60"
        ]
    );
}

#[test]
fn statuses_without_a_body() {
    for status in [204, 304] {
        let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 9\r\n\r\n");
        let script = [send(C, GET), send(S, &answer), send(C, GET), send(S, OK)];
        let lines = lines(&script);
        assert_eq!(lines[0], format!("http/1.1 GET /a {status} 35>37 10 10 20 20"));
        assert_eq!(lines.len(), 2);
    }
}

#[test]
fn interim_responses_are_not_the_response() {
    let script = [
        send(
            C,
            "POST /p HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
        ),
        send(S, "HTTP/1.1 100 Continue\r\n\r\n"),
        send(C, "data"),
        send(S, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
        send(S, OK),
    ];
    assert_eq!(lines(&script), ["http/1.1 POST /p 200 65>105 10 30 50 50"]);
}

#[test]
fn chunks_are_followed() {
    let script = [
        send(
            C,
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: 1\r\n\r\n",
        ),
        send(
            S,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\nA\r\n0123",
        ),
        cut(S, "", 6),
        send(S, "\r\n0\r\n\r\n"),
    ];
    assert_eq!(lines(&script), ["http/1.1 POST / 200 72>73 10 10 20 40"]);
}

#[test]
fn chunks_whose_framing_was_not_captured() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n0123";
    let lost = |last: Do| lines(&[send(C, GET), cut(S, head, 500), last, send(C, GET), send(S, OK)]);
    // All of the connection is its own until the next request: the end is exact.
    assert_eq!(
        lost(cut(S, "xyz", 10)),
        [
            "http/1.1 GET /a 200 35>568 10 10 20 30",
            "http/1.1 GET /a 200 35>40 40 40 50 50"
        ]
    );
    // It looks like the end, and is told at once.
    assert_eq!(
        lost(send(S, "xyz\r\n0\r\n\r\n"))[0],
        "http/1.1 GET /a 200 35>565 10 10 20 30 upper_bound"
    );
}

#[test]
fn a_body_that_ends_with_the_connection() {
    let script = [
        send(C, "GET / HTTP/1.0\r\n\r\n"),
        cut(S, "HTTP/1.0 200 OK\r\n\r\n", 100),
        cut(S, "", 100),
    ];
    assert_eq!(lines(&script), ["http/1.0 GET / 200 18>219 10 10 20 30"]);
}

#[test]
fn tunnels_and_upgrades_end_it() {
    let script = [
        send(C, "CONNECT x:443 HTTP/1.1\r\n\r\n"),
        send(C, "GET /not-http HTTP/1.1\r\n\r\n"),
        send(S, "HTTP/1.1 200 Connection established\r\n\r\n"),
        send(S, "\x16\x03\x01"),
    ];
    assert_eq!(lines(&script), ["http/1.1 CONNECT - 200 26>39 10 10 30 30"]);
    let refused = [
        send(C, "CONNECT x:443 HTTP/1.1\r\n\r\n"),
        send(S, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
        send(C, GET),
        send(S, OK),
    ];
    assert_eq!(lines(&refused).len(), 2);
    let upgrade = [
        send(C, "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"),
        send(S, "HTTP/1.1 101 Switching Protocols\r\n\r\n\x01\x02"),
        send(C, "\u{1}\u{2}GET / HTTP/1.1\r\n\r\n"),
    ];
    assert_eq!(lines(&upgrade), ["http/1.1 GET /ws 101 40>36 10 10 20 20"]);
}

#[test]
fn what_the_end_leaves_unfinished() {
    let one = |script: &[Do]| {
        let lines = lines(script);
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines[0].clone()
    };
    assert_eq!(
        one(&[send(C, "GET / HT")]),
        "http - - - 8>0 10 - - - partial request_incomplete"
    );
    assert_eq!(
        one(&[send(C, "GET / HTTP/1.1\r\nHost")]),
        "http/1.1 GET / - 20>0 10 - - - partial request_incomplete"
    );
    assert_eq!(
        one(&[send(C, "PUT / HTTP/1.1\r\nContent-Length: 9\r\n\r\n123")]),
        "http/1.1 PUT / - 40>0 10 - - - partial request_incomplete"
    );
    assert_eq!(
        one(&[send(C, GET)]),
        "http/1.1 GET /a - 35>0 10 10 - - partial no_response"
    );
    assert_eq!(
        one(&[
            send(C, GET),
            send(S, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123")
        ]),
        "http/1.1 GET /a 200 35>41 10 10 20 20 partial response_incomplete"
    );
    assert_eq!(
        one(&[send(C, GET), send(S, "HTTP/1.1 20")]),
        "http/1.1 GET /a - 35>11 10 10 - 20 partial response_incomplete"
    );
    let two = [send(C, &format!("{GET}{GET}")), send(S, OK)];
    assert_eq!(
        lines(&two)[1],
        "http/1.1 GET /a - 35>0 10 10 - - partial no_response"
    );
}

#[test]
fn answered_before_it_was_sent() {
    let script = [
        send(C, "PUT / HTTP/1.1\r\nContent-Length: 9\r\n\r\n123"),
        send(S, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"),
    ];
    assert_eq!(lines(&script), ["http/1.1 PUT / 413 40>45 10 - 20 20 partial"]);
    let timeout = [
        send(C, "GET /slow HTTP/1.1\r\nHo"),
        send(S, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"),
    ];
    assert_eq!(
        lines(&timeout),
        ["http/1.1 GET /slow 408 22>51 10 10 20 20 partial"]
    );
}

#[test]
fn a_head_that_was_cut() {
    let script = [
        cut(C, "GET /a/7 HTTP/1.1\r\nX-Request-ID: abc\r\nCookie: xxx", 3000),
        cut(S, "HTTP/1.1 500 No\r\nSet-Coo", 2000),
        cut(S, "", 10),
        send(C, GET),
        send(S, OK),
    ];
    let found = play(reader(false), &script);
    let lines: Vec<_> = found.exchanges.iter().map(line).collect();
    assert_eq!(
        lines,
        [
            "http/1.1 GET /a/:id 500 3049>2034 10 10 20 30 partial",
            "http/1.1 GET /a 200 35>40 40 40 50 50"
        ]
    );
    assert_eq!(found.exchanges[0].request_id.as_deref(), Some("abc"));
    // Not even the first line: nothing is guessed.
    let long = [cut(C, "GET /aaaaaaaa", 3000), send(S, OK)];
    assert_eq!(
        self::lines(&long),
        ["http/1.1 - - 200 3013>40 10 10 20 20 partial"]
    );
}

#[test]
fn holes() {
    // A whole response is missing: its request is given without one, and the next pair is right.
    let script = [
        send(C, GET),
        cut(S, "", 40),
        send(C, "GET /b HTTP/1.1\r\n\r\n"),
        send(S, OK),
    ];
    assert_eq!(
        lines(&script),
        [
            "http/1.1 GET /a - 35>0 10 10 - - partial",
            "http/1.1 GET /b 200 19>40 30 30 40 40"
        ]
    );
    // A whole request is missing: its response is nobody's.
    let script = [cut(C, "", 35), send(S, OK), send(C, GET), send(S, OK)];
    assert_eq!(lines(&script), ["http/1.1 GET /a 200 35>40 30 30 40 40"]);
    // The line end behind a chunk is as long as ever.
    let script = [
        send(C, GET),
        cut(
            S,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n0123",
            13,
        ),
        cut(S, "", 1),
        send(S, "0\r\n\r\n"),
        send(C, GET),
        send(S, OK),
    ];
    assert_eq!(lines(&script)[0], "http/1.1 GET /a 200 35>74 10 10 20 40");
    // Within a body nothing is lost but bytes.
    let script = [
        send(C, GET),
        send(S, &OK[..38]),
        cut(S, "", 2),
        send(C, GET),
        send(S, OK),
    ];
    assert_eq!(lines(&script)[0], "http/1.1 GET /a 200 35>40 10 10 20 30");
}

#[test]
fn older_than_the_agent() {
    let script = [
        send(S, "rest of a body HTTP/1.1 200 OK\r\n\r\n"),
        send(C, "rest of a request\r\n\r\n"),
        send(C, "GET something that is none\r\n"),
        send(S, OK),
        send(C, GET),
        send(S, OK),
    ];
    assert_eq!(resumed(&script), ["http/1.1 GET /a 200 35>40 50 50 60 60"]);
}

#[test]
fn what_two_parsers_read_differently_is_marked() {
    for head in [
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "Content-Length: 2, 2\r\n\r\nok",
        "Content-Length: +2\r\n\r\nok",
        "Content-Length: 99999999999999999999\r\n\r\nok",
        "Transfer-Encoding: chunked, identity\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n",
        "Host: x\r\n folded: y\r\n\r\n",
    ] {
        let found = play(
            reader(false),
            &[send(C, &format!("POST / HTTP/1.1\r\n{head}")), send(S, OK)],
        );
        assert!(
            found.rejects.contains(&Reject::HttpAmbiguous),
            "{head}: {found:?}"
        );
        assert_eq!(found.exchanges.len(), 1, "{head}");
        assert!(found.exchanges[0].marks.ambiguous, "{head}");
        assert_eq!(found.exchanges[0].status_code, Some(200), "{head}");
    }
}

#[test]
fn what_is_no_http_is_refused_and_counted() {
    for (bytes, reject) in [
        ("GET / HTTP/1.1\r\nbad header\r\n\r\n", Reject::HttpHead),
        ("GET / HTTP/1.1\r\nbad : header\r\n\r\n", Reject::HttpHead),
        ("GET  / HTTP/1.1\r\n\r\n", Reject::HttpHead),
        ("\u{1}\u{2}\u{3}binary", Reject::HttpHead),
        ("GET /\u{ff}\u{0} HTTP/1.1\r\n\r\n", Reject::HttpHead),
        (
            &format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(200)),
            Reject::HttpHeadTooLong,
        ),
        (
            &format!("GET / HTTP/1.1\r\nA: {}", "b".repeat(1 << 20)),
            Reject::HttpHeadTooLong,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            Reject::HttpChunk,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            Reject::HttpChunk,
        ),
    ] {
        let mut http = reader(false);
        let mut found = Found::default();
        let piece = Piece {
            at: 1,
            bytes: bytes.as_bytes(),
            skipped: 0,
        };
        http.feed(C, piece, &mut found);
        assert_eq!(found.rejects, [reject], "{bytes:.60}");
        assert!(http.memory() < 100 << 10, "{}", http.memory());
        // The answer of the server is paired with it all the same.
        let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
        http.feed(
            S,
            Piece {
                at: 2,
                bytes: answer,
                skipped: 0,
            },
            &mut found,
        );
        assert_eq!(found.exchanges.len(), 1, "{bytes:.60}");
        assert_eq!(found.exchanges[0].status_code, Some(400));
    }
}

#[test]
fn memory_is_bounded() {
    let mut http = reader(false);
    let mut found = Found::default();
    for at in 0..5000 {
        http.feed(
            C,
            Piece {
                at,
                bytes: GET.as_bytes(),
                skipped: 0,
            },
            &mut found,
        );
        assert!(http.memory() < 1 << 20);
    }
    assert_eq!(found.rejects, [Reject::HttpPipeline]);
    assert_eq!(found.exchanges.len(), MOST_PENDING);
    let mut http = reader(false);
    for at in 0..200_000 {
        http.feed(
            C,
            Piece {
                at,
                bytes: if at == 0 { b"G" } else { b"E" },
                skipped: 0,
            },
            &mut found,
        );
    }
    assert!(http.memory() < 200 << 10);
}

fn message() -> impl Strategy<Value = (String, String)> {
    let body = prop_oneof![
        (0usize..40).prop_map(|len| format!("Content-Length: {len}\r\n\r\n{}", "x".repeat(len))),
        proptest::collection::vec(1usize..20, 0..4).prop_map(|chunks| {
            let mut out = "Transfer-Encoding: chunked\r\n\r\n".to_owned();
            for len in chunks {
                let _ = write!(out, "{len:x}\r\n{}\r\n", "y".repeat(len));
            }
            out + "0\r\n\r\n"
        }),
    ];
    let interim = prop_oneof![Just(""), Just("HTTP/1.1 100 Continue\r\n\r\n")];
    (body.clone(), body, interim).prop_map(|(request, response, interim)| {
        (
            format!("POST /p/1 HTTP/1.1\r\nX-Request-Id: r\r\n{request}"),
            format!("{interim}HTTP/1.1 200 OK\r\n{response}"),
        )
    })
}

/// Feeds the bytes in pieces that end at the given places.
fn split(http: &mut Http1, side: Side, bytes: &[u8], places: &[prop::sample::Index], found: &mut Found) {
    let mut ends: Vec<_> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let mut from = 0;
    for end in ends {
        http.feed(
            side,
            Piece {
                at: 5,
                bytes: &bytes[from..end],
                skipped: 0,
            },
            found,
        );
        from = end;
    }
}

proptest! {
    #[test]
    fn any_split_gives_the_same(
        messages in proptest::collection::vec(message(), 1..5),
        places in proptest::collection::vec(any::<prop::sample::Index>(), 0..30),
        every_byte: bool,
    ) {
        let requests: String = messages.iter().map(|(request, _)| request.as_str()).collect();
        let responses: String = messages.iter().map(|(_, response)| response.as_str()).collect();
        let mut whole = Found::default();
        let mut http = reader(false);
        split(&mut http, C, requests.as_bytes(), &[], &mut whole);
        split(&mut http, S, responses.as_bytes(), &[], &mut whole);
        prop_assert_eq!(whole.exchanges.len(), messages.len());
        prop_assert_eq!(&whole.rejects, &[]);
        let bytes: u64 = whole.exchanges.iter().map(|one| one.bytes_to_server + one.bytes_to_client).sum();
        prop_assert_eq!(bytes, (requests.len() + responses.len()) as u64);
        let mut pieces = Found::default();
        let mut http = reader(false);
        if every_byte {
            for (side, text) in [(C, &requests), (S, &responses)] {
                for byte in text.as_bytes().chunks(1) {
                    http.feed(side, Piece { at: 5, bytes: byte, skipped: 0 }, &mut pieces);
                }
            }
        } else {
            split(&mut http, C, requests.as_bytes(), &places, &mut pieces);
            split(&mut http, S, responses.as_bytes(), &places, &mut pieces);
        }
        prop_assert_eq!(whole, pieces);
    }
}

/// What a recording of tests/fixtures/http1 gives, played as a connection of its own.
fn recorded(name: &str) -> Vec<String> {
    let path = format!("{}/../tests/fixtures/http1/{name}", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).expect("a recording");
    let mut http = reader(false);
    let (mut found, mut at) = (Found::default(), 0);
    for (side, bytes, skipped) in crate::request::recording::steps(&bytes) {
        at += 10;
        http.feed(side, Piece { at, bytes, skipped }, &mut found);
    }
    http.close(at + 10, &mut found);
    let mut lines: Vec<_> = found.exchanges.iter().map(line).collect();
    lines.extend(found.rejects.iter().map(|reject| reject.name().to_owned()));
    lines
}

/// Recorded between the real programs, of each packet 512 bytes. The lengths are those the programs say they moved.
#[test]
fn real_servers_and_clients() {
    let mut seen = String::new();
    for name in [
        "nginx_curl_keepalive",
        "nginx_curl_head",
        "nginx_curl_204",
        "nginx_curl_gzip_chunked",
        "nginx_curl_put_continue",
        "python_curl_chunked",
        "python_curl_post",
        "haproxy_curl_keepalive",
        "curl_http10_close",
        "haproxy_half_request",
        "nginx_garbage",
        "nginx_pipelined",
        "nginx_smuggling",
        "nginx_split_head",
    ] {
        let _ = writeln!(seen, "{name}");
        for line in recorded(name) {
            let _ = writeln!(seen, "  {line}");
        }
    }
    insta::assert_snapshot!(seen, @"
    nginx_curl_keepalive
      http/1.1 GET /small.txt 200 97>241 10 10 20 20
      http/1.1 GET /big.bin 200 86>200244 30 30 40 170
      http/1.1 GET /missing/:id 404 91>308 180 180 190 190
    nginx_curl_head
      http/1.1 HEAD /big.bin 200 87>244 10 10 20 20
    nginx_curl_204
      http/1.1 GET /no 204 81>110 10 10 20 20
    nginx_curl_gzip_chunked
      http/1.1 GET /gz/big.bin 200 131>200244 10 10 20 140
    nginx_curl_put_continue
      http/1.1 PUT /put 201 200128>181 10 150 20 20
    python_curl_chunked
      http/1.1 GET /x 200 80>1150 10 10 20 50
    python_curl_post
      http/1.1 POST /api/v1/users/:id 404 274>118 10 10 20 20
    haproxy_curl_keepalive
      http/1.1 GET /small.txt 200 88>217 10 10 20 20
      http/1.1 GET /small.txt 200 88>217 30 30 40 40
    curl_http10_close
      http/1.0 GET /small.txt 200 88>236 10 10 20 20
    haproxy_half_request
      http/1.1 GET /half 408 29>233 10 10 20 20 partial
    nginx_garbage
      http/1.1 - - 400 14>309 10 10 20 20 partial malformed_request
      http_head
    nginx_pipelined
      http/1.1 GET /small.txt 200 36>241 10 10 20 20
      http/1.1 GET /no 204 29>110 10 10 20 20
      http/1.1 HEAD /small.txt 200 37>235 10 10 20 20 partial
    nginx_smuggling
      http/1.1 POST /put 400 83>309 10 10 20 20 ambiguous
      http_ambiguous
    nginx_split_head
      http/1.1 GET /small.txt 200 36>241 10 50 60 60
    ");
}
