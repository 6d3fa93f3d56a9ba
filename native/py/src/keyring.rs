//! Unlocked keys. The secrets stay on this side.

use pvback_core::crypto::config::ChunkerParams;
use pvback_core::crypto::keyfile::KeyFile;
use pvback_core::crypto::{
    self, Config, InitOptions, ScopeId, ScopeKeys, SourceId, StoreFacts, stretch,
};
use pvback_core::{Error, ErrorKind, Result, documents};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::{guarded, raise};
use crate::keys::{self, Argon2, add_slot};

macro_rules! run {
    ($py:expr, $work:expr) => {
        $py.detach(|| guarded(|| $work)).map_err(|error| raise($py, &error))
    };
}

/// An unlocked key bundle.
#[pyclass(frozen, module = "pvback._native")]
pub(crate) struct Keyring(crypto::Keyring);

/// A passphrase stretched ahead; see `pvback_core::crypto::stretch::Stretched`.
#[pyclass(frozen, module = "pvback._native")]
pub(crate) struct Stretched(stretch::Stretched);

#[pymethods]
impl Stretched {
    #[new]
    fn make(py: Python<'_>, passphrase: &[u8], salt: &[u8], argon2: Argon2) -> PyResult<Self> {
        run!(py, keys::stretch(passphrase, salt, argon2)).map(Self)
    }
}

impl Keyring {
    pub(crate) fn new(core: crypto::Keyring) -> Self {
        Self(core)
    }

    pub(crate) fn core(&self) -> &crypto::Keyring {
        &self.0
    }

    fn scope_keys(&self, scope: &str) -> Result<ScopeKeys> {
        self.0.scope(&ScopeId::parse(scope)?)
    }
}

#[pymethods]
impl Keyring {
    #[staticmethod]
    #[pyo3(signature = (label, chunker_json, passphrase, argon2, conditional=None))]
    fn init_repository(
        py: Python<'_>,
        label: String,
        chunker_json: &str,
        passphrase: &[u8],
        argon2: Argon2,
        conditional: Option<bool>,
    ) -> PyResult<(Self, Py<PyBytes>, String, Py<PyBytes>)> {
        let (keyring, config, name, file) = run!(py, {
            let chunker: ChunkerParams = match chunker_json {
                "" | "{}" => ChunkerParams::default(),
                json => serde_json::from_str(json)
                    .map_err(|error| Error::new(ErrorKind::Usage, format!("chunker: {error}")))?,
            };
            let store = conditional.map(StoreFacts::new);
            let options =
                InitOptions { chunker, scope_label: label, store, ..InitOptions::default() };
            let (keyring, config, mut file) = crypto::Keyring::init_repository(&options)?;
            add_slot(&mut file, keyring.secret(), "passphrase", passphrase, argon2)?;
            Ok((keyring, config, file.name(), file.to_bytes()?))
        })?;
        Ok((Self(keyring), bytes(py, &config), name, bytes(py, &file)))
    }

    #[staticmethod]
    #[pyo3(signature = (config, key_objects, method, secret, stretched=None))]
    fn unlock(
        py: Python<'_>,
        config: &[u8],
        key_objects: Vec<(String, Vec<u8>)>,
        method: &str,
        secret: &[u8],
        stretched: Option<&Stretched>,
    ) -> PyResult<Self> {
        let stretched = stretched.map(|made| &made.0);
        run!(py, keys::unlock(config, &key_objects, method, secret, stretched)).map(Self)
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
        let head = digest.first_chunk().copied().unwrap_or_default();
        pvback_core::scope::hex16(&head)
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

    #[expect(clippy::too_many_arguments, reason = "the fields of one record, as the stub has them")]
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
        Ok(py.detach(|| keys::describe(&self.0, &key_objects)).to_string())
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
            let unlock = self.0.unlock_secret_of(&file)?;
            add_slot(&mut file, &unlock, method, secret, argon2)?;
            file.to_bytes()
        })?;
        Ok(bytes(py, &file))
    }

    fn open_signed(
        &self,
        py: Python<'_>,
        scope: &str,
        kind: u8,
        name: &str,
        data: &[u8],
    ) -> PyResult<(Py<PyBytes>, String)> {
        let (body, signed_by) = run!(py, {
            let kind = documents::json_type(kind)?;
            documents::open_signed(&self.scope_keys(scope)?, kind, name, data)
        })?;
        Ok((bytes(py, &body), signed_by.principal.to_string()))
    }

    fn write_state(&self, py: Python<'_>, scope: &str) -> PyResult<String> {
        run!(py, Ok(format!("{:?}", self.0.write_state(&ScopeId::parse(scope)?)?).to_lowercase()))
    }

    fn __repr__(&self) -> String {
        format!("<Keyring {} {}>", self.role(), self.principal())
    }
}

fn bytes(py: Python<'_>, data: &[u8]) -> Py<PyBytes> {
    PyBytes::new(py, data).unbind()
}
