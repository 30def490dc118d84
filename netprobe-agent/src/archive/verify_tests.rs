//! A history is changed in every way one can think of, and verified.

use std::sync::Arc;

use bytes::Bytes;
use object_store::{ObjectStoreExt, memory::InMemory, path::Path};
use tokio::runtime::Runtime;

use super::*;
use crate::{
    archive::{
        layout,
        manifest::{self, Content},
        page,
        restore::restore,
        signing::Key,
    },
    event::{Nanos, fixture},
    filter::Filter,
};

struct World {
    runtime: Runtime,
    memory: Arc<InMemory>,
    store: Store,
    stems: Vec<String>,
    head: String,
    key: Key,
}

fn world(key: &str) -> World {
    let memory = Arc::new(InMemory::new());
    let mut world = World {
        runtime: tokio::runtime::Builder::new_current_thread().build().unwrap(),
        store: Store::over(memory.clone(), true),
        memory,
        stems: Vec::new(),
        head: String::new(),
        key: Key::from_hex(&key.repeat(32)).unwrap(),
    };
    let mut previous = None;
    for index in 0..4_u64 {
        let (mut content, mut lines) = (Content::default(), Vec::new());
        for seq in index * 10 + 1..=index * 10 + 10 {
            let mut event = fixture::flow();
            event.seq = Some(seq);
            event.ts = Nanos(event.ts.0 + index as i64 * 3_600_000_000_000);
            event.service = Some(if seq == 15 { "rare" } else { "curl" }.into());
            let begin = lines.len();
            event.write_line(&mut lines).unwrap();
            content.add(&event, seq, lines.len() - begin);
        }
        let object = zstd::encode_all(&lines[..], 1).unwrap();
        let manifest = Manifest {
            schema: manifest::SCHEMA.to_owned(),
            chain_id: "c1".to_owned(),
            index,
            previous: previous.clone(),
            chain_start: (index == 0).then(|| "a test".to_owned()),
            key: content.key(),
            sha256: signing::sha256(&object),
            bytes: object.len() as u64,
            sealed_at: Nanos(0),
            content,
        };
        let bytes = world.key.sign(&manifest).unwrap();
        world.head = signing::sha256(&bytes);
        previous = Some(world.head.clone());
        let stem = layout::stem(&manifest.key).to_owned();
        world.put(&format!("{stem}{}", layout::OBJECT), object);
        world.put(&format!("{stem}{}", layout::MANIFEST), bytes);
        world.stems.push(stem);
    }
    world
}

impl World {
    fn put(&self, key: &str, bytes: Vec<u8>) {
        let path = Path::from(key);
        let put = self.memory.put(&path, Bytes::from(bytes).into());
        self.runtime.block_on(put).unwrap();
    }

    fn get(&self, key: &str) -> Vec<u8> {
        self.runtime
            .block_on(self.store.get(key))
            .unwrap()
            .unwrap()
            .to_vec()
    }

    fn delete(&self, key: &str) {
        self.runtime
            .block_on(self.memory.delete(&Path::from(key)))
            .unwrap();
    }

    fn object(&self, index: usize) -> String {
        format!("{}{}", self.stems[index], layout::OBJECT)
    }

    fn manifest(&self, index: usize) -> String {
        format!("{}{}", self.stems[index], layout::MANIFEST)
    }

    fn verify(&self, trust: &Trust) -> Verdict {
        let everything = Span::default();
        let verdict = verify(&self.store, &everything, trust, |_| {});
        self.runtime.block_on(verdict).unwrap()
    }

    /// Fault, place and number of what is found.
    fn faults(&self) -> Vec<(Fault, u64, Option<u64>)> {
        let findings = self.verify(&Trust::default()).findings;
        findings
            .iter()
            .map(|found| (found.fault, found.index, found.seq))
            .collect()
    }
}

