//! From the running kernel's BTF to the `OFFSETS` array of the programs.

use netprobe_common::{OFFSET_ABSENT, OFFSET_COUNT, OFFSET_PATHS};

use super::btf::{Btf, BtfError};

/// Offsets of this kernel, and what it does not have.
#[derive(Debug)]
pub struct Offsets {
    /// Value of the programs' `OFFSETS`.
    pub table: [u32; OFFSET_COUNT],
    /// Index and reason of every absent member.
    pub absent: Vec<(usize, BtfError)>,
}

impl Offsets {
    /// Looks up every member of `OFFSET_PATHS`.
    pub fn resolve(btf: &Btf) -> Offsets {
        let mut offsets = Offsets {
            table: [OFFSET_ABSENT; OFFSET_COUNT],
            absent: Vec::new(),
        };
        for (index, path) in OFFSET_PATHS.iter().enumerate() {
            match btf.offset(path) {
                Ok(offset) => offsets.table[index] = offset,
                Err(error) => offsets.absent.push((index, error)),
            }
        }
        offsets
    }

    /// Why one of `members` is not there, if so.
    pub fn missing(&self, members: &[usize]) -> Option<&BtfError> {
        self.absent
            .iter()
            .find(|(index, _)| members.contains(index))
            .map(|(_, error)| error)
    }
}
