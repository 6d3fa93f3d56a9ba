//! Unlocked keys. The secrets stay on this side.

use pvback_core::crypto::config::ChunkerParams;
use pvback_core::crypto::keyfile::KeyFile;
use pvback_core::crypto::slot::{Argon2Cost, SlotKind};
use pvback_core::crypto::{
    self, Config, InitOptions, IssueRequest, IssueScope, Role, ScopeId, ScopeKeys, SourceId,
    UnlockSecret,
};
use pvback_core::{Error, ErrorKind, Result, documents};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::{guarded, raise};

/// Memory in KiB, passes, lanes.
type Argon2 = (u32, u32, u32);

/// An unlocked key bundle.
#[pyclass(frozen, module = "pvback._native")]
pub(crate) struct Keyring(crypto::Keyring);

impl Keyring {
    pub(crate) fn core(&self) -> &crypto::Keyring {
        &self.0
    }

    fn scope_keys(&self, scope: &str) -> Result<ScopeKeys> {
        self.0.scope(&ScopeId::parse(scope)?)
    }
}

fn cost((memory_kib, passes, lanes): Argon2) -> Argon2Cost {
    Argon2Cost { memory_kib, passes, lanes }
}

fn key_array(secret: &[u8], what: &'static str) -> Result<[u8; 32]> {
    secret.try_into().map_err(|_| Error::new(ErrorKind::Usage, what))
}

