//! What is in the target and not in the snapshot: found by reading a directory's listing along with the
//! nodes, removed where that was asked for.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use hashbrown::HashSet;

use super::dirs::DirRef;
use super::journal::Journal;
use super::progress::Counters;
use super::run::{Mode, Run};
use super::select::{Choice, Selection};
use crate::error::Result;
use crate::fs::names::Listing;
use crate::fs::remove::remove_tree;
use crate::fs::{Dir, Event, Exclude, FileKind, NotEntered, Walk, WalkOptions, stat_at};
use crate::tree::Node;

/// Whether the snapshot knows all that the directory had when it was backed up: what was not read, or
/// left out of the backup, may be what stands in the target, and is the only copy then.
pub(super) fn knows_all(node: &Node) -> bool {
    !node.unreadable && node.left_out.is_none()
}

/// Where file systems keep what a check finds; it belongs to the file system, not to the tree.
const LOST_FOUND: &[u8] = b"lost+found";

/// The entries of a directory that was there before, in the order in which nodes come.
pub(super) struct Extras {
    listing: Listing,
    dir: DirRef,
    choice: Choice,
    is_root: bool,
    /// Names that are left alone.
    spared: HashSet<Vec<u8>>,
}

impl Extras {
    /// Lists `dir`. A listing that fails is a problem of that directory, which then loses nothing.
    pub(super) fn read(run: &Run, dir: &DirRef, choice: Choice, is_root: bool) -> Option<Self> {
        let read = || -> Result<Listing> {
            // A descriptor of its own: reading a directory moves the offset.
            let own = dir.fd().and_then(|fd| crate::fs::open::open_dir(fd.as_fd(), b"."))?;
            let (listing, outcome) = Listing::read(own.as_fd());
            outcome.map(|()| listing)
        };
        match read() {
            Ok(listing) => {
                Some(Self { listing, dir: dir.clone(), choice, is_root, spared: HashSet::new() })
            }
            Err(error) => {
                run.trouble(&dir.path_of(b""), error);
                None
            }
        }
    }

    /// The snapshot's next entry is `name`: what stands before it is not in the snapshot.
    pub(super) fn pass(&mut self, run: &Run, selection: &Arc<Selection>, name: &[u8]) {
        self.remove_until(run, selection, Some(name));
    }

    /// What the snapshot has before its entry `name` is not known: all that is there stays.
    pub(super) fn spare_until(&mut self, name: &[u8]) {
        while self.listing.peek().is_some_and(|(found, _)| found < name) {
            self.listing.advance();
        }
    }

    /// Somebody else sees to this name.
    pub(super) fn spare(&mut self, name: &[u8]) {
        self.spared.insert(name.to_vec());
    }

    /// The snapshot has nothing more in this directory.
    pub(super) fn finish(mut self, run: &Run, selection: &Arc<Selection>) {
        self.remove_until(run, selection, None);
    }

    fn remove_until(&mut self, run: &Run, selection: &Arc<Selection>, next: Option<&[u8]>) {
        while let Some((name, _)) = self.listing.peek() {
            if next.is_some_and(|next| name > next) {
                return;
            }
            let is_spared = self.is_root && (Journal::is_name(name) || name == LOST_FOUND)
                || next == Some(name)
                || self.spared.contains(name);
            if !is_spared && run.check().is_ok() {
                let path = self.dir.path_of(name);
                let removed = remove(run, selection, self.choice, &self.dir, name, &path);
                if let Err(error) = removed {
                    run.trouble(&path, error);
                }
            }
            self.listing.advance();
        }
    }
}

/// Removes the entry `name`, or what of it is selected.
fn remove(
    run: &Run,
    selection: &Arc<Selection>,
    parent: Choice,
    dir: &DirRef,
    name: &[u8],
    path: &[u8],
) -> Result<()> {
    let choice = selection.choose(parent, path);
    if choice == Choice::Excluded {
        return Ok(());
    }
    let fd = dir.fd()?;
    let is_dir = || Ok(stat_at(fd.as_fd(), name)?.kind == FileKind::Dir);
    if choice == Choice::Taken && (selection.takes_all_below() || !is_dir()?) {
        let size = 0;
        run.row("delete", path, size);
        if run.mode == Mode::Restore {
            remove_tree(fd.as_fd(), name)?;
        }
        Counters::add(&run.counters.deleted, 1);
        return Ok(());
    }
    if !is_dir()? {
        return Ok(());
    }
    match dir.dir() {
        Some(parent) => prune(run, selection, choice, &parent.open_child(name)?, path),
        None => Ok(()),
    }
}

