//! Large buffers: on huge pages where the system gives them, and used again, because the first touch of
//! fresh pages costs more than reading what goes into them.

use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Mutex};

use crate::broker::lock;
use crate::error::{Error, ErrorKind, Result};

/// Buffers shorter than this many bytes come from the allocator and go back to it.
const KEPT_BYTES_MIN: usize = 64 << 10;
/// Buffers that are kept for the next who needs one, and the bytes of all of them.
const KEPT_MAX: usize = 4;
const KEPT_BYTES_MAX: usize = 32 << 20;
/// Shorter ones gain nothing from huge pages, of which this is the usual size.
const HUGE_BYTES: usize = 2 << 20;

/// Buffers that are free.
#[derive(Debug, Default)]
pub struct Buffers {
    free: Mutex<Vec<Vec<u8>>>,
}

/// A buffer that goes back to where it came from. What is in it at first is left from earlier use.
#[derive(Debug)]
pub struct Buffer {
    /// All of it is initialised, whatever is shown.
    bytes: Vec<u8>,
    shown: Range<usize>,
    home: Arc<Buffers>,
}

impl Buffers {
    /// A buffer that shows `len` bytes. Fails when there is no memory.
    pub fn take(self: &Arc<Self>, len: usize) -> Result<Buffer> {
        let bytes = match self.find(len) {
            Some(bytes) => bytes,
            None => zeroed(len)?,
        };
        Ok(Buffer { bytes, shown: 0..len, home: Arc::clone(self) })
    }

    /// The smallest that is long enough; none that would be mostly empty, which no budget has counted.
    fn find(&self, len: usize) -> Option<Vec<u8>> {
        let mut free = lock(&self.free);
        let fits = |bytes: &Vec<u8>| (len..=len.saturating_mul(2)).contains(&bytes.len());
        let sizes = free.iter().enumerate().filter(|(_, bytes)| fits(bytes));
        let (place, _) = sizes.min_by_key(|(_, bytes)| bytes.len())?;
        Some(free.swap_remove(place))
    }

    fn put_back(&self, bytes: Vec<u8>) {
        if bytes.len() < KEPT_BYTES_MIN {
            return;
        }
        let mut free = lock(&self.free);
        // The one that came last is the likeliest to be of the size that is asked for next.
        free.push(bytes);
        while free.len() > KEPT_MAX || free.iter().map(Vec::len).sum::<usize>() > KEPT_BYTES_MAX {
            drop(free.remove(0));
        }
    }
}

impl Buffer {
    /// Shows only this part of what is shown now; nothing if that is not there.
    pub fn narrow(&mut self, range: Range<usize>) {
        let start = self.shown.start.saturating_add(range.start).min(self.shown.end);
        let end = self.shown.start.saturating_add(range.end).clamp(start, self.shown.end);
        self.shown = start..end;
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(self.shown.clone()).unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.shown.clone()).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.put_back(std::mem::take(&mut self.bytes));
    }
}

/// `len` zeros. Fails when there is no memory.
pub fn zeroed(len: usize) -> Result<Vec<u8>> {
    let mut bytes = with_room(len)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// Room for `len` values, on huge pages if it is that large. Fails when there is no memory.
pub fn with_room<T>(len: usize) -> Result<Vec<T>> {
    let mut room: Vec<T> = Vec::new();
    if room.try_reserve_exact(len).is_err() {
        let what = format!("no {} MiB of memory", len.saturating_mul(size_of::<T>()) >> 20);
        return Err(Error::new(ErrorKind::Io, what));
    }
    let address = room.as_mut_ptr();
    ask_for_huge_pages(address.cast(), room.capacity().saturating_mul(size_of::<T>()));
    Ok(room)
}

/// Tells the kernel that all of these bytes will be used. It may refuse: then nothing changes.
#[expect(unsafe_code, reason = "the interface takes an address")]
fn ask_for_huge_pages(address: *mut u8, len: usize) {
    if len < HUGE_BYTES {
        return;
    }
    let skipped = address.align_offset(rustix::param::page_size());
    if skipped >= len {
        return;
    }
    // SAFETY: the advice changes neither what the pages hold nor what may be done with them, and the
    // range, which begins at a page, ends within the allocation.
    let _ = unsafe {
        rustix::mm::madvise(
            address.wrapping_add(skipped).cast(),
            len - skipped,
            rustix::mm::Advice::LinuxHugepage,
        )
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_are_used_again_and_never_by_one_who_needs_far_less() {
        let home = Arc::new(Buffers::default());
        let mut first = home.take(1 << 20).unwrap();
        first.fill(7);
        let place = first.as_ptr();
        first.narrow(10..20);
        assert_eq!(*first, [7; 10]);
        first.narrow(5..1000);
        assert_eq!(first.len(), 5);
        drop(first);
        assert_ne!(home.take(1 << 18).unwrap().as_ptr(), place);
        let again = home.take((1 << 20) - 1).unwrap();
        assert_eq!((again.as_ptr(), again.len()), (place, (1 << 20) - 1));
        assert_eq!(home.take(0).unwrap().len(), 0);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let home = Arc::new(Buffers::default());
        let kept = || lock(&home.free).iter().map(Vec::len).collect::<Vec<_>>();
        drop((0..9).map(|_| home.take(1 << 20).unwrap()).collect::<Vec<_>>());
        assert_eq!(kept(), [1 << 20; KEPT_MAX]);
        drop(home.take(30 << 20).unwrap());
        assert_eq!(kept(), [1 << 20, 1 << 20, 30 << 20]);
        drop(home.take(10 << 20).unwrap());
        assert_eq!(kept(), [10 << 20]);
        drop(home.take(KEPT_BYTES_MIN - 1).unwrap());
        assert_eq!(kept(), [10 << 20]);
    }

    #[test]
    fn large_room_is_advised_to_be_on_huge_pages() {
        let room = with_room::<u64>(4 << 20).unwrap();
        let (start, end) = (room.as_ptr().addr(), room.as_ptr().addr() + (32 << 20));
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_ours = false;
        let mut flags = Vec::new();
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let parse = |text| usize::from_str_radix(text, 16).ok();
            if let Some((Some(low), Some(high))) = range.map(|(a, b)| (parse(a), parse(b))) {
                is_ours = low < end && start < high;
            }
            if let (true, Some(found)) = (is_ours, line.strip_prefix("VmFlags:")) {
                flags.push(found.contains(" hg"));
            }
        }
        let has_huge_pages = std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists();
        assert_eq!(flags.contains(&true), has_huge_pages, "{flags:?}");
    }

    #[test]
    fn no_memory_is_an_error() {
        assert!(with_room::<u64>(usize::MAX / 8).is_err());
    }
}
