//! The test's side of the generator: starts endpoints, tells them what to do, keeps what they answered.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use super::proto::{Cmd, ConnectOptions, ENDPOINT_ARG, Info, RecvHow, Reply, SendHow, Socket, TcpInfo};

/// Bytes a send call takes when nothing else is asked for.
const CHUNK: usize = 64 * 1024;

/// One end of a connection as an endpoint holds it.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Its name at the endpoint.
    pub socket: Socket,
    /// Local address.
    pub local: SocketAddr,
    /// Remote address.
    pub remote: SocketAddr,
    /// Cookie.
    pub cookie: u64,
    /// Start and end of the connect or accept call.
    pub call_ns: (u64, u64),
}

/// A running endpoint. Ends with this value.
pub struct Endpoint {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    info: Info,
}

impl Endpoint {
    /// Starts one with this command name, in this namespace (a path under `/run/netns`) or here.
    pub fn start(comm: &str, netns: Option<&str>) -> Result<Self> {
        Self::start_with(comm, netns, &mut Command::new(std::env::current_exe()?))
    }

    /// The same through a wrapper command (`setpriv …`), which must run the arguments added to it.
    pub fn start_with(comm: &str, netns: Option<&str>, command: &mut Command) -> Result<Self> {
        command.arg(ENDPOINT_ARG).arg(comm).args(netns);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("endpoint {comm} does not start"))?;
        let input = child.stdin.take();
        let output = BufReader::new(
            child
                .stdout
                .take()
                .ok_or_else(|| anyhow!("endpoint without stdout"))?,
        );
        let mut endpoint = Self {
            child,
            input,
            output,
            info: Info::default(),
        };
        endpoint.info = endpoint
            .call(Cmd::Info)?
            .info
            .ok_or_else(|| anyhow!("endpoint {comm} does not say who it is"))?;
        Ok(endpoint)
    }

    /// Who it is.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Asks again who it is, after something about it changed.
    pub fn refresh(&mut self) -> Result<()> {
        self.info = self
            .call(Cmd::Info)?
            .info
            .context("endpoint does not say who it is")?;
        Ok(())
    }

    /// Tells it to begin something; [`Endpoint::finish`] waits for the end.
    pub fn begin(&mut self, cmd: &Cmd) -> Result<()> {
        let input = self
            .input
            .as_mut()
            .ok_or_else(|| anyhow!("endpoint was told to end"))?;
        let mut line = serde_json::to_vec(cmd)?;
        line.push(b'\n');
        input
            .write_all(&line)
            .with_context(|| format!("endpoint {} is gone", self.info.comm))
    }

    /// Waits for the answer to what was begun; a failed call is in `errno`.
    pub fn finish(&mut self) -> Result<Reply> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("endpoint {} ended without an answer", self.info.comm);
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Does it and gives the answer whatever it is.
    pub fn attempt(&mut self, cmd: Cmd) -> Result<Reply> {
        self.begin(&cmd)?;
        self.finish()
    }

    /// Does it; a failed call is an error.
    pub fn call(&mut self, cmd: Cmd) -> Result<Reply> {
        self.begin(&cmd)?;
        let reply = self.finish()?;
        checked(&self.info.comm, &cmd, reply)
    }

    /// Listens; the socket and the address with its real port.
    pub fn listen(&mut self, addr: SocketAddr) -> Result<(Socket, SocketAddr)> {
        let reply = self.call(Cmd::Listen {
            addr,
            backlog: 1024,
            fast_open: false,
        })?;
        Ok((
            reply.socket.context("listen gives a socket")?,
            reply.local.context("a listener has an address")?,
        ))
    }

    /// Takes a connection.
    pub fn accept(&mut self, listener: Socket) -> Result<Connection> {
        connection(&self.call(Cmd::Accept {
            listener,
            uring: false,
        })?)
    }

    /// Opens a connection.
    pub fn connect(&mut self, addr: SocketAddr) -> Result<Connection> {
        self.connect_with(addr, ConnectOptions::default())
    }

    /// Opens a connection with options.
    pub fn connect_with(&mut self, addr: SocketAddr, options: ConnectOptions) -> Result<Connection> {
        connection(&self.call(Cmd::Connect { addr, options })?)
    }

    /// Sends so many bytes; what the calls returned.
    pub fn send(&mut self, socket: Socket, bytes: u64) -> Result<u64> {
        Ok(self
            .call(Cmd::Send {
                socket,
                bytes,
                chunk: CHUNK,
                how: SendHow::Send,
            })?
            .bytes)
    }

    /// Receives exactly so many bytes.
    pub fn recv(&mut self, socket: Socket, bytes: u64) -> Result<u64> {
        Ok(self
            .call(Cmd::Recv {
                socket,
                bytes: Some(bytes),
                how: RecvHow::Recv,
            })?
            .bytes)
    }

    /// Receives until the end; how much came.
    pub fn drain(&mut self, socket: Socket) -> Result<u64> {
        Ok(self
            .call(Cmd::Recv {
                socket,
                bytes: None,
                how: RecvHow::Recv,
            })?
            .bytes)
    }

    /// Closes.
    pub fn close(&mut self, socket: Socket) -> Result<()> {
        self.call(Cmd::Close { socket }).map(|_| ())
    }

    /// Reads `TCP_INFO`.
    pub fn tcp_info(&mut self, socket: Socket) -> Result<TcpInfo> {
        self.call(Cmd::TcpInfo { socket })?
            .tcp
            .context("TCP_INFO gives counters")
    }

    /// Kills the process with SIGKILL and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // The end of its input ends it; a blocked one is killed, which is no news after a test.
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Turns a failed call into an error.
fn checked(comm: &str, cmd: &Cmd, reply: Reply) -> Result<Reply> {
    if reply.errno == 0 {
        return Ok(reply);
    }
    bail!(
        "endpoint {comm}: {cmd:?}: {}",
        std::io::Error::from_raw_os_error(reply.errno)
    )
}

/// The connection an answer speaks of.
fn connection(reply: &Reply) -> Result<Connection> {
    Connection::try_from(reply)
}

impl TryFrom<&Reply> for Connection {
    type Error = anyhow::Error;

    fn try_from(reply: &Reply) -> Result<Self> {
        Ok(Self {
            socket: reply.socket.context("no socket in the answer")?,
            local: reply.local.context("no local address in the answer")?,
            remote: reply.remote.context("no remote address in the answer")?,
            cookie: reply.cookie.context("no cookie in the answer")?,
            call_ns: (reply.started_ns, reply.ended_ns),
        })
    }
}
