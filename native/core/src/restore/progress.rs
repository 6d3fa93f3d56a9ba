//! What a restore counts while it goes on, and what it tells in the end.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use super::gaps::LostRow;
use crate::error::Error;
use crate::fs::Denied;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Counters that any thread may raise at any time.
        #[derive(Debug, Default)]
        pub struct Counters { $(pub(super) $name: AtomicU64),+ }

        /// Their values at one moment.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Stats { $($(#[$doc])* pub $name: u64),+ }

        impl Counters {
            /// The values now.
            pub fn stats(&self) -> Stats {
                Stats { $($name: self.$name.load(Relaxed)),+ }
            }
        }
    };
}

counters! {
    /// Nodes in the restored tree, selected or not; 0 where only a part of it is restored and they are
    /// not known.
    nodes_total,
    /// Bytes of all files in it, holes included.
    bytes_total,
    /// Nodes met so far.
    nodes,
    /// Regular files that were finished, with or without a change.
    files,
    /// Those that were not there.
    files_new,
    /// Those whose content was changed.
    files_changed,
    /// Those whose content was as it should be.
    files_unchanged,
    /// Those left alone because of the overwrite mode.
    files_skipped,
    /// Directories.
    directories,
    /// Symlinks, FIFOs, sockets and device nodes.
    others,
    /// Names that were made hard links of another one.
    hard_links,
    /// Bytes of files dealt with, holes included.
    bytes,
    /// Bytes written to files.
    bytes_written,
    /// Bytes of existing files that were as they should be, so that they were not fetched.
    bytes_unchanged,
    /// Bytes of holes and reserved zeros.
    bytes_sparse,
    /// Bytes asked of the object store for content.
    bytes_fetched,
    /// Ranges asked of the object store for content.
    ranges_fetched,
    /// Entries removed because the snapshot does not have them.
    deleted,
    /// Files that were read again and compared.
    files_verified,
    /// Bytes of them.
    bytes_verified,
    /// Ranges of paths of which nothing is known, each of them a problem.
    ranges_lost,
    /// Entries with a problem.
    errors,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, value: u64) {
        counter.fetch_add(value, Relaxed);
    }
}

/// One category of what was not permitted.
#[derive(Clone, Debug, Serialize)]
pub struct DeniedRow {
    /// A stable word for it.
    pub category: &'static str,
    /// How often.
    pub count: u64,
    /// A few paths.
    pub examples: Vec<String>,
    /// The operating system's last answer; empty where it gave none.
    pub message: String,
}

/// What a restore tells in the end.
#[derive(Clone, Debug, Serialize)]
pub struct RestoreResult {
    /// Counters.
    pub stats: Stats,
    /// What was not permitted. Not errors.
    pub denied: Vec<DeniedRow>,
    /// The first ranges of paths of which nothing is known, because the tree could not be read there.
    pub lost: Vec<LostRow>,
    /// Entries with a problem; each was an output.
    pub errors: u64,
}

impl RestoreResult {
    pub(super) fn new(counters: &Counters, denied: &Denied, lost: Vec<LostRow>) -> Self {
        let stats = counters.stats();
        let rows = denied.iter().map(|(category, tally)| DeniedRow {
            category: category.as_str(),
            count: tally.count,
            examples: tally.examples.clone(),
            message: tally.os_error.map_or_else(String::new, |code| {
                std::io::Error::from_raw_os_error(code).to_string()
            }),
        });
        Self { denied: rows.collect(), lost, errors: stats.errors, stats }
    }
}

/// Something that went wrong with one entry; becomes an output of kind `problem`.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    /// Path within the restored subtree.
    pub(super) path_b64: String,
    #[serde(skip)]
    pub(super) path_hash: u64,
    /// A stable word: `io`, `damaged`, `missing`, `unreadable`, `partial`, `differs`.
    pub(super) what: &'static str,
    /// For people.
    pub(super) message: String,
    /// Offset and length, in bytes, of the parts of a file that are not what the snapshot has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) ranges: Vec<(u64, u64)>,
    /// Whether there are more ranges than are listed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) more_ranges: bool,
}

impl Problem {
    /// `error` of the entry at `path`.
    pub(super) fn of_error(path: &[u8], error: &Error) -> Self {
        use crate::error::ErrorKind;
        let what = match error.kind {
            ErrorKind::Damaged => "damaged",
            ErrorKind::NotFound => "missing",
            _ => "io",
        };
        Self::new(path, what, error.to_string())
    }

    pub(super) fn new(path: &[u8], what: &'static str, message: String) -> Self {
        use base64::Engine as _;
        Self {
            path_b64: base64::engine::general_purpose::STANDARD.encode(path),
            path_hash: super::run::path_hash(path),
            what,
            message,
            ranges: Vec::new(),
            more_ranges: false,
        }
    }
}
