//! The journal: how far a restore into a directory has come, so that a second run of the same restore
//! need not look at what the first one finished.
//!
//! It is one small file in the target's root, replaced as a whole after what it tells is durable. It only
//! saves work: a missing, foreign or damaged one means that everything is compared.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, fsync, openat, renameat, syncfs, unlinkat};
use rustix::io::Errno;

use super::windows::Mark;
use crate::error::{Error, Result};
use crate::fs::content::write_all;
use crate::fs::remove::remove_tree;
use crate::fs::target::create_file;

/// Name of the journal in the target's root.
pub const JOURNAL_NAME: &[u8] = b".pvback-restore";
/// Name under which a new one is written.
const JOURNAL_NEW_NAME: &[u8] = b".pvback-restore.new";

const MAGIC: &[u8; 8] = b"PVBKRSJ1";
const HEAD_BYTES: usize = 8 + 32 + 8;
const CHECK_BYTES: usize = 32;
/// Larger ones are not ours: a key has 1 MiB at most.
const BYTES_MAX: u64 = 2 << 20;

/// What an earlier restore has left.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing: there was none, or it came to its end.
    Nothing,
    /// The journal of another restore.
    Foreign,
    /// The mark of an earlier run of the same restore.
    Own(Mark),
}

/// The journal of one restore.
#[derive(Debug)]
pub(super) struct Journal {
    root: OwnedFd,
    /// Which restore this is: a hash over the snapshot's root and all options that matter.
    restore: [u8; 32],
    written: Option<Mark>,
    /// It is written at most this often: what it tells must be durable, and that costs.
    interval: Duration,
    last: Instant,
}

impl Journal {
    /// The journal of `restore` in the directory `root`, and what an earlier restore has left of its own.
    /// From now on there is one, so that the next restore knows of this one if it is killed.
    pub(super) fn open(
        root: BorrowedFd<'_>,
        restore: [u8; 32],
        interval: Duration,
    ) -> Result<(Self, Found)> {
        let owned = root.try_clone_to_owned().map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            Error::os("cannot open the target", errno)
        })?;
        let bytes = read(root);
        let found = match bytes.as_deref().map(|bytes| (parse(bytes, &restore), is_journal(bytes)))
        {
            Some((Some(mark), _)) => Found::Own(mark),
            Some((None, true)) => Found::Foreign,
            _ => Found::Nothing,
        };
        let written = if let Found::Own(mark) = &found { Some(mark.clone()) } else { None };
        let journal = Self { root: owned, restore, written, interval, last: Instant::now() };
        if journal.written.is_none() {
            // It says nothing yet, and where it cannot be written the restore may still be possible.
            let _ = journal.put(&Mark::default());
        }
        Ok((journal, found))
    }

    /// Whether an entry of the target's root is the journal.
    pub(super) fn is_name(name: &[u8]) -> bool {
        name == JOURNAL_NAME || name == JOURNAL_NEW_NAME
    }

    /// Writes `mark` if the last time is long enough ago.
    pub(super) fn offer(&mut self, mark: impl FnOnce() -> Option<Mark>) -> Result<()> {
        if self.last.elapsed() < self.interval {
            return Ok(());
        }
        mark().map_or(Ok(()), |mark| self.write(mark))
    }

    /// Makes everything durable that was written to the target, then says so.
    pub(super) fn write(&mut self, mark: Mark) -> Result<()> {
        self.last = Instant::now();
        if self.written.as_ref() == Some(&mark) {
            return Ok(());
        }
        syncfs(&self.root).map_err(cannot_write)?;
        self.put(&mark)?;
        self.written = Some(mark);
        Ok(())
    }

    fn put(&self, mark: &Mark) -> Result<()> {
        let root = self.root.as_fd();
        remove_tree(root, JOURNAL_NEW_NAME)?;
        let file = create_file(root, JOURNAL_NEW_NAME)?;
        write_all(file.as_fd(), &encode(mark, &self.restore), 0)?;
        fsync(&file).map_err(cannot_write)?;
        renameat(root, JOURNAL_NEW_NAME, root, JOURNAL_NAME).map_err(cannot_write)
    }

    /// Removes the journal: the restore is over.
    pub(super) fn remove(self) -> Result<()> {
        for name in [JOURNAL_NEW_NAME, JOURNAL_NAME] {
            match unlinkat(&self.root, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(Error::os("cannot remove the journal", errno)),
            }
        }
        Ok(())
    }
}

fn cannot_write(errno: Errno) -> Error {
    Error::os("cannot write the journal of the restore", errno)
}

fn read(root: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(root, JOURNAL_NAME, flags, Mode::empty()).ok()?;
    let stat = crate::fs::stat_fd(file.as_fd()).ok()?;
    if stat.kind != crate::fs::FileKind::File || stat.size > BYTES_MAX {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(stat.size).ok()?];
    let count = rustix::io::pread(&file, &mut bytes, 0).ok()?;
    bytes.truncate(count);
    Some(bytes)
}

fn encode(mark: &Mark, restore: &[u8; 32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + mark.key.len() + CHECK_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(restore);
    bytes.extend_from_slice(&mark.offset.to_le_bytes());
    bytes.extend_from_slice(&mark.key);
    let check = blake3::hash(&bytes);
    bytes.extend_from_slice(check.as_bytes());
    bytes
}

/// What follows the magic of a journal that is whole.
fn open_body(bytes: &[u8]) -> Option<&[u8]> {
    let (body, check) = bytes.split_last_chunk::<CHECK_BYTES>()?;
    let rest = body.strip_prefix(MAGIC)?;
    (blake3::hash(body) == *check).then_some(rest)
}

fn is_journal(bytes: &[u8]) -> bool {
    open_body(bytes).is_some()
}

fn parse(bytes: &[u8], restore: &[u8; 32]) -> Option<Mark> {
    let (whose, rest) = open_body(bytes)?.split_first_chunk::<32>()?;
    let (offset, key) = rest.split_first_chunk::<8>()?;
    (whose == restore).then(|| Mark { key: key.to_vec(), offset: u64::from_le_bytes(*offset) })
}

/// For the fuzz target, which does not know marks: the journal that says what `bytes` say, if they are one
/// of `restore`.
#[cfg(fuzzing)]
pub fn write_again(bytes: &[u8], restore: &[u8; 32]) -> Option<Vec<u8>> {
    parse(bytes, restore).map(|mark| encode(&mark, restore))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Target;

    #[test]
    fn a_mark_comes_back_and_nothing_else_does() {
        let home = tempfile::tempdir().unwrap();
        let target = Target::open(home.path()).unwrap();
        let open = |which: u8| Journal::open(target.root(), [which; 32], Duration::ZERO).unwrap();
        let (mut journal, found) = open(1);
        assert_eq!(found, Found::Nothing);
        assert_eq!(open(1).1, Found::Own(Mark::default()));
        let mark = Mark { key: b"dir\0\xff".to_vec(), offset: 1 << 40 };
        journal.write(mark.clone()).unwrap();
        assert_eq!(open(1).1, Found::Own(mark));
        let path = home.path().join(".pvback-restore");
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(open(2).1, Found::Foreign);
        assert_eq!(open(1).1, Found::Foreign, "what the other one did, this one does not know");
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(parse(&bad, &[1; 32]), None, "{at}");
            assert_eq!(parse(&bytes[..at], &[1; 32]), None);
        }
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        let (mut journal, found) = open(1);
        assert_eq!(found, Found::Nothing);
        journal.write(Mark::default()).unwrap();
        assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
        journal.remove().unwrap();
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }
}
