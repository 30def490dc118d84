//! Who may ask for what.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};

use super::*;
use crate::config::{Anonymous, Role, TokenHash};

const READER: &str = "npt_reader";
const OPERATOR: &str = "npt_operator";

/// With a token of either role.
fn closed(name: &str) -> ApiConfig {
    let mut config = config(name);
    config.anonymous = Anonymous::None;
    let mut add = |role: Role, token| {
        let hash = TokenHash::of(role, token);
        config.tokens.insert(role.name().to_owned(), hash);
    };
    add(Role::Reader, READER);
    add(Role::Operator, OPERATOR);
    config
}

const LEVEL: &str = r#"{"level":"info"}"#;

fn put(headers: &str) -> String {
    body("PUT /api/v1/log", headers, LEVEL)
}

fn body(line: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{line} HTTP/1.1\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         {headers}\r\n{body}"
    )
}

impl Api {
    fn send(&self, request: &str) -> Answer {
        exchange(TcpStream::connect(self.address).unwrap(), request)
    }

    fn with(&self, line: &str, header: &str) -> Answer {
        self.ask(line, &format!("Host: localhost\r\n{header}\r\n"))
    }
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

#[test]
fn roles_decide() {
    let api = start_with(closed("roles"), Pipeline::Answers { flows: 0 });
    let get = "GET /api/v1/flows";
    for path in [
        "/health/live",
        "/health/ready",
        "/openapi.json",
        "/api/v1/session",
    ] {
        assert_eq!(api.get(path).status, 200, "{path} needs no token");
    }
    for path in [
        "/metrics",
        "/api/v1/flows",
        "/api/v1/stream",
        "/api/v1/log",
        "/nothing",
    ] {
        let answer = api.get(path);
        assert_eq!(answer.status, 401, "{path}");
        assert!(
            answer.head.contains("www-authenticate: bearer"),
            "{}",
            answer.head
        );
        assert!(problem(&answer).starts_with("a token is needed"));
    }
    assert_eq!(api.with(get, &bearer(READER)).status, 200);
    assert_eq!(
        api.with(get, &format!("authorization: bearer  {READER}")).status,
        200
    );
    for wrong in ["npt_reade", "npt_reader2", "", "Basic bnB0X3JlYWRlcg=="] {
        assert_eq!(api.with(get, &bearer(wrong)).status, 401, "{wrong}");
    }
    assert_eq!(api.with(get, "Authorization: Basic bnB0X3JlYWRlcg==").status, 401);
    let answer = api.send(&put(&format!("{}\r\n", bearer(READER))));
    assert_eq!(answer.status, 403);
    assert!(problem(&answer).starts_with("this takes the role operator, and you have the role reader"));
    let answer = api.send(&put(&format!("{}\r\n", bearer(OPERATOR))));
    assert_eq!(
        (answer.status, &answer.json()["api_version"]),
        (200, &"v1".into())
    );
    // Whoever can open the socket is an operator.
    let answer = exchange(UnixStream::connect(&api.socket).unwrap(), &put(""));
    assert_eq!(answer.status, 200);
}

#[test]
fn without_token_the_loopback_address_reads_unless_told_otherwise() {
    for (anonymous, read, write) in [
        (Anonymous::None, 401, 401),
        (Anonymous::Reader, 200, 403),
        (Anonymous::Operator, 200, 200),
    ] {
        let config = ApiConfig {
            anonymous,
            ..config("anonymous")
        };
        let api = start_with(config, Pipeline::Answers { flows: 0 });
        assert_eq!(api.get("/api/v1/flows").status, read, "{anonymous:?}");
        assert_eq!(api.send(&put("")).status, write, "{anonymous:?}");
    }
}

#[test]
fn wrong_tokens_at_rate_have_to_wait_and_right_ones_do_not() {
    let api = start_with(closed("rate"), Pipeline::Answers { flows: 0 });
    let get = "GET /api/v1/flows";
    let answers: Vec<_> = (0..30)
        .map(|n| api.with(get, &bearer(&format!("wrong{n}"))))
        .collect();
    assert_eq!(answers[0].status, 401);
    let last = answers.last().unwrap();
    assert_eq!(last.status, 429);
    assert!(last.head.contains("retry-after: "), "{}", last.head);
    assert!(problem(last).starts_with("too many wrong tokens"));
    assert_eq!(api.with(get, &bearer(READER)).status, 200);
}

#[test]
fn requests_at_rate_have_to_wait() {
    let mut config = config("often");
    config.rate_limit = 4;
    let api = start_with(config, Pipeline::Answers { flows: 0 });
    let answers: Vec<_> = (0..8).map(|_| api.get("/health/live")).collect();
    assert_eq!(answers[0].status, 200);
    let last = answers.last().unwrap();
    assert_eq!(last.status, 429);
    assert!(last.head.contains("retry-after: 1"), "{}", last.head);
    assert!(problem(last).contains("4 requests a second"));
    for _ in 0..8 {
        let request = "GET /health/live HTTP/1.1\r\nConnection: close\r\n\r\n";
        let answer = exchange(UnixStream::connect(&api.socket).unwrap(), request);
        assert_eq!(answer.status, 200, "the Unix socket has no limit");
    }
}

#[test]
fn a_browser_exchanges_its_token_for_a_cookie() {
    let api = start_with(closed("session"), Pipeline::Answers { flows: 0 });
    let open = |token: &str| {
        let request = format!(r#"{{"token":"{token}"}}"#);
        api.send(&body("POST /api/v1/session", "Host: localhost\r\n", &request))
    };
    assert_eq!(open("npt_wrong").status, 401);
    let answer = open(OPERATOR);
    assert_eq!((answer.status, &answer.json()["role"]), (201, &"operator".into()));
    assert!(
        answer.head.contains("; httponly; samesite=strict"),
        "{}",
        answer.head
    );
    assert!(
        !answer.head.contains("secure"),
        "not over plain HTTP: the browser would not send it"
    );
    let cookie = answer
        .head
        .split("set-cookie: ")
        .nth(1)
        .unwrap()
        .split(';')
        .next()
        .unwrap();
    let cookie = format!("Cookie: theme=dark; {cookie}");
    assert_eq!(api.with("GET /api/v1/flows", &cookie).status, 200);
    assert_eq!(api.send(&put(&format!("{cookie}\r\n"))).status, 200);
    let who = api.with("GET /api/v1/session", &cookie).json();
    assert_eq!(
        (&who["role"], &who["token"]),
        (&"operator".into(), &"operator".into())
    );
    assert_eq!(
        api.with("GET /api/v1/flows", "Cookie: netprobe_session=00")
            .status,
        401
    );

    // A token that is taken away takes its sessions along.
    let mut fewer = api.config.clone();
    fewer.tokens.remove("operator");
    api.control.reload(&fewer).unwrap();
    assert_eq!(api.with("GET /api/v1/flows", &cookie).status, 401);
    assert_eq!(api.with("GET /api/v1/flows", &bearer(OPERATOR)).status, 401);
    api.control.reload(&api.config).unwrap();
    assert_eq!(api.with("GET /api/v1/flows", &cookie).status, 200);

    let answer = api.with("DELETE /api/v1/session", &cookie);
    assert!(answer.head.contains("max-age=0"), "{}", answer.head);
    assert_eq!(api.with("GET /api/v1/flows", &cookie).status, 401);
}

#[test]
fn a_stream_ends_with_its_token() {
    use tokio_tungstenite::tungstenite::{Message, client, client::IntoClientRequest as _};
    let api = start_with(closed("expired"), Pipeline::Answers { flows: 0 });
    let url = format!("ws://{}/api/v1/stream", api.address);
    let open = || {
        let mut request = url.as_str().into_client_request().unwrap();
        let value = format!("Bearer {READER}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
        let socket = TcpStream::connect(api.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client(request, socket)
            .map(|(stream, _)| stream)
            .map_err(|error| error.to_string())
    };
    let mut stream = open().unwrap();
    let mut fewer = api.config.clone();
    fewer.tokens.remove("reader");
    api.control.reload(&fewer).unwrap();
    let close = loop {
        if let Message::Close(close) = stream.read().unwrap() {
            break close.unwrap();
        }
    };
    assert_eq!(u16::from(close.code), 1008);
    assert!(close.reason.contains("token"), "{}", close.reason);
    let refused = open().map(|_| ()).unwrap_err();
    assert!(refused.contains("401"), "{refused}");
}

#[test]
fn bodies_that_cannot_be_read_are_problems() {
    let api = start("bodies", Pipeline::Answers { flows: 0 });
    let unix = |request: &str| exchange(UnixStream::connect(&api.socket).unwrap(), request);
    for (text, detail) in [
        ("", "the body cannot be read: EOF"),
        ("{", "the body cannot be read: EOF"),
        (
            r#"{"level":"loud"}"#,
            "unknown variant `loud`, expected one of `error`",
        ),
        (r#"{"level":"info","colour":1}"#, "unknown field `colour`"),
        (r#"{"level":"info","targets":{"x":7}}"#, "the body cannot be read"),
    ] {
        let answer = unix(&body("PUT /api/v1/log", "", text));
        assert_eq!(answer.status, 400, "{text}");
        assert!(problem(&answer).contains(detail), "{}", answer.body);
    }
    let answer = unix("PUT /api/v1/log HTTP/1.1\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}");
    assert_eq!(answer.status, 415);
    assert!(problem(&answer).contains("application/json"));
    // In chunks there is no length to refuse; it is counted while it comes.
    let chunk = format!("11000\r\n{}\r\n0\r\n\r\n", " ".repeat(0x11000));
    let answer = unix(&format!(
        "PUT /api/v1/log HTTP/1.1\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n{chunk}"
    ));
    assert_eq!(answer.status, 413);
}

/// A certificate for `localhost` with its key, as files.
fn certificate(folder: &Path, name: &str) -> rcgen::CertifiedKey<rcgen::KeyPair> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join(format!("{name}.pem")), made.cert.pem()).unwrap();
    std::fs::write(
        folder.join(format!("{name}.key")),
        made.signing_key.serialize_pem(),
    )
    .unwrap();
    made
}

type Client = Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>;

/// One request by a client that trusts this certificate alone.
fn over_tls(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
    client: Client,
    header: &str,
) -> io::Result<Answer> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let config = match client {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let to = SocketAddr::from(([127, 0, 0, 1], address.port()));
    let mut stream = StreamOwned::new(connection, TcpStream::connect(to)?);
    // A refused handshake is told while writing or while reading the answer.
    let request =
        format!("GET /api/v1/flows HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    let status = std::str::from_utf8(&answer[9..]).unwrap().parse().unwrap();
    Ok(Answer {
        status,
        head: String::new(),
        body: String::new(),
    })
}

#[test]
fn other_addresses_speak_tls_and_want_a_token() {
    let mut config = closed("tls");
    let folder = config.socket.parent().unwrap().to_owned();
    let first = certificate(&folder, "first");
    config.listen = "0.0.0.0:0".parse().unwrap();
    config.anonymous = Anonymous::Operator;
    config.tls_cert = folder.join("first.pem");
    config.tls_key = folder.join("first.key");
    let api = start_with(config.clone(), Pipeline::Answers { flows: 0 });
    let first = first.cert.der().clone();
    let ask = |trusted: &CertificateDer<'static>, header: &str| over_tls(api.address, trusted, None, header);
    assert_eq!(ask(&first, &bearer(READER)).unwrap().status, 200);
    // Anonymous callers are of the loopback address alone, and this one is every address.
    assert_eq!(ask(&first, "x: y").unwrap().status, 401);
    let mut plain = TcpStream::connect(("127.0.0.1", api.address.port())).unwrap();
    plain.write_all(b"GET /health/live HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "plain HTTP is not spoken");

    // Files that cannot be used leave the running certificate alone.
    std::fs::write(folder.join("empty.pem"), "").unwrap();
    for (cert, key, message) in [
        (
            "none.pem",
            "first.key",
            "api.tls_cert: no certificate can be read",
        ),
        (
            "empty.pem",
            "first.key",
            "api.tls_cert: there is no certificate in",
        ),
        (
            "first.pem",
            "first.pem",
            "api.tls_key: no private key can be read",
        ),
    ] {
        let mut wrong = config.clone();
        (wrong.tls_cert, wrong.tls_key) = (folder.join(cert), folder.join(key));
        let error = api.control.reload(&wrong).unwrap_err();
        assert!(error.to_string().starts_with(message), "{error}");
        assert_eq!(ask(&first, &bearer(READER)).unwrap().status, 200);
    }

    // Another certificate in the same files is taken without a restart.
    let second = certificate(&folder, "first").cert.der().clone();
    api.control.reload(&config).unwrap();
    assert!(ask(&first, &bearer(READER)).is_err());
    assert_eq!(ask(&second, &bearer(READER)).unwrap().status, 200);

    // Mutual TLS, on top of the token.
    let other = certificate(&folder, "client");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(other.signing_key.serialize_der()));
    let client = (other.cert.der().clone(), key);
    config.tls_client_ca = folder.join("client.pem");
    api.control.reload(&config).unwrap();
    assert!(ask(&second, &bearer(READER)).is_err(), "no client certificate");
    let with = |client: &(CertificateDer<'static>, PrivateKeyDer<'static>), header: &str| {
        over_tls(
            api.address,
            &second,
            Some((client.0.clone(), client.1.clone_key())),
            header,
        )
    };
    assert_eq!(with(&client, &bearer(READER)).unwrap().status, 200);
    assert_eq!(with(&client, "x: y").unwrap().status, 401);
    let stranger = certificate(&folder, "stranger");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(stranger.signing_key.serialize_der()));
    assert!(with(&(stranger.cert.der().clone(), key), &bearer(READER)).is_err());
}
