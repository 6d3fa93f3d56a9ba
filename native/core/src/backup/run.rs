//! One run of a backup, from options to result: sets up the stages and their threads.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};

use base64::Engine as _;
use crossbeam_channel::{Receiver, Sender, bounded};
use hashbrown::{HashMap, HashSet};
use serde::Serialize;

use super::adapt::{Gate, adjust};
use super::chunking::Chunking;
use super::chunks::{ChunkTask, Chunks};
use super::clones::{Evidence, Search};
use super::compare::{CompareRules, Comparison, Earlier};
use super::dispatch::{Dispatcher, Outputs, Setup, StatJob, scan};
use super::ending::{drain, fail, guard};
use super::finish::{Finished, Finisher, Pending, RootJson};
use super::items::{Group, Item, Large};
use super::memory::Shares;
use super::metadata::{Counts, ObjectHash};
use super::options::{BackupOptions, EarlierOptions, SourceKind};
use super::problems::Problems;
use super::progress::Stats;
use super::readers::Readers;
use super::recheck::{Checker, Sampler};
use super::repack::find_idle_chunks;
use super::slab::SlabPool;
use super::slot::Signal;
use super::stream::{NODES_QUEUED_MAX, Sequencer, StreamMap};
use super::writer::{Writer, Writing};
use crate::broker::lock;
use crate::budget::Budget;
use crate::crypto::config::ChunkerParams;
use crate::crypto::{BlobSealer, IdKey};
use crate::error::{Error, ErrorKind, Result};
use crate::format::ShortId;
use crate::fs::{Dir, Walk, WalkOptions};
use crate::globs::Globs;
use crate::pages::PageStore;
use crate::scope::Scope;
use crate::tree::{Root, TreeBuilder, TreeReader};

/// A backup: make one, then [`run`](Self::run) it on one thread while others watch and command it.
pub struct Backup {
    pub(super) writer: Writer,
    pub(super) options: BackupOptions,
    pub(super) chunking: Chunking,
    pub(super) shares: Shares,
    /// A file was found changed that seemed unchanged.
    pub(super) is_doubted: AtomicBool,
    clone: OnceLock<Evidence>,
    /// The pages of earlier trees: the same ones are looked at for several reasons.
    earlier_pages: Mutex<Option<Arc<PageStore>>>,
}

/// The queues that the source fills.
struct Queues {
    tasks: Sender<ChunkTask>,
    nodes: Sender<Pending>,
    /// Also the other end: the readers are the source's.
    large: (Sender<Large>, Receiver<Large>),
}

/// What a finished backup tells.
#[derive(Debug, Serialize)]
pub struct BackupResult {
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
    /// Why the source was taken for a clone of what the parent saw, if it was.
    pub clone: Option<Evidence>,
}

impl Backup {
    /// Prepares a run. Reads the index.
    pub fn new(scope: Scope, options: BackupOptions, chunker: &ChunkerParams) -> Result<Self> {
        let chunking = Chunking::new(&scope, chunker)?;
        let longest =
            chunking.argmin.longest_chunk_bytes().max(chunking.fixed.longest_chunk_bytes());
        let shares = Shares::of(options.memory_bytes, longest, options.pack_bytes);
        let writing = Writing {
            source_id: &options.source_id,
            snapshot: &options.snapshot,
            generation: options.generation,
            index: &options.index,
            level: options.level,
            is_dry: options.dry_run,
        };
        let writer = Writer::new(scope, &writing, &shares)?;
        let is_doubted = AtomicBool::new(false);
        let (earlier_pages, clone) = (Mutex::default(), OnceLock::new());
        Ok(Self { writer, options, chunking, shares, is_doubted, clone, earlier_pages })
    }

    /// The writing half.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Runs to the end. The broker must be served meanwhile.
    pub fn run(&self) -> Result<BackupResult> {
        let signal = Signal::new(Arc::clone(&self.writer.scope.broker));
        self.writer.control.attach(&signal);
        let finished = self.stages(&signal)?;
        Ok(BackupResult {
            root: finished.root,
            refs: finished.refs,
            runs: finished.runs,
            counts: self.writer.refs.counts(),
            stats: self.writer.counters.stats(),
            clone: self.clone.get().copied(),
        })
    }

    fn threads(&self) -> usize {
        match self.options.threads {
            0 => std::thread::available_parallelism().map_or(2, usize::from),
            threads => threads,
        }
    }

    pub(super) fn earlier(&self, options: &EarlierOptions) -> Result<Earlier> {
        let (pages, reader) = self.reader(options)?;
        let started_ns = i128::from(options.started_ns);
        Ok(Earlier { pages, cursor: reader.into_cursor(), started_ns })
    }

