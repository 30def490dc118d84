//! HTTP/1.0 and 1.1.
//!
//! Two readers, one a direction, and between them the requests that wait for their answers. Heads are read whole, by
//! httparse; bodies are followed by their framing and not kept. Where bytes are missing, counting goes on as long as
//! the framing allows it; then the direction is *lost* and goes on at the next piece that begins like a message.
//!
//! What is lost stays unknown. A message without an end that was read ends with the last bytes that can be its own, and
//! says so (`upper_bound`) when they may be another's.

mod body;
mod head;
mod messages;
mod recovery;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, sync::Arc};

use body::{Body, Outcome};
use head::Gathering;

use super::{
    protocol::{Exchange, Found, Piece, Protocol, Reject, Side},
    settings::Settings,
};

pub(super) use head::begins_response;

/// Requests that wait for their answers on one connection; with more, nothing is believed any more.
const MOST_PENDING: usize = 1024;
/// Refused heads on one connection before it is taken for something else.
const MOST_REFUSED: u8 = 8;

/// What is left of a piece.
pub(super) struct Rest<'a> {
    at: u64,
    bytes: &'a [u8],
    skipped: u64,
    /// Nothing of it was taken.
    begins: bool,
    taken: u64,
}

impl Rest<'_> {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.skipped == 0
    }

    /// Takes up to so many bytes, captured or not; how many there were.
    fn take(&mut self, count: u64) -> u64 {
        let seen = usize::try_from(count).unwrap_or(usize::MAX).min(self.bytes.len());
        let unseen = (count - seen as u64).min(self.skipped);
        self.bytes = &self.bytes[seen..];
        self.skipped -= unseen;
        let taken = seen as u64 + unseen;
        self.begins &= taken == 0;
        self.taken += taken;
        taken
    }

    /// The next byte that was captured.
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.first()?;
        self.take(1);
        Some(byte)
    }
}

/// Where a direction stands.
#[derive(Debug)]
enum State {
    /// Between two messages.
    Start,
    /// In a head.
    Head,
    /// In a body.
    Body(Body),
    /// Bytes are missing; with `open`, a message began before that and has not ended.
    Lost { open: bool },
    /// Behind a CONNECT, until its answer says whether this is still HTTP.
    Waiting,
}

/// One direction.
#[derive(Debug)]
struct Half {
    state: State,
    head: Gathering,
    /// Of the message that is being read.
    first_at: u64,
    /// Of the last bytes of a message.
    last_at: u64,
    bytes: u64,
}

impl Half {
    fn new(state: State) -> Half {
        Half {
            state,
            head: Gathering::default(),
            first_at: 0,
            last_at: 0,
            bytes: 0,
        }
    }

    fn is_open(&self) -> bool {
        matches!(
            self.state,
            State::Head | State::Body(_) | State::Lost { open: true }
        )
    }
}

/// A request that has not been answered in full.
#[derive(Debug)]
struct Pending {
    exchange: Exchange,
    /// All of it was sent.
    sent: bool,
    /// Its final response was read to its end.
    answered: bool,
}

/// A connection.
#[derive(Debug)]
pub struct Http1 {
    settings: Arc<Settings>,
    requests: Half,
    responses: Half,
    pending: VecDeque<Pending>,
    /// The response that is being read answers no request that was seen.
    orphan: bool,
    /// Bytes were lost, and which response answers which request is not certain.
    uncertain: bool,
    refused: u8,
    opaque: bool,
}

impl Http1 {
    /// A connection from its first byte, or with `resumed` from somewhere in the middle.
    pub fn new(settings: Arc<Settings>, resumed: bool) -> Http1 {
        let state = || {
            if resumed {
                State::Lost { open: false }
            } else {
                State::Start
            }
        };
        Http1 {
            settings,
            requests: Half::new(state()),
            responses: Half::new(state()),
            pending: VecDeque::new(),
            orphan: false,
            uncertain: resumed,
            refused: 0,
            opaque: false,
        }
    }

    fn half(&mut self, side: Side) -> &mut Half {
        match side {
            Side::ToServer => &mut self.requests,
            Side::ToClient => &mut self.responses,
        }
    }

    /// Does the next step with what is left of a piece.
    fn step(&mut self, side: Side, rest: &mut Rest<'_>, found: &mut Found) {
        let before = rest.taken;
        let outcome = match &mut self.half(side).state {
            State::Start => return self.start(side, rest, found),
            State::Head => return self.head(side, rest, found),
            State::Lost { open } => {
                let open = *open;
                return self.lost(side, open, rest, found);
            }
            State::Waiting => {
                rest.take(u64::MAX);
                return;
            }
            State::Body(body) => body.read(rest),
        };
        self.account(side, rest, before);
        self.follow(side, outcome, found);
    }

