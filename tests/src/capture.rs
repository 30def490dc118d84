//! Packet captures by `tcpdump`, read back for the times of handshakes.

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agent::PATIENCE;
use crate::lab::Lab;
use crate::{tools, wait_for};

/// A running capture.
pub struct Capture {
    child: Child,
    file: tempfile::NamedTempFile,
}

/// One TCP segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// When it was captured.
    pub at: Duration,
    /// Sender.
    pub src: SocketAddr,
    /// Receiver.
    pub dst: SocketAddr,
    /// SYN bit.
    pub syn: bool,
    /// ACK bit.
    pub ack: bool,
    /// Payload bytes.
    pub payload: usize,
}

impl Capture {
    /// Captures TCP on an interface of a namespace; returns once packets are seen.
    pub fn start(lab: &Lab, netns: &str, interface: &str) -> Result<Self> {
        let program = tools::find("tcpdump").context("tcpdump is not installed")?;
        let file = tempfile::NamedTempFile::new()?;
        let path = file.path().to_owned();
        let mut child = tools::within(&lab.path(netns), || {
            Command::new(program)
                .args([
                    "-i",
                    interface,
                    "-U",
                    "--immediate-mode",
                    "--time-stamp-precision=nano",
                ])
                .args(["-Z", "root", "-s", "262144", "-w"])
                .arg(path)
                .arg("tcp")
                .stderr(Stdio::piped())
                .spawn()
                .context("tcpdump does not start")
        })?;
        let mut said = BufReader::new(child.stderr.take().context("tcpdump has no stderr")?);
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            if said.read_line(&mut line)? == 0 {
                bail!("tcpdump ended before it listened");
            }
        }
        // Its last words must find a reader, or it would die of a broken pipe before it writes the file.
        std::thread::spawn(move || said.read_to_end(&mut Vec::new()));
        Ok(Self { child, file })
    }

    /// Waits until the capture holds what is wanted, then ends it. Packets reach the file a little later than
    /// the receiver.
    pub fn stop_when(mut self, what: &str, wanted: impl Fn(&[Segment]) -> bool) -> Result<Vec<Segment>> {
        let segments = wait_for(what, PATIENCE, || {
            self.read().ok().filter(|segments| wanted(segments))
        })?;
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT)?;
        self.child.wait()?;
        Ok(segments)
    }

    /// What is in the file; a last packet that is not whole yet is left out.
    fn read(&self) -> Result<Vec<Segment>> {
        let mut reader = pcap_file::pcap::PcapReader::new(self.file.reopen()?)?;
        let mut segments = Vec::new();
        while let Some(Ok(packet)) = reader.next_packet() {
            segments.extend(segment(packet.timestamp, &packet.data, packet.orig_len as usize));
        }
        Ok(segments)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Time from the first SYN to the answering SYN-ACK of a connection.
pub fn handshake(segments: &[Segment], client: SocketAddr, server: SocketAddr) -> Option<Duration> {
    let syn = segments
        .iter()
        .find(|s| s.syn && !s.ack && s.src == client && s.dst == server)?;
    let ack = segments
        .iter()
        .find(|s| s.syn && s.ack && s.src == server && s.dst == client)?;
    ack.at.checked_sub(syn.at)
}

/// Decodes Ethernet, IPv4 or IPv6 without extension headers, and TCP.
fn segment(at: Duration, frame: &[u8], on_wire: usize) -> Option<Segment> {
    let ethertype = u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?);
    let ip = frame.get(14..)?;
    let (src, dst, offset, length): (IpAddr, IpAddr, usize, usize) = match ethertype {
        0x0800 => (
            Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(12..16)?).ok()?).into(),
            Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(16..20)?).ok()?).into(),
            usize::from(ip[0] & 15) * 4,
            usize::from(u16::from_be_bytes([ip[2], ip[3]])),
        ),
        0x86dd if *ip.get(6)? == 6 => (
            Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(8..24)?).ok()?).into(),
            Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(24..40)?).ok()?).into(),
            40,
            40 + usize::from(u16::from_be_bytes([ip[4], ip[5]])),
        ),
        _ => return None,
    };
    let tcp = ip.get(offset..offset + 20)?;
    let flags = tcp[13];
    // A segment handed down whole to the device may say length 0: then the wire length tells.
    let total = if length <= 40 { on_wire - 14 } else { length };
    Some(Segment {
        at,
        src: SocketAddr::new(src, u16::from_be_bytes([tcp[0], tcp[1]])),
        dst: SocketAddr::new(dst, u16::from_be_bytes([tcp[2], tcp[3]])),
        syn: flags & 2 != 0,
        ack: flags & 16 != 0,
        payload: total.saturating_sub(offset + usize::from(tcp[12] >> 4) * 4),
    })
}
