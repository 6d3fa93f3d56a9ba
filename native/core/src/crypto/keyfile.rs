//! `keys/<principal>.json`: a principal's sealed bundle and the slots that unlock it.
//!
//! The bundle is sealed under the principal's identity key, and the owner has signed its contents
//! with repository, principal and serial. Slots are the holder's own affair: adding or removing one
//! needs no owner. A bundle issued again keeps its slots, since they hold the identity key only.
//!
//! A salt of 16 bytes goes into the bundle's key, because a serial alone may come twice: two owners who
//! issue at once, or a store that was rolled back in between, would otherwise get two bundles
//! sealed under one key and nonce.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use super::bundle::{Bundle, JSON_BYTES_MAX};
use super::kdf::Label;
use super::sign::signing_key;
use super::slot::{Slot, UnlockSecret};
use super::small::{small_open, small_seal};
use super::stretch::{Argon2Cost, Passphrase};
use super::text::{Base64, Base64Array};
use super::{Key, PrincipalId, RepositoryId, random_array, usage, wrong_key};
use crate::error::{Error, ErrorKind, Result};
use ed25519_dalek::Signer as _;

/// Most slots of one key file: each may cost an Argon2id.
pub const SLOTS_MAX: usize = 16;

/// Most bytes that a command may make of the unlock secret.
const COMMAND_BYTES_MAX: usize = 64 << 10;

const VERSION: u32 = 1;

/// A parsed key file. Parsing proves nothing; unlocking does.
#[derive(Clone, Debug)]
pub struct KeyFile {
    repository: RepositoryId,
    principal: PrincipalId,
    serial: u32,
    salt: Vec<u8>,
    slots: Vec<Slot>,
    bundle: Vec<u8>,
    signature: [u8; 64],
}

#[derive(Serialize, Deserialize)]
struct Json {
    pvback: String,
    v: u32,
    repository: RepositoryId,
    principal: PrincipalId,
    serial: u32,
    unlock: Vec<Value>,
    salt: Base64Array<16>,
    bundle: Base64,
    sig: Base64Array<64>,
}

impl KeyFile {
    /// Seals `bundle` for `principal` and signs it with the owner's seed. No slots yet.
    pub(super) fn seal(
        secret: &UnlockSecret,
        principal: PrincipalId,
        serial: u32,
        bundle: &Bundle,
        owner_seed: &Key,
    ) -> Result<Self> {
        let repository = secret.repository;
        let json = bundle.to_json()?;
        let salt = random_array::<16>()?.to_vec();
        let context = bundle_context((repository, principal), serial, &salt);
        let sealed = small_seal(Label::Bundle, &secret.identity, &context, &json)?;
        let message = bundle_message((repository, principal), serial, &json);
        let signature = signing_key(owner_seed).sign(&message).to_bytes();
        Ok(Self {
            repository,
            principal,
            serial,
            salt,
            slots: Vec::new(),
            bundle: sealed,
            signature,
        })
    }

