//! From the walk to work: which entries are as the parent has them, which must be read, by whom, and
//! in which order the results belong.

use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender};
use hashbrown::HashMap;

use super::compare::{Comparison, Verdict, Why};
use super::entries::link_group;
use super::files::stopped;
use super::items::{At, Entry, Group, GroupDone, Item, Large, PartialNode, Task, TaskDone};
use super::progress::Change;
use super::recheck::Recheck;
use super::slot::{Signal, Slot};
use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::fs::{Dir, Event, FileKind, Names, NotEntered, Stat, Walk, stat_at, stat_batch};
use crate::tree::{Content, LeftOut, Node};

/// Most entries, and most bytes of small files, that a reader takes at a time.
const GROUP_COUNT_MAX: usize = 64;
const GROUP_BYTES_MAX: u64 = 1 << 20;
/// Steps of the walk, and names in them, that are handed on at a time.
const STRETCH_STEPS_MAX: usize = 64;
const STRETCH_NAMES_MAX: usize = 512;

/// One step of the walk with what `statx` said.
pub(super) enum Scanned {
    /// A directory, what of it is left out on purpose, and what went wrong if it could not be listed.
    Dir(Arc<Dir>, Option<LeftOut>, Option<Error>),
    Batch(Arc<Dir>, Names, StatSlot),
    Closed {
        dir: Arc<Dir>,
        name: Vec<u8>,
        why: NotEntered,
    },
}

type StatSlot = Arc<Slot<Vec<Result<Stat>>>>;

/// Batches for the threads that call `statx`.
pub(super) struct StatJob(Vec<(Arc<Dir>, Names, StatSlot)>);

impl StatJob {
    pub(super) fn run(self) {
        for (dir, names, slot) in self.0 {
            slot.set(stat_batch(&dir, &names));
        }
    }
}

/// What the walk hands on at a time. Small directories go together: a message for each of them would
/// have threads wake each other for a dozen files.
#[derive(Default)]
struct Stretch {
    steps: Vec<Scanned>,
    batches: Vec<(Arc<Dir>, Names, StatSlot)>,
    names: usize,
}

impl Stretch {
    fn add(&mut self, dir: Arc<Dir>, names: Names, signal: &Arc<Signal>) {
        let slot = Slot::new(signal);
        self.names += names.len();
        self.batches.push((Arc::clone(&dir), names.clone(), Arc::clone(&slot)));
        self.steps.push(Scanned::Batch(dir, names, slot));
    }

    fn is_full(&self) -> bool {
        self.steps.len() >= STRETCH_STEPS_MAX || self.names >= STRETCH_NAMES_MAX
    }

    fn send(&mut self, jobs: &Sender<StatJob>, out: &Sender<Vec<Scanned>>) -> Result<()> {
        let Self { steps, batches, .. } = std::mem::take(self);
        if !batches.is_empty() {
            jobs.send(StatJob(batches)).map_err(|_| stopped())?;
        }
        out.send(steps).map_err(|_| stopped())
    }
}

/// Walks, and hands batches to the threads that call `statx`.
pub(super) fn scan(
    walk: Walk,
    signal: &Arc<Signal>,
    jobs: &Sender<StatJob>,
    out: &Sender<Vec<Scanned>>,
) -> Result<()> {
    let mut walk = walk.peekable();
    let mut stretch = Stretch::default();
    while let Some(event) = walk.next() {
        signal.check()?;
        match event {
            Event::Enter(dir) => {
                // Both come next, if they do: the directory's node has to say so.
                let left_out = walk.next_if(|next| matches!(next, Event::LeftOut(_)));
                let failed = walk.next_if(|next| matches!(next, Event::ListingFailed(..)));
                let failure = match failed {
                    Some(Event::ListingFailed(_, error)) => Some(error),
                    _ => None,
                };
                stretch.steps.push(Scanned::Dir(dir, left_out.map(|_| LeftOut::Entries), failure));
            }
            Event::Names(dir, names) => stretch.add(dir, names, signal),
            Event::NotEntered { dir, name, why } => {
                stretch.steps.push(Scanned::Closed { dir, name, why });
            }
            Event::LeftOut(_) | Event::ListingFailed(..) => {
                return Err(Error::internal("something of a directory came too late"));
            }
            Event::Leave(_) => {}
        }
        if stretch.is_full() {
            stretch.send(jobs, out)?;
        }
    }
    stretch.send(jobs, out)
}

