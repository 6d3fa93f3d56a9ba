//! What the caller can tell a run while it goes on.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use super::slot::Signal;
use crate::broker::lock;

/// Flags that the caller sets and the run takes.
#[derive(Default)]
pub struct Control {
    checkpoint: AtomicBool,
    signal: Mutex<Option<Arc<Signal>>>,
}

impl Control {
    /// Asks for a checkpoint at the next occasion.
    pub fn ask_checkpoint(&self) {
        self.checkpoint.store(true, SeqCst);
        if let Some(signal) = &*lock(&self.signal) {
            signal.wake();
        }
    }

    pub(super) fn attach(&self, signal: &Arc<Signal>) {
        *lock(&self.signal) = Some(Arc::clone(signal));
    }

    pub(super) fn is_checkpoint_asked(&self) -> bool {
        self.checkpoint.load(SeqCst)
    }

    /// What was asked for until now is being made. Not called as long as there is nothing to make it of.
    pub(super) fn begin_checkpoint(&self) {
        self.checkpoint.store(false, SeqCst);
    }
}
