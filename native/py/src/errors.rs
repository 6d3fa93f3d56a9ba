//! Errors of the data path as the exceptions of `pvback.errors`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pvback_core::{Error, ErrorKind, Result};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Runs `work`; a panic becomes an internal error instead of an exception that nobody catches.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Error::internal("the native module broke off")))
}

/// The exception for an error.
pub(crate) fn raise(py: Python<'_>, error: &Error) -> PyErr {
    match build(py, error) {
        Ok(exception) => PyErr::from_value(exception),
        Err(failure) => failure,
    }
}

fn build<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyAny>> {
    let class = match error.kind {
        ErrorKind::Io => "FileError",
        ErrorKind::Storage => "StorageError",
        ErrorKind::NotFound => "ObjectNotFound",
        ErrorKind::Damaged => "DamagedError",
        ErrorKind::WrongKey => "WrongKeyError",
        ErrorKind::Unsupported => "UnsupportedFormatError",
        ErrorKind::Usage => "UsageError",
        ErrorKind::Cancelled => "Interrupted",
        _ => "InternalError",
    };
    let mut what = error.what.to_string();
    if let Some(code) = error.os_error {
        what = format!("{what}: {}", std::io::Error::from_raw_os_error(code));
    }
    let fields = PyDict::new(py);
    fields.set_item("key", error.key.as_deref())?;
    fields.set_item("offset", error.offset)?;
    py.import("pvback.errors")?.getattr(class)?.call((what,), Some(&fields))
}
