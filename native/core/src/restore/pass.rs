//! One pass over the tree: the threads, and what is left to do when they are done.

use std::sync::Arc;

use crossbeam_channel::{Receiver, unbounded};
use hashbrown::HashSet;

use super::compare::{compare, sparse};
use super::dirs::DirRef;
use super::fetch::fetch;
use super::file::Found;
use super::gaps::LostRow;
use super::journal::Journal;
use super::plan::{Left, PlanOptions, Planner};
use super::progress::Counters;
use super::run::{Job, Mode, Run, RunParts};
use super::select::Selection;
use super::single::Single;
use super::{Journaled, RestoreOptions, Snapshot, open_journal, root_dir};
use crate::blobs::{BlobStore, RANGE_BYTES_MAX};
use crate::broker::lock;
use crate::crypto::BlobOpener;
use crate::error::{Error, Result};
use crate::fs::{Denied, Target};
use crate::tree::Node;

/// Ranges may be this long, however little memory there is, in bytes.
pub(super) const RANGE_BYTES_MIN: u64 = 1 << 20;
/// Stack of a thread that only waits and opens segments, in bytes.
const FETCHER_STACK_BYTES: usize = 256 << 10;

/// What is restored to.
pub(super) enum Root {
    /// A directory; none where a dry run finds none.
    Directory(Option<Target>),
    /// A file or device.
    Single(Single),
}

/// The passes of one restore: the restore itself, and perhaps a comparison.
pub(super) struct Passes<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) options: &'a RestoreOptions,
    pub(super) selection: Arc<Selection>,
    pub(super) base: Vec<u8>,
    /// The node at the base.
    pub(super) node: Node,
    pub(super) counters: &'a Arc<Counters>,
    /// Paths not to be compared.
    pub(super) unlike: HashSet<u64>,
    pub(super) denied: Denied,
    /// Ranges of paths of which nothing is known.
    pub(super) lost: Vec<LostRow>,
}

