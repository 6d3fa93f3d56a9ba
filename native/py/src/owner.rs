//! Key files and config of a repository as owners change them. What comes out is bytes for the
//! caller to store; nothing is changed here.

use pvback_core::crypto::Config;
use pvback_core::crypto::keyfile::KeyFile;
use pvback_core::{Error, ErrorKind};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::{guarded, raise};
use crate::keyring::Keyring;
use crate::keys;

macro_rules! run {
    ($py:expr, $work:expr) => {
        $py.detach(|| guarded(|| $work)).map_err(|error| raise($py, &error))
    };
}

fn to_python(py: Python<'_>, data: &[u8]) -> Py<PyBytes> {
    PyBytes::new(py, data).unbind()
}

#[pyfunction]
fn key_facts(py: Python<'_>, key_object: &[u8]) -> PyResult<String> {
    run!(py, keys::facts(key_object).map(|facts| facts.to_string()))
}

#[pyfunction]
fn config_facts(py: Python<'_>, config: &[u8]) -> PyResult<String> {
    run!(py, keys::config_facts(config).map(|facts| facts.to_string()))
}

#[pyfunction]
fn slot_of(py: Python<'_>, key_object: &[u8], method: &str, secret: &[u8]) -> PyResult<usize> {
    run!(py, keys::slot_of(key_object, method, secret))
}

#[pyfunction]
fn issue_key(
    py: Python<'_>,
    keyring: &Keyring,
    request_json: &str,
) -> PyResult<(String, Py<PyBytes>)> {
    let keyring = keyring.core();
    let (name, file) = run!(py, {
        let file = keys::issue(keyring, request_json)?;
        Ok((file.name(), file.to_bytes()?))
    })?;
    Ok((name, to_python(py, &file)))
}

#[pyfunction]
fn issue_key_again(py: Python<'_>, keyring: &Keyring, key_object: &[u8]) -> PyResult<Py<PyBytes>> {
    let keyring = keyring.core();
    let file = run!(py, keyring.issue_again(&KeyFile::parse(key_object)?)?.to_bytes())?;
    Ok(to_python(py, &file))
}

#[pyfunction]
fn change_config(py: Python<'_>, keyring: &Keyring, change_json: &str) -> PyResult<Py<PyBytes>> {
    let keyring = keyring.core();
    let config = run!(py, keys::change_config(keyring, change_json))?;
    Ok(to_python(py, &config))
}

#[pyfunction]
fn with_config(py: Python<'_>, keyring: &Keyring, config: &[u8]) -> PyResult<Keyring> {
    let mut core = keyring.core().clone();
    run!(py, {
        core.set_config(Config::parse(config, Some(core.config().owner()))?)?;
        Ok(core)
    })
    .map(Keyring::new)
}

#[pyfunction]
fn unlock_secret(py: Python<'_>, keyring: &Keyring, key_object: &[u8]) -> PyResult<Py<PyBytes>> {
    let keyring = keyring.core();
    let secret = run!(py, Ok(keyring.unlock_secret_of(&KeyFile::parse(key_object)?)?.to_bytes()))?;
    Ok(to_python(py, secret.as_slice()))
}

#[pyfunction]
fn add_command(
    py: Python<'_>,
    keyring: &Keyring,
    key_object: &[u8],
    name: &str,
    sealed: &[u8],
) -> PyResult<Py<PyBytes>> {
    let keyring = keyring.core();
    let file = run!(py, {
        let mut file = KeyFile::parse(key_object)?;
        file.add_command(&keyring.unlock_secret_of(&file)?, name, sealed)?;
        file.to_bytes()
    })?;
    Ok(to_python(py, &file))
}

#[pyfunction]
fn remove_slot(py: Python<'_>, key_object: &[u8], position: usize) -> PyResult<Py<PyBytes>> {
    let file = run!(py, {
        let mut file = KeyFile::parse(key_object)?;
        if file.slots().len() == 1 {
            let what = "the last way to unlock a key is not removed";
            return Err(Error::new(ErrorKind::Usage, what));
        }
        file.remove_slot(position)?;
        file.to_bytes()
    })?;
    Ok(to_python(py, &file))
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(key_facts, module)?)?;
    module.add_function(wrap_pyfunction!(config_facts, module)?)?;
    module.add_function(wrap_pyfunction!(slot_of, module)?)?;
    module.add_function(wrap_pyfunction!(issue_key, module)?)?;
    module.add_function(wrap_pyfunction!(issue_key_again, module)?)?;
    module.add_function(wrap_pyfunction!(change_config, module)?)?;
    module.add_function(wrap_pyfunction!(with_config, module)?)?;
    module.add_function(wrap_pyfunction!(unlock_secret, module)?)?;
    module.add_function(wrap_pyfunction!(add_command, module)?)?;
    module.add_function(wrap_pyfunction!(remove_slot, module)?)
}
