//! Copy: from a snapshot of another repository, or of another scope, to packs, runs, reference sets and the
//! root of a tree, under the keys of the scope that is written to.
//!
//! ```text
//! walk (source's tree beside earlier copies) > ranges > fetchers > workers (open, name, seal) > packs
//!           \------- items in key order, in windows ------------> finisher > tree pages > packs
//! ```
//!
//! Chunks keep the borders that the source gave them; each is opened with the source's keys, its id checked,
//! and named anew. Digests of small files are left out: they are keyed, and nothing needs them. What an
//! earlier copy has of an equal file is taken over without a byte of content being read.
//!
//! A *rewrite* is a copy of a snapshot into its own scope, around what is lost of it: names of chunks and
//! digests stay, pages of the tree that cannot be read are passed over, and files of which anything cannot be had
//! are left out ([`losses`]).
//!
//! Invariants beside those of a backup: a file of which anything cannot be had is marked unreadable, and told;
//! the walk has all chunks of a window asked for before it waits for the finisher again.

mod fetch;
mod finish;
mod losses;
mod memo;
mod walk;

pub use losses::LostCounts;

use std::sync::{Arc, Mutex};

use crossbeam_channel::bounded;
use serde::{Deserialize, Serialize};

use super::carry::Carrier;
use super::ending::{drain, fail, guard};
use super::finish::{Finished, RootJson};
use super::memory::{MEMORY_BYTES_MIN, Shares};
use super::metadata::{Counts, ObjectHash};
use super::problems::Problems;
use super::progress::Stats;
use super::slot::Signal;
use super::writer::{Writer, Writing};
use crate::blobs::{BlobStore, RANGE_BYTES_MAX};
use crate::budget::Budget;
use crate::crypto::SourceId;
use crate::error::{Error, ErrorKind, Result};
use crate::index::{Index, IndexOptions};
use crate::pages::PageStore;
use crate::scope::Scope;
use crate::tree::{Root, TreeBuilder, TreeReader};

use fetch::{BlobTask, Fetching, RangeTask};
use finish::Finisher;
use losses::{Losses, Survey};
use memo::Memo;
use walk::{Base, Earlier, Item, Outputs, Walk};

/// Options of a copy; see the table in `docs/architecture.md`.
#[derive(Clone, Debug, Deserialize)]
pub struct CopyOptions {
    /// Bytes of memory that this job may use.
    pub memory_bytes: u64,
    /// Threads that open, name and seal; 0 for one a core.
    #[serde(default)]
    pub threads: usize,
    /// Ranged reads worth keeping in flight.
    #[serde(default)]
    pub gets: usize,
    /// The trusted runs of the scope that is written to.
    pub index: IndexOptions,
    /// Snapshot id in hex.
    pub snapshot: String,
    /// Generation that runs are written under.
    #[serde(rename = "gen")]
    pub generation: u64,
    /// Source id in hex, in the scope that is written to.
    pub source_id: String,
    /// What is copied.
    pub from: FromOptions,
    /// An earlier snapshot of the same source, and its copy.
    #[serde(default)]
    pub base: Option<BaseOptions>,
    /// The tree that an interrupted copy of this very snapshot left.
    #[serde(default)]
    pub resume: Option<RootJson>,
    /// Target size of data packs.
    pub pack_bytes: usize,
    /// A fixed zstd level, or `None` to adapt.
    #[serde(default)]
    pub level: Option<i32>,
    /// Of a rewrite: only say what is lost.
    #[serde(default)]
    pub dry_run: bool,
}

/// The snapshot that is copied.
#[derive(Clone, Debug, Deserialize)]
pub struct FromOptions {
    /// Its scope in hex; other keys open it.
    pub scope: String,
    /// Its source id in hex, in that scope.
    pub source_id: String,
    /// Its root.
    pub root: RootJson,
    /// The valid runs of its scope.
    pub index: IndexOptions,
    /// Whether an object that is gone is lost. Otherwise that ends the job: prune may have moved what it held,
    /// and another view of the index leads there.
    #[serde(default)]
    pub loses_missing: bool,
}