/// Where the work goes.
pub(super) struct Outputs {
    pub(super) groups: Sender<Group>,
    pub(super) large: Sender<Large>,
    pub(super) items: Sender<Item>,
}

/// What comparing needs.
pub(super) struct Setup<'a> {
    pub(super) signal: &'a Arc<Signal>,
    /// Files from this size on are cut by themselves.
    pub(super) small_bytes: u64,
    pub(super) budget: &'a Arc<Budget>,
    pub(super) root_dev: u64,
}

/// The state of the comparison.
pub(super) struct Dispatcher<'a> {
    setup: Setup<'a>,
    outputs: Outputs,
    comparison: Comparison<'a>,
    /// Inodes with more names to come: how many.
    links: HashMap<u64, u32>,
    tasks: Vec<Task>,
    task_bytes: u64,
    must_read: bool,
}

impl<'a> Dispatcher<'a> {
    pub(super) fn new(setup: Setup<'a>, outputs: Outputs, comparison: Comparison<'a>) -> Self {
        Self {
            setup,
            outputs,
            comparison,
            links: HashMap::new(),
            tasks: Vec::new(),
            task_bytes: 0,
            must_read: false,
        }
    }

    /// Takes the walk's events until there are no more.
    pub(super) fn run(mut self, scanned: &Receiver<Vec<Scanned>>) -> Result<()> {
        for event in scanned.iter().flatten() {
            self.setup.signal.check()?;
            match event {
                Scanned::Dir(dir, left_out, failure) => {
                    let (key, stat) = (key_of(&dir, None), dir.stat().clone());
                    let mut entry = Entry::new(key, At::Dir(dir), stat, Change::Changed);
                    entry.left_out = left_out;
                    match failure {
                        None => self.entry(entry)?,
                        Some(error) => self.unlisted(entry, error)?,
                    }
                }
                Scanned::Batch(dir, names, slot) => {
                    let prefix = key_of(&dir, None);
                    for ((name, _), stat) in names.iter().zip(slot.wait()?) {
                        match stat {
                            Ok(stat) => {
                                let at = At::Entry(Arc::clone(&dir), name.to_vec());
                                let (key, change) = (join(&prefix, name), Change::New);
                                self.entry(Entry::new(key, at, stat.clone(), change))?;
                            }
                            Err(error) => self.push(Task::Lost(error.clone()), 0, true)?,
                        }
                    }
                }
                Scanned::Closed { dir, name, why } => self.closed(&dir, &name, why)?,
            }
        }
        self.flush()
    }

    /// A directory that the walk did not enter: its node is kept, its content is not.
    fn closed(&mut self, dir: &Arc<Dir>, name: &[u8], why: NotEntered) -> Result<()> {
        let stat = dir.fd().and_then(|fd| stat_at(std::os::fd::AsFd::as_fd(&*fd), name));
        let (key, at) = (key_of(dir, Some(name)), At::Entry(Arc::clone(dir), name.to_vec()));
        match (stat, why) {
            (Ok(stat), NotEntered::OtherDevice) => {
                let is_dir = stat.kind == FileKind::Dir;
                let mut entry = Entry::new(key, at, stat, Change::Changed);
                entry.left_out = is_dir.then_some(LeftOut::FileSystem);
                self.push(Task::Read(entry), 0, true)
            }
            (Ok(stat), NotEntered::Failed(error)) => {
                self.unlisted(Entry::new(key, at, stat, Change::Changed), error)
            }
            (Err(error), _) => self.push(Task::Lost(error), 0, true),
        }
    }

    /// A directory whose entries are not known, or not all of them: the node says so, so that nobody
    /// takes it for an empty one.
    fn unlisted(&mut self, mut entry: Entry, error: Error) -> Result<()> {
        self.push(Task::Lost(error), 0, true)?;
        entry.is_unlisted = entry.stat.kind == FileKind::Dir;
        self.push(Task::Read(entry), 0, true)
    }

