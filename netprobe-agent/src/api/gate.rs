//! What every connection passes: a count of those that are open, and an end for those that stand still.

use std::{
    future::{Ready, ready},
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum_server::accept::Accept;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};

/// How long a client may take none of the bytes it asked for.
const STALL: Duration = Duration::from_secs(60);

/// Lets so many connections in; further ones are closed.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    seats: Arc<Semaphore>,
    refused: Arc<AtomicU64>,
    stall: Duration,
}

impl Gate {
    pub(super) fn new(most: usize) -> Gate {
        Gate {
            stall: STALL,
            seats: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            refused: Arc::default(),
        }
    }
}

impl<I, S> Accept<I, S> for Gate
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    type Stream = Connection<I>;
    type Service = S;
    type Future = Ready<io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        ready(match self.seats.clone().try_acquire_owned() {
            Ok(seat) => Ok((Connection::new(stream, seat, self.stall), service)),
            Err(_) => {
                let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::warn!(
                    refused,
                    "a connection was closed: as many as api.max_connections are open"
                );
                Err(io::ErrorKind::ConnectionRefused.into())
            }
        })
    }
}

/// A connection that was let in. It ends with an error when a write makes no progress for too long.
#[derive(Debug)]
pub(super) struct Connection<I> {
    stream: I,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    _seat: OwnedSemaphorePermit,
}

impl<I: AsyncWrite + Unpin> Connection<I> {
    const fn new(stream: I, seat: OwnedSemaphorePermit, stall: Duration) -> Connection<I> {
        Connection {
            stream,
            stall,
            stalled: None,
            _seat: seat,
        }
    }

    fn write<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut I>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let written = write(Pin::new(&mut self.stream), context);
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(self.stall)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Connection<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Connection<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(context, |stream, context| {
            stream.poll_write_vectored(context, slices)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(context, |stream, context| stream.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(context, |stream, context| stream.poll_shutdown(context))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_reader_that_stands_still_loses_its_seat() {
        let gate = Gate {
            stall: Duration::from_millis(50),
            ..Gate::new(1)
        };
        let (ours, _theirs) = tokio::io::duplex(16);
        let (mut connection, ()) = gate.accept(ours, ()).await.unwrap();
        let (second, _other) = tokio::io::duplex(16);
        assert!(gate.accept(second, ()).await.is_err(), "one seat");
        connection.write_all(&[0; 16]).await.unwrap();
        let error = connection.write_all(&[0; 16]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(connection);
        let (third, _other) = tokio::io::duplex(16);
        assert!(gate.accept(third, ()).await.is_ok(), "the seat is free again");
    }
}
