//! Crash, write-back, torn write, full disk, I/O errors: whatever happens, what was acknowledged is in the spool or
//! in the archive, once, and the chain is whole.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proptest::prelude::*;

use super::{
    sim_tests::{Fault, Sim},
    *,
};
use crate::{
    archive::{
        cipher::SpoolKey,
        disk::read_whole,
        manifest::Manifest,
        signing::{self, Key},
    },
    event::{Event, EventKind, Nanos, Origin, Severity},
};

/// An agent with its spool, and an archive that never fails by itself: the spool is what is tested.
struct World {
    sim: Sim,
    key: Arc<Key>,
    /// Every other world is encrypted.
    spool_key: Option<Arc<SpoolKey>>,
    runs: u64,
    agent: Option<Agent>,
    /// What was acknowledged: run and number.
    acknowledged: Vec<(String, u64)>,
    /// Objects and manifests by number.
    archive: BTreeMap<u64, (Vec<u8>, Vec<u8>)>,
}

struct Agent {
    run: Arc<str>,
    next_seq: u64,
    waiting: Vec<Arc<Event>>,
    writer: Writer,
    sealer: Sealer,
    rolled: std::collections::VecDeque<Rolled>,
    sealed: std::collections::VecDeque<Sealed>,
}

#[derive(Clone, Debug)]
enum Action {
    /// Events come, in this hour.
    Events(u8, u8),
    Commit,
    Roll,
    Seal,
    Upload,
    /// From now on this fails.
    Faulty(u8),
    /// After so many steps the power goes, wherever that is.
    PowerFor(u8),
    Crash,
    /// An end in order.
    Stop,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let one = prop_oneof![
        6 => (1..20_u8, 0..3_u8).prop_map(|(count, hour)| Action::Events(count, hour)),
        6 => Just(Action::Commit),
        2 => Just(Action::Roll),
        4 => Just(Action::Seal),
        4 => Just(Action::Upload),
        2 => (0..4_u8).prop_map(Action::Faulty),
        2 => (0..12_u8).prop_map(Action::PowerFor),
        2 => Just(Action::Crash),
        1 => Just(Action::Stop),
    ];
    prop::collection::vec(one, 1..60)
}