    fn entry(&mut self, mut entry: Entry) -> Result<()> {
        let stat = &entry.stat;
        if stat.kind != FileKind::Dir && stat.nlink > 1 {
            let group = link_group(stat, self.setup.root_dev);
            if let Some(left) = self.links.get_mut(&group) {
                *left -= 1;
                let is_last = *left == 0;
                if is_last {
                    self.links.remove(&group);
                }
                let entry = Box::new(entry);
                return self.push(Task::Link { entry, group, is_last }, 0, false);
            }
            self.links.insert(group, stat.nlink - 1);
        }
        let (resume, recheck) = match self.comparison.judge(&entry.key, stat)? {
            Verdict::Same(found) => return self.carry(entry, *found),
            Verdict::Read { change, resume, before } => {
                (entry.change, entry.before) = (change, before);
                (resume, None)
            }
            Verdict::Recheck(recheck, before) => {
                (entry.change, entry.before) = (Change::Changed, Some(before));
                (None, Some(recheck))
            }
        };
        let is_file = entry.stat.kind == FileKind::File;
        if entry.before.as_ref().is_some_and(|before| before.why == Why::Attributes) {
            return self.push(Task::Read(entry), 0, true);
        }
        if is_file && (entry.stat.size >= self.setup.small_bytes || recheck.is_some()) {
            return self.large(entry, resume, recheck);
        }
        let bytes = if is_file { entry.stat.size } else { 0 };
        self.push(Task::Read(entry), bytes, true)
    }

    /// Takes over what the parent has.
    #[expect(clippy::needless_pass_by_value, reason = "nothing is left to do with it")]
    fn carry(&mut self, entry: Entry, mut found: Node) -> Result<()> {
        // The parent may have been made with other patterns.
        found.left_out = entry.left_out;
        let stat = &entry.stat;
        // The inode's other names are looked up by today's number: on another device than the root's it
        // is made of the device's, which differs from mount to mount.
        found.ino = stat.ino;
        let is_linked = stat.nlink > 1 && stat.kind != FileKind::Dir;
        found.link_group = is_linked.then(|| link_group(stat, self.setup.root_dev));
        self.push(Task::Same(found), 0, false)
    }

    fn large(
        &mut self,
        entry: Entry,
        resume: Option<(Content, u64)>,
        recheck: Option<Recheck>,
    ) -> Result<()> {
        self.flush()?;
        let slot = Slot::new(self.setup.signal);
        let partial = Arc::new(PartialNode::default());
        let item = Item::Large(Arc::clone(&slot), Arc::clone(&partial));
        self.outputs.items.send(item).map_err(|_| stopped())?;
        let large = Large { entry, resume, recheck, slot, partial };
        self.outputs.large.send(large).map_err(|_| stopped())
    }

    fn push(&mut self, task: Task, bytes: u64, must_read: bool) -> Result<()> {
        if self.task_bytes + bytes > GROUP_BYTES_MAX {
            self.flush()?;
        }
        self.tasks.push(task);
        self.task_bytes += bytes;
        self.must_read |= must_read;
        if self.tasks.len() >= GROUP_COUNT_MAX { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if self.tasks.is_empty() {
            return Ok(());
        }
        let tasks = std::mem::take(&mut self.tasks);
        let bytes = std::mem::take(&mut self.task_bytes);
        let slot = Slot::new(self.setup.signal);
        let item = Item::Group(Arc::clone(&slot));
        // In the order of keys, which is the order in which the sequencer gives permits back.
        let signal = self.setup.signal;
        let permit = self.setup.budget.acquire_while(bytes, || signal.check())?;
        self.outputs.items.send(item).map_err(|_| stopped())?;
        if std::mem::take(&mut self.must_read) {
            return self.outputs.groups.send(Group { tasks, permit, slot }).map_err(|_| stopped());
        }
        let entries = tasks.into_iter().filter_map(|task| match task {
            Task::Same(node) => Some(TaskDone::Same(node)),
            Task::Link { entry, group, is_last } => Some(TaskDone::Link { entry, group, is_last }),
            Task::Lost(error) => Some(TaskDone::Lost(error)),
            Task::Read(_) => None,
        });
        let done = GroupDone { entries: entries.collect(), bytes: Vec::new(), _permit: permit };
        slot.set(Mutex::new(Some(done)));
        Ok(())
    }
}

/// The key of a directory or of an entry in it.
fn key_of(dir: &Dir, name: Option<&[u8]>) -> Vec<u8> {
    let mut key = dir.path();
    for byte in &mut key {
        if *byte == b'/' {
            *byte = 0;
        }
    }
    match name {
        Some(name) => join(&key, name),
        None => key,
    }
}

fn join(prefix: &[u8], name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(prefix.len() + 1 + name.len());
    key.extend_from_slice(prefix);
    if !prefix.is_empty() {
        key.push(0);
    }
    key.extend_from_slice(name);
    key
}

/// The path of a key.
pub(super) fn path_of(key: &[u8]) -> Vec<u8> {
    key.iter().map(|byte| if *byte == 0 { b'/' } else { *byte }).collect()
}
