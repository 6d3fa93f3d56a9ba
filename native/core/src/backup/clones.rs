//! Whether the source is a clone or copy of what the parent saw. Copying volumes and snapshots, or a
//! recursive change of owners when a volume is mounted, gives every file another ctime or inode, and
//! taken at its word that is a whole volume to be read again.
//!
//! The evidence is drawn from all over the parent's tree: files whose size and mtime are the parent's.
//! Nearly all of them must differ in the same way, and the contents of a part of them must be what was
//! stored: tools that edit files in place and set the mtime back look alike otherwise.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use serde::Serialize;

use super::carry::is_lost;
use super::dispatch::path_of;
use super::entries::time;
use super::files::Source;
use super::recheck::{Checker, Recheck, content_of, ends};
use crate::error::Result;
use crate::fs::{Dir, FileKind, Opened, Stat, open_regular, stat_at};
use crate::pages::PageStore;
use crate::tree::{Body, Node, TreeReader};

/// In so many places of the tree, so many files are looked at.
const PLACES: usize = 8;
const FILES_A_PLACE: usize = 32;
/// With fewer files to compare, nothing is concluded.
const COMPARED_MIN: u32 = 16;
/// So many of a hundred must differ.
const DIFFERENT_PERCENT: u32 = 90;
/// Contents compared at most, and at least.
const CHECKED_MAX: usize = 32;
const CHECKED_MIN: u32 = 8;

/// What was found: files with the parent's size and mtime, and what of them is different.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// Files that were compared.
    pub compared: u32,
    /// Those with another ctime.
    pub other_ctime: u32,
    /// Those with another inode number.
    pub other_inode: u32,
    /// Those whose content was compared, and was the same.
    pub checked: u32,
}

impl Evidence {
    /// Whether ctimes say nothing.
    pub fn ignores_ctime(&self) -> bool {
        self.is_most(self.other_ctime)
    }

    /// Whether inode numbers say nothing.
    pub fn ignores_inode(&self) -> bool {
        self.is_most(self.other_inode)
    }

    fn is_most(&self, count: u32) -> bool {
        self.compared >= COMPARED_MIN && count * 100 >= self.compared * DIFFERENT_PERCENT
    }
}

/// What looking takes.
pub(super) struct Search<'a> {
    pub(super) reader: &'a TreeReader<Arc<PageStore>>,
    pub(super) pages: &'a Arc<PageStore>,
    pub(super) root: &'a Dir,
    pub(super) checker: Checker<'a>,
}

impl Search<'_> {
    /// What there is to say that the source is a clone; `None` if it does not suffice. Only what ends
    /// the run is an error: whatever else cannot be looked at is no evidence.
    pub(super) fn run(&self) -> Result<Option<Evidence>> {
        let (mut evidence, different) = match self.compare() {
            Err(error) if is_lost(&error) => return Ok(None),
            other => other?,
        };
        if !evidence.ignores_ctime() && !evidence.ignores_inode() {
            return Ok(None);
        }
        let step = different.len().div_ceil(CHECKED_MAX).max(1);
        for (node, stat) in different.iter().step_by(step) {
            match self.is_same_content(node, stat) {
                Ok(Some(true)) => evidence.checked += 1,
                Ok(Some(false)) => return Ok(None),
                Err(error) if self.checker.signal.check().is_err() => return Err(error),
                // Whoever reads it for the backup will tell.
                Ok(None) | Err(_) => {}
            }
        }
        Ok((evidence.checked >= CHECKED_MIN).then_some(evidence))
    }

    /// Counts, and brings the files that differ.
    fn compare(&self) -> Result<(Evidence, Vec<(Node, Stat)>)> {
        let mut evidence = Evidence::default();
        let mut different = Vec::new();
        let starts = self.reader.spread(PLACES)?;
        let most = PLACES * FILES_A_PLACE / starts.len().max(1);
        for (number, start) in starts.iter().enumerate() {
            let end = starts.get(number + 1);
            let mut left = most;
            for node in self.reader.nodes_from(start) {
                self.checker.signal.check()?;
                let node = node?;
                if left == 0 || end.is_some_and(|end| node.key >= *end) {
                    break;
                }
                let is_whole = !node.unstable && !node.unreadable && !node.partial;
                if !matches!(node.body, Body::File { size: 1.., .. }) || !is_whole {
                    continue;
                }
                left -= 1;
                let Some(stat) = self.stat_same(&node) else { continue };
                evidence.compared += 1;
                let is_other_ctime = node.ctime != time(stat.ctime);
                let is_other_inode = node.ino != stat.ino;
                evidence.other_ctime += u32::from(is_other_ctime);
                evidence.other_inode += u32::from(is_other_inode);
                if is_other_ctime || is_other_inode {
                    different.push((node, stat));
                }
            }
        }
        Ok((evidence, different))
    }

    /// What is there in the file's place, if it has its size and mtime.
    fn stat_same(&self, node: &Node) -> Option<Stat> {
        let fd = self.root.fd().ok()?;
        let stat = stat_at(fd.as_fd(), &path_of(&node.key)).ok()?;
        let is_same = stat.kind == FileKind::File
            && stat.size == node.size()
            && time(stat.mtime) == node.mtime;
        is_same.then_some(stat)
    }

    /// Whether small files are the same, and both ends of large ones; `None` if that cannot be told.
    fn is_same_content(&self, node: &Node, stat: &Stat) -> Result<Option<bool>> {
        let fd = self.root.fd()?;
        let Opened::File(file, stat) = open_regular(fd.as_fd(), &path_of(&node.key), stat)? else {
            return Ok(None);
        };
        if let Some(digest) = node.digest {
            let mut source = Source::File { fd: file.as_fd(), can_skip_cache: true };
            let found = self.checker.digest(&mut source, 0, stat.size)?;
            return Ok(found.map(|found| found.first_chunk() == Some(&digest)));
        }
        let (pages, windows) = (Arc::clone(self.pages), ends(stat.size));
        let recheck = Recheck { content: content_of(&node.body), pages, windows };
        self.checker.find_change(&file, &recheck).map(|change| Some(change.is_none()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_of_ten_of_enough_files() {
        let of = |compared, other_ctime, other_inode| {
            let found = Evidence { compared, other_ctime, other_inode, checked: 0 };
            (found.ignores_ctime(), found.ignores_inode())
        };
        assert_eq!(of(100, 90, 89), (true, false));
        assert_eq!(of(100, 0, 100), (false, true));
        assert_eq!(of(15, 15, 15), (false, false));
        assert_eq!(of(16, 16, 15), (true, true));
        assert_eq!(of(0, 0, 0), (false, false));
    }
}
