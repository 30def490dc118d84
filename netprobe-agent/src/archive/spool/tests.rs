//! What is found at a start that no crash explains: damage, strangers, other versions.

use std::{sync::Arc, time::Duration};

use super::{sim_tests::Sim, *};
use crate::{
    archive::{cipher::SpoolKey, signing::Key},
    event::{Event, Origin, fixture},
};

const RUN: &str = "00f1e2d3c4b5a697";

fn key() -> Arc<Key> {
    Arc::new(Key::from_hex(&"2a".repeat(32)).unwrap())
}

/// Writes events 1 to `count` into one open segment; its name.
fn written(sim: &Sim, count: u64) -> String {
    let limits = Limits {
        bytes: u64::MAX,
        age: Duration::MAX,
    };
    let mut writer = Writer::new(Arc::new(sim.clone()), RUN.into(), limits, None);
    let events: Vec<_> = (1..=count).map(event).collect();
    let done = writer.commit(&events);
    assert_eq!(done.count as u64, count);
    writer.roll().unwrap().name
}

fn event(seq: u64) -> Arc<Event> {
    let mut event = fixture::flow();
    event.seq = Some(seq);
    Arc::new(event)
}

fn sealer(sim: &Sim, recovered: &Recovered) -> Sealer {
    Sealer::new(Arc::new(sim.clone()), key(), 3, recovered.head.clone(), None)
}

fn reasons(recovered: &Recovered) -> Vec<String> {
    let gaps = recovered.gaps.iter();
    gaps.map(|gap| format!("{}:{}", gap.stage, gap.reason)).collect()
}

#[test]
fn an_empty_folder_begins_a_chain_that_says_why() {
    let recovered = recover(&Sim::new(1), None).unwrap();
    assert_eq!((recovered.head.next, &recovered.head.hash), (0, &None));
    assert!(recovered.head.start.unwrap().contains("no chain"));
    assert!(recovered.gaps.is_empty());
}

#[test]
fn a_flipped_bit_costs_what_comes_after_it_and_is_told() {
    let sim = Sim::new(1);
    let name = written(&sim, 10);
    let len = sim.bytes(&name).unwrap().len();
    sim.flip(&name, len / 2);
    let recovered = recover(&sim, None).unwrap();
    assert_eq!(reasons(&recovered), ["spool:corrupt"]);
    assert_eq!(recovered.quarantined, 1);
    assert_eq!(sim.bytes(&format!("{name}.quarantined")).unwrap().len(), len);
    let seal = sealer(&sim, &recovered).seal(&recovered.rolled[0]).unwrap();
    let content = seal.sealed.unwrap().manifest.content;
    assert_eq!((content.first_seq, content.last_seq), (1, 4));
    // A second start finds nothing wrong.
    assert_eq!(reasons(&recover(&sim, None).unwrap()), [""; 0]);
}

#[test]
fn strangers_and_rubbish_do_not_keep_it_from_starting() {
    let sim = Sim::new(1);
    let good = written(&sim, 3);
    sim.put("notes.txt", b"mine");
    sim.put(&Name::Open("a".into(), 1).text(), b"rubbish, longer than a head");
    sim.put(&Name::Open("b".into(), 1).text(), b"npspool9 of a later version");
    sim.put(&Name::Open("c".into(), 1).text(), b"");
    sim.put(&Name::Manifest(3).text(), b"{}");
    sim.put(&Name::Object(2).text(), b"no manifest");
    sim.put("x.manifest.json.tmp", b"draft");
    sim.put("ffff.run", b"");
    let recovered = recover(&sim, None).unwrap();
    assert_eq!(recovered.rolled.len(), 1);
    assert_eq!(recovered.rolled[0].name, good);
    let mut told = reasons(&recovered);
    told.sort();
    assert_eq!(
        told,
        [
            "agent:unclean_stop",
            "spool:corrupt",
            "spool:corrupt",
            "spool:manifest_unreadable"
        ]
    );
    assert_eq!(recovered.quarantined, 4);
    assert_eq!(recovered.head.next, 4);
    assert!(recovered.head.start.unwrap().contains("manifest 3"));
    assert_eq!(sim.bytes("notes.txt").unwrap(), b"mine");
    assert!(!sim.names().iter().any(|name| name.ends_with(".tmp")));
    let again = recover(&sim, None).unwrap();
    assert_eq!((again.gaps.len(), again.quarantined), (0, 0));
}