#[test]
fn an_untouched_history_verifies() {
    let world = world("01");
    let verdict = world.verify(&Trust {
        heads: vec![world.head.clone()],
        keys: vec![world.key.public.clone()],
    });
    assert_eq!(verdict.findings, []);
    let chain = &verdict.chains[0];
    assert_eq!((chain.events, chain.last, chain.witnessed), (40, 3, true));
    assert_eq!(chain.head, world.head);
    assert!(!world.verify(&Trust::default()).chains[0].witnessed);
}

#[test]
fn every_change_is_found_and_named() {
    let flip = |world: &World, key: &str| {
        let mut bytes = world.get(key);
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        world.put(key, bytes);
    };
    let changed = world("01");
    flip(&changed, &changed.object(1));
    assert_eq!(changed.faults(), [(Fault::Flipped, 1, Some(11))]);

    let missing = world("01");
    missing.delete(&missing.object(2));
    assert_eq!(missing.faults(), [(Fault::Missing, 2, Some(21))]);

    let cut_out = world("01");
    cut_out.delete(&cut_out.object(1));
    cut_out.delete(&cut_out.manifest(1));
    assert_eq!(cut_out.faults(), [(Fault::Missing, 2, Some(11))]);

    let beheaded = world("01");
    beheaded.delete(&beheaded.object(0));
    beheaded.delete(&beheaded.manifest(0));
    assert_eq!(beheaded.faults(), [(Fault::Missing, 1, None)]);

    let swapped = world("01");
    let (one, other) = (swapped.get(&swapped.object(1)), swapped.get(&swapped.object(2)));
    swapped.put(&swapped.object(1), other);
    swapped.put(&swapped.object(2), one);
    assert_eq!(
        swapped.faults(),
        [(Fault::Reordered, 1, Some(11)), (Fault::Reordered, 2, Some(21))]
    );

    let moved = world("01");
    let manifest = moved.get(&moved.manifest(1));
    moved.put(&moved.manifest(2), manifest);
    assert_eq!(moved.faults()[0].0, Fault::Reordered);
}

#[test]
fn a_forged_manifest_is_found() {
    // The right shape and a right signature, of another key, in the place of the right one.
    let (real, forged) = (world("01"), world("02"));
    real.put(&real.manifest(1), forged.get(&forged.manifest(1)));
    assert!(
        real.faults().contains(&(Fault::Flipped, 1, Some(11))),
        "{:?}",
        real.faults()
    );
    let trusted = Trust {
        keys: vec![real.key.public.clone()],
        ..Trust::default()
    };
    assert_eq!(real.verify(&trusted).findings[0].fault, Fault::Foreign);
    // A whole history of another key is whole: only a key named from elsewhere tells.
    assert_eq!(forged.faults(), []);
    assert_eq!(forged.verify(&trusted).findings.len(), 4);

    let edited = world("01");
    let text = String::from_utf8(edited.get(&edited.manifest(3))).unwrap();
    edited.put(
        &edited.manifest(3),
        text.replace("\"curl\":10", "\"curl\":11").into_bytes(),
    );
    assert_eq!(edited.faults(), [(Fault::Flipped, 3, Some(31))]);
}

#[test]
fn a_cut_tail_needs_a_witness() {
    let world = world("01");
    world.delete(&world.object(3));
    world.delete(&world.manifest(3));
    assert_eq!(world.faults(), []);
    let witness = Trust {
        heads: vec![world.head.clone()],
        ..Trust::default()
    };
    let findings = world.verify(&witness).findings;
    assert_eq!((findings[0].fault, findings[0].index), (Fault::RolledBack, 3));
}

#[test]
fn a_tombstone_declares_a_missing_object() {
    let world = world("01");
    let manifest = world.get(&world.manifest(2));
    let mut tombstone = Tombstone {
        schema: manifest::TOMBSTONE_SCHEMA.to_owned(),
        chain_id: "c1".to_owned(),
        index: 2,
        key: world.object(2),
        manifest_sha256: signing::sha256(&manifest),
        events: 10,
        reason: "expired".to_owned(),
        at: Nanos(0),
    };
    world.delete(&world.object(2));
    let key = format!("{}{}", world.stems[2], layout::TOMBSTONE);
    world.put(&key, world.key.sign(&tombstone).unwrap());
    let verdict = world.verify(&Trust::default());
    assert_eq!(verdict.findings, []);
    assert_eq!((verdict.chains[0].dropped, verdict.chains[0].events), (1, 30));
    tombstone.manifest_sha256 = "another".to_owned();
    world.put(&key, world.key.sign(&tombstone).unwrap());
    assert_eq!(world.faults(), [(Fault::Missing, 2, Some(21))]);
}

