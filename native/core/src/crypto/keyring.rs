//! An unlocked bundle beside the config that it is valid for: what a process may do in a
//! repository. What owners do besides (issue key files, change the config) is in `issue.rs`; it comes
//! out as bytes for the caller to store, and takes effect here only by [`Keyring::set_config`].

use std::collections::BTreeMap;

use super::bundle::{Bundle, BundleCertificate, BundleEpoch, BundleScope, BundleSource};
use super::config::{Config, ScopeEntry};
use super::issue::{FIRST_EPOCH, label_context, owner_key};
use super::kdf::{DomainKey, Label, Master, MetaKey, SourceKey};
use super::object::ObjectKeys;
use super::scope::{Metadata, ScopeKeys};
use super::sign::{Certificate, Role, Signer, Verifier, signing_key};
use super::slot::UnlockSecret;
use super::small::small_open;
use super::stretch::Passphrase;
use super::{Key, KeyFile, PrincipalId, RepositoryId, ScopeId, SourceId, wrong_key};
use crate::error::{Error, Result};

/// Whether a key writes in a scope, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WriteState {
    /// It does.
    Writes,
    /// Its role only reads.
    Reads,
    /// The scope has gone on to an epoch that its bundle does not hold: it has to be issued again.
    Behind,
    /// Its signatures count no longer.
    Revoked,
}

/// An unlocked bundle.
#[derive(Clone, Debug)]
pub struct Keyring {
    pub(super) secret: UnlockSecret,
    pub(super) principal: PrincipalId,
    pub(super) serial: u32,
    pub(super) bundle: Bundle,
    pub(super) config: Config,
}

impl Keyring {
    /// Unlocks a key file with a passphrase; `WrongKey` if it is not the right one.
    pub fn unlock_passphrase<'a>(
        config: Config,
        file: &KeyFile,
        passphrase: impl Into<Passphrase<'a>>,
    ) -> Result<Self> {
        Self::unlock(config, file, file.unlock_passphrase(passphrase)?)
    }

    /// Unlocks a key file with an X25519 private key; `WrongKey` if no slot is for it. Anybody can
    /// seal to a public key: pin the owner when parsing the config, or trust on first use.
    pub fn unlock_x25519(config: Config, file: &KeyFile, private: &Key) -> Result<Self> {
        Self::unlock(config, file, file.unlock_x25519(private)?)
    }

    /// Unlocks a key file with the unlock secret itself, as a mover or a command hands it over.
    pub fn unlock_secret(config: Config, file: &KeyFile, secret: &[u8]) -> Result<Self> {
        Self::unlock(config, file, UnlockSecret::from_bytes(secret)?)
    }

    fn unlock(config: Config, file: &KeyFile, secret: UnlockSecret) -> Result<Self> {
        if secret.repository != config.repository() || secret.owner != *config.owner() {
            return Err(wrong_key("the key is for another repository, or of another owner"));
        }
        let bundle = file.open_bundle(&secret)?;
        if let Some(master) = &bundle.master
            && owner_key(&Master(master.clone()))? != secret.owner
        {
            return Err(Error::damaged("an owner's bundle with another owner's key"));
        }
        let keyring =
            Self { secret, principal: file.principal(), serial: file.serial(), bundle, config };
        keyring.check_rolled_back(&keyring.config)?;
        Ok(keyring)
    }

    /// A bundle that knows a later epoch than the config: the store shows an old config.
    fn check_rolled_back(&self, config: &Config) -> Result<()> {
        let is_ahead = |held: &BundleScope| {
            let current = config.scope(&held.scope).map_or(0, |entry| entry.epoch);
            held.epochs.last().is_some_and(|last| last.epoch > current)
        };
        if self.bundle.scopes.iter().any(is_ahead) {
            return Err(
                Error::damaged("the config is older than the key: rolled back").at("config")
            );
        }
        Ok(())
    }

    /// Takes over a later config of the same repository. `Damaged` if it is an earlier one.
    pub fn set_config(&mut self, config: Config) -> Result<()> {
        if config.repository() != self.secret.repository || *config.owner() != self.secret.owner {
            return Err(wrong_key("the config of another repository, or of another owner"));
        }
        if config.serial() < self.config.serial() {
            return Err(Error::damaged("an older config than before: rolled back").at("config"));
        }
        self.check_rolled_back(&config)?;
        self.config = config;
        Ok(())
    }

    /// The role.
    pub fn role(&self) -> Role {
        self.bundle.role
    }

    /// Whose key it is.
    pub fn principal(&self) -> PrincipalId {
        self.principal
    }

    /// What people call its holder.
    pub fn label(&self) -> &str {
        &self.bundle.label
    }

    /// The config that it is valid for.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What to seal new slots of its key file with.
    pub fn secret(&self) -> &UnlockSecret {
        &self.secret
    }

    /// The scopes that this key holds something of.
    pub fn scopes(&self) -> Vec<ScopeId> {
        if self.bundle.master.is_some() {
            return self.config.scopes().iter().map(|entry| entry.id).collect();
        }
        self.bundle.scopes.iter().map(|held| held.scope).collect()
    }

    /// Whether this key writes in `scope`. `WrongKey` if it holds nothing of it.
    pub fn write_state(&self, scope: &ScopeId) -> Result<WriteState> {
        self.scope(scope).map(|keys| keys.write_state)
    }

    /// What this key may do in `scope`. `WrongKey` if nothing.
    pub fn scope(&self, scope: &ScopeId) -> Result<ScopeKeys> {
        let nothing = || wrong_key(format!("this key holds nothing of scope {scope}"));
        let entry = self.config.scope(scope).ok_or_else(nothing)?;
        let (held, seed) = if let Some(master) = &self.bundle.master {
            let master = Master(master.clone());
            let seed = master.write().principal_seed(&self.principal);
            (self.owned_scope(&master, entry)?, Some(seed))
        } else {
            let held = self.bundle.scopes.iter().find(|held| held.scope == *scope);
            (held.ok_or_else(nothing)?.clone(), self.bundle.seed.clone())
        };
        self.scope_keys(entry, &held, seed.as_ref())
    }

    fn scope_keys(
        &self,
        entry: &ScopeEntry,
        held: &BundleScope,
        seed: Option<&Key>,
    ) -> Result<ScopeKeys> {
        let (repository, owner) = (self.secret.repository, self.secret.owner);
        let latest = held.epochs.last().filter(|last| last.epoch == entry.epoch);
        let data_public = latest.and_then(|last| last.public.as_ref()).map(|public| public.0);
        if data_public.is_some_and(|public| public != *entry.public_key()) {
            return Err(Error::damaged("key and config disagree on a public key"));
        }
        let write_state = match (seed, latest) {
            _ if self.config.is_revoked(&self.principal) => WriteState::Revoked,
            (None, _) => WriteState::Reads,
            (Some(_), None) => WriteState::Behind,
            (Some(_), Some(_)) => WriteState::Writes,
        };
        let write_epoch = latest.filter(|_| write_state == WriteState::Writes);
        let write_epoch = write_epoch.map(|last| last.epoch);
        let index = held.epochs.iter().map(|held| (held.epoch, held.index.clone())).collect();
        let private = |held: &BundleEpoch| Some((held.epoch, held.private.clone()?));
        let place = (repository, entry.id);
        Ok(ScopeKeys {
            repository,
            scope: entry.id,
            principal: self.principal,
            objects: ObjectKeys::new(repository, entry.id, index, write_epoch),
            domain: held.domain.clone().map(DomainKey),
            metadata: metadata(held),
            data_public,
            data_private: held.epochs.iter().filter_map(private).collect(),
            write_epoch,
            write_state,
            signers: signers(held, seed)?,
            owner,
            verifier: Verifier::new(owner, place, self.config.revoked()),
        })
    }

    /// What people call a scope; `None` if this key cannot read labels.
    pub fn scope_label(&self, scope: &ScopeId) -> Result<Option<String>> {
        let Some(entry) = self.config.scope(scope) else {
            return Err(wrong_key(format!("there is no scope {scope}")));
        };
        let held = self.bundle.scopes.iter().find(|held| held.scope == *scope);
        let first = held.and_then(|held| held.epochs.first()).filter(|e| e.epoch == FIRST_EPOCH);
        let key = match &self.bundle.master {
            Some(master) => Some(Master(master.clone()).write().meta(scope, FIRST_EPOCH).0),
            None => first.and_then(|epoch| epoch.meta.clone()),
        };
        key.map(|key| open_label(&key, self.secret.repository, entry)).transpose()
    }
}