impl Passes<'_> {
    /// Makes one pass.
    pub(super) fn run(&mut self, mode: Mode, root: &Root) -> Result<()> {
        let (jobs, jobs_in) = unbounded();
        let (ranges, ranges_in) = unbounded();
        let read = &self.options.read;
        let (workers, fetchers) = (read.workers(), read.fetchers());
        let fetch_bytes = read.memory() / 2;
        // Half of the fetchers fill the memory with the longest ranges, which count twice there: fewer might
        // not hide a store's latency.
        let share = fetch_bytes / fetchers as u64;
        let snapshot = self.snapshot;
        let run = Run::new(RunParts {
            broker: Arc::clone(&snapshot.scope.broker),
            blobs: BlobStore::new(snapshot.scope.clone(), Arc::clone(&snapshot.index), None),
            ids: snapshot.scope.keys.id_key()?,
            mode,
            overwrite: self.options.overwrite,
            counters: Arc::clone(self.counters),
            jobs,
            ranges,
            fetch_bytes,
            fetchers: fetchers as u64,
            range_bytes_max: share.clamp(RANGE_BYTES_MIN, RANGE_BYTES_MAX),
            denied: std::mem::take(&mut self.denied),
        });
        let left = std::thread::scope(|threads| {
            let start = |name: &str| std::thread::Builder::new().name(format!("restore-{name}"));
            let mut started = (0, 0);
            let spawned: std::io::Result<()> = (|| {
                for _ in 0..workers {
                    let (run, jobs) = (Arc::clone(&run), jobs_in.clone());
                    start("worker").spawn_scoped(threads, move || work(&run, &jobs))?;
                    started.0 += 1;
                }
                for _ in 0..fetchers {
                    let (run, ranges) = (Arc::clone(&run), ranges_in.clone());
                    start("fetch")
                        .stack_size(FETCHER_STACK_BYTES)
                        .spawn_scoped(threads, move || fetch(&run, &ranges))?;
                    started.1 += 1;
                }
                Ok(())
            })();
            let left = match spawned {
                Ok(()) => self.plan(&run, root),
                Err(error) => {
                    run.fail(no_thread(&error));
                    Left::default()
                }
            };
            run.windows.wait_all();
            (0..started.1).for_each(|_| run.stop_fetcher());
            (0..started.0).for_each(|_| run.send(Job::Stop));
            left
        });
        for late in std::mem::take(&mut *lock(&run.late_flags)) {
            if run.is_going_on() {
                late.apply(&run);
            }
        }
        let ended = end_journal(&run, left.journal);
        drop(left.top);
        self.denied = std::mem::take(&mut *lock(&run.denied));
        self.lost.append(&mut lock(&run.lost));
        self.unlike = std::mem::take(&mut *lock(&run.unlike));
        ended.and_then(|()| run.check())
    }

    /// Plans everything; trouble is the run's.
    fn plan(&mut self, run: &Arc<Run>, root: &Root) -> Left {
        let planned = self.plan_into(run, root);
        planned.unwrap_or_else(|failed| {
            let (error, left) = *failed;
            run.fail(error);
            left
        })
    }

    fn plan_into(&mut self, run: &Arc<Run>, root: &Root) -> Result<Left, Box<(Error, Left)>> {
        let before = |error| Box::new((error, Left::default()));
        let Journaled { journal, mark: resumed, is_after_kill } = match root {
            Root::Directory(Some(target)) if run.mode == Mode::Restore => {
                open_journal(self.snapshot, self.options, target).map_err(before)?
            }
            _ => Journaled::default(),
        };
        let options = PlanOptions {
            selection: Arc::clone(&self.selection),
            is_delete: self.options.delete,
            base: self.base.clone(),
            journal,
            resumed,
            is_after_kill,
            unlike: std::mem::take(&mut self.unlike),
        };
        let mut planner = Planner::new(run, &self.snapshot.reader, options).map_err(before)?;
        let outcome = match root {
            Root::Directory(target) => {
                let dir = target.as_ref().map(root_dir).transpose();
                dir.and_then(|dir| planner.plan_directory(dir))
            }
            Root::Single(single) => self.plan_single(run, &mut planner, single),
        };
        match outcome {
            Ok(()) => Ok(planner.finish()),
            Err(error) => Err(Box::new((error, planner.give_up()))),
        }
    }

    fn plan_single(
        &self,
        run: &Arc<Run>,
        planner: &mut Planner<'_>,
        single: &Single,
    ) -> Result<()> {
        let dir = single.parent.as_ref().map(root_dir).transpose()?;
        let dir = DirRef::root(run, dir, None, false);
        if let Some(fd) = &single.device {
            let found = Found::Device(Arc::clone(fd));
            return planner.plan_device(&dir, &single.name, &self.node, found);
        }
        let mut node = self.node.clone();
        node.key.clone_from(&single.name);
        // The other names of this inode are not restored.
        node.link_group = None;
        planner.plan_node(&dir, &node)
    }
}

fn no_thread(error: &std::io::Error) -> Error {
    let errno = rustix::io::Errno::from_io_error(error);
    Error::os("cannot start a thread", errno.unwrap_or(rustix::io::Errno::AGAIN))
}

/// Removes the journal after a restore that came to its end; else notes how far it came.
fn end_journal(run: &Run, journal: Option<Journal>) -> Result<()> {
    let outcome = run.check();
    let Some(mut journal) = journal else {
        return outcome;
    };
    match outcome {
        Ok(()) => journal.remove(),
        Err(error) => {
            if let Some(mark) = run.windows.done() {
                // It only saves work; the error is what counts.
                let _ = journal.write(mark);
            }
            Err(error)
        }
    }
}

/// Fails the run if a thread ends in a panic, so that nobody waits for it.
struct Guard<'a>(&'a Run);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::internal("a thread of the restore panicked"));
        }
    }
}

/// The loop of a worker.
fn work(run: &Run, jobs: &Receiver<Job>) {
    let _guard = Guard(run);
    let mut opener = match BlobOpener::new() {
        Ok(opener) => opener,
        Err(error) => return run.fail(error),
    };
    let mut buffer = Vec::new();
    while let Ok(job) = jobs.recv() {
        if let Job::Stop = job {
            return;
        }
        if run.check().is_err() {
            continue;
        }
        match job {
            Job::Entry(task) => task.work(run),
            Job::Link(task) => task.work(run),
            Job::Finish(file, ticket) => {
                file.finish(run);
                drop(ticket);
            }
            Job::Compare(plan, from, to) => compare(run, &plan, from, to, &mut buffer),
            Job::Sparse(plan, from, to) => {
                let pieces = plan.sparse.get(from..to).unwrap_or_default();
                sparse(run, pieces);
            }
            Job::Blob(blob) => blob.work(run, &mut opener),
            Job::Stop => {}
        }
    }
}
