//! Data keys on their way to those who may read: HPKE (RFC 9180), base mode, X25519,
//! HKDF-SHA256, ChaCha20-Poly1305, to the public key of the scope's data epoch.
//!
//! An envelope, 104 bytes in a pack's directory and in runs:
//!
//! ```text
//! suite u8, 3 zero, epoch u32, origin 16, encapsulated key 32 || ciphertext 48
//! ```
//!
//! Pages and snapshot records need no data key, but their reader must know suite, epoch and source:
//! theirs is an envelope with an all-zero sealed part.

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable, OpModeR, OpModeS, Serializable};
use std::convert::Infallible;
use zeroize::{Zeroize, Zeroizing};

use super::{Key, PrincipalId, RepositoryId, ScopeId, Suite, fill_random};
use crate::error::{Error, Result};

/// Bytes of an envelope.
pub const ENVELOPE_BYTES: usize = 104;

const SEALED_BYTES: usize = 80;
const ENCAPSULATED_BYTES: usize = 32;

type Kem = X25519HkdfSha256;

/// A sealed data key and what it is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Envelope {
    /// The cipher of the blobs.
    pub suite: Suite,
    /// The scope's epoch whose key opens it.
    pub epoch: u32,
    /// Who made the pack.
    pub origin: PrincipalId,
    sealed: [u8; SEALED_BYTES],
}

impl Envelope {
    /// Reads an envelope; an unknown suite is `Unsupported`.
    pub fn from_bytes(bytes: &[u8; ENVELOPE_BYTES]) -> Result<Self> {
        let short = || Error::internal("an envelope shorter than its fields");
        let (&[suite, z0, z1, z2, e0, e1, e2, e3], rest) =
            bytes.split_first_chunk().ok_or_else(short)?;
        let (origin, sealed) = rest.split_first_chunk().ok_or_else(short)?;
        if [z0, z1, z2] != [0; 3] {
            return Err(Error::damaged("an envelope with bytes set that must be zero"));
        }
        Ok(Self {
            suite: Suite::from_byte(suite)?,
            epoch: u32::from_le_bytes([e0, e1, e2, e3]),
            origin: PrincipalId(*origin),
            sealed: sealed.try_into().map_err(|_| short())?,
        })
    }

    /// Who made the pack that an envelope was made for, whatever its suite.
    pub fn origin_of(bytes: &[u8; ENVELOPE_BYTES]) -> PrincipalId {
        let origin = bytes.get(8..).and_then(|rest| rest.first_chunk());
        PrincipalId(origin.copied().unwrap_or_default())
    }

    /// Its bytes in a directory.
    pub fn to_bytes(&self) -> [u8; ENVELOPE_BYTES] {
        let mut out = [0; ENVELOPE_BYTES];
        let suite = [self.suite.to_byte(), 0, 0, 0];
        let epoch = self.epoch.to_le_bytes();
        let fields: [&[u8]; 4] = [&suite, &epoch, &self.origin.0, &self.sealed];
        for (byte, value) in out.iter_mut().zip(fields.into_iter().flatten()) {
            *byte = *value;
        }
        out
    }

    /// What stands in a metadata pack in place of a data key.
    pub fn of_metadata(suite: Suite, epoch: u32, origin: PrincipalId) -> Self {
        Self { suite, epoch, origin, sealed: [0; SEALED_BYTES] }
    }

    /// Whether it is [`Self::of_metadata`].
    pub fn is_of_metadata(&self) -> bool {
        self.sealed == [0; SEALED_BYTES]
    }

    /// Seals `data_key` to the public key of the epoch in `bound`.
    pub(super) fn seal(
        data_key: &Key,
        public: &[u8; 32],
        bound: &Binding,
        suite: Suite,
    ) -> Result<Self> {
        let sealed = hpke_seal(public, &bound.info(), data_key.expose())?;
        let sealed = sealed.try_into().map_err(|_| Error::internal("a data key of odd length"))?;
        Ok(Self { suite, epoch: bound.epoch, origin: bound.origin, sealed })
    }

