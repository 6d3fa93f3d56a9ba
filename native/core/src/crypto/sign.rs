//! Who vouches for an object. The 240 bytes that end every plaintext:
//!
//! ```text
//! certificate 112   "PVBKCRT1", repository 16, scope 16, principal 16, source 16 (zero: any),
//!                   role u8, 3 zero, serial u32, verifying key 32
//! owner signature 64     over the certificate
//! signature 64           over "pvback/1 sig\0", type, repository, scope, u16 length and name,
//!                        BLAKE3(body)
//! ```
//!
//! Ed25519. Both signatures are verified strictly, and keys of small order are refused: some
//! libraries let those "verify" any message.

use std::collections::BTreeMap;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use super::config::Revoked;
use super::{Key, ObjectType, PrincipalId, RepositoryId, ScopeId, SourceId, usage};
use crate::error::{Error, Result};

/// Bytes of a signature block.
pub const SIGNATURE_BLOCK_BYTES: usize = 240;

pub(super) const CERTIFICATE_BYTES: usize = 112;
pub(super) const SIGNATURE_BYTES: usize = 64;
const MAGIC: &[u8; 8] = b"PVBKCRT1";

/// What a principal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Role {
    /// May do everything.
    Owner = 1,
    /// Reads all of its scopes, signs nothing.
    Restorer = 2,
    /// Backs up, and reads the metadata of its sources, but no content.
    Writer = 3,
    /// Checks, prunes and repacks without seeing names or content.
    Maintainer = 4,
}

impl Role {
    fn from_byte(byte: u8) -> Result<Self> {
        match byte {
            1 => Ok(Self::Owner),
            2 => Ok(Self::Restorer),
            3 => Ok(Self::Writer),
            4 => Ok(Self::Maintainer),
            other => Err(Error::unsupported(format!("a certificate of unknown role {other}"))),
        }
    }
}

/// What an object does by being there: decides who may sign it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Adds and takes nothing away: packs with the signer's own envelopes, runs, reference sets.
    /// Writers (of any source), maintainers, owners.
    Add,
    /// Stands for a source's state: snapshot records, registers OPEN. Writers of that source, owners.
    /// `sequence` is the source's snapshot number.
    Snapshot {
        /// The source.
        source: SourceId,
        /// Its snapshot number.
        sequence: u64,
    },
    /// Stands in another snapshot's place, at its time: records of snapshots that were written around what
    /// is lost. Owners.
    Rewrite {
        /// The source.
        source: SourceId,
        /// Its snapshot number.
        sequence: u64,
    },
    /// Says that a snapshot exists: registers COMMITTED. Who may sign its record, and maintainers: they
    /// bring back what was forgotten, and the record that is named says by itself what is true.
    Commit {
        /// The source.
        source: SourceId,
        /// Its snapshot number.
        sequence: u64,
    },
    /// Takes something away or in another's name: runs that supersede, packs with others' envelopes,
    /// registers FENCED, FORGOTTEN or DEAD, `gc/state`. Maintainers, owners.
    Replace,
}

impl Action {
    pub(super) fn fits(self, kind: ObjectType) -> bool {
        match (self, kind) {
            (Self::Rewrite { .. }, kind) => kind == ObjectType::SnapshotRecord,
            (_, ObjectType::Register)
            | (Self::Snapshot { .. }, ObjectType::SnapshotRecord)
            | (Self::Replace, ObjectType::GcState | ObjectType::GcList | ObjectType::Marks) => {
                self != Self::Add
            }
            (
                Self::Add | Self::Replace,
                ObjectType::DataPack
                | ObjectType::MetadataPack
                | ObjectType::Run
                | ObjectType::ReferenceSet,
            ) => true,
            _ => false,
        }
    }

    pub(super) fn is_open_to(self, certificate: &Certificate) -> bool {
        match (self, certificate.role) {
            (_, Role::Owner)
            | (Self::Add, Role::Writer | Role::Maintainer)
            | (Self::Replace | Self::Commit { .. }, Role::Maintainer) => true,
            (Self::Snapshot { source, .. } | Self::Commit { source, .. }, Role::Writer) => {
                certificate.source == source || certificate.source == SourceId::ANY
            }
            _ => false,
        }
    }
}

/// The owner's word that a key belongs to a principal in a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    pub(super) repository: RepositoryId,
    pub(super) scope: ScopeId,
    pub(super) principal: PrincipalId,
    pub(super) source: SourceId,
    pub(super) role: Role,
    pub(super) serial: u32,
    pub(super) key: [u8; 32],
}

