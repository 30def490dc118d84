//! The thread that reads the spool and sends.
//!
//! A producer lives until something fails for good: then it goes, with all that is under way, and everything since the
//! last place that is done is read and sent again by another, after a wait that doubles. Brokers that come and go are
//! librdkafka's own business: it keeps order and sends again by itself, and a broker drops what it has already.
//!
//! "Too large" is told of a whole batch. So what is refused for it is sent once more, each message alone, and only what
//! is refused then is lost.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    error::RDKafkaErrorCode,
    producer::{BaseRecord, Producer as _},
};

use super::{
    client::{self, Producer, Reports},
    message::{self, Head},
    state::Shared,
    window::{Fate, Window},
};
use crate::{
    config::KafkaConfig,
    event::{Nanos, Origin},
    journal::{Item, Journal},
    probe_report::{ChainHead, Circuit},
};

/// Why an event was lost that brokers, or `kafka.message_bytes`, have no room for.
pub(super) const TOO_LARGE: &str = "message_too_large";
/// Why an event was lost that brokers do not take as it is.
pub(super) const REFUSED: &str = "refused";
/// Why an event was lost that another version wrote to the spool.
pub(super) const UNREADABLE: &str = "unreadable";

/// Bytes read at a time.
const BITE: usize = 1 << 20;
/// Longest wait for something to do.
const LOOK: Duration = Duration::from_millis(200);
/// Longest wait for reports.
const POLL: Duration = Duration::from_millis(10);
/// Time between two writings of the place: what is done in it is done again after a crash.
const SAVE: Duration = Duration::from_secs(1);
/// First and longest wait after a failure.
const WAITS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];
/// Time between two questions whether a broker is there again, when there is nothing to send.
const ASK: Duration = Duration::from_secs(5);
/// Number of a message that is no event.
const WITNESS: usize = usize::MAX;

/// Reads and sends.
pub(super) struct Worker {
    config: KafkaConfig,
    origin: Origin,
    journal: Box<dyn Journal>,
    shared: Arc<Shared>,
    window: Window,
    /// Read and not handed on yet.
    unsent: VecDeque<Item>,
    saved: Instant,
    asked: Instant,
    /// The head handed on last.
    witness: Option<ChainHead>,
    /// What was last told to be wrong with the connections.
    trouble: Option<String>,
    /// Messages are sent each in a batch of its own as long as one is in the window that was refused with others.
    alone: bool,
}

/// Why a producer was given up.
enum Over {
    /// There is nothing more to do, or no more time.
    Done,
    /// It failed.
    Failed(String),
    /// Another kind of producer is needed, at once.
    Other,
}

impl Worker {
    pub(super) fn new(
        config: KafkaConfig,
        origin: Origin,
        journal: Box<dyn Journal>,
        shared: Arc<Shared>,
    ) -> Worker {
        Worker {
            config,
            origin,
            journal,
            shared,
            window: Window::default(),
            unsent: VecDeque::new(),
            saved: Instant::now(),
            asked: Instant::now(),
            witness: None,
            trouble: None,
            alone: false,
        }
    }

    /// Works until told to end.
    pub(super) fn run(mut self) {
        let mut wait = WAITS[0];
        loop {
            let reports = Reports::default();
            let over = match client::producer(&self.config, &self.origin.host, reports.clone(), self.alone) {
                Ok(producer) => self.work(&producer, &reports, &mut wait),
                Err(error) => Over::Failed(error),
            };
            let under_way = self.window.len() as u64;
            self.window.clear();
            self.unsent.clear();
            self.witness = None;
            self.journal.rewind();
            match over {
                Over::Done => break,
                Over::Other => {}
                Over::Failed(error) => {
                    {
                        let mut state = self.shared.lock();
                        state.in_flight = 0;
                        state.count("failed", under_way);
                        state.failed(&error);
                    }
                    if self.pause(&mut wait) {
                        break;
                    }
                }
            }
        }
        self.save(true);
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
    }

