//! What owners do: make a repository, issue key files, change the config.

use ed25519_dalek::Signer as _;
use x25519_dalek::{PublicKey, StaticSecret};

use super::bundle::{Bundle, BundleCertificate, BundleEpoch, BundleScope, BundleSource};
use super::config::{ChunkerParams, Config, Revoked, ScopeEntry, StoreFacts};
use super::kdf::{Label, Master};
use super::keyring::Keyring;
use super::sign::{Certificate, OwnerKey, Role, signing_key};
use super::slot::UnlockSecret;
use super::small::small_seal;
use super::text::Base64Array;
use super::{
    Key, KeyFile, PrincipalId, RepositoryId, ScopeId, SourceId, random_array, usage, wrong_key,
};
use crate::error::{Error, Result};

/// Bytes of salt before a sealed label.
pub(super) const LABEL_SALT_BYTES: usize = 16;
/// The epoch that a scope starts in, and whose metadata key seals its label.
pub(super) const FIRST_EPOCH: u32 = 1;
/// More rotations than any scope sees; keeps a wrong number from filling the memory with keys.
const EPOCHS_MAX: u32 = 4096;

/// What a new repository starts with.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// How content is cut.
    pub chunker: ChunkerParams,
    /// What people call the first scope.
    pub scope_label: String,
    /// What people call the owner's key file.
    pub owner_label: String,
    /// What was found out about the store; `None`: it keeps conditions on writes.
    pub store: Option<StoreFacts>,
}

impl Default for InitOptions {
    fn default() -> Self {
        let (scope_label, owner_label) = ("default".to_owned(), "owner".to_owned());
        Self { chunker: ChunkerParams::default(), scope_label, owner_label, store: None }
    }
}

/// What to issue a key file for.
#[derive(Clone, Debug)]
pub struct IssueRequest {
    /// The role. Owners hold all scopes and name none.
    pub role: Role,
    /// What people call the principal; seen only by its holder and owners.
    pub label: String,
    /// In which scopes.
    pub scopes: Vec<IssueScope>,
}

/// A scope to issue a key file for.
#[derive(Clone, Debug)]
pub struct IssueScope {
    /// Which scope.
    pub scope: ScopeId,
    /// Writers only: the sources that it backs up, none for all.
    pub sources: Option<Vec<SourceId>>,
}

/// What a key file says of its holder.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// The role.
    pub role: Role,
    /// What people call the principal.
    pub label: String,
    /// What it holds; owners hold everything, which is not listed.
    pub scopes: Vec<InspectedScope>,
}

/// A scope of a key file.
#[derive(Clone, Debug)]
pub struct InspectedScope {
    /// Which scope.
    pub scope: ScopeId,
    /// The last epoch that the file has keys of.
    pub epoch: u32,
    /// The only sources of a writer; `None`: all.
    pub sources: Option<Vec<SourceId>>,
}

impl Keyring {
    /// Makes the keys of a new repository: its owner's keyring, config and key file. The key file
    /// has no slots: add two ways to unlock it before storing it, for without one all is lost.
    pub fn init_repository(options: &InitOptions) -> Result<(Self, Vec<u8>, KeyFile)> {
        let master = Master::random()?;
        let repository = RepositoryId::random()?;
        let owner = owner_key(&master)?;
        let principal = PrincipalId::random()?;
        let mut config =
            Config::new(repository, owner, options.chunker.clone(), options.store.clone());
        config.add_scope(new_scope(&master, repository, &options.scope_label)?);
        config.increment_serial()?;
        let bytes = config.sign(&master.owner_seed())?;
        let identity = master.write().identity(&principal);
        let secret = UnlockSecret { identity, owner, repository };
        let mut bundle = Bundle::new(Role::Owner, &options.owner_label);
        bundle.master = Some(master.0.clone());
        let key_file = KeyFile::seal(&secret, principal, 1, &bundle, &master.owner_seed())?;
        Ok((Self { secret, principal, serial: 1, bundle, config }, bytes, key_file))
    }

    pub(super) fn master(&self) -> Result<Master> {
        let master = self.bundle.master.clone().map(Master);
        master.ok_or_else(|| wrong_key("only an owner's key may do this"))
    }

    /// Issues a key file to a new principal: the file, without slots, and the secret to seal them
    /// with. Owners only.
    pub fn issue(&self, request: &IssueRequest) -> Result<(KeyFile, UnlockSecret)> {
        self.issue_to(PrincipalId::random()?, 1, request)
    }

    /// Issues a key file again, with the keys of all epochs up to now and its slots as they are. No
    /// passphrase is needed: owners know every principal's identity key. Owners only.
    pub fn issue_again(&self, older: &KeyFile) -> Result<KeyFile> {
        let held = older.open_bundle(&self.secret_of(&self.master()?, &older.principal()))?;
        let scopes = held.scopes.into_iter();
        let scopes = scopes.map(|held| IssueScope { scope: held.scope, sources: held.sources });
        let request = IssueRequest { role: held.role, label: held.label, scopes: scopes.collect() };
        let serial = older.serial().checked_add(1);
        let serial = serial.ok_or_else(|| Error::damaged("a key file with no serial left"))?;
        let (mut file, _) = self.issue_to(older.principal(), serial, &request)?;
        file.keep_slots_of(older);
        Ok(file)
    }