    /// Reads a key file. `Unsupported` if it is of another version, `Damaged` if malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            pvback: String,
            v: u32,
        }
        let malformed = |error| Error::damaged(format!("a malformed key file: {error}"));
        if bytes.len() > JSON_BYTES_MAX * 2 {
            return Err(Error::damaged("a key file that is too long"));
        }
        let Versioned { pvback, v } = serde_json::from_slice(bytes).map_err(malformed)?;
        if pvback != "key" {
            return Err(Error::damaged("not a key file"));
        }
        if v != VERSION {
            return Err(Error::unsupported(format!("a key file of version {v}")));
        }
        let json: Json = serde_json::from_slice(bytes).map_err(malformed)?;
        if json.unlock.len() > SLOTS_MAX {
            return Err(Error::damaged("a key file with too many slots"));
        }
        Ok(Self {
            repository: json.repository,
            principal: json.principal,
            serial: json.serial,
            salt: json.salt.0.to_vec(),
            slots: json.unlock.into_iter().map(Slot::from_value).collect::<Result<_>>()?,
            bundle: json.bundle.0,
            signature: json.sig.0,
        })
    }

    /// Its bytes, to be stored.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let salt = self.salt.as_slice().try_into();
        let json = Json {
            pvback: "key".to_owned(),
            v: VERSION,
            repository: self.repository,
            principal: self.principal,
            serial: self.serial,
            unlock: self.slots.iter().map(|slot| slot.value().clone()).collect(),
            salt: Base64Array(salt.map_err(|_| Error::internal("a salt of odd length"))?),
            bundle: Base64(self.bundle.clone()),
            sig: Base64Array(self.signature),
        };
        let mut out = serde_json::to_vec_pretty(&json)
            .map_err(|error| Error::internal(format!("a key file is no JSON: {error}")))?;
        out.push(b'\n');
        Ok(out)
    }

    /// Whose it is.
    pub fn principal(&self) -> PrincipalId {
        self.principal
    }

    /// Which repository it belongs to.
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// Grows by one each time that the bundle is issued again.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Its name below the repository's prefix.
    pub fn name(&self) -> String {
        format!("keys/{}.json", self.principal)
    }

    /// The ways to unlock it.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Adds a passphrase.
    pub fn add_passphrase(
        &mut self,
        secret: &UnlockSecret,
        passphrase: &[u8],
        cost: Argon2Cost,
    ) -> Result<()> {
        self.check_secret(secret)?;
        self.push(Slot::seal_passphrase(secret, self.principal, passphrase, cost)?)
    }

    /// Adds the holder of an X25519 public key.
    pub fn add_x25519(&mut self, secret: &UnlockSecret, recipient: [u8; 32]) -> Result<()> {
        self.check_secret(secret)?;
        self.push(Slot::seal_x25519(secret, self.principal, recipient)?)
    }

    /// Adds what the command `name` made of the unlock secret's bytes. `Usage` if it made nothing of
    /// them: what it says must not hold the key as it is, in hex or in base64.
    pub fn add_command(&mut self, secret: &UnlockSecret, name: &str, opaque: &[u8]) -> Result<()> {
        self.check_secret(secret)?;
        if opaque.is_empty() || opaque.len() > COMMAND_BYTES_MAX {
            return Err(usage("a command has to seal the key to between 1 byte and 64 KiB"));
        }
        if secret.is_shown_by(opaque) {
            return Err(usage("the command gave the key back as it is: it seals nothing"));
        }
        self.push(Slot::of_command(name, opaque)?)
    }

    /// Removes the slot at `index` and returns it. Who has kept the old file can still use it.
    pub fn remove_slot(&mut self, index: usize) -> Result<Slot> {
        if index >= self.slots.len() {
            return Err(usage(format!("a key file without a slot {index}")));
        }
        Ok(self.slots.remove(index))
    }

    /// The position of the first slot that this opens. `WrongKey` if none does.
    pub fn slot_of_passphrase(&self, passphrase: &[u8]) -> Result<usize> {
        let passphrase = Passphrase::from(passphrase);
        let binding = (self.repository, self.principal);
        self.unlock(|slot| slot.open_passphrase(binding, passphrase)).map(|(position, _)| position)
    }

    /// The position of the first slot that this private key opens. `WrongKey` if none does.
    pub fn slot_of_x25519(&self, private: &Key) -> Result<usize> {
        let binding = (self.repository, self.principal);
        self.unlock(|slot| slot.open_x25519(binding, private)).map(|(position, _)| position)
    }

    /// Takes over the slots of an older file of the same principal.
    pub(super) fn keep_slots_of(&mut self, older: &Self) {
        self.slots.clone_from(&older.slots);
    }

    fn push(&mut self, slot: Slot) -> Result<()> {
        if self.slots.len() >= SLOTS_MAX {
            return Err(usage(format!("a key file has at most {SLOTS_MAX} slots")));
        }
        self.slots.push(slot);
        Ok(())
    }

    /// A slot that yields another principal's secret would lock the holder out in silence.
    fn check_secret(&self, secret: &UnlockSecret) -> Result<()> {
        self.open_bundle(secret).map(drop)
    }

    /// The unlock secret, by the first passphrase slot that this opens.
    pub fn unlock_passphrase<'a>(
        &self,
        passphrase: impl Into<Passphrase<'a>>,
    ) -> Result<UnlockSecret> {
        let passphrase = passphrase.into();
        let binding = (self.repository, self.principal);
        self.unlock(|slot| slot.open_passphrase(binding, passphrase)).map(|(_, secret)| secret)
    }

    /// The unlock secret, by the first X25519 slot that this private key opens.
    pub fn unlock_x25519(&self, private: &Key) -> Result<UnlockSecret> {
        let binding = (self.repository, self.principal);
        self.unlock(|slot| slot.open_x25519(binding, private)).map(|(_, secret)| secret)
    }

    /// Tries each slot. A broken one does not keep the others from opening; if none opens, its
    /// error is the one told, for "wrong key" would mislead.
    fn unlock(
        &self,
        open: impl Fn(&Slot) -> Result<UnlockSecret>,
    ) -> Result<(usize, UnlockSecret)> {
        let mut failure = wrong_key("the key opens no slot of the key file");
        for (position, slot) in self.slots.iter().enumerate() {
            match open(slot) {
                Ok(secret) => return Ok((position, secret)),
                Err(error) if error.kind != ErrorKind::WrongKey => failure = error,
                Err(_) => {}
            }
        }
        Err(failure.at(self.name()))
    }

    /// The bundle, with the owner's signature verified. `WrongKey` if the secret is another
    /// principal's or repository's.
    pub(super) fn open_bundle(&self, secret: &UnlockSecret) -> Result<Bundle> {
        self.open_json(secret)
            .and_then(|json| Bundle::from_json(&json))
            .map_err(|e| e.at(self.name()))
    }

    fn open_json(&self, secret: &UnlockSecret) -> Result<Zeroizing<Vec<u8>>> {
        if secret.repository != self.repository {
            return Err(wrong_key("a key of another repository"));
        }
        let binding = (self.repository, self.principal);
        let context = bundle_context(binding, self.serial, &self.salt);
        let json = small_open(Label::Bundle, &secret.identity, &context, &self.bundle)?;
        let message = bundle_message(binding, self.serial, &json);
        secret.owner.verify(&message, &self.signature)?;
        Ok(json)
    }
}

/// What a bundle's key is bound to.
pub(super) fn bundle_context(
    (repository, principal): (RepositoryId, PrincipalId),
    serial: u32,
    salt: &[u8],
) -> Vec<u8> {
    [repository.0.as_slice(), &principal.0, &serial.to_le_bytes(), salt].concat()
}

/// What the owner signs of a bundle.
pub(super) fn bundle_message(
    (repository, principal): (RepositoryId, PrincipalId),
    serial: u32,
    json: &[u8],
) -> Vec<u8> {
    [
        b"pvback/1 bundle\0".as_slice(),
        &repository.0,
        &principal.0,
        &serial.to_le_bytes(),
        blake3::hash(json).as_bytes(),
    ]
    .concat()
}
