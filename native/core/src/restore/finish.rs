//! Completing a file: its attributes, its other names, and what is told about it.

use std::borrow::Cow;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{RenameFlags, renameat, renameat_with};
use rustix::io::Errno;

use super::file::{FileTask, Found, State};
use super::progress::{Counters, Problem};
use super::run::{Mode, Run};
use crate::broker::lock;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::apply::apply_flags;
use crate::fs::content::truncate;
use crate::fs::flags::PROTECTING;
use crate::fs::{
    Attributes, Denied, Opened, Stat, Subject, apply_attributes, apply_attributes_but_flags,
    open_regular, stat_fd,
};

impl FileTask {
    /// Completes the file. Called once, when nothing more will be written.
    pub(super) fn finish(&self, run: &Run) {
        let mut state = lock(&self.state);
        if run.is_going_on() {
            let finished = match state.failure.take() {
                Some(error) => Err(error),
                None if run.mode == Mode::Restore => self.complete(run, &mut state),
                None => Ok(()),
            };
            self.tell(run, &mut state, finished);
        }
        self.close(run, &mut state);
    }

    fn complete(&self, run: &Run, state: &mut State) -> Result<()> {
        let path = self.path();
        let mut denied = Denied::default();
        let applied = if self.is_device() {
            let fd = self.open(run, state, false)?;
            rustix::fs::fsync(&fd).map_err(|errno| Error::os("cannot write it out", errno))
        } else if self.is_kept {
            self.complete_kept(&path, &mut denied)
        } else {
            self.complete_written(run, state, &path, &mut denied)
        };
        run.deny(denied);
        applied
    }

    fn complete_kept(&self, path: &[u8], denied: &mut Denied) -> Result<()> {
        let dir = self.dir.fd()?;
        // An ordinary descriptor is the quicker way, where it can be had.
        let opened = match &self.found {
            Found::File(stat) => open_regular(dir.as_fd(), &self.name, stat).ok(),
            _ => None,
        };
        if let Some(Opened::File(fd, _)) = opened {
            return self.apply(&Subject::Open(fd.as_fd()), &self.wanted, path, denied);
        }
        let subject = Subject::open(dir.as_fd(), &self.name)?;
        self.apply(&subject, &self.wanted, path, denied)
    }

    fn complete_written(
        &self,
        run: &Run,
        state: &mut State,
        path: &[u8],
        denied: &mut Denied,
    ) -> Result<()> {
        let mut fd = self.open(run, state, false)?;
        if state.is_shared && !is_alike(&stat_fd(fd.as_fd())?, &self.wanted.stat) {
            fd = self.open_to_write(run, state, false)?;
        }
        let subject = Subject::Open(fd.as_fd());
        let mut wanted = Cow::Borrowed(&*self.wanted);
        if !state.damage.is_empty() {
            if state.is_new {
                truncate(fd.as_fd(), self.size)?;
            }
            // With the time that the snapshot has it would pass for what the snapshot has.
            wanted.to_mut().stat.mtime = stat_fd(fd.as_fd())?.mtime;
        }
        if self.early_name.is_none() {
            return self.apply(&subject, &wanted, path, denied);
        }
        // With its attributes, but before a flag forbids that it is renamed.
        apply_attributes_but_flags(&subject, &wanted, path, denied)?;
        self.take_name()?;
        if self.has_late_flags() { Ok(()) } else { apply_flags(&subject, &wanted, path, denied) }
    }

    /// Whether flags must wait for hard links.
    fn has_late_flags(&self) -> bool {
        self.group.is_some() && self.wanted.flags & PROTECTING != 0
    }

    /// Gives a file that was made under another name its own, unless somebody else has taken it since.
    fn take_name(&self) -> Result<()> {
        let Some(early) = &self.early_name else {
            return Ok(());
        };
        take_name(self.dir.fd()?.as_fd(), early, &self.name)
    }

    fn apply(
        &self,
        subject: &Subject<'_>,
        wanted: &Attributes,
        path: &[u8],
        denied: &mut Denied,
    ) -> Result<()> {
        if self.has_late_flags() {
            apply_attributes_but_flags(subject, wanted, path, denied)
        } else {
            apply_attributes(subject, wanted, path, denied)
        }
    }

