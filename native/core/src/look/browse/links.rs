//! How many names each inode of a tree has. Nodes do not say, so the tree is read once, as soon as
//! somebody looks at a file with several names.

use std::sync::{Arc, Mutex};

use hashbrown::HashMap;

use super::super::passing::Passing;
use crate::broker::lock;
use crate::error::Result;
use crate::format::Id;
use crate::tree::{PageSource, TreeReader};

/// Inodes that are counted, in all trees together; about 24 bytes each.
const COUNTED_MAX: usize = 256 << 10;
/// What is said of those beyond: several.
const SEVERAL: u32 = 2;

type Counts = Arc<HashMap<u64, u32>>;

/// The counts of a tree; whoever comes while they are made waits.
type Slot = Arc<Mutex<Option<Counts>>>;

/// The counts of the trees that were asked for last.
#[derive(Default)]
pub(super) struct Links(Mutex<Vec<(Id, Slot)>>);

impl Links {
    /// The number of names of the inode `group`. Reads the whole tree if it is the first question about it.
    pub(super) fn count<S: PageSource>(&self, reader: &TreeReader<S>, group: u64) -> Result<u32> {
        let slot = self.slot(reader.root().page);
        let mut made = lock(&slot);
        let counts = match &*made {
            Some(counts) => Arc::clone(counts),
            None => Arc::clone(made.insert(Arc::new(count_all(reader)?))),
        };
        drop(made);
        self.make_room();
        Ok(counts.get(&group).copied().unwrap_or(SEVERAL))
    }

    fn slot(&self, root: Id) -> Slot {
        let mut trees = lock(&self.0);
        let found = trees.iter().position(|(id, _)| *id == root);
        let tree = found.map_or_else(|| (root, Slot::default()), |place| trees.remove(place));
        let slot = Arc::clone(&tree.1);
        trees.push(tree);
        slot
    }

    /// Forgets the trees that nobody has asked for lately, but never the last one.
    fn make_room(&self) {
        let mut trees = lock(&self.0);
        let size = |(_, slot): &(Id, Slot)| {
            slot.try_lock().map_or(0, |made| made.as_ref().map_or(0, |counts| counts.len()))
        };
        while trees.len() > 1 && trees.iter().map(size).sum::<usize>() > COUNTED_MAX {
            trees.remove(0);
        }
    }
}

/// Names that are in a page that is lost are not counted.
fn count_all<S: PageSource>(reader: &TreeReader<S>) -> Result<HashMap<u64, u32>> {
    let mut counts = HashMap::new();
    let mut reading = Passing::new(reader.nodes());
    while let Some(node) = reading.next_node()? {
        let Some(group) = node.link_group else { continue };
        if counts.len() < COUNTED_MAX {
            *counts.entry(group).or_insert(0) += 1;
        } else if let Some(count) = counts.get_mut(&group) {
            *count += 1;
        }
    }
    Ok(counts)
}
