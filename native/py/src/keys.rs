//! Key files: unlocking, describing and extending them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pvback_core::crypto::config::{Revoked, ScopeEntry};
use pvback_core::crypto::keyfile::KeyFile;
use pvback_core::crypto::slot::{Slot, SlotKind};
use pvback_core::crypto::stretch::{Argon2Cost, Passphrase, SALT_BYTES, Stretched};
use pvback_core::crypto::{
    self, Config, InspectedScope, IssueRequest, IssueScope, Role, ScopeId, SourceId, UnlockSecret,
};
use pvback_core::{Error, ErrorKind, Result};
use serde::Deserialize;

/// Memory in KiB, passes, lanes.
pub(crate) type Argon2 = (u32, u32, u32);

fn cost((memory_kib, passes, lanes): Argon2) -> Argon2Cost {
    Argon2Cost { memory_kib, passes, lanes }
}

fn key_array(secret: &[u8], what: &'static str) -> Result<[u8; 32]> {
    secret.try_into().map_err(|_| Error::new(ErrorKind::Usage, what))
}

pub(crate) fn add_slot(
    file: &mut KeyFile,
    unlock: &UnlockSecret,
    method: &str,
    secret: &[u8],
    argon2: Argon2,
) -> Result<()> {
    match method {
        "passphrase" if secret.is_empty() => {
            Err(Error::new(ErrorKind::Usage, "an empty password protects nothing"))
        }
        "passphrase" => file.add_passphrase(unlock, secret, cost(argon2)),
        "x25519" => file.add_x25519(unlock, key_array(secret, "not an X25519 public key")?),
        _ => Err(Error::new(ErrorKind::Usage, format!("no way to unlock called `{method}`"))),
    }
}

pub(crate) fn stretch(passphrase: &[u8], salt: &[u8], argon2: Argon2) -> Result<Stretched> {
    let salt: Option<[u8; SALT_BYTES]> = salt.try_into().ok();
    let salt = salt.ok_or_else(|| Error::new(ErrorKind::Usage, "not a salt"))?;
    Stretched::new(passphrase, salt, cost(argon2))
}

pub(crate) fn unlock(
    config: &[u8],
    key_objects: &[(String, Vec<u8>)],
    method: &str,
    secret: &[u8],
    stretched: Option<&Stretched>,
) -> Result<crypto::Keyring> {
    let config = Config::parse(config, None)?;
    let mut last = Error::new(ErrorKind::WrongKey, "no key of this repository opens with this");
    for (name, bytes) in key_objects {
        let attempt = KeyFile::parse(bytes).and_then(|file| match method {
            "passphrase" => {
                let passphrase = Passphrase::with(secret, stretched);
                crypto::Keyring::unlock_passphrase(config.clone(), &file, passphrase)
            }
            "x25519" => {
                let private = crypto::Key::new(key_array(secret, "not an X25519 private key")?);
                crypto::Keyring::unlock_x25519(config.clone(), &file, &private)
            }
            "secret" => crypto::Keyring::unlock_secret(config.clone(), &file, secret),
            _ => Err(Error::new(ErrorKind::Usage, format!("no way to unlock called `{method}`"))),
        });
        match attempt {
            Ok(keyring) => return Ok(keyring),
            Err(error) if error.kind == ErrorKind::Usage => return Err(error),
            Err(error) if error.kind != ErrorKind::WrongKey => last = error.at(name.clone()),
            Err(_) => {}
        }
    }
    Err(last)
}

pub(crate) fn describe(
    keyring: &crypto::Keyring,
    objects: &[(String, Vec<u8>)],
) -> serde_json::Value {
    let scope = |held: &InspectedScope| {
        let sources = held.sources.as_ref();
        let sources = sources.map(|ids| ids.iter().map(ToString::to_string).collect::<Vec<_>>());
        serde_json::json!({
            "scope": held.scope.to_string(), "epoch": held.epoch, "sources": sources,
        })
    };
    let one = |(name, bytes): &(String, Vec<u8>)| match KeyFile::parse(bytes) {
        Err(error) => serde_json::json!({ "name": name, "error": error.to_string() }),
        // Whose it is stands in it, and the bundle is bound to that: under another name it is out of place.
        Ok(file) if file.name() != *name => {
            serde_json::json!({ "name": name, "error": format!("holds {}", file.name()) })
        }
        Ok(file) => {
            let is_own = file.principal() == keyring.principal();
            let (known, problem) = match keyring.inspect(&file) {
                Ok(known) => (known, None),
                Err(error) => (None, Some(error.to_string())),
            };
            let scopes: Vec<_> = known.iter().flat_map(|known| &known.scopes).map(scope).collect();
            let slots: Vec<_> = file.slots().iter().map(|slot| slot_name(&slot.kind())).collect();
            serde_json::json!({
                "name": name,
                "principal": file.principal().to_string(),
                "serial": file.serial(),
                "role": known.as_ref().map(|known| known.role),
                "label": known.as_ref().map(|known| &known.label),
                "scopes": scopes,
                "revoked": keyring.config().is_revoked(&file.principal()),
                "unlock": slots,
                "current": is_own,
                "error": problem,
            })
        }
    };
    objects.iter().map(one).collect()
}

