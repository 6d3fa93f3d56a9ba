//! What an unlocked key may do in one scope. What it may not do it cannot: the key for it is not
//! there.

use std::collections::BTreeMap;

use super::blob::{BlobKey, BlobSealer};
use super::envelope::{Binding, Envelope};
use super::kdf::{DomainKey, IdKey, MetaKey, SourceKey};
use super::keyring::WriteState;
use super::object::{ObjectKeys, ObjectType};
use super::sign::{Action, OwnerKey, SIGNATURE_BLOCK_BYTES, Signer, Verifier};
use super::{Key, PrincipalId, RepositoryId, ScopeId, SourceId, Suite, wrong_key};
use crate::error::{Error, Result};

/// Keys to metadata, by epoch.
#[derive(Clone, Debug)]
pub(super) enum Metadata {
    /// None: a maintainer.
    Blind,
    /// Of every source.
    All(BTreeMap<u32, MetaKey>),
    /// Of some sources.
    Some(BTreeMap<SourceId, BTreeMap<u32, SourceKey>>),
}

/// The keys of one scope that a role holds.
///
/// | | objects | ids, chunker | pages | seal content | open content | sign |
/// |-|-|-|-|-|-|-|
/// | owner | yes | yes | all | yes | yes | all |
/// | restorer | open | yes | all | no | yes | nothing |
/// | writer | yes | yes | its sources | yes | no | its sources |
/// | maintainer | yes | no | no | no | no | prune |
#[derive(Clone, Debug)]
pub struct ScopeKeys {
    pub(super) repository: RepositoryId,
    pub(super) scope: ScopeId,
    pub(super) principal: PrincipalId,
    pub(super) objects: ObjectKeys,
    pub(super) domain: Option<DomainKey>,
    pub(super) metadata: Metadata,
    /// X25519 public key of the write epoch; roles that seal content, if they are up to date.
    pub(super) data_public: Option<[u8; 32]>,
    /// X25519 private keys by epoch; owners and restorers.
    pub(super) data_private: BTreeMap<u32, Key>,
    /// `None` for roles that do not write, and for bundles that a rotation has left behind.
    pub(super) write_epoch: Option<u32>,
    pub(super) write_state: WriteState,
    pub(super) signers: Vec<Signer>,
    pub(super) owner: OwnerKey,
    pub(super) verifier: Verifier,
}

impl ScopeKeys {
    /// Which scope.
    pub fn scope(&self) -> ScopeId {
        self.scope
    }

    /// Seals and opens whole objects.
    pub fn objects(&self) -> &ObjectKeys {
        &self.objects
    }

    /// The same keys, sealing with `suite` whatever this processor is good at.
    #[must_use]
    pub fn with_suite(mut self, suite: Suite) -> Self {
        self.objects = self.objects.with_suite(suite);
        self
    }

    /// The epoch that this key writes in; `WrongKey` if it may not write, or must be issued again.
    pub fn write_epoch(&self) -> Result<u32> {
        self.write_epoch.ok_or_else(|| {
            wrong_key(match self.write_state {
                WriteState::Reads | WriteState::Writes => "this key may not write here",
                WriteState::Behind => {
                    "this key is older than the last rotation of the scope's keys"
                }
                WriteState::Revoked => "this key was revoked",
            })
        })
    }

    /// Names chunks. `WrongKey` for maintainers.
    pub fn id_key(&self) -> Result<IdKey> {
        self.domain().map(DomainKey::id_key)
    }

    /// The chunker's secret. `WrongKey` for maintainers.
    pub fn chunker_secret(&self) -> Result<Key> {
        self.domain().map(DomainKey::chunker)
    }

    /// The id of the source called `name`. `WrongKey` for maintainers.
    pub fn source_id(&self, name: &str) -> Result<SourceId> {
        self.domain().map(|domain| domain.source_id(name))
    }

    fn domain(&self) -> Result<&DomainKey> {
        self.domain.as_ref().ok_or_else(|| wrong_key("a maintainer's key does not name chunks"))
    }

