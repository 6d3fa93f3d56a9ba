//! Reference sets (section 10): the short ids of everything that a snapshot's tree reaches, so that
//! prune needs no tree.

use super::varint::{ByteReader, check_zero};
use super::{ShortId, padded_body_len};
use crate::Result;

/// The most ids in one part: 16 MiB of them.
pub const REF_SET_IDS_MAX: usize = 1 << 20;

/// Bytes before the first id.
pub const HEAD_BYTES: usize = 16;
/// Bytes of an id.
pub const ID_BYTES: usize = 16;

const MAGIC: &[u8; 8] = b"PVBKREF1";

/// How many ids a part lists, from its first [`HEAD_BYTES`].
pub fn parse_refs_head(head: &[u8]) -> Result<usize> {
    let mut reader = ByteReader::new(head);
    if reader.array()? != *MAGIC {
        return Err(reader.damaged("not a reference set"));
    }
    let count = reader.u32()? as usize;
    if reader.u32()? != 0 || count > REF_SET_IDS_MAX {
        return Err(reader.damaged("reference set of too many ids"));
    }
    Ok(count)
}

/// Collects ids in any order, with repetitions, and gives them out in parts. Holds at most
/// [`REF_SET_IDS_MAX`] ids (16 MiB) besides the part that it has just given.
#[derive(Debug, Default)]
pub struct RefSetBuilder {
    ids: Vec<[u8; ID_BYTES]>,
}

impl RefSetBuilder {
    /// An empty builder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an id. Returns the body of a part when enough distinct ids for one have come together;
    /// an id that comes again after that is listed again in a later part.
    pub fn insert(&mut self, id: ShortId) -> Option<Vec<u8>> {
        if self.ids.last() != Some(&id.0) {
            self.ids.push(id.0);
        }
        if self.ids.len() < REF_SET_IDS_MAX {
            return None;
        }
        self.ids.sort_unstable();
        self.ids.dedup();
        // Less than a quarter was repetition: sorting again and again would cost more than a part.
        (self.ids.len() > REF_SET_IDS_MAX / 4 * 3).then(|| self.take_part())
    }

    /// The body of the last part; none when no id is left. An empty set is one empty part, which
    /// [`empty`](Self::empty) gives.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        self.ids.sort_unstable();
        self.ids.dedup();
        (!self.ids.is_empty()).then(|| self.take_part())
    }

    /// The body of a set without ids.
    pub fn empty() -> Vec<u8> {
        Self::default().take_part()
    }

    fn take_part(&mut self) -> Vec<u8> {
        let bare = HEAD_BYTES + self.ids.len() * ID_BYTES;
        let body = padded_body_len(bare);
        let mut out = Vec::with_capacity(body);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&(self.ids.len() as u64).to_le_bytes());
        out.extend_from_slice(self.ids.as_flattened());
        out.resize(body, 0);
        self.ids.clear();
        out
    }
}

/// One part of a reference set, in memory.
#[derive(Clone, Debug)]
pub struct RefSet {
    body: Vec<u8>,
    count: usize,
}

impl RefSet {
    /// Reads the body of a part: its plaintext without the signature block.
    pub fn parse(body: Vec<u8>) -> Result<Self> {
        let mut reader = ByteReader::new(&body);
        let count = parse_refs_head(reader.take(HEAD_BYTES)?)?;
        let (ids, _) = reader.take(count * ID_BYTES)?.as_chunks::<ID_BYTES>();
        if !ids.is_sorted_by(|a, b| a < b) {
            return Err(reader.damaged("reference set is not sorted"));
        }
        let padding = reader.position();
        check_zero(reader.take(reader.remaining())?, padding)?;
        Ok(Self { body, count })
    }

    fn ids(&self) -> &[[u8; ID_BYTES]] {
        let end = HEAD_BYTES + self.count * ID_BYTES;
        let bytes = self.body.get(HEAD_BYTES..end).unwrap_or_default();
        bytes.as_chunks().0
    }

    /// How many ids it lists.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether it lists none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether it lists `id`.
    pub fn contains(&self, id: &ShortId) -> bool {
        self.ids().binary_search(&id.0).is_ok()
    }

    /// The ids in order.
    pub fn iter(&self) -> impl Iterator<Item = ShortId> + '_ {
        self.ids().iter().map(|id| ShortId(*id))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::format::SIGNATURE_BYTES;

    fn id(number: u64) -> ShortId {
        ShortId(u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes())
    }

    #[test]
    fn full_parts_come_out() {
        let mut builder = RefSetBuilder::new();
        let count = REF_SET_IDS_MAX as u64 * 2 + 5;
        let mut parts: Vec<Vec<u8>> = (0..count).filter_map(|n| builder.insert(id(n))).collect();
        assert_eq!(parts.len(), 2);
        parts.extend(builder.finish());
        let sets: Vec<RefSet> =
            parts.into_iter().map(|part| RefSet::parse(part).unwrap()).collect();
        assert_eq!(sets.iter().map(RefSet::len).collect::<Vec<_>>(), [1 << 20, 1 << 20, 5]);
        assert!((0..count).all(|n| sets.iter().any(|set| set.contains(&id(n)))));
        assert!(!sets.iter().any(|set| set.contains(&id(count))));
    }

    #[test]
    fn repetitions_cost_no_parts() {
        let mut builder = RefSetBuilder::new();
        for round in 0..30 {
            for n in 0..100_000 {
                assert!(builder.insert(id(n)).is_none(), "round {round}");
            }
        }
        let set = RefSet::parse(builder.finish().unwrap()).unwrap();
        assert_eq!(set.len(), 100_000);
    }

    #[test]
    fn empty_set_and_damage() {
        assert!(RefSetBuilder::new().finish().is_none());
        let empty = RefSetBuilder::empty();
        assert_eq!(empty.len() + SIGNATURE_BYTES, 4096);
        assert!(RefSet::parse(empty.clone()).unwrap().is_empty());
        let mut late = empty.clone();
        *late.last_mut().unwrap() = 1;
        assert_eq!(RefSet::parse(late).unwrap_err().offset, Some(4096 - 241));
        let mut builder = RefSetBuilder::new();
        (0..3).for_each(|n| assert!(builder.insert(id(n)).is_none()));
        let mut swapped = builder.finish().unwrap();
        swapped[16..48].rotate_left(16);
        assert!(RefSet::parse(swapped).is_err());
        let mut counted = empty;
        counted[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(RefSet::parse(counted).is_err());
    }

    proptest! {
        #[test]
        fn holds_what_was_inserted(numbers in prop::collection::vec(0_u64..500, 1..800)) {
            let mut builder = RefSetBuilder::new();
            for n in &numbers {
                prop_assert!(builder.insert(id(*n)).is_none());
            }
            let set = RefSet::parse(builder.finish().unwrap()).unwrap();
            let model: BTreeSet<ShortId> = numbers.iter().map(|n| id(*n)).collect();
            prop_assert!(set.iter().eq(model.iter().copied()));
            for n in 0..500 {
                prop_assert_eq!(set.contains(&id(n)), model.contains(&id(n)));
            }
        }

        #[test]
        fn mutated_bytes_never_panic(seed in any::<u64>(), flips in 1_usize..4) {
            let mut builder = RefSetBuilder::new();
            (0..50).for_each(|n| assert!(builder.insert(id(n)).is_none()));
            let mut body = builder.finish().unwrap();
            crate::format::testing::mutate(&mut body, seed, flips);
            if let Ok(set) = RefSet::parse(body) {
                prop_assert!(set.iter().is_sorted_by(|a, b| a < b));
            }
        }
    }
}
