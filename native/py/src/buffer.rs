//! The one place of the binding with unsafe code: lending bytes that Rust owns to Python's buffer
//! protocol, so that megabytes are not copied on their way to the store and back: to be read, or, where
//! the store is to fill them, to be written.
//!
//! Soundness: the bytes live in a [`Lent`] inside a Python object, and every view holds a reference
//! to that object. Rust neither reads, changes nor moves them while a view exists: [`Lent::release`] and
//! [`Lent::reclaim`] take them only when no view does, under the same lock that views are made under.

#![expect(unsafe_code, reason = "the buffer protocol is a C interface")]

use std::os::raw::c_int;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pvback_core::broker::Bytes;
use pvback_core::buffers::Buffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::{Bound, PyAny, PyResult, ffi};

/// Bytes on loan.
#[derive(Debug, Default)]
pub(crate) struct Lent {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: Bytes,
    is_writable: bool,
    views: usize,
}

impl Lent {
    /// Bytes to look at.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { state: Mutex::new(State { bytes: Bytes::Own(bytes), is_writable: false, views: 0 }) }
    }

    /// A buffer to fill.
    pub(crate) fn to_fill(buffer: Buffer) -> Self {
        Self {
            state: Mutex::new(State { bytes: Bytes::Lent(buffer), is_writable: true, views: 0 }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees the bytes now, unless a view still shows them; then they go with their owner.
    pub(crate) fn release(&self) {
        let mut state = self.lock();
        if state.views == 0 {
            state.bytes = Bytes::default();
        }
    }

    /// Takes the bytes back; `None` while a view shows them.
    pub(crate) fn reclaim(&self) -> Option<Bytes> {
        let mut state = self.lock();
        (state.views == 0).then(|| std::mem::take(&mut state.bytes))
    }

    /// Fills `view` with the bytes, read-only unless they are there to be filled.
    ///
    /// # Safety
    /// `view` is what Python passed to `__getbuffer__` of `owner`, and `self` lives in `owner`.
    pub(crate) unsafe fn fill(
        &self,
        owner: &Bound<'_, PyAny>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no view to fill"));
        }
        let mut state = self.lock();
        let length = ffi::Py_ssize_t::try_from(state.bytes.len())?;
        let start = state.bytes.as_mut_ptr().cast();
        let read_only = c_int::from(!state.is_writable);
        // SAFETY: `start` points to `length` bytes that stay where they are while `views` is not 0;
        // PyBuffer_FillInfo takes a reference to `owner` for the view, and refuses requests to write to
        // what is read-only.
        let result = unsafe {
            ffi::PyBuffer_FillInfo(view, owner.as_ptr(), start, length, read_only, flags)
        };
        if result != 0 {
            return Err(PyErr::fetch(owner.py()));
        }
        state.views += 1;
        Ok(())
    }

    /// A view is gone.
    pub(crate) fn unfill(&self) {
        let mut state = self.lock();
        state.views = state.views.saturating_sub(1);
    }
}
