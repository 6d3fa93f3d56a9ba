//! Reading the tree in order and turning it into work: directories are made here, before anything in them;
//! everything else goes to the workers, window by window.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use rustix::io::Errno;

use super::dirs::DirRef;
use super::entry::attributes_of;
use super::extras::{Extras, knows_all};
use super::gaps::Gap;
use super::journal::Journal;
use super::links::LinkGroup;
use super::orphans::Orphans;
use super::progress::{Counters, Problem};
use super::run::{Mode, Run, is_fatal, path_hash};
use super::select::{Choice, Selection};
use super::window::Window;
use super::windows::Mark;
use crate::error::{Error, Result};
use crate::fs::flags::set_early_flags;
use crate::fs::remove::remove_tree;
use crate::fs::target::make_dir;
use crate::fs::{Dir, Stat, stat_at};
use crate::pages::PageStore;
use crate::tree::key::{split_key, subtree_end};
use crate::tree::{Kind, Node, TreeReader};

/// What a pass over the tree needs besides what all threads share.
pub(super) struct Planner<'a> {
    pub(super) run: &'a Arc<Run>,
    pub(super) reader: &'a TreeReader<Arc<PageStore>>,
    pub(super) selection: Arc<Selection>,
    is_delete: bool,
    /// Key of the root of the restored subtree.
    pub(super) base: Vec<u8>,
    journal: Option<Journal>,
    /// What an earlier run has finished.
    pub(super) resumed: Option<Mark>,
    /// An earlier restore into the same directory was killed.
    pub(super) is_after_kill: bool,
    /// Paths that a comparison leaves out.
    pub(super) unlike: HashSet<u64>,
    pub(super) stack: Vec<Frame>,
    /// Nodes before the next one that could not be read.
    pub(super) gap: Option<Gap>,
    pub(super) groups: HashMap<u64, Arc<LinkGroup>>,
    pub(super) window: Window,
    /// The top directory, held so that it is completed last.
    top: Option<DirRef>,
}

/// A directory on the way to the current node.
pub(super) struct Frame {
    /// Key below the base; empty for the base itself.
    pub(super) key: Vec<u8>,
    pub(super) choice: Choice,
    /// `None` if it is only passed through, and nothing below it was wanted yet.
    dir: Option<DirRef>,
    /// Its node, until it is made; none if that was lost.
    node: Option<Box<Node>>,
    pub(super) extras: Option<Extras>,
    /// What an earlier restore has left here, once that was looked for.
    pub(super) orphans: Option<Orphans>,
}

/// What a planner leaves to be done when all its work is.
#[derive(Default)]
pub(super) struct Left {
    pub(super) journal: Option<Journal>,
    pub(super) top: Option<DirRef>,
}

/// Options of a pass.
pub(super) struct PlanOptions {
    pub(super) selection: Arc<Selection>,
    pub(super) is_delete: bool,
    pub(super) base: Vec<u8>,
    pub(super) journal: Option<Journal>,
    pub(super) resumed: Option<Mark>,
    pub(super) is_after_kill: bool,
    pub(super) unlike: HashSet<u64>,
}

impl<'a> Planner<'a> {
    /// A planner with an open window; an error if the restore has failed already.
    pub(super) fn new(
        run: &'a Arc<Run>,
        reader: &'a TreeReader<Arc<PageStore>>,
        options: PlanOptions,
    ) -> Result<Self> {
        let window = open_window(run)?;
        Ok(Self {
            run,
            reader,
            selection: options.selection,
            is_delete: options.is_delete && run.mode != Mode::Verify,
            base: options.base,
            journal: options.journal,
            resumed: options.resumed,
            is_after_kill: options.is_after_kill,
            unlike: options.unlike,
            stack: Vec::new(),
            gap: None,
            groups: HashMap::new(),
            window,
            top: None,
        })
    }

