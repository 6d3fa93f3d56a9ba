//! What all threads of a restore share, and how the trouble of one of them reaches the others.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, OnceLock};

use crossbeam_channel::Sender;
use hashbrown::HashSet;
use rustix::io::Errno;

use super::entry::EntryTask;
use super::fetch::{BlobJob, RangeJob};
use super::file::FileTask;
use super::gaps::LostRow;
use super::links::{LateFlags, LinkTask};
use super::options::Overwrite;
use super::progress::{Counters, Problem};
use super::window::Plan;
use super::windows::{Ticket, Windows};
use crate::blobs::BlobStore;
use crate::broker::{Broker, lock};
use crate::budget::Budget;
use crate::crypto::IdKey;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Denied, display_path};

/// What is done with each node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Make the target equal to the snapshot.
    Restore,
    /// Only tell what would be done.
    DryRun,
    /// Compare, and call each difference a problem.
    Verify,
}

/// Work for the worker threads.
pub(super) enum Job {
    /// Make a symlink or a special file.
    Entry(EntryTask),
    /// Make another name of a file.
    Link(LinkTask),
    /// Complete a file that has nothing more to wait for.
    Finish(Arc<FileTask>, Arc<Ticket>),
    /// Compare chunks of a window, from and to these numbers, with what is in the target.
    Compare(Arc<Plan>, usize, usize),
    /// Make the holes and zeros of a window, from and to these numbers.
    Sparse(Arc<Plan>, usize, usize),
    /// Open a blob and write it to where it belongs.
    Blob(BlobJob),
    /// End the thread.
    Stop,
}

/// The shared part of one pass over the tree.
pub(super) struct Run {
    pub(super) broker: Arc<Broker>,
    pub(super) blobs: BlobStore,
    pub(super) ids: IdKey,
    pub(super) mode: Mode,
    pub(super) overwrite: Overwrite,
    pub(super) counters: Arc<Counters>,
    pub(super) denied: Mutex<Denied>,
    pub(super) jobs: Sender<Job>,
    /// `None` ends a thread.
    pub(super) ranges: Sender<Option<RangeJob>>,
    /// Bytes of ranges between being asked for and being done with.
    pub(super) fetch_budget: Arc<Budget>,
    /// Threads that fetch ranges.
    pub(super) fetchers: u64,
    /// Largest range to ask for, in bytes.
    pub(super) range_bytes_max: u64,
    pub(super) windows: Arc<Windows>,
    /// Files open for writing.
    pub(super) files_open: AtomicUsize,
    /// Existing inodes with several names that were taken for the hard links of one group.
    pub(super) claimed: Mutex<HashSet<(u64, u64)>>,
    pub(super) late_flags: Mutex<Vec<LateFlags>>,
    /// Hashes of the paths that are known not to be what the snapshot has: a comparison afterwards
    /// would only tell it again.
    pub(super) unlike: Mutex<HashSet<u64>>,
    /// The first ranges of paths of which nothing is known.
    pub(super) lost: Mutex<Vec<LostRow>>,
    failure: OnceLock<Error>,
}

/// What [`Run::new`] puts together.
pub(super) struct RunParts {
    pub(super) broker: Arc<Broker>,
    pub(super) blobs: BlobStore,
    pub(super) ids: IdKey,
    pub(super) mode: Mode,
    pub(super) overwrite: Overwrite,
    pub(super) counters: Arc<Counters>,
    pub(super) jobs: Sender<Job>,
    pub(super) ranges: Sender<Option<RangeJob>>,
    pub(super) fetch_bytes: u64,
    pub(super) fetchers: u64,
    pub(super) range_bytes_max: u64,
    /// What earlier passes were not permitted.
    pub(super) denied: Denied,
}

