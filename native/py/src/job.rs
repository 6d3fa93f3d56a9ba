//! Jobs and their requests.

use std::os::raw::c_int;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pvback_core::broker::{self, Work};
use pvback_core::buffers::Buffer;
use pvback_core::{Error, ErrorKind, job};
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyByteArray, PyBytes};
use pyo3::{Bound, PyAny, Python, ffi};

use crate::buffer::Lent;
use crate::errors::{guarded, raise};
use crate::heap;
use crate::keyring::Keyring;

/// Work that runs on native threads until it is done.
#[pyclass(frozen, module = "pvback._native")]
pub(crate) struct Job(job::Job);

#[pymethods]
impl Job {
    #[staticmethod]
    #[pyo3(signature = (verb, keyring, options_json, source = None))]
    fn start(
        py: Python<'_>,
        verb: &str,
        keyring: &Keyring,
        options_json: &str,
        source: Option<&Keyring>,
    ) -> PyResult<Self> {
        let started = py.detach(|| {
            let source = source.map(Keyring::core);
            guarded(|| job::Job::start_from(verb, keyring.core(), source, options_json))
        });
        started.map(Self).map_err(|error| raise(py, &error))
    }

    fn next_request(&self, py: Python<'_>) -> Option<Request> {
        py.detach(|| {
            loop {
                let request = self.0.next_request()?;
                match request.buffer() {
                    Ok(buffer) => return Some(Request::new(request, buffer)),
                    Err(error) => request.fail(error),
                }
            }
        })
    }

    fn progress(&self) -> String {
        self.0.progress()
    }

    fn command(&self, py: Python<'_>, name: &str, options_json: &str) -> PyResult<String> {
        let answer = py.detach(|| guarded(|| self.0.command(name, options_json)));
        answer.map_err(|error| raise(py, &error))
    }

    fn read<'py>(
        &self,
        py: Python<'py>,
        file: u64,
        offset: u64,
        length: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| guarded(|| self.0.read(file, offset, length)));
        bytes.map(|bytes| PyBytes::new(py, &bytes)).map_err(|error| raise(py, &error))
    }

    fn cancel(&self, py: Python<'_>) {
        py.detach(|| self.0.cancel());
    }

    fn result(&self, py: Python<'_>) -> PyResult<String> {
        let result = py.detach(|| {
            let result = self.0.result();
            // Jobs follow each other in one process, and each may use what it is given.
            heap::give_back_what_is_free();
            result
        });
        result.map_err(|error| raise(py, &error))
    }
}

/// One thing that a job asks for.
#[pyclass(frozen, module = "pvback._native")]
pub(crate) struct Request {
    open: Mutex<Option<broker::Request>>,
    kind: &'static str,
    key: String,
    offset: u64,
    length: Option<u64>,
    data: Lent,
}

impl Request {
    fn new(mut request: broker::Request, buffer: Option<Buffer>) -> Self {
        let data = match buffer {
            Some(buffer) => Lent::to_fill(buffer),
            None => Lent::new(request.take_data()),
        };
        let (kind, key, offset, length) = match &request.work {
            Work::Get { key, offset, length } => ("get", key.clone(), *offset, *length),
            Work::Put { key, .. } => ("put", key.clone(), 0, None),
            Work::Output { kind, .. } => ("output", (*kind).to_owned(), 0, None),
        };
        Self { open: Mutex::new(Some(request)), kind, key, offset, length, data }
    }

    fn take(&self) -> Option<broker::Request> {
        let mut open: MutexGuard<'_, _> = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.take()
    }
}

#[pymethods]
impl Request {
    #[getter]
    fn kind(&self) -> &'static str {
        self.kind
    }

    #[getter]
    fn key(&self) -> &str {
        &self.key
    }

    #[getter]
    fn offset(&self) -> u64 {
        self.offset
    }

    #[getter]
    fn length(&self) -> Option<u64> {
        self.length
    }

    #[pyo3(signature = (data = None))]
    fn complete(&self, py: Python<'_>, data: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let bytes = data.map(|data| backed(py, data)).transpose()?;
        py.detach(|| {
            self.data.release();
            if let Some(request) = self.take() {
                request.complete(bytes.map(|bytes| bytes.to_vec()).unwrap_or_default());
            }
        });
        Ok(())
    }

    fn complete_filled(&self, py: Python<'_>, count: usize) -> PyResult<()> {
        let Some(mut bytes) = self.data.reclaim() else {
            return Err(PyBufferError::new_err("the buffer is still in use"));
        };
        py.detach(|| {
            if let Some(request) = self.take() {
                bytes.truncate(count);
                request.complete_with(bytes);
            }
        });
        Ok(())
    }

    fn fail(&self, py: Python<'_>, kind: &str, message: String) {
        let kind = match kind {
            "not_found" => ErrorKind::NotFound,
            "cancelled" => ErrorKind::Cancelled,
            "internal" => ErrorKind::Internal,
            _ => ErrorKind::Storage,
        };
        py.detach(|| {
            self.data.release();
            if let Some(request) = self.take() {
                request.fail(Error::new(kind, message));
            }
        });
    }

    #[expect(unsafe_code, reason = "the buffer protocol is a C interface")]
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        // SAFETY: Python gave `view` for this object, which holds the bytes.
        unsafe { slf.get().data.fill(slf.as_any(), view, flags) }
    }

    #[expect(unsafe_code, reason = "the buffer protocol is a C interface")]
    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        self.data.unfill();
    }
}

/// Bytes that stay valid without the GIL: copied only if they could change.
fn backed(py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<PyBackedBytes> {
    if let Ok(bytes) = data.cast::<PyBytes>() {
        return Ok(PyBackedBytes::from(bytes.clone()));
    }
    if let Ok(array) = data.cast::<PyByteArray>() {
        return Ok(PyBackedBytes::from(array.clone()));
    }
    let bytes = py.get_type::<PyBytes>().call1((data,))?;
    Ok(PyBackedBytes::from(bytes.cast_into::<PyBytes>()?))
}