/// A pair of trees with the same content.
#[derive(Clone, Debug, Deserialize)]
pub struct BaseOptions {
    /// In the scope that is copied from.
    pub from: RootJson,
    /// In the scope that is written to.
    pub copy: RootJson,
}

/// What a finished copy tells.
#[derive(Debug, Serialize)]
pub struct CopyResult {
    /// Root of the tree.
    pub root: RootJson,
    /// The reference set's parts.
    pub refs: Vec<ObjectHash>,
    /// Names of the runs that were written.
    pub runs: Vec<String>,
    /// How many chunks and pages the reference set names.
    pub counts: Counts,
    /// Counts.
    pub stats: Stats,
    /// Of a rewrite: what was left out.
    pub lost: Option<LostCounts>,
}

/// A copy: make one, then [`run`](Self::run) it on one thread while others watch and command it.
pub struct Copying {
    writer: Writer,
    from: Scope,
    options: CopyOptions,
    is_rewrite: bool,
}

impl Copying {
    /// Prepares a copy into `scope` of what `from` opens. Reads the index of `scope`.
    pub fn new(scope: Scope, from: Scope, options: CopyOptions) -> Result<Self> {
        let writing = Writing {
            source_id: &options.source_id,
            snapshot: &options.snapshot,
            generation: options.generation,
            index: &options.index,
            level: options.level,
            is_dry: options.dry_run,
        };
        // No source is read here but chunks as they come: the share of read buffers goes to them.
        let shares = Shares::of(options.memory_bytes, 0, options.pack_bytes);
        let writer = Writer::new(scope, &writing, &shares)?;
        Ok(Self { writer, from, options, is_rewrite: false })
    }

    /// Prepares a rewrite of a snapshot of `scope`.
    pub fn rewriting(scope: Scope, options: CopyOptions) -> Result<Self> {
        Ok(Self { is_rewrite: true, ..Self::new(scope.clone(), scope, options)? })
    }

    /// The writing half.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Runs to the end. The broker must be served meanwhile.
    pub fn run(&self) -> Result<CopyResult> {
        let signal = Signal::new(Arc::clone(&self.writer.scope.broker));
        self.writer.control.attach(&signal);
        let memory = self.options.memory_bytes.max(MEMORY_BYTES_MIN);
        let index = Arc::new(Index::load(&self.from, &self.options.from.index, memory / 12)?);
        let losses = self.is_rewrite.then(|| self.survey(&signal, &index, memory)).transpose()?;
        let Finished { root, refs, runs } = if self.options.dry_run {
            let root = self.options.from.root.clone();
            Finished { root, refs: Vec::new(), runs: Vec::new() }
        } else {
            self.stages(&signal, &index, losses.as_ref())?
        };
        let (counts, stats) = (self.writer.refs.counts(), self.writer.counters.stats());
        let lost = losses.map(|losses| losses.counts);
        Ok(CopyResult { root, refs, runs, counts, stats, lost })
    }

    /// Tells what is lost of the snapshot.
    fn survey(&self, signal: &Arc<Signal>, index: &Arc<Index>, memory: u64) -> Result<Losses> {
        let from = &self.options.from;
        let source = SourceId::parse(&from.source_id)?;
        let pages = PageStore::new(self.from.clone(), Arc::clone(index), &source)?;
        let survey = Survey {
            pages: Arc::new(pages),
            index,
            signal,
            broker: &self.from.broker,
            loses_missing: from.loses_missing,
        };
        survey.run(Root::try_from(&from.root)?, memory / 24)
    }

    fn threads(&self) -> usize {
        match self.options.threads {
            0 => std::thread::available_parallelism().map_or(2, usize::from),
            threads => threads,
        }
    }

    /// A tree of the scope that is written to.
    fn written(&self, root: &RootJson) -> Result<Earlier> {
        let (scope, index) = (self.writer.scope.clone(), self.writer.known.index());
        Earlier::new(PageStore::new(scope, index, &self.writer.source)?, root)
    }

