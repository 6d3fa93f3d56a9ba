//! What the chunks of the source are called in the repository that is written to, as far as that is known.

use std::sync::{Arc, Mutex};

use hashbrown::HashMap;

use crate::backup::slot::Slot;
use crate::broker::lock;
use crate::error::Error;
use crate::format::Id;

/// Where the new id of a chunk that is on its way arrives, or why the chunk cannot be had.
pub(super) type ChunkSlot = Slot<Result<Id, Error>>;

/// What is known of a chunk.
pub(super) enum Found {
    /// Its new id. Whoever relies on it asks first whether the repository still has it.
    Named(Id),
    /// It is on its way.
    Coming(Arc<ChunkSlot>),
    Nothing,
}

/// Bytes of one entry, with the slack of a hash table.
const ENTRY_BYTES: u64 = 2 * 64;

/// Remembers names, half of them at least as long as the other half takes to fill. Forgetting one costs reading
/// the chunk again, and nothing else.
pub(super) struct Memo {
    names: Mutex<Names>,
    /// Names in one generation.
    names_max: usize,
}

#[derive(Default)]
struct Names {
    newer: HashMap<Id, Id>,
    older: HashMap<Id, Id>,
    coming: HashMap<Id, Arc<ChunkSlot>>,
}

impl Memo {
    pub(super) fn new(bytes: u64) -> Self {
        let names_max = usize::try_from(bytes / ENTRY_BYTES / 2).unwrap_or(usize::MAX).max(1);
        Self { names: Mutex::default(), names_max }
    }

    /// How many names can be learnt before the first of them is forgotten.
    pub(super) fn names_max(&self) -> usize {
        self.names_max
    }

    pub(super) fn find(&self, source: &Id) -> Found {
        let names = lock(&self.names);
        if let Some(slot) = names.coming.get(source) {
            return Found::Coming(Arc::clone(slot));
        }
        names
            .newer
            .get(source)
            .or_else(|| names.older.get(source))
            .map_or(Found::Nothing, |id| Found::Named(*id))
    }

    /// Notes that the chunk is on its way.
    pub(super) fn expect(&self, source: Id, slot: Arc<ChunkSlot>) {
        lock(&self.names).coming.insert(source, slot);
    }

    /// Notes its name; nothing where it could not be had.
    pub(super) fn settle(&self, source: &Id, name: Option<Id>) {
        if let Some(name) = name {
            self.learn(*source, name);
        }
        lock(&self.names).coming.remove(source);
    }

    /// Notes a name that an earlier copy gave.
    pub(super) fn learn(&self, source: Id, name: Id) {
        let mut names = lock(&self.names);
        if names.newer.len() >= self.names_max && !names.newer.contains_key(&source) {
            names.older = std::mem::take(&mut names.newer);
        }
        names.newer.insert(source, name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::slot::Signal;
    use crate::broker::Broker;

    fn id(number: u8) -> Id {
        Id([number; 32])
    }

    #[test]
    fn the_latest_names_are_remembered_and_the_oldest_are_not() {
        let memo = Memo::new(ENTRY_BYTES * 2 * 10);
        for number in 0..30 {
            memo.learn(id(number), id(number + 100));
        }
        assert!(
            (20..30)
                .all(|n| matches!(memo.find(&id(n)), Found::Named(name) if name == id(n + 100)))
        );
        assert!((0..10).all(|n| matches!(memo.find(&id(n)), Found::Nothing)));
        let names = lock(&memo.names);
        assert!(names.newer.len() + names.older.len() <= 20);
    }

    #[test]
    fn a_chunk_on_its_way_is_not_asked_for_twice() {
        let memo = Memo::new(1 << 20);
        let slot = Slot::new(&Signal::new(Broker::new(1)));
        memo.expect(id(1), slot);
        assert!(matches!(memo.find(&id(1)), Found::Coming(_)));
        memo.settle(&id(1), Some(id(2)));
        assert!(matches!(memo.find(&id(1)), Found::Named(name) if name == id(2)));
        memo.expect(id(3), Slot::new(&Signal::new(Broker::new(1))));
        memo.settle(&id(3), None);
        assert!(matches!(memo.find(&id(3)), Found::Nothing));
    }
}
