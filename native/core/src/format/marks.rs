//! Marks (section 10.1): how often each short id is needed by the reference sets counted so far, so that
//! a prune reads those that are new and no others.

use super::varint::{ByteReader, check_zero};
use super::{ShortId, padded_body_len};
use crate::{Error, Result};

/// The most ids in one part: 20 MiB of them.
pub const MARKS_IDS_MAX: usize = 1 << 20;
/// Bytes before the first id.
pub const MARKS_HEAD_BYTES: usize = 16;
/// Bytes of an id and its count.
pub const MARK_BYTES: usize = 20;

const MAGIC: &[u8; 8] = b"PVBKMRK1";

/// How many ids a part lists, from its first [`MARKS_HEAD_BYTES`].
pub fn parse_marks_head(head: &[u8]) -> Result<usize> {
    let mut reader = ByteReader::new(head);
    if reader.array()? != *MAGIC {
        return Err(reader.damaged("not a part of marks"));
    }
    let count = reader.u32()? as usize;
    if reader.u32()? != 0 || count > MARKS_IDS_MAX {
        return Err(reader.damaged("marks of too many ids in one part"));
    }
    Ok(count)
}

/// One id and how often it is needed, which is not 0.
pub fn parse_mark(bytes: &[u8; MARK_BYTES]) -> Result<(ShortId, u32)> {
    let mut reader = ByteReader::new(bytes);
    let id = ShortId(reader.array()?);
    match reader.u32()? {
        0 => Err(Error::damaged("marks list an id that nothing needs")),
        count => Ok((id, count)),
    }
}

/// Reads the body of a part whole: its plaintext without the signature block.
pub fn parse_marks(body: &[u8]) -> Result<Vec<(ShortId, u32)>> {
    let mut reader = ByteReader::new(body);
    let count = parse_marks_head(reader.take(MARKS_HEAD_BYTES)?)?;
    let (raw, _) = reader.take(count * MARK_BYTES)?.as_chunks::<MARK_BYTES>();
    let marks: Vec<_> = raw.iter().map(parse_mark).collect::<Result<_>>()?;
    if !marks.is_sorted_by(|(a, _), (b, _)| a < b) {
        return Err(reader.damaged("marks are not sorted"));
    }
    let padding = reader.position();
    check_zero(reader.take(reader.remaining())?, padding)?;
    Ok(marks)
}

/// Collects ids in ascending order and gives them out in parts, each a range of ids after the one before.
/// Holds 20 bytes for each id of a part, besides the part that it has just given.
#[derive(Debug)]
pub struct MarksBuilder {
    marks: Vec<u8>,
    last: Option<ShortId>,
    ids_max: usize,
}

impl MarksBuilder {
    /// Parts of at most `ids_max` ids, which is brought into the bounds of the format.
    pub fn new(ids_max: usize) -> Self {
        Self { marks: Vec::new(), last: None, ids_max: ids_max.clamp(1, MARKS_IDS_MAX) }
    }

    /// Adds an id. Returns the body of a part when it is full.
    pub fn push(&mut self, id: ShortId, count: u32) -> Result<Option<Vec<u8>>> {
        if count == 0 || self.last.is_some_and(|last| last >= id) {
            return Err(Error::internal("marks out of order, or of nothing"));
        }
        self.last = Some(id);
        self.marks.extend_from_slice(&id.0);
        self.marks.extend_from_slice(&count.to_le_bytes());
        Ok((self.marks.len() >= self.ids_max * MARK_BYTES).then(|| self.take_part()))
    }

    /// The body of the last part; none when no id is left.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        (!self.marks.is_empty()).then(|| self.take_part())
    }

    fn take_part(&mut self) -> Vec<u8> {
        let body = padded_body_len(MARKS_HEAD_BYTES + self.marks.len());
        let mut out = Vec::with_capacity(body);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&((self.marks.len() / MARK_BYTES) as u64).to_le_bytes());
        out.extend_from_slice(&self.marks);
        out.resize(body, 0);
        self.marks.clear();
        out
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::format::SIGNATURE_BYTES;
    use crate::format::testing::mutate;

    fn parts_of(model: &BTreeMap<ShortId, u32>, ids_max: usize) -> Vec<Vec<u8>> {
        let mut builder = MarksBuilder::new(ids_max);
        let mut parts = Vec::new();
        for (id, count) in model {
            parts.extend(builder.push(*id, *count).unwrap());
        }
        parts.extend(builder.finish());
        parts
    }

    fn model() -> impl Strategy<Value = BTreeMap<ShortId, u32>> {
        prop::collection::btree_map(any::<[u8; 16]>().prop_map(ShortId), 1..u32::MAX, 1..60)
    }

    #[test]
    fn refuses_what_the_format_does() {
        let good = parts_of(&(1..4).map(|n| (ShortId([n; 16]), 7)).collect(), 9).remove(0);
        assert_eq!(good.len() + SIGNATURE_BYTES, 4096);
        assert_eq!(parse_marks(&good).unwrap().len(), 3);
        let swapped = [&good[..16], &good[36..56], &good[16..36], &good[56..]].concat();
        let mut nothing = good.clone();
        nothing[32..36].fill(0);
        let mut late = good.clone();
        *late.last_mut().unwrap() = 1;
        let mut counted = good.clone();
        counted[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut more = good.clone();
        more[8] = 200;
        for bad in [swapped, nothing, late, counted, more, good[..50].to_vec(), Vec::new()] {
            assert!(parse_marks(&bad).is_err());
        }
        let mut builder = MarksBuilder::new(2);
        builder.push(ShortId([2; 16]), 1).unwrap();
        assert!(builder.push(ShortId([2; 16]), 1).is_err());
        assert!(builder.push(ShortId([3; 16]), 0).is_err());
        assert!(MarksBuilder::new(2).finish().is_none());
    }

    proptest! {
        #[test]
        fn parts_hold_what_was_pushed(model in model(), ids_max in 1_usize..70) {
            let mut read = Vec::new();
            for part in parts_of(&model, ids_max) {
                let marks = parse_marks(&part).unwrap();
                prop_assert!((1..=ids_max).contains(&marks.len()));
                read.extend(marks);
            }
            prop_assert_eq!(read, model.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn mutated_bytes_never_panic(model in model(), seed in any::<u64>(), flips in 1_usize..4) {
            let mut body = parts_of(&model, 100).remove(0);
            mutate(&mut body, seed, flips);
            if let Ok(marks) = parse_marks(&body) {
                prop_assert!(marks.is_sorted_by(|(a, _), (b, _)| a < b));
            }
        }
    }
}
