//! Sink: JSON Lines to a writer, in a thread of its own behind a bounded queue.
//!
//! A reader that goes away is success: what it did not read is suppressed, not lost. A writer that fails is loss, and
//! ends the run: [`Ending`] tells both to who waits for it.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    error::AgentError,
    event::Event,
    fanout::{Outcome, Settled, Sink, weight},
};

/// Why an event was suppressed after the reader went away.
pub const READER_GONE: &str = "reader_gone";
/// Why an event was lost because the queue was full.
pub const QUEUE_FULL: &str = "queue_full";
/// Why an event was lost because it could not be written.
pub const WRITE_FAILED: &str = "write_failed";
/// Why an event was lost because time ran out at shutdown.
pub const DEADLINE: &str = "deadline";

/// Memory of the events that wait for the writer at most, bytes: seconds of a busy host.
const ROOM: usize = 32 << 20;
/// Events written in one call.
const BATCH: usize = 256;

/// State the pipeline and the writer share. Every count changes under the one lock, together with what it counts.
#[derive(Debug, Default)]
struct Shared {
    queue: VecDeque<Arc<Event>>,
    /// Memory of the queue.
    bytes: usize,
    /// Events the writer took out and has not settled.
    in_hand: u64,
    settled: Settled,
    /// Set when nothing will be written any more: the reason for what comes.
    ended: Option<Outcome>,
    closing: bool,
}

/// Whether, and why, nothing is written any more.
#[derive(Debug)]
pub struct Ending {
    output: String,
    over: AtomicBool,
    failure: Mutex<Option<io::Error>>,
}

impl Ending {
    /// True when the reader went away or a write failed: nobody reads on, so the run may end.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Why writing failed, if it did; once. A reader that went away is no failure.
    pub fn failure(&self) -> Result<(), AgentError> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), |error| {
            Err(AgentError::UnwritableOutput {
                output: self.output.clone(),
                error,
            })
        })
    }

    fn set(&self, failure: Option<io::Error>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        self.over.store(true, Ordering::Release);
    }
}

/// The sink.
#[derive(Debug)]
pub struct Output {
    shared: Arc<(Mutex<Shared>, Condvar)>,
    ending: Arc<Ending>,
    /// Bytes that may wait.
    room: usize,
    thread: Option<JoinHandle<()>>,
}

impl Output {
    /// Writes to standard output. Fails when it is closed or cannot be written to.
    pub fn stdout() -> Result<Output, AgentError> {
        // Not `io::stdout()`: it takes a descriptor that cannot be written to for one nobody wants to read.
        let name = "standard output";
        let file =
            io::stdout()
                .as_fd()
                .try_clone_to_owned()
                .map_err(|error| AgentError::UnwritableOutput {
                    output: name.to_owned(),
                    error,
                })?;
        Output::start(name, Box::new(File::from(file)), ROOM)
    }

    /// Writes to `writer`, which is tried once before anything depends on it. At most `room` bytes of events wait.
    pub fn start(name: &str, mut writer: Box<dyn Write + Send>, room: usize) -> Result<Output, AgentError> {
        let unwritable = |error| AgentError::UnwritableOutput {
            output: name.to_owned(),
            error,
        };
        // An empty write and a flush tell a closed or full output apart from a good one where the system can.
        let tried = writer.write(&[]).and_then(|_| writer.flush());
        match tried {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(unwritable(error)),
            _ => {}
        }
        let shared = Arc::new((Mutex::new(Shared::default()), Condvar::new()));
        let ending = Arc::new(Ending {
            output: name.to_owned(),
            over: AtomicBool::new(false),
            failure: Mutex::new(None),
        });
        let thread = std::thread::Builder::new()
            .name("output".to_owned())
            .spawn({
                let (shared, ending) = (shared.clone(), ending.clone());
                move || write_all(&shared, &ending, &mut *writer)
            })
            .map_err(unwritable)?;
        Ok(Output {
            shared,
            ending,
            room,
            thread: Some(thread),
        })
    }

    /// Tells when nothing is written any more: `netprobe run --output jsonl | head` then ends well, one on a full disk
    /// does not.
    pub fn ending(&self) -> Arc<Ending> {
        self.ending.clone()
    }
}

