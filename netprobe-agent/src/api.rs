//! HTTP on an address and on the Unix socket: handlers over a service, never over the pipeline's data.

mod access;
mod dashboard;
mod dto;
mod gate;
mod guard;
mod limits;
mod listen;
mod openapi;
mod operate;
mod problem;
mod reports;
mod routes;
mod service;
mod sessions;
mod stream;
mod tls;

use std::{io, net::SocketAddr, sync::Arc, thread::JoinHandle, time::Duration};

use axum::Extension;
use axum_server::{Address, Handle, tls_rustls::RustlsAcceptor};
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::conn::auto::Builder,
};

use tokio::sync::watch;

pub use dto::{
    API_VERSION, ArchiveAnswer, EventsAnswer, FlowsAnswer, Health, HealthCheck, NetworkAnswer, ProbeAnswer,
    ResilienceAnswer, Saturation, SlaAnswer, Table, Target, TimelineAnswer,
};
pub use listen::{Control, Listeners};
pub use openapi::text as contract;
pub use operate::{LogAnswer, SessionAnswer};
pub use problem::Problem;
pub use service::Service;

use rustix::thread::CapabilitySet;

use crate::{error::AgentError, privileges};

/// The running API: one thread, ended by [`Server::stop`].
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    socket: listen::SocketFile,
}

/// How long open connections may take to end.
const GRACE: Duration = Duration::from_secs(1);
/// How long the head of a request may take, and how long a connection may be idle before the next one.
const HEAD: Duration = Duration::from_secs(10);

impl Server {
    /// Serves on what [`Listeners::bind`] bound, in a thread of its own.
    pub fn start(listeners: Listeners, service: Service) -> Result<Server, AgentError> {
        let failed = |error: io::Error| {
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
            control,
            max_connections,
        } = listeners;
        let way = access::Way::Tcp {
            loopback: tcp.local_addr().map_err(failed)?.ip().is_loopback(),
            tls: control.tls.is_some(),
        };
        // Tokio's listeners are made inside its runtime.
        let (tcp, unix) = {
            let _inside = runtime.enter();
            let tcp = axum_server::from_tcp(tcp).map_err(failed)?;
            let unix = axum_server::from_unix(unix).map_err(failed)?;
            (tcp, unix)
        };
        let (stop, stopped) = watch::channel(false);
        let gateway = service.stream.clone();
        let router = routes::router(routes::App {
            service: Arc::new(service),
            streaming: stream::Streaming {
                gateway: gateway.clone(),
                stopped: stopped.clone(),
            },
            access: control.access,
        });
        let (tcp_end, unix_end) = (Handle::new(), Handle::new());
        let tcp_app = router
            .clone()
            .layer(Extension(way))
            .into_make_service_with_connect_info::<SocketAddr>();
        let unix_app = router.layer(Extension(access::Way::Unix)).into_make_service();
        let gate = move || gate::Gate::new(max_connections);
        let tcp = bounded(tcp).handle(tcp_end.clone());
        let unix = bounded(unix).handle(unix_end.clone()).acceptor(gate());
        let thread = std::thread::Builder::new()
            .name("api".to_owned())
            .spawn(move || {
                // It reads what strangers send, and needs no privilege for it.
                privileges::keep(CapabilitySet::empty());
                runtime.block_on(async {
                    let tcp = async {
                        match control.tls {
                            Some(tls) => {
                                let acceptor = RustlsAcceptor::new(tls).acceptor(gate());
                                tcp.acceptor(acceptor).serve(tcp_app).await
                            }
                            None => tcp.acceptor(gate()).serve(tcp_app).await,
                        }
                    };
                    let served = async { tokio::join!(tcp, unix.serve(unix_app)) };
                    let ended = async {
                        let mut stopped = stopped;
                        // An error means the server was dropped, which ends it as well.
                        let _ = stopped.wait_for(|stopped| *stopped).await;
                        tcp_end.graceful_shutdown(Some(GRACE));
                        unix_end.graceful_shutdown(Some(GRACE));
                        std::future::pending::<()>().await;
                    };
                    tokio::select! {
                        (tcp, unix) = served => {
                            for error in [tcp, unix].into_iter().filter_map(Result::err) {
                                tracing::error!(%error, "the API ended");
                            }
                        }
                        () = ended => {}
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

/// A server that waits for nobody: whoever does not send a whole request in time is let go. HTTP/1.1 only, which is
/// what WebSockets need and what can be bounded by it.
fn bounded<A: Address>(mut server: axum_server::Server<A>) -> axum_server::Server<A> {
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(limits::MOST_HEAD);
    *server.http_builder() = builder;
    server
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests;
