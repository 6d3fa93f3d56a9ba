//! What a backup is asked to do, as the seam gives it.

use serde::Deserialize;

use super::finish::RootJson;
use crate::index::IndexOptions;

/// Options of a backup; see the table in `docs/architecture.md`.
#[derive(Clone, Debug, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub struct BackupOptions {
    /// Scope id in hex.
    pub scope: String,
    /// Bytes of memory that this job may use.
    pub memory_bytes: u64,
    /// Threads that chunk, compress and seal; 0 for one a core.
    #[serde(default)]
    pub threads: usize,
    /// Threads that read; 0 to choose by the number of cores.
    #[serde(default)]
    pub readers: usize,
    /// The trusted runs.
    pub index: IndexOptions,
    /// Snapshot id in hex.
    pub snapshot: String,
    /// Generation that runs are written under.
    #[serde(rename = "gen")]
    pub generation: u64,
    /// Source id in hex.
    pub source_id: String,
    /// What the source is.
    pub kind: SourceKind,
    /// Path of a directory, file or device: base64 of its bytes.
    #[serde(default)]
    pub path_b64: Option<String>,
    /// Descriptor of a stream.
    #[serde(default)]
    pub fd: Option<i32>,
    /// The snapshot to compare with.
    #[serde(default)]
    pub parent: Option<EarlierOptions>,
    /// What an interrupted run left.
    #[serde(default)]
    pub resume: Option<EarlierOptions>,
    /// Globs of what to leave out.
    #[serde(default)]
    pub excludes: Vec<String>,
    /// Stay on the root's file system.
    #[serde(default)]
    pub one_file_system: bool,
    /// Of the files of a directory keep nothing but kind, mode, mtime and content: somebody has made them
    /// up for this backup.
    #[serde(default)]
    pub plain: bool,
    /// Read everything, whatever the parent says.
    #[serde(default)]
    pub force: bool,
    /// Files may have another ctime than in the parent and still count as unchanged.
    #[serde(default)]
    pub ignore_ctime: bool,
    /// The same for the inode number.
    #[serde(default)]
    pub ignore_inode: bool,
    /// Look whether the source is a clone of what the parent saw, whose ctimes and inode numbers say
    /// nothing.
    #[serde(default)]
    pub detect_clones: bool,
    /// The share of unchanged files that is read and compared; `None` for no such share.
    #[serde(default)]
    pub recheck: Option<RecheckOptions>,
    /// Store small files again that lie in chunks of which the parent uses less than half.
    #[serde(default)]
    pub repack: bool,
    /// How to cut large files.
    #[serde(default)]
    pub chunker: ChunkerChoice,
    /// Target size of data packs.
    #[serde(default = "default_pack_bytes")]
    pub pack_bytes: usize,
    /// A fixed zstd level, or `None` to adapt.
    #[serde(default)]
    pub level: Option<i32>,
    /// Read and count, store nothing.
    #[serde(default)]
    pub dry_run: bool,
}

const fn default_pack_bytes() -> usize {
    32 << 20
}

/// Which unchanged files to read all the same.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct RecheckOptions {
    /// Share of the bytes, 0 to 100.
    pub percent: f64,
    /// Bytes at most, about, for a source as large as the parent.
    #[serde(default)]
    pub bytes_max: Option<u64>,
    /// The same seed draws the same share of the same tree.
    pub seed: u64,
}

/// A tree to compare with.
#[derive(Clone, Debug, Deserialize)]
pub struct EarlierOptions {
    /// Its root.
    pub root: RootJson,
    /// When its scan began, in nanoseconds since 1970.
    pub started_ns: i64,
}

/// Kinds of sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// A tree of files.
    Directory,
    /// One file, disk image or block device.
    File,
    /// What comes out of a descriptor.
    Stream,
}

/// How large files are cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChunkerChoice {
    /// Devices and images in pieces of one size, everything else by content.
    #[default]
    Auto,
    /// By content.
    Argmin,
    /// In pieces of one size.
    Fixed,
}
