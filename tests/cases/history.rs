//! A scripted incident on two hosts with one archive, and what the reports on it say against the script's own clock.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, Settings, binary};
use netprobe_tests::lab::{Lab, addr};
use netprobe_tests::{http, tools};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::requests::web::Web;
use super::retransmit::lossy;
use super::{Case, Need};

pub(crate) const CASES: &[Case] =
    &[Case::new("reports_agree_with_the_scripts_clock", incident)
        .needs(&[Need::Program("nginx"), Need::Speed])];

const PORT: u16 = 8083;
const SERVER: &str = "10.83.1.1";
/// Seconds of a slot.
const SLOT: f64 = 10.0;

/// What the script did and saw, in seconds of the day.
#[derive(Default)]
struct Script {
    begin: f64,
    lossy: (f64, f64),
    stopped: (f64, f64),
    end: f64,
    /// When each connect was decided, how long it took, and whether it was established.
    dials: Vec<(f64, f64, bool)>,
}

/// Seconds of the day. Differences of these: a test that runs over midnight is its own fault.
pub(super) fn now() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64() % 86_400.0)
}

/// Seconds of the day of a time in a report.
pub(super) fn of_day(value: &Value) -> Result<f64> {
    let text = value.as_str().with_context(|| format!("no time: {value}"))?;
    let parts: Vec<f64> = text
        .get(11..text.len() - 1)
        .with_context(|| format!("no time: {text}"))?
        .split(':')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok(parts.iter().fold(0.0, |sum, part| sum * 60.0 + part))
}

/// The same as text.
pub(super) fn time(second: f64) -> Result<String> {
    let day = tools::run("date", &["-u", "+%Y-%m-%d"])?;
    let (hour, minute) = ((second / 3600.0) as u32, (second / 60.0) as u32 % 60);
    Ok(format!(
        "{}T{hour:02}:{minute:02}:{:09.6}Z",
        day.trim(),
        second % 60.0
    ))
}

/// An agent of a host of this name. All see the same kernel, so they tell the same, unless told to look at a part of it.
pub(super) fn host(name: &str, home: &Path, archive: &Path) -> Settings {
    Settings {
        through: ["unshare", "--uts", "sh", "-c"]
            .map(str::to_owned)
            .into_iter()
            .chain([format!(
                "echo {name} > /proc/sys/kernel/hostname && exec \"$0\" \"$@\""
            )])
            .collect(),
        archive: format!(
            "url = \"file://{}\"\nseal_after = \"500ms\"\nsync_interval = \"10ms\"",
            archive.display()
        ),
        archive_in: Some(home.to_owned()),
        flow: "reconcile_every = \"1s\"".to_owned(),
        silent: true,
        ..Settings::default()
    }
}

/// Dials, asks, and goes on until told to stop.
fn dial(at: SocketAddr, stop: &AtomicBool) -> Vec<(f64, f64, bool)> {
    let mut dials = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let socket = TcpStream::connect(at);
        dials.push((now(), begin.elapsed().as_secs_f64() * 1e3, socket.is_ok()));
        if let Ok(mut socket) = socket {
            // What comes of the request is not what is counted here.
            let _ = socket.write_all(b"GET /ok HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
            let _ = socket.read_to_end(&mut Vec::new());
        }
        thread::sleep(Duration::from_millis(100));
    }
    dials
}

fn wait(seconds: u64) {
    thread::sleep(Duration::from_secs(seconds));
}

