//! Reads a tree into memory, and writes one tree as another, by way of this layer alone.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::pread;

use crate::error::Result;
use crate::fs::apply::apply_flags;
use crate::fs::content::{truncate, write_all};
use crate::fs::flags::set_early_flags;
use crate::fs::remove::remove_tree;
use crate::fs::target::{create_file, make_dir, make_link, make_special, make_symlink};
use crate::fs::*;

/// An entry as the tests compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) attributes: Attributes,
    /// Content of regular files.
    pub(super) content: Vec<u8>,
    /// Which parts of it are data.
    pub(super) segments: Vec<Segment>,
    /// Another path of the same inode that comes before this one.
    pub(super) first_name: Option<Vec<u8>>,
}

pub(super) fn open_root(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = parent.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// All entries below `root` by path, the root itself as the empty one. Panics on any error.
pub(super) fn read_tree(root: &Path) -> BTreeMap<Vec<u8>, Entry> {
    let mut entries = BTreeMap::new();
    let mut first_names = HashMap::new();
    for event in Walk::new(root, WalkOptions::default()).unwrap() {
        match event {
            Event::Enter(dir) => {
                let fd = dir.fd().unwrap();
                let attributes = attributes_of_open(fd.as_fd(), dir.stat().clone());
                let entry =
                    Entry { attributes, content: vec![], segments: vec![], first_name: None };
                entries.insert(dir.path(), entry);
            }
            Event::Names(dir, names) => {
                let fd = dir.fd().unwrap();
                for ((name, _), stat) in names.iter().zip(stat_batch(&dir, &names)) {
                    let path = join(&dir.path(), name);
                    let mut entry = read_entry(fd.as_fd(), name, stat.unwrap());
                    let stat = &entry.attributes.stat;
                    if stat.nlink > 1 {
                        let key = (stat.dev, stat.ino);
                        let first = first_names.entry(key).or_insert_with(|| path.clone());
                        entry.first_name = (*first != path).then(|| first.clone());
                    }
                    entries.insert(path, entry);
                }
            }
            Event::Leave(_) => {}
            other => panic!("{other:?}"),
        }
    }
    entries
}

fn attributes_of_open(fd: BorrowedFd<'_>, stat: Stat) -> Attributes {
    let read = read_attributes_fd(fd, stat);
    assert!(read.errors.is_empty(), "{:?}", read.errors);
    read.attributes
}

pub(super) fn read_entry(dir: BorrowedFd<'_>, name: &[u8], stat: Stat) -> Entry {
    if stat.kind == FileKind::File {
        let Opened::File(fd, now) = open_regular(dir, name, &stat).unwrap() else {
            panic!("replaced: {}", display_path(name));
        };
        let segments: Vec<_> = Segments::new(fd.as_fd(), now.size).collect();
        let content = read_content(fd.as_fd(), now.size);
        return Entry {
            attributes: attributes_of_open(fd.as_fd(), stat),
            content,
            segments,
            first_name: None,
        };
    }
    let read = read_attributes_at(dir, name, stat).unwrap();
    assert!(read.errors.is_empty(), "{:?}", read.errors);
    Entry { attributes: read.attributes, content: vec![], segments: vec![], first_name: None }
}

fn read_content(fd: BorrowedFd<'_>, size: u64) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(size).unwrap()];
    let mut done = 0;
    while done < content.len() {
        let count = pread(fd, &mut content[done..], done as u64).unwrap();
        assert_ne!(count, 0, "file shrank");
        done += count;
    }
    content
}

/// Writes `entries` below `target`, and says what was not permitted.
pub(super) fn write_tree(entries: &BTreeMap<Vec<u8>, Entry>, target: &Path) -> Result<Denied> {
    let target = Target::open(target)?;
    let mut denied = Denied::default();
    for (path, entry) in entries {
        write_entry(&target, path, entry, &mut denied)?;
    }
    // Flags after links, directories from the deepest up.
    for (path, entry) in entries.iter().rev() {
        let is_dir = entry.attributes.stat.kind == FileKind::Dir;
        let (dir, name) = parent_of(&target, path)?;
        if is_dir {
            let fd = target.dir(path)?;
            apply_attributes(&Subject::Open(fd.as_fd()), &entry.attributes, path, &mut denied)?;
        } else if entry.attributes.flags != 0 {
            let subject = Subject::open(dir.as_fd(), &name)?;
            apply_flags(&subject, &entry.attributes, path, &mut denied)?;
        }
    }
    Ok(denied)
}

fn parent_of(target: &Target, path: &[u8]) -> Result<(OwnedFd, Vec<u8>)> {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => Ok((target.dir(&path[..slash])?, path[slash + 1..].to_vec())),
        None => Ok((target.dir(b"")?, path.to_vec())),
    }
}

