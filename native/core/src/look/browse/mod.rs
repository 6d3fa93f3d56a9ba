//! Looking into snapshots for as long as somebody wants to: a job that is asked for entries, and for ranges
//! of files, from as many threads as like. It ends when it is cancelled.
//!
//! The index is loaded when the caller says so ([`Browse::command`] `refresh`), not by itself: an error of
//! kind `NotFound` or `Damaged` may mean that something is in no pack that this view of the index knows, or that its pack is
//! gone, as after a prune; the caller looks whether the index has changed, and asks again.
//!
//! Every page and chunk was checked against its id before a byte of it is answered. What is kept in memory
//! is bounded: a quarter of `memory_bytes` for the index, a quarter for chunks, an eighth for pages, and a sixteenth
//! for what is read ahead, which takes as much again while it is opened.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hashbrown::HashMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{LookOptions, TreeOptions, key_of_path};
use crate::broker::lock;
use crate::crypto::SourceId;
use crate::error::{Error, ErrorKind, Result};
use crate::index::IndexOptions;
use crate::scope::Scope;
use crate::tree::{Body, Node, TreeReader};
use cache::Cache;
use chunks::Chunks;
use entries::Row;
use file::OpenFile;
use links::Links;
use view::{CachedPages, PageCache, View};

mod cache;
mod chunks;
mod entries;
mod file;
mod links;
mod view;

/// The longest range that one read gives, in bytes.
pub const READ_BYTES_MAX: u64 = 16 << 20;
/// The most entries in one answer.
const ROWS_MAX: usize = 4096;
/// A reader is at most this far ahead.
const AHEAD_BYTES_MAX: u64 = 16 << 20;
/// Threads that read ahead.
const THREADS_MAX: usize = 8;

/// A job that answers questions about snapshots.
pub struct Browse {
    scope: Scope,
    options: LookOptions,
    view: Mutex<Arc<View>>,
    pages: Arc<PageCache>,
    chunks: Chunks,
    links: Links,
    files: Mutex<HashMap<u64, Arc<OpenFile>>>,
    next_file: AtomicU64,
}

/// What `browse` ends with.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct BrowseResult {
    /// Files that were opened.
    pub opened: u64,
}

#[derive(Deserialize)]
struct Refresh {
    index: IndexOptions,
}

/// What a question is about.
#[derive(Deserialize)]
struct Asked {
    snapshot: String,
    #[serde(flatten)]
    tree: TreeOptions,
    #[serde(default)]
    path_b64: String,
    #[serde(default)]
    is_final: bool,
    after_b64: Option<String>,
    #[serde(default)]
    count: usize,
}

#[derive(Deserialize)]
struct Close {
    file: u64,
}

#[derive(Deserialize)]
struct Seek {
    file: u64,
    offset: u64,
    is_hole: bool,
}

#[derive(Serialize)]
struct Sought {
    offset: Option<u64>,
}

#[derive(Serialize)]
struct Refreshed {
    /// What was wrong with parts of the index that are left out.
    damaged: Vec<String>,
}

#[derive(Serialize)]
struct Found {
    node: Option<Row>,
}

#[derive(Serialize)]
struct Listed {
    nodes: Vec<Row>,
    is_end: bool,
    lost: Option<Lost>,
}

#[derive(Serialize)]
struct Lost {
    message: String,
}

#[derive(Serialize)]
struct Opened {
    file: u64,
    size: u64,
}

#[derive(Serialize)]
struct Closed {}

impl Browse {
    /// A job that knows nothing of the index yet.
    pub fn new(scope: Scope, options: LookOptions) -> Self {
        let memory = options.memory_bytes;
        Self {
            view: Mutex::new(Arc::new(View::empty(&scope))),
            pages: Arc::new(Cache::new(memory / 8)),
            chunks: Chunks::new(memory / 4, memory / 16),
            links: Links::default(),
            files: Mutex::default(),
            next_file: AtomicU64::new(0),
            scope,
            options,
        }
    }

    /// Stays until the job is cancelled.
    pub fn run(&self) -> BrowseResult {
        std::thread::scope(|threads| {
            for _ in 0..self.options.gets.clamp(1, THREADS_MAX) {
                threads.spawn(|| self.chunks.serve());
            }
            self.scope.broker.wait_cancelled();
            self.chunks.close();
        });
        BrowseResult { opened: self.next_file.load(Ordering::Relaxed) }
    }

    /// Answers a question; in the caller's thread, several at a time.
    pub fn command(&self, name: &str, options: &str) -> Result<String> {
        match name {
            "refresh" => to_json(&self.refresh(&parse(options)?)?),
            "stat" => to_json(&self.stat(&parse(options)?)?),
            "list" => to_json(&self.list(&parse(options)?)?),
            "open" => to_json(&self.open(&parse(options)?)?),
            "seek" => to_json(&self.seek(&parse(options)?)?),
            "close" => {
                let Close { file } = parse(options)?;
                drop(lock(&self.files).remove(&file));
                to_json(&Closed {})
            }
            _ => Err(Error::new(ErrorKind::Usage, format!("no command `{name}` for this job"))),
        }
    }

