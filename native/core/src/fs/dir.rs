//! A directory of a walk: reachable for as long as somebody holds it, though only a bounded number
//! of descriptors is open.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::display_path;
use super::meta::Stat;
use super::open::{PATH_BYTES_MAX, open_beneath, open_dir};
use super::stat::stat_fd;
use crate::error::{Error, ErrorKind, Result};

/// A directory below the root of a walk. It knows its parent and its own name, not its path, so
/// that a chain of thousands stays small.
#[derive(Debug)]
pub struct Dir {
    parent: Option<Arc<Dir>>,
    name: Vec<u8>,
    stat: Stat,
    fd: Mutex<Weak<OwnedFd>>,
    open_dirs: Arc<OpenDirs>,
}

/// The descriptors that one walk keeps open: the root for good, and the most recently opened
/// others. A [`Dir`] only has a weak reference, so that pushing one out here closes it as soon as
/// nobody uses it.
#[derive(Debug)]
struct OpenDirs {
    root: Arc<OwnedFd>,
    recent: Mutex<VecDeque<Arc<OwnedFd>>>,
    count_max: usize,
}

impl OpenDirs {
    fn keep(&self, fd: &Arc<OwnedFd>) {
        let pushed_out = {
            let mut recent = lock(&self.recent);
            recent.push_back(Arc::clone(fd));
            if recent.len() > self.count_max { recent.pop_front() } else { None }
        };
        // Closed here, not under the lock.
        drop(pushed_out);
    }

    /// Whether `error` says that the process has no descriptor left. Then those kept here are
    /// closed, and it is worth trying again with few: a directory must not be lost to a cache.
    fn make_room(&self, error: &Error) -> bool {
        let is_full = error.os_error == Some(Errno::MFILE.raw_os_error());
        if is_full {
            drop(std::mem::take(&mut *lock(&self.recent)));
        }
        is_full
    }
}

