//! The filter of an index run (section 7): a binary fuse filter of 8-bit fingerprints, about 9 bits
//! an id, that says "surely not here" or "perhaps" (wrong for 0.4 % of the ids that are not there).
//!
//! Building is left to `xorf`; reading is done here, straight from the run's bytes.

use xorf::BinaryFuse8;

use super::ShortId;
use super::varint::ByteReader;
use crate::{Error, Result};

/// Bytes before the fingerprints.
pub const HEAD_BYTES: usize = 16;

/// The filter's key for an id.
pub(super) const fn filter_key(id: &ShortId) -> u64 {
    id.rank().swap_bytes()
}

/// Builds a filter over `keys`, which must be distinct; no keys give no bytes.
pub(super) fn build_filter(keys: &[u64]) -> Result<Vec<u8>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    // Fails only for repeated keys, or after a thousand seeds in a row with a chance of about 1/10 each.
    let filter = BinaryFuse8::try_from(keys).map_err(Error::internal)?;
    let mut out = Vec::with_capacity(HEAD_BYTES + filter.fingerprints.len());
    out.extend_from_slice(&filter.descriptor.seed.to_le_bytes());
    out.extend_from_slice(&filter.descriptor.segment_length.to_le_bytes());
    out.extend_from_slice(&filter.descriptor.segment_count_length.to_le_bytes());
    out.extend_from_slice(&filter.fingerprints);
    Ok(out)
}

/// A filter over bytes that belong to somebody else.
#[derive(Clone, Copy, Debug)]
pub struct Filter<'a> {
    seed: u64,
    segment_length: u64,
    segment_count_length: u64,
    fingerprints: &'a [u8],
}

impl<'a> Filter<'a> {
    /// Reads the filter of a run. No bytes are the filter of a run without entries.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        if bytes.is_empty() {
            return Ok(Self {
                seed: 0,
                segment_length: 1,
                segment_count_length: 0,
                fingerprints: bytes,
            });
        }
        let (seed, segment_length, segment_count_length) =
            Self::parse_head(bytes, bytes.len() as u64)?;
        let fingerprints = bytes.get(HEAD_BYTES..).unwrap_or_default();
        Ok(Self { seed, segment_length, segment_count_length, fingerprints })
    }

    /// Reads the first bytes of a filter of `filter_bytes`, which must not be 0, and checks that they
    /// fit: all that can be wrong with one.
    pub fn parse_head(head: &[u8], filter_bytes: u64) -> Result<(u64, u64, u64)> {
        let mut reader = ByteReader::new(head);
        let seed = reader.u64()?;
        let segment_length = u64::from(reader.u32()?);
        let segment_count_length = u64::from(reader.u32()?);
        if !segment_length.is_power_of_two()
            || segment_count_length == 0
            || segment_count_length % segment_length != 0
            || segment_count_length + 2 * segment_length + HEAD_BYTES as u64 != filter_bytes
        {
            return Err(reader.damaged("filter does not fit its bytes"));
        }
        Ok((seed, segment_length, segment_count_length))
    }

    /// False when `id` is surely not in the run.
    #[inline]
    pub fn maybe_contains(&self, id: &ShortId) -> bool {
        let hash = mix(filter_key(id).wrapping_add(self.seed));
        let wide = u128::from(hash) * u128::from(self.segment_count_length);
        let mask = self.segment_length - 1;
        let p0 = (wide >> 64) as u64;
        let p1 = (p0 + self.segment_length) ^ ((hash >> 18) & mask);
        let p2 = (p0 + 2 * self.segment_length) ^ (hash & mask);
        match (self.at(p0), self.at(p1), self.at(p2)) {
            (Some(f0), Some(f1), Some(f2)) => {
                let [fingerprint, ..] = (hash ^ (hash >> 32)).to_le_bytes();
                fingerprint == f0 ^ f1 ^ f2
            }
            _ => false, // only the empty filter: `parse` has checked the others
        }
    }

    fn at(&self, position: u64) -> Option<u8> {
        let position = usize::try_from(position).ok()?;
        self.fingerprints.get(position).copied()
    }
}

/// The 64-bit finaliser of `MurmurHash3`.
const fn mix(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use xorf::Filter as _;

    use super::*;

    fn id(number: u64) -> ShortId {
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&mix(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes());
        ShortId(raw)
    }

    #[test]
    fn rate_and_size_at_every_scale() {
        for count in [1_u64, 2, 3, 10, 100, 1000, 100_000] {
            let keys: Vec<u64> = (0..count).map(|n| filter_key(&id(n))).collect();
            let bytes = build_filter(&keys).unwrap();
            let filter = Filter::parse(&bytes).unwrap();
            assert!((0..count).all(|n| filter.maybe_contains(&id(n))), "{count} ids");
            let probes = 200_000_u32;
            let wrong =
                (0..probes).filter(|n| filter.maybe_contains(&id(1 << 40 | u64::from(*n)))).count();
            assert!(wrong < 200_000 * 6 / 1000, "{wrong} of {probes} at {count} ids");
            if count == 100_000 {
                assert!(bytes.len() * 8 < 100_000 * 96 / 10, "{} bytes", bytes.len());
            }
        }
        assert!(!Filter::parse(&[]).unwrap().maybe_contains(&id(1)));
    }

    #[test]
    fn refuses_what_would_read_outside() {
        let good = build_filter(&[1, 2, 3]).unwrap();
        for (at, value) in [(8, 3_u32), (8, 0), (8, 1 << 31), (12, 0), (12, 5), (12, u32::MAX)] {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            assert!(Filter::parse(&bytes).is_err(), "{value} at {at}");
        }
        for length in 1..good.len() {
            assert!(Filter::parse(&good[..length]).is_err());
        }
    }

    proptest! {
        #[test]
        fn agrees_with_its_builder(
            keys in prop::collection::hash_set(any::<u64>(), 1..300),
            probes in prop::collection::vec(any::<u64>(), 300),
        ) {
            let keys: Vec<u64> = keys.into_iter().collect();
            let bytes = build_filter(&keys).unwrap();
            let filter = Filter::parse(&bytes).unwrap();
            let theirs = BinaryFuse8::try_from(&keys[..]).unwrap();
            let distinct: HashSet<u64> = keys.iter().copied().chain(probes).collect();
            for key in distinct {
                let mut raw = [7; 16];
                raw[..8].copy_from_slice(&key.to_le_bytes());
                prop_assert_eq!(filter.maybe_contains(&ShortId(raw)), theirs.contains(&key));
            }
            for key in keys {
                let mut raw = [9; 16];
                raw[..8].copy_from_slice(&key.to_le_bytes());
                prop_assert!(filter.maybe_contains(&ShortId(raw)));
            }
        }
    }
}
