//! Is the history whole and unchanged? Answered from the archive alone.
//!
//! Every manifest names the hash of the one before and the hash of its object, and is signed. So a changed, missing or
//! moved segment shows, and so does a changed manifest. What cannot show by itself is that the end of a chain was cut
//! off: for that a head hash noted elsewhere is needed. And whoever has the signing key can write another history:
//! against that help a bucket with object lock, and the same note.

use std::{collections::BTreeMap, fmt};

use super::{
    manifest::{Manifest, Tombstone},
    read::{self, Segment, Span},
    signing,
    store::{Store, StoreError},
};

/// What is wrong with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Bytes were changed.
    Flipped,
    /// It is not there.
    Missing,
    /// It stands where another one belongs, or twice.
    Reordered,
    /// It is signed by a key nobody named.
    Foreign,
    /// The chain ends before the head that was noted.
    RolledBack,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Flipped => "flipped",
            Fault::Missing => "missing",
            Fault::Reordered => "reordered",
            Fault::Foreign => "foreign",
            Fault::RolledBack => "rolled back",
        })
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The chain; empty when it cannot be known.
    pub chain_id: String,
    /// Place in the chain.
    pub index: u64,
    /// What it is.
    pub fault: Fault,
    /// Run of the first number concerned; empty when it cannot be known.
    pub run: String,
    /// The first number concerned.
    pub seq: Option<u64>,
    /// One sentence.
    pub detail: String,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its id.
    pub id: String,
    /// Host of its last segment.
    pub host: String,
    /// Why it began; `None`: its begin was not looked at.
    pub start: Option<String>,
    /// Place of the first segment looked at.
    pub first: u64,
    /// Place of the last one.
    pub last: u64,
    /// SHA-256 of the last manifest.
    pub head: String,
    /// Events in its objects.
    pub events: u64,
    /// Segments that were given up, with a tombstone that says so.
    pub dropped: u64,
    /// Keys it is signed with, in order.
    pub keys: Vec<String>,
    /// Whether a noted head is in it.
    pub witnessed: bool,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Chains, by id.
    pub chains: Vec<Chain>,
    /// What is wrong, in order of chain and place.
    pub findings: Vec<Finding>,
    /// Objects without a manifest: being uploaded, or left by an upload that was cut off.
    pub uncommitted: u64,
}

/// What is known from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Head hashes that were noted.
    pub heads: Vec<String>,
    /// Public keys that may sign; none: any.
    pub keys: Vec<String>,
}

/// Verifies everything whose partition meets the span. `seen` is told how many steps there are, and is called for each.
pub async fn verify(
    store: &Store,
    span: &Span,
    trust: &Trust,
    mut seen: impl FnMut(u64),
) -> Result<Verdict, StoreError> {
    let entries = read::entries(store, span).await?;
    let steps = entries.len() as u64;
    let mut verdict = Verdict {
        uncommitted: entries
            .iter()
            .filter(|entry| !entry.manifest && entry.object.is_some())
            .count() as u64,
        ..Verdict::default()
    };
    let segments = read::manifests(store, entries, || {}).await?;
    let mut chains: BTreeMap<String, Vec<(Manifest, Segment)>> = BTreeMap::new();
    for segment in segments {
        match &segment.manifest {
            Ok(opened) => {
                let manifest = opened.document.clone();
                let chain = chains.entry(manifest.chain_id.clone()).or_default();
                chain.push((manifest, segment));
            }
            Err(error) => verdict.findings.push(Finding {
                chain_id: String::new(),
                index: 0,
                fault: Fault::Flipped,
                run: String::new(),
                seq: None,
                detail: format!("{} is no manifest: {error}", segment.entry.manifest_key()),
            }),
        }
    }
    let mut heads = trust.heads.clone();
    for (id, mut chain) in chains {
        // Equal places are a fault; to have them beside each other finds it.
        chain.sort_by_key(|(manifest, _)| manifest.index);
        let mut check = Check {
            store,
            whole: span.since.is_none(),
            trust,
            findings: &mut verdict.findings,
            object_hashes: chain.iter().map(|(m, _)| (m.sha256.clone(), m.index)).collect(),
        };
        let mut found = check.chain(id, &chain, || seen(steps)).await?;
        let hashes: Vec<&str> = chain.iter().map(|(_, segment)| segment.hash.as_str()).collect();
        heads.retain(|head| {
            let here = hashes.contains(&head.as_str());
            found.witnessed |= here;
            !here
        });
        verdict.chains.push(found);
    }
    for head in heads {
        let last = verdict.chains.first().filter(|_| verdict.chains.len() == 1);
        verdict.findings.push(Finding {
            chain_id: last.map_or_else(String::new, |chain| chain.id.clone()),
            index: last.map_or(0, |chain| chain.last + 1),
            fault: Fault::RolledBack,
            run: String::new(),
            seq: None,
            detail: format!(
                "no manifest has the noted head {head}: what it stood for, and all after it, is gone"
            ),
        });
    }
    Ok(verdict)
}

struct Check<'a> {
    store: &'a Store,
    /// Chains are looked at from their begin.
    whole: bool,
    trust: &'a Trust,
    findings: &'a mut Vec<Finding>,
    object_hashes: BTreeMap<String, u64>,
}

