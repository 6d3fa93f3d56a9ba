//! The byte formats of `docs/format.md` that carry no secrets of their own: pack directories, index
//! runs, reference sets, and the integers that they are made of. Everything here works on
//! plaintext; sealing and signing happen around it.
//!
//! Parsers trust nothing: every count and length is checked against the bytes that are there before
//! memory is allocated for it, and damage is an [`ErrorKind::Damaged`](crate::ErrorKind) with an
//! offset, never a panic. Writers check the same rules before bytes leave them.

use std::fmt;

pub mod filter;
pub mod marks;
pub mod pack;
pub mod refs;
pub mod run;
pub mod varint;

/// Bytes of the signature block that ends every object plaintext (section 5.5).
pub const SIGNATURE_BYTES: usize = 240;

/// The largest plaintext of a blob, in bytes (section 5.2).
pub const BLOB_BYTES_MAX: u32 = 16 << 20;

/// Identity of a chunk or page: its keyed BLAKE3-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub [u8; 32]);

impl Id {
    /// The first 16 bytes, as index runs and reference sets hold them.
    pub const fn short(&self) -> ShortId {
        ShortId(first_half(&self.0))
    }
}

/// The first 16 bytes of an [`Id`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortId(pub [u8; 16]);

impl ShortId {
    /// The first 8 bytes as a number in the order of the bytes, for interpolation.
    pub const fn rank(&self) -> u64 {
        (u128::from_be_bytes(self.0) >> 64) as u64
    }
}

const fn first_half(bytes: &[u8; 32]) -> [u8; 16] {
    match bytes.first_chunk() {
        Some(half) => *half,
        None => [0; 16], // 32 bytes have 16 first ones
    }
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

macro_rules! hex_format {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }
    };
}

hex_format!(Id);
hex_format!(ShortId);

/// The plaintext length that `length` bytes are padded to (section 5.1): the next multiple of an
/// eighth of the power of two below, between 4 KiB and 256 KiB. Idempotent; 0 stays 0. Saturates
/// near the end of `u64`.
pub const fn padded_len(length: u64) -> u64 {
    if length == 0 {
        return 0;
    }
    let exponent = length.ilog2().saturating_sub(3);
    let step = if exponent <= 12 {
        4096
    } else if exponent >= 18 {
        1 << 18
    } else {
        1 << exponent
    };
    match length.checked_next_multiple_of(step) {
        Some(padded) => padded,
        None => u64::MAX,
    }
}

/// Bytes of a body of `bare` bytes with the padding that makes it, with its signature block, as long
/// as section 5.1 wants.
pub(crate) fn padded_body_len(bare: usize) -> usize {
    let padded = padded_len((bare + SIGNATURE_BYTES) as u64);
    usize::try_from(padded).unwrap_or(usize::MAX).saturating_sub(SIGNATURE_BYTES)
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_show_hex_and_shorten() {
        let mut raw = [0xab; 32];
        raw[0] = 1;
        raw[16] = 0;
        let id = Id(raw);
        assert_eq!(id.to_string(), format!("01{}00{}", "ab".repeat(15), "ab".repeat(15)));
        assert_eq!(format!("{:?}", id.short()), format!("01{}", "ab".repeat(15)));
        assert_eq!(id.short().rank(), 0x01ab_abab_abab_abab);
    }

    #[test]
    fn padding_steps() {
        for (length, padded) in [
            (0, 0),
            (1, 4096),
            (4096, 4096),
            (4097, 8192),
            (65_536, 65_536),
            (65_537, 65_536 + 8192),
            (1 << 20, 1 << 20),
            ((1 << 20) + 1, (1 << 20) + (1 << 17)),
            ((32 << 20) - 1, 32 << 20),
            ((32 << 20) + 1, (32 << 20) + (1 << 18)),
            (u64::MAX, u64::MAX),
        ] {
            assert_eq!(padded_len(length), padded, "{length}");
        }
    }

    proptest! {
        #[test]
        fn padding_is_small_and_idempotent(length in 1_u64..1 << 40) {
            let padded = padded_len(length);
            prop_assert!(padded >= length);
            prop_assert_eq!(padded_len(padded), padded);
            prop_assert!(padded - length < 4096.max(length / 8 + 1));
            prop_assert!(padded - length < 1 << 18);
        }
    }
}
