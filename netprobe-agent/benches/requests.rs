//! What reading a request costs the agent: `cargo bench -p netprobe-agent --bench requests`.

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use netprobe_agent::{
    config::RequestsConfig,
    request::{
        http1::Http1,
        protocol::{Found, Piece, Protocol as _, Side},
        route::Templates,
        settings::Settings,
    },
};

/// What curl sends, and what a browser behind a proxy that traces does.
const REQUESTS: [(&str, &str); 2] = [
    (
        "curl",
        "GET /ok HTTP/1.1\r\nHost: example.org\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n",
    ),
    (
        "browser",
        "GET /api/v1/users/4711/orders?page=2 HTTP/1.1\r\nHost: example.org\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
         Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
         Accept-Language: en-GB,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
         Cookie: session=0123456789abcdef0123456789abcdef0123456789abcdef; theme=dark; consent=all\r\n\
         traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
         X-Request-ID: 7b4c9d5e-1f0a\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n",
    ),
];
const RESPONSE: &str = "HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sat, 21 Nov 2026 19:06:52 GMT\r\n\
                        Content-Type: text/plain\r\nContent-Length: 4\r\nConnection: keep-alive\r\n\r\nfine";

fn exchanges(criterion: &mut Criterion) {
    let settings = Arc::new(Settings::new(&RequestsConfig::default()));
    for (name, request) in REQUESTS {
        let mut http = Http1::new(settings.clone(), false);
        let mut found = Found::default();
        let mut at = 0;
        criterion.bench_function(&format!("http1/{name}"), |bencher| {
            bencher.iter(|| {
                for (side, text) in [(Side::ToServer, request), (Side::ToClient, RESPONSE)] {
                    at += 1;
                    let piece = Piece {
                        at,
                        bytes: black_box(text.as_bytes()),
                        skipped: 0,
                    };
                    http.feed(side, piece, &mut found);
                }
                assert_eq!(found.exchanges.len(), 1, "one request, one exchange");
                found.exchanges.clear();
            });
        });
    }
}

fn routes(criterion: &mut Criterion) {
    let templates = Templates::default();
    criterion.bench_function("route", |bencher| {
        bencher.iter(|| templates.of(black_box("/api/v1/users/4711/orders?page=2")));
    });
}

criterion_group!(all, exchanges, routes);
criterion_main!(all);
