//! Reading entries: attributes of everything, content of small files.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::compare::{Before, Why};
use super::items::{At, Entry, EntryDone, Group, GroupDone, Task, TaskDone};
use super::progress::{Change, Counters};
use super::recheck::unseen_change;
use crate::crypto::IdKey;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{
    FileKind, Opened, Stat, Timestamp, Xattr,
    flags::read_flags,
    open_regular, read_link, stat_fd,
    xattr::{XattrsRead, read_xattrs_at, read_xattrs_fd},
};
use crate::tree::node::{Body, Content, Kind, Node, Time, Xattrs};

/// Makes nodes out of entries.
pub(super) struct EntryReader<'a> {
    /// Names small files, for finding equal ones.
    pub(super) ids: &'a IdKey,
    /// Files below this size are read here.
    pub(super) small_bytes: u64,
    /// Device of the source's root: inode numbers of other devices are not unique beside its own.
    pub(super) root_dev: u64,
    /// Nothing but kind, mode, mtime and content is kept.
    pub(super) is_plain: bool,
    pub(super) counters: &'a Counters,
    /// Set when a file is found changed that seemed unchanged.
    pub(super) is_doubted: &'a AtomicBool,
}

/// An open file and its attributes.
pub(super) struct OpenFile {
    pub(super) fd: OwnedFd,
    pub(super) node: Node,
    pub(super) stat: Stat,
    pub(super) problems: Vec<Error>,
}

