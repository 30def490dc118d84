//! A history copied from one archive into another: into a backup, and back. Every object is held against its manifest on
//! the way, and a manifest against its signature: damage is not copied.

use super::{
    read::{self, Span},
    signing::Opened,
    store::{Store, StoreError},
};

/// What a restore came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Segments that are there now.
    pub segments: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes of their objects.
    pub bytes: u64,
    /// What was not copied, because it is damaged, and why.
    pub refused: Vec<String>,
}

/// Copies what one archive has and another has not.
pub async fn restore(
    from: &Store,
    to: &Store,
    span: &Span,
    mut seen: impl FnMut(u64),
) -> Result<Restored, StoreError> {
    let entries = read::entries(from, span).await?;
    let steps = entries.len() as u64;
    let mut restored = Restored::default();
    for segment in read::manifests(from, entries, || {}).await? {
        let Ok(Opened {
            document: manifest,
            authentic: true,
            ..
        }) = &segment.manifest
        else {
            restored.refused.push(segment.entry.manifest_key());
            seen(steps);
            continue;
        };
        match read::object(from, &segment, &manifest.sha256).await {
            Ok(object) => {
                restored.bytes += object.len() as u64;
                to.put(&segment.entry.object_key(), object).await?;
            }
            Err(read::SegmentError::Store(error)) => return Err(error),
            Err(read::SegmentError::Missing) if segment.entry.tombstone => {}
            Err(error) => {
                restored.refused.push(format!("{}: {error}", manifest.key));
                seen(steps);
                continue;
            }
        }
        for key in [segment.entry.tombstone_key(), segment.entry.manifest_key()] {
            if let Some(bytes) = from.get(&key).await? {
                to.put(&key, bytes).await?;
            }
        }
        restored.segments += 1;
        restored.events += manifest.content.events;
        seen(steps);
    }
    Ok(restored)
}
