//! Directories of the target: each gets its attributes when the last thing below it is done, so that
//! neither its time nor its permissions stand in anybody's way, and none is remembered longer.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use super::progress::Counters;
use super::run::{Mode, Run};
use crate::error::{Error, Result};
use crate::fs::{Attributes, Denied, Dir, Subject, apply_attributes};

/// A directory that something still happens in.
pub(super) struct DirTask {
    run: Arc<Run>,
    /// `None` where it does not exist: in a dry run.
    dir: Option<Arc<Dir>>,
    name: Box<[u8]>,
    /// Attributes to give it in the end.
    wanted: Option<Box<Attributes>>,
    /// Made by this run: nothing can be in it that this run has not put there.
    pub(super) is_new: bool,
    parent: Option<Arc<DirTask>>,
}

/// Holds a directory. The last one to let go completes it, and then perhaps the one above.
pub(super) struct DirRef(Option<Arc<DirTask>>);

impl DirRef {
    /// The directory at the top of the restore.
    pub(super) fn root(
        run: &Arc<Run>,
        dir: Option<Arc<Dir>>,
        wanted: Option<Box<Attributes>>,
        is_new: bool,
    ) -> Self {
        Self(Some(Arc::new(DirTask {
            run: Arc::clone(run),
            dir,
            name: Box::default(),
            wanted,
            is_new,
            parent: None,
        })))
    }

    /// The directory `name` in this one.
    pub(super) fn child(
        &self,
        name: &[u8],
        dir: Option<Arc<Dir>>,
        wanted: Option<Box<Attributes>>,
        is_new: bool,
    ) -> Result<Self> {
        let parent = self.0.as_ref().ok_or_else(gone)?;
        Ok(Self(Some(Arc::new(DirTask {
            run: Arc::clone(&parent.run),
            dir,
            name: name.into(),
            wanted,
            is_new,
            parent: Some(Arc::clone(parent)),
        }))))
    }

    /// The directory itself; none where it does not exist.
    pub(super) fn dir(&self) -> Option<&Arc<Dir>> {
        self.0.as_ref().and_then(|task| task.dir.as_ref())
    }

    /// A descriptor of it.
    pub(super) fn fd(&self) -> Result<Arc<OwnedFd>> {
        self.dir().ok_or_else(gone)?.fd()
    }

    /// Whether this run has made it.
    pub(super) fn is_new(&self) -> bool {
        self.0.as_ref().is_some_and(|task| task.is_new)
    }

    /// Path of the entry `name` in it, from the root of the restored subtree.
    pub(super) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.0.as_ref().map_or_else(Vec::new, |task| task.path());
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }
}

fn gone() -> Error {
    Error::internal("a directory that is not there")
}

impl Clone for DirRef {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Drop for DirRef {
    fn drop(&mut self) {
        let mut next = self.0.take();
        // A loop, for a chain of thousands would exhaust the stack.
        while let Some(mut task) = next.and_then(Arc::into_inner) {
            task.complete();
            next = task.parent.take();
        }
    }
}

impl DirTask {
    fn path(&self) -> Vec<u8> {
        let mut names = Vec::new();
        let mut task = self;
        while let Some(parent) = &task.parent {
            names.push(&*task.name);
            task = parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Gives the directory its attributes. After a failure it stays open to its owner only: a later
    /// run needs to get in.
    fn complete(&mut self) {
        if !self.run.is_going_on() {
            return;
        }
        let (Some(dir), Some(wanted), Mode::Restore) =
            (self.dir.take(), self.wanted.take(), self.run.mode)
        else {
            return;
        };
        let path = self.path();
        let mut denied = Denied::default();
        let applied = dir.fd().and_then(|fd| {
            apply_attributes(&Subject::Open(fd.as_fd()), &wanted, &path, &mut denied)
        });
        self.run.deny(denied);
        match applied {
            Ok(()) => Counters::add(&self.run.counters.directories, 1),
            Err(error) => self.run.trouble(&path, error),
        }
    }
}