    /// Sends by one producer.
    fn work(&mut self, producer: &Producer, reports: &Reports, wait: &mut Duration) -> Over {
        // What was refused together is done once the window has moved on by as much.
        let mut left_alone = self.config.in_flight;
        loop {
            let closing = self.shared.lock().closing;
            if closing.is_some_and(|until| Instant::now() >= until) {
                return Over::Done;
            }
            // What was refused together has been sent: what is under way comes to its end, and nothing is sent twice.
            let draining = self.alone && left_alone == 0;
            let mut idle = draining;
            if !draining {
                idle = match self.fill() {
                    Ok(idle) => idle,
                    Err(error) => return Over::Failed(error),
                };
                if let Err(error) = self.send(producer) {
                    return Over::Failed(error);
                }
            }
            self.tell_head(producer);
            if idle && !draining && self.window.len() == 0 {
                if closing.is_some() {
                    return Over::Done;
                }
                self.save(false);
                self.ask(producer);
                self.journal.wait(LOOK);
            }
            producer.poll(if self.window.len() == 0 {
                Duration::ZERO
            } else {
                POLL
            });
            let over = self.hear(reports);
            let settled = self.settle();
            if settled > 0 {
                *wait = WAITS[0];
            }
            if let Some(over) = over {
                return over;
            }
            if self.alone {
                left_alone = left_alone.saturating_sub(settled);
                if idle && self.window.len() == 0 {
                    self.alone = false;
                    return Over::Other;
                }
            }
            self.save(false);
            let state = self.shared.lock();
            if state.closing.is_some() && state.circuit == Circuit::Open {
                // It will not take anything in the time that is left.
                return Over::Done;
            }
        }
    }

    /// Reads on, when there is room; whether there is nothing to read.
    fn fill(&mut self) -> Result<bool, String> {
        if !self.unsent.is_empty() || self.window.len() >= self.config.in_flight {
            return Ok(false);
        }
        let items = self
            .journal
            .read(BITE)
            .map_err(|error| format!("the spool cannot be read: {error}"))?;
        self.unsent.extend(items);
        Ok(self.unsent.is_empty())
    }

