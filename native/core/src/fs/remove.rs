//! Removing what a restore with `--delete` does not want, of any depth.

use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;

use super::dir::Dir;
use super::meta::FileKind;
use super::names::Names;
use super::open::open_dir;
use super::stat::stat_at;
use super::target::{make_accessible, unprotect_entry};
use super::walk::{Event, NotEntered, Walk, WalkOptions};
use super::{check_name, display_path};
use crate::error::{Error, Result};

/// Removes the entry `name` of `dir`, a directory with all that is below it: iteratively, with a
/// bounded number of descriptors, never through a symlink and never into another file system.
/// Immutable flags and missing permissions of directories are overcome where we may. What cannot be
/// removed does not keep the rest; the first such error is returned. It is no error if there is no
/// such entry.
pub fn remove_tree(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    check_name(name)?;
    let stat = match stat_at(dir, name) {
        Ok(stat) => stat,
        Err(error) if error.os_error == Some(Errno::NOENT.raw_os_error()) => return Ok(()),
        Err(error) => return Err(error),
    };
    if stat.kind != FileKind::Dir {
        return remove_entry(dir, name, AtFlags::empty());
    }
    // A directory that cannot be opened is made accessible and met again in the next round. Each
    // round gets a level deeper at least, or is the last.
    loop {
        let round = empty_dir(dir, name)?;
        if round.made_accessible {
            continue;
        }
        let removed = remove_entry(dir, name, AtFlags::REMOVEDIR);
        return round.failure.map_or(removed, Err);
    }
}

#[derive(Default)]
struct Round {
    failure: Option<Error>,
    made_accessible: bool,
}

impl Round {
    fn note(&mut self, outcome: Result<()>) {
        if let Err(error) = outcome {
            self.failure.get_or_insert(error);
        }
    }

    fn remove_names(&mut self, dir: &Dir, names: &Names) {
        let fd = match dir.fd() {
            Ok(fd) => fd,
            Err(error) => return self.note(Err(error)),
        };
        for (name, _) in names.iter() {
            let outcome = remove_entry(fd.as_fd(), name, AtFlags::empty());
            self.note(outcome.map_err(|error| dir.locate(error, name)));
        }
    }

    fn remove_dir(&mut self, dir: &Dir) {
        let Some(parent) = dir.parent() else { return };
        // If it is not empty, an error is noted already, or the next round will meet it.
        let outcome = parent
            .fd()
            .and_then(|fd| remove_entry(fd.as_fd(), dir.name(), AtFlags::REMOVEDIR))
            .map_err(|error| parent.locate(error, dir.name()));
        self.note(outcome);
    }

    fn force(&mut self, dir: &Dir, name: &[u8], error: Error) {
        let is_denied = error.os_error == Some(Errno::ACCESS.raw_os_error());
        if is_denied && dir.fd().is_ok_and(|fd| make_accessible(fd.as_fd(), name, 0o700)) {
            self.made_accessible = true;
        } else {
            self.note(Err(error));
        }
    }
}

/// Removes what it can below the directory `name` of `dir`.
fn empty_dir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Round> {
    let fd = match open_dir(dir, name) {
        Err(error) if make_accessible(dir, name, 0o700) => {
            open_dir(dir, name).map_err(|_| error)?
        }
        other => other?,
    };
    let options = WalkOptions { one_file_system: true, ..WalkOptions::default() };
    let root = Dir::from_root_fd(fd, options.open_count_max)?;
    let mut round = Round::default();
    for event in Walk::below(root, options) {
        match event {
            Event::Enter(_) | Event::LeftOut(_) => {}
            Event::Names(dir, names) => round.remove_names(&dir, &names),
            Event::Leave(dir) => round.remove_dir(&dir),
            Event::NotEntered { dir, name, why: NotEntered::Failed(error) } => {
                round.force(&dir, &name, error);
            }
            Event::NotEntered { dir, name, why: NotEntered::OtherDevice } => {
                let what = "something is mounted here";
                round.note(Err(dir.locate(Error::os(what, Errno::BUSY), &name)));
            }
            Event::ListingFailed(_, error) => round.note(Err(error)),
        }
    }
    Ok(round)
}

/// Removes one entry. If it, or the directory it is in, is immutable or not writable for us
/// although we own it, changes that and tries again.
fn remove_entry(dir: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> Result<()> {
    let outcome = match unlinkat(dir, name, flags) {
        Err(Errno::PERM) => {
            let is_freed = unprotect_entry(dir, name);
            if super::flags::unprotect(dir).unwrap_or(false) || is_freed {
                unlinkat(dir, name, flags)
            } else {
                Err(Errno::PERM)
            }
        }
        Err(Errno::ACCESS) if make_accessible(dir, b".", 0o700) => unlinkat(dir, name, flags),
        other => other,
    };
    match outcome {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::os("cannot remove", errno).at(display_path(name))),
    }
}
