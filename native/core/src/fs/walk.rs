//! A walk through a tree: pre-order, children by the raw bytes of their names, of any depth and
//! width.
//!
//! Memory is bounded by the names of the directories between the root and the current one; the
//! number of open descriptors by [`WalkOptions::open_count_max`]. No error stops a walk: each is an
//! event, and the rest goes on.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;

use super::dir::Dir;
use super::display_path;
use super::meta::FileKind;
use super::names::{Listing, Names};
use super::stat::stat_at;
use crate::error::{Error, Result};

/// Which entries a walk leaves out.
pub trait Exclude: Send + Sync {
    /// Whether the entry at `path` (from the root of the walk, without a leading slash) is left
    /// out, a directory with all that is below it.
    fn excluded(&self, path: &[u8], is_dir: bool) -> bool;
}

/// How to walk.
pub struct WalkOptions {
    /// Emit directories on other devices than the root's, but do not enter them.
    pub one_file_system: bool,
    /// What to leave out.
    pub exclude: Option<Arc<dyn Exclude>>,
    /// Most names in one [`Event::Names`].
    pub batch_count_max: usize,
    /// Most directories kept open besides those in use.
    pub open_count_max: usize,
}

impl Default for WalkOptions {
    fn default() -> Self {
        Self { one_file_system: false, exclude: None, batch_count_max: 512, open_count_max: 128 }
    }
}

/// Why the content of a directory is not part of the walk.
#[derive(Clone, Debug)]
pub enum NotEntered {
    /// It lies on another device, and the walk was to stay on one.
    OtherDevice,
    /// It cannot be opened.
    Failed(Error),
}

/// What a walk comes by. For each directory: `Enter`, then `Names` and the events of its
/// subdirectories in the order of their names, then `Leave`.
#[derive(Clone, Debug)]
pub enum Event {
    /// A directory, the root of the walk first of all.
    Enter(Arc<Dir>),
    /// Comes next after `Enter`: the exclude hook leaves out entries of this directory.
    LeftOut(Arc<Dir>),
    /// Children of this directory that are not directories themselves, as far as its listing knows.
    Names(Arc<Dir>, Names),
    /// The child directory `name` exists, but the walk does not go into it.
    NotEntered {
        /// The directory that holds it.
        dir: Arc<Dir>,
        /// Its name there.
        name: Vec<u8>,
        /// Why not.
        why: NotEntered,
    },
    /// The listing of this directory broke off; what was read of it before follows. Comes before all
    /// else but `Enter` and `LeftOut`.
    ListingFailed(Arc<Dir>, Error),
    /// Nothing more from this directory.
    Leave(Arc<Dir>),
}

/// The walk itself. Pull events with `next`.
pub struct Walk {
    options: WalkOptions,
    root: Option<Arc<Dir>>,
    stack: Vec<Frame>,
    /// Path of the directory on top of the stack, for the exclude hook.
    path: Vec<u8>,
}

struct Frame {
    dir: Arc<Dir>,
    listing: Listing,
    is_partly_left_out: bool,
    failure: Option<Error>,
    path_len: usize,
}

/// What to do with the next entry of a directory.
enum Step {
    Batch,
    Descend,
}

impl Walk {
    /// A walk of the tree at `path`. `path` itself may lead through symlinks.
    pub fn new(path: &Path, options: WalkOptions) -> Result<Self> {
        let root = Dir::open_root(path, options.open_count_max)?;
        Ok(Self::below(root, options))
    }

    /// A walk of the tree below `root`, which comes from [`Dir::open_root`] or
    /// [`Dir::from_root_fd`].
    pub fn below(root: Arc<Dir>, options: WalkOptions) -> Self {
        Self { options, root: Some(root), stack: Vec::new(), path: Vec::new() }
    }