    /// Hands on what was read, as far as there is room.
    fn send(&mut self, producer: &Producer) -> Result<(), String> {
        while self.window.len() < self.config.in_flight {
            let Some(item) = self.unsent.pop_front() else {
                break;
            };
            let (run, seq, line) = match item {
                Item::Event { run, seq, line } => (run, seq, line),
                Item::Lost {
                    run,
                    seq,
                    reason,
                    count,
                } => {
                    self.window.push_lost(run, seq, reason, count);
                    continue;
                }
            };
            // The newline ends lines of a file; a message ends by itself.
            let event = line.strip_suffix(b"\n").unwrap_or(&line);
            let Some(head) = Head::of(event) else {
                tracing::error!(%run, seq, "a line of the spool is no event of this version: Kafka does not get it");
                self.window.push_lost(run, seq, UNREADABLE, 1);
                continue;
            };
            let topic = self.config.topic.replace("{kind}", &head.kind);
            let number = self.window.push(run.clone(), seq, Some(head.ts), event.len());
            let mut record = BaseRecord::with_opaque_to(&topic, number)
                .payload(event)
                .headers(head.headers());
            record.key = head.connection_id.as_deref();
            let Err((error, _)) = producer.send(record) else {
                continue;
            };
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                    tracing::error!(%run, seq, bytes = event.len(), "an event is longer than `kafka.message_bytes`");
                    self.window.mark(number, Fate::Lost(TOO_LARGE));
                }
                Some(RDKafkaErrorCode::QueueFull) => {
                    self.window.pop_last();
                    self.unsent.push_front(Item::Event { run, seq, line });
                    break;
                }
                _ => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    /// Takes the reports; why the producer has to go, if it has.
    fn hear(&mut self, reports: &Reports) -> Option<Over> {
        let news = reports.take();
        if news.trouble.is_some() {
            self.trouble = news.trouble;
        }
        let trouble = self.trouble.clone();
        let mut over = None;
        for (number, result) in news.delivered {
            if number == WITNESS {
                self.witness_told(result);
                continue;
            }
            let fate = match result {
                Ok(()) => Fate::Delivered,
                Err(RDKafkaErrorCode::MessageSizeTooLarge) if self.alone => {
                    tracing::error!("brokers refuse an event as too large");
                    Fate::Lost(TOO_LARGE)
                }
                Err(RDKafkaErrorCode::MessageSizeTooLarge) => {
                    over.get_or_insert(Over::Other);
                    continue;
                }
                Err(code @ (RDKafkaErrorCode::InvalidRecord | RDKafkaErrorCode::InvalidTimestamp)) => {
                    tracing::error!(%code, "brokers refuse an event");
                    Fate::Lost(REFUSED)
                }
                Err(code) => {
                    over = Some(Over::Failed(match &trouble {
                        Some(trouble) => format!("{code}: {trouble}"),
                        None => code.to_string(),
                    }));
                    continue;
                }
            };
            self.window.mark(number, fate);
        }
        if let Some(Over::Other) = over {
            self.alone = true;
        }
        if news.down && over.is_none() {
            self.shared
                .lock()
                .failed(trouble.as_deref().unwrap_or("no broker can be reached"));
        }
        over
    }

    /// Notes what is done; how many items that are.
    fn settle(&mut self) -> usize {
        let before = self.window.len();
        let settled = self.window.settle();
        let mut state = self.shared.lock();
        for one in &settled {
            let lost = one.done.lost.values().sum();
            state.count("delivered", one.done.delivered);
            state.count("lost", lost);
            if one.done.delivered > 0 {
                state.succeeded(one.bytes);
            }
        }
        state.in_flight = self.window.len() as u64;
        if let Some(oldest) = self.window.oldest() {
            state.oldest = Some(oldest);
        } else if !settled.is_empty() {
            state.oldest = None;
        }
        drop(state);
        for one in settled {
            self.journal.settle(&one.run, one.seq, one.done);
        }
        before - self.window.len()
    }

    /// Writes the place down, once a while or now.
    fn save(&mut self, now: bool) {
        if !now && self.saved.elapsed() < SAVE {
            return;
        }
        self.saved = Instant::now();
        if let Err(error) = self.journal.save() {
            tracing::warn!(%error, "how far Kafka has come cannot be noted; a crash would send more of it twice");
        }
    }

    /// Asks whether brokers are there again, when there is nothing else to see it by.
    fn ask(&mut self, producer: &Producer) {
        if self.shared.lock().circuit == Circuit::Closed || self.asked.elapsed() < ASK {
            return;
        }
        self.asked = Instant::now();
        if producer.client().fetch_metadata(None, ASK / 5).is_ok() {
            self.shared.lock().succeeded(0);
        }
    }

    /// Sends the head of the archive's chain when it is another one.
    fn tell_head(&mut self, producer: &Producer) {
        if self.config.witness_topic.is_empty() {
            return;
        }
        let Some(head) = self.journal.head() else { return };
        if self.witness.as_ref() == Some(&head) {
            return;
        }
        let Ok(bytes) = message::witness(&self.origin, &head) else {
            return;
        };
        let record = BaseRecord::with_opaque_to(&self.config.witness_topic, WITNESS)
            .key(&*self.origin.host)
            .payload(&bytes);
        if producer.send(record).is_ok() {
            self.witness = Some(head);
        }
    }

    fn witness_told(&mut self, result: Result<(), RDKafkaErrorCode>) {
        let head = self.witness.clone();
        match result {
            Ok(()) => self.shared.lock().witness = head,
            // The next one tells as much. Events do not wait for it.
            Err(error) => {
                tracing::warn!(%error, "the head of the archive's chain could not be sent to Kafka")
            }
        }
    }

    /// Waits after a failure; whether it is time to end.
    fn pause(&mut self, wait: &mut Duration) -> bool {
        // Half of the wait is fixed, half is chance: a fleet does not come back all at once.
        let nanos = wait.as_nanos() as u64;
        let chance = Nanos::now().0.unsigned_abs() % (nanos / 2).max(1);
        let end = Instant::now() + Duration::from_nanos(nanos / 2 + chance);
        *wait = (*wait * 2).min(WAITS[1]);
        let mut state = self.shared.lock();
        while state.closing.is_none() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.circuit = Circuit::HalfOpen;
                return false;
            }
            state = match self.shared.changed.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }
}