impl EntryReader<'_> {
    /// Reads a group and delivers it.
    pub(super) fn read_group(&self, group: Group) {
        let mut bytes = Vec::new();
        let read = |task| match task {
            Task::Read(entry) => self.read(entry, &mut bytes),
            Task::Same(node) => TaskDone::Same(node),
            Task::Link { entry, group, is_last } => TaskDone::Link { entry, group, is_last },
            Task::Lost(error) => TaskDone::Lost(error),
        };
        let entries = group.tasks.into_iter().map(read).collect();
        let done = GroupDone { entries, bytes, _permit: group.permit };
        group.slot.set(Mutex::new(Some(done)));
    }

    fn read(&self, entry: Entry, bytes: &mut Vec<u8>) -> TaskDone {
        if entry.before.as_ref().is_some_and(|before| before.why == Why::Attributes) {
            self.read_attributes(entry)
        } else if entry.stat.kind == FileKind::File {
            self.read_small(entry, bytes)
        } else {
            self.read_other(entry)
        }
    }

    /// Directories, links, devices and the like.
    fn read_other(&self, entry: Entry) -> TaskDone {
        let mut problems = Vec::new();
        let mut flags = 0;
        let mut target = Ok(Vec::new());
        let xattrs = match &entry.at {
            At::Dir(dir) => dir.fd().and_then(|fd| {
                flags = read_flags(fd.as_fd()).unwrap_or_else(|error| keep(&mut problems, error));
                read_xattrs_fd(fd.as_fd())
            }),
            At::Entry(dir, name) => dir.fd().and_then(|fd| {
                if entry.stat.kind == FileKind::Symlink {
                    target = read_link(fd.as_fd(), name);
                }
                read_xattrs_at(fd.as_fd(), name)
            }),
        };
        let xattrs = take_xattrs(xattrs, &mut problems);
        let mut node = self.node(entry.key, &entry.stat, flags, xattrs);
        node.unreadable = entry.is_unlisted;
        node.left_out = entry.left_out;
        if let Body::Symlink(link) = &mut node.body {
            match target {
                Ok(target) => *link = target,
                Err(error) => return TaskDone::Lost(at_path(&entry.at, error)),
            }
        }
        done(&entry.at, node, entry.change, 0..0, problems)
    }

    /// A regular file, whole. One that changes under the first reading is read once more.
    fn read_small(&self, mut entry: Entry, bytes: &mut Vec<u8>) -> TaskDone {
        let start = bytes.len();
        let mut expected = entry.stat.clone();
        let mut last = None;
        for attempt in 0..2 {
            bytes.truncate(start);
            let mut file = match self.open(&entry, &expected) {
                Ok(Some(file)) => file,
                Ok(None) => return vanished(&entry, "was replaced while it was read"),
                Err(error) => return self.unreadable(entry, error),
            };
            let limit = file.stat.size.min(self.small_bytes);
            if let Err(error) = read_up_to(&file.fd, bytes, limit) {
                bytes.truncate(start);
                return self.unreadable(entry, error);
            }
            let length = (bytes.len() - start) as u64;
            let after = stat_fd(file.fd.as_fd());
            let is_stable = length == file.stat.size
                && after.as_ref().is_ok_and(|after| is_same_content(after, &file.stat));
            file.node.unstable = !is_stable;
            set_content(&mut file.node, length);
            last = Some(file);
            match after {
                Ok(after) if !is_stable && attempt == 0 && after.size < self.small_bytes => {
                    expected = after;
                }
                _ => break,
            }
        }
        let Some(mut file) = last else {
            return self.unreadable(entry, Error::internal("a file was never read"));
        };
        let content = bytes.get(start..).unwrap_or_default();
        self.counters.read(content.len() as u64);
        if let Some(digest) =
            self.ids.id(content).first_chunk::<16>().filter(|_| !content.is_empty())
        {
            file.node.digest = Some(*digest);
        }
        if let Some(before) = entry.before.take() {
            if before.digest.is_some() && before.digest == file.node.digest {
                if before.why != Why::Repacked {
                    take_over(&before, &mut file.node);
                    bytes.truncate(start);
                }
                entry.change = before.change();
            } else if before.is_unseen()
                && !file.node.unstable
                && is_same_content(&file.stat, &entry.stat)
            {
                file.problems.push(self.doubt(None));
            }
        }
        let range = start..bytes.len();
        done(&entry.at, file.node, entry.change, range, file.problems)
    }

    /// Attributes of a file whose content is taken over.
    fn read_attributes(&self, entry: Entry) -> TaskDone {
        match (self.open(&entry, &entry.stat), &entry.before) {
            (Ok(Some(mut file)), Some(before)) => {
                // As it was seen to be when it was compared.
                set_content(&mut file.node, entry.stat.size);
                take_over(before, &mut file.node);
                done(&entry.at, file.node, entry.change, 0..0, file.problems)
            }
            (Ok(_), _) => vanished(&entry, "was replaced while it was read"),
            (Err(error), _) => self.unreadable(entry, error),
        }
    }

    /// A file changed that seemed unchanged: says so, and that others may have.
    pub(super) fn doubt(&self, offset: Option<u64>) -> Error {
        self.is_doubted.store(true, Relaxed);
        unseen_change(offset)
    }

    /// Opens a file that is still the one that was seen, and reads its attributes.
    pub(super) fn open(&self, entry: &Entry, expected: &Stat) -> Result<Option<OpenFile>> {
        let At::Entry(dir, name) = &entry.at else {
            return Err(Error::internal("a file without a directory"));
        };
        let fd = match open_regular(dir.fd()?.as_fd(), name, expected)? {
            Opened::File(fd, stat) => (fd, stat),
            Opened::Replaced => return Ok(None),
        };
        let (fd, stat) = fd;
        let mut problems = Vec::new();
        let flags = read_flags(fd.as_fd()).unwrap_or_else(|error| keep(&mut problems, error));
        let xattrs = take_xattrs(read_xattrs_fd(fd.as_fd()), &mut problems);
        let node = self.node(entry.key.clone(), &stat, flags, xattrs);
        Ok(Some(OpenFile { fd, node, stat, problems }))
    }

    /// What is left of a file that cannot be opened or read: its attributes.
    pub(super) fn unreadable(&self, mut entry: Entry, mut error: Error) -> TaskDone {
        if error.os_error == Some(rustix::io::Errno::NOENT.raw_os_error()) {
            return vanished(&entry, "vanished before it was read");
        }
        if !matches!(entry.stat.kind, FileKind::File | FileKind::Dir) {
            return TaskDone::Lost(at_path(&entry.at, error));
        }
        // What seemed unchanged need not have been opened: what is stored of it is kept.
        let kept = entry.before.take().filter(|before| before.is_trusted());
        if kept.is_some() {
            error.what =
                format!("{}; it seems unchanged, and what is stored is kept", error.what).into();
        }
        let mut problems = vec![error];
        let xattrs = match &entry.at {
            At::Entry(dir, name) => dir.fd().and_then(|fd| read_xattrs_at(fd.as_fd(), name)),
            At::Dir(dir) => dir.fd().and_then(|fd| read_xattrs_fd(fd.as_fd())),
        };
        let mut nothing = Vec::new();
        let xattrs = take_xattrs(xattrs, &mut nothing);
        problems.extend(nothing);
        let mut node = self.node(entry.key, &entry.stat, 0, xattrs);
        node.unreadable = true;
        node.left_out = entry.left_out;
        if let Some(before) = kept {
            node.unreadable = false;
            take_over(&before, &mut node);
            entry.change = before.change();
        }
        done(&entry.at, node, entry.change, 0..0, problems)
    }

    /// The node of an entry, without content.
    fn node(&self, key: Vec<u8>, stat: &Stat, flags: u32, xattrs: Vec<Xattr>) -> Node {
        let body = match stat.kind {
            FileKind::File => Body::File { size: stat.size, content: Content::empty() },
            FileKind::Dir => Body::Directory,
            FileKind::Symlink => Body::Symlink(Vec::new()),
            FileKind::Fifo => Body::Fifo,
            FileKind::Socket => Body::Socket,
            FileKind::CharDevice => Body::CharDevice(stat.rdev.0, stat.rdev.1),
            FileKind::BlockDevice => Body::BlockDevice(stat.rdev.0, stat.rdev.1),
        };
        if self.is_plain {
            return Node { mode: stat.mode, mtime: time(stat.mtime), ..Node::new(key, body) };
        }
        let is_linked = stat.nlink > 1 && stat.kind != FileKind::Dir;
        Node {
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            flags,
            // Names come from the kernel: sorted, none twice, none empty.
            xattrs: Xattrs::new(xattrs).unwrap_or_default(),
            mtime: time(stat.mtime),
            ctime: time(stat.ctime),
            btime: stat.btime.map(time),
            ino: stat.ino,
            link_group: is_linked.then(|| link_group(stat, self.root_dev)),
            ..Node::new(key, body)
        }
    }
}

