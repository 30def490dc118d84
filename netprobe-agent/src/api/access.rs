//! Who may ask for what: tokens, sessions, roles, and how often.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use axum::{
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, MonotonicClock},
};
use sha2::{Digest as _, Sha256};

use super::{guard::Allowed, openapi, problem::Problem, sessions::Sessions};
use crate::config::{ApiConfig, Role};

/// Wrong tokens a minute that get a plain refusal; further ones have to wait.
const WRONG_A_MINUTE: NonZeroU32 = NonZeroU32::new(20).expect("not zero");
/// Requests between two looks for addresses that need no longer be remembered.
const FORGET_EVERY: u32 = 1024;

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Over the Unix socket: the mode of its file decides who can.
    Unix,
    /// Over the address.
    Tcp {
        /// Whether it is a loopback address.
        loopback: bool,
        /// Whether with TLS.
        tls: bool,
    },
}

impl Way {
    /// Whether a browser may send its cookie over nothing less.
    pub(super) const fn is_secure(self) -> bool {
        matches!(self, Way::Tcp { tls: true, .. })
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// What the caller may do; `None`: nothing.
    pub(super) role: Option<Role>,
    /// Name of the token.
    pub(super) token: Option<String>,
}

type Limiter = DefaultKeyedRateLimiter<IpAddr>;

/// What can be changed while the agent runs.
struct Rules {
    config: ApiConfig,
    allowed: Allowed,
    requests: Limiter,
}

/// The rules in force, and what callers did so far.
pub(super) struct Access {
    rules: ArcSwap<Rules>,
    pub(super) sessions: Sessions,
    wrong: Limiter,
    asked: AtomicU32,
    port: u16,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Access {
    /// The rules of a configuration; `port` is the one that is really listened on.
    pub(super) fn new(config: &ApiConfig, port: u16) -> Access {
        Access {
            rules: ArcSwap::from_pointee(Rules::new(config, port)),
            sessions: Sessions::default(),
            wrong: RateLimiter::keyed(Quota::per_minute(WRONG_A_MINUTE)),
            asked: AtomicU32::new(0),
            port,
        }
    }

    /// Takes other rules, from the next request on.
    pub(super) fn replace(&self, config: &ApiConfig) {
        self.rules.store(Arc::new(Rules::new(config, self.port)));
    }

    /// Name and role of a token.
    pub(super) fn token(&self, token: &str) -> Option<(String, Role)> {
        let sha256: [u8; 32] = Sha256::digest(token).into();
        let rules = self.rules.load();
        // Every hash is looked at, so that the time does not tell which one it was.
        rules.config.tokens.iter().fold(None, |found, (name, hash)| {
            if hash.is(&sha256) {
                Some((name.clone(), hash.role))
            } else {
                found
            }
        })
    }

    /// Refuses a wrong token, the slower the more of them come from an address.
    pub(super) fn wrong_token(&self, address: Option<IpAddr>) -> Response {
        if let Some(wait) = address.and_then(|address| wait(&self.wrong, address)) {
            let detail = "too many wrong tokens came from this address; wait, then use a token of api.tokens";
            return Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).with(header::RETRY_AFTER, wait);
        }
        tracing::warn!(address = ?address, "a request with a wrong token was refused");
        unauthorized("this token is not known; `netprobe token new` makes one")
    }

    /// Whether a request that came so would be let in now.
    pub(super) fn may_read(&self, way: Way, headers: &HeaderMap) -> bool {
        self.caller(way, headers)
            .is_ok_and(|caller| caller.role >= Some(Role::Reader))
    }