impl Certificate {
    pub(super) fn to_bytes(&self) -> [u8; CERTIFICATE_BYTES] {
        let mut out = [0; CERTIFICATE_BYTES];
        let serial = self.serial.to_le_bytes();
        let role = [self.role as u8, 0, 0, 0];
        let ids = [&self.repository.0, &self.scope.0, &self.principal.0, &self.source.0];
        let fields =
            [MAGIC.as_slice()].into_iter().chain(ids.into_iter().map(<[u8; 16]>::as_slice));
        let fields = fields.chain([role.as_slice(), &serial, &self.key]);
        for (byte, value) in out.iter_mut().zip(fields.flatten()) {
            *byte = *value;
        }
        out
    }

    pub(super) fn from_bytes(bytes: &[u8; CERTIFICATE_BYTES]) -> Result<Self> {
        let short = || Error::internal("a certificate shorter than its fields");
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
        let (ids, rest) = rest.split_at_checked(64).ok_or_else(short)?;
        let (&[role, z0, z1, z2, s0, s1, s2, s3], key) =
            rest.split_first_chunk().ok_or_else(short)?;
        let &[repository, scope, principal, source] = ids.as_chunks::<16>().0 else {
            return Err(short());
        };
        if magic != MAGIC || [z0, z1, z2] != [0; 3] {
            return Err(Error::damaged("not a certificate"));
        }
        Ok(Self {
            repository: RepositoryId(repository),
            scope: ScopeId(scope),
            principal: PrincipalId(principal),
            source: SourceId(source),
            role: Role::from_byte(role)?,
            serial: u32::from_le_bytes([s0, s1, s2, s3]),
            key: key.try_into().map_err(|_| short())?,
        })
    }
}

/// A principal's signing key with the owner's word for it.
#[derive(Clone, Debug)]
pub(super) struct Signer {
    pub(super) key: SigningKey,
    pub(super) certificate: Certificate,
    pub(super) owner_signature: [u8; SIGNATURE_BYTES],
}

impl Signer {
    pub(super) fn sign_block(
        &self,
        kind: ObjectType,
        name: &str,
        body: &[u8],
    ) -> Result<[u8; SIGNATURE_BLOCK_BYTES]> {
        let Certificate { repository, scope, .. } = self.certificate;
        let message = message(kind, (repository, scope), name, &blake3::hash(body))?;
        let signature = self.key.sign(&message).to_bytes();
        let mut out = [0; SIGNATURE_BLOCK_BYTES];
        let certificate = self.certificate.to_bytes();
        let fields: [&[u8]; 3] = [&certificate, &self.owner_signature, &signature];
        for (byte, value) in out.iter_mut().zip(fields.into_iter().flatten()) {
            *byte = *value;
        }
        Ok(out)
    }
}

pub(super) fn message(
    kind: ObjectType,
    (repository, scope): (RepositoryId, ScopeId),
    name: &str,
    digest: &blake3::Hash,
) -> Result<Vec<u8>> {
    let name_bytes = u16::try_from(name.len())
        .map_err(|_| usage("an object name of more than 65,535 bytes"))?
        .to_le_bytes();
    Ok([
        b"pvback/1 sig\0".as_slice(),
        &[kind.to_byte()],
        &repository.0,
        &scope.0,
        &name_bytes,
        name.as_bytes(),
        digest.as_bytes(),
    ]
    .concat())
}

/// The Ed25519 key of a 32-byte seed.
pub(super) fn signing_key(seed: &Key) -> SigningKey {
    SigningKey::from_bytes(seed.expose())
}

/// The one key that vouches for all others: its holder is the repository's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerKey(VerifyingKey);

impl OwnerKey {
    /// Reads a verifying key; `Damaged` if it is none, or one of small order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self> {
        verifying_key(bytes).map(Self)
    }

    /// Its 32 bytes: what a pinned fingerprint is compared with.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Verifies a signature by the owner.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8; 64]) -> Result<()> {
        verify(&self.0, message, signature)
            .map_err(|_| Error::damaged("not signed by the repository's owner"))
    }
}

fn verifying_key(bytes: &[u8; 32]) -> Result<VerifyingKey> {
    match VerifyingKey::from_bytes(bytes) {
        Ok(key) if !key.is_weak() => Ok(key),
        _ => Err(Error::damaged("a verifying key that proves nothing")),
    }
}

fn verify(key: &VerifyingKey, message: &[u8], signature: &[u8; 64]) -> Result<()> {
    key.verify_strict(message, &Signature::from_bytes(signature))
        .map_err(|_| Error::damaged("a signature does not match"))
}

