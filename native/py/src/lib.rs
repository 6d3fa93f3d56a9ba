//! Python binding of the data path: `pvback._native`. Its interface is `pvback/_native.pyi`.
//!
//! Every function takes owned arguments, releases the GIL once for all its work, and converts the
//! result; no lock is held across that.

#![expect(
    clippy::needless_pass_by_value,
    reason = "Python's arguments are extracted as owned values"
)]

use pyo3::prelude::*;
use pyo3::types::PyBytes;

mod buffer;
mod errors;
mod heap;
mod job;
mod keyring;
mod keys;
mod owner;

use errors::{guarded, raise};

/// BLAKE3 of data, 32 bytes.
#[pyfunction]
fn blake3<'py>(py: Python<'py>, data: &[u8]) -> Bound<'py, PyBytes> {
    PyBytes::new(py, pvback_core::digest(data).as_slice())
}

/// 16 bytes from the operating system, in hex.
#[pyfunction]
fn random_id(py: Python<'_>) -> PyResult<String> {
    guarded(pvback_core::random_id).map_err(|error| raise(py, &error))
}

/// A new recovery key, 160 random bits; see `pvback_core::crypto::slot::generate_recovery_key`.
#[pyfunction]
fn recovery_key(py: Python<'_>) -> PyResult<String> {
    let made = guarded(pvback_core::crypto::slot::generate_recovery_key);
    made.map(|key| key.as_str().to_owned()).map_err(|error| raise(py, &error))
}

/// A new X25519 key pair, private and public; see `pvback_core::crypto::slot::generate_key_pair`.
#[pyfunction]
fn key_pair(py: Python<'_>) -> PyResult<(Py<PyBytes>, Py<PyBytes>)> {
    let made = guarded(pvback_core::crypto::slot::generate_key_pair);
    let (private, public) = made.map_err(|error| raise(py, &error))?;
    Ok((PyBytes::new(py, private.expose()).unbind(), PyBytes::new(py, &public).unbind()))
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    heap::give_back_large_blocks();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(blake3, module)?)?;
    module.add_function(wrap_pyfunction!(random_id, module)?)?;
    module.add_function(wrap_pyfunction!(key_pair, module)?)?;
    module.add_function(wrap_pyfunction!(recovery_key, module)?)?;
    owner::register(module)?;
    module.add_class::<keyring::Keyring>()?;
    module.add_class::<keyring::Stretched>()?;
    module.add_class::<job::Job>()?;
    module.add_class::<job::Request>()
}