/// Gives a file its earlier content.
pub(super) fn take_over(before: &Before, node: &mut Node) {
    node.digest = before.digest;
    if let Body::File { content, .. } = &mut node.body {
        *content = before.content.clone();
    }
}

/// A time as the tree has it.
pub(super) fn time(time: Timestamp) -> Time {
    Time { seconds: time.secs, nanoseconds: time.nanos }
}

/// A kind as the tree has it.
pub(super) fn kind_of(kind: FileKind) -> Kind {
    match kind {
        FileKind::File => Kind::File,
        FileKind::Dir => Kind::Directory,
        FileKind::Symlink => Kind::Symlink,
        FileKind::Fifo => Kind::Fifo,
        FileKind::Socket => Kind::Socket,
        FileKind::CharDevice => Kind::CharDevice,
        FileKind::BlockDevice => Kind::BlockDevice,
    }
}

/// An entry that is gone, or is something else by now: it is not in the snapshot.
pub(super) fn vanished(entry: &Entry, what: &'static str) -> TaskDone {
    TaskDone::Lost(at_path(&entry.at, Error::new(ErrorKind::Io, what)))
}

fn at_path(at: &At, mut error: Error) -> Error {
    let path = match at {
        At::Dir(dir) => dir.path(),
        At::Entry(dir, name) => {
            let mut path = dir.path();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            path
        }
    };
    error.key = Some(crate::fs::display_path(&path));
    error
}

pub(super) fn done(
    at: &At,
    node: Node,
    change: Change,
    content: std::ops::Range<usize>,
    problems: Vec<Error>,
) -> TaskDone {
    let problems = problems.into_iter().map(|problem| at_path(at, problem)).collect();
    TaskDone::Read(EntryDone { node, change, content, problems })
}

/// The number that the names of one inode share. Inode numbers of the root's device are taken as they
/// are, so that the number stays when a volume is mounted under another device number.
pub(super) fn link_group(stat: &Stat, root_dev: u64) -> u64 {
    if stat.dev == root_dev {
        return stat.ino;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&stat.dev.to_le_bytes()).update(&stat.ino.to_le_bytes());
    let mut out = [0; 8];
    hasher.finalize_xof().fill(&mut out);
    u64::from_le_bytes(out) | 1 << 63
}

/// Whether a file was left alone between two looks at it.
pub(super) fn is_same_content(a: &Stat, b: &Stat) -> bool {
    a.size == b.size && a.mtime == b.mtime && a.ctime == b.ctime && a.is_same_inode(b)
}

pub(super) fn set_content(node: &mut Node, length: u64) {
    if let Body::File { size, .. } = &mut node.body {
        *size = length;
    }
}

fn keep(problems: &mut Vec<Error>, error: Error) -> u32 {
    problems.push(error);
    0
}

fn take_xattrs(read: Result<XattrsRead>, problems: &mut Vec<Error>) -> Vec<Xattr> {
    match read {
        Ok(read) => {
            problems.extend(read.errors);
            read.pairs
        }
        Err(error) => {
            problems.push(error);
            Vec::new()
        }
    }
}

/// Appends the first `limit` bytes of the file, or what there is.
fn read_up_to(fd: &OwnedFd, bytes: &mut Vec<u8>, limit: u64) -> Result<()> {
    let end = bytes.len() + usize::try_from(limit).unwrap_or(usize::MAX / 2);
    bytes.reserve(end - bytes.len());
    while bytes.len() < end {
        match rustix::io::read(fd, rustix::buffer::spare_capacity(bytes)) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::os("cannot read", errno)),
        }
    }
    bytes.truncate(end);
    Ok(())
}
