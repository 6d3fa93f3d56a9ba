//! Restore: from the root of a tree to files, and the dump of a single one.
//!
//! ```text
//! tree > planner (directories) > windows > compare > ranges > fetchers > blobs > workers > files
//!                         \---- links, symlinks, devices, empty files ----------/
//! ```
//!
//! What holds throughout:
//!
//! - No byte is written that was not opened from its seal and compared with its id.
//! - Nothing outside of the target is touched: every step is one name in an open directory, and no
//!   symlink is followed. A file that has other names is copied before it is written to.
//! - A file is complete, attributes and all, when its last piece was written; a directory, when all in it is.
//! - Trouble with one entry is told and costs that entry; what would meet all others ends the restore.
//! - Memory: up to three windows of plans, ranges within a budget, and the directories and groups of hard
//!   links in use. Nothing grows with the size of the tree but the table of hard links.

mod compare;
mod dirs;
mod dump;
mod entry;
mod extras;
mod fetch;
mod file;
mod finish;
mod gaps;
mod journal;
mod lane;
mod links;
mod nodes;
mod options;
mod orphans;
mod pass;
mod plan;
mod progress;
mod run;
mod select;
mod single;
mod unshare;
mod window;
mod windows;

use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

pub use dump::{DumpResult, dump};
pub use gaps::LostRow;
pub use journal::JOURNAL_NAME;
#[cfg(fuzzing)]
pub use journal::write_again as write_journal_again;
pub use options::{DumpOptions, Overwrite, ReadOptions, RestoreOptions};
pub use progress::{Counters, DeniedRow, RestoreResult, Stats};

use self::journal::Journal;
use self::options::key_of_path;
use self::pass::{Passes, Root};
use self::progress::Problem;
use self::run::Mode;
use self::select::Selection;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Dir, Target, display_path};
use crate::index::Index;
use crate::pages::PageStore;
use crate::scope::Scope;
use crate::tree::{Kind, Node, TreeReader};

/// How the caller follows a restore or dump. It is stopped by cancelling the broker.
#[derive(Debug, Default)]
pub struct Control {
    counters: Arc<Counters>,
}

impl Control {
    /// Counters to watch.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }
}

/// Directories kept open besides those in use.
const DIRS_OPEN_MAX: usize = 128;

/// A snapshot's tree, and what reading it takes.
struct Snapshot {
    scope: Scope,
    index: Arc<Index>,
    reader: TreeReader<Arc<PageStore>>,
}

impl Snapshot {
    fn open(scope: &Scope, options: &ReadOptions) -> Result<Self> {
        let index = Index::load(scope, &options.index, options.memory() / 4)?;
        let index = Arc::new(index);
        let pages = PageStore::new(scope.clone(), Arc::clone(&index), &options.source_id)?;
        let reader = TreeReader::new(Arc::new(pages), options.root);
        Ok(Self { scope: scope.clone(), index, reader })
    }

    fn find(&self, path: &[u8]) -> Result<Node> {
        let missing = || {
            let what = "the snapshot has no such file or directory";
            Error::new(ErrorKind::NotFound, what).at(display_path(path))
        };
        self.reader.find(&key_of_path(path)?)?.ok_or_else(missing)
    }
}

/// Restores a snapshot, or a part of it, on threads of its own; returns when all is done. The broker must
/// be served meanwhile.
///
/// Problems with single entries are outputs of kind `problem`, one JSON object each, and counted in
/// [`RestoreResult::errors`]. An error means that the restore did not come to its end: what it wrote
/// is still right, and with a journal or a comparison a second run goes on from there.
pub fn restore(
    scope: &Scope,
    options: &RestoreOptions,
    control: &Control,
) -> Result<RestoreResult> {
    let selection = Arc::new(Selection::new(&options.includes, &options.excludes)?);
    let snapshot = Snapshot::open(scope, &options.read)?;
    tell_damaged(&snapshot, control)?;
    let base = key_of_path(&options.subtree)?;
    let node = match snapshot.find(&options.subtree) {
        Err(error) => snapshot.reader.lost_directory(&base).ok_or(error)?,
        Ok(node) => node,
    };
    if base.is_empty() {
        let counters = &control.counters;
        Counters::add(&counters.nodes_total, options.read.root.nodes);
        Counters::add(&counters.bytes_total, options.read.root.bytes);
    }
    let target = Path::new(OsStr::from_bytes(&options.target));
    let root = match node.kind() {
        Kind::Directory => Root::Directory(open_target(target, options.dry_run)?),
        _ => single::open(target, &node, options.dry_run)?,
    };
    let mut passes = Passes {
        snapshot: &snapshot,
        options,
        selection,
        base,
        node,
        counters: &control.counters,
        unlike: hashbrown::HashSet::new(),
        denied: crate::fs::Denied::default(),
        lost: Vec::new(),
    };
    let mode = if options.dry_run { Mode::DryRun } else { Mode::Restore };
    passes.run(mode, &root)?;
    if options.verify && !options.dry_run {
        passes.run(Mode::Verify, &root)?;
    }
    Ok(RestoreResult::new(&control.counters, &passes.denied, passes.lost))
}

