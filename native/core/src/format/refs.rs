//! Reference sets (section 10): the short ids of everything that a snapshot's tree reaches, so that
//! prune needs no tree, and about where in the tree each is, so that it can keep together what lies together.

use super::varint::{ByteReader, check_zero};
use super::{ShortId, padded_body_len};
use crate::Result;

/// The most ids in one part: 18 MiB of them with their places.
pub const REF_SET_IDS_MAX: usize = 1 << 20;

/// Bytes before the first id.
pub const HEAD_BYTES: usize = 16;

const ID_BYTES: usize = 16;
const PLACE_BYTES: usize = 2;
const MAGIC: &[u8; 8] = b"PVBKREF1";
/// How many different places there are in a part.
const PLACES: u64 = 1 << (8 * PLACE_BYTES);

/// What a part says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefsHead {
    /// Ids in it.
    pub count: usize,
    /// Whether each has its place.
    pub has_places: bool,
}

impl RefsHead {
    /// Reads the first [`HEAD_BYTES`] of a part.
    pub fn parse(head: &[u8]) -> Result<Self> {
        let mut reader = ByteReader::new(head);
        if reader.array()? != *MAGIC {
            return Err(reader.damaged("not a reference set"));
        }
        let (count, form) = (reader.u32()? as usize, reader.u32()?);
        if form > 1 || count > REF_SET_IDS_MAX {
            return Err(reader.damaged("reference set of too many ids, or of an unknown form"));
        }
        Ok(Self { count, has_places: form == 1 })
    }

    /// Bytes of an id and what is said of it.
    const fn entry_bytes(self) -> usize {
        if self.has_places { ID_BYTES + PLACE_BYTES } else { ID_BYTES }
    }

    /// Bytes up to the padding.
    pub const fn bare_bytes(self) -> usize {
        HEAD_BYTES + self.count * self.entry_bytes()
    }
}

/// Collects ids in about the order of a tree, with repetitions, and gives them out in parts. Holds at most
/// [`REF_SET_IDS_MAX`] ids (20 MiB) besides the part that it has just given.
#[derive(Debug, Default)]
pub struct RefSetBuilder {
    /// With how many came before it, for this part.
    ids: Vec<([u8; ID_BYTES], u32)>,
    /// That came, for this part.
    came: u32,
}

impl RefSetBuilder {
    /// An empty builder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an id. Returns the body of a part when enough distinct ids for one have come together;
    /// an id that comes again after that is listed again in a later part.
    pub fn insert(&mut self, id: ShortId) -> Option<Vec<u8>> {
        if self.ids.last().is_none_or(|(last, _)| *last != id.0) {
            self.ids.push((id.0, self.came));
            self.came = self.came.saturating_add(1);
        }
        if self.ids.len() < REF_SET_IDS_MAX {
            return None;
        }
        self.sort();
        // Less than a quarter was repetition: sorting again and again would cost more than a part.
        (self.ids.len() > REF_SET_IDS_MAX / 4 * 3).then(|| self.take_part())
    }

    /// The body of the last part; none when no id is left. An empty set is one empty part, which
    /// [`empty`](Self::empty) gives.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        self.sort();
        (!self.ids.is_empty()).then(|| self.take_part())
    }

    /// The body of a set without ids.
    pub fn empty() -> Vec<u8> {
        Self::default().take_part()
    }

    /// Each id once, where it came first.
    fn sort(&mut self) {
        self.ids.sort_unstable();
        self.ids.dedup_by_key(|(id, _)| *id);
    }

    fn take_part(&mut self) -> Vec<u8> {
        let head = RefsHead { count: self.ids.len(), has_places: true };
        let body = padded_body_len(head.bare_bytes());
        let mut out = Vec::with_capacity(body);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&(head.count as u64 | 1 << 32).to_le_bytes());
        let came = u64::from(self.came).max(1);
        for (id, before) in self.ids.drain(..) {
            let place = u64::from(before) * PLACES / came;
            out.extend_from_slice(&id);
            out.extend_from_slice(&u16::try_from(place).unwrap_or(u16::MAX).to_le_bytes());
        }
        out.resize(body, 0);
        self.came = 0;
        out
    }
}

