//! HTTP over the agent's Unix socket.

use std::{path::PathBuf, time::Duration};

use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{net::UnixStream, runtime::Runtime};

use crate::{api::Problem, error::AgentError};

/// How long an answer may take: the agent itself gives up after two seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the agent.
#[derive(Debug)]
pub(super) struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

impl Client {
    pub(super) fn new(socket: PathBuf) -> Result<Client, AgentError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| {
                AgentError::other(format!("no runtime: {error}"), "check the limit of open files")
            })?;
        Ok(Client { socket, runtime })
    }

    /// Asks for a path with query parameters.
    pub(super) fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        parameters: &[(&str, &str)],
    ) -> Result<T, AgentError> {
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(parameters)
            .finish();
        let target = if query.is_empty() {
            path.to_owned()
        } else {
            format!("{path}?{query}")
        };
        let asked = self
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, self.ask(&target)).await });
        let unreachable = |error: String| AgentError::AgentUnreachable {
            socket: self.socket.clone(),
            error,
        };
        let (status, body) = match asked {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => return Err(unreachable(format!("no answer within {} s", PATIENCE.as_secs()))),
        };
        if status == 200 {
            return serde_json::from_slice(&body).map_err(|error| {
                AgentError::other(
                    format!("the agent's answer to {path} cannot be read: {error}"),
                    "use the same version of netprobe for the agent and the command line",
                )
            });
        }
        let detail = serde_json::from_slice::<Problem>(&body).map_or_else(
            |_| format!("the agent answered {status}"),
            |problem| problem.detail,
        );
        match status {
            400 => Err(AgentError::Usage(detail)),
            503 => Err(unreachable(detail)),
            _ => Err(AgentError::other(detail, "see the agent's log")),
        }
    }

    async fn ask(&self, target: &str) -> Result<(u16, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(target)
            .header(header::HOST, "localhost")
            .body(Empty::<Bytes>::new())?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status().as_u16();
            Ok((status, response.into_body().collect().await?.to_bytes()))
        };
        tokio::pin!(connection);
        tokio::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            ended = &mut connection => {
                ended?;
                exchange.await
            }
        }
    }
}
