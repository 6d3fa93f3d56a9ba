//! Doors for the fuzz targets, compiled with `--cfg fuzzing` only: to what is authentic by the time it is
//! parsed, so that no change to stored bytes gets there.

use super::blob::{BlobKey, BlobKind, BlobOpener};
use super::bundle::Bundle;
use super::kdf::SourceKey;
use super::{Key, RepositoryId, ScopeId, Suite};
use crate::error::Result;

/// Reads a bundle's JSON and writes it again; `None` if it is not read.
pub fn write_bundle_again(json: &[u8]) -> Option<Result<Vec<u8>>> {
    let bundle = Bundle::from_json(json).ok()?;
    Some(bundle.to_json().map(|json| json.to_vec()))
}

/// Seals a blob's plaintext, prefix and all, as somebody with the key could who does not keep to the
/// format, and opens the blob.
pub fn open_forged_blob(plaintext: &[u8]) -> Result<Vec<u8>> {
    let place = (RepositoryId([1; 16]), ScopeId([2; 16]));
    let key = BlobKey::metadata(&SourceKey(Key::new([3; 32])), place, Suite::Aes256Gcm);
    // A record's id is no digest, so nothing but the plaintext itself decides.
    let (id, nonce) = ([0; 32], [4; 12]);
    let (cipher, context) = key.cipher(BlobKind::Snapshot, &id)?;
    let mut body = plaintext.to_vec();
    let tag = cipher.seal(nonce, &context, &mut body)?;
    let sealed = [nonce.as_slice(), &body, &tag].concat();
    BlobOpener::new()?.open(&key, BlobKind::Snapshot, &id, &sealed)
}
