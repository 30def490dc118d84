use std::{
    io::{self, Write},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use super::*;
use crate::{
    event::{EventKind, Origin, Severity},
    fanout::Fanout,
};

fn origin() -> Origin {
    Origin::new("host", "boot", "0123456789abcdef")
}

fn event() -> Event {
    Event::new(&origin(), EventKind::Agent, Severity::Info)
}

const SOON: Duration = Duration::from_secs(5);

/// Writes that do what the test says, one entry a call.
struct Scripted {
    written: Arc<Mutex<Vec<u8>>>,
    gate: Option<mpsc::Receiver<io::Result<()>>>,
}

impl Write for Scripted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !bytes.is_empty()
            && let Some(gate) = &self.gate
        {
            gate.recv().unwrap_or(Ok(()))?;
        }
        self.written.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An output, what it wrote, and what its next write is to answer.
type Setup = (Output, Arc<Mutex<Vec<u8>>>, mpsc::Sender<io::Result<()>>);

fn scripted(room: usize) -> Setup {
    let (say, gate) = mpsc::channel();
    let written = Arc::new(Mutex::new(Vec::new()));
    let writer = Scripted {
        written: written.clone(),
        gate: Some(gate),
    };
    (
        Output::start("a test", Box::new(writer), room).unwrap(),
        written,
        say,
    )
}

#[test]
fn writes_every_event_and_closes_its_books() {
    let written = Arc::new(Mutex::new(Vec::new()));
    let writer = Scripted {
        written: written.clone(),
        gate: None,
    };
    let mut fanout = Fanout::new(origin());
    fanout.add(Box::new(
        Output::start("a test", Box::new(writer), usize::MAX).unwrap(),
    ));
    for _ in 0..1000 {
        fanout.emit(event());
        assert_eq!(fanout.check(), Ok(()));
    }
    fanout.shutdown(SOON);
    let ledger = &fanout.ledger()[0];
    assert_eq!(
        (ledger.emitted, ledger.delivered, ledger.queued, ledger.closes),
        (1000, 1000, 0, true)
    );
    let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
    let numbers: Vec<_> = text
        .lines()
        .map(|line| serde_json::from_str::<Event>(line).unwrap().seq.unwrap())
        .collect();
    assert_eq!(numbers, (1..=1000).collect::<Vec<_>>());
}

#[test]
fn a_full_queue_is_loss_and_becomes_one_gap() {
    let (output, written, say) = scripted(3 * weight(&event()) + 1);
    let mut fanout = Fanout::new(origin());
    fanout.add(Box::new(output));
    // The fourth begins where there is room and fills it; the writer has some in hand, of the first alone or of more.
    let mut taken = 0;
    while fanout.ledger()[0].lost[QUEUE_FULL] == 0 {
        fanout.emit(event());
        assert_eq!(fanout.check(), Ok(()));
        taken += 1;
    }
    assert!((5..=9).contains(&taken), "{taken} events for a room of four");
    fanout.emit(event());
    fanout.emit(event());
    drop(say);
    while fanout.ledger()[0].queued > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let lost = fanout.ledger()[0].lost[QUEUE_FULL];
    fanout.tick();
    fanout.shutdown(SOON);
    assert_eq!(fanout.check(), Ok(()));
    assert_eq!(fanout.emitted(EventKind::Gap), 1);
    let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
    let gap: Event = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let gap = gap.gap.unwrap();
    assert_eq!(
        (&*gap.stage, &*gap.reason, gap.count),
        ("output", QUEUE_FULL, Some(lost))
    );
    assert_eq!(gap.to_seq.unwrap() - gap.from_seq.unwrap() + 1, lost);
}

#[test]
fn a_reader_that_leaves_is_no_loss() {
    let (output, _, say) = scripted(usize::MAX);
    let ending = output.ending();
    let mut fanout = Fanout::new(origin());
    fanout.add(Box::new(output));
    fanout.emit(event());
    say.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
    while !ending.is_over() {
        std::thread::sleep(Duration::from_millis(1));
    }
    fanout.emit(event());
    fanout.shutdown(SOON);
    let ledger = &fanout.ledger()[0];
    assert!(
        ledger.closes && ledger.lost.values().all(|count| *count == 0),
        "{ledger:?}"
    );
    assert_eq!(ledger.suppressed[READER_GONE], 2);
    assert!(ending.failure().is_ok());
    assert_eq!(fanout.emitted(EventKind::Gap), 0);
}

#[test]
fn a_failing_writer_is_loss_and_is_told_to_the_others() {
    let (output, _, say) = scripted(usize::MAX);
    let ending = output.ending();
    let recent = crate::recent::Recent::new(100, usize::MAX);
    let mut fanout = Fanout::new(origin());
    fanout.add(Box::new(output));
    fanout.add(Box::new(recent.clone()));
    fanout.emit(event());
    say.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
    while fanout.ledger()[0].queued > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    fanout.shutdown(SOON);
    assert_eq!(fanout.check(), Ok(()));
    let page = recent.all();
    let gap = page.events.last().unwrap().gap.as_ref().unwrap();
    assert_eq!(
        (&*gap.stage, &*gap.reason, gap.count),
        ("output", WRITE_FAILED, Some(1))
    );
    assert!(ending.is_over(), "the run ends");
    let error = ending.failure().unwrap_err();
    assert_eq!(error.exit() as u8, 8);
    assert_eq!(error.to_string(), "cannot write to a test: no storage space");
}

#[test]
fn a_stuck_writer_does_not_hold_up_the_shutdown() {
    let (output, _, _say) = scripted(usize::MAX);
    let mut fanout = Fanout::new(origin());
    fanout.add(Box::new(output));
    for _ in 0..10 {
        fanout.emit(event());
    }
    let begin = Instant::now();
    fanout.shutdown(Duration::from_millis(50));
    assert!(begin.elapsed() < Duration::from_secs(2));
    let ledger = &fanout.ledger()[0];
    assert!(ledger.closes, "{ledger:?}");
    assert_eq!(ledger.lost[DEADLINE], 10);
}

#[test]
fn an_unwritable_output_is_an_error_at_once() {
    struct Refuses;
    impl Write for Refuses {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let error = Output::start("a test", Box::new(Refuses), 1).unwrap_err();
    assert_eq!(error.exit() as u8, 8);
}
