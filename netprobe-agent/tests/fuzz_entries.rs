//! The fuzz targets' entry points on random bytes and on changed seeds, where there is no libFuzzer.

use std::{fs, path::Path};

use proptest::{collection::vec, prelude::*, sample::Index, test_runner::TestRunner};

#[path = "../../tests/fuzz/entries.rs"]
mod entries;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures")
        .join(target);
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("a folder of seeds")
        .map(|f| f.expect("a seed").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has seeds");
    files
        .into_iter()
        .map(|file| fs::read(file).expect("a seed"))
        .collect()
}

/// A place and the byte to put there.
type Change = (Index, u8);

fn check(target: &str, entry: fn(&[u8]) -> bool) {
    let seeds = seeds(target);
    for seed in &seeds {
        assert!(entry(seed), "a seed of {target} is refused: {seed:?}");
        for end in 0..seed.len() {
            entry(&seed[..end]);
        }
    }
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 2000,
        ..ProptestConfig::default()
    });
    runner
        .run(&vec(any::<u8>(), 0..600), |bytes| {
            entry(&bytes);
            Ok(())
        })
        .expect("random bytes");
    let changes = vec((any::<Index>(), any::<u8>()), 1..10);
    let changed = (any::<Index>(), changes, any::<Option<Index>>());
    runner
        .run(
            &changed,
            |(seed, changes, cut): (Index, Vec<Change>, Option<Index>)| {
                let mut bytes = seed.get(&seeds).clone();
                for (at, value) in changes {
                    let at = at.index(bytes.len());
                    bytes[at] = value;
                }
                if let Some(cut) = cut {
                    bytes.truncate(cut.index(bytes.len()));
                }
                entry(&bytes);
                Ok(())
            },
        )
        .expect("a changed seed");
}

#[test]
fn btf() {
    check("btf", entries::btf);
}

#[test]
fn record() {
    check("record", entries::record);
}

#[test]
fn filter() {
    check("filter", entries::filter);
}

#[test]
fn conntrack() {
    check("conntrack", entries::conntrack);
}

#[test]
fn sock_diag() {
    check("sock_diag", entries::sock_diag);
}

#[test]
fn http1() {
    check("http1", entries::http1);
}

#[test]
fn dns() {
    check("dns", entries::dns);
}

#[test]
fn hello() {
    check("hello", entries::hello);
}

#[test]
fn route() {
    check("route", entries::route);
}
