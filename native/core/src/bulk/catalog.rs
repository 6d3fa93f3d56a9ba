//! The packs that runs list, each once and under a number, whichever runs list it.

use hashbrown::{HashMap, HashSet};

use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::PackKind;
use crate::format::run::PackRecord;
use crate::index::{PackName, pack_key};
use crate::scope::Scope;

/// Memory that a pack takes besides its envelopes, in bytes: here, in the table of names with its slack,
/// and in what the verbs count for it.
const PACK_COST: u64 = 160;

/// One pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pack {
    pub(super) name: PackName,
    pub(super) kind: PackKind,
    pub(super) object_bytes: u32,
    /// A run that shall be spared lists it.
    pub(super) is_spared: bool,
    /// Where its envelope section lies among those that are held, and its length; 0 before it is known.
    section: (usize, u32),
}

/// All packs that count.
pub(super) struct Catalog {
    packs: Vec<Pack>,
    numbers: HashMap<PackName, u32>,
    left_out: HashSet<PackName>,
    sections: Vec<u8>,
    memory_bytes: u64,
}

impl Catalog {
    /// None yet. Packs in `left_out` will not be listed; the others may take `memory_bytes`.
    pub(super) fn new(left_out: HashSet<PackName>, memory_bytes: u64) -> Self {
        let (packs, numbers, sections) = (Vec::new(), HashMap::new(), Vec::new());
        Self { packs, numbers, left_out, sections, memory_bytes }
    }

    /// The number of a pack that a run lists; none if it is left out. `Damaged` where an earlier run says
    /// otherwise about it: one of the two is wrong, and what follows from either might be.
    pub(super) fn note(&mut self, record: &PackRecord, is_spared: bool) -> Result<Option<u32>> {
        if self.left_out.contains(&record.name) {
            return Ok(None);
        }
        if let Some(number) = self.numbers.get(&record.name) {
            let known = self.packs.get_mut(*number as usize);
            let known = known.ok_or_else(|| Error::internal("a pack without a record"))?;
            if (known.kind, known.object_bytes) != (record.kind, record.object_bytes) {
                return Err(Error::damaged(
                    "two index runs disagree about the kind or size of a pack",
                ));
            }
            known.is_spared |= is_spared;
            return Ok(Some(*number));
        }
        let number = u32::try_from(self.packs.len()).ok().filter(|number| *number < u32::MAX);
        let number = number.ok_or_else(|| Error::damaged("index runs of too many packs"))?;
        let PackRecord { name, kind, object_bytes, .. } = *record;
        self.packs.push(Pack { name, kind, object_bytes, is_spared, section: (0, 0) });
        self.numbers.insert(name, number);
        self.check_memory()?;
        Ok(Some(number))
    }

    /// Notes everything that another catalog holds. `Damaged` where the two disagree.
    pub(super) fn take_in(&mut self, other: &Self) -> Result<()> {
        for (pack, number) in other.packs.iter().zip(0_u32..) {
            let Pack { name, kind, object_bytes, is_spared, .. } = *pack;
            let record = PackRecord { name, kind, object_bytes, section_offset: 0 };
            if let Some(known) = self.note(&record, is_spared)? {
                self.note_section(known, other.section(number))?;
            }
        }
        Ok(())
    }

    /// Holds the envelope section of a pack. `Damaged` where another run has another one.
    pub(super) fn note_section(&mut self, number: u32, section: &[u8]) -> Result<()> {
        let length = u32::try_from(section.len()).unwrap_or(u32::MAX);
        let start = self.sections.len();
        let known = self.section(number);
        if !known.is_empty() {
            let is_same = known == section;
            let differ = || Error::damaged("two index runs disagree about the envelopes of a pack");
            return is_same.then_some(()).ok_or_else(differ);
        }
        if let Some(pack) = self.packs.get_mut(number as usize) {
            pack.section = (start, length);
            self.sections.extend_from_slice(section);
        }
        self.check_memory()
    }

    fn check_memory(&self) -> Result<()> {
        let used = self.packs.len() as u64 * PACK_COST + self.sections.capacity() as u64;
        if used <= self.memory_bytes {
            return Ok(());
        }
        let what =
            format!("the index lists {} packs, too many for this job's memory", self.packs.len());
        Err(Error::new(ErrorKind::Usage, what))
    }

    /// The envelope section of a pack; nothing if none is held.
    pub(super) fn section(&self, number: u32) -> &[u8] {
        let (start, length) = self.packs.get(number as usize).map_or((0, 0), |pack| pack.section);
        self.sections.get(start..start + length as usize).unwrap_or_default()
    }

    /// All packs, in the order of their numbers.
    pub(super) fn packs(&self) -> &[Pack] {
        &self.packs
    }

    /// The pack with this number.
    pub(super) fn pack(&self, number: u32) -> Result<&Pack> {
        self.packs.get(number as usize).ok_or_else(|| Error::internal("a pack of another catalog"))
    }

    /// The number of the pack with this name.
    pub(super) fn find(&self, name: &PackName) -> Option<u32> {
        self.numbers.get(name).copied()
    }
}

impl Pack {
    /// Key below the scope.
    pub(super) fn object(&self) -> String {
        pack_key(self.kind, &self.name)
    }

    /// Whole key.
    pub(super) fn key(&self, scope: &Scope) -> String {
        scope.key(&self.object())
    }
}
