//! Serialised events, kept for the other clients.

use std::collections::{HashMap, VecDeque};

use axum::extract::ws::Utf8Bytes;

use crate::event::Event;

/// An event as the text of a frame. Clones share the bytes.
pub(super) type Line = Utf8Bytes;

/// Bytes of lines kept: clients that keep up read the same events within a tick of each other.
const ROOM: usize = 4 << 20;

/// The last lines made, oldest first in `order`.
#[derive(Debug, Default)]
pub(super) struct Lines {
    by_seq: HashMap<u64, Line>,
    order: VecDeque<u64>,
    bytes: usize,
    scratch: Vec<u8>,
}

impl Lines {
    /// The line of an event. Events without a number belong to one client and are not kept.
    pub(super) fn of(&mut self, event: &Event) -> Result<Line, serde_json::Error> {
        if let Some(line) = event.seq.and_then(|seq| self.by_seq.get(&seq)) {
            return Ok(line.clone());
        }
        self.scratch.clear();
        event.write_line(&mut self.scratch)?;
        // A frame is a message of its own: it needs no newline.
        let text = self.scratch.strip_suffix(b"\n").unwrap_or(&self.scratch);
        let line = Line::from(String::from_utf8_lossy(text).into_owned());
        if let Some(seq) = event.seq {
            self.keep(seq, line.clone());
        }
        Ok(line)
    }

    fn keep(&mut self, seq: u64, line: Line) {
        self.bytes += line.len();
        self.by_seq.insert(seq, line);
        self.order.push_back(seq);
        while self.bytes > ROOM
            && let Some(oldest) = self.order.pop_front()
        {
            let len = self.by_seq.remove(&oldest).map_or(0, |line| line.len());
            self.bytes -= len;
        }
    }
}