/// Leaves out of a walk what the patterns leave out.
struct Excluded {
    selection: Arc<Selection>,
    above: Choice,
    prefix: Vec<u8>,
}

impl Excluded {
    fn choose(&self, path: &[u8]) -> Choice {
        let mut choice = self.above;
        let whole = [self.prefix.as_slice(), b"/", path].concat();
        let start = self.prefix.len() + 1;
        let ends = whole.iter().enumerate().skip(start);
        let slashes = ends.filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in slashes.chain([whole.len()]) {
            choice = self.selection.choose(choice, whole.get(..end).unwrap_or_default());
        }
        choice
    }
}

impl Exclude for Excluded {
    fn excluded(&self, path: &[u8], _is_dir: bool) -> bool {
        self.choose(path) == Choice::Excluded
    }
}

/// Removes what is selected of a directory that the snapshot does not have, and the directory itself if
/// it is selected and nothing is left in it.
fn prune(
    run: &Run,
    selection: &Arc<Selection>,
    choice: Choice,
    dir: &Arc<Dir>,
    path: &[u8],
) -> Result<()> {
    let excluded =
        || Excluded { selection: Arc::clone(selection), above: choice, prefix: path.to_vec() };
    let chooser = excluded();
    let options = WalkOptions {
        one_file_system: true,
        exclude: Some(Arc::new(excluded())),
        ..WalkOptions::default()
    };
    let own = crate::fs::open::open_dir(dir.fd()?.as_fd(), b".")?;
    let root = Dir::from_root_fd(own, options.open_count_max)?;
    for event in Walk::below(root, options) {
        run.check()?;
        match event {
            Event::Names(inner, names) => {
                for (name, _) in names.iter() {
                    let below = join(&inner.path(), name);
                    if chooser.choose(&below) == Choice::Taken {
                        drop_entry(run, &inner, name, &join(path, &below))?;
                    }
                }
            }
            Event::Leave(inner) => {
                let below = inner.path();
                let Some(parent) = inner.parent() else { continue };
                if chooser.choose(&below) == Choice::Taken {
                    drop_dir(run, parent, inner.name(), &join(path, &below))?;
                }
            }
            Event::NotEntered { why: NotEntered::Failed(error), .. }
            | Event::ListingFailed(_, error) => run.trouble(path, error),
            Event::Enter(_) | Event::LeftOut(_) | Event::NotEntered { .. } => {}
        }
    }
    match dir.parent() {
        Some(parent) if choice == Choice::Taken => drop_dir(run, parent, dir.name(), path),
        _ => Ok(()),
    }
}

fn drop_entry(run: &Run, dir: &Dir, name: &[u8], path: &[u8]) -> Result<()> {
    run.row("delete", path, 0);
    if run.mode == Mode::Restore {
        remove_tree(dir.fd()?.as_fd(), name)?;
    }
    Counters::add(&run.counters.deleted, 1);
    Ok(())
}

/// Removes a directory unless something is left in it.
fn drop_dir(run: &Run, parent: &Dir, name: &[u8], path: &[u8]) -> Result<()> {
    use rustix::fs::{AtFlags, unlinkat};
    use rustix::io::Errno;
    if run.mode != Mode::Restore {
        return Ok(());
    }
    match unlinkat(&parent.fd()?, name, AtFlags::REMOVEDIR) {
        Ok(()) => Counters::add(&run.counters.deleted, 1),
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => {}
        Err(errno) => {
            let error = crate::error::Error::os("cannot remove", errno);
            run.trouble(path, error);
        }
    }
    Ok(())
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() {
        return name.to_vec();
    }
    [parent, b"/", name].concat()
}
