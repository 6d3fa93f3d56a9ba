//! Key files: unlocking, describing and extending them.

use pvback_core::crypto::keyfile::KeyFile;
use pvback_core::crypto::slot::{Argon2Cost, SlotKind};
use pvback_core::crypto::{self, Config, Role, UnlockSecret};
use pvback_core::{Error, ErrorKind, Result};

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

pub(crate) fn unlock(
    config: &[u8],
    key_objects: &[(String, Vec<u8>)],
    method: &str,
    secret: &[u8],
) -> Result<crypto::Keyring> {
    let config = Config::parse(config, None)?;
    let mut last = Error::new(ErrorKind::WrongKey, "no key of this repository opens with this");
    for (name, bytes) in key_objects {
        let attempt = KeyFile::parse(bytes).and_then(|file| match method {
            "passphrase" => crypto::Keyring::unlock_passphrase(config.clone(), &file, secret),
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
    let one = |(name, bytes): &(String, Vec<u8>)| match KeyFile::parse(bytes) {
        Err(error) => serde_json::json!({ "name": name, "error": error.to_string() }),
        Ok(file) => {
            let is_own = file.principal() == keyring.principal();
            let known = keyring.describe(&file).ok();
            let slots: Vec<_> = file.slots().iter().map(|slot| slot_name(&slot.kind())).collect();
            serde_json::json!({
                "name": name,
                "principal": file.principal().to_string(),
                "serial": file.serial(),
                "role": known.as_ref().map(|(role, _)| role),
                "label": known.as_ref().map(|(_, label)| label),
                "unlock": slots,
                "current": is_own,
            })
        }
    };
    objects.iter().map(one).collect()
}

fn slot_name(kind: &SlotKind) -> String {
    match kind {
        SlotKind::Passphrase => "passphrase".to_owned(),
        SlotKind::X25519(_) => "x25519".to_owned(),
        SlotKind::Command(name) => format!("command {name}"),
        SlotKind::Unknown => "unknown".to_owned(),
    }
}

pub(crate) fn role(name: &str) -> Result<Role> {
    serde_json::from_value(serde_json::Value::String(name.to_owned()))
        .map_err(|_| Error::new(ErrorKind::Usage, format!("no role `{name}`")))
}
