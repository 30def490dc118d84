//! Lists that take long, in threads of their own: the pipeline goes on draining meanwhile.

use std::{
    sync::mpsc::{self, Receiver, RecvTimeoutError, TryRecvError},
    time::{Duration, Instant},
};

/// How long a wait goes between two looks after the records.
const LOOK: Duration = Duration::from_millis(5);

/// One list at a time.
#[derive(Debug)]
pub struct Surveyor<T>(Option<Receiver<T>>);

/// The list will not come: its thread could not be started, or ended without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoList;

impl<T> Default for Surveyor<T> {
    fn default() -> Surveyor<T> {
        Surveyor(None)
    }
}

impl<T: Send + 'static> Surveyor<T> {
    /// Whether a list is being made.
    pub const fn is_busy(&self) -> bool {
        self.0.is_some()
    }

    /// Starts `take` in a thread. One that is not done yet is given up: its result finds nobody.
    pub fn start(&mut self, take: impl FnOnce() -> T + Send + 'static) -> Result<(), NoList> {
        let (send, receive) = mpsc::channel();
        let spawned = std::thread::Builder::new()
            .name("survey".to_owned())
            .spawn(move || {
                if send.send(take()).is_err() {
                    tracing::debug!("nobody waited for a list of sockets any more");
                }
            });
        self.0 = spawned.is_ok().then_some(receive);
        spawned.map(|_| ()).map_err(|error| {
            tracing::error!("no thread to list sockets: {error}");
            NoList
        })
    }

    /// The list, once it is there; `None` before and after.
    pub fn poll(&mut self) -> Option<Result<T, NoList>> {
        let done = match self.0.as_ref()?.try_recv() {
            Ok(list) => Ok(list),
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Err(NoList),
        };
        self.0 = None;
        Some(done)
    }

    /// Waits for the list until `deadline`, with `meanwhile` called all along.
    pub fn wait(mut self, deadline: Instant, mut meanwhile: impl FnMut()) -> Result<T, NoList> {
        let receive = self.0.take().ok_or(NoList)?;
        loop {
            meanwhile();
            match receive.recv_timeout(LOOK) {
                Ok(list) => return Ok(list),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Err(NoList),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_never_done_does_not_hold_up_the_end() {
        let (hold, held) = mpsc::channel::<()>();
        let mut surveyor = Surveyor::default();
        let started = surveyor.start(move || held.recv().is_ok());
        assert_eq!(started, Ok(()));
        assert!(surveyor.is_busy() && surveyor.poll().is_none());
        let mut drained = 0;
        let ended = surveyor.wait(Instant::now() + Duration::from_millis(50), || drained += 1);
        assert_eq!(ended, Err(NoList));
        assert!(drained > 1, "records are drained all along");
        drop(hold);
    }

    #[test]
    fn a_list_is_handed_over_once() {
        let mut surveyor = Surveyor::default();
        assert_eq!(surveyor.start(|| 5), Ok(()));
        let list = loop {
            match surveyor.poll() {
                Some(list) => break list,
                None => std::thread::yield_now(),
            }
        };
        assert_eq!(list, Ok(5));
        assert!(!surveyor.is_busy() && surveyor.poll().is_none());
        assert_eq!(surveyor.start(|| 6), Ok(()));
        assert_eq!(
            surveyor.wait(Instant::now() + Duration::from_secs(60), || {}),
            Ok(6)
        );
    }

    #[test]
    fn a_thread_that_panics_is_no_list() {
        let mut surveyor = Surveyor::<()>::default();
        assert_eq!(surveyor.start(|| panic!("as the test wants")), Ok(()));
        assert_eq!(
            surveyor.wait(Instant::now() + Duration::from_secs(60), || {}),
            Err(NoList)
        );
    }
}
