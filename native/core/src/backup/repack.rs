//! Small files share chunks, and a chunk stays for as long as one file needs it. So files whose chunk is
//! mostly unused are stored again, packed together with others.
//!
//! How much of a chunk is used is known only at the end of a tree: its slices lie next to each other when
//! it is new, and anywhere when the files were edited here and there. It is therefore counted over the
//! parent's tree beforehand; what this backup leaves unused, a later one sees.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::carry::is_lost;
use super::slot::Signal;
use crate::error::Result;
use crate::format::ShortId;
use crate::index::Index;
use crate::pages::PageStore;
use crate::tree::{Body, Content, Extent, ExtentKind, Node, TreeReader};

/// So many chunks are counted at most: 16 MiB of memory, 128 GiB of small files. Others stay as they are.
const COUNTED_MAX: usize = 1 << 18;

/// Less than this is not worth being stored again.
const UNUSED_BYTES_MIN: u64 = 64 << 10;

#[derive(Clone, Copy, Default)]
struct Use {
    /// Bytes of all slices. Those that several files share count for each: rather too many.
    used: u64,
    /// Where the last slice ends.
    end: u64,
}

/// The chunks that are mostly unused in this tree. A tree that cannot be read whole has none.
pub(super) fn find_idle_chunks(
    reader: &TreeReader<Arc<PageStore>>,
    index: &Index,
    signal: &Signal,
) -> Result<HashSet<ShortId>> {
    let mut uses: HashMap<ShortId, Use> = HashMap::new();
    for node in reader.nodes() {
        let node = match node {
            Err(error) if is_lost(&error) => return Ok(HashSet::new()),
            other => other?,
        };
        for (id, end, length) in slices(&node) {
            let count = uses.len();
            let known = match uses.entry(id) {
                hashbrown::hash_map::Entry::Vacant(_) if count >= COUNTED_MAX => continue,
                entry => entry.or_default(),
            };
            known.used = known.used.saturating_add(length);
            known.end = known.end.max(end);
        }
        signal.check()?;
    }
    let mut idle = HashSet::new();
    for (id, known) in uses {
        // The chunk is at least as long as that, and as what is left of it after compression.
        let sealed = index.lookup(&id)?.map_or(0, |place| u64::from(place.length()));
        if is_idle(known.used, known.end.max(sealed)) {
            idle.insert(id);
        }
    }
    Ok(idle)
}

fn is_idle(used: u64, length: u64) -> bool {
    used < length / 2 && length - used >= UNUSED_BYTES_MIN
}

/// Whether any of a file's content lies in one of these chunks.
pub(super) fn is_in(chunks: &HashSet<ShortId>, node: &Node) -> bool {
    !chunks.is_empty() && slices(node).any(|(id, ..)| chunks.contains(&id))
}

/// The slices of a small file: chunk, end in it, length.
fn slices(node: &Node) -> impl Iterator<Item = (ShortId, u64, u64)> {
    let extents: &[Extent] = match &node.body {
        Body::File { content: Content::Inline(extents), .. } if node.digest.is_some() => extents,
        _ => &[],
    };
    extents.iter().filter_map(|extent| match extent.kind {
        ExtentKind::Data { id, offset } => {
            Some((id.short(), u64::from(offset) + extent.length, extent.length))
        }
        ExtentKind::Hole | ExtentKind::Zero => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_half_and_enough_of_it() {
        assert!(is_idle(100_000, 500_000));
        assert!(!is_idle(250_000, 500_000));
        assert!(!is_idle(10, 60));
        assert!(!is_idle(10, 65_545));
        assert!(is_idle(10, 65_546));
        assert!(!is_idle(700_000, 500_000));
    }
}
