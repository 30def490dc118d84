//! The threads that write and seal.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    disk::Disk,
    follow,
    spool::{self, Sealer, Writer},
    state::{Refuses, SPOOL_CORRUPT, Shared, UNWRITABLE},
};
use crate::{event::Event, fanout::weight};

/// Wait after something went wrong on the disk.
const RETRY: Duration = Duration::from_secs(1);
/// Time between two looks at age and size.
const LOOK: Duration = Duration::from_millis(500);
/// Of the room for the spool, the part that only must-keep events may fill: a tenth.
const RESERVED: u64 = 10;

/// What the writer is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct WriteSettings {
    /// Longest time an event waits for others before it is written.
    pub(super) delay: Duration,
    /// Events in one commit.
    pub(super) batch: usize,
    /// Bytes the spool may have.
    pub(super) room: u64,
}

/// Writes events until told to end.
pub(super) fn write(
    shared: &Shared,
    disk: &dyn Disk,
    run: &str,
    mut writer: Writer,
    settings: WriteSettings,
) {
    let mut hand: Vec<Arc<Event>> = Vec::new();
    let mut looked: Option<Instant> = None;
    loop {
        if looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            looked = Some(Instant::now());
            look(shared, disk, run, &mut writer, settings.room);
        }
        let mut state = shared.lock();
        if hand.is_empty() {
            let ready = |since: Instant| since.elapsed() >= settings.delay;
            let enough = state.queue.len() >= settings.batch || state.queued_since.is_some_and(ready);
            if !state.closing && state.ended.is_none() && !enough {
                let most = state.queued_since.map_or(LOOK, |since| {
                    settings.delay.saturating_sub(since.elapsed()).min(LOOK)
                });
                drop(Shared::wait(&shared.to_write, state, most));
                continue;
            }
            if state.ended.is_some() {
                return;
            }
            if state.queue.is_empty() {
                if state.closing {
                    break;
                }
                continue;
            }
            let count = state.queue.len().min(settings.batch);
            hand.extend(state.queue.drain(..count));
            state.in_hand = count as u64;
            let taken: usize = hand.iter().map(|event| weight(event)).sum();
            state.queued_bytes = state.queued_bytes.saturating_sub(taken);
            state.queued_since = (!state.queue.is_empty()).then(Instant::now);
        } else if state.ended.is_some() {
            return;
        }
        drop(state);
        let done = writer.commit(&hand);
        if !settle(shared, &writer, &mut hand, done) {
            let state = shared.lock();
            let patience = if state.closing { RETRY / 10 } else { RETRY };
            drop(Shared::wait(&shared.to_write, state, patience));
        }
    }
    finish(shared, disk, run, &mut writer);
}

/// Books what a commit came to; whether all of it is done.
fn settle(shared: &Shared, writer: &Writer, hand: &mut Vec<Arc<Event>>, done: spool::Committed) -> bool {
    let mut state = shared.lock();
    if state.ended.is_some() {
        // Shutdown has given up on what was in hand and has booked it.
        return false;
    }
    let last = hand[..done.count].last().and_then(|event| event.seq);
    hand.drain(..done.count);
    state.in_hand = hand.len() as u64;
    state.spooled += (done.count - done.unwritable) as u64;
    state.written += (done.count - done.unwritable) as u64;
    state.lost(UNWRITABLE, done.unwritable as u64);
    if done.unwritable > 0
        && let Some(last) = last
    {
        state.lose(last);
    }
    if state.idle() {
        // Nothing waits: what came since and was suppressed is dealt with, too.
        let offered = state.offered;
        state.reach(offered);
    } else if let Some(last) = last {
        state.reach(last);
    }
    state.writing_since = writer.content().map(|content| content.ts_first);
    state.writing = writer.synced();
    if !done.rolled.is_empty() {
        state.roll(done.rolled);
        shared.further.notify_all();
    }
    shared.synced.notify_all();
    tracing::debug!(durable_seq = state.durable_seq(), "synced");
    trouble(
        &mut state.disk_error,
        done.error.as_ref(),
        "the spool cannot be written; events wait, and are lost when too many do",
    );
    done.error.is_none()
}