/// Tells of parts of the index that are damaged: what only they list cannot be restored.
fn tell_damaged(snapshot: &Snapshot, control: &Control) -> Result<()> {
    for error in snapshot.index.damaged() {
        Counters::add(&control.counters.errors, 1);
        let problem = serde_json::to_vec(&Problem::of_error(b"", error))
            .map_err(|error| Error::internal(format!("cannot encode a problem: {error}")))?;
        snapshot.scope.broker.output("problem", problem)?;
    }
    Ok(())
}

/// The directory to restore into, made if it is not there; none if a dry run finds no such directory.
fn open_target(path: &Path, is_dry_run: bool) -> Result<Option<Target>> {
    let made = if is_dry_run {
        Ok(())
    } else {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    };
    match Target::open(path) {
        Ok(target) => Ok(Some(target)),
        Err(error) if error.os_error == Some(rustix::io::Errno::NOENT.raw_os_error()) => {
            match made {
                // Why it could not be made says more than that it is not there.
                Err(made) => {
                    let errno = rustix::io::Errno::from_io_error(&made);
                    Err(Error::os("cannot make the target", errno.unwrap_or(rustix::io::Errno::IO)))
                }
                Ok(()) if is_dry_run => Ok(None),
                Ok(()) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// The target's root as a directory to work in.
fn root_dir(target: &Target) -> Result<Arc<Dir>> {
    let fd = target.root().try_clone_to_owned().map_err(|error| {
        let errno = rustix::io::Errno::from_io_error(&error);
        Error::os("cannot open the target", errno.unwrap_or(rustix::io::Errno::IO))
    })?;
    Dir::from_root_fd(fd, DIRS_OPEN_MAX)
}

/// What a journal is opened with.
#[derive(Default)]
struct Journaled {
    /// The journal of this restore, if it is to have one.
    journal: Option<Journal>,
    /// Where an earlier run of it stopped.
    mark: Option<windows::Mark>,
    /// This or another restore into the same directory was killed.
    is_after_kill: bool,
}

/// Opens the journal of this restore.
fn open_journal(
    snapshot: &Snapshot,
    options: &RestoreOptions,
    target: &Target,
) -> Result<Journaled> {
    let mut inner = key_of_path(&options.subtree)?;
    if !inner.is_empty() {
        inner.push(0);
    }
    inner.extend_from_slice(JOURNAL_NAME);
    if !options.journal || options.dry_run {
        return Ok(Journaled::default());
    }
    match snapshot.reader.find(&inner) {
        // A snapshot of an unfinished restore has a file of that name, which must come back.
        Ok(Some(_)) => return Ok(Journaled::default()),
        Err(error) if run::is_fatal(&error) => return Err(error),
        // In a page that is lost it cannot come back.
        Ok(None) | Err(_) => {}
    }
    let interval = std::time::Duration::from_secs(options.journal_seconds);
    let (journal, found) = Journal::open(target.root().as_fd(), restore_id(options), interval)?;
    let is_after_kill = found != journal::Found::Nothing;
    let mark = if let journal::Found::Own(mark) = found { Some(mark) } else { None };
    Ok(Journaled { journal: Some(journal), mark, is_after_kill })
}

/// Tells restores apart: another tree, or other choices of what is restored, cannot go on where this one
/// stopped.
fn restore_id(options: &RestoreOptions) -> [u8; 32] {
    let mut hash = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(&options.read.root.page.0);
    add(&options.subtree);
    add(format!("{:?}", options.overwrite).as_bytes());
    for patterns in [&options.includes, &options.excludes] {
        add(&(patterns.len() as u64).to_le_bytes());
        for pattern in patterns {
            add(pattern.as_bytes());
        }
    }
    *hash.finalize().as_bytes()
}
