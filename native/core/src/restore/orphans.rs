//! Names of files that are not complete yet, and what a killed restore leaves under them.
//!
//! Such a name is a keyed hash of the path that the file is to have: nobody has a file of that name by chance,
//! or could give it one, and the next restore of the same path knows it for its own. It is looked for where a
//! journal tells that an earlier restore did not come to its end.

use std::os::fd::AsFd as _;

use hashbrown::HashSet;

use super::dirs::DirRef;
use super::plan::Planner;
use super::run::Mode;
use crate::crypto::IdKey;
use crate::error::Result;
use crate::fs::names::Listing;
use crate::fs::remove::remove_tree;
use crate::fs::{FileKind, stat_at};

const PART: &str = ".pvback-part-";
const COPY: &str = ".pvback-copy-";

/// Under which a new file is written that must not be seen before it is complete.
pub(super) fn part_name(ids: &IdKey, path: &[u8]) -> Vec<u8> {
    name(PART, ids, path)
}

/// Under which a file is copied that has other names.
pub(super) fn copy_name(ids: &IdKey, path: &[u8]) -> Vec<u8> {
    name(COPY, ids, path)
}

fn name(prefix: &str, ids: &IdKey, path: &[u8]) -> Vec<u8> {
    // Not the id of a chunk that holds a path.
    let hash = ids.id(&[prefix.as_bytes(), b"\0", path].concat());
    let short = u64::from_le_bytes(hash.first_chunk().copied().unwrap_or_default());
    format!("{prefix}{short:016x}").into_bytes()
}

/// Entries of a directory that an earlier restore may have left.
pub(super) struct Orphans(HashSet<Vec<u8>>);

impl Orphans {
    fn read(dir: &DirRef) -> Self {
        let read = || -> Result<Listing> {
            // A descriptor of its own: reading a directory moves the offset.
            let own = crate::fs::open::open_dir(dir.fd()?.as_fd(), b".")?;
            Ok(Listing::read(own.as_fd()).0)
        };
        let mut names = HashSet::new();
        // A directory that cannot be listed is told of by who needs its list.
        let mut listing = read().unwrap_or_default();
        while let Some((name, _)) = listing.peek() {
            if name.starts_with(PART.as_bytes()) || name.starts_with(COPY.as_bytes()) {
                names.insert(name.to_vec());
            }
            listing.advance();
        }
        Self(names)
    }
}

impl Planner<'_> {
    /// Removes what an earlier restore has left of the file `name` in `dir`, if one was killed.
    pub(super) fn clear_orphans(&mut self, dir: &DirRef, name: &[u8]) {
        let run = self.run;
        if !self.is_after_kill || dir.is_new() || run.mode != Mode::Restore {
            return;
        }
        let Some(frame) = self.stack.last_mut() else { return };
        let Orphans(names) = frame.orphans.get_or_insert_with(|| Orphans::read(dir));
        // What the snapshot has is none.
        names.remove(name);
        if names.is_empty() {
            return;
        }
        let path = dir.path_of(name);
        for made in [part_name(&run.ids, &path), copy_name(&run.ids, &path)] {
            if !names.remove(&made) {
                continue;
            }
            if let Some(extras) = &mut frame.extras {
                // Soon this restore may have one of that name.
                extras.spare(&made);
            }
            if let Err(error) = remove_file(dir, &made) {
                run.trouble(&dir.path_of(&made), error);
            }
        }
    }
}

fn remove_file(dir: &DirRef, name: &[u8]) -> Result<()> {
    let fd = dir.fd()?;
    let stat = stat_at(fd.as_fd(), name)?;
    if stat.kind != FileKind::Dir && stat.nlink == 1 {
        remove_tree(fd.as_fd(), name)?;
    }
    Ok(())
}