impl Dir {
    /// Opens the root of a walk at `path`, which may lead through symlinks. Keeps at most
    /// `open_count_max` descriptors besides the root's and those in use.
    pub fn open_root(path: &Path, open_count_max: usize) -> Result<Arc<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| {
            Error::os("cannot open the directory", errno).at(path.to_string_lossy())
        })?;
        Self::from_root_fd(fd, open_count_max)
    }

    /// The same, of a directory that is open already.
    pub fn from_root_fd(fd: OwnedFd, open_count_max: usize) -> Result<Arc<Self>> {
        let stat = stat_fd(fd.as_fd())?;
        let root = Arc::new(fd);
        let weak = Arc::downgrade(&root);
        let open_dirs = OpenDirs {
            root,
            recent: Mutex::new(VecDeque::new()),
            count_max: open_count_max.max(2),
        };
        Ok(Arc::new(Self {
            parent: None,
            name: Vec::new(),
            stat,
            fd: Mutex::new(weak),
            open_dirs: Arc::new(open_dirs),
        }))
    }

    /// Opens the child directory `name`.
    pub fn open_child(self: &Arc<Self>, name: &[u8]) -> Result<Arc<Self>> {
        let parent = self.fd()?;
        let fd = match open_dir(parent.as_fd(), name) {
            Err(error) if self.open_dirs.make_room(&error) => open_dir(parent.as_fd(), name)?,
            other => other?,
        };
        let stat = stat_fd(fd.as_fd()).map_err(|error| error.at(display_path(name)))?;
        let fd = Arc::new(fd);
        self.open_dirs.keep(&fd);
        Ok(Arc::new(Self {
            parent: Some(Arc::clone(self)),
            name: name.to_vec(),
            stat,
            fd: Mutex::new(Arc::downgrade(&fd)),
            open_dirs: Arc::clone(&self.open_dirs),
        }))
    }

    /// A descriptor of this directory. If it was closed to keep the number of open ones down, it is
    /// opened anew from the nearest open ancestor, name by name and never through a symlink; an
    /// error if another inode has taken the name of one of them. Let go of it soon: while it is
    /// held it counts against the process's limit.
    pub fn fd(&self) -> Result<Arc<OwnedFd>> {
        if let Some(fd) = self.held_fd() {
            return Ok(fd);
        }
        // The last few are kept: a walk that climbs out of a deep tree needs them next, and would
        // otherwise start from the root at every step.
        match self.reopen(self.open_dirs.count_max / 2) {
            Err(error) if self.open_dirs.make_room(&error) => self.reopen(1),
            other => other,
        }
    }

    /// Opens this directory from the nearest open ancestor: in large strides, but one by one the
    /// last `kept_count`, which are kept open.
    fn reopen(&self, kept_count: usize) -> Result<Arc<OwnedFd>> {
        let mut closed = vec![self];
        let mut ancestor = self.parent.as_deref();
        let mut base = loop {
            let Some(dir) = ancestor else {
                break Arc::clone(&self.open_dirs.root);
            };
            if let Some(fd) = dir.held_fd() {
                break fd;
            }
            closed.push(dir);
            ancestor = dir.parent.as_deref();
        };
        while closed.len() > kept_count {
            base = Arc::new(stride(&base, &mut closed, kept_count)?);
        }
        while let Some(dir) = closed.pop() {
            let fd = Arc::new(open_dir(base.as_fd(), &dir.name)?);
            dir.check_is(&fd)?;
            *lock(&dir.fd) = Arc::downgrade(&fd);
            self.open_dirs.keep(&fd);
            base = fd;
        }
        Ok(base)
    }

    fn held_fd(&self) -> Option<Arc<OwnedFd>> {
        lock(&self.fd).upgrade()
    }

    /// Whether `fd` has open what this directory was.
    fn check_is(&self, fd: &OwnedFd) -> Result<()> {
        if stat_fd(fd.as_fd())?.is_same_inode(&self.stat) {
            return Ok(());
        }
        let what = "the directory was replaced while it was read";
        Err(Error::new(ErrorKind::Io, what).at(display_path(&self.path())))
    }

    /// The directory that holds this one; `None` for the root of the walk.
    pub fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    /// Name in the parent; empty for the root of the walk.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// What the directory was when it was first opened.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Path from the root of the walk, without a leading slash; empty for the root itself. Made
    /// anew at each call.
    pub fn path(&self) -> Vec<u8> {
        let mut names = Vec::new();
        let mut dir = self;
        while let Some(parent) = &dir.parent {
            names.push(dir.name.as_slice());
            dir = parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// `error`, with the path of the entry `name` of this directory as what it happened to.
    pub fn locate(&self, mut error: Error, name: &[u8]) -> Error {
        let mut path = self.path();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        error.key = Some(display_path(&path));
        error
    }
}

/// Takes directories off the end of `closed`, each in the next one, and opens the last of them from
/// `base`: as many as fit into one path, but not the first `kept_count`.
fn stride(base: &OwnedFd, closed: &mut Vec<&Dir>, kept_count: usize) -> Result<OwnedFd> {
    let mut path = Vec::new();
    let mut reached = None;
    while closed.len() > kept_count
        && let Some(dir) = closed.last()
        && (path.is_empty() || path.len() + 1 + dir.name.len() <= PATH_BYTES_MAX)
    {
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&dir.name);
        reached = closed.pop();
    }
    let dir = reached.ok_or_else(|| Error::internal("no directory to reopen"))?;
    let fd = open_beneath(base.as_fd(), &path).map_err(|errno| {
        Error::os("cannot reopen the directory", errno).at(display_path(&dir.path()))
    })?;
    dir.check_is(&fd)?;
    Ok(fd)
}

impl Drop for Dir {
    /// Lets go of the ancestors in a loop: left to itself, the compiler would recurse once a level.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(dir) = next {
            next = Arc::into_inner(dir).and_then(|mut dir| dir.parent.take());
        }
    }
}

/// What these locks guard is valid after every single operation, so a panic elsewhere harms
/// nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
