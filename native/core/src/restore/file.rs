//! One regular file, or the block device in its place, on its way: opened when its first byte arrives,
//! written in any order, completed by whoever brings the last piece.

use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::io::Errno;

use super::compare::{first_data, is_zero};
use super::dirs::DirRef;
use super::lane::Lane;
use super::links::LinkGroup;
use super::orphans::{copy_name, part_name};
use super::progress::Counters;
use super::run::{Mode, Run, is_fatal};
use super::unshare::unshare;
use crate::broker::lock;
use crate::crypto::IdKey;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::content::{punch_hole, reserve, truncate, write_all, zero_range};
use crate::fs::flags::set_early_flags;
use crate::fs::remove::remove_tree;
use crate::fs::target::{create_file, open_file};
use crate::fs::{Attributes, Opened, Stat, open_regular, stat_fd};

/// Files kept open between two pieces; beyond that they are closed and opened again.
const FILES_OPEN_MAX: usize = 256;
/// Damaged ranges of one file that are remembered.
const DAMAGE_MAX: usize = 1024;

/// Bytes of a device that are looked at between two questions whether to go on.
const CLEAR_STEP_BYTES: u64 = 64 << 20;

/// What stands where the file belongs.
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// A regular file.
    File(Box<Stat>),
    /// Something that must go first.
    Other,
    /// A block device, or another descriptor, to write to as it is.
    Device(Arc<OwnedFd>),
}

/// A file to restore.
pub(super) struct FileTask {
    pub(super) dir: DirRef,
    pub(super) name: Box<[u8]>,
    /// Bytes it will have.
    pub(super) size: u64,
    /// Digest of the whole content, if the snapshot has one.
    pub(super) digest: Option<[u8; 16]>,
    pub(super) wanted: Box<Attributes>,
    pub(super) found: Found,
    /// Its content stays as it is.
    pub(super) is_kept: bool,
    /// Where existing files are left alone, a new one must not look like one before it is complete: it
    /// is made under this name.
    pub(super) early_name: Option<Box<[u8]>>,
    pub(super) group: Option<Arc<LinkGroup>>,
    /// Who writes to it.
    pub(super) lane: Lane,
    /// Pieces that are still to come, and one for whoever adds pieces.
    pending: AtomicU64,
    /// Whether the existing content has the digest.
    pub(super) is_equal: OnceLock<bool>,
    pub(super) state: Mutex<State>,
}

/// What changes while the file is written.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one file")]
pub(super) struct State {
    handle: Handle,
    /// Device and inode number of what is written to.
    inode: (u64, u64),
    /// It has other names that would see what is written.
    pub(super) is_shared: bool,
    /// This run has made it.
    pub(super) is_new: bool,
    /// Its content was changed.
    pub(super) is_written: bool,
    /// Parts that are not what the snapshot has: offset, length.
    pub(super) damage: Vec<(u64, u64)>,
    pub(super) has_more_damage: bool,
    /// What was wrong with the first of them.
    pub(super) why: Option<Error>,
    /// What keeps it from being restored at all.
    pub(super) failure: Option<Error>,
}

#[derive(Default)]
enum Handle {
    #[default]
    Unopened,
    Open(Arc<OwnedFd>),
    /// Closed for now.
    Parked,
}

impl FileTask {
    /// A file that pieces can be added to.
    pub(super) fn new(dir: DirRef, name: &[u8], wanted: Box<Attributes>, found: Found) -> Self {
        let handle = match &found {
            Found::Device(fd) => Handle::Open(Arc::clone(fd)),
            _ => Handle::Unopened,
        };
        Self {
            dir,
            name: name.into(),
            size: wanted.stat.size,
            digest: None,
            wanted,
            found,
            is_kept: false,
            early_name: None,
            group: None,
            lane: Lane::default(),
            pending: AtomicU64::new(1),
            is_equal: OnceLock::new(),
            state: Mutex::new(State { handle, ..State::default() }),
        }
    }

    /// Has the file made under another name first.
    pub(super) fn make_early_name(&mut self, ids: &IdKey) {
        self.early_name = Some(part_name(ids, &self.path()).into());
    }

    /// The name under which it is written.
    pub(super) fn written_name(&self) -> &[u8] {
        self.early_name.as_deref().unwrap_or(&self.name)
    }

    /// Path from the root of the restored subtree.
    pub(super) fn path(&self) -> Vec<u8> {
        self.dir.path_of(&self.name)
    }

    /// Whether there is content to compare with.
    pub(super) fn is_existing(&self) -> bool {
        matches!(self.found, Found::File(_) | Found::Device(_))
    }

    pub(super) fn is_device(&self) -> bool {
        matches!(self.found, Found::Device(_))
    }