impl Run {
    pub(super) fn new(parts: RunParts) -> Arc<Self> {
        Arc::new(Self {
            broker: parts.broker,
            blobs: parts.blobs,
            ids: parts.ids,
            mode: parts.mode,
            overwrite: parts.overwrite,
            counters: parts.counters,
            denied: Mutex::new(parts.denied),
            jobs: parts.jobs,
            ranges: parts.ranges,
            fetch_budget: Budget::new(parts.fetch_bytes),
            fetchers: parts.fetchers,
            range_bytes_max: parts.range_bytes_max,
            windows: Arc::default(),
            files_open: AtomicUsize::new(0),
            claimed: Mutex::default(),
            late_flags: Mutex::default(),
            unlike: Mutex::default(),
            lost: Mutex::default(),
            failure: OnceLock::new(),
        })
    }

    /// Fails when the restore was cancelled or has failed.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(error) = self.failure.get() {
            return Err(error.clone());
        }
        self.broker.check().inspect_err(|error| {
            self.fail(error.clone());
        })
    }

    /// Ends the restore with `error`, unless it has failed already.
    pub(super) fn fail(&self, error: Error) {
        let _ = self.failure.set(error);
        self.windows.abort();
    }

    /// Whether the restore still goes on.
    pub(super) fn is_going_on(&self) -> bool {
        self.failure.get().is_none()
    }

    /// Queues work. Never blocks: open windows bound how much there is.
    pub(super) fn send(&self, job: Job) {
        if self.jobs.send(job).is_err() {
            self.fail(Error::internal("work after the end of the workers"));
        }
    }

    /// Notes that what is at `path` is not, or need not be, what the snapshot has.
    pub(super) fn note_unlike(&self, path: &[u8]) {
        lock(&self.unlike).insert(path_hash(path));
    }

    /// Ends one of the threads that fetch, when what is queued before is done.
    pub(super) fn stop_fetcher(&self) {
        // Nobody is left to stop if this fails.
        let _ = self.ranges.send(None);
    }

    /// Tells the caller about a problem with one entry, and counts it.
    pub(super) fn problem(&self, problem: &Problem) {
        lock(&self.unlike).insert(problem.path_hash);
        Counters::add(&self.counters.errors, 1);
        let told = serde_json::to_vec(problem)
            .map_err(|error| Error::internal(format!("cannot encode a problem: {error}")))
            .and_then(|json| self.broker.output("problem", json));
        if let Err(error) = told {
            self.fail(error);
        }
    }

    /// An error of the entry at `path`: a problem of that entry, or the end of the restore where
    /// every other entry would meet it too.
    pub(super) fn trouble(&self, path: &[u8], mut error: Error) {
        if is_fatal(&error) {
            self.fail(error.at(display_path(path)));
        } else if self.is_going_on() {
            // Messages name single entries; the path tells which one, and stands beside the message.
            error.key = None;
            self.problem(&Problem::of_error(path, &error));
        }
    }

    /// Adds up what one thread was not permitted to do.
    pub(super) fn deny(&self, denied: Denied) {
        if !denied.is_empty() {
            lock(&self.denied).merge(denied);
        }
    }

    /// A row of a dry run.
    pub(super) fn row(&self, action: &'static str, path: &[u8], size: u64) {
        use base64::Engine as _;
        if self.mode != Mode::DryRun {
            return;
        }
        let path = base64::engine::general_purpose::STANDARD.encode(path);
        let row = serde_json::json!({"action": action, "path_b64": path, "size": size});
        let mut line = row.to_string().into_bytes();
        line.push(b'\n');
        if let Err(error) = self.broker.output("rows", line) {
            self.fail(error);
        }
    }
}

/// Stands for a path.
pub(super) fn path_hash(path: &[u8]) -> u64 {
    let hash = blake3::hash(path);
    u64::from_le_bytes(hash.as_bytes().first_chunk().copied().unwrap_or_default())
}

/// Whether an error would meet every other entry too.
pub(super) fn is_fatal(error: &Error) -> bool {
    const SHORTAGES: [Errno; 6] =
        [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    match error.kind {
        ErrorKind::Damaged | ErrorKind::NotFound | ErrorKind::Unsupported => false,
        ErrorKind::Io => SHORTAGES.iter().any(|errno| error.os_error == Some(errno.raw_os_error())),
        _ => true,
    }
}