    /// Counts what a message took.
    fn account(&mut self, side: Side, rest: &Rest<'_>, before: u64) {
        let half = self.half(side);
        let taken = rest.taken - before;
        if taken > 0 {
            half.bytes += taken;
            half.last_at = rest.at;
        }
    }

    fn follow(&mut self, side: Side, outcome: Outcome, found: &mut Found) {
        match outcome {
            Outcome::More => {}
            Outcome::End => self.end(side, found),
            Outcome::Lost => self.half(side).state = State::Lost { open: true },
            Outcome::Malformed => {
                self.half(side).state = State::Lost { open: true };
                self.refuse(Reject::HttpChunk, found);
            }
        }
    }

    fn start(&mut self, side: Side, rest: &mut Rest<'_>, found: &mut Found) {
        // Empty lines before a message belong to none.
        while matches!(rest.bytes.first(), Some(b'\r' | b'\n')) {
            rest.take(1);
        }
        if rest.bytes.is_empty() {
            if rest.skipped > 0 {
                self.half(side).state = State::Lost { open: false };
                self.uncertain = true;
                rest.take(u64::MAX);
            }
            return;
        }
        let at = rest.at;
        let half = self.half(side);
        half.state = State::Head;
        half.first_at = at;
        half.bytes = 0;
        match side {
            Side::ToServer => self.request_begins(found),
            Side::ToClient => self.orphan = false,
        }
    }

    /// What a new request says about earlier ones: a client that has not been answered rarely sends another.
    fn request_begins(&mut self, found: &mut Found) {
        match self.responses.state {
            State::Lost { open: true } if self.orphan || self.pending.is_empty() => {
                self.responses.state = State::Lost { open: false }
            }
            // One response was under way, and its end was not to be seen.
            State::Lost { open: true } if self.pending.len() == 1 => self.end(Side::ToClient, found),
            State::Lost { open: false } => self.give_up(found),
            _ => {}
        }
        if self.pending.is_empty() && !self.responses.is_open() {
            self.uncertain = false;
        }
    }

    /// A message of a direction is complete.
    fn end(&mut self, side: Side, found: &mut Found) {
        self.half(side).state = State::Start;
        match side {
            Side::ToServer => {
                self.end_request();
                if self
                    .pending
                    .front()
                    .is_some_and(|front| front.answered && front.sent)
                {
                    self.emit(found);
                }
            }
            Side::ToClient if self.orphan => self.orphan = false,
            Side::ToClient => {
                let Half { bytes, last_at, .. } = self.responses;
                let one = self.pending.len() == 1;
                let Some(front) = self.pending.front_mut() else {
                    return;
                };
                front.exchange.bytes_to_client += bytes;
                front.exchange.times.response_last = Some(last_at);
                front.answered = true;
                if !front.sent && one && matches!(self.requests.state, State::Lost { open: true }) {
                    // Where it ended was not to be seen; it was before its answer did.
                    self.requests.state = State::Lost { open: false };
                    self.end_request();
                }
                if self.pending.front().is_some_and(|front| front.sent) {
                    self.emit(found);
                }
            }
        }
    }

    /// The last request was sent.
    fn end_request(&mut self) {
        if let Some(back) = self.pending.back_mut().filter(|back| !back.sent) {
            back.sent = true;
            back.exchange.bytes_to_server = self.requests.bytes;
            back.exchange.times.request_last = Some(self.requests.last_at);
        }
    }

    fn emit(&mut self, found: &mut Found) {
        if let Some(Pending {
            mut exchange, sent, ..
        }) = self.pending.pop_front()
        {
            if !sent {
                // The request that is being sent is always the last one.
                exchange.bytes_to_server = self.requests.bytes;
                exchange.times.request_last = None;
                exchange.marks.partial = true;
            }
            found.exchanges.push(exchange);
        }
    }
}

impl Protocol for Http1 {
    fn feed(&mut self, side: Side, piece: Piece<'_>, found: &mut Found) {
        let mut rest = Rest {
            at: piece.at,
            bytes: piece.bytes,
            skipped: piece.skipped,
            begins: true,
            taken: 0,
        };
        while !rest.is_empty() && !self.opaque {
            self.step(side, &mut rest, found);
        }
    }

    fn close(&mut self, _at: u64, found: &mut Found) {
        if self.opaque {
            return;
        }
        if matches!(self.requests.state, State::Head) {
            self.cut_head(Side::ToServer, found);
        } else if matches!(self.requests.state, State::Lost { open: true } | State::Waiting) {
            self.end_request();
        }
        let lost = self.uncertain || matches!(self.responses.state, State::Lost { .. });
        while !self.pending.is_empty() {
            self.close_front(lost, found);
        }
        self.become_opaque(found);
    }

    fn memory(&self) -> usize {
        self.requests.head.memory()
            + self.responses.head.memory()
            + self.pending.capacity() * size_of::<Pending>()
    }

    fn is_opaque(&self) -> bool {
        self.opaque
    }
}
