//! What goes wrong in front of Prometheus.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;

use anyhow::{Result, ensure};
use netprobe_tests::agent::{Agent, free_port};
use netprobe_tests::lab::addr;
use netprobe_tests::traffic::proto::{Cmd, ConnectOptions, SendHow};

use super::super::Pair;
use super::super::retransmit::lossy;

/// Labels of peers there may be; the test's own come first.
pub(super) const MAX_PEERS: u16 = 100;

/// What goes wrong, and the ordinary beside it, until told to stop.
pub(super) struct Incident {
    lossy: Pair,
    across: Pair,
    served: TcpListener,
    pub(super) refused: SocketAddr,
    /// One that stays open: of it there are updates, which the archive leaves out.
    _held: (TcpStream, TcpStream),
}

impl Incident {
    pub(super) fn begin(agent: &Arc<Agent>) -> Result<Incident> {
        let lab = Arc::new(lossy(
            "tcp dport 7001 drop; tcp dport 7000 meta length > 100 numgen random mod 100 < 10 drop",
        )?);
        let served = TcpListener::bind("127.0.0.1:0")?;
        let _held = (TcpStream::connect(served.local_addr()?)?, served.accept()?.0);
        Ok(Incident {
            _held,
            lossy: Pair::over(lab, agent.clone(), "rules", "cli", "srv", addr("10.83.1.1", 7000))?,
            across: Pair::over(
                netprobe_tests::lab::gateway()?,
                agent.clone(),
                "rulesnat",
                "cli",
                "srv",
                addr(netprobe_tests::lab::SERVER, 20_470),
            )?,
            served,
            refused: SocketAddr::from(([127, 0, 0, 1], free_port()?)),
        })
    }

    /// Connections that are served, refused, reset, lost on the way, translated and not answered; datagrams.
    pub(super) fn round(&mut self) -> Result<()> {
        let at = self.served.local_addr()?;
        for reset in [false, true] {
            let mut client = TcpStream::connect(at)?;
            client.write_all(&[0; 500])?;
            let mut server = self.served.accept()?.0;
            if !reset {
                drop(client);
                std::io::copy(&mut server, &mut std::io::sink())?;
            }
        }
        self.ask("/items/17", "200 OK")?;
        self.ask("/broken", "503 Service Unavailable")?;
        for _ in 0..4 {
            ensure!(
                TcpStream::connect(self.refused).is_err(),
                "{} is served",
                self.refused
            );
        }
        let (one, other) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
        one.send_to(&[0; 100], other.local_addr()?)?;
        other.recv(&mut [0; 100])?;
        let (client, server) = self.across.open_to(addr(netprobe_tests::lab::VIRTUAL, 20_470))?;
        self.across.cli.send(client.socket, 1000)?;
        self.across.cli.close(client.socket)?;
        self.across.srv.drain(server.socket)?;
        self.across.srv.close(server.socket)?;
        let (client, server) = self.lossy.open()?;
        self.lossy.srv.begin(&Cmd::Recv {
            socket: server.socket,
            bytes: Some(50_000),
            how: netprobe_tests::traffic::proto::RecvHow::Recv,
        })?;
        self.lossy.cli.call(Cmd::Send {
            socket: client.socket,
            bytes: 50_000,
            chunk: 16_384,
            how: SendHow::Send,
        })?;
        self.lossy.srv.finish()?;
        self.lossy.cli.close(client.socket)?;
        self.lossy.srv.close(server.socket)?;
        let gone = self.lossy.cli.attempt(Cmd::Connect {
            addr: addr("10.83.1.1", 7001),
            options: ConnectOptions {
                user_timeout_ms: Some(1000),
                ..ConnectOptions::default()
            },
        })?;
        ensure!(gone.errno != 0, "what is dropped is answered");
        Ok(())
    }

    /// A request and its answer, on a connection of their own.
    fn ask(&self, path: &str, status: &str) -> Result<()> {
        let mut client = TcpStream::connect(self.served.local_addr()?)?;
        let mut server = self.served.accept()?.0;
        let asked = format!("GET {path} HTTP/1.1\r\nHost: rules\r\n\r\n");
        client.write_all(asked.as_bytes())?;
        server.read_exact(&mut vec![0; asked.len()])?;
        write!(server, "HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\nsaid")?;
        drop(server);
        client.read_to_end(&mut Vec::new())?;
        Ok(())
    }

    /// More connections than a small spool has room for, and more peers than there may be labels.
    pub(super) fn flood(&self) -> Result<()> {
        for port in 1..=MAX_PEERS + 50 {
            // Whether somebody listens there is all the same.
            let _ = TcpStream::connect(addr("127.0.0.2", port));
        }
        let at = self.served.local_addr()?;
        for _ in 0..8000 {
            let client = TcpStream::connect(at)?;
            drop(self.served.accept()?);
            drop(client);
        }
        Ok(())
    }
}
