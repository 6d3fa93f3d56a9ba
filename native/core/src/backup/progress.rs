//! What a run counts while it goes on.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Counters that any thread may raise at any time.
        #[derive(Debug, Default)]
        pub struct Counters { $($name: AtomicU64),+ }

        /// Their values at one moment.
        #[derive(Clone, Debug, Default, Serialize)]
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
    /// Regular files in the snapshot.
    files,
    /// Directories in the snapshot.
    directories,
    /// Everything else in the snapshot.
    others,
    /// Regular files that were not in the parent.
    files_new,
    /// Regular files that were different in the parent.
    files_changed,
    /// Regular files taken over from the parent without reading them.
    files_unmodified,
    /// Bytes of all regular files, holes included.
    bytes,
    /// Bytes that were read.
    bytes_read,
    /// Bytes of holes and zeros that did not have to be stored.
    bytes_sparse,
    /// Chunks that the repository did not have.
    chunks_new,
    /// Bytes in them.
    bytes_new,
    /// Chunks that were there already.
    chunks_known,
    /// Bytes in them.
    bytes_known,
    /// Bytes of new blobs after compression and sealing.
    bytes_sealed,
    /// Tree and extent pages that the repository did not have.
    pages_new,
    /// Bytes of the packs that were handed over.
    bytes_stored,
    /// Packs that were handed over.
    packs_stored,
    /// Files and directories with a problem.
    errors,
    /// Files that changed while they were read.
    unstable,
    /// Trees and files of earlier backups that could not be had: what they are of was read again.
    earlier_lost,
}

impl Counters {
    /// What reading has achieved so far, in bytes; a file costs as much as 64 KiB however short it is.
    pub(super) fn work(&self) -> u64 {
        let files = self.files.load(Relaxed);
        self.bytes_read.load(Relaxed).saturating_add(files.saturating_mul(64 << 10))
    }

    pub(super) fn stored(&self, bytes: u64) {
        self.bytes_stored.fetch_add(bytes, Relaxed);
        self.packs_stored.fetch_add(1, Relaxed);
    }

    pub(super) fn read(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Relaxed);
    }

    pub(super) fn sparse(&self, bytes: u64) {
        self.bytes_sparse.fetch_add(bytes, Relaxed);
    }

    pub(super) fn known_chunk(&self, bytes: u64) {
        self.chunks_known.fetch_add(1, Relaxed);
        self.bytes_known.fetch_add(bytes, Relaxed);
    }

    pub(super) fn new_chunk(&self, raw: u64, sealed: u64) {
        self.chunks_new.fetch_add(1, Relaxed);
        self.bytes_new.fetch_add(raw, Relaxed);
        self.bytes_sealed.fetch_add(sealed, Relaxed);
    }

    pub(super) fn new_page(&self) {
        self.pages_new.fetch_add(1, Relaxed);
    }

    pub(super) fn problem(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    pub(super) fn lost_earlier(&self) {
        self.earlier_lost.fetch_add(1, Relaxed);
    }

    pub(super) fn unstable_file(&self) {
        self.unstable.fetch_add(1, Relaxed);
    }

    /// Counts a node of the new tree; `was` says how a regular file compares with the parent.
    pub(super) fn node(&self, was: Compared) {
        match was {
            Compared::Directory => self.directories.fetch_add(1, Relaxed),
            Compared::Other => self.others.fetch_add(1, Relaxed),
            Compared::File { size, change } => {
                self.bytes.fetch_add(size, Relaxed);
                match change {
                    Change::New => self.files_new.fetch_add(1, Relaxed),
                    Change::Changed => self.files_changed.fetch_add(1, Relaxed),
                    Change::None => self.files_unmodified.fetch_add(1, Relaxed),
                };
                self.files.fetch_add(1, Relaxed)
            }
        };
    }
}

/// How a regular file compares with the parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Not there.
    New,
    /// There, but different.
    Changed,
    /// The same by everything that was looked at.
    None,
}

/// What a node is, as the counters see it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Compared {
    Directory,
    Other,
    File { size: u64, change: Change },
}
