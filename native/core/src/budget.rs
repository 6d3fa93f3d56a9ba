//! Byte budgets: the means by which one memory ceiling holds. Whoever allocates a buffer whose
//! size depends on the data first takes a permit for it and keeps the two together.
//!
//! Deadlock is avoided by order: a budget is only ever waited for by threads whose progress frees
//! nothing of the same budget, or that acquire in the order in which permits are given back.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::broker::lock;
use crate::error::Result;

/// How often who waits asks whether to go on.
const LOOK: Duration = Duration::from_millis(200);

/// A number of bytes that permits are cut from.
#[derive(Debug)]
pub struct Budget {
    capacity: u64,
    used: Mutex<u64>,
    freed: Condvar,
}

/// A share of a budget; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    /// A budget of `capacity` bytes.
    pub fn new(capacity: u64) -> Arc<Self> {
        Arc::new(Self { capacity, used: Mutex::new(0), freed: Condvar::new() })
    }

    /// Waits for `bytes`. A request above the whole capacity gets all of it, once all of it is free.
    pub fn acquire(self: &Arc<Self>, bytes: u64) -> Permit {
        let bytes = bytes.min(self.capacity);
        let mut used = lock(&self.used);
        while *used + bytes > self.capacity {
            used = self.freed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used += bytes;
        Permit { budget: Arc::clone(self), bytes }
    }

    /// The same for those whose partners may have stopped for good: asks `check` now and then, and gives
    /// up with its error. What lies in a queue that nobody empties any more keeps its permits.
    pub fn acquire_while(
        self: &Arc<Self>,
        bytes: u64,
        mut check: impl FnMut() -> Result<()>,
    ) -> Result<Permit> {
        let bytes = bytes.min(self.capacity);
        let mut used = lock(&self.used);
        while *used + bytes > self.capacity {
            check()?;
            let waited = self.freed.wait_timeout(used, LOOK);
            used = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *used += bytes;
        Ok(Permit { budget: Arc::clone(self), bytes })
    }

    /// Bytes in use now.
    pub fn used(&self) -> u64 {
        *lock(&self.used)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *lock(&self.budget.used) -= self.bytes;
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn who_waits_for_nobody_gives_up_when_told() {
        let budget = Budget::new(100);
        let never_given_back = budget.acquire(100);
        let mut asked = 0;
        let result = budget.acquire_while(1, || {
            asked += 1;
            if asked < 3 { Ok(()) } else { Err(crate::Error::internal("over")) }
        });
        assert!(result.is_err());
        assert_eq!(budget.used(), 100);
        drop(never_given_back);
        assert!(budget.acquire_while(1, || Err(crate::Error::internal("over"))).is_ok());
    }

    #[test]
    fn the_capacity_holds_under_contention_and_an_oversized_request_passes() {
        let budget = Budget::new(100);
        let most = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let (budget, most) = (&budget, &most);
                scope.spawn(move || {
                    for round in 0..500u64 {
                        let permit = budget.acquire(1 + (thread * 31 + round * 7) % 60);
                        most.fetch_max(budget.used(), Ordering::SeqCst);
                        drop(permit);
                    }
                    drop(budget.acquire(1_000_000));
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 100);
        assert_eq!(budget.used(), 0);
    }
}
