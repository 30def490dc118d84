//! Where bytes are missing, or the connection ends: what becomes of requests that are under way.

use super::{
    super::{
        protocol::{Found, Side},
        settings::METHODS,
    },
    Half, Http1, Rest, State,
    body::Body,
    head::begins_response,
};

impl Http1 {
    /// Gives every request that was sent, with what is known: its answer was not seen.
    pub(super) fn give_up(&mut self, found: &mut Found) {
        while self.pending.front().is_some_and(|front| front.sent) {
            if let Some(front) = self.pending.front_mut() {
                front.exchange.marks.partial = true;
            }
            self.emit(found);
        }
    }

    pub(super) fn become_opaque(&mut self, found: &mut Found) {
        while let Some(front) = self.pending.front_mut() {
            front.exchange.marks.partial = true;
            self.emit(found);
        }
        self.opaque = true;
        self.requests.head.clear();
        self.responses.head.clear();
    }

    /// Goes on at a piece that begins like a message.
    pub(super) fn lost(&mut self, side: Side, open: bool, rest: &mut Rest<'_>, found: &mut Found) {
        let again = rest.begins
            && match side {
                Side::ToServer => is_request_line(rest.bytes),
                Side::ToClient => begins_response(rest.bytes) == Some(true),
            };
        if again {
            return self.resume(side, open, found);
        }
        // A last chunk at the very end of a packet.
        let last = open && side == Side::ToClient && rest.skipped == 0 && ends_chunks(rest.bytes);
        let before = rest.taken;
        rest.take(u64::MAX);
        if open {
            self.account(side, rest, before);
        }
        if last {
            if let Some(front) = self.pending.front_mut().filter(|_| !self.orphan) {
                front.exchange.marks.upper_bound = true;
            }
            self.end(side, found);
        }
    }

    pub(super) fn resume(&mut self, side: Side, open: bool, found: &mut Found) {
        match side {
            Side::ToServer if open => {
                if let Some(back) = self.pending.back_mut().filter(|back| !back.sent) {
                    back.exchange.marks.upper_bound |= back.exchange.times.response_first.is_none();
                }
                self.end(side, found);
            }
            Side::ToClient if open => {
                let several = self.pending.len() > 1;
                if let Some(front) = self.pending.front_mut().filter(|_| !self.orphan) {
                    front.exchange.marks.upper_bound |= several;
                }
                self.end(side, found);
            }
            // Which of several it answers cannot be told.
            Side::ToClient if self.pending.len() > 1 => self.give_up(found),
            _ => {}
        }
        self.half(side).state = State::Start;
    }

    /// What the end of the connection makes of the request in front.
    pub(super) fn close_front(&mut self, lost: bool, found: &mut Found) {
        let answering = self.responses.is_open() && !self.orphan;
        let Half { bytes, last_at, .. } = self.responses;
        let whole = matches!(
            self.responses.state,
            State::Body(Body::UntilClose) | State::Lost { open: true }
        );
        if let Some(front) = self.pending.front_mut() {
            let exchange = &mut front.exchange;
            if answering {
                exchange.bytes_to_client += bytes;
                exchange.times.response_last = Some(last_at);
            }
            let error = match (front.answered, front.sent, answering) {
                (true, _, _) => None,
                (false, _, true) if whole => None,
                (false, _, true) => Some("response_incomplete"),
                (false, false, false) => Some("request_incomplete"),
                (false, true, false) if lost => None,
                (false, true, false) => Some("no_response"),
            };
            let without_answer = !front.answered && !answering && lost;
            exchange.marks.partial |= error.is_some() || without_answer;
            exchange.error = exchange.error.or(error);
            self.responses.state = State::Start;
            self.emit(found);
        }
    }
}

/// Stricter than the beginning of a request: what stands in the middle of anything may begin with a word.
fn is_request_line(bytes: &[u8]) -> bool {
    let Some(space) = memchr::memchr(b' ', &bytes[..bytes.len().min(16)]) else {
        return false;
    };
    let known = METHODS.iter().any(|method| method.as_bytes() == &bytes[..space]);
    let line = memchr::memchr(b'\n', bytes).map(|end| &bytes[..end]);
    known && line.is_none_or(|line| memchr::memmem::find(line, b" HTTP/1.").is_some())
}

/// Whether a piece ends as the last chunk of a body does.
fn ends_chunks(bytes: &[u8]) -> bool {
    bytes == b"0\r\n\r\n" || bytes.ends_with(b"\r\n0\r\n\r\n")
}
