//! What a restore and a dump are asked to do, as the JSON of `docs/architecture.md` says it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};

use crate::backup::RootJson;
use crate::crypto::SourceId;
use crate::error::{Error, ErrorKind, Result};
use crate::index::IndexOptions;
use crate::tree::Root;

/// Memory when the options name none, in bytes.
const MEMORY_BYTES: u64 = 192 << 20;
/// Less than this is taken as this: one chunk of the largest size must fit several times.
const MEMORY_BYTES_MIN: u64 = 64 << 20;
/// Between two writes of the journal, in seconds, when the options do not say.
const JOURNAL_SECONDS: u64 = 30;
/// Ranged reads in flight when the options name none.
const GETS: usize = 32;
const GETS_MAX: usize = 256;
const THREADS_MAX: usize = 256;

/// What to do with a file that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overwrite {
    /// Compare its content, and fetch what differs.
    #[default]
    Always,
    /// Leave its content alone if size and modification time are those of the snapshot; else as `Always`.
    IfChanged,
    /// Leave it alone.
    Never,
}

/// What both verbs need: where the tree is, and how much may be used for it.
#[derive(Clone, Debug, Deserialize)]
pub struct ReadOptions {
    /// Source of the snapshot: 32 hex digits.
    #[serde(deserialize_with = "source_id")]
    pub source_id: SourceId,
    /// Root of its tree.
    #[serde(deserialize_with = "root")]
    pub root: Root,
    /// Runs that count, and packs that do not.
    pub index: IndexOptions,
    /// Bytes that the job may take.
    #[serde(default = "memory_bytes")]
    pub memory_bytes: u64,
    /// Worker threads; 0 for one per core.
    #[serde(default)]
    pub threads: usize,
    /// Ranged reads worth keeping in flight.
    #[serde(default = "gets")]
    pub gets: usize,
}

/// Options of the verb `restore`.
#[derive(Clone, Debug, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "as the document of the seam has them")]
pub struct RestoreOptions {
    /// Where from.
    #[serde(flatten)]
    pub read: ReadOptions,
    /// Path within the snapshot, `/` between names; empty for all of it.
    #[serde(default, rename = "subtree_b64", deserialize_with = "bytes")]
    pub subtree: Vec<u8>,
    /// The directory that becomes the image of the subtree; for a subtree that is a single file, the
    /// file or block device to write.
    #[serde(rename = "target_b64", deserialize_with = "bytes")]
    pub target: Vec<u8>,
    /// Patterns of what to restore; none for everything.
    #[serde(default)]
    pub includes: Vec<String>,
    /// Patterns of what to leave out. Wins over `includes`.
    #[serde(default)]
    pub excludes: Vec<String>,
    /// Remove what the snapshot does not have.
    #[serde(default)]
    pub delete: bool,
    /// What to do with existing files.
    #[serde(default)]
    pub overwrite: Overwrite,
    /// Change nothing; tell what would be changed, in `rows`.
    #[serde(default)]
    pub dry_run: bool,
    /// Read everything again afterwards and compare it with the snapshot.
    #[serde(default)]
    pub verify: bool,
    /// Keep a journal in the target, so that a second run of the same restore continues this one.
    #[serde(default)]
    pub journal: bool,
    /// At most so often, in seconds, since all that it tells has to be durable first.
    #[serde(default = "journal_seconds")]
    pub journal_seconds: u64,
}

/// Options of the verb `dump`.
#[derive(Clone, Debug, Deserialize)]
pub struct DumpOptions {
    /// Where from.
    #[serde(flatten)]
    pub read: ReadOptions,
    /// Path of the file within the snapshot; empty for a snapshot that is a single file.
    #[serde(default, rename = "path_b64", deserialize_with = "bytes")]
    pub path: Vec<u8>,
}

impl ReadOptions {
    /// Bytes that the job may take, within reason.
    pub(super) fn memory(&self) -> u64 {
        self.memory_bytes.max(MEMORY_BYTES_MIN)
    }

    /// Worker threads, at least one.
    pub(super) fn workers(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let count = if self.threads == 0 { cores() } else { self.threads };
        count.clamp(1, THREADS_MAX)
    }

    /// Ranged reads in flight, at least one.
    pub(super) fn fetchers(&self) -> usize {
        self.gets.clamp(1, GETS_MAX)
    }
}

/// The node key of a path: zero bytes between names, none at the ends.
pub(super) fn key_of_path(path: &[u8]) -> Result<Vec<u8>> {
    let usage = |what| Error::new(ErrorKind::Usage, what).at(crate::fs::display_path(path));
    let mut key = Vec::with_capacity(path.len());
    for name in path.split(|&byte| byte == b'/') {
        if name.is_empty() {
            continue;
        }
        crate::fs::check_name(name).map_err(|_| usage("not a path within a snapshot"))?;
        if !key.is_empty() {
            key.push(0);
        }
        key.extend_from_slice(name);
    }
    Ok(key)
}

fn memory_bytes() -> u64 {
    MEMORY_BYTES
}

fn gets() -> usize {
    GETS
}

fn journal_seconds() -> u64 {
    JOURNAL_SECONDS
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(from)?;
    STANDARD.decode(text).map_err(serde::de::Error::custom)
}

fn source_id<'de, D: Deserializer<'de>>(from: D) -> Result<SourceId, D::Error> {
    let text = String::deserialize(from)?;
    SourceId::parse(&text).map_err(serde::de::Error::custom)
}

fn root<'de, D: Deserializer<'de>>(from: D) -> Result<Root, D::Error> {
    let json = RootJson::deserialize(from)?;
    Root::try_from(&json).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_from_json_with_their_defaults() {
        let json = r#"{"scope":"00","source_id":"000102030405060708090a0b0c0d0e0f",
            "root":{"page":"11","level":0,"nodes":1,"bytes":0},"index":{},"target_b64":"L3Q="}"#;
        let json = json.replace("\"11\"", &format!("\"{}\"", "1f".repeat(32)));
        let options: RestoreOptions = serde_json::from_str(&json).unwrap();
        assert_eq!(options.target, b"/t");
        assert_eq!(options.overwrite, Overwrite::Always);
        assert_eq!(options.read.root.page, crate::format::Id([0x1f; 32]));
        assert!(!options.delete && !options.journal && options.includes.is_empty());
        let odd = json.replace("\"index\"", "\"overwrite\":\"if-changed\",\"index\"");
        let options: RestoreOptions = serde_json::from_str(&odd).unwrap();
        assert_eq!(options.overwrite, Overwrite::IfChanged);
        let short = json.replace("1f1f", "1f");
        assert!(serde_json::from_str::<RestoreOptions>(&short).is_err());
    }

    #[test]
    fn paths_become_keys() {
        assert_eq!(key_of_path(b"").unwrap(), b"");
        assert_eq!(key_of_path(b"/a//b/").unwrap(), b"a\0b");
        assert!(key_of_path(b"a/../b").is_err());
    }
}