#[test]
fn a_part_of_the_history_can_be_verified_alone() {
    let world = world("01");
    let ts = fixture::flow().ts;
    let span = Span {
        since: Some(Nanos(ts.0 + 3_600_000_000_000)),
        until: Some(Nanos(ts.0 + 2 * 3_600_000_000_000)),
    };
    let verdict = world
        .runtime
        .block_on(verify(&world.store, &span, &Trust::default(), |_| {}))
        .unwrap();
    assert_eq!(verdict.findings, []);
    assert_eq!((verdict.chains[0].first, verdict.chains[0].last), (1, 2));
}

#[test]
fn a_backup_restores_and_refuses_what_is_damaged() {
    let (backup, lost) = (world("01"), world("01"));
    for index in 0..4 {
        lost.delete(&lost.object(index));
        lost.delete(&lost.manifest(index));
    }
    let mut bytes = backup.get(&backup.object(3));
    bytes[9] ^= 1;
    backup.put(&backup.object(3), bytes);
    let restored = backup
        .runtime
        .block_on(restore(&backup.store, &lost.store, &Span::default(), |_| {}))
        .unwrap();
    assert_eq!((restored.segments, restored.events), (3, 30));
    assert_eq!(restored.refused.len(), 1);
    assert_eq!(lost.faults(), []);
    assert_eq!(lost.verify(&Trust::default()).chains[0].events, 30);
}

#[test]
fn pages_are_the_whole_without_overlap() {
    let world = world("01");
    let mut question = page::Question {
        span: Span::default(),
        filter: Filter::default(),
        after: None,
        limit: 7,
        patience: std::time::Duration::from_secs(60),
    };
    let ask = |question: &page::Question| {
        world
            .runtime
            .block_on(page::page(&world.store, question))
            .unwrap()
    };
    let mut seen = Vec::new();
    loop {
        let page = ask(&question);
        seen.extend(page.events.iter().map(|event| event.seq.unwrap()));
        question.after = page.next;
        if question.after.is_none() {
            break;
        }
    }
    assert_eq!(seen, (1..=40).collect::<Vec<_>>());
    // Out of patience after each segment: the pages are shorter, and still the whole.
    question.patience = std::time::Duration::ZERO;
    question.limit = 1000;
    let first = ask(&question);
    assert_eq!(first.events.len(), 10);
    question.after = first.next;
    assert_eq!(ask(&question).events[0].seq, Some(11));
    question.after = None;
    question.filter = Filter::parse("service==rare").unwrap();
    question.patience = std::time::Duration::from_secs(60);
    assert_eq!(ask(&question).events.len(), 1);
}

#[test]
fn manifests_tell_where_not_to_look() {
    let world = world("01");
    let looked = |filter: &str| {
        let filter = Filter::parse(filter).unwrap();
        let segments = world.runtime.block_on(async {
            let entries = read::entries(&world.store, &Span::default()).await.unwrap();
            read::manifests(&world.store, entries, || {}).await.unwrap()
        });
        let held = segments.iter().filter(|segment| {
            read::may_hold(
                &segment.manifest.as_ref().unwrap().document,
                &Span::default(),
                &filter,
            )
        });
        held.count()
    };
    assert_eq!(looked(""), 4);
    assert_eq!(looked("service==rare"), 1);
    assert_eq!(looked("service==curl,kind==flow"), 4);
    assert_eq!(looked("service==curl,kind==request"), 0);
    assert_eq!(looked("service!=curl"), 4);
}