fn lock(shared: &(Mutex<Shared>, Condvar)) -> MutexGuard<'_, Shared> {
    // Every step leaves the state whole, so a panic elsewhere does not make it wrong.
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sink for Output {
    fn name(&self) -> &'static str {
        "output"
    }

    fn loses_by(&self) -> &'static [&'static str] {
        &[QUEUE_FULL, WRITE_FAILED, DEADLINE]
    }

    fn consume(&mut self, event: &Arc<Event>) -> Outcome {
        let mut shared = lock(&self.shared);
        if let Some(outcome) = shared.ended {
            return outcome;
        }
        if shared.bytes >= self.room {
            return Outcome::Lost(QUEUE_FULL);
        }
        shared.bytes += weight(event);
        shared.queue.push_back(event.clone());
        if shared.queue.len() == 1 {
            self.shared.1.notify_one();
        }
        Outcome::Queued
    }

    fn has_room(&self) -> bool {
        let shared = lock(&self.shared);
        shared.ended.is_none() && shared.bytes < self.room
    }

    fn settled(&self) -> Settled {
        let shared = lock(&self.shared);
        let mut settled = shared.settled.clone();
        settled.queued = shared.queue.len() as u64 + shared.in_hand;
        settled
    }

    fn shutdown(&mut self, deadline: Instant) {
        let mut shared = lock(&self.shared);
        shared.closing = true;
        self.shared.1.notify_all();
        while shared.ended.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // The writer is stuck. What it holds may or may not be out: lost is the safe word.
                let held = shared.queue.len() as u64 + shared.in_hand;
                shared.queue.clear();
                shared.in_hand = 0;
                shared.ended = Some(Outcome::Lost(DEADLINE));
                settle(&mut shared, Outcome::Lost(DEADLINE), held);
                // A stuck thread cannot be joined; it ends with the process.
                self.thread = None;
                return;
            }
            shared = match self.shared.1.wait_timeout(shared, left) {
                Ok((shared, _)) => shared,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        drop(shared);
        if let Some(thread) = self.thread.take() {
            // The thread is at its end; it cannot have panicked with `ended` set.
            let _ = thread.join();
        }
    }
}

fn settle(shared: &mut Shared, outcome: Outcome, count: u64) {
    if count == 0 {
        return;
    }
    match outcome {
        Outcome::Delivered | Outcome::Queued => shared.settled.delivered += count,
        Outcome::Lost(reason) => *shared.settled.lost.entry(reason).or_default() += count,
        Outcome::Suppressed(reason) => *shared.settled.suppressed.entry(reason).or_default() += count,
    }
}

/// The writer's thread.
fn write_all(shared: &(Mutex<Shared>, Condvar), ending: &Ending, writer: &mut dyn Write) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut lines = Vec::new();
    loop {
        {
            let mut state = lock(shared);
            while state.queue.is_empty() && !state.closing && state.ended.is_none() {
                state = match shared.1.wait_timeout(state, Duration::from_secs(1)) {
                    Ok((state, _)) => state,
                    Err(poisoned) => poisoned.into_inner().0,
                };
            }
            if state.ended.is_some() {
                return;
            }
            if state.queue.is_empty() {
                state.ended = Some(Outcome::Suppressed("closed"));
                shared.1.notify_all();
                return;
            }
            let count = state.queue.len().min(BATCH);
            batch.extend(state.queue.drain(..count));
            state.bytes -= batch.iter().map(|event| weight(event)).sum::<usize>();
            state.in_hand = count as u64;
        }
        lines.clear();
        let mut broken = 0;
        for event in batch.drain(..) {
            let whole = lines.len();
            if let Err(error) = event.write_line(&mut lines) {
                lines.truncate(whole);
                broken += 1;
                tracing::error!(%error, seq = event.seq, "an event could not be written as JSON");
            }
        }
        let written = writer.write_all(&lines).and_then(|()| writer.flush());
        let mut state = lock(shared);
        if state.ended.is_some() {
            // Shutdown gave up waiting and has settled what was in hand.
            return;
        }
        let count = std::mem::take(&mut state.in_hand);
        let outcome = match &written {
            Ok(()) => Outcome::Delivered,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Outcome::Suppressed(READER_GONE),
            Err(_) => Outcome::Lost(WRITE_FAILED),
        };
        settle(&mut state, outcome, count - broken);
        settle(&mut state, Outcome::Lost(WRITE_FAILED), broken);
        if let Err(error) = written {
            let left = state.queue.len() as u64;
            state.queue.clear();
            settle(&mut state, outcome, left);
            state.ended = Some(outcome);
            let gone = outcome == Outcome::Suppressed(READER_GONE);
            if !gone {
                tracing::error!(%error, "events can no longer be written to the output");
            }
            // Before anyone who waits for the end of the writer looks.
            ending.set((!gone).then_some(error));
            shared.1.notify_all();
            return;
        }
    }
}

#[cfg(test)]
mod tests;