    /// What there is to compare with: an interrupted run first, then the parent.
    pub(super) fn comparison<'a>(&'a self, problems: &'a Problems) -> Result<Comparison<'a>> {
        let rules = CompareRules {
            ignore_ctime: self.options.ignore_ctime,
            ignore_inode: self.options.ignore_inode,
            force: self.options.force,
        };
        let earlier = self.options.resume.iter().chain(&self.options.parent);
        let earlier: Result<_> = earlier.map(|options| self.earlier(options)).collect();
        let total = self.options.parent.as_ref().map_or(0, |parent| parent.root.bytes);
        let sampler = Sampler::new(self.options.recheck.as_ref(), total);
        let drawing = (sampler, &self.is_doubted);
        Ok(Comparison::new(
            &self.writer.known,
            &self.writer.refs,
            rules,
            earlier?,
            problems,
            drawing,
        ))
    }

    pub(super) fn ids(&self) -> Result<IdKey> {
        self.writer.scope.keys.id_key()
    }

    fn reader(
        &self,
        tree: &EarlierOptions,
    ) -> Result<(Arc<PageStore>, TreeReader<Arc<PageStore>>)> {
        let index = self.writer.known.index();
        let mut kept = lock(&self.earlier_pages);
        let known = kept.take().filter(|pages| Arc::ptr_eq(pages.index(), &index));
        let pages = known.map_or_else(
            || {
                let (scope, source) = (self.writer.scope.clone(), &self.writer.source);
                PageStore::walked(scope, index, source, self.shares.pages).map(Arc::new)
            },
            Ok,
        )?;
        *kept = Some(Arc::clone(&pages));
        drop(kept);
        let reader = TreeReader::new(Arc::clone(&pages), Root::try_from(&tree.root)?);
        Ok((pages, reader))
    }

    /// The chunks whose files are to be stored again.
    fn find_idle_chunks(&self, signal: &Signal) -> Result<HashSet<ShortId>> {
        match self.options.parent.as_ref().filter(|_| self.options.repack && !self.options.force) {
            Some(parent) => {
                find_idle_chunks(&self.reader(parent)?.1, &self.writer.known.index(), signal)
            }
            None => Ok(HashSet::new()),
        }
    }

    /// Looks whether the directory is a clone of what the parent saw.
    fn find_clone(&self, root: &Dir, signal: &Signal) -> Result<Option<Evidence>> {
        let options = &self.options;
        let is_asked = options.detect_clones && !options.force;
        let Some(parent) = options.parent.as_ref().filter(|_| is_asked) else { return Ok(None) };
        let (pages, reader) = self.reader(parent)?;
        let ids = self.ids()?;
        let checker = Checker { ids: &ids, counters: &self.writer.counters, signal };
        Search { reader: &reader.read_ahead(1), pages: &pages, root, checker }.run()
    }

    /// Where the pages of an interrupted run are.
    pub(super) fn resumed(&self, comparison: &Comparison<'_>) -> Option<Arc<PageStore>> {
        self.options.resume.as_ref()?;
        comparison.earlier.first().map(|earlier| Arc::clone(&earlier.pages))
    }

    pub(super) fn path(&self) -> Result<PathBuf> {
        let usage = || Error::new(ErrorKind::Usage, "a source without a path");
        let encoded = self.options.path_b64.as_ref().ok_or_else(usage)?;
        let bytes =
            base64::engine::general_purpose::STANDARD.decode(encoded).map_err(|_| usage())?;
        Ok(PathBuf::from(OsStr::from_bytes(&bytes)))
    }

    fn stages(&self, signal: &Arc<Signal>) -> Result<Finished> {
        let problems =
            Problems::new(Arc::clone(&self.writer.scope.broker), Arc::clone(&self.writer.counters));
        for error in self.writer.known.index().damaged() {
            problems.report(error)?;
        }
        let map = StreamMap::new(signal);
        let (tasks, task_queue) = bounded::<ChunkTask>(64);
        let (nodes, node_queue) = bounded::<Pending>(NODES_QUEUED_MAX);
        let (large, large_queue) = bounded::<Large>(64);
        // Closes when the last worker has ended.
        let (working, workers) = bounded::<()>(0);
        let chunks = self.writer.chunks()?;
        let finisher = Finisher {
            writer: &self.writer,
            signal,
            map: &map,
            pages: self.writer.pages()?,
            checkpoint_pages: self.writer.checkpoint_pages()?,
            problems: &problems,
            builder: Some(TreeBuilder::new(self.writer.page_key()?)),
            links: HashMap::new(),
            again: Some(large.clone()),
            workers,
        };
        let result = std::thread::scope(|threads| {
            for _ in 0..self.threads() {
                let (queue, chunks, working) = (task_queue.clone(), &chunks, working.clone());
                threads.spawn(move || {
                    guard(signal, || work(&queue, chunks));
                    drain(&queue);
                    drop(working);
                });
            }
            drop((task_queue, working));
            let queues = Queues { tasks, nodes, large: (large, large_queue) };
            let source = || self.source_stage(signal, queues, &map, &problems);
            threads.spawn(move || guard(signal, source));
            finisher.run(node_queue).inspect_err(|error| fail(signal, error))
        });
        // The first failure is the cause, whoever noticed it first.
        signal.check()?;
        result
    }

