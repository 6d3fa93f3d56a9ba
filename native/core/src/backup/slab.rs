//! Read buffers that chunks are slices of: a byte that was read is not copied again before it is
//! hashed and compressed. Buffers are used again, because fresh pages cost more than reading them.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use crate::broker::lock;
use crate::budget::{Budget, Permit};
use crate::buffers::zeroed;
use crate::error::Result;

/// Hands out buffers of one capacity, within a budget.
pub(super) struct SlabPool {
    budget: Arc<Budget>,
    capacity: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

/// A buffer that goes back to its pool when the last chunk in it is done.
pub(super) struct Slab {
    /// Always the whole capacity, so that reading into it needs neither zeroing nor unsafe code.
    bytes: Vec<u8>,
    filled: usize,
    pool: Arc<SlabPool>,
    _permit: Permit,
}

/// A part of a slab.
#[derive(Clone)]
pub(super) struct Slice {
    slab: Arc<Slab>,
    range: Range<usize>,
}

impl SlabPool {
    /// `count` buffers of `capacity` bytes at a time.
    pub(super) fn new(capacity: usize, count: usize) -> Arc<Self> {
        let budget = Budget::new((capacity * count.max(2)) as u64);
        Arc::new(Self { budget, capacity, free: Mutex::default() })
    }

    /// An empty buffer, once one is free. Fails as `check` does, which is asked while waiting, and when there
    /// is no memory.
    pub(super) fn take(self: &Arc<Self>, check: impl FnMut() -> Result<()>) -> Result<Slab> {
        let permit = self.budget.acquire_while(self.capacity as u64, check)?;
        let bytes = lock(&self.free).pop();
        let bytes = match bytes {
            Some(bytes) => bytes,
            None => zeroed(self.capacity)?,
        };
        Ok(Slab { bytes, filled: 0, pool: Arc::clone(self), _permit: permit })
    }
}

impl Slab {
    /// Room behind what is filled.
    pub(super) fn spare_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.filled..).unwrap_or_default()
    }

    /// Says that `count` more bytes of the spare room were filled.
    pub(super) fn advance(&mut self, count: usize) {
        self.filled = self.bytes.len().min(self.filled + count);
    }

    /// Copies `bytes` behind what is filled; as much as there is room for.
    pub(super) fn fill(&mut self, bytes: &[u8]) {
        let spare = self.spare_mut();
        let count = spare.len().min(bytes.len());
        if let (Some(to), Some(from)) = (spare.get_mut(..count), bytes.get(..count)) {
            to.copy_from_slice(from);
        }
        self.advance(count);
    }

    /// What was filled in.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        lock(&self.pool.free).push(std::mem::take(&mut self.bytes));
    }
}

impl Slice {
    /// `range` of `slab`, clipped to what is there.
    pub(super) fn new(slab: &Arc<Slab>, range: Range<usize>) -> Self {
        Self { slab: Arc::clone(slab), range }
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.slab.bytes().get(self.range.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_bounded_and_used_again() {
        let pool = SlabPool::new(1024, 2);
        let mut first = pool.take(|| Ok(())).unwrap();
        first.fill(&[1, 2, 3, 4]);
        let place = first.bytes().as_ptr();
        let slab = Arc::new(first);
        let slice = Slice::new(&slab, 1..3);
        drop(slab);
        assert_eq!(slice.bytes(), [2, 3]);
        assert_eq!(pool.budget.used(), 1024);
        drop(slice);
        assert_eq!(pool.budget.used(), 0);
        let again = pool.take(|| Ok(())).unwrap();
        assert_eq!((again.bytes().len(), again.bytes.as_ptr()), (0, place));
    }
}
