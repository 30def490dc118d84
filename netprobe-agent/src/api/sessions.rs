//! Browser sessions: a token exchanged for a cookie. They live in memory, and end with the agent.

use std::{
    collections::HashMap,
    io,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

use crate::config::Hex;

/// Name of the cookie.
const COOKIE: &str = "netprobe_session";
/// How long a session lasts.
pub(super) const LIFE: Duration = Duration::from_secs(8 * 3600);
/// Most sessions; the oldest one makes room.
const MOST: usize = 1000;

/// Sessions by the hash of their id, which makes looking one up safe against timing.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<[u8; 32], Session>>);

#[derive(Debug)]
struct Session {
    /// Name of the token it was opened with.
    token: String,
    ends: Instant,
}

impl Sessions {
    /// Opens one and returns its `Set-Cookie`.
    pub(super) fn open(&self, token: &str, secure: bool, now: Instant) -> io::Result<String> {
        let mut random = [0_u8; 32];
        rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())?;
        let id = Hex(&random).to_string();
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| session.ends > now);
        if sessions.len() >= MOST {
            let oldest = sessions.iter().min_by_key(|(_, session)| session.ends);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                sessions.remove(&oldest);
            }
        }
        let session = Session {
            token: token.to_owned(),
            ends: now + LIFE,
        };
        sessions.insert(Sha256::digest(&id).into(), session);
        Ok(set_cookie(&id, LIFE.as_secs(), secure))
    }

    /// Name of the token of the session these cookies are of.
    pub(super) fn token(&self, cookies: &str, now: Instant) -> Option<String> {
        let key = key(cookies)?;
        let sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let session = sessions.get(&key).filter(|session| session.ends > now)?;
        Some(session.token.clone())
    }

    /// Ends the session of these cookies, and returns the `Set-Cookie` that takes it away.
    pub(super) fn close(&self, cookies: &str, secure: bool) -> String {
        if let Some(key) = key(cookies) {
            let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            sessions.remove(&key);
        }
        set_cookie("", 0, secure)
    }
}

fn set_cookie(id: &str, seconds: u64, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("{COOKIE}={id}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
}

fn key(cookies: &str) -> Option<[u8; 32]> {
    let mut pairs = cookies.split(';').filter_map(|pair| pair.trim().split_once('='));
    let (_, id) = pairs.find(|(name, _)| *name == COOKIE)?;
    Some(Sha256::digest(id).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_end_and_make_room() {
        let sessions = Sessions::default();
        let now = Instant::now();
        let open = |name: &str, now| {
            let cookie = sessions.open(name, true, now).unwrap();
            assert!(cookie.ends_with("; Path=/; Max-Age=28800; HttpOnly; SameSite=Strict; Secure"));
            cookie.split(';').next().unwrap().to_owned()
        };
        let first = open("first", now);
        let jar = |cookie: &str| format!("a=b; {cookie}; c=d");
        assert_eq!(sessions.token(&jar(&first), now).as_deref(), Some("first"));
        assert_eq!(sessions.token(&jar(&first), now + LIFE), None);
        assert_eq!(sessions.token("netprobe_session=", now), None);
        for number in 1..=MOST as u64 {
            open("another", now + Duration::from_millis(number));
        }
        assert_eq!(sessions.token(&first, now), None, "the oldest made room");
        let last = open("last", now + Duration::from_secs(9));
        sessions.close(&last, false);
        assert_eq!(sessions.token(&last, now), None);
    }
}
