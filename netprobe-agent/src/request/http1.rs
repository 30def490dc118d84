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
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, sync::Arc};

use body::{Body, Outcome};
use head::{Gathered, Gathering, RequestHead};

use super::{
    protocol::{Exchange, Found, Piece, Protocol, Reject, Side},
    settings::Settings,
};

pub(super) use head::{begins_request, begins_response};

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

    fn head(&mut self, side: Side, rest: &mut Rest<'_>, found: &mut Found) {
        let before = rest.taken;
        let mut gathering = std::mem::take(&mut self.half(side).head);
        let gathered = gathering.push(rest.bytes);
        let begins = |bytes: &[u8]| match side {
            Side::ToServer => begins_request(bytes),
            Side::ToClient => begins_response(bytes),
        };
        match gathered {
            Gathered::Whole(head, taken) => {
                rest.take(taken as u64);
                self.account(side, rest, before);
                self.read_head(side, &head, false, found);
            }
            Gathered::TooLong => {
                rest.take(u64::MAX);
                self.account(side, rest, before);
                self.no_head(side, Reject::HttpHeadTooLong, found);
            }
            Gathered::More if begins(gathering.bytes()) == Some(false) => {
                gathering.clear();
                rest.take(u64::MAX);
                self.account(side, rest, before);
                self.no_head(side, Reject::HttpHead, found);
            }
            Gathered::More => {
                rest.take(rest.bytes.len() as u64);
                let cut = rest.skipped > 0;
                rest.take(u64::MAX);
                self.account(side, rest, before);
                self.half(side).head = gathering;
                if cut {
                    self.cut_head(side, found);
                }
            }
        }
    }

    /// The rest of a head will not be seen: what is there is read, its end is not known.
    fn cut_head(&mut self, side: Side, found: &mut Found) {
        self.half(side).state = State::Lost { open: true };
        match self.half(side).head.cut() {
            Some(head) => self.read_head(side, &head, true, found),
            None if side == Side::ToServer => {
                let mut exchange = Exchange {
                    protocol: "http",
                    ..Exchange::default()
                };
                exchange.marks.partial = true;
                self.push(exchange, found);
            }
            // Not even its status was seen: the next message tells what becomes of the request.
            None => {
                self.half(side).state = State::Lost { open: false };
                self.uncertain = true;
            }
        }
    }

    fn read_head(&mut self, side: Side, head: &[u8], cut: bool, found: &mut Found) {
        match side {
            Side::ToServer => match head::request(head, &self.settings) {
                Ok(head) => self.request(head, cut, found),
                Err(reject) => self.no_head(side, reject, found),
            },
            Side::ToClient => self.response(head, cut, found),
        }
    }

    fn request(&mut self, head: RequestHead, cut: bool, found: &mut Found) {
        let connect = &*head.method == "CONNECT";
        let mut exchange = Exchange {
            protocol: head.protocol,
            method: Some(head.method),
            route: head.route,
            trace: head.trace,
            request_id: head.request_id,
            ..Exchange::default()
        };
        exchange.marks.partial = cut || self.uncertain;
        exchange.marks.ambiguous = head.ambiguous;
        if head.ambiguous {
            found.rejects.push(Reject::HttpAmbiguous);
        }
        self.push(exchange, found);
        match head.body.filter(|_| !cut) {
            Some(Body::Length(0)) => self.end(Side::ToServer, found),
            Some(body) => self.requests.state = State::Body(body),
            None => self.requests.state = State::Lost { open: true },
        }
        if connect && !cut {
            self.end_request();
            self.requests.state = State::Waiting;
        }
    }

    /// A request that waits for its answer from now on.
    fn push(&mut self, mut exchange: Exchange, found: &mut Found) {
        if self.pending.len() >= MOST_PENDING {
            found.rejects.push(Reject::HttpPipeline);
            self.become_opaque(found);
            return;
        }
        exchange.times.request_first = Some(self.requests.first_at);
        self.pending.push_back(Pending {
            exchange,
            sent: false,
            answered: false,
        });
    }

    fn response(&mut self, head: &[u8], cut: bool, found: &mut Found) {
        if self.pending.is_empty() && matches!(self.requests.state, State::Head) {
            // It answers a request it did not wait for the end of.
            self.cut_head(Side::ToServer, found);
        }
        if self.pending.front().is_some_and(|front| front.answered) {
            // It was answered before it was sent in full; now the next one is.
            self.emit(found);
        }
        let method = self
            .pending
            .front()
            .and_then(|front| front.exchange.method.clone());
        let head = match head::response(head, method.as_deref() == Some("HEAD")) {
            Ok(head) => head,
            Err(reject) => return self.no_head(Side::ToClient, reject, found),
        };
        if head.ambiguous {
            found.rejects.push(Reject::HttpAmbiguous);
        }
        let interim = (100..200).contains(&head.status) && head.status != 101;
        let switches =
            head.status == 101 || (method.as_deref() == Some("CONNECT") && (200..300).contains(&head.status));
        let (first_at, uncertain) = (self.responses.first_at, self.uncertain);
        if let Some(Pending { exchange, .. }) = self.pending.front_mut() {
            if exchange.method.is_none() {
                exchange.protocol = head.protocol;
            }
            exchange.marks.partial |= cut || uncertain;
            exchange.marks.ambiguous |= head.ambiguous;
            if !interim {
                exchange.status_code = Some(head.status);
                exchange.times.response_first = Some(first_at);
            }
        } else {
            self.orphan = true;
            if !interim && !uncertain {
                found.rejects.push(Reject::HttpOrphan);
            }
        }
        if switches {
            self.end(Side::ToClient, found);
            self.become_opaque(found);
        } else if interim && !cut {
            self.interim();
        } else {
            match head.body.filter(|_| !cut) {
                Some(Body::Length(0)) => self.end(Side::ToClient, found),
                Some(body) => self.responses.state = State::Body(body),
                None => self.responses.state = State::Lost { open: true },
            }
        }
        if matches!(self.requests.state, State::Waiting) && !interim && !self.opaque {
            // The tunnel was refused. What was sent into it is not HTTP.
            self.requests.state = State::Lost { open: false };
            self.end_request();
        }
    }

    /// An interim response ended; the final one follows.
    fn interim(&mut self) {
        self.responses.state = State::Start;
        if let Some(front) = self.pending.front_mut() {
            front.exchange.bytes_to_client += self.responses.bytes;
        }
    }

    /// A head that is none.
    fn no_head(&mut self, side: Side, reject: Reject, found: &mut Found) {
        self.half(side).state = State::Lost { open: true };
        match side {
            Side::ToServer => {
                let mut exchange = Exchange {
                    protocol: "http",
                    error: Some("malformed_request"),
                    ..Exchange::default()
                };
                exchange.marks.partial = true;
                exchange.marks.ambiguous = reject == Reject::HttpAmbiguous;
                self.push(exchange, found);
            }
            Side::ToClient => {
                if let Some(front) = self.pending.front_mut() {
                    front.exchange.error = Some("malformed_response");
                    front.exchange.marks.partial = true;
                    front.exchange.times.response_first = Some(self.responses.first_at);
                    self.end(Side::ToClient, found);
                }
                self.responses.state = State::Lost { open: false };
                self.uncertain = true;
            }
        }
        self.refuse(reject, found);
    }

    fn refuse(&mut self, reject: Reject, found: &mut Found) {
        found.rejects.push(reject);
        self.refused += 1;
        if self.refused >= MOST_REFUSED {
            self.become_opaque(found);
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

    /// Gives every request that was sent, with what is known: its answer was not seen.
    fn give_up(&mut self, found: &mut Found) {
        while self.pending.front().is_some_and(|front| front.sent) {
            if let Some(front) = self.pending.front_mut() {
                front.exchange.marks.partial = true;
            }
            self.emit(found);
        }
    }

    fn become_opaque(&mut self, found: &mut Found) {
        while let Some(front) = self.pending.front_mut() {
            front.exchange.marks.partial = true;
            self.emit(found);
        }
        self.opaque = true;
        self.requests.head.clear();
        self.responses.head.clear();
    }

    /// Goes on at a piece that begins like a message.
    fn lost(&mut self, side: Side, open: bool, rest: &mut Rest<'_>, found: &mut Found) {
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

    fn resume(&mut self, side: Side, open: bool, found: &mut Found) {
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
    fn close_front(&mut self, lost: bool, found: &mut Found) {
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

/// Stricter than the beginning of a request: what stands in the middle of anything may begin with a word.
fn is_request_line(bytes: &[u8]) -> bool {
    let Some(space) = memchr::memchr(b' ', &bytes[..bytes.len().min(16)]) else {
        return false;
    };
    let known = super::settings::METHODS
        .iter()
        .any(|method| method.as_bytes() == &bytes[..space]);
    let line = memchr::memchr(b'\n', bytes).map(|end| &bytes[..end]);
    known && line.is_none_or(|line| memchr::memmem::find(line, b" HTTP/1.").is_some())
}

/// Whether a piece ends as the last chunk of a body does.
fn ends_chunks(bytes: &[u8]) -> bool {
    bytes == b"0\r\n\r\n" || bytes.ends_with(b"\r\n0\r\n\r\n")
}