    /// The data key, by the private key of this envelope's epoch.
    pub(super) fn open(
        &self,
        private: &Key,
        repository: RepositoryId,
        scope: ScopeId,
    ) -> Result<Key> {
        let bound = Binding { repository, scope, epoch: self.epoch, origin: self.origin };
        let opened = hpke_open(private, &bound.info(), &self.sealed)
            .ok_or_else(|| Error::damaged("an envelope is not what was written"))?;
        Key::from_slice(&opened)
    }
}

/// What an envelope is bound to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Binding {
    pub(super) repository: RepositoryId,
    pub(super) scope: ScopeId,
    pub(super) epoch: u32,
    pub(super) origin: PrincipalId,
}

impl Binding {
    pub(super) fn info(&self) -> Vec<u8> {
        let epoch = self.epoch.to_le_bytes();
        [
            b"pvback/1 data key\0".as_slice(),
            &self.repository.0,
            &self.scope.0,
            &epoch,
            &self.origin.0,
        ]
        .concat()
    }
}

/// `encapsulated key || ciphertext` of `plaintext` to the X25519 key `public`, with no extra data.
/// `Damaged` if `public` is no key that one can seal to.
pub(super) fn hpke_seal(public: &[u8; 32], info: &[u8], plaintext: &[u8]) -> Result<Vec<u8>> {
    let mut random = SystemRandom::default();
    hpke_seal_with(&mut random, public, info, plaintext, b"")
}

/// [`hpke_seal`] with a given generator and extra data: for vectors.
pub(super) fn hpke_seal_with(
    random: &mut SystemRandom,
    public: &[u8; 32],
    info: &[u8],
    plaintext: &[u8],
    aad: &[u8],
) -> Result<Vec<u8>> {
    let no_key = |_| Error::damaged("a public key that one cannot seal to");
    let public = <Kem as hpke::Kem>::PublicKey::from_bytes(public).map_err(no_key)?;
    let sealed = hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, Kem>(
        &OpModeS::Base,
        &public,
        info,
        plaintext,
        aad,
        random,
    );
    random.result()?;
    let (encapsulated, ciphertext) = sealed.map_err(no_key)?;
    Ok([encapsulated.to_bytes().as_slice(), &ciphertext].concat())
}

/// Opens what [`hpke_seal`] made; `None` if key, info or bytes are others.
pub(super) fn hpke_open(private: &Key, info: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    hpke_open_with(private, info, sealed, b"")
}

/// [`hpke_open`] with extra data: for vectors.
pub(super) fn hpke_open_with(
    private: &Key,
    info: &[u8],
    sealed: &[u8],
    aad: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let (encapsulated, ciphertext) = sealed.split_at_checked(ENCAPSULATED_BYTES)?;
    let private = <Kem as hpke::Kem>::PrivateKey::from_bytes(private.expose()).ok()?;
    let encapsulated = <Kem as hpke::Kem>::EncappedKey::from_bytes(encapsulated).ok()?;
    hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Kem>(
        &OpModeR::Base,
        &private,
        &encapsulated,
        info,
        ciphertext,
        aad,
    )
    .ok()
    .map(Zeroizing::new)
}

/// The operating system's generator where an interface has no room for its errors: remembers that
/// one happened, to be asked for afterwards.
#[derive(Debug, Default)]
pub(super) struct SystemRandom {
    failed: Option<Error>,
    /// Bytes to hand out in place of random ones, in tests of published vectors.
    #[cfg(test)]
    pub(super) fixed: Option<Vec<u8>>,
}

impl SystemRandom {
    fn result(&mut self) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }
}

impl TryRng for SystemRandom {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        #[cfg(test)]
        if let Some(fixed) = self.fixed.take() {
            out.copy_from_slice(&fixed);
            return Ok(());
        }
        if let Err(error) = fill_random(out) {
            out.zeroize();
            self.failed = Some(error);
        }
        Ok(())
    }
}

impl TryCryptoRng for SystemRandom {}