    fn tell(&self, run: &Run, state: &mut State, finished: Result<()>) {
        if let Err(error) = finished {
            if let Some(group) = &self.group {
                group.failed(run);
            }
            return run.trouble(&self.path(), error);
        }
        if let Some(group) = &self.group {
            group.made(run, &self.dir, &self.name, &self.wanted);
        }
        self.count(run, state);
        if !state.damage.is_empty() {
            self.tell_damage(run, state);
        } else if run.mode == Mode::Verify {
            self.tell_attributes(run);
        }
    }

    fn count(&self, run: &Run, state: &State) {
        let counters = &run.counters;
        if run.mode == Mode::Verify {
            Counters::add(&counters.files_verified, 1);
            return Counters::add(&counters.bytes_verified, self.size);
        }
        let (counter, action) = if !self.is_existing() || state.is_new {
            (&counters.files_new, "create")
        } else if state.is_written {
            (&counters.files_changed, "change")
        } else {
            (&counters.files_unchanged, "")
        };
        Counters::add(counter, 1);
        Counters::add(&counters.files, 1);
        if !action.is_empty() {
            run.row(action, &self.path(), self.size);
        }
    }

    fn tell_damage(&self, run: &Run, state: &mut State) {
        let why = state.why.take();
        let why = why.unwrap_or_else(|| Error::damaged("differs from the snapshot"));
        let mut problem = if run.mode == Mode::Verify {
            Problem::new(&self.path(), "differs", why.to_string())
        } else {
            Problem::of_error(&self.path(), &why)
        };
        problem.ranges = merged(std::mem::take(&mut state.damage));
        problem.more_ranges = state.has_more_damage;
        run.problem(&problem);
    }

    /// What is cheap to compare, unless some of it could not be restored.
    fn tell_attributes(&self, run: &Run) {
        let Found::File(found) = &self.found else {
            return;
        };
        let wanted = &self.wanted.stat;
        let is_same = found.size == wanted.size
            && (found.mtime == wanted.mtime && found.mode == wanted.mode
                || !lock(&run.denied).is_empty());
        if !is_same {
            let message = "size, mode or time is not that of the snapshot".to_owned();
            run.problem(&Problem::new(&self.path(), "differs", message));
        }
    }
}

/// Whether applying `wanted` would change nothing that other names of the file could see.
fn is_alike(found: &Stat, wanted: &Stat) -> bool {
    (found.mode, found.uid, found.gid, found.mtime)
        == (wanted.mode, wanted.uid, wanted.gid, wanted.mtime)
}

/// The ranges in order, those that touch joined.
fn merged(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
    for (offset, len) in ranges {
        match out.last_mut() {
            Some(last) if last.0 + last.1 >= offset => last.1 = last.1.max(offset + len - last.0),
            _ => out.push((offset, len)),
        }
    }
    out
}

/// The error of a file whose content was never stored.
pub(super) fn unreadable() -> Error {
    let what = "its content could not be read when it was backed up";
    Error::new(ErrorKind::NotFound, what)
}

/// Gives what was made as `early` in `dir` its own name, unless somebody has taken that since.
pub(super) fn take_name(dir: BorrowedFd<'_>, early: &[u8], name: &[u8]) -> Result<()> {
    match renameat_with(dir, early, dir, name, RenameFlags::NOREPLACE) {
        // Not every file system can promise that; nothing was there when it was looked at.
        Err(Errno::INVAL) => renameat(dir, early, dir, name),
        other => other,
    }
    .map_err(|errno| Error::os("cannot give it its name", errno))
}

#[cfg(test)]
mod tests {
    use super::merged;

    #[test]
    fn ranges_are_joined() {
        let ranges = vec![(10, 5), (0, 3), (15, 1), (3, 2), (20, 2), (21, 9)];
        assert_eq!(merged(ranges), [(0, 5), (10, 6), (20, 10)]);
    }
}
