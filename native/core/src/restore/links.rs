//! Hard links. The first name of an inode that is restored becomes the file; the others are linked to it
//! as soon as it is complete. What would then stand in the way of links, an immutable flag, comes when
//! all of them are made.

use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex};

use super::dirs::DirRef;
use super::progress::{Counters, Problem};
use super::run::{Job, Mode, Run};
use super::windows::Ticket;
use crate::broker::lock;
use crate::error::Result;
use crate::fs::apply::apply_flags;
use crate::fs::flags::PROTECTING;
use crate::fs::remove::remove_tree;
use crate::fs::target::make_link;
use crate::fs::{Attributes, Denied, Subject, stat_at};

/// The names of one inode.
#[derive(Default)]
pub(super) struct LinkGroup {
    state: Mutex<State>,
}

#[derive(Default)]
enum State {
    /// The first name is not complete yet; these wait for it.
    #[default]
    Pending,
    Waiting(Vec<LinkTask>),
    /// The first name is there.
    Made(DirRef, Box<[u8]>),
    /// There will be no first name.
    Failed,
}

/// A name to make.
pub(super) struct LinkTask {
    pub(super) group: Arc<LinkGroup>,
    pub(super) dir: DirRef,
    pub(super) name: Box<[u8]>,
    /// Whether something has that name already.
    pub(super) exists: bool,
    pub(super) ticket: Arc<Ticket>,
}

/// Flags that an inode gets when all its names are made.
pub(super) struct LateFlags {
    dir: DirRef,
    name: Box<[u8]>,
    wanted: Box<Attributes>,
}

impl LinkGroup {
    /// Makes the name now if it can be made, or has it made later.
    pub(super) fn add(self: &Arc<Self>, run: &Run, task: LinkTask) {
        let mut state = lock(&self.state);
        match &mut *state {
            State::Pending => *state = State::Waiting(vec![task]),
            State::Waiting(list) => list.push(task),
            State::Made(..) | State::Failed => {
                drop(state);
                run.send(Job::Link(task));
            }
        }
    }

    /// The first name is complete. `wanted` comes along if it has flags that must wait.
    pub(super) fn made(&self, run: &Run, dir: &DirRef, name: &[u8], wanted: &Attributes) {
        if wanted.flags & PROTECTING != 0 && run.mode == Mode::Restore {
            lock(&run.late_flags).push(LateFlags {
                dir: dir.clone(),
                name: name.into(),
                wanted: Box::new(wanted.clone()),
            });
        }
        self.settle(run, State::Made(dir.clone(), name.into()));
    }

    /// The first name will not be there.
    pub(super) fn failed(&self, run: &Run) {
        self.settle(run, State::Failed);
    }

    fn settle(&self, run: &Run, outcome: State) {
        let before = std::mem::replace(&mut *lock(&self.state), outcome);
        if let State::Waiting(list) = before {
            for task in list {
                run.send(Job::Link(task));
            }
        }
    }
}

impl LinkTask {
    /// Makes the name.
    pub(super) fn work(self, run: &Run) {
        let first = match &*lock(&self.group.state) {
            State::Made(dir, name) => Some((dir.clone(), name.clone())),
            _ => None,
        };
        let path = self.dir.path_of(&self.name);
        let Some((dir, name)) = first else {
            let message = "another name of this file could not be restored".to_owned();
            return run.problem(&Problem::new(&path, "io", message));
        };
        match self.link(run, &dir, &name) {
            Ok(true) => {
                Counters::add(&run.counters.hard_links, u64::from(run.mode != Mode::Verify));
            }
            Ok(false) if run.mode == Mode::Verify => {
                let message = "not another name of the same file".to_owned();
                run.problem(&Problem::new(&path, "differs", message));
            }
            Ok(false) => {}
            Err(error) => run.trouble(&path, error),
        }
        // Held until here: the window is not over before the link is there.
        drop(self.ticket);
    }

    /// Whether the name is, or would be, another name of the first one.
    fn link(&self, run: &Run, first_dir: &DirRef, first: &[u8]) -> Result<bool> {
        if run.mode == Mode::DryRun {
            if !self.exists {
                run.row("link", &self.dir.path_of(&self.name), 0);
            }
            return Ok(true);
        }
        let (first_fd, fd) = (first_dir.fd()?, self.dir.fd()?);
        if self.exists {
            let wanted = stat_at(first_fd.as_fd(), first)?;
            let found = stat_at(fd.as_fd(), &self.name)?;
            if found.is_same_inode(&wanted) {
                return Ok(true);
            }
            if run.mode == Mode::Verify {
                return Ok(false);
            }
            remove_tree(fd.as_fd(), &self.name)?;
        }
        make_link(first_fd.as_fd(), first, fd.as_fd(), &self.name)?;
        Ok(true)
    }
}

impl LateFlags {
    /// Sets the flags.
    pub(super) fn apply(self, run: &Run) {
        let path = self.dir.path_of(&self.name);
        let mut denied = Denied::default();
        let applied = self.dir.fd().and_then(|fd| {
            let subject = Subject::open(fd.as_fd(), &self.name)?;
            apply_flags(&subject, &self.wanted, &path, &mut denied)
        });
        run.deny(denied);
        if let Err(error) = applied {
            run.trouble(&path, error);
        }
    }
}