    /// Up to `length` bytes of an open file from `offset` on; fewer only at its end. `Damaged` or `NotFound` if any
    /// of them cannot be had.
    pub fn read(&self, file: u64, offset: u64, length: u64) -> Result<Vec<u8>> {
        let open = self.file(file)?;
        let end = offset.saturating_add(length.min(READ_BYTES_MAX)).min(open.size);
        if offset >= end {
            return Ok(Vec::new());
        }
        let view = self.view();
        let pages = CachedPages::new(view.pages(&open.source)?, &self.pages);
        let ahead_max = AHEAD_BYTES_MAX.min(self.options.memory_bytes / 16);
        open.read(&view, &pages, &self.chunks, (offset..end, ahead_max))
    }

    fn file(&self, number: u64) -> Result<Arc<OpenFile>> {
        let open = lock(&self.files).get(&number).cloned();
        open.ok_or_else(|| Error::new(ErrorKind::Usage, "no such open file"))
    }

    fn seek(&self, &Seek { file, offset, is_hole }: &Seek) -> Result<Sought> {
        let open = self.file(file)?;
        if offset >= open.size {
            return Ok(Sought { offset: None });
        }
        let pages = CachedPages::new(self.view().pages(&open.source)?, &self.pages);
        Ok(Sought { offset: open.seek(&pages, offset, is_hole)? })
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&lock(&self.view))
    }

    /// Loads the index as it is now. Those who are reading go on with what they have.
    fn refresh(&self, Refresh { index }: &Refresh) -> Result<Refreshed> {
        let readable = IndexOptions { condemned: Vec::new(), ..index.clone() };
        let view = View::load(&self.scope, &readable, self.options.memory_bytes / 4)?;
        let damaged = view.damaged();
        *lock(&self.view) = Arc::new(view);
        Ok(Refreshed { damaged })
    }

    fn reader(&self, asked: &Asked, view: &View) -> Result<TreeReader<CachedPages>> {
        let store = view.pages(&SourceId::parse(&asked.tree.source_id)?)?;
        Ok(TreeReader::new(CachedPages::new(store, &self.pages), asked.tree.root()?))
    }

    /// The node at a path, if there is one.
    fn stat(&self, asked: &Asked) -> Result<Found> {
        let view = self.view();
        let reader = self.reader(asked, &view)?;
        let key = key_of_path(&asked.path_b64)?;
        let node = entries::find(&reader, &key, asked.is_final)?;
        let row = node.map(|node| Ok(self.row(asked, &view, &node)?.with_xattrs(&node)));
        Ok(Found { node: row.transpose()? })
    }

    fn list(&self, asked: &Asked) -> Result<Listed> {
        let view = self.view();
        let reader = self.reader(asked, &view)?;
        let key = key_of_path(&asked.path_b64)?;
        let after = asked.after_b64.as_ref().map(|name| BASE64.decode(name)).transpose();
        let after = after.map_err(|_| Error::new(ErrorKind::Usage, "a name that is not base64"))?;
        let mut rows = Vec::new();
        let span = (after.as_deref(), asked.count.clamp(1, ROWS_MAX));
        let part = entries::list(&reader, &key, span, |node| {
            rows.push(self.row(asked, &view, node)?);
            Ok(())
        })?;
        let lost = part.lost.map(|error| Lost { message: error.to_string() });
        Ok(Listed { nodes: rows, is_end: part.is_end, lost })
    }

    fn row(&self, asked: &Asked, view: &View, node: &Node) -> Result<Row> {
        let snapshot = u128::from_str_radix(&asked.snapshot, 16)
            .map_err(|_| Error::new(ErrorKind::Usage, "not the id of a snapshot"))?;
        let links = match node.link_group {
            None => 1,
            Some(group) => {
                // Not through the cache: a tree that is read whole would push out all else.
                let store = view.pages(&SourceId::parse(&asked.tree.source_id)?)?;
                self.links.count(&TreeReader::new(store, asked.tree.root()?), group)?
            }
        };
        Ok(Row::new(node, &snapshot.to_be_bytes(), links))
    }

    fn open(&self, asked: &Asked) -> Result<Opened> {
        let view = self.view();
        let reader = self.reader(asked, &view)?;
        let key = key_of_path(&asked.path_b64)?;
        let usage = |what: &'static str| Error::new(ErrorKind::Usage, what);
        let node = reader.find(&key)?.ok_or_else(|| usage("there is no such file"))?;
        let Body::File { size, content } = node.body else {
            return Err(usage("not a regular file"));
        };
        let source = SourceId::parse(&asked.tree.source_id)?;
        let file = self.next_file.fetch_add(1, Ordering::Relaxed);
        lock(&self.files).insert(file, Arc::new(OpenFile::new(source, size, content)));
        Ok(Opened { file, size })
    }
}

fn parse<T: DeserializeOwned>(options: &str) -> Result<T> {
    serde_json::from_str(options)
        .map_err(|error| Error::new(ErrorKind::Usage, format!("bad options: {error}")))
}

fn to_json<T: Serialize>(answer: &T) -> Result<String> {
    serde_json::to_string(answer).map_err(|error| Error::internal(error.to_string()))
}