/// Says once that something began to fail, and once that it works again.
fn trouble(slot: &mut Option<String>, error: Option<&io::Error>, what: &str) {
    let text = error.map(|error| format!("{what}: {error}"));
    if *slot != text {
        match &text {
            Some(text) => tracing::error!("{text}"),
            None => tracing::info!("the spool works again"),
        }
        *slot = text;
    }
}

/// Ends a segment that is due, and measures the spool.
fn look(shared: &Shared, disk: &dyn Disk, run: &str, writer: &mut Writer, room: u64) {
    let rolled = writer.roll_if_due();
    let scarce = room - room / RESERVED;
    let bytes = disk
        .list()
        .map(|files| files.iter().map(|(_, bytes)| bytes).sum::<u64>())
        .map(|bytes| follow::make_room(shared, disk, run, bytes, scarce));
    let mut state = shared.lock();
    if let Some(rolled) = rolled {
        state.roll([rolled]);
        state.writing = None;
        state.writing_since = None;
        shared.further.notify_all();
    }
    if let Ok(bytes) = bytes {
        state.spool_bytes = bytes;
        let refuses = if bytes >= room {
            Refuses::Everything
        } else if bytes >= scarce {
            Refuses::Others
        } else {
            Refuses::Nothing
        };
        if refuses != state.refuses {
            tracing::warn!(bytes, room, refuses = ?refuses, "the spool's room");
            state.refuses = refuses;
        }
    }
}

/// Everything is written: the run has ended in order.
fn finish(shared: &Shared, disk: &dyn Disk, run: &str, writer: &mut Writer) {
    let rolled = writer.roll();
    if let Err(error) = spool::end_run(disk, run) {
        tracing::error!(%error, "the end of the run cannot be noted; the next one will call it unclean");
    }
    let mut state = shared.lock();
    state.roll(rolled);
    state.writing = None;
    state.writing_since = None;
    state.written_all = true;
    shared.further.notify_all();
}

/// Seals segments until the writer has ended and none is left.
pub(super) fn seal(shared: &Shared, run: &str, mut sealer: Sealer) {
    loop {
        let rolled = {
            let mut state = shared.lock();
            loop {
                if state.ended.is_some() {
                    return;
                }
                if let Some(rolled) = state.rolled.front() {
                    break rolled.clone();
                }
                if state.written_all {
                    state.sealed_all = true;
                    shared.further.notify_all();
                    return;
                }
                state = Shared::wait(&shared.further, state, LOOK);
            }
        };
        match sealer.seal(&rolled) {
            Ok(seal) => {
                let mut state = shared.lock();
                state.rolled.pop_front();
                if rolled
                    .content
                    .as_ref()
                    .is_some_and(|content| &*content.run == run)
                    && seal.lost > 0
                {
                    state.spooled = state.spooled.saturating_sub(seal.lost);
                    state.lost(SPOOL_CORRUPT, seal.lost);
                }
                if let Some(sealed) = seal.sealed {
                    tracing::info!(
                        key = sealed.manifest.key,
                        events = sealed.manifest.content.events,
                        chain = sealed.manifest.chain_id,
                        index = sealed.number,
                        head = sealer.head.hash.as_deref(),
                        "sealed a segment"
                    );
                    state.count_segment("sealed");
                    state.sealed.push_back(sealed);
                }
                state.head = Some(sealer.head.clone());
                shared.further.notify_all();
            }
            Err(error) => {
                tracing::error!(file = rolled.name, %error, "a segment cannot be sealed yet; trying again");
                let mut state = shared.lock();
                state.count_segment("seal_failed");
                if state.closing {
                    // It waits in the spool for the next run.
                    state.sealed_all = true;
                    shared.further.notify_all();
                    return;
                }
                drop(Shared::wait(&shared.further, state, RETRY));
            }
        }
    }
}
