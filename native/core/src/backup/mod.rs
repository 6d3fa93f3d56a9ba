//! Backup: from a source to packs, runs, reference sets and the root of a tree.
//!
//! ```text
//! scan > statx > dispatch > readers (small files) > sequencer > stream chunks \
//!                    |  \-> readers (large files) > chunks -------------------- > workers > packs
//!                    \----- items in key order ----> sequencer > finisher > tree pages > packs
//! ```
//!
//! Invariants: a pack is stored before a run lists it, runs and reference sets before the caller hears
//! of them. Nodes reach the tree in the order of their keys. Every queue is bounded, in count or in
//! bytes; what waits for a budget is never what frees it ([`memory`]).

mod adapt;
mod carry;
mod chunking;
mod chunks;
mod clones;
mod compare;
mod control;
mod copy;
mod dispatch;
mod ending;
mod entries;
mod files;
mod finish;
mod items;
mod large;
mod memory;
mod metadata;
mod options;
mod packer;
mod problems;
mod progress;
mod readers;
mod recheck;
mod repack;
mod run;
mod single;
mod slab;
mod slot;
mod stream;
mod writer;

pub use clones::Evidence;
pub use control::Control;
pub use copy::{CopyOptions, CopyResult, Copying, LostCounts};
pub use finish::RootJson;
pub use metadata::{Counts, ObjectHash};
pub use options::{BackupOptions, ChunkerChoice, EarlierOptions, RecheckOptions, SourceKind};
pub use progress::{Counters, Stats};
pub use run::{Backup, BackupResult};
pub use writer::Writer;
