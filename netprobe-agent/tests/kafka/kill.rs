//! SIGKILL: what was durable arrives, and what comes twice is bounded.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    time::Duration,
};

use netprobe_agent::event::Event;

use super::lab::{Agent, Lab, TOPIC, configs};

/// Set for the child: brokers, run, folder.
const CHILD: &str = "NETPROBE_KAFKA_CHILD";
/// Events under way at most.
const IN_FLIGHT: usize = 200;

/// Not a test by itself: emits, says what is durable, and waits to be killed.
#[test]
fn child() {
    let Ok(setting) = std::env::var(CHILD) else {
        return;
    };
    let mut parts = setting.splitn(3, ' ');
    let mut next = || parts.next().expect("three parts");
    let (brokers, run, folder) = (next(), next().parse().expect("a run"), next());
    let (archive, mut kafka) = configs(folder.as_ref(), brokers);
    kafka.in_flight = IN_FLIGHT;
    let mut agent = Agent::start(&archive, &kafka, run);
    loop {
        agent.emit(100);
        std::thread::sleep(Duration::from_millis(10));
        println!("\ndurable {}", agent.archive.report().durable_seq);
        std::io::stdout().flush().expect("the parent reads");
    }
}

/// A life that ends by SIGKILL after it has said that so many events are durable; the last number it said.
fn life(lab: &Lab, run: u64, events: u64) -> u64 {
    let mut child: Child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "kill::child", "--nocapture", "--test-threads", "1"])
        .env(
            CHILD,
            format!("{} {run} {}", lab.brokers(), lab.folder.path().display()),
        )
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this test starts");
    let lines = BufReader::new(child.stdout.take().expect("piped"));
    let mut durable = 0;
    for line in lines.lines().map_while(Result::ok) {
        if let Some(said) = line.strip_prefix("durable ") {
            durable = said.parse().expect("a number");
        }
        if durable >= events {
            break;
        }
    }
    child.kill().expect("it is ours");
    child.wait().expect("it ended");
    durable
}

/// How often each number of a run arrived.
fn arrived(lab: &Lab, wanted: usize) -> HashMap<(String, u64), usize> {
    let mut found = HashMap::new();
    for message in lab.consume(&[TOPIC], wanted) {
        let event: Event = serde_json::from_str(&message.value).expect("an event");
        *found
            .entry((event.run.to_string(), event.seq.expect("a number")))
            .or_default() += 1;
    }
    found
}

/// Killed again and again: with brokers away and everything waiting, and in the middle of sending.
#[test]
fn nothing_durable_is_lost_by_kills() {
    let lab = Lab::new();
    lab.cluster.create_topic(TOPIC, 1, 1).unwrap();
    let mut durable = Vec::new();
    for run in 1..=8_u64 {
        if run % 2 == 1 {
            lab.cluster.broker_down(1).unwrap();
        } else {
            lab.cluster.broker_up(1).unwrap();
        }
        durable.push((run, life(&lab, run, 1500)));
    }
    lab.cluster.broker_up(1).unwrap();
    let mut agent = lab.start(99, |_, _| {});
    agent.emit(1);
    agent.settled("kafka", 1);
    agent.until("an empty spool", |agent| {
        agent.archive.report().segments_waiting == 0 && lab.objects_in_spool() == 0
    });
    assert_eq!(agent.stop().queued, 0);

    let promised: u64 = durable.iter().map(|(_, last)| last).sum();
    let found = arrived(&lab, promised as usize);
    for (run, last) in &durable {
        let missing: Vec<_> = (1..=*last)
            .filter(|seq| !found.contains_key(&(format!("{run:016x}"), *seq)))
            .collect();
        assert!(missing.is_empty(), "of run {run} up to {last}: {missing:?}");
    }
    let twice: usize = found.values().map(|count| count - 1).sum();
    println!("durable {promised}, arrived {}, twice {twice}", found.len());
    // Under way, and done since the place was last noted: a second of what a child emits, generously.
    let most = durable.len() * (IN_FLIGHT + 12_000);
    assert!(twice <= most, "{twice} came twice, {most} is the most");
    assert!(found.values().all(|count| *count <= durable.len()));
}
