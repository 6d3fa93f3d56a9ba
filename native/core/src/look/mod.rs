//! The verbs that look and change nothing: what is in a snapshot ([`list`], [`find`]), what differs
//! between two ([`diff`]), what they take up ([`stats`]), whether it is all there ([`check`]), whatever
//! somebody asks for while the job stays open ([`browse`]); and what this machine could do at best
//! ([`limits`]).
//!
//! Answers leave in rows, which are lines of JSON handed over in batches; each verb returns its
//! totals. Rows are in a definite order, and come while the verb still reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::backup::RootJson;
use crate::broker::Broker;
use crate::crypto::SourceId;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::display_path;
use crate::index::{Index, IndexOptions};
use crate::pages::PageStore;
use crate::scope::Scope;
use crate::tree::key::{SEPARATOR, check_key};
use crate::tree::{Body, Kind, Node, Root, Time, TreeReader};

pub mod browse;
pub mod check;
pub mod diff;
pub mod find;
pub mod limits;
pub mod list;
mod passing;
pub mod stats;

/// A batch of rows has at most this many bytes, unless a single row is longer.
const BATCH_BYTES_MAX: usize = 64 << 10;
/// And at most this many rows.
const BATCH_ROWS_MAX: usize = 256;
/// Memory for who names none, in bytes.
const MEMORY_BYTES_DEFAULT: u64 = 256 << 20;
/// Ranged reads in flight for who names none.
const GETS_DEFAULT: usize = 16;

const NANOSECONDS: i128 = 1_000_000_000;

/// What every verb is given.
#[derive(Clone, Debug, Deserialize)]
pub struct LookOptions {
    /// Bytes of memory that the job may use. Half of it holds index runs.
    #[serde(default = "default_memory")]
    pub memory_bytes: u64,
    /// Threads that compute; 0 for one a core.
    #[serde(default)]
    pub threads: usize,
    /// Ranged reads worth keeping in flight.
    #[serde(default = "default_gets")]
    pub gets: usize,
    /// The valid runs. Packs that prune has condemned can still be read, so they count here.
    #[serde(default)]
    pub index: IndexOptions,
}

const fn default_memory() -> u64 {
    MEMORY_BYTES_DEFAULT
}

const fn default_gets() -> usize {
    GETS_DEFAULT
}

/// One tree.
#[derive(Clone, Debug, Deserialize)]
pub struct TreeOptions {
    /// Source id in hex: pages are sealed by source.
    pub source_id: String,
    /// Root of the tree.
    pub root: RootJson,
}

impl LookOptions {
    fn index_memory(&self) -> u64 {
        self.memory_bytes / 2
    }

    /// The runs as a reader sees them.
    fn readable(&self) -> IndexOptions {
        IndexOptions { condemned: Vec::new(), ..self.index.clone() }
    }

    fn load_index(&self, scope: &Scope) -> Result<Arc<Index>> {
        Index::load(scope, &self.readable(), self.index_memory()).map(Arc::new)
    }

    fn thread_count(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(2, usize::from),
            threads => threads.min(256),
        }
    }
}

impl TreeOptions {
    fn pages(&self, scope: &Scope, index: &Arc<Index>) -> Result<PageStore> {
        PageStore::new(scope.clone(), Arc::clone(index), &SourceId::parse(&self.source_id)?)
    }

    fn root(&self) -> Result<Root> {
        Root::try_from(&self.root)
    }

    fn reader(&self, scope: &Scope, index: &Arc<Index>) -> Result<TreeReader<PageStore>> {
        Ok(TreeReader::new(self.pages(scope, index)?, self.root()?))
    }
}

/// The path of a key: components joined by slashes.
fn path_of(key: &[u8]) -> Vec<u8> {
    key.iter().map(|byte| if *byte == SEPARATOR { b'/' } else { *byte }).collect()
}

/// The key of a path given by a person: slashes at the ends and doubled ones do not matter. `Usage`
/// for what cannot be the path of a node.
fn key_of_path(path_b64: &str) -> Result<Vec<u8>> {
    let usage = |what: &'static str| Error::new(ErrorKind::Usage, what);
    let path = BASE64.decode(path_b64).map_err(|_| usage("a path that is not base64"))?;
    let names: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
    if names.iter().any(|name| name.contains(&SEPARATOR)) {
        return Err(usage("a path with a zero byte in it"));
    }
    let key = names.join(&SEPARATOR);
    check_key(&key).map_err(|what| usage(what).at(display_path(&path)))?;
    Ok(key)
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice => "chardev",
        Kind::BlockDevice => "blockdev",
    }
}

