//! Values that one thread of a run waits for and another one delivers, and the word that a run has
//! failed, which wakes everybody.

use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::broker::{Broker, lock};
use crate::error::{Error, ErrorKind, Result};

/// How often a waiter looks whether the job was cancelled.
const LOOK: Duration = Duration::from_millis(200);

/// Wakes those who wait for any slot of a run, and carries its first error.
///
/// One condition variable serves all slots: only two or three threads ever wait at a time, and a slot
/// of its own kernel object for each of millions of chunks would cost more than the spurious wakes.
pub(super) struct Signal {
    broker: Arc<Broker>,
    waiting: Mutex<usize>,
    changed: Condvar,
    failure: OnceLock<Error>,
}

/// A place for one value.
pub(super) struct Slot<T> {
    value: OnceLock<T>,
    signal: Arc<Signal>,
}

impl Signal {
    pub(super) fn new(broker: Arc<Broker>) -> Arc<Self> {
        Arc::new(Self {
            broker,
            waiting: Mutex::new(0),
            changed: Condvar::new(),
            failure: OnceLock::new(),
        })
    }

    /// Notes the first error of the run and wakes everybody, also those who wait for a request.
    pub(super) fn fail(&self, error: &Error) {
        if self.failure.set(error.clone()).is_ok() {
            self.broker.cancel(error);
        }
        self.wake();
    }

    /// Fails once the run has failed or the caller has cancelled it.
    pub(super) fn check(&self) -> Result<()> {
        match self.failure.get() {
            Some(error) => Err(error.clone()),
            None => self.broker.check(),
        }
    }

    pub(super) fn wake(&self) {
        if *lock(&self.waiting) > 0 {
            self.changed.notify_all();
        }
    }

    /// Waits until `ready` gives a value; fails as soon as the run has.
    pub(super) fn wait_for<T>(&self, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
        let mut waiting = lock(&self.waiting);
        loop {
            // `ready` is asked under the lock that `wake` takes, so that no wake is missed.
            if let Some(value) = ready() {
                return Ok(value);
            }
            self.check()?;
            *waiting += 1;
            // The caller's wish to stop wakes nobody here: it is looked for now and then.
            let waited = self.changed.wait_timeout(waiting, LOOK);
            waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
            *waiting -= 1;
        }
    }
}

impl<T> Slot<T> {
    pub(super) fn new(signal: &Arc<Signal>) -> Arc<Self> {
        Arc::new(Self { value: OnceLock::new(), signal: Arc::clone(signal) })
    }

    /// Delivers the value. Delivering twice is a bug and fails the run.
    pub(super) fn set(&self, value: T) {
        if self.value.set(value).is_err() {
            self.signal.fail(&Error::new(ErrorKind::Internal, "a slot was filled twice"));
        }
        self.signal.wake();
    }

    /// The value, if it is there.
    pub(super) fn get(&self) -> Option<&T> {
        self.value.get()
    }

    /// Waits for the value.
    pub(super) fn wait(&self) -> Result<&T> {
        if self.value.get().is_none() {
            self.signal.wait_for(|| self.value.get().map(drop))?;
        }
        self.value.get().ok_or_else(|| Error::internal("a slot lost its value"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_sees_the_value_or_the_failure() {
        let signal = Signal::new(Broker::new(1));
        for round in 0..200 {
            let slot = Slot::new(&signal);
            let giver = Arc::clone(&slot);
            let thread = std::thread::spawn(move || giver.set(round));
            assert_eq!(*slot.wait().unwrap(), round);
            thread.join().unwrap();
        }
        let slot: Arc<Slot<u8>> = Slot::new(&signal);
        let waiter = std::thread::spawn(move || slot.wait().copied());
        signal.fail(&Error::damaged("broken"));
        signal.fail(&Error::internal("later"));
        assert_eq!(waiter.join().unwrap().unwrap_err().kind, ErrorKind::Damaged);
    }
}