impl World {
    fn new(seed: u64) -> World {
        let mut world = World {
            sim: Sim::new(seed),
            key: Arc::new(Key::from_hex(&"2a".repeat(32)).unwrap()),
            spool_key: (seed % 2 == 1).then(|| Arc::new(SpoolKey::from_hex(&"3b".repeat(32)).unwrap())),
            runs: 0,
            agent: None,
            acknowledged: Vec::new(),
            archive: BTreeMap::new(),
        };
        world.start();
        world
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.sim.clone())
    }

    /// Starts an agent on what is there. It always starts.
    fn start(&mut self) {
        self.runs += 1;
        let run: Arc<str> = format!("{:016x}", self.runs).into();
        let recovered = recover(&self.sim, self.spool_key.as_deref()).expect("it always starts");
        begin_run(&self.sim, &run).expect("nothing is broken now");
        let limits = Limits {
            bytes: 4000,
            age: Duration::from_secs(3600),
        };
        self.agent = Some(Agent {
            run: run.clone(),
            next_seq: 1,
            waiting: Vec::new(),
            writer: Writer::new(self.disk(), run, limits, self.spool_key.clone()),
            sealer: Sealer::new(
                self.disk(),
                self.key.clone(),
                1,
                recovered.head,
                self.spool_key.clone(),
            ),
            rolled: recovered.rolled.into(),
            sealed: recovered.sealed.into(),
        });
    }

    fn crash(&mut self) {
        self.agent = None;
        self.sim.crash();
        self.start();
        self.check();
    }

    fn act(&mut self, action: &Action) {
        let Some(agent) = &mut self.agent else { return };
        match action {
            Action::Events(count, hour) => {
                let origin = Origin::new("host", "boot", &agent.run);
                for _ in 0..*count {
                    let mut event = Event::new(&origin, EventKind::Agent, Severity::Info);
                    event.seq = Some(agent.next_seq);
                    event.ts = Nanos(i64::from(*hour) * 3_600_000_000_000);
                    agent.next_seq += 1;
                    agent.waiting.push(Arc::new(event));
                }
            }
            Action::Commit => {
                let done = agent.writer.commit(&agent.waiting);
                agent.rolled.extend(done.rolled);
                for event in agent.waiting.drain(..done.count) {
                    self.acknowledged
                        .push((agent.run.to_string(), event.seq.unwrap()));
                }
            }
            Action::Roll => agent.rolled.extend(agent.writer.roll()),
            Action::Seal => {
                if let Some(rolled) = agent.rolled.front()
                    && let Ok(seal) = agent.sealer.seal(rolled)
                {
                    assert_eq!(seal.lost, 0);
                    agent.rolled.pop_front();
                    agent.sealed.extend(seal.sealed);
                }
            }
            Action::Upload => {
                if let Some(sealed) = agent.sealed.front()
                    && let Ok(object) = read_whole(&self.sim, &Name::Object(sealed.number).text())
                {
                    assert_eq!(signing::sha256(&object), sealed.manifest.sha256);
                    let bytes = (object, sealed.manifest_bytes.to_vec());
                    let before = self.archive.insert(sealed.number, bytes.clone());
                    assert!(
                        before.is_none_or(|before| before == bytes),
                        "a retry writes the same bytes"
                    );
                    if confirm(&self.sim, sealed.number, false).is_ok() {
                        agent.sealed.pop_front();
                    }
                }
            }
            Action::Faulty(which) => self
                .sim
                .set([Fault::None, Fault::Full, Fault::Sync, Fault::All][usize::from(*which)]),
            Action::PowerFor(steps) => self.sim.power_for(Some(u64::from(*steps))),
            Action::Crash => self.crash(),
            Action::Stop => {
                self.sim.set(Fault::None);
                self.sim.power_for(None);
                self.act(&Action::Commit);
                if let Some(agent) = &mut self.agent {
                    agent.rolled.extend(agent.writer.roll());
                    end_run(&self.sim, &agent.run).unwrap();
                    self.agent = None;
                }
                self.sim.crash();
                let recovered = recover(&self.sim, self.spool_key.as_deref()).unwrap();
                assert!(recovered.gaps.is_empty(), "{:?}", recovered.gaps);
                self.start();
                self.check();
            }
        }
    }

    /// Seals and uploads everything, then compares.
    fn check(&mut self) {
        let mut agent = self.agent.take().unwrap();
        while let Some(rolled) = agent.rolled.pop_front() {
            agent.sealed.extend(agent.sealer.seal(&rolled).unwrap().sealed);
        }
        for sealed in agent.sealed.drain(..) {
            let object = read_whole(&self.sim, &Name::Object(sealed.number).text()).unwrap();
            let bytes = (object, sealed.manifest_bytes.to_vec());
            let before = self.archive.insert(sealed.number, bytes.clone());
            assert!(
                before.is_none_or(|before| before == bytes),
                "a retry writes the same bytes"
            );
            confirm(&self.sim, sealed.number, false).unwrap();
        }
        self.agent = Some(agent);

        let mut found = BTreeMap::new();
        let mut previous = None;
        for (index, (number, (object, manifest))) in self.archive.iter().enumerate() {
            assert_eq!(*number, index as u64, "no holes in the chain");
            let opened: signing::Opened<Manifest> = signing::open(manifest).unwrap();
            assert!(opened.authentic);
            assert_eq!(opened.document.previous, previous);
            assert_eq!(opened.document.chain_start.is_some(), index == 0);
            assert_eq!(signing::sha256(object), opened.document.sha256);
            previous = Some(signing::sha256(manifest));
            let mut content = crate::archive::manifest::Content::default();
            for line in zstd::decode_all(&object[..])
                .unwrap()
                .split_inclusive(|byte| *byte == b'\n')
            {
                let event: Event = serde_json::from_slice(line).unwrap();
                let seq = event.seq.unwrap();
                content.add(&event, seq, line.len());
                *found.entry((event.run.to_string(), seq)).or_insert(0) += 1;
            }
            assert_eq!(
                content, opened.document.content,
                "the manifest says what is there"
            );
        }
        for id in &self.acknowledged {
            assert_eq!(found.get(id), Some(&1), "acknowledged: {id:?}");
        }
        let twice: Vec<_> = found.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "archived twice: {twice:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_acknowledged_survives(seed in any::<u64>(), actions in actions()) {
        let mut world = World::new(seed);
        for action in &actions {
            world.act(action);
        }
        world.crash();
    }
}

/// The power goes at every single step of one life, on several disks.
#[test]
fn the_power_may_go_at_any_step() {
    let life = [
        Action::Events(9, 0),
        Action::Commit,
        Action::Events(9, 1),
        Action::Commit,
        Action::Roll,
        Action::Seal,
        Action::Events(3, 1),
        Action::Upload,
        Action::Commit,
        Action::Roll,
        Action::Seal,
        Action::Upload,
        Action::Seal,
        Action::Upload,
    ];
    let mut whole = World::new(1);
    let begin = whole.sim.steps();
    life.iter().for_each(|action| whole.act(action));
    let steps = whole.sim.steps() - begin;
    assert!(steps > 40, "{steps}");
    for step in 0..=steps {
        for seed in 1..=8 {
            let mut world = World::new(seed * 7919);
            world.sim.power_for(Some(step));
            life.iter().for_each(|action| world.act(action));
            world.crash();
        }
    }
}

/// A disk fails for a while in the middle of a seal, and the power goes in the middle of the next try.
#[test]
fn a_seal_that_failed_may_be_cut_off_when_it_is_tried_again() {
    for (first, second, seed) in
        (0..16).flat_map(|first| (0..16).map(move |rest| (first, rest / 4, rest % 4)))
    {
        let mut world = World::new(1 + u64::from(seed) * 7919);
        for action in [
            Action::Events(9, 0),
            Action::Commit,
            Action::Roll,
            Action::PowerFor(first),
            Action::Seal,
            Action::PowerFor(second),
            Action::Seal,
        ] {
            world.act(&action);
        }
        world.crash();
    }
}
