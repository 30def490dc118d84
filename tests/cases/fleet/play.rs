//! What happens on the three hosts: a client that fetches, and an incident.

use std::time::Duration;

use super::*;
use netprobe_tests::tools;

/// How long each act is, in seconds.
#[derive(Clone, Copy)]
pub(super) struct Times {
    good: u64,
    lossy: u64,
    stopped: u64,
}

pub(super) const SHORT: Times = Times {
    good: 3,
    lossy: 0,
    stopped: 4,
};
pub(super) const LONG: Times = Times {
    good: 20,
    lossy: 20,
    stopped: 30,
};

/// What curl did: the port it came from, or that it failed, and when it was done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fetch {
    pub(super) port: Option<u16>,
    pub(super) done: f64,
}

/// Fetches so often from the virtual address, one after the other.
pub(super) fn fetch(lab: &Lab, times: usize) -> Result<Vec<Fetch>> {
    (0..times).map(|_| once(lab)).collect()
}

fn once(lab: &Lab) -> Result<Fetch> {
    let url = format!("http://{}/ok", lab::VIRTUAL);
    let program = tools::find("curl").context("curl is not installed")?;
    let output = tools::within(&lab.path("cli"), || {
        let form = "%{local_port} %{http_code}";
        let mut curl = std::process::Command::new(&program);
        curl.args(["-sS", "-m", "10", "-o", "/dev/null", "-w", form, &url]);
        Ok(curl.output()?)
    })?;
    let said = String::from_utf8(output.stdout)?;
    let port = match said.split_once(' ') {
        Some((port, "200")) => Some(port.parse()?),
        _ => None,
    };
    Ok(Fetch {
        port,
        done: history::now(),
    })
}

/// Fetches ten times a second for so long.
fn for_seconds(lab: &Lab, seconds: u64, into: &mut Vec<Fetch>) -> Result<()> {
    let end = history::now() + seconds as f64;
    while history::now() < end {
        into.push(once(lab)?);
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// All is well; half of the SYNs are lost at the server's host; the server is stopped; all is well again.
pub(super) fn incident(lab: &Lab, at: SocketAddr, web: &mut Option<Web>, times: Times) -> Result<Vec<Fetch>> {
    let mut fetches = Vec::new();
    for_seconds(lab, times.good, &mut fetches)?;
    if times.lossy > 0 {
        lab.nft(
            "srv",
            "table ip f {
               chain in {
                 type filter hook input priority 0;
                 tcp flags & (syn | ack) == syn numgen inc mod 2 == 0 drop
               }
             }",
        )?;
        for_seconds(lab, times.lossy, &mut fetches)?;
        lab.nft("srv", "delete table ip f")?;
    }
    drop(web.take());
    for_seconds(lab, times.stopped, &mut fetches)?;
    *web = Some(Web::start(lab, "srv", at)?);
    for_seconds(lab, times.good, &mut fetches)?;
    let failed = fetches.iter().filter(|fetch| fetch.port.is_none()).count();
    ensure!(
        failed >= 10 && fetches.len() > 2 * failed.min(10),
        "{failed} of {} failed",
        fetches.len()
    );
    Ok(fetches)
}
