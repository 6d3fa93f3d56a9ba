//! How one memory ceiling is shared out. Every term is an upper bound of what its stage holds.

/// Shares of a run's memory, in bytes unless said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares {
    /// Index runs held whole.
    pub(super) index: u64,
    /// Read buffers for large files: bytes each, and how many.
    pub(super) slab: usize,
    pub(super) slabs: usize,
    /// Contents of small files on their way to the stream.
    pub(super) small: u64,
    /// Chunks of the stream on their way through the workers.
    pub(super) stream: u64,
    /// Target size of a data pack and of a metadata pack.
    pub(super) data_pack: usize,
    pub(super) meta_pack: usize,
    /// Earlier pages that are kept; as many are on their way, and as many being opened.
    pub(super) pages: u64,
    /// Digests of small files that are remembered.
    pub(super) digests: usize,
    /// The highest zstd level: each worker's tables grow with it, to 10 MiB at 9 for the longest chunks.
    pub(super) level_most: i32,
}

const MIB: u64 = 1 << 20;

/// Whoever gives less gives this much.
pub(super) const MEMORY_BYTES_MIN: u64 = 48 * MIB;

impl Shares {
    /// Shares `memory` bytes among the stages. `longest_chunk` bounds from below what reading needs.
    ///
    /// Packs take the most: one of each kind is filled, one of each kind may be full and wait for its turn,
    /// and up to two are on their way to the store.
    pub(super) fn of(memory: u64, longest_chunk: usize, pack_bytes: usize) -> Self {
        let memory = memory.max(MEMORY_BYTES_MIN);
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let data_pack = pack_bytes.min(size(memory / 8)).max(4 << 20);
        let slab = (2 * longest_chunk + (1 << 20)).max(2 << 20);
        Self {
            index: memory / 6,
            slab,
            slabs: (size(memory / 6) / slab).max(2),
            small: (memory / 24).max(4 * MIB),
            stream: (memory / 24).max(4 * longest_chunk as u64),
            data_pack,
            meta_pack: data_pack.min(8 << 20),
            // Most of a metadata pack at the default ceiling.
            pages: memory / 24,
            // 44 bytes of key and value, hash table slack included twice that.
            digests: size(memory / 12 / 88),
            level_most: if memory < 160 * MIB { 6 } else { 9 },
        }
    }
}