fn add_slot(
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

fn unlock(
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

fn describe(keyring: &crypto::Keyring, objects: &[(String, Vec<u8>)]) -> serde_json::Value {
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

fn role(name: &str) -> Result<Role> {
    serde_json::from_value(serde_json::Value::String(name.to_owned()))
        .map_err(|_| Error::new(ErrorKind::Usage, format!("no role `{name}`")))
}

macro_rules! run {
    ($py:expr, $work:expr) => {
        $py.detach(|| guarded(|| $work)).map_err(|error| raise($py, error))
    };
}

#[pymethods]
impl Keyring {
    #[staticmethod]
    fn init_repository(
        py: Python<'_>,
        label: String,
        chunker_json: &str,
        passphrase: &[u8],
        argon2: Argon2,
    ) -> PyResult<(Self, Py<PyBytes>, String, Py<PyBytes>)> {
        let (keyring, config, name, file) = run!(py, {
            let chunker: ChunkerParams = match chunker_json {
                "" | "{}" => ChunkerParams::default(),
                json => serde_json::from_str(json)
                    .map_err(|error| Error::new(ErrorKind::Usage, format!("chunker: {error}")))?,
            };
            let options = InitOptions { chunker, scope_label: label, ..InitOptions::default() };
            let (keyring, config, mut file) = crypto::Keyring::init_repository(&options)?;
            add_slot(&mut file, keyring.secret(), "passphrase", passphrase, argon2)?;
            Ok((keyring, config, file.name(), file.to_bytes()?))
        })?;
        Ok((Self(keyring), bytes(py, &config), name, bytes(py, &file)))
    }

    #[staticmethod]
    fn unlock(
        py: Python<'_>,
        config: &[u8],
        key_objects: Vec<(String, Vec<u8>)>,
        method: &str,
        secret: &[u8],
    ) -> PyResult<Self> {
        run!(py, unlock(config, &key_objects, method, secret)).map(Self)
    }

    #[getter]
    fn role(&self) -> String {
        format!("{:?}", self.0.role()).to_lowercase()
    }

    #[getter]
    fn principal(&self) -> String {
        self.0.principal().to_string()
    }

    #[getter]
    fn repository(&self) -> String {
        self.0.config().repository().to_string()
    }

    #[getter]
    fn owner_fingerprint(&self) -> String {
        let digest = pvback_core::digest(self.0.config().owner().as_bytes());
        digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    fn scopes(&self, py: Python<'_>) -> PyResult<Vec<(String, String)>> {
        run!(py, {
            let label = |id: ScopeId| {
                let label = self.0.scope_label(&id)?.unwrap_or_default();
                Ok((id.to_string(), label))
            };
            self.0.scopes().into_iter().map(label).collect()
        })
    }

    fn source_id(&self, py: Python<'_>, scope: &str, source: &str) -> PyResult<String> {
        run!(py, Ok(self.scope_keys(scope)?.source_id(source)?.to_string()))
    }

    fn seal_json(
        &self,
        py: Python<'_>,
        scope: &str,
        kind: u8,
        name: &str,
        body: &[u8],
    ) -> PyResult<Py<PyBytes>> {
        let sealed = run!(py, {
            documents::seal_json(&self.scope_keys(scope)?, documents::json_type(kind)?, name, body)
        })?;
        Ok(bytes(py, &sealed))
    }

    fn open_json(
        &self,
        py: Python<'_>,
        scope: &str,
        kind: u8,
        name: &str,
        data: &[u8],
    ) -> PyResult<Py<PyBytes>> {
        let body = run!(py, {
            documents::open_json(&self.scope_keys(scope)?, documents::json_type(kind)?, name, data)
        })?;
        Ok(bytes(py, &body))
    }

    fn seal_record(
        &self,
        py: Python<'_>,
        scope: &str,
        source: &str,
        snapshot: &str,
        secret_json: &[u8],
    ) -> PyResult<(u8, u32, String)> {
        run!(py, {
            let (source, snapshot) = (SourceId::parse(source)?, SourceId::parse(snapshot)?);
            documents::seal_record(&self.scope_keys(scope)?, &source, &snapshot.0, secret_json)
        })
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one record, as the stub has them")]
    fn open_record(
        &self,
        py: Python<'_>,
        scope: &str,
        source: &str,
        snapshot: &str,
        suite: u8,
        epoch: u32,
        sealed: &str,
    ) -> PyResult<Py<PyBytes>> {
        let json = run!(py, {
            let (source, snapshot) = (SourceId::parse(source)?, SourceId::parse(snapshot)?);
            let keys = self.scope_keys(scope)?;
            documents::open_record(&keys, &source, &snapshot.0, (suite, epoch), sealed)
        })?;
        Ok(bytes(py, &json))
    }

    fn list_keys(
        &self,
        py: Python<'_>,
        config: &[u8],
        key_objects: Vec<(String, Vec<u8>)>,
    ) -> PyResult<String> {
        run!(py, Config::parse(config, Some(self.0.config().owner())))?;
        Ok(py.detach(|| describe(&self.0, &key_objects)).to_string())
    }

    #[allow(clippy::too_many_arguments, reason = "one new key, as the stub has it")]
    fn add_key(
        &self,
        py: Python<'_>,
        role: &str,
        label: String,
        scopes: Vec<String>,
        method: &str,
        secret: &[u8],
        argon2: Argon2,
    ) -> PyResult<(String, Py<PyBytes>)> {
        let (name, file) = run!(py, {
            let scope = |id: &String| Ok(IssueScope { scope: ScopeId::parse(id)?, sources: None });
            let scopes: Result<_> = scopes.iter().map(scope).collect();
            let request = IssueRequest { role: self::role(role)?, label, scopes: scopes? };
            let (mut file, unlock) = self.0.issue(&request)?;
            add_slot(&mut file, &unlock, method, secret, argon2)?;
            Ok((file.name(), file.to_bytes()?))
        })?;
        Ok((name, bytes(py, &file)))
    }

    fn add_slot(
        &self,
        py: Python<'_>,
        key_object: &[u8],
        method: &str,
        secret: &[u8],
        argon2: Argon2,
    ) -> PyResult<Py<PyBytes>> {
        let file = run!(py, {
            let mut file = KeyFile::parse(key_object)?;
            add_slot(&mut file, self.0.secret(), method, secret, argon2)?;
            file.to_bytes()
        })?;
        Ok(bytes(py, &file))
    }

    fn __repr__(&self) -> String {
        format!("<Keyring {} {}>", self.role(), self.principal())
    }
}

fn bytes(py: Python<'_>, data: &[u8]) -> Py<PyBytes> {
    PyBytes::new(py, data).unbind()
}