    /// What is known of a key file, its bundle opened and its owner's signature verified: `None` for
    /// those of others where this is not an owner's key.
    pub fn inspect(&self, file: &KeyFile) -> Result<Option<Inspected>> {
        let bundle = if file.principal() == self.principal {
            file.open_bundle(&self.secret)?
        } else if let Ok(master) = self.master() {
            file.open_bundle(&self.secret_of(&master, &file.principal()))?
        } else {
            return Ok(None);
        };
        let scope = |held: &BundleScope| InspectedScope {
            scope: held.scope,
            epoch: held.epochs.last().map_or(0, |last| last.epoch),
            sources: held.sources.clone(),
        };
        let scopes = bundle.scopes.iter().map(scope).collect();
        Ok(Some(Inspected { role: bundle.role, label: bundle.label.clone(), scopes }))
    }

    /// What unlocks a key file: any for owners, their own for others; `WrongKey` otherwise.
    pub fn unlock_secret_of(&self, file: &KeyFile) -> Result<UnlockSecret> {
        if file.principal() == self.principal {
            return Ok(self.secret.clone());
        }
        Ok(self.secret_of(&self.master()?, &file.principal()))
    }

    fn secret_of(&self, master: &Master, principal: &PrincipalId) -> UnlockSecret {
        let identity = master.write().identity(principal);
        UnlockSecret { identity, owner: self.secret.owner, repository: self.secret.repository }
    }

    fn issue_to(
        &self,
        principal: PrincipalId,
        serial: u32,
        request: &IssueRequest,
    ) -> Result<(KeyFile, UnlockSecret)> {
        let master = self.master()?;
        let is_owner = request.role == Role::Owner;
        if is_owner != request.scopes.is_empty() {
            return Err(usage("name scopes for every role but owner, and none for that"));
        }
        let mut bundle = Bundle::new(request.role, &request.label);
        bundle.master = is_owner.then(|| master.0.clone());
        if matches!(request.role, Role::Writer | Role::Maintainer) {
            bundle.seed = Some(master.write().principal_seed(&principal));
        }
        for wanted in &request.scopes {
            if wanted.sources.is_some() && request.role != Role::Writer {
                return Err(usage("only a writer can be limited to sources"));
            }
            if bundle.scopes.iter().any(|held| held.scope == wanted.scope) {
                return Err(usage("a scope named twice"));
            }
            let holder = Holder { role: request.role, principal, serial };
            bundle.scopes.push(self.issue_scope(&master, &holder, wanted)?);
        }
        let secret = self.secret_of(&master, &principal);
        let file = KeyFile::seal(&secret, principal, serial, &bundle, &master.owner_seed())?;
        Ok((file, secret))
    }

    fn issue_scope(
        &self,
        master: &Master,
        holder: &Holder,
        wanted: &IssueScope,
    ) -> Result<BundleScope> {
        let scope = wanted.scope;
        let entry = self.config.scope(&scope);
        let entry = entry.ok_or_else(|| usage(format!("there is no scope {scope}")))?;
        let write = master.write();
        let sources = wanted.sources.as_deref();
        let reads = matches!(holder.role, Role::Restorer | Role::Writer);
        let epoch_keys = |epoch| {
            let meta = write.meta(&scope, epoch);
            let private = master.data_private(&scope, epoch);
            let of_source =
                |source: &SourceId| BundleSource { source: *source, key: meta.source(source).0 };
            BundleEpoch {
                epoch,
                index: write.index(&scope, epoch),
                meta: (reads && sources.is_none()).then(|| meta.0.clone()),
                source_keys: sources.unwrap_or_default().iter().map(of_source).collect(),
                public: (holder.role == Role::Writer).then(|| Base64Array(public_key(&private))),
                private: (holder.role == Role::Restorer).then_some(private),
            }
        };
        let certified = match holder.role {
            Role::Restorer => &[],
            _ => sources.unwrap_or(&[SourceId::ANY]),
        };
        let certify = |source: &SourceId| self.certify(master, holder, scope, *source);
        Ok(BundleScope {
            scope,
            domain: reads.then(|| write.domain(&scope).0),
            sources: wanted.sources.clone(),
            epochs: epochs(entry)?.map(epoch_keys).collect(),
            certificates: certified.iter().map(certify).collect(),
        })
    }