impl Check<'_> {
    async fn chain(
        &mut self,
        id: String,
        segments: &[(Manifest, Segment)],
        mut seen: impl FnMut(),
    ) -> Result<Chain, StoreError> {
        let mut chain = Chain {
            id,
            host: String::new(),
            start: None,
            first: segments.first().map_or(0, |(manifest, _)| manifest.index),
            last: 0,
            head: String::new(),
            events: 0,
            dropped: 0,
            keys: Vec::new(),
            witnessed: false,
        };
        let mut before: Option<&(Manifest, Segment)> = None;
        for pair in segments {
            let (manifest, segment) = pair;
            self.manifest(manifest, segment, before);
            self.object(manifest, segment, &mut chain).await?;
            if let Ok(opened) = &segment.manifest
                && chain.keys.last() != Some(&opened.public_key)
            {
                chain.keys.push(opened.public_key.clone());
            }
            if manifest.chain_start.is_some() {
                chain.start.clone_from(&manifest.chain_start);
            }
            chain.host = manifest.content.host.to_string();
            chain.last = manifest.index;
            chain.head.clone_from(&segment.hash);
            before = Some(pair);
            seen();
        }
        Ok(chain)
    }

    fn find(&mut self, manifest: &Manifest, fault: Fault, seq: Option<u64>, detail: String) {
        self.findings.push(Finding {
            chain_id: manifest.chain_id.clone(),
            index: manifest.index,
            fault,
            run: manifest.content.run.to_string(),
            seq,
            detail,
        });
    }

    /// The manifest by itself, and its link to the one before.
    fn manifest(&mut self, manifest: &Manifest, segment: &Segment, before: Option<&(Manifest, Segment)>) {
        let key = segment.entry.manifest_key();
        let first = Some(manifest.content.first_seq);
        if let Ok(opened) = &segment.manifest {
            if !opened.authentic {
                let detail = format!("{key} does not have the signature it shows");
                return self.find(manifest, Fault::Flipped, first, detail);
            }
            if !self.trust.keys.is_empty() && !self.trust.keys.contains(&opened.public_key) {
                let detail = format!("{key} is signed by {}, which is not trusted", opened.public_key);
                return self.find(manifest, Fault::Foreign, first, detail);
            }
        }
        if manifest.key != segment.entry.object_key() {
            let detail = format!("{key} belongs to {}", manifest.key);
            return self.find(manifest, Fault::Reordered, first, detail);
        }
        let Some((previous, previous_segment)) = before else {
            if self.whole && manifest.chain_start.is_none() {
                let detail = format!(
                    "the chain begins at {}, with {key}: what was before is gone",
                    manifest.index
                );
                self.find(manifest, Fault::Missing, None, detail);
            }
            return;
        };
        if manifest.index == previous.index {
            let detail = format!("{key} has the place of {}", previous.key);
            return self.find(manifest, Fault::Reordered, first, detail);
        }
        if manifest.index > previous.index + 1 {
            let (from, to) = (previous.index + 1, manifest.index - 1);
            let next =
                (previous.content.run == manifest.content.run).then_some(previous.content.last_seq + 1);
            let detail = format!("manifests {from} to {to} are missing, after {}", previous.key);
            return self.find(manifest, Fault::Missing, next, detail);
        }
        if manifest.previous.as_deref() != Some(&previous_segment.hash) {
            let detail = format!(
                "{} is not what {key} was chained to",
                previous_segment.entry.manifest_key()
            );
            return self.find(previous, Fault::Flipped, Some(previous.content.first_seq), detail);
        }
        if manifest.content.run == previous.content.run
            && manifest.content.first_seq <= previous.content.last_seq
        {
            let detail = format!("{key} begins before {} ends", previous.key);
            self.find(manifest, Fault::Reordered, first, detail);
        }
    }

    /// The object, or the tombstone that stands for it.
    async fn object(
        &mut self,
        manifest: &Manifest,
        segment: &Segment,
        chain: &mut Chain,
    ) -> Result<(), StoreError> {
        let first = Some(manifest.content.first_seq);
        let Some(object) = self.store.get(&segment.entry.object_key()).await? else {
            if self.declared(manifest, segment).await? {
                chain.dropped += 1;
            } else {
                let detail = format!("{} is missing, and no tombstone says why", manifest.key);
                self.find(manifest, Fault::Missing, first, detail);
            }
            return Ok(());
        };
        let found = signing::sha256(&object);
        if found == manifest.sha256 {
            chain.events += manifest.content.events;
        } else if let Some(other) = self.object_hashes.get(&found).copied() {
            let detail = format!("{} has the bytes of segment {other}", manifest.key);
            self.find(manifest, Fault::Reordered, first, detail);
        } else {
            let detail = format!(
                "{} has SHA-256 {found} instead of {}",
                manifest.key, manifest.sha256
            );
            self.find(manifest, Fault::Flipped, first, detail);
        }
        Ok(())
    }

    /// Whether a tombstone declares that a segment was given up.
    async fn declared(&self, manifest: &Manifest, segment: &Segment) -> Result<bool, StoreError> {
        let Some(bytes) = self.store.get(&segment.entry.tombstone_key()).await? else {
            return Ok(false);
        };
        let trusted = |key: &String| self.trust.keys.is_empty() || self.trust.keys.contains(key);
        Ok(signing::open::<Tombstone>(&bytes).is_ok_and(|opened| {
            opened.authentic
                && trusted(&opened.public_key)
                && opened.document.manifest_sha256 == segment.hash
                && opened.document.index == manifest.index
        }))
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