const KINDS: [Kind; 7] = [
    Kind::File,
    Kind::Directory,
    Kind::Symlink,
    Kind::Fifo,
    Kind::Socket,
    Kind::CharDevice,
    Kind::BlockDevice,
];

fn nanoseconds(time: Time) -> i128 {
    i128::from(time.seconds) * NANOSECONDS + i128::from(time.nanoseconds)
}

/// A node as rows show it.
#[derive(Debug, Serialize)]
struct NodeRow<'a> {
    path_b64: String,
    kind: &'static str,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime_ns: i128,
    ctime_ns: i128,
    ino: u64,
    /// Rows with the same number are names of one inode.
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_b64: Option<String>,
    /// Major and minor number.
    #[serde(skip_serializing_if = "Option::is_none")]
    rdev: Option<[u32; 2]>,
    /// Names that are not UTF-8 are shown with `\xNN`; values are base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    xattrs: Option<BTreeMap<String, String>>,
    flags: u32,
    unstable: bool,
    unreadable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<&'a str>,
}

impl<'a> NodeRow<'a> {
    fn new(node: &Node, with_xattrs: bool) -> Self {
        let xattrs = with_xattrs.then(|| {
            let pairs = node.xattrs.as_slice().iter();
            pairs.map(|(name, value)| (display_path(name), BASE64.encode(value))).collect()
        });
        let target = if let Body::Symlink(target) = &node.body { Some(target) } else { None };
        Self {
            path_b64: BASE64.encode(path_of(&node.key)),
            kind: kind_name(node.kind()),
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            size: node.size(),
            mtime_ns: nanoseconds(node.mtime),
            ctime_ns: nanoseconds(node.ctime),
            ino: node.ino,
            links: node.link_group,
            target_b64: target.map(|target| BASE64.encode(target)),
            rdev: match node.body {
                Body::CharDevice(major, minor) | Body::BlockDevice(major, minor) => {
                    Some([major, minor])
                }
                _ => None,
            },
            xattrs,
            flags: node.flags,
            unstable: node.unstable,
            unreadable: node.unreadable,
            snapshot: None,
        }
    }

    fn of_snapshot(mut self, snapshot: Option<&'a str>) -> Self {
        self.snapshot = snapshot;
        self
    }
}

/// Collects rows and hands them over in batches. What was not [finished](Self::finish) is not
/// handed over.
struct Rows {
    broker: Arc<Broker>,
    batch: Vec<u8>,
    row: Vec<u8>,
    count: usize,
}

impl Rows {
    fn new(scope: &Scope) -> Self {
        let (batch, row) = (Vec::with_capacity(BATCH_BYTES_MAX), Vec::new());
        Self { broker: Arc::clone(&scope.broker), batch, row, count: 0 }
    }

    fn push<T: Serialize>(&mut self, row: &T) -> Result<()> {
        self.row.clear();
        serde_json::to_writer(&mut self.row, row)
            .map_err(|error| Error::internal(format!("a row that is no JSON: {error}")))?;
        self.row.push(b'\n');
        if self.count >= BATCH_ROWS_MAX || self.batch.len() + self.row.len() > BATCH_BYTES_MAX {
            self.flush()?;
        }
        self.batch.append(&mut self.row);
        self.count += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.count = 0;
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH_BYTES_MAX));
        self.broker.output("rows", batch)
    }

    /// Hands over the rest.
    fn finish(mut self) -> Result<()> {
        self.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> Result<Vec<u8>> {
        key_of_path(&BASE64.encode(path))
    }

    #[test]
    fn paths_become_keys_and_back() {
        assert_eq!(key("").unwrap(), b"");
        assert_eq!(key("/").unwrap(), b"");
        assert_eq!(key("//a//b c/").unwrap(), b"a\0b c");
        assert_eq!(path_of(&key("a/b/\u{fc}").unwrap()), "a/b/\u{fc}".as_bytes());
        for bad in ["a/../b", "./a", "a\0b", &"x".repeat(256)] {
            assert_eq!(key(bad).unwrap_err().kind, ErrorKind::Usage, "{bad}");
        }
        assert_eq!(key_of_path("?").unwrap_err().kind, ErrorKind::Usage);
    }

    #[test]
    fn times_before_1970_are_negative() {
        let time = Time { seconds: -1, nanoseconds: 999_999_999 };
        assert_eq!(nanoseconds(time), -1);
    }
}