/// Good for 15 s, half of the SYNs lost for 20 s, stopped for 30 s, good for 15 s.
fn play(lab: &Lab, at: SocketAddr) -> Result<Script> {
    let mut script = Script::default();
    let stop = AtomicBool::new(false);
    let mut web = Some(Web::start(lab, "srv", at)?);
    let netns = lab.path("cli");
    let dials = thread::scope(|scope| {
        let dialer = scope.spawn(|| tools::within(&netns, || Ok(dial(at, &stop))));
        let mut acts = || -> Result<Web> {
            script.begin = now();
            wait(15);
            script.lossy.0 = now();
            lab.nft(
                "srv",
                &format!("add rule ip f in tcp dport {PORT} tcp flags & (syn | ack) == syn numgen inc mod 2 == 0 drop"),
            )?;
            wait(20);
            lab.nft("srv", "flush chain ip f in")?;
            script.lossy.1 = now();
            wait(2);
            drop(web.take());
            script.stopped.0 = now();
            wait(30);
            let web = Web::start(lab, "srv", at)?;
            script.stopped.1 = now();
            wait(15);
            script.end = now();
            Ok(web)
        };
        let acted = acts();
        stop.store(true, Ordering::Relaxed);
        let dials = dialer
            .join()
            .map_err(|_| anyhow::anyhow!("the client panicked"))?;
        acted?;
        dials
    })?;
    script.dials = dials;
    Ok(script)
}

/// Connects to a listener that accepts nothing, until its queue is full and others are dropped.
fn overflow(lab: &Lab) -> Result<()> {
    lab.sysctl("srv", "net/core/somaxconn", "1")?;
    let at = addr(SERVER, PORT + 1);
    let _listener = tools::within(&lab.path("srv"), || Ok(std::net::TcpListener::bind(at)?))?;
    tools::within(&lab.path("cli"), || {
        let dial = |_| TcpStream::connect_timeout(&at, Duration::from_millis(300)).ok();
        let queued: Vec<_> = (0..8).map(dial).collect();
        ensure!(queued.iter().any(Option::is_none), "the queue takes everything");
        // Longer than from one list of sockets to the next.
        wait(4);
        Ok(())
    })
}

fn incident() -> Result<()> {
    let (one, two, archive) = (tempfile::tempdir()?, tempfile::tempdir()?, tempfile::tempdir()?);
    let first = Agent::start(&host("history-1", one.path(), archive.path()))?;
    let settings = host("history-2", two.path(), archive.path());
    let second = Agent::start(&settings)?;
    let lab = lossy("")?;
    let at = addr(SERVER, PORT);
    let script = play(&lab, at)?;
    overflow(&lab)?;
    // The second host's agent is killed, and comes back; the first one saw what happened meanwhile.
    second.signal(Signal::SIGKILL)?;
    let killed = now();
    drop(second);
    let second = Agent::start(&settings)?;
    let back = now();
    let _web = Web::start(&lab, "srv", at)?;
    let stop = AtomicBool::new(false);
    tools::within(&lab.path("cli"), || {
        thread::scope(|scope| {
            scope.spawn(|| dial(at, &stop));
            wait(12);
            stop.store(true, Ordering::Relaxed);
        });
        Ok(())
    })?;
    let (since, until) = (time(script.begin)?, time(now())?);
    first.ledger_at_rest(Duration::from_secs(60))?;
    second.ledger_at_rest(Duration::from_secs(60))?;
    let port = PORT.to_string();
    let url = format!("file://{}", archive.path().display());
    let span = [
        "--url",
        &url,
        "--since",
        &since,
        "--until",
        &until,
        "--to-port",
        &port,
        "-o",
        "json",
    ];
    let sla = |more: &[&str]| netprobe(&[&["sla"], &span[..], more].concat());
    let told = sla(&[])?;
    // What else happens on this host is in the archive, too; of the destination there is nothing new.
    let again: Value = serde_json::from_str(&sla(&[])?)?;
    let told: Value = serde_json::from_str(&told)?;
    ensure!(
        told["destinations"] == again["destinations"],
        "asked twice, told otherwise"
    );
    let (status, body) = http::get(
        first.listen(),
        &format!("/api/v1/sla?since={since}&until={until}&to-port={PORT}"),
    )?;
    let by_http: Value = serde_json::from_str(&body)?;
    ensure!(
        status == 200 && by_http["destinations"] == told["destinations"],
        "by HTTP {status}: {body}"
    );
    let story = |form: &str| netprobe(&[&["timeline"], &span[..8], &["-o", form]].concat());
    let json: Value = serde_json::from_str(&story("json")?)?;
    let path = format!("/api/v1/timeline?since={since}&until={until}&to-port={PORT}");
    let (status, body) = http::get(first.listen(), &path)?;
    let by_http: Value = serde_json::from_str(&body)?;
    ensure!(
        status == 200 && by_http["incidents"] == json["incidents"],
        "by HTTP {status}: {body}"
    );
    let (html, markdown) = (story("html")?, story("markdown")?);
    ensure!(
        html.contains("<svg") && html.contains("First symptom") && !html.contains("<script"),
        "no page: {html}"
    );
    ensure!(markdown.contains("First symptom, at "), "no story: {markdown}");
    drop((first, second));
    what_happened(&script, &json)?;
    up_and_down(&script, &told)?;
    let apart: Value = serde_json::from_str(&sla(&["--by-host"])?)?;
    each_host(&script, (killed, back), &apart)
}

