//! What the C library's allocator does with large blocks.

/// Heaps that threads share. By default there are eight for each processor, and each keeps what is freed in it:
/// with the threads that answer for a store a seventh of the memory lay idle there.
#[cfg(target_env = "gnu")]
const HEAP_COUNT: libc::c_int = 4;

/// Blocks of this many bytes get pages of their own, which go back to the system as soon as they are freed.
#[cfg(target_env = "gnu")]
const OWN_PAGES_BYTES: libc::c_int = 4 << 20;

/// Keeps packs out of the allocator's heaps.
///
/// Left alone, glibc takes the size of the largest block that was freed, up to 32 MiB, as the least that gets
/// pages of its own. Packs then come from heaps that keep what is freed: three packs more than are in use.
pub(crate) fn give_back_large_blocks() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "the C library's interface")]
    // SAFETY: the call takes no address, and the allocator locks its own settings.
    let _ = unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAP_COUNT);
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES_BYTES)
    };
}

/// Gives pages of the heaps that nothing lies on back to the system: glibc keeps them until they are at an end.
pub(crate) fn give_back_what_is_free() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "the C library's interface")]
    // SAFETY: the call takes no address, and the allocator locks its heaps.
    let _ = unsafe { libc::malloc_trim(0) };
}
