//! The data path of pvback: walking, reading, chunking, hashing, deduplication, compression,
//! sealing, packing, and the way back. Knows neither Python nor the network: objects are read and
//! written through the [`broker`], whose requests the caller pulls.

pub(crate) mod ahead;
pub mod backup;
pub mod blobs;
pub mod broker;
pub mod budget;
pub mod buffers;
pub mod bulk;
pub mod chunk;
pub mod crypto;
pub mod directory;
pub mod documents;
pub mod error;
pub mod format;
pub mod fs;
pub mod globs;
pub mod index;
pub mod job;
pub mod look;
pub mod pages;
pub mod restore;
pub mod scope;
pub mod tree;

pub use error::{Error, ErrorKind, Result};

/// Fills `bytes` with randomness from the operating system.
pub(crate) fn random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|_| Error::internal("the operating system gives no randomness"))
}

/// BLAKE3 of `data`.
pub fn digest(data: &[u8]) -> [u8; 32] {
    *blake3::hash(data).as_bytes()
}

/// 16 random bytes in hex.
pub fn random_id() -> Result<String> {
    let mut bytes = [0; 16];
    random(&mut bytes)?;
    Ok(scope::hex16(&bytes))
}
