//! Sealing and keys: who can read, write, and vouch for what is stored.
//!
//! From the outside in, every stored object below a scope is
//!
//! 1. one **object** container ([`object`]) under the scope's index key: a committing header and
//!    64 KiB segments, bound to repository, scope, name and type;
//! 2. inside it, for packs, **blobs** ([`blob`]) under keys that derive from a random data key per
//!    pack and the blob's id, so that they move between packs without being opened;
//! 3. the data key in an **envelope** ([`envelope`]) that only holders of the scope's private key
//!    open: a writer seals content that it cannot read back;
//! 4. a **signature block** ([`sign`]) by a principal whom the owner certified for a role.
//!
//! Keys derive from one owner secret ([`kdf`]); each principal holds a **bundle** ([`bundle`]) with
//! just what its role needs, in a **key file** ([`keyfile`]) that any of its **slots** ([`slot`])
//! unlocks. The owner-signed [`config`] says which epochs, public keys and revocations hold. A
//! [`Keyring`] is an unlocked bundle, and [`ScopeKeys`] what it may do in one scope.
//!
//! Randomness comes from the operating system on each use; no generator state lives in this process,
//! so a cloned or restored virtual machine never repeats a nonce, salt or key.

pub mod blob;
pub mod bundle;
pub mod config;
pub mod envelope;
#[cfg(fuzzing)]
pub mod fuzzing;
mod ids;
mod issue;
pub mod kdf;
pub mod keyfile;
mod keyring;
pub mod object;
mod scope;
mod secret;
pub mod sign;
pub mod slot;
mod small;
mod squeeze;
pub mod stretch;
mod suite;
mod text;

#[cfg(test)]
mod tests;

pub use blob::{BlobKey, BlobKind, BlobOpener, BlobSealer, Compression};
pub use config::{Config, StoreFacts};
pub use envelope::Envelope;
pub use ids::{PrincipalId, RepositoryId, ScopeId, SourceId};
pub use issue::{InitOptions, Inspected, InspectedScope, IssueRequest, IssueScope};
pub use kdf::IdKey;
pub use keyfile::KeyFile;
pub use keyring::{Keyring, WriteState};
pub use object::{ObjectBuilder, ObjectKeys, ObjectLayout, ObjectReader, ObjectType};
pub use scope::{ScopeKeys, SourceKeys};
pub use secret::Key;
pub use sign::{Action, Role, Standing};
pub use slot::UnlockSecret;
pub use suite::Suite;

use crate::error::{Error, ErrorKind, Result};
use std::borrow::Cow;

/// The key at hand does not open this, or may not do this.
fn wrong_key(what: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::WrongKey, what)
}

/// The caller's arguments make no sense together.
fn usage(what: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Usage, what)
}

/// Fills `out` from the operating system's generator.
fn fill_random(out: &mut [u8]) -> Result<()> {
    getrandom::fill(out).map_err(|error| {
        Error::new(ErrorKind::Io, format!("no random bytes from the operating system: {error}"))
    })
}

/// `N` bytes from the operating system's generator.
fn random_array<const N: usize>() -> Result<[u8; N]> {
    let mut out = [0; N];
    fill_random(&mut out)?;
    Ok(out)
}
