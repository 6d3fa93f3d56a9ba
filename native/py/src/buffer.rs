//! The one place of the binding with unsafe code: lending bytes that Rust owns to Python's buffer
//! protocol, so that a pack of tens of megabytes is not copied on its way to the store.
//!
//! Soundness: the bytes live in a [`Lent`] inside a Python object, and every view holds a reference
//! to that object. They are neither changed nor moved while a view exists: [`Lent::release`] frees
//! them only when no view does, under the same lock that views are made under.

#![allow(unsafe_code)]

use std::os::raw::c_int;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    bytes: Vec<u8>,
    views: usize,
}

impl Lent {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { state: Mutex::new(State { bytes, views: 0 }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees the bytes now, unless a view still shows them; then they go with their owner.
    pub(crate) fn release(&self) {
        let mut state = self.lock();
        if state.views == 0 {
            state.bytes = Vec::new();
        }
    }

    /// Fills `view` with the bytes, read-only.
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
        // SAFETY: `start` points to `length` bytes that stay where they are while `views` is not 0;
        // PyBuffer_FillInfo takes a reference to `owner` for the view, and refuses writable requests.
        let result =
            unsafe { ffi::PyBuffer_FillInfo(view, owner.as_ptr(), start, length, 1, flags) };
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
