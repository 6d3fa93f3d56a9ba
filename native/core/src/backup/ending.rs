//! How the stages of a backup end: the first failure is the run's, and nobody is left waiting.

use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::files::is_echo;
use super::slot::Signal;
use crate::error::{Error, Result};

/// Takes what is left in a queue, until nobody fills it any more. What lies there holds parts of budgets, and
/// whoever fills the queue may be waiting for them: a stage that failed must not leave it to itself.
pub(super) fn drain<T>(queue: &Receiver<T>) {
    queue.iter().for_each(drop);
}

/// Notes a failure that is not the echo of another.
pub(super) fn fail(signal: &Signal, error: &Error) {
    if !is_echo(error) {
        signal.fail(error);
    }
}

/// Runs a stage; its failure is the run's.
pub(super) fn guard(signal: &Arc<Signal>, stage: impl FnOnce() -> Result<()>) {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(stage));
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => fail(signal, &error),
        Err(_) => signal.fail(&Error::internal("a stage of the backup broke off")),
    }
}