#[test]
fn damage_found_while_sealing_costs_the_rest_and_is_counted() {
    let sim = Sim::new(1);
    let name = written(&sim, 10);
    let mut recovered = recover(&sim, None).unwrap();
    recovered.rolled[0].content = Some({
        let mut content = crate::archive::manifest::Content::default();
        (1..=10).for_each(|seq| content.add(&event(seq), seq, 1));
        content
    });
    let len = sim.bytes(&name).unwrap().len();
    sim.flip(&name, len - 1);
    let mut sealer = sealer(&sim, &recovered);
    let seal = sealer.seal(&recovered.rolled[0]).unwrap();
    assert_eq!(seal.lost, 1);
    let sealed = seal.sealed.unwrap();
    assert_eq!(sealed.manifest.content.events, 9);
    let object = sim.bytes(&Name::Object(0).text()).unwrap();
    assert_eq!(
        zstd::decode_all(&object[..])
            .unwrap()
            .iter()
            .filter(|b| **b == b'\n')
            .count(),
        9
    );
    assert!(sim.names().contains(&format!("{name}.quarantined")));
}

#[test]
fn a_wrong_key_costs_nothing_but_a_word() {
    let key = |digits: &str| Arc::new(SpoolKey::from_hex(&digits.repeat(32)).unwrap());
    let sim = Sim::new(1);
    let limits = Limits {
        bytes: u64::MAX,
        age: Duration::MAX,
    };
    let right = key("07");
    let mut writer = Writer::new(Arc::new(sim.clone()), RUN.into(), limits, Some(right.clone()));
    assert_eq!(writer.commit(&[event(1), event(2)]).count, 2);
    let name = writer.roll().unwrap().name;
    let bytes = sim.bytes(&name).unwrap();
    assert!(!bytes.windows(4).any(|window| window == b"flow"));
    let aside = format!("{name}.quarantined");
    for wrong in [None, Some(&*key("08"))] {
        let recovered = recover(&sim, wrong).unwrap();
        assert_eq!(reasons(&recovered), ["spool:locked"]);
        assert!(recovered.rolled.is_empty());
        assert_eq!(reasons(&recover(&sim, wrong).unwrap()), [""; 0], "told once");
        // With its old name it is there again for who has the key.
        assert_eq!(sim.bytes(&aside).unwrap(), bytes);
        sim.rename(&aside, &name).unwrap();
    }
    let recovered = recover(&sim, Some(&right)).unwrap();
    assert!(recovered.gaps.is_empty());
    let mut sealer = Sealer::new(
        Arc::new(sim.clone()),
        self::key(),
        3,
        recovered.head.clone(),
        Some(right),
    );
    let sealed = sealer.seal(&recovered.rolled[0]).unwrap().sealed.unwrap();
    assert_eq!(sealed.manifest.content.events, 2);
}

#[test]
fn files_under_each_others_names_are_not_believed() {
    let sim = Sim::new(1);
    let limits = Limits {
        bytes: u64::MAX,
        age: Duration::MAX,
    };
    let mut writer = Writer::new(Arc::new(sim.clone()), RUN.into(), limits, None);
    let mut sealer = sealer(&sim, &recover(&sim, None).unwrap());
    for seq in [1, 3] {
        writer.commit(&[event(seq), event(seq + 1)]);
        sealer.seal(&writer.roll().unwrap()).unwrap();
    }
    let [zero, one] = [0, 1].map(|number| Name::Manifest(number).text());
    for (from, to) in [(&*zero, "aside"), (&*one, &*zero), ("aside", &*one)] {
        sim.rename(from, to).unwrap();
    }
    let recovered = recover(&sim, None).unwrap();
    assert_eq!(reasons(&recovered), ["spool:manifest_unreadable"; 2]);
    assert!(recovered.sealed.is_empty());
    assert_eq!((recovered.quarantined, recovered.head.next), (4, 2));
    // Manifests and objects are kept, also when nothing was sealed before the next start.
    let kept = |sim: &Sim| {
        sim.names()
            .iter()
            .filter(|name| name.ends_with(".quarantined"))
            .count()
    };
    recover(&sim, None).unwrap();
    assert_eq!(kept(&sim), 4);
}

#[test]
fn the_head_outlives_its_segment() {
    let sim = Sim::new(1);
    written(&sim, 2);
    let recovered = recover(&sim, None).unwrap();
    let mut sealer = sealer(&sim, &recovered);
    sealer.seal(&recovered.rolled[0]).unwrap();
    let head = sealer.head.clone();
    confirm(&sim, 0, false).unwrap();
    assert_eq!(sim.names(), [Name::Done(0).text()]);
    let again = recover(&sim, None).unwrap();
    assert_eq!(again.head, head);
    assert!(again.sealed.is_empty());
    assert_eq!(Origin::new("h", "b", RUN).run.as_ref(), RUN);
}