    fn certify(
        &self,
        master: &Master,
        holder: &Holder,
        scope: ScopeId,
        source: SourceId,
    ) -> BundleCertificate {
        let Holder { role, principal, serial } = *holder;
        let repository = self.secret.repository;
        let key = signing_key(&master.write().principal_seed(&principal)).verifying_key();
        let key = key.to_bytes();
        let certificate =
            Certificate { repository, scope, principal, source, role, serial, key }.to_bytes();
        let signature = signing_key(&master.owner_seed()).sign(&certificate).to_bytes();
        BundleCertificate {
            certificate: Base64Array(certificate),
            signature: Base64Array(signature),
        }
    }

    /// All that there is to hold of a scope.
    pub(super) fn owned_scope(&self, master: &Master, entry: &ScopeEntry) -> Result<BundleScope> {
        let scope = entry.id;
        let write = master.write();
        let epoch_keys = |epoch| {
            let private = master.data_private(&scope, epoch);
            BundleEpoch {
                epoch,
                index: write.index(&scope, epoch),
                meta: Some(write.meta(&scope, epoch).0),
                source_keys: Vec::new(),
                public: Some(Base64Array(public_key(&private))),
                private: Some(private),
            }
        };
        let holder = Holder { role: Role::Owner, principal: self.principal, serial: self.serial };
        Ok(BundleScope {
            scope,
            domain: Some(write.domain(&scope).0),
            sources: None,
            epochs: epochs(entry)?.map(epoch_keys).collect(),
            certificates: vec![self.certify(master, &holder, scope, SourceId::ANY)],
        })
    }

    /// The bytes of a config with one more scope, and that scope's id. Owners only.
    pub fn config_with_scope(&self, label: &str) -> Result<(Vec<u8>, ScopeId)> {
        let master = self.master()?;
        let scope = new_scope(&master, self.secret.repository, label)?;
        let id = scope.id;
        let bytes = self.changed_config(&master, |config| {
            config.add_scope(scope);
            Ok(())
        })?;
        Ok((bytes, id))
    }

    /// The bytes of a config in which `scope` writes in a new epoch. Key files issued before still
    /// read what was written before; issue again those that are to go on writing. Owners only.
    pub fn config_with_new_epoch(&self, scope: &ScopeId) -> Result<Vec<u8>> {
        let master = self.master()?;
        self.changed_config(&master, |config| {
            let entry = config.scope_mut(scope);
            let entry = entry.ok_or_else(|| usage(format!("there is no scope {scope}")))?;
            let epoch = entry.epoch + 1;
            if epoch > EPOCHS_MAX {
                return Err(usage("a scope with no epoch left"));
            }
            entry.rotate(epoch, public_key(&master.data_private(scope, epoch)));
            Ok(())
        })
    }

    /// The bytes of a config in which a principal's signatures count no longer. Owners only.
    pub fn config_with_revoked(&self, revoked: Revoked) -> Result<Vec<u8>> {
        let master = self.master()?;
        self.changed_config(&master, |config| {
            config.revoke(revoked);
            Ok(())
        })
    }

    fn changed_config(
        &self,
        master: &Master,
        change: impl FnOnce(&mut Config) -> Result<()>,
    ) -> Result<Vec<u8>> {
        self.config.check_writable()?;
        let mut config = self.config.clone();
        change(&mut config)?;
        config.increment_serial()?;
        config.sign(&master.owner_seed())
    }
}

/// Whom a certificate is for.
struct Holder {
    role: Role,
    principal: PrincipalId,
    serial: u32,
}

fn epochs(entry: &ScopeEntry) -> Result<std::ops::RangeInclusive<u32>> {
    if (FIRST_EPOCH..=EPOCHS_MAX).contains(&entry.epoch) {
        Ok(FIRST_EPOCH..=entry.epoch)
    } else {
        Err(Error::damaged("a scope in an impossible epoch").at("config"))
    }
}

pub(super) fn owner_key(master: &Master) -> Result<OwnerKey> {
    OwnerKey::from_bytes(&signing_key(&master.owner_seed()).verifying_key().to_bytes())
}

/// The X25519 public key of a private one.
pub(super) fn public_key(private: &Key) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(*private.expose())).to_bytes()
}

/// A scope in its first epoch. Its label is sealed for all who read the scope's metadata; a salt of its
/// own keeps two labels from being sealed under one key.
fn new_scope(master: &Master, repository: RepositoryId, label: &str) -> Result<ScopeEntry> {
    let id = ScopeId::random()?;
    let salt: [u8; LABEL_SALT_BYTES] = random_array()?;
    let key = master.write().meta(&id, FIRST_EPOCH).0;
    let context = label_context(repository, id, &salt);
    let sealed = small_seal(Label::ScopeLabel, &key, &context, label.as_bytes())?;
    let public = public_key(&master.data_private(&id, FIRST_EPOCH));
    Ok(ScopeEntry::new(id, FIRST_EPOCH, public, [salt.as_slice(), &sealed].concat()))
}

pub(super) fn label_context(
    repository: RepositoryId,
    scope: ScopeId,
    salt: &[u8; LABEL_SALT_BYTES],
) -> Vec<u8> {
    [repository.0.as_slice(), &scope.0, salt].concat()
}