    /// Plans everything below the base into the directory `root`; none where there is no such directory
    /// and none is to be made.
    pub(super) fn plan_directory(&mut self, root: Option<Arc<Dir>>) -> Result<()> {
        let reader = self.reader;
        let mut nodes = reader.subtree(&self.base);
        let mut root = Some(root);
        let mut last = Vec::new();
        while let Some(node) = nodes.next() {
            self.run.check()?;
            let node = match node {
                Ok(node) => node,
                Err(error) if nodes.pass_lost() => {
                    self.gap.get_or_insert_with(|| Gap { after: last.clone(), why: error });
                    continue;
                }
                // Without the tree's first page there is nothing to restore.
                Err(error) if is_fatal(&error) || root.is_some() => return Err(error),
                Err(error) => {
                    self.gap.get_or_insert_with(|| Gap { after: last.clone(), why: error });
                    break;
                }
            };
            Counters::add(&self.run.counters.nodes, 1);
            last.clone_from(&node.key);
            match root.take() {
                Some(root) if node.key == self.base => {
                    self.push_root(root, &node)?;
                    continue;
                }
                // What is below it is there, so that it was a directory.
                Some(root) if self.gap.is_some() => self.push_lost_root(root),
                Some(_) => return Err(no_directory()),
                None => {}
            }
            let is_after_gap = self.end_gap(Some(&node.key));
            let left_out = if is_after_gap { self.enter_lost(&node.key)? } else { None };
            let past = if left_out.is_none() { self.plan_below(&node)? } else { left_out };
            if let Some(past) = past {
                nodes.seek(&past);
            }
        }
        if root.is_some() {
            return Err(self.gap.take().map_or_else(no_directory, |gap| gap.why));
        }
        self.end_gap(None);
        self.leave_until(|_| false);
        Ok(())
    }

    /// Ends the last window. What is planned is not yet done. The journal lies in the top directory, whose
    /// time is to be set after the journal was removed: both are the caller's now.
    pub(super) fn finish(self) -> Left {
        let end = Mark { key: vec![u8::MAX; 256], offset: 0 };
        self.window.submit(self.run, end);
        Left { journal: self.journal, top: self.top }
    }

    /// The same after an error.
    pub(super) fn give_up(self) -> Left {
        Left { journal: self.journal, top: self.top }
    }