/// How far a valid signature is to be believed today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its signer is in office.
    Good,
    /// Its signer has been revoked since, or before. Only packs, runs and reference sets get this:
    /// they may be read, since old snapshots need them, but nothing new should build on them (no
    /// deduplication against them). Registers and `gc/state` of a revoked principal are refused; who
    /// revokes signs them anew.
    Revoked,
}

/// Who signed an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedBy {
    /// The principal.
    pub principal: PrincipalId,
    /// In which role.
    pub role: Role,
    /// Serial of the key file that the certificate came with.
    pub serial: u32,
    /// How far to believe it.
    pub standing: Standing,
}

/// Verifies signature blocks of one scope by one state of the config.
#[derive(Clone, Debug)]
pub struct Verifier {
    owner: OwnerKey,
    repository: RepositoryId,
    scope: ScopeId,
    revoked: BTreeMap<PrincipalId, Revoked>,
}

impl Verifier {
    pub(super) fn new(
        owner: OwnerKey,
        (repository, scope): (RepositoryId, ScopeId),
        revoked: &[Revoked],
    ) -> Self {
        let revoked = revoked.iter().map(|entry| (entry.principal, entry.clone())).collect();
        Self { owner, repository, scope, revoked }
    }

    /// Whether anybody has been revoked.
    pub fn has_revoked(&self) -> bool {
        !self.revoked.is_empty()
    }

    /// Whether this principal has been revoked: what it sealed may be read, and nothing new builds on it.
    pub fn is_revoked(&self, principal: &PrincipalId) -> bool {
        self.revoked.contains_key(principal)
    }

    /// Verifies that `block` signs `body` as the object of this type and name, by somebody who may
    /// do `action`. `Damaged` if a signature, name or place does not match, or the signer may not do
    /// this, or no longer: whatever key is at hand, these are not the bytes that belong here.
    pub fn verify(
        &self,
        kind: ObjectType,
        name: &str,
        action: Action,
        body: &[u8],
        block: &[u8; SIGNATURE_BLOCK_BYTES],
    ) -> Result<SignedBy> {
        self.verify_digest(kind, name, action, &blake3::hash(body), block)
    }

    /// The same for a body that was read piece by piece, of which the digest is at hand.
    pub fn verify_digest(
        &self,
        kind: ObjectType,
        name: &str,
        action: Action,
        digest: &blake3::Hash,
        block: &[u8; SIGNATURE_BLOCK_BYTES],
    ) -> Result<SignedBy> {
        self.verify_unnamed(kind, name, action, digest, block).map_err(|error| error.at(name))
    }

    fn verify_unnamed(
        &self,
        kind: ObjectType,
        name: &str,
        action: Action,
        digest: &blake3::Hash,
        block: &[u8; SIGNATURE_BLOCK_BYTES],
    ) -> Result<SignedBy> {
        let short = || Error::internal("a signature block shorter than its fields");
        let (certified, rest) = block.split_first_chunk().ok_or_else(short)?;
        let (owner_signature, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let signature = rest.try_into().map_err(|_| short())?;
        let certificate = Certificate::from_bytes(certified)?;
        if certificate.repository != self.repository || certificate.scope != self.scope {
            return Err(Error::damaged("signed for another repository or scope"));
        }
        self.owner.verify(certified, owner_signature)?;
        let message = message(kind, (self.repository, self.scope), name, digest)?;
        verify(&verifying_key(&certificate.key)?, &message, signature)?;
        if !action.fits(kind) || !action.is_open_to(&certificate) {
            let role = format!("{:?}", certificate.role).to_lowercase();
            return Err(Error::damaged(format!("signed by a {role}, who may not do this")));
        }
        Ok(SignedBy {
            principal: certificate.principal,
            role: certificate.role,
            serial: certificate.serial,
            standing: self.standing(&certificate.principal, kind, action)?,
        })
    }

    fn standing(
        &self,
        principal: &PrincipalId,
        kind: ObjectType,
        action: Action,
    ) -> Result<Standing> {
        let Some(revoked) = self.revoked.get(principal) else {
            return Ok(Standing::Good);
        };
        match (action, kind) {
            (
                Action::Snapshot { source, sequence }
                | Action::Rewrite { source, sequence }
                | Action::Commit { source, sequence },
                _,
            ) => match revoked.sequences.get(&source) {
                Some(last) if sequence <= *last => Ok(Standing::Good),
                _ => Err(Error::damaged("a snapshot signed by a principal after it was revoked")),
            },
            (
                _,
                ObjectType::Register
                | ObjectType::GcState
                | ObjectType::GcList
                | ObjectType::Marks
                | ObjectType::SnapshotRecord,
            ) => Err(Error::damaged("signed by a principal who was revoked")),
            _ => Ok(Standing::Revoked),
        }
    }
}