fn write_entry(target: &Target, path: &[u8], entry: &Entry, denied: &mut Denied) -> Result<()> {
    if path.is_empty() {
        return Ok(());
    }
    let (dir, name) = parent_of(target, path)?;
    if let Some(first) = &entry.first_name {
        let (first_dir, first_name) = parent_of(target, first)?;
        return make_link(first_dir.as_fd(), &first_name, dir.as_fd(), &name);
    }
    let wanted = &entry.attributes;
    match wanted.stat.kind {
        FileKind::Dir => {
            let (fd, is_new) = make_dir(dir.as_fd(), &name)?;
            assert!(is_new);
            set_early_flags(fd.as_fd(), wanted.flags);
            return Ok(());
        }
        FileKind::File => {
            let fd = create_file(dir.as_fd(), &name)?;
            set_early_flags(fd.as_fd(), wanted.flags);
            truncate(fd.as_fd(), wanted.stat.size)?;
            for segment in entry.segments.iter().filter(|segment| !segment.is_hole) {
                let start = usize::try_from(segment.offset).unwrap();
                let end = start + usize::try_from(segment.len).unwrap();
                write_all(fd.as_fd(), &entry.content[start..end], segment.offset)?;
            }
            return apply_attributes_but_flags(&Subject::Open(fd.as_fd()), wanted, path, denied);
        }
        FileKind::Symlink => make_symlink(dir.as_fd(), &name, &wanted.link_target)?,
        _ => {
            if !make_special(dir.as_fd(), &name, &wanted.stat, path, denied)? {
                return Ok(());
            }
        }
    }
    let subject = Subject::open(dir.as_fd(), &name)?;
    apply_attributes_but_flags(&subject, wanted, path, denied)
}

/// What must be equal after a restore: all but inode, device, ctime, btime, allocation, and the
/// size and link count of directories, which belong to the file system.
pub(super) fn comparable(entry: &Entry) -> Entry {
    let mut entry = entry.clone();
    let stat = &mut entry.attributes.stat;
    (stat.ino, stat.dev, stat.ctime, stat.btime) = (0, 0, Timestamp::default(), None);
    stat.allocated_bytes = 0;
    if stat.kind == FileKind::Dir {
        (stat.size, stat.nlink) = (0, 0);
    }
    entry
}

/// Panics at the first difference.
pub(super) fn assert_same(expected: &BTreeMap<Vec<u8>, Entry>, found: &BTreeMap<Vec<u8>, Entry>) {
    for (path, entry) in expected {
        let Some(other) = found.get(path) else { panic!("{} is missing", display_path(path)) };
        assert_eq!(comparable(entry), comparable(other), "{}", display_path(path));
    }
    assert_eq!(expected.len(), found.len());
}

/// Whether this runs as root. Device nodes, owners and flags cannot be tested without; the test
/// that asks says so and passes.
pub(super) fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: needs root");
    }
    is_root
}

/// A temporary directory that goes away with everything in it, immutable files and all.
pub(super) struct Scratch {
    home: tempfile::TempDir,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    pub(super) fn in_memory() -> Self {
        Self { home: tempfile::tempdir_in("/dev/shm").unwrap() }
    }

    pub(super) fn path(&self) -> &Path {
        self.home.path()
    }

    pub(super) fn dir(&self, name: &str) -> std::path::PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let home = open_root(self.home.path());
        for entry in std::fs::read_dir(self.home.path()).unwrap() {
            let outcome = remove_tree(home.as_fd(), entry.unwrap().file_name().as_encoded_bytes());
            assert!(outcome.is_ok() || std::thread::panicking(), "{outcome:?}");
        }
    }
}