    /// The metadata keys of one source. `WrongKey` for maintainers, and for writers of others.
    pub fn source(&self, source: &SourceId) -> Result<SourceKeys<'_>> {
        let epochs: BTreeMap<u32, SourceKey> = match &self.metadata {
            Metadata::Blind => BTreeMap::new(),
            Metadata::All(epochs) => {
                epochs.iter().map(|(epoch, key)| (*epoch, key.source(source))).collect()
            }
            Metadata::Some(sources) => sources.get(source).cloned().unwrap_or_default(),
        };
        if epochs.is_empty() {
            return Err(wrong_key("this key does not open the metadata of this source"));
        }
        Ok(SourceKeys { scope: self, epochs })
    }

    /// A new data key for one pack's chunks, and the envelope to keep with them. It is wiped when
    /// dropped; from then on only the envelope leads to it.
    pub fn new_data_key(&self) -> Result<(BlobKey, Envelope)> {
        let epoch = self.write_epoch()?;
        let public = self.data_public.ok_or_else(|| wrong_key("this key seals no content"))?;
        let ids = self.id_key()?;
        let suite = self.objects.suite();
        let key = BlobSealer::new_data_key()?;
        let (repository, scope, origin) = (self.repository, self.scope, self.principal);
        let bound = Binding { repository, scope, epoch, origin };
        let envelope = Envelope::seal(&key, &public, &bound, suite)?;
        Ok((BlobKey::data(&key, ids, (repository, scope), suite), envelope))
    }

    /// The data key in an envelope. `WrongKey` for writers, maintainers, and of an epoch that this
    /// key does not hold.
    pub fn open_data_key(&self, envelope: &Envelope) -> Result<BlobKey> {
        let private = self
            .data_private
            .get(&envelope.epoch)
            .ok_or_else(|| wrong_key("this key does not open stored content"))?;
        if envelope.is_of_metadata() {
            return Err(Error::damaged("an envelope without a data key"));
        }
        let place = (self.repository, self.scope);
        let key = envelope.open(private, place.0, place.1)?;
        Ok(BlobKey::data(&key, self.id_key()?, place, envelope.suite))
    }

    /// Signs `body` as the object of this type and name that does `action`. For a pack, the body
    /// is its directory. `WrongKey` if this role may not.
    pub fn sign_block(
        &self,
        kind: ObjectType,
        name: &str,
        action: Action,
        body: &[u8],
    ) -> Result<[u8; SIGNATURE_BLOCK_BYTES]> {
        self.signers
            .iter()
            .find(|signer| action.fits(kind) && action.is_open_to(&signer.certificate))
            .ok_or_else(|| wrong_key("this key may not sign this"))?
            .sign_block(kind, name, body)
    }

    /// Verifies the signature blocks of this scope.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Whose word certificates rest on.
    pub fn owner(&self) -> &OwnerKey {
        &self.owner
    }
}

/// The metadata keys of one source of a scope. Page ids are keyed by epoch too: a rotation rewrites
/// a source's pages once.
#[derive(Clone, Debug)]
pub struct SourceKeys<'a> {
    scope: &'a ScopeKeys,
    epochs: BTreeMap<u32, SourceKey>,
}

impl SourceKeys<'_> {
    /// What seals pages and records now, and the envelope that tells readers how.
    pub fn new_page_key(&self) -> Result<(BlobKey, Envelope)> {
        let suite = self.scope.objects.suite();
        let epoch = self.scope.write_epoch()?;
        let envelope = Envelope::of_metadata(suite, epoch, self.scope.principal);
        Ok((self.open_page_key(&envelope)?, envelope))
    }

    /// What opens the pages and records of an envelope. `WrongKey` of an epoch that this key does not
    /// hold.
    pub fn open_page_key(&self, envelope: &Envelope) -> Result<BlobKey> {
        if !envelope.is_of_metadata() {
            return Err(Error::damaged("pages in an envelope with a data key"));
        }
        let key = self.epochs.get(&envelope.epoch).ok_or_else(|| {
            wrong_key(format!("this key holds no metadata key of epoch {}", envelope.epoch))
        })?;
        let place = (self.scope.repository, self.scope.scope);
        Ok(BlobKey::metadata(key, place, envelope.suite))
    }
}