    fn stages(
        &self,
        signal: &Arc<Signal>,
        index: &Arc<Index>,
        losses: Option<&Losses>,
    ) -> Result<Finished> {
        let (writer, from) = (&self.writer, &self.options.from);
        let problems =
            Problems::new(Arc::clone(&writer.scope.broker), Arc::clone(&writer.counters));
        let memory = self.options.memory_bytes.max(MEMORY_BYTES_MIN);
        for error in writer.known.index().damaged().iter().chain(index.damaged()) {
            problems.note(error)?;
        }
        let source = SourceId::parse(&from.source_id)?;
        let pages = || PageStore::new(self.from.clone(), Arc::clone(index), &source);
        let blobs = BlobStore::new(self.from.clone(), Arc::clone(index), None);
        let memo = Memo::new(memory / 24);
        let budget = Budget::new(memory / 6);
        let resume = self.options.resume.as_ref().map(|root| self.written(root)).transpose()?;
        let base = match &self.options.base {
            Some(base) => Some(Base {
                from: Earlier::new(pages()?, &base.from)?,
                copy: self.written(&base.copy)?,
            }),
            None => None,
        };
        let (ranges, range_queue) = bounded::<RangeTask>(1);
        let (tasks, task_queue) = bounded::<BlobTask>(2 * self.threads());
        let (windows, window_queue) = bounded::<Vec<Item>>(1);
        // Closes when the last worker has ended.
        let (working, workers) = bounded::<()>(0);
        let finisher = Finisher {
            writer,
            signal,
            problems: &problems,
            losses,
            pages: writer.pages()?,
            checkpoint_pages: writer.checkpoint_pages()?,
            page_key: writer.page_key()?,
            resumed: resume.as_ref().map(|resume| Arc::clone(&resume.pages)),
            builder: Some(TreeBuilder::new(writer.page_key()?)),
            file: None,
            workers,
        };
        let walk = Walk {
            writer,
            signal,
            problems: &problems,
            memo: &memo,
            index,
            pages: Arc::new(pages()?),
            resume,
            base,
            carrier: Carrier::new(&writer.known, &writer.refs),
            loses_missing: from.loses_missing,
            losses,
            range_bytes_max: RANGE_BYTES_MAX.min(memory / 24),
            outputs: Outputs { ranges, windows },
            window: walk::Window::default(),
        };
        let root = Root::try_from(&from.root)?;
        let fetching = Fetching {
            blobs: &blobs,
            budget: &budget,
            signal,
            memo: &memo,
            chunks: writer.chunks()?,
            counters: &writer.counters,
            loses_missing: from.loses_missing,
            turn: Mutex::default(),
        };
        let result = std::thread::scope(|threads| {
            let fetching = &fetching;
            for _ in 0..self.threads() {
                let (queue, working) = (task_queue.clone(), working.clone());
                threads.spawn(move || {
                    guard(signal, || fetching.work(&queue));
                    drain(&queue);
                    drop(working);
                });
            }
            for _ in 0..self.options.gets.max(1) {
                let (queue, tasks) = (range_queue.clone(), tasks.clone());
                threads.spawn(move || {
                    guard(signal, || fetching.fetch(&queue, &tasks));
                    drain(&queue);
                });
            }
            drop((task_queue, tasks, range_queue, working));
            threads.spawn(move || guard(signal, || walk.run(root)));
            finisher.run(window_queue).inspect_err(|error| fail(signal, error))
        });
        // The first failure is the cause, whoever noticed it first.
        signal.check()?;
        result
    }
}

/// Whether something of the snapshot that is copied cannot be had, now or ever: a file is then lost, and the
/// copy goes on. A key that does not open it is another matter, and so is an object that may have moved.
fn is_lost(error: &Error, loses_missing: bool) -> bool {
    match error.kind {
        ErrorKind::Damaged | ErrorKind::Unsupported => true,
        ErrorKind::NotFound => loses_missing || error.key.is_none(),
        _ => false,
    }
}

impl Earlier {
    fn new(pages: PageStore, root: &RootJson) -> Result<Self> {
        let pages = Arc::new(pages);
        let reader = TreeReader::new(Arc::clone(&pages), Root::try_from(root)?);
        Ok(Self { pages, cursor: reader.into_cursor() })
    }
}
