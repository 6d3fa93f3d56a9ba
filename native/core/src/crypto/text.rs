//! Bytes as text in key files and the config: ids as lower-case hexadecimal, the rest as padded
//! standard base64. Reading accepts exactly what writing produces.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroize;

use crate::error::{Error, Result};

/// Writes `bytes` as lower-case hexadecimal.
pub(super) fn write_hex(f: &mut impl fmt::Write, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Reads exactly `2 * N` lower-case hexadecimal digits.
pub(super) fn from_hex<const N: usize>(digits: &str) -> Result<[u8; N]> {
    let mut out = [0; N];
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return Err(Error::damaged("an id of the wrong length"));
    }
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        *byte = (nibble(*high)? << 4) | nibble(*low)?;
    }
    Ok(out)
}

fn nibble(digit: u8) -> Result<u8> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(Error::damaged("an id with a character that is no lower-case hexadecimal digit")),
    }
}

/// `bytes` as base64.
pub(super) fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Reads base64 of any length.
pub(super) fn from_base64(text: &[u8]) -> Result<Vec<u8>> {
    STANDARD.decode(text).map_err(|_| Error::damaged("malformed base64"))
}

/// Bytes that are base64 in JSON. Not for secrets: see [`super::Key`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base64(pub(super) Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_base64(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        from_base64(text.as_bytes()).map(Self).map_err(serde::de::Error::custom)
    }
}

/// `N` bytes that are base64 in JSON. Not for secrets: see [`super::Key`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Base64Array<const N: usize>(pub(super) [u8; N]);

impl<const N: usize> Serialize for Base64Array<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_base64(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Base64Array<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Base64(bytes) = Base64::deserialize(deserializer)?;
        let bytes = <[u8; N]>::try_from(bytes)
            .map_err(|_| serde::de::Error::custom("base64 of the wrong length"))?;
        Ok(Self(bytes))
    }
}

/// Base64 of a 32-byte secret, without a copy on the heap.
pub(super) fn with_base64<T>(secret: &[u8; 32], then: impl FnOnce(&str) -> T) -> Result<T> {
    let mut buffer = [0; 44];
    let written = STANDARD.encode_slice(secret, &mut buffer);
    let out = match written.map(|len| buffer.get(..len).map(str::from_utf8)) {
        Ok(Some(Ok(text))) => Ok(then(text)),
        _ => Err(Error::internal("32 bytes do not fit 44 characters of base64")),
    };
    buffer.zeroize();
    out
}

/// Reads base64 of a 32-byte secret, without a copy on the heap.
pub(super) fn secret_from_base64(text: &str) -> Result<[u8; 32]> {
    // `decode_slice` wants room for its own estimate, which is a little over 32 bytes.
    let mut buffer = [0; 36];
    let out = match STANDARD.decode_slice(text, &mut buffer) {
        Ok(32) => buffer.first_chunk().copied(),
        _ => None,
    };
    buffer.zeroize();
    out.ok_or_else(|| Error::damaged("a key that is not base64 of 32 bytes"))
}