/// What a key file says before it is opened: whose it is, and the ways into it.
pub(crate) fn facts(bytes: &[u8]) -> Result<serde_json::Value> {
    let file = KeyFile::parse(bytes)?;
    let slot = |slot: &Slot| {
        let sealed = slot.command_bytes().map(|bytes| STANDARD.encode(bytes));
        let (salt, argon2) =
            slot.stretching().map(|(salt, cost)| (STANDARD.encode(salt), cost)).unzip();
        let argon2: Option<Argon2> = argon2.map(|cost| (cost.memory_kib, cost.passes, cost.lanes));
        serde_json::json!({
            "kind": slot_name(&slot.kind()), "sealed": sealed, "salt": salt, "argon2": argon2,
        })
    };
    Ok(serde_json::json!({
        "repository": file.repository().to_string(),
        "principal": file.principal().to_string(),
        "serial": file.serial(),
        "unlock": file.slots().iter().map(slot).collect::<Vec<_>>(),
    }))
}

/// What a config says, once its signature by the owner that it names holds.
pub(crate) fn config_facts(bytes: &[u8]) -> Result<serde_json::Value> {
    let config = Config::parse(bytes, None)?;
    let scope = |scope: &ScopeEntry| serde_json::json!({ "id": scope.id.to_string(), "epoch": scope.epoch });
    Ok(serde_json::json!({
        "repository": config.repository().to_string(),
        "serial": config.serial(),
        "conditional": config.is_store_conditional(),
        "scopes": config.scopes().iter().map(scope).collect::<Vec<_>>(),
        "revoked": config.revoked(),
    }))
}

/// Position of the slot that a passphrase or private key opens; the secret itself is in none.
pub(crate) fn slot_of(bytes: &[u8], method: &str, secret: &[u8]) -> Result<usize> {
    let file = KeyFile::parse(bytes)?;
    match method {
        "passphrase" => file.slot_of_passphrase(secret),
        "x25519" => {
            let private = crypto::Key::new(key_array(secret, "not an X25519 private key")?);
            file.slot_of_x25519(&private)
        }
        _ => Err(Error::new(ErrorKind::Usage, format!("no slot is opened by `{method}`"))),
    }
}

#[derive(Deserialize)]
struct NewKey {
    role: Role,
    label: String,
    scopes: Vec<NewScope>,
}

#[derive(Deserialize)]
struct NewScope {
    scope: String,
    sources: Option<Vec<String>>,
}

pub(crate) fn issue(keyring: &crypto::Keyring, request: &str) -> Result<KeyFile> {
    let wanted: NewKey = serde_json::from_str(request).map_err(malformed)?;
    let scope = |one: &NewScope| {
        let sources = one.sources.as_ref();
        let sources = sources.map(|ids| ids.iter().map(|id| SourceId::parse(id)).collect());
        Ok(IssueScope { scope: ScopeId::parse(&one.scope)?, sources: sources.transpose()? })
    };
    let scopes: Result<_> = wanted.scopes.iter().map(scope).collect();
    let request = IssueRequest { role: wanted.role, label: wanted.label, scopes: scopes? };
    keyring.issue(&request).map(|(file, _)| file)
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Change {
    Epoch(String),
    Scope(String),
    Revoke(Revoked),
}

/// The bytes of the next config: `{"epoch": scope}`, `{"scope": label}` or `{"revoke": {...}}`.
pub(crate) fn change_config(keyring: &crypto::Keyring, change: &str) -> Result<Vec<u8>> {
    match serde_json::from_str(change).map_err(malformed)? {
        Change::Epoch(scope) => keyring.config_with_new_epoch(&ScopeId::parse(&scope)?),
        Change::Scope(label) => keyring.config_with_scope(&label).map(|(bytes, _)| bytes),
        Change::Revoke(revoked) => keyring.config_with_revoked(revoked),
    }
}

fn malformed(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Usage, format!("a request about keys: {error}"))
}

fn slot_name(kind: &SlotKind) -> String {
    match kind {
        SlotKind::Passphrase => "passphrase".to_owned(),
        SlotKind::X25519(_) => "x25519".to_owned(),
        SlotKind::Command(name) => format!("command {name}"),
        SlotKind::Unknown => "unknown".to_owned(),
    }
}
