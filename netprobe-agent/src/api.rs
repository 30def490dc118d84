//! HTTP on the loopback address and on the Unix socket: handlers over a service, never over the pipeline's data.

mod dto;
mod guard;
mod listen;
mod problem;
mod routes;
mod service;
mod stream;

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use tokio::sync::watch;

pub use dto::{API_VERSION, EventsAnswer, FlowsAnswer, Health, HealthCheck, ProbeAnswer};
pub use listen::Listeners;
pub use problem::Problem;
pub use service::Service;

use crate::error::AgentError;

/// The running API: one thread, ended by [`Server::stop`].
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    socket: listen::SocketFile,
}

/// How long open connections may take to end.
const GRACE: Duration = Duration::from_secs(1);

impl Server {
    /// Serves on what [`Listeners::bind`] bound, in a thread of its own.
    pub fn start(listeners: Listeners, service: Service) -> Result<Server, AgentError> {
        let failed = |error: std::io::Error| {
            AgentError::other(
                format!("the API cannot start: {error}"),
                "check the limits of open files and threads",
            )
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let Listeners {
            tcp,
            unix,
            socket,
            allowed,
        } = listeners;
        // Tokio's listeners are made inside its runtime.
        let (tcp, unix) = {
            let _inside = runtime.enter();
            let tcp = tokio::net::TcpListener::from_std(tcp).map_err(failed)?;
            let unix = tokio::net::UnixListener::from_std(unix).map_err(failed)?;
            (tcp, unix)
        };
        let (stop, stopped) = watch::channel(false);
        let gateway = service.stream.clone();
        let streaming = stream::Streaming {
            gateway: gateway.clone(),
            stopped: stopped.clone(),
        };
        let router = routes::router(Arc::new(service), streaming, allowed);
        let ended = move || {
            let mut stopped = stopped.clone();
            async move {
                // An error means the server was dropped, which ends it as well.
                let _ = stopped.wait_for(|stopped| *stopped).await;
            }
        };
        let thread = std::thread::Builder::new()
            .name("api".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let served = async {
                        tokio::join!(
                            axum::serve(tcp, router.clone()).with_graceful_shutdown(ended()),
                            axum::serve(unix, router).with_graceful_shutdown(ended()),
                        )
                    };
                    let late = async {
                        ended().await;
                        tokio::time::sleep(GRACE).await;
                    };
                    tokio::select! {
                        _ = served => {}
                        () = late => {}
                        () = gateway.tick() => {}
                    }
                });
            })
            .map_err(failed)?;
        Ok(Server {
            stop,
            thread: Some(thread),
            socket,
        })
    }

    /// Ends the API: open requests have a second to end, then the socket file is removed.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            // A panic in a handler ends its connection, not the thread.
            let _ = thread.join();
        }
        self.socket.remove();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests;