    pub(super) fn relative<'k>(&self, key: &'k [u8]) -> &'k [u8] {
        let skip = if self.base.is_empty() { 0 } else { self.base.len() + 1 };
        key.get(skip..).unwrap_or_default()
    }

    fn push_root(&mut self, dir: Option<Arc<Dir>>, node: &Node) -> Result<()> {
        if node.kind() != Kind::Directory {
            return Err(no_directory());
        }
        let choice = self.selection.root();
        let wanted = (choice == Choice::Taken).then(|| Box::new(attributes_of(node)));
        let dir = DirRef::root(self.run, dir, wanted, false);
        self.top = Some(dir.clone());
        self.push(Vec::new(), choice, Some(dir), node);
        Ok(())
    }

    /// The top directory, where its node was lost: it keeps its attributes.
    pub(super) fn push_lost_root(&mut self, dir: Option<Arc<Dir>>) {
        let dir = DirRef::root(self.run, dir, None, false);
        self.top = Some(dir.clone());
        self.push_lost(Vec::new(), self.selection.root(), Some(dir));
    }

    /// Enters a directory whose node was lost. Nobody knows what else it had.
    pub(super) fn push_lost(&mut self, key: Vec<u8>, choice: Choice, dir: Option<DirRef>) {
        self.stack.push(Frame { key, choice, dir, node: None, extras: None, orphans: None });
    }

    fn push(&mut self, key: Vec<u8>, choice: Choice, dir: Option<DirRef>, node: &Node) {
        let is_root = key.is_empty();
        let extras = dir.as_ref().filter(|dir| {
            self.is_delete && knows_all(node) && !dir.is_new() && dir.dir().is_some()
        });
        let extras = extras.and_then(|dir| Extras::read(self.run, dir, choice, is_root));
        if node.unreadable && choice == Choice::Taken && self.run.mode != Mode::Verify {
            let message = "not all of it could be read when it was backed up".to_owned();
            self.run.problem(&Problem::new(&path_of(&key), "unreadable", message));
        }
        let node = dir.is_none().then(|| Box::new(node.clone()));
        self.stack.push(Frame { key, choice, dir, node, extras, orphans: None });
    }

    /// Leaves directories until `is_above` holds for the top one.
    pub(super) fn leave_until(&mut self, is_above: impl Fn(&[u8]) -> bool) {
        while self.stack.last().is_some_and(|frame| !is_above(&frame.key)) {
            let frame = self.stack.pop();
            if let Some(extras) = frame.and_then(|frame| frame.extras) {
                extras.finish(self.run, &self.selection);
            }
        }
    }

    /// Plans one node below the base. Returns the key to go on from where what is below is left out.
    fn plan_below(&mut self, node: &Node) -> Result<Option<Vec<u8>>> {
        let key = self.relative(&node.key).to_vec();
        let (parent, name) = split_key(&key).unwrap_or_default();
        self.leave_until(|above| above.is_empty() || above == parent || is_below(above, parent));
        let Some(frame) = self.stack.last_mut().filter(|frame| frame.key == parent) else {
            let message = "its directory is not in the tree".to_owned();
            self.run.problem(&Problem::new(&path_of(&key), "damaged", message));
            return Ok(subtree_end(&node.key));
        };
        if let Some(extras) = &mut frame.extras {
            extras.pass(self.run, &self.selection, name);
        }
        let path = path_of(&key);
        let choice = self.selection.choose(frame.choice, &path);
        let is_dir = node.kind() == Kind::Directory;
        match choice {
            Choice::Taken if self.unlike.contains(&path_hash(&path)) && !is_dir => Ok(None),
            Choice::Taken if is_dir => self.enter(key, name_of(node), Some(node)),
            Choice::Taken => {
                let dir = self.made()?;
                self.clear_orphans(&dir, name);
                self.plan_node(&dir, node)?;
                Ok(None)
            }
            Choice::Passed if is_dir => {
                let dir = self.open_passed(name_of(node))?;
                self.push(key, choice, dir, node);
                Ok(None)
            }
            Choice::Passed => Ok(None),
            Choice::Excluded => Ok(subtree_end(&node.key).filter(|_| is_dir)),
        }
    }

    /// The directory on top of the stack, made if it was only passed through until now.
    fn made(&mut self) -> Result<DirRef> {
        let mut above: Option<DirRef> = None;
        for frame in &mut self.stack {
            let dir = match (&frame.dir, above) {
                (Some(dir), _) => dir.clone(),
                (None, Some(parent)) => {
                    make_child(self.run, &parent, last_name(&frame.key), frame.node.as_deref())?
                }
                _ => return Err(Error::internal("a directory without one above")),
            };
            frame.dir = Some(dir.clone());
            frame.node = None;
            above = Some(dir);
        }
        above.ok_or_else(|| Error::internal("an entry without a directory"))
    }

    /// A directory that is only passed through, if it is there.
    pub(super) fn open_passed(&mut self, name: &[u8]) -> Result<Option<DirRef>> {
        let above = self.stack.last().and_then(|frame| frame.dir.as_ref());
        let Some((above, dir)) = above.and_then(|above| Some((above, above.dir()?))) else {
            return Ok(None);
        };
        match dir.open_child(name) {
            Ok(child) => above.child(name, Some(child), None, false).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Makes and enters a directory; of a lost one there is no node.
    pub(super) fn enter(
        &mut self,
        key: Vec<u8>,
        name: &[u8],
        node: Option<&Node>,
    ) -> Result<Option<Vec<u8>>> {
        let past = subtree_end(&self.whole(&key));
        let above = self.made()?;
        if self.run.mode == Mode::Restore && self.is_in_the_way(&above, name)? {
            self.skip(&path_of(&key));
            return Ok(past);
        }
        match make_child(self.run, &above, name, node) {
            Ok(dir) => {
                if self.run.mode == Mode::Verify && dir.dir().is_none() {
                    if self.unlike.contains(&path_hash(&path_of(&key))) {
                        return Ok(past);
                    }
                    let message = "not in the target; nor is what is below it".to_owned();
                    self.run.problem(&Problem::new(&path_of(&key), "missing", message));
                    return Ok(past);
                }
                match node {
                    Some(node) => self.push(key, Choice::Taken, Some(dir), node),
                    None => self.push_lost(key, Choice::Taken, Some(dir)),
                }
                Ok(None)
            }
            Err(error) if is_fatal(&error) => Err(error),
            Err(error) => {
                self.run.trouble(&path_of(&key), error);
                Ok(past)
            }
        }
    }

    /// Makes room for a directory; true if it may not be had.
    fn is_in_the_way(&self, above: &DirRef, name: &[u8]) -> Result<bool> {
        let found = look(above, name)?;
        let Some(stat) = found.filter(|stat| stat.kind != crate::fs::FileKind::Dir) else {
            return Ok(false);
        };
        if self.is_left_alone(Some(&stat)) {
            return Ok(true);
        }
        remove_tree(above.fd()?.as_fd(), name)?;
        Ok(false)
    }

    /// Ends the current window, which reaches to `mark`, and opens the next.
    pub(super) fn next_window(&mut self, mark: Mark) -> Result<()> {
        let next = open_window(self.run)?;
        std::mem::replace(&mut self.window, next).submit(self.run, mark);
        if let Some(journal) = &mut self.journal {
            journal.offer(|| self.run.windows.done())?;
        }
        Ok(())
    }
}

fn open_window(run: &Run) -> Result<Window> {
    match run.windows.begin() {
        Some(ticket) => Ok(Window::new(ticket)),
        None => Err(run.check().err().unwrap_or_else(|| Error::internal("the restore has ended"))),
    }
}

/// What has this name now. Nothing in a directory that was not there before.
pub(super) fn look(dir: &DirRef, name: &[u8]) -> Result<Option<Stat>> {
    if dir.is_new() || dir.dir().is_none() {
        return Ok(None);
    }
    match stat_at(dir.fd()?.as_fd(), name) {
        Ok(stat) => Ok(Some(stat)),
        Err(error) if error.os_error == Some(Errno::NOENT.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a directory, or opens the one that is there. One whose node was lost keeps the attributes that it
/// has, or gets those of a new one.
fn make_child(run: &Arc<Run>, above: &DirRef, name: &[u8], node: Option<&Node>) -> Result<DirRef> {
    if run.mode != Mode::Restore {
        let found = above.dir().and_then(|dir| dir.open_child(name).ok());
        let is_new = found.is_none();
        if is_new {
            run.row("create", &above.path_of(name), 0);
        }
        return above.child(name, found, None, is_new);
    }
    let parent = above.dir().ok_or_else(|| Error::internal("a directory that is not there"))?;
    let (fd, is_new) = make_dir(parent.fd()?.as_fd(), name)?;
    if is_new && let Some(node) = node {
        set_early_flags(fd.as_fd(), node.flags);
    }
    drop(fd);
    let dir = parent.open_child(name)?;
    let wanted = node.map(|node| Box::new(attributes_of(node)));
    above.child(name, Some(dir), wanted, is_new)
}

fn no_directory() -> Error {
    Error::damaged("the tree has no such directory")
}

/// The last name in a key.
pub(super) fn last_name(key: &[u8]) -> &[u8] {
    key.rsplit(|byte| *byte == 0).next().unwrap_or_default()
}

fn name_of(node: &Node) -> &[u8] {
    node.name()
}

/// Whether `key` lies below the directory with the key `above`.
pub(super) fn is_below(above: &[u8], key: &[u8]) -> bool {
    key.strip_prefix(above).is_some_and(|rest| rest.first() == Some(&0))
}

/// The path that a key stands for.
pub(super) fn path_of(key: &[u8]) -> Vec<u8> {
    key.iter().map(|byte| if *byte == 0 { b'/' } else { *byte }).collect()
}