/// One part of a reference set, in memory.
#[derive(Clone, Debug)]
pub struct RefSet {
    body: Vec<u8>,
    head: RefsHead,
}

impl RefSet {
    /// Reads the body of a part: its plaintext without the signature block.
    pub fn parse(body: Vec<u8>) -> Result<Self> {
        let mut reader = ByteReader::new(&body);
        let head = RefsHead::parse(reader.take(HEAD_BYTES)?)?;
        let entries = reader.take(head.bare_bytes() - HEAD_BYTES)?;
        if !ids(entries, head).is_sorted_by(|a, b| a < b) {
            return Err(reader.damaged("reference set is not sorted"));
        }
        let padding = reader.position();
        check_zero(reader.take(reader.remaining())?, padding)?;
        Ok(Self { body, head })
    }

    /// How many ids it lists.
    pub const fn len(&self) -> usize {
        self.head.count
    }

    /// Whether it lists none.
    pub const fn is_empty(&self) -> bool {
        self.head.count == 0
    }

    /// The ids in order.
    pub fn iter(&self) -> impl Iterator<Item = ShortId> + '_ {
        ids(self.body.get(HEAD_BYTES..self.head.bare_bytes()).unwrap_or_default(), self.head)
    }
}

fn ids(entries: &[u8], head: RefsHead) -> impl Iterator<Item = ShortId> + '_ {
    let entries = entries.chunks_exact(head.entry_bytes());
    entries.filter_map(|entry| entry.first_chunk().copied()).map(ShortId)
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
        let listed: BTreeSet<ShortId> = sets.iter().flat_map(RefSet::iter).collect();
        assert_eq!(listed, (0..count).map(id).collect());
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

    /// The ids of a body, in the order of their places.
    fn in_order(body: &[u8]) -> Vec<ShortId> {
        let head = RefsHead::parse(&body[..HEAD_BYTES]).unwrap();
        assert!(head.has_places);
        let entries = body[HEAD_BYTES..head.bare_bytes()].chunks_exact(head.entry_bytes());
        let mut found: Vec<(u16, ShortId)> = entries
            .map(|entry| {
                let (id, place) = entry.split_first_chunk().unwrap();
                (u16::from_le_bytes(place.try_into().unwrap()), ShortId(*id))
            })
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }

    #[test]
    fn places_tell_in_which_order_ids_came_first() {
        let mut builder = RefSetBuilder::new();
        for n in (0..1000).chain(100..700) {
            assert!(builder.insert(id(n)).is_none());
            assert!(builder.insert(id(n)).is_none());
        }
        let body = builder.finish().unwrap();
        assert!(in_order(&body).into_iter().eq((0..1000).map(id)));
    }

    #[test]
    fn each_part_has_places_of_its_own() {
        let mut builder = RefSetBuilder::new();
        let count = REF_SET_IDS_MAX as u64;
        let first = (0..count).find_map(|n| builder.insert(id(n))).unwrap();
        // Sixteen ids share a place.
        let order: std::collections::HashMap<ShortId, usize> =
            in_order(&first).into_iter().enumerate().map(|(at, id)| (id, at)).collect();
        assert!((0..count).step_by(997).all(|n| order[&id(n)] as u64 / 16 == n / 16));
        (0..4).for_each(|n| assert!(builder.insert(id(count + n)).is_none()));
        let last = builder.finish().unwrap();
        assert!(in_order(&last).into_iter().eq((0..4).map(|n| id(count + n))));
    }

    #[test]
    fn a_part_without_places_is_read() {
        let mut body = Vec::from(*MAGIC);
        body.extend_from_slice(&2_u64.to_le_bytes());
        let mut ids = [id(1), id(2)];
        ids.sort_unstable();
        for id in &ids {
            body.extend_from_slice(&id.0);
        }
        body.resize(padded_body_len(48), 0);
        assert!(RefSet::parse(body.clone()).unwrap().iter().eq(ids));
        body[12] = 2;
        assert!(RefSet::parse(body).is_err());
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
        swapped[16..52].rotate_left(18);
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
