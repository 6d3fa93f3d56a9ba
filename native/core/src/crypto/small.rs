//! Small sealed values (slots, bundles, labels): `commitment 32 || ChaCha20-Poly1305 ciphertext`.
//!
//! Commitment and cipher key derive from label, key and context, and the nonce is zero. So **one
//! (label, key, context) may seal one value only**; callers put a salt of their own into the context or
//! the key.

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::kdf::{Label, kdf};
use super::suite::{AeadKey, NONCE_BYTES, Suite, TAG_BYTES};
use super::{Key, wrong_key};
use crate::error::{Error, Result};

const COMMITMENT_BYTES: usize = 32;

/// Bytes that sealing adds.
pub(super) const SMALL_OVERHEAD: usize = COMMITMENT_BYTES + TAG_BYTES;

fn derive(label: Label, key: &Key, ctx: &[u8]) -> Result<(Key, AeadKey)> {
    let mut okm = Zeroizing::new([0; 64]);
    kdf(label, key, ctx, &mut *okm);
    let (commitment, cipher) = okm.split_at(COMMITMENT_BYTES);
    let cipher = Key::from_slice(cipher)?;
    Ok((Key::from_slice(commitment)?, Suite::ChaCha20Poly1305.key(cipher.expose())?))
}

/// Seals `plaintext`; the context is authenticated too.
pub(super) fn small_seal(label: Label, key: &Key, ctx: &[u8], plaintext: &[u8]) -> Result<Vec<u8>> {
    let (commitment, cipher) = derive(label, key, ctx)?;
    let mut out = Vec::with_capacity(plaintext.len() + SMALL_OVERHEAD);
    out.extend_from_slice(commitment.expose());
    out.extend_from_slice(plaintext);
    let (_, body) = out.split_at_mut(COMMITMENT_BYTES);
    let tag = cipher.seal([0; NONCE_BYTES], ctx, body)?;
    out.extend_from_slice(&tag);
    Ok(out)
}

/// Opens what [`small_seal`] made. `WrongKey` if key or context are others, `Damaged` if they are
/// right and the rest is not what was sealed.
pub(super) fn small_open(
    label: Label,
    key: &Key,
    ctx: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let (commitment, cipher) = derive(label, key, ctx)?;
    let Some((stored, body)) = sealed.split_first_chunk::<COMMITMENT_BYTES>() else {
        return Err(Error::damaged("a sealed value that is too short"));
    };
    if !bool::from(stored.ct_eq(commitment.expose())) {
        return Err(wrong_key("the key does not open this"));
    }
    let Some(len) = body.len().checked_sub(TAG_BYTES) else {
        return Err(Error::damaged("a sealed value that is too short"));
    };
    let mut out = Zeroizing::new(vec![0; len]);
    cipher
        .open([0; NONCE_BYTES], ctx, body, &mut out)
        .ok_or_else(|| Error::damaged("a sealed value that is not what was sealed"))?;
    Ok(out)
}