    /// Announces a piece.
    pub(super) fn expect(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// Says that a piece, or the adding of pieces, is done; true when that was the last.
    pub(super) fn settle(&self) -> bool {
        self.pending.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// One piece is done: completes the file if it was the last, else perhaps closes it for now.
    pub(super) fn piece_done(&self, run: &Run) {
        if self.settle() {
            self.finish(run);
        } else if run.files_open.load(Ordering::Relaxed) > FILES_OPEN_MAX {
            self.park(run);
        }
    }

    fn park(&self, run: &Run) {
        let mut state = lock(&self.state);
        if let Handle::Open(fd) = &mut state.handle
            && !self.is_device()
            && Arc::get_mut(fd).is_some()
        {
            state.handle = Handle::Parked;
            run.files_open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Notes what keeps this file from being restored; other pieces of it are not tried.
    pub(super) fn fail(&self, run: &Run, error: Error) {
        if is_fatal(&error) {
            run.fail(error.at(crate::fs::display_path(&self.path())));
        } else {
            lock(&self.state).failure.get_or_insert(error);
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        lock(&self.state).failure.is_some()
    }

    /// A descriptor to read what is there from.
    pub(super) fn readable(&self, run: &Run) -> Result<Arc<OwnedFd>> {
        let mut state = lock(&self.state);
        self.open(run, &mut state, false)
    }

    /// Writes `bytes` at `offset`.
    pub(super) fn write(&self, run: &Run, offset: u64, bytes: &[u8]) {
        let is_whole = offset == 0 && bytes.len() as u64 == self.size;
        self.change(run, is_whole, |fd| write_all(fd, bytes, offset));
        Counters::add(&run.counters.bytes_written, bytes.len() as u64);
    }

    /// Makes a range a hole, or reserved zeros. New files are holes to begin with.
    pub(super) fn clear(&self, run: &Run, offset: u64, len: u64, is_reserved: bool) {
        if self.is_device() {
            return self.clear_device(run, offset..offset.saturating_add(len));
        }
        let clear = |fd: BorrowedFd<'_>| {
            if is_reserved { zero_range(fd, offset, len) } else { punch_hole(fd, offset, len) }
        };
        if !self.is_existing() {
            if is_reserved {
                self.change(run, false, clear);
            }
            return;
        }
        // Where it reads as zeros already, nobody will see a difference.
        let clear_unseen = |fd: Arc<OwnedFd>| -> Result<bool> {
            if !is_zero(fd.as_fd(), offset..offset + len)? {
                return Ok(false);
            }
            if is_reserved {
                reserve(fd.as_fd(), offset, len)?;
            } else if has_data_between(fd.as_fd(), offset, len) {
                punch_hole(fd.as_fd(), offset, len)?;
            }
            Ok(true)
        };
        match self.readable(run).and_then(clear_unseen) {
            Ok(true) => {}
            Ok(false) => self.change(run, false, clear),
            Err(error) => self.fail(run, error),
        }
    }

    /// Clears what is not zero yet. A device that cannot punch is written zeros to, all over the range.
    fn clear_device(&self, run: &Run, range: Range<u64>) {
        let mut at = range.start;
        while at < range.end && run.check().is_ok() && !self.has_failed() {
            let step = at..range.end.min(at.saturating_add(CLEAR_STEP_BYTES));
            match self.readable(run).and_then(|fd| first_data(fd.as_fd(), step.clone())) {
                Ok(None) => at = step.end,
                Ok(Some(data)) => {
                    let len = data.end - data.start;
                    self.change(run, false, |fd| punch_hole(fd, data.start, len));
                    Counters::add(&run.counters.bytes_written, len);
                    at = data.end;
                }
                Err(error) => self.fail(run, error),
            }
        }
    }

    /// Notes that a range cannot be had, and leaves zeros there.
    pub(super) fn damage(&self, run: &Run, offset: u64, len: u64, why: &Error) {
        if run.mode == Mode::Restore && self.is_existing() {
            self.change(run, false, |fd| punch_hole(fd, offset, len));
        }
        let mut state = lock(&self.state);
        state.why.get_or_insert_with(|| why.clone());
        if let Some(last) = state.damage.last_mut()
            && last.0 + last.1 == offset
        {
            last.1 += len;
        } else if state.damage.len() < DAMAGE_MAX {
            state.damage.push((offset, len));
        } else {
            state.has_more_damage = true;
        }
    }

    fn change(&self, run: &Run, is_whole: bool, act: impl FnOnce(BorrowedFd<'_>) -> Result<()>) {
        let opened = {
            let mut state = lock(&self.state);
            if state.failure.is_some() {
                return;
            }
            state.is_written = true;
            self.open_to_write(run, &mut state, is_whole)
        };
        if let Err(error) = opened.and_then(|fd| act(fd.as_fd())) {
            self.fail(run, error);
        }
    }

    pub(super) fn open_to_write(
        &self,
        run: &Run,
        state: &mut State,
        is_whole: bool,
    ) -> Result<Arc<OwnedFd>> {
        let fd = self.open(run, state, is_whole)?;
        if !state.is_shared {
            return Ok(fd);
        }
        let copy_name = copy_name(&run.ids, &self.path());
        let own = unshare(self.dir.fd()?.as_fd(), &self.name, fd.as_fd(), &copy_name)?;
        let own = Arc::new(own);
        let stat = stat_fd(own.as_fd())?;
        (state.is_shared, state.inode) = (false, (stat.dev, stat.ino));
        state.handle = Handle::Open(Arc::clone(&own));
        Ok(own)
    }

    /// Opens the file if it is not open. `is_whole`: what is written next is all of it.
    pub(super) fn open(
        &self,
        run: &Run,
        state: &mut State,
        is_whole: bool,
    ) -> Result<Arc<OwnedFd>> {
        if let Handle::Open(fd) = &state.handle {
            return Ok(Arc::clone(fd));
        }
        let dir = self.dir.fd()?;
        let fd = match (&state.handle, run.mode) {
            (Handle::Parked, _) => self.reopen(dir.as_fd(), state)?,
            (_, Mode::Restore) => return self.open_first(run, state, dir.as_fd(), is_whole),
            _ => self.open_to_look(dir.as_fd())?,
        };
        Ok(keep(run, state, fd))
    }

    fn open_first(
        &self,
        run: &Run,
        state: &mut State,
        dir: BorrowedFd<'_>,
        is_whole: bool,
    ) -> Result<Arc<OwnedFd>> {
        if matches!(self.found, Found::File(_)) {
            let is_busy = |error: &Error| error.os_error == Some(Errno::TXTBSY.raw_os_error());
            match open_file(dir, &self.name) {
                Ok(Some((fd, stat))) => return self.adopt(run, state, fd, &stat),
                // Somebody changed it since it was looked at, or runs it: it makes room for a new one.
                Ok(None) => {}
                Err(error) if is_busy(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if !matches!(self.found, Found::Nothing) {
            remove_tree(dir, &self.name)?;
        }
        let name = self.written_name();
        let fd = match create_file(dir, name) {
            Err(error) if error.os_error == Some(Errno::EXIST.raw_os_error()) => {
                remove_tree(dir, name)?;
                create_file(dir, name)?
            }
            other => other?,
        };
        state.is_new = true;
        set_early_flags(fd.as_fd(), self.wanted.flags);
        if self.size > 0 && !is_whole {
            truncate(fd.as_fd(), self.size)?;
        }
        Ok(keep(run, state, fd))
    }

    /// Takes an existing file over.
    fn adopt(
        &self,
        run: &Run,
        state: &mut State,
        fd: OwnedFd,
        stat: &Stat,
    ) -> Result<Arc<OwnedFd>> {
        state.inode = (stat.dev, stat.ino);
        let fd = keep(run, state, fd);
        if stat.nlink > 1 {
            state.is_shared = true;
            let is_ours = self.group.is_some() && lock(&run.claimed).insert(state.inode);
            if !is_ours {
                self.open_to_write(run, state, false)?;
            }
        }
        if stat.size == self.size {
            return Ok(match &state.handle {
                Handle::Open(fd) => Arc::clone(fd),
                _ => fd,
            });
        }
        state.is_written = true;
        let fd = self.open_to_write(run, state, false)?;
        truncate(fd.as_fd(), self.size)?;
        Ok(fd)
    }

    fn reopen(&self, dir: BorrowedFd<'_>, state: &State) -> Result<OwnedFd> {
        let replaced = || Error::new(ErrorKind::Io, "replaced while it was restored");
        let (fd, stat) = open_file(dir, self.written_name())?.ok_or_else(replaced)?;
        let is_known = state.inode == (0, 0) || state.inode == (stat.dev, stat.ino);
        if is_known { Ok(fd) } else { Err(replaced()) }
    }

    /// Opens without changing anything.
    fn open_to_look(&self, dir: BorrowedFd<'_>) -> Result<OwnedFd> {
        let missing = || Error::new(ErrorKind::NotFound, "not in the target");
        let Found::File(stat) = &self.found else {
            return Err(missing());
        };
        match open_regular(dir, &self.name, stat)? {
            Opened::File(fd, _) => Ok(fd),
            Opened::Replaced => Err(missing()),
        }
    }

    /// Closes the file.
    pub(super) fn close(&self, run: &Run, state: &mut State) {
        if let Handle::Open(_) = std::mem::take(&mut state.handle)
            && !self.is_device()
        {
            run.files_open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Notes that the file is open.
fn keep(run: &Run, state: &mut State, fd: OwnedFd) -> Arc<OwnedFd> {
    let fd = Arc::new(fd);
    state.handle = Handle::Open(Arc::clone(&fd));
    run.files_open.fetch_add(1, Ordering::Relaxed);
    fd
}

/// Whether any byte of a range is allocated; true where that cannot be told.
fn has_data_between(fd: BorrowedFd<'_>, offset: u64, len: u64) -> bool {
    use rustix::fs::{SeekFrom, seek};
    match seek(fd, SeekFrom::Data(offset)) {
        Ok(data) => data < offset.saturating_add(len),
        Err(Errno::NXIO) => false,
        Err(_) => true,
    }
}
