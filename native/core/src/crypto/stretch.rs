//! From a passphrase to a key: Argon2id (RFC 9106) within limits, and that done before it is known
//! whether anybody needs it.

use std::fmt;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::Zeroizing;

use super::Key;
use crate::error::{Error, Result};

/// Least and greatest memory of Argon2id, in KiB: RFC 9106's second recommendation, and what no
/// machine that restores should be made to allocate by whoever writes to the store.
pub const ARGON2_MEMORY_KIB: (u32, u32) = (64 << 10, 1 << 20);
/// Least and greatest number of passes.
pub const ARGON2_PASSES: (u32, u32) = (3, 16);
/// Least and greatest number of lanes.
pub const ARGON2_LANES: (u32, u32) = (4, 16);

pub(super) const ARGON2_VERSION: u32 = 0x13;
/// Length of a salt.
pub const SALT_BYTES: usize = 16;

/// The cost of a passphrase guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for Argon2Cost {
    /// 64 MiB, 3 passes, 4 lanes: the second setting that RFC 9106 recommends.
    fn default() -> Self {
        Self { memory_kib: 64 << 10, passes: 3, lanes: 4 }
    }
}

impl Argon2Cost {
    /// Whether all three lie within the limits.
    pub fn is_allowed(&self) -> bool {
        let within = |value, (least, greatest)| (least..=greatest).contains(&value);
        within(self.memory_kib, ARGON2_MEMORY_KIB)
            && within(self.passes, ARGON2_PASSES)
            && within(self.lanes, ARGON2_LANES)
    }

    /// Argon2id of `passphrase`. The caller has checked the limits.
    pub(super) fn stretch(&self, passphrase: &[u8], salt: &[u8]) -> Result<Key> {
        let failed = |error| Error::internal(format!("Argon2id: {error}"));
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32));
        let params = params.map_err(failed)?;
        let mut memory = Zeroizing::new(crate::buffers::with_room(params.block_count())?);
        memory.resize(params.block_count(), Block::default());
        let mut out = Key::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into_with_memory(
                passphrase,
                salt,
                out.expose_mut(),
                memory.as_mut_slice(),
            )
            .map_err(failed)?;
        Ok(out)
    }
}

/// What a passphrase is stretched to for one salt and cost, made ahead: a good part of a second, spent
/// while somebody waits for the slot. It holds the passphrase too, so that it serves no other one.
/// Wiped when dropped.
pub struct Stretched {
    pub(super) passphrase: Zeroizing<Vec<u8>>,
    pub(super) salt: [u8; SALT_BYTES],
    pub(super) cost: Argon2Cost,
    pub(super) key: Key,
}

impl Stretched {
    /// `Unsupported`, before any work, if the cost lies outside the limits.
    pub fn new(passphrase: &[u8], salt: [u8; SALT_BYTES], cost: Argon2Cost) -> Result<Self> {
        if !cost.is_allowed() {
            return Err(Error::unsupported("Argon2 limits out of bounds"));
        }
        let key = cost.stretch(passphrase, &salt)?;
        Ok(Self { passphrase: Zeroizing::new(passphrase.to_vec()), salt, cost, key })
    }
}

impl fmt::Debug for Stretched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stretched").field("cost", &self.cost).finish_non_exhaustive()
    }
}

/// A passphrase that is tried, and what of it may have been stretched ahead.
#[derive(Clone, Copy)]
pub struct Passphrase<'a> {
    bytes: &'a [u8],
    ahead: Option<&'a Stretched>,
}

impl<'a> Passphrase<'a> {
    /// With `ahead` made of whatever passphrase, salt and cost: it is used only where they are the same.
    pub fn with(bytes: &'a [u8], ahead: Option<&'a Stretched>) -> Self {
        Self { bytes, ahead }
    }

    /// Its key for a salt. The caller has checked the limits of the cost.
    pub(super) fn stretch(&self, salt: &[u8; SALT_BYTES], cost: Argon2Cost) -> Result<Key> {
        let is_same = |made: &&Stretched| {
            // Whoever times this has given both passphrases.
            made.cost == cost && made.salt == *salt && made.passphrase.as_slice() == self.bytes
        };
        match self.ahead.filter(is_same) {
            Some(made) => Ok(made.key.clone()),
            None => cost.stretch(self.bytes, salt),
        }
    }
}

impl<'a> From<&'a [u8]> for Passphrase<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::with(bytes, None)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Passphrase<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::with(bytes, None)
    }
}
