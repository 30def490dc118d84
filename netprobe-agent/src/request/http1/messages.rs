//! Heads and what they begin: requests, their answers, and what is refused.

use super::{
    super::protocol::{Exchange, Found, Reject, Side},
    Http1, MOST_PENDING, MOST_REFUSED, Pending, Rest, State,
    body::Body,
    head::{self, Gathered, RequestHead, begins_request, begins_response},
};

impl Http1 {
    pub(super) fn head(&mut self, side: Side, rest: &mut Rest<'_>, found: &mut Found) {
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
    pub(super) fn cut_head(&mut self, side: Side, found: &mut Found) {
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

    pub(super) fn read_head(&mut self, side: Side, head: &[u8], cut: bool, found: &mut Found) {
        match side {
            Side::ToServer => match head::request(head, &self.settings) {
                Ok(head) => self.request(head, cut, found),
                Err(reject) => self.no_head(side, reject, found),
            },
            Side::ToClient => self.response(head, cut, found),
        }
    }

    pub(super) fn request(&mut self, head: RequestHead, cut: bool, found: &mut Found) {
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
    pub(super) fn push(&mut self, mut exchange: Exchange, found: &mut Found) {
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

    pub(super) fn response(&mut self, head: &[u8], cut: bool, found: &mut Found) {
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
    pub(super) fn interim(&mut self) {
        self.responses.state = State::Start;
        if let Some(front) = self.pending.front_mut() {
            front.exchange.bytes_to_client += self.responses.bytes;
        }
    }

    /// A head that is none.
    pub(super) fn no_head(&mut self, side: Side, reject: Reject, found: &mut Found) {
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

    pub(super) fn refuse(&mut self, reject: Reject, found: &mut Found) {
        found.rejects.push(reject);
        self.refused += 1;
        if self.refused >= MOST_REFUSED {
            self.become_opaque(found);
        }
    }
}
