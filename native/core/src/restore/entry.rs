//! Entries without content: symlinks, FIFOs, sockets and device nodes.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use super::dirs::DirRef;
use super::finish::take_name;
use super::links::LinkGroup;
use super::options::Overwrite;
use super::orphans::part_name;
use super::progress::{Counters, Problem};
use super::run::{Mode, Run};
use super::windows::Ticket;
use crate::broker::lock;
use crate::error::Result;
use crate::fs::remove::remove_tree;
use crate::fs::target::{make_special, make_symlink};
use crate::fs::{
    Attributes, Denied, FileKind, Stat, Subject, Timestamp, apply_attributes_but_flags, read_link,
    stat_at,
};
use crate::tree::{Body, Kind, Node, Time};

/// An entry to make.
pub(super) struct EntryTask {
    pub(super) dir: DirRef,
    pub(super) name: Box<[u8]>,
    pub(super) wanted: Box<Attributes>,
    /// What has that name now.
    pub(super) found: Option<Box<Stat>>,
    pub(super) group: Option<Arc<LinkGroup>>,
    pub(super) ticket: Arc<Ticket>,
}

impl EntryTask {
    /// Makes the entry.
    pub(super) fn work(self, run: &Run) {
        let path = self.dir.path_of(&self.name);
        let mut denied = Denied::default();
        let made = self.make(run, &path, &mut denied);
        run.deny(denied);
        match made {
            Ok(true) => {
                Counters::add(&run.counters.others, u64::from(run.mode != Mode::Verify));
                if let Some(group) = &self.group {
                    group.made(run, &self.dir, &self.name, &self.wanted);
                }
            }
            Ok(false) => self.give_up(run),
            Err(error) => {
                self.give_up(run);
                run.trouble(&path, error);
            }
        }
        drop(self.ticket);
    }

    fn give_up(&self, run: &Run) {
        if let Some(group) = &self.group {
            group.failed(run);
        }
    }

    /// False if it cannot be there, and that was told.
    fn make(&self, run: &Run, path: &[u8], denied: &mut Denied) -> Result<bool> {
        if run.mode == Mode::DryRun {
            if self.found.is_none() {
                run.row("create", path, 0);
            }
            return Ok(true);
        }
        let fd = self.dir.fd()?;
        let fd = fd.as_fd();
        let is_kept = match self.found.as_deref() {
            Some(found) => self.is_as_wanted(run, found, fd)?,
            None => false,
        };
        if run.mode == Mode::Verify {
            if !is_kept && !self.wanted.stat.kind.is_device() {
                let message = "not what the snapshot has".to_owned();
                run.problem(&Problem::new(path, "differs", message));
            }
            return Ok(is_kept);
        }
        if !is_kept && self.found.is_some() {
            remove_tree(fd, &self.name)?;
        }
        // Where what is there is left alone, it must not be there before it is complete.
        let is_early = !is_kept && run.overwrite == Overwrite::Never;
        let early = is_early.then(|| part_name(&run.ids, path));
        let name = early.as_deref().unwrap_or(&self.name);
        if is_early && stat_at(fd, name).is_ok() {
            remove_tree(fd, name)?;
        }
        if !is_kept && !self.make_as(fd, name, path, denied)? {
            return Ok(false);
        }
        let subject = Subject::open(fd, name)?;
        apply_attributes_but_flags(&subject, &self.wanted, path, denied)?;
        early.map_or(Ok(()), |early| take_name(fd, &early, &self.name))?;
        Ok(true)
    }

    /// False where it is not permitted.
    fn make_as(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        denied: &mut Denied,
    ) -> Result<bool> {
        if self.wanted.stat.kind == FileKind::Symlink {
            return make_symlink(dir, name, &self.wanted.link_target).map(|()| true);
        }
        make_special(dir, name, &self.wanted.stat, path, denied)
    }

    fn is_as_wanted(&self, run: &Run, found: &Stat, dir: BorrowedFd<'_>) -> Result<bool> {
        let wanted = &self.wanted.stat;
        // One inode for one group: what two groups share in the target, they do not in the snapshot.
        let is_own = || found.nlink == 1 || lock(&run.claimed).insert((found.dev, found.ino));
        let is_linked = found.nlink > 1 && self.group.is_none();
        if found.kind != wanted.kind || is_linked || !is_own() {
            return Ok(false);
        }
        Ok(match wanted.kind {
            FileKind::Symlink => read_link(dir, &self.name)? == self.wanted.link_target,
            kind if kind.is_device() => found.rdev == wanted.rdev,
            _ => true,
        })
    }
}

/// The attributes that a node says its entry has.
pub(super) fn attributes_of(node: &Node) -> Attributes {
    let (link_target, rdev) = match &node.body {
        Body::Symlink(target) => (target.clone(), (0, 0)),
        Body::CharDevice(major, minor) | Body::BlockDevice(major, minor) => {
            (Vec::new(), (*major, *minor))
        }
        _ => (Vec::new(), (0, 0)),
    };
    Attributes {
        stat: Stat {
            kind: file_kind(node.kind()),
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            size: node.size(),
            allocated_bytes: 0,
            mtime: timestamp(node.mtime),
            ctime: timestamp(node.ctime),
            btime: node.btime.map(timestamp),
            ino: node.ino,
            dev: 0,
            nlink: 1,
            rdev,
        },
        flags: node.flags,
        xattrs: node.xattrs.as_slice().to_vec(),
        link_target,
    }
}

/// The file system's word for a kind of node.
pub(super) fn file_kind(kind: Kind) -> FileKind {
    match kind {
        Kind::File => FileKind::File,
        Kind::Directory => FileKind::Dir,
        Kind::Symlink => FileKind::Symlink,
        Kind::Fifo => FileKind::Fifo,
        Kind::Socket => FileKind::Socket,
        Kind::CharDevice => FileKind::CharDevice,
        Kind::BlockDevice => FileKind::BlockDevice,
    }
}

fn timestamp(time: Time) -> Timestamp {
    Timestamp { secs: time.seconds, nanos: time.nanoseconds }
}
