//! Integers as section 1 writes them, and a reader over untrusted bytes that never panics and says
//! where it stopped.

use crate::{Error, Result};

/// The longest varint, in bytes.
pub const VARINT_BYTES_MAX: usize = 10;

/// Appends `value` as a varint in its shortest form.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(low_bits(value) | 0x80);
        value >>= 7;
    }
    out.push(low_bits(value));
}

/// Appends `value` zigzag-mapped as a varint.
pub fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

/// Bytes that [`put_varint`] appends for `value`.
pub const fn varint_len(value: u64) -> usize {
    ((63 - (value | 1).leading_zeros() as usize) / 7) + 1
}

const fn low_bits(value: u64) -> u8 {
    (value & 0x7f) as u8
}

/// Reads integers and byte strings from untrusted bytes. After an error the position is where the
/// value that could not be read began or ended; the error carries it.
#[derive(Clone, Debug)]
pub struct ByteReader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> ByteReader<'a> {
    /// A reader at the start of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// A reader at `position` of `bytes`; beyond the end it reads nothing.
    pub const fn at(bytes: &'a [u8], position: usize) -> Self {
        Self { bytes, position }
    }

    /// Offset of the next byte.
    pub const fn position(&self) -> usize {
        self.position
    }

    /// Bytes not read yet.
    pub const fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.position)
    }

    /// An error of kind `Damaged` at the current offset.
    #[cold]
    pub fn damaged(&self, what: &'static str) -> Error {
        Error::damaged(what).offset(self.position as u64)
    }

    /// The next `length` bytes.
    #[inline]
    pub fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let taken =
            self.position.checked_add(length).and_then(|end| self.bytes.get(self.position..end));
        let Some(taken) = taken else {
            return Err(self.damaged("bytes end too early"));
        };
        self.position += length;
        Ok(taken)
    }

    /// The next `N` bytes.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let Some(taken) = rest.first_chunk::<N>() else {
            return Err(self.damaged("bytes end too early"));
        };
        self.position += N;
        Ok(*taken)
    }

    /// One byte.
    #[inline]
    pub fn u8(&mut self) -> Result<u8> {
        let Some(byte) = self.bytes.get(self.position) else {
            return Err(self.damaged("bytes end too early"));
        };
        self.position += 1;
        Ok(*byte)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A varint; refused when it is not the shortest form or not below 2^64.
    #[inline]
    pub fn varint(&mut self) -> Result<u64> {
        let first = self.u8()?;
        if first < 0x80 {
            return Ok(u64::from(first));
        }
        self.varint_rest(first)
    }

    fn varint_rest(&mut self, first: u8) -> Result<u64> {
        let mut value = u64::from(first & 0x7f);
        let mut shift = 7;
        loop {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                return Err(self.damaged("varint of more than 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte == 0 {
                return Err(self.damaged("varint not in its shortest form"));
            }
            if byte < 0x80 {
                return Ok(value);
            }
            shift += 7;
        }
    }

    /// A zigzag-mapped varint.
    #[inline]
    pub fn zigzag(&mut self) -> Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// A varint below 2^32.
    #[inline]
    pub fn varint_u32(&mut self) -> Result<u32> {
        let value = self.varint()?;
        u32::try_from(value).map_err(|_| self.damaged("number of more than 32 bits"))
    }

    /// A varint that counts or measures what follows: refused when not even `each_min` bytes for
    /// each of that many are left. The result can be used to reserve memory.
    #[inline]
    pub fn count(&mut self, each_min: usize) -> Result<usize> {
        let value = self.varint()?;
        match usize::try_from(value) {
            Ok(count) if count <= self.remaining() / each_min.max(1) => Ok(count),
            _ => Err(self.damaged("count larger than the bytes that follow")),
        }
    }

    /// A byte string after its length, at most `length_max` bytes long.
    #[inline]
    pub fn string(&mut self, length_max: usize) -> Result<&'a [u8]> {
        let length = self.count(1)?;
        if length > length_max {
            return Err(self.damaged("string longer than allowed"));
        }
        self.take(length)
    }

    /// Refuses bytes that nobody asked for.
    pub fn finish(&self) -> Result<()> {
        if self.remaining() == 0 { Ok(()) } else { Err(self.damaged("bytes after the end")) }
    }
}

/// Refuses padding that is not all zero; `offset` is where it starts, for the error.
pub(crate) fn check_zero(padding: &[u8], offset: usize) -> Result<()> {
    match padding.iter().position(|byte| *byte != 0) {
        None => Ok(()),
        Some(at) => Err(Error::damaged("padding is not zero").offset((offset + at) as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_bytes() {
        for (value, bytes) in [
            (0, vec![0]),
            (127, vec![0x7f]),
            (128, vec![0x80, 1]),
            (300, vec![0xac, 2]),
            (u64::MAX, [vec![0xff; 9], vec![1]].concat()),
        ] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out, bytes);
            assert_eq!(varint_len(value), bytes.len());
        }
        let mut out = Vec::new();
        for value in [0, -1, 1, i64::MIN, i64::MAX] {
            put_zigzag(&mut out, value);
        }
        assert_eq!(out[..3], [0, 1, 2]);
        let mut reader = ByteReader::new(&out);
        for value in [0, -1, 1, i64::MIN, i64::MAX] {
            assert_eq!(reader.zigzag().unwrap(), value);
        }
        reader.finish().unwrap();
    }

    #[test]
    fn refuses_long_wide_and_short_forms() {
        let wide = [vec![0xff; 9], vec![2]].concat();
        let endless = vec![0xff; 11];
        for bytes in [&[0x80, 0][..], &[0xff, 0x80, 0], &wide, &endless, &[0x80], &[]] {
            let error = ByteReader::new(bytes).varint().unwrap_err();
            assert!(error.offset.is_some(), "{bytes:x?}");
        }
        assert!(ByteReader::new(&[5, 1, 2]).count(1).is_err());
        assert!(ByteReader::new(&[2, 1, 2]).string(1).is_err());
        assert!(ByteReader::at(&[1], 9).u8().is_err());
        assert!(ByteReader::at(&[1], usize::MAX).take(2).is_err());
        assert_eq!(check_zero(&[0, 0, 7], 10).unwrap_err().offset, Some(12));
    }

    proptest! {
        #[test]
        fn round_trip(values in prop::collection::vec((any::<u64>(), 0_u32..64), 0..50)) {
            let values: Vec<u64> = values.into_iter().map(|(value, shift)| value >> shift).collect();
            let mut out = Vec::new();
            for value in &values {
                let before = out.len();
                put_varint(&mut out, *value);
                prop_assert_eq!(out.len() - before, varint_len(*value));
            }
            let mut reader = ByteReader::new(&out);
            for value in &values {
                prop_assert_eq!(reader.varint().unwrap(), *value);
            }
            reader.finish().unwrap();
        }

        #[test]
        fn any_bytes_read_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..30)) {
            let mut reader = ByteReader::new(&bytes);
            while let Ok(value) = reader.varint() {
                let mut again = Vec::new();
                put_varint(&mut again, value);
                let end = reader.position();
                prop_assert_eq!(&bytes[end - again.len()..end], &again[..]);
            }
        }
    }
}