/// Runs `netprobe …`; its standard output.
pub(super) fn netprobe(arguments: &[&str]) -> Result<String> {
    tools::run_command(std::process::Command::new(binary()?).args(arguments).env_clear())
}

fn near(what: &str, told: f64, truth: f64, by: f64) -> Result<()> {
    ensure!(
        (told - truth).abs() <= by,
        "{what} is {told} by the report and {truth} by the script"
    );
    Ok(())
}

/// First the SYNs that were lost, then the refused connects, of whom and until when; and the full queue.
fn what_happened(script: &Script, told: &Value) -> Result<()> {
    let incidents = told["incidents"].as_array().context("no incidents")?;
    ensure!(incidents.len() == 1, "not one incident: {told}");
    let incident = &incidents[0];
    let causes: Vec<_> = incident["causes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|of| &of["cause"])
        .collect();
    ensure!(
        causes == ["syn_loss", "refused"],
        "the causes are {causes:?}: {incident}"
    );
    let first = of_day(&incident["from"])?;
    ensure!(
        (script.lossy.0..script.lossy.0 + 3.0).contains(&first),
        "the first symptom is of {first}, SYNs were lost from {:?} on",
        script.lossy
    );
    let refused: Vec<f64> = script
        .dials
        .iter()
        .filter(|(.., ok)| !ok)
        .map(|(at, ..)| *at)
        .collect();
    let (begin, end) = (refused[0], refused[refused.len() - 1]);
    let again = script.dials.iter().find(|(at, _, ok)| *ok && *at > end);
    let again = again.context("nothing recovered")?.0;
    near("recovery", of_day(&incident["recovered_at"])?, again, 0.05)?;
    let mut hosts = Vec::new();
    for episode in incident["episodes"].as_array().context("no episodes")? {
        ensure!(
            episode["destination"] == format!("{SERVER}:{PORT}") && episode["role"] == "client",
            "of something else: {episode}"
        );
        ensure!(
            episode["service"] == incident["services"][0],
            "of somebody else: {episode}"
        );
        if episode["cause"] == "refused" {
            near("first refused", of_day(&episode["from"])?, begin, 0.05)?;
            near("last refused", of_day(&episode["to"])?, end, 0.05)?;
            ensure!(
                episode["count"] == refused.len(),
                "{} were refused: {episode}",
                refused.len()
            );
            hosts.push(episode["host"].clone());
        }
    }
    ensure!(
        hosts == ["history-1", "history-2"],
        "refused is told by {hosts:?}"
    );
    ensure!(
        incident["losses"] == serde_json::json!([]),
        "something was lost: {incident}"
    );
    let notes = told["agents"].as_array().context("no agents")?;
    let queue = notes.iter().any(|note| {
        note["message"]
            .as_str()
            .is_some_and(|said| said.contains("full accept queues"))
    });
    ensure!(queue, "nobody tells of the full queue: {notes:?}");
    Ok(())
}

fn up_and_down(script: &Script, told: &Value) -> Result<()> {
    ensure!(
        told["destinations"].as_array().is_some_and(|all| all.len() == 1),
        "not one destination: {told}"
    );
    let of = &told["destinations"][0];
    ensure!(
        of["hosts"] == serde_json::json!(["history-1", "history-2"]) && of["host"].is_null(),
        "not of both hosts: {of}"
    );
    let outages = of["outages"].as_array().context("no outages")?;
    ensure!(outages.len() == 1, "not one outage: {outages:?}");
    let outage = &outages[0];
    let (from, to) = script.stopped;
    near("begin", of_day(&outage["from"])?, from, SLOT)?;
    near("end", of_day(&outage["to"])?, to, SLOT)?;
    let failures = || script.dials.iter().filter(|(.., ok)| !ok).map(|(at, ..)| *at);
    let first = failures().next().context("nothing failed")?;
    let last = failures().next_back().context("nothing failed")?;
    let again = script.dials.iter().find(|(at, _, ok)| *ok && *at > last);
    let again = again.context("nothing recovered")?.0;
    near("first failure", of_day(&outage["first_failure"])?, first, 0.05)?;
    near("last failure", of_day(&outage["last_failure"])?, last, 0.05)?;
    near("recovery", of_day(&outage["recovered_at"])?, again, 0.05)?;
    let period = &of["periods"][0];
    let seconds = |name: &str| period[name].as_f64().with_context(|| format!("no {name}"));
    // By slots of the script's own clock.
    let mut slots = std::collections::BTreeMap::<i64, (u32, u32)>::new();
    for (at, _, ok) in &script.dials {
        let of = slots.entry((at / SLOT) as i64).or_default();
        *(if *ok { &mut of.0 } else { &mut of.1 }) += 1;
    }
    let down = slots
        .values()
        .filter(|(ok, failed)| *failed > 0 && failed >= ok)
        .count();
    near("seconds down", seconds("down_seconds")?, down as f64 * SLOT, SLOT)?;
    // What one host lost the other one saw.
    ensure!(
        period["unknown"]["loss_seconds"] == 0,
        "a loss of one is one of both: {period}"
    );
    let whole = seconds("up_seconds")? + seconds("down_seconds")? + seconds("unknown_seconds")?;
    near(
        "the whole",
        whole,
        of_day(&period["to"])? - of_day(&period["from"])?,
        0.0,
    )
}

fn each_host(script: &Script, (killed, back): (f64, f64), told: &Value) -> Result<()> {
    let of = |host: &str| {
        let all = told["destinations"].as_array().into_iter().flatten();
        let mut of = all.filter(|of| of["host"] == host);
        of.next().with_context(|| format!("nothing of {host}: {told}"))
    };
    let first = &of("history-1")?["periods"][0];
    let refused = script.dials.iter().filter(|(.., ok)| !ok).count();
    ensure!(
        first["failures"]["refused"] == refused,
        "{refused} connects were refused: {first}"
    );
    ensure!(
        first["unknown"]["loss_seconds"] == 0,
        "the first host lost something: {first}"
    );
    let mut took: Vec<f64> = script
        .dials
        .iter()
        .filter(|(.., ok)| *ok)
        .map(|(_, ms, _)| *ms)
        .collect();
    took.sort_by(f64::total_cmp);
    let p95 = first["connect_p95_ms"].as_f64().context("no P95")?;
    let longest = took.last().context("nothing was established")?;
    ensure!(p95 <= longest * 1.008, "P95 is {p95}, the longest took {longest}");
    let second = &of("history-2")?["periods"][0];
    let lost = second["unknown"]["loss_seconds"].as_f64().context("no loss")?;
    ensure!(
        lost >= (back - killed).floor() && lost <= back - killed + 2.0 * SLOT,
        "not watched from {killed} to {back}, and {lost} s of loss: {second}"
    );
    let sources = told["sources"]["hosts"].as_array().context("no sources")?;
    let reasons: Vec<_> = sources
        .iter()
        .filter(|source| source["host"] == "history-2")
        .flat_map(|source| source["losses"].as_array().into_iter().flatten())
        .map(|loss| loss["reason"].as_str().unwrap_or_default())
        .collect();
    ensure!(reasons.contains(&"not_running"), "a kill is no loss: {reasons:?}");
    Ok(())
}