fn metadata(held: &BundleScope) -> Metadata {
    let Some(sources) = &held.sources else {
        let meta = |epoch: &BundleEpoch| Some((epoch.epoch, MetaKey(epoch.meta.clone()?)));
        let epochs: BTreeMap<_, _> = held.epochs.iter().filter_map(meta).collect();
        return if epochs.is_empty() { Metadata::Blind } else { Metadata::All(epochs) };
    };
    let mut out: BTreeMap<SourceId, BTreeMap<u32, SourceKey>> = BTreeMap::new();
    for epoch in &held.epochs {
        for BundleSource { source, key } in &epoch.source_keys {
            if sources.contains(source) {
                out.entry(*source).or_default().insert(epoch.epoch, SourceKey(key.clone()));
            }
        }
    }
    Metadata::Some(out)
}

fn signers(held: &BundleScope, seed: Option<&Key>) -> Result<Vec<Signer>> {
    let Some(seed) = seed else {
        return Ok(Vec::new());
    };
    let signer = |held: &BundleCertificate| {
        let certificate = Certificate::from_bytes(&held.certificate.0)?;
        Ok(Signer { key: signing_key(seed), certificate, owner_signature: held.signature.0 })
    };
    held.certificates.iter().map(signer).collect()
}

fn open_label(key: &Key, repository: RepositoryId, entry: &ScopeEntry) -> Result<String> {
    let malformed = || Error::damaged("a malformed scope label").at("config");
    let (salt, sealed) = entry.sealed_label().split_first_chunk().ok_or_else(malformed)?;
    let context = label_context(repository, entry.id, salt);
    let label = small_open(Label::ScopeLabel, key, &context, sealed).map_err(|_| malformed())?;
    String::from_utf8(label.to_vec()).map_err(|_| malformed())
}