    fn caller(&self, way: Way, headers: &HeaderMap) -> Result<Caller, ()> {
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            let token = value.to_str().ok().and_then(|value| {
                let (scheme, token) = value.split_once(' ')?;
                scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
            });
            let (name, role) = token.and_then(|token| self.token(token)).ok_or(())?;
            return Ok(Caller {
                role: Some(role),
                token: Some(name),
            });
        }
        let rules = self.rules.load();
        let of_cookie = headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .find_map(|cookies| self.sessions.token(cookies, Instant::now()));
        // A token that was taken away takes its sessions along.
        if let Some(name) = of_cookie
            && let Some(hash) = rules.config.tokens.get(&name)
        {
            return Ok(Caller {
                role: Some(hash.role),
                token: Some(name),
            });
        }
        let role = match way {
            Way::Unix => Some(Role::Operator),
            Way::Tcp { loopback: true, .. } => rules.config.anonymous.role(),
            Way::Tcp { loopback: false, .. } => None,
        };
        Ok(Caller { role, token: None })
    }

    fn forget(&self, rules: &Rules) {
        if self
            .asked
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(FORGET_EVERY)
        {
            rules.requests.retain_recent();
            self.wrong.retain_recent();
        }
    }
}

impl Rules {
    fn new(config: &ApiConfig, port: u16) -> Rules {
        let rate = NonZeroU32::new(config.rate_limit).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(config.rate_limit / 2).unwrap_or(NonZeroU32::MIN);
        Rules {
            allowed: Allowed::new(config, port),
            requests: RateLimiter::keyed(Quota::per_second(rate).allow_burst(burst)),
            config: config.clone(),
        }
    }
}

/// Seconds an address has to wait, rounded up; `None`: it may go on.
fn wait(limiter: &Limiter, address: IpAddr) -> Option<u64> {
    let not_until = limiter.check_key(&network(address)).err()?;
    let wait = not_until.wait_time_from(MonotonicClock.now());
    Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
}

/// One IPv6 customer has 2⁶⁴ addresses.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::from((u128::from(address) >> 64 << 64).to_be_bytes()),
        address => address,
    }
}

/// What a request needs; `None`: nothing at all. What no path answers needs a reader, to be told so.
fn needed(method: &Method, path: Option<&MatchedPath>) -> Option<Role> {
    match path.map(MatchedPath::as_str) {
        Some("/" | "/openapi.json" | "/health/live" | "/health/ready" | "/api/v1/session") => None,
        Some(path) if path.starts_with("/assets/") => None,
        Some(path) if openapi::writes(method, path) => Some(Role::Operator),
        _ => Some(Role::Reader),
    }
}

fn unauthorized(detail: &str) -> Response {
    let challenge = HeaderValue::from_static("Bearer realm=\"netprobe\"");
    Problem::new(StatusCode::UNAUTHORIZED, detail).with(header::WWW_AUTHENTICATE, challenge)
}

/// Refuses foreign names, too many requests, and what the caller may not do.
pub(super) async fn check(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    // Whoever forgets to say how requests come gets the strictest rule.
    let way = request.extensions().get::<Way>().copied().unwrap_or(Way::Tcp {
        loopback: false,
        tls: false,
    });
    let address = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .map(|info| info.0.ip());
    {
        let rules = access.rules.load();
        if let Some(problem) = rules.allowed.objection(&request) {
            return problem.into_response();
        }
        access.forget(&rules);
        if let Some(wait) = address.and_then(|address| wait(&rules.requests, address)) {
            let most = rules.config.rate_limit;
            let detail =
                format!("more than {most} requests a second came from this address; see api.rate_limit");
            return Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).with(header::RETRY_AFTER, wait);
        }
    }
    let Ok(caller) = access.caller(way, request.headers()) else {
        return access.wrong_token(address);
    };
    if let Some(needed) = needed(request.method(), request.extensions().get()) {
        match caller.role {
            Some(role) if role >= needed => {}
            Some(role) => {
                let detail = format!(
                    "this takes the role {}, and you have the role {}; use another token, or the Unix socket",
                    needed.name(),
                    role.name()
                );
                return Problem::new(StatusCode::FORBIDDEN, detail).into_response();
            }
            None => return unauthorized("a token is needed; send `Authorization: Bearer TOKEN`"),
        }
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}