    /// Path of the directory whose entries come next, from the root of the walk. After `Enter` that
    /// is the entered one, after `Leave` the parent of the one left.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// Reads the listing of `dir` and makes it the current directory.
    fn push(&mut self, dir: &Arc<Dir>) {
        let path_len = self.path.len();
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(dir.name());
        let (mut listing, outcome) = match dir.fd() {
            Ok(fd) => Listing::read(fd.as_fd()),
            Err(error) => (Listing::default(), Err(error)),
        };
        let failure = outcome.err().map(|error| error.at(display_path(&self.path)));
        let is_partly_left_out = self.leave_out(dir, &mut listing);
        let dir = Arc::clone(dir);
        self.stack.push(Frame { dir, listing, is_partly_left_out, failure, path_len });
    }

    /// Takes what the exclude hook leaves out from the listing of `dir`, which lies at the walk's path.
    fn leave_out(&mut self, dir: &Dir, listing: &mut Listing) -> bool {
        let (Some(exclude), path) = (&self.options.exclude, &mut self.path) else { return false };
        let path_len = path.len();
        listing.drop_entries(|name, hint| {
            if path_len != 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            let is_dir = kind_of(dir, name, hint) == Some(FileKind::Dir);
            let is_excluded = exclude.excluded(path, is_dir);
            path.truncate(path_len);
            is_excluded
        })
    }

    /// Opens the child directory `name` of `dir`, and says what came of it.
    fn enter(&mut self, dir: Arc<Dir>, name: Vec<u8>) -> Event {
        let why = match dir.open_child(&name) {
            Ok(child) if self.options.one_file_system && child.stat().dev != dir.stat().dev => {
                NotEntered::OtherDevice
            }
            Ok(child) => {
                self.push(&child);
                return Event::Enter(child);
            }
            Err(error) => NotEntered::Failed(dir.locate(error, &name)),
        };
        Event::NotEntered { dir, name, why }
    }

    /// Takes names off the current directory until a batch is full, or a subdirectory or the end is
    /// next.
    fn advance(&mut self) -> Option<Event> {
        let Self { options, stack, path, .. } = self;
        let frame = stack.last_mut()?;
        if std::mem::take(&mut frame.is_partly_left_out) {
            return Some(Event::LeftOut(Arc::clone(&frame.dir)));
        }
        if let Some(error) = frame.failure.take() {
            return Some(Event::ListingFailed(Arc::clone(&frame.dir), error));
        }
        let mut batch = Names::default();
        while batch.len() < options.batch_count_max.max(1)
            && let Some((name, hint)) = frame.listing.peek()
        {
            match classify(&frame.dir, name, hint) {
                (Step::Batch, kind) => batch.push(name, kind),
                (Step::Descend, _) if batch.is_empty() => {
                    let (dir, name) = (Arc::clone(&frame.dir), name.to_vec());
                    frame.listing.advance();
                    return Some(self.enter(dir, name));
                }
                (Step::Descend, _) => break,
            }
            frame.listing.advance();
        }
        if !batch.is_empty() {
            return Some(Event::Names(Arc::clone(&frame.dir), batch));
        }
        let frame = stack.pop()?;
        path.truncate(frame.path_len);
        Some(Event::Leave(frame.dir))
    }
}

/// Decides about the entry `name` of `dir`. If its kind cannot be told, the name goes into the batch,
/// where whoever stats it sees the error.
fn classify(dir: &Dir, name: &[u8], hint: Option<FileKind>) -> (Step, Option<FileKind>) {
    let kind = kind_of(dir, name, hint);
    (if kind == Some(FileKind::Dir) { Step::Descend } else { Step::Batch }, kind)
}

/// The kind of an entry; asks the file system only if the directory did not tell.
fn kind_of(dir: &Dir, name: &[u8], hint: Option<FileKind>) -> Option<FileKind> {
    hint.or_else(|| dir.fd().and_then(|fd| stat_at(fd.as_fd(), name)).ok().map(|stat| stat.kind))
}

impl Iterator for Walk {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if let Some(root) = self.root.take() {
            // Its descriptor may come from somebody who has listed it already.
            if let Ok(fd) = root.fd() {
                let _ = rustix::fs::seek(fd, rustix::fs::SeekFrom::Start(0));
            }
            self.push(&root);
            return Some(Event::Enter(root));
        }
        self.advance()
    }
}