    /// Everything from the source to nodes in order. Takes the queues' ends: their closing tells the
    /// stages behind that nothing more comes.
    fn source_stage(
        &self,
        signal: &Arc<Signal>,
        queues: Queues,
        map: &Arc<StreamMap>,
        problems: &Problems,
    ) -> Result<()> {
        match self.options.kind {
            SourceKind::Directory => self.directory(signal, queues, map, problems),
            SourceKind::File | SourceKind::Stream => {
                self.single(signal, &queues.tasks, &queues.nodes, problems)
            }
        }
    }

    fn directory(
        &self,
        signal: &Arc<Signal>,
        queues: Queues,
        map: &Arc<StreamMap>,
        problems: &Problems,
    ) -> Result<()> {
        let Queues { tasks, nodes, large: (large, large_queue) } = queues;
        let root = Dir::open_root(&self.path()?, 128)?;
        let root_dev = root.stat().dev;
        let clone = self.find_clone(&root, signal)?;
        let globs = Globs::new(&self.options.excludes)?;
        let walk = Walk::below(
            root,
            WalkOptions {
                one_file_system: self.options.one_file_system,
                exclude: (!globs.is_empty()).then(|| Arc::new(globs) as _),
                ..WalkOptions::default()
            },
        );
        let mut comparison = self.comparison(problems)?;
        comparison.idle = self.find_idle_chunks(signal)?;
        if let Some(clone) = clone {
            comparison.trust_clone(clone)?;
            let _ = self.clone.set(clone);
        }
        let resumed = self.resumed(&comparison);
        let small_budget = Budget::new(self.shares.small);
        let stream_budget = Budget::new(self.shares.stream);
        let slabs = SlabPool::new(self.shares.slab, self.shares.slabs);
        let ids = self.writer.scope.keys.id_key()?;
        let (stats, stat_queue) = bounded::<StatJob>(8);
        let (scanned, scanned_queue) = bounded(8);
        let (groups, group_queue) = bounded::<Group>(64);
        let (items, item_queue) = bounded::<Item>(1024);
        let setup = Setup {
            signal,
            small_bytes: self.chunking.small_bytes,
            budget: &small_budget,
            root_dev,
        };
        let dispatcher = Dispatcher::new(setup, Outputs { groups, large, items }, comparison);
        let sequencer = Sequencer {
            signal,
            chunker: &self.chunking.argmin,
            budget: &stream_budget,
            tasks: tasks.clone(),
            nodes,
            map: Arc::clone(map),
            problems,
            digests_max: self.shares.digests,
        };
        let readers = Readers {
            backup: self,
            signal,
            tasks: &tasks,
            slabs: &slabs,
            ids: &ids,
            root_dev,
            resumed,
        };
        let (small_gate, large_gate) = self.gates();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(move || guard(signal, || scan(walk, signal, &stats, &scanned)));
            for _ in 0..small_gate.most() {
                let (stats, groups) = (stat_queue.clone(), group_queue.clone());
                let (readers, gate) = (&readers, &small_gate);
                threads.spawn(move || {
                    guard(signal, || {
                        stats.iter().for_each(StatJob::run);
                        Ok(())
                    });
                });
                threads.spawn(move || {
                    guard(signal, || {
                        readers.groups(&groups, gate);
                        Ok(())
                    });
                });
            }
            drop((stat_queue, group_queue));
            for _ in 0..large_gate.most() {
                let (queue, readers, gate) = (large_queue.clone(), &readers, &large_gate);
                threads.spawn(move || guard(signal, || readers.large(&queue, gate)));
            }
            drop(large_queue);
            threads.spawn(move || guard(signal, || dispatcher.run(&scanned_queue)));
            let adjusters = [&small_gate, &large_gate].map(|gate| {
                let (tasks, counters, is_over) = (&tasks, &self.writer.counters, &is_over);
                let is_idle = move || tasks.len() * 2 < tasks.capacity().unwrap_or(1);
                threads.spawn(move || adjust(gate, is_over, || counters.work(), is_idle))
            });
            let result = sequencer.run(&item_queue).inspect_err(|error| fail(signal, error));
            drain(&item_queue);
            is_over.store(true, SeqCst);
            for thread in &adjusters {
                thread.thread().unpark();
            }
            result
        })
    }

    /// Who may read small files and large ones: few at first, more where that helps, unless the caller
    /// has said how many.
    fn gates(&self) -> (Gate, Gate) {
        let threads = self.threads();
        // Each reader of large files keeps the end of its last buffer while it waits for the next one:
        // with no buffer more than readers all would wait for each other.
        let large_most = self.shares.slabs.saturating_sub(1).max(1);
        match self.options.readers {
            0 => {
                let large = Gate::new((threads / 2).clamp(1, 4).min(large_most), large_most.min(8));
                (Gate::new(threads.clamp(2, 8), 16), large)
            }
            readers => {
                let large = readers.min(large_most);
                (Gate::new(readers, readers), Gate::new(large, large))
            }
        }
    }
}

fn work(queue: &Receiver<ChunkTask>, chunks: &Chunks) -> Result<()> {
    let mut sealer = BlobSealer::new()?;
    for task in queue {
        let id = chunks.process(&mut sealer, task.bytes())?;
        task.slot.set(id);
    }
    Ok(())
}
