//! A repository in memory, and whoever answers the requests of a job: what integration tests of the
//! data path share. No network, no Python, no state outside the process but for source directories.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by it, and helpers of tests are not seen as such"
)]
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use pvback_core::backup::{Backup, BackupOptions, BackupResult};
use pvback_core::broker::{Broker, Request, Work};
use pvback_core::crypto::config::ChunkerParams;
use pvback_core::crypto::{InitOptions, Keyring, ScopeId, ScopeKeys};
use pvback_core::scope::Scope;
use pvback_core::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Objects by key.
#[derive(Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    /// So many puts still succeed.
    puts_left: Mutex<Option<usize>>,
    /// Called with the key of each object before it is stored.
    pub on_put: Mutex<Option<OnPut>>,
}

/// See [`MemoryStore::on_put`].
pub type OnPut = Box<dyn FnMut(&str) + Send>;

/// What a job put out, in order: kind and bytes.
pub type Outputs = Vec<(&'static str, Vec<u8>)>;

impl MemoryStore {
    /// The keys with this prefix, in order, and the sizes of their objects.
    pub fn list(&self, prefix: &str) -> Vec<(String, u64)> {
        let objects = self.objects.lock().unwrap();
        let found = objects.iter().filter(|(key, _)| key.starts_with(prefix));
        found.map(|(key, bytes)| (key.clone(), bytes.len() as u64)).collect()
    }

    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.objects.lock().unwrap().get(key).cloned()
    }

    /// Puts an object in place of another: tests damage what was stored.
    pub fn replace(&self, key: &str, bytes: Vec<u8>) {
        self.objects.lock().unwrap().insert(key.to_owned(), bytes);
    }

    pub fn remove(&self, key: &str) {
        self.objects.lock().unwrap().remove(key).unwrap();
    }

    fn read(&self, key: &str, offset: u64, length: Option<u64>) -> Result<Vec<u8>> {
        let missing = || Error::new(ErrorKind::NotFound, "no such object");
        let bytes = self.get(key).ok_or_else(missing)?;
        // A store gives what there is; whoever asked compares lengths.
        let start = usize::try_from(offset).unwrap().min(bytes.len());
        let rest = &bytes[start..];
        let length = length.map_or(rest.len(), |length| usize::try_from(length).unwrap());
        Ok(rest[..length.min(rest.len())].to_vec())
    }

    /// Makes all puts fail after so many.
    pub fn fail_after(&self, puts: Option<usize>) {
        *self.puts_left.lock().unwrap() = puts;
    }

    pub fn clear(&self) {
        self.objects.lock().unwrap().clear();
    }

    fn create(&self, key: &str, bytes: Vec<u8>) -> Result<()> {
        if let Some(on_put) = &mut *self.on_put.lock().unwrap() {
            on_put(key);
        }
        if let Some(left) = &mut *self.puts_left.lock().unwrap() {
            *left = left
                .checked_sub(1)
                .ok_or_else(|| Error::new(ErrorKind::Storage, "the store has failed"))?;
        }
        match self.objects.lock().unwrap().insert(key.to_owned(), bytes) {
            None => Ok(()),
            Some(_) => Err(Error::new(ErrorKind::Storage, "the object exists")),
        }
    }

    fn answer(&self, mut request: Request, outputs: &Mutex<Outputs>) {
        let result = match &mut request.work {
            Work::Get { key, offset, length } => self.read(key, *offset, *length),
            Work::Put { key, data } => self.create(key, std::mem::take(data)).map(|()| Vec::new()),
            Work::Output { kind, data } => {
                outputs.lock().unwrap().push((kind, std::mem::take(data)));
                Ok(Vec::new())
            }
        };
        match result {
            Ok(bytes) => request.complete(bytes),
            Err(error) => request.fail(error),
        }
    }

    /// Runs a job whose requests four threads answer from this store.
    pub fn serve<T: Send>(&self, job: impl FnOnce(&Arc<Broker>) -> T) -> (T, Outputs) {
        let broker = Broker::new(4);
        let outputs = Mutex::new(Outputs::new());
        let result = std::thread::scope(|threads| {
            // Also when the job panics, or the test would hang instead of failing.
            let _closed = CloseAtEnd(Arc::clone(&broker));
            for _ in 0..4 {
                threads.spawn(|| {
                    while let Some(request) = broker.next_request() {
                        self.answer(request, &outputs);
                    }
                });
            }
            job(&broker)
        });
        (result, outputs.into_inner().unwrap())
    }
}

struct CloseAtEnd(Arc<Broker>);

impl Drop for CloseAtEnd {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A repository with one scope, opened by its owner.
pub struct Repository {
    pub store: MemoryStore,
    pub owner: Keyring,
    pub scope: ScopeId,
    pub keys: Arc<ScopeKeys>,
    pub chunker: ChunkerParams,
    pub snapshots: Vec<Snapshot>,
    /// Names of packs that do not count.
    pub dead: Vec<String>,
    runs: Vec<String>,
    /// Data and metadata packs that were there before the last backup.
    before: Vec<String>,
    /// Every backup is a snapshot of its own, also one that breaks off.
    runs_begun: AtomicUsize,
}

/// A backup that was made.
#[derive(Clone)]
pub struct Snapshot {
    pub id: String,
    pub source_id: String,
    pub started_ns: i64,
    pub result: Value,
    pub problems: Vec<Value>,
}

impl Snapshot {
    /// As the options of verbs name a snapshot.
    pub fn to_json(&self) -> Value {
        json!({
            "snapshot": self.id,
            "source_id": self.source_id,
            "root": self.result["root"],
            "refs": self.result["refs"],
        })
    }

    pub fn tree(&self) -> Value {
        json!({"source_id": self.source_id, "root": self.result["root"]})
    }
}

impl Repository {
    /// An empty repository whose chunks have `average` bytes on average.
    pub fn new(average: u64) -> Self {
        let chunker = ChunkerParams::with_average(average);
        let options = InitOptions { chunker: chunker.clone(), ..InitOptions::default() };
        let (owner, _, _) = Keyring::init_repository(&options).unwrap();
        let scope = owner.scopes()[0];
        let keys = Arc::new(owner.scope(&scope).unwrap());
        let (store, snapshots, runs) = (MemoryStore::default(), Vec::new(), Vec::new());
        let (dead, before, runs_begun) = (Vec::new(), Vec::new(), AtomicUsize::new(0));
        Self { store, owner, scope, keys, chunker, snapshots, dead, runs, before, runs_begun }
    }

    pub fn source_id(&self, name: &str) -> String {
        self.keys.source_id(name).unwrap().to_string()
    }

    /// The whole key of an object of the scope.
    pub fn key(&self, name: &str) -> String {
        format!("s/{}/{name}", self.scope)
    }

    /// Keys of the objects of a folder of the scope.
    pub fn objects(&self, folder: &str) -> Vec<String> {
        self.store.list(&self.key(folder)).into_iter().map(|(key, _)| key).collect()
    }

    /// The `index` of every job's options: all runs that backups wrote.
    pub fn index(&self) -> Value {
        let size =
            |name| self.store.get(&self.key(&format!("index/{name}"))).map_or(1, |b| b.len());
        let runs = self.runs.iter().map(|name| json!({"name": name, "size": size(name)}));
        json!({"runs": runs.collect::<Vec<_>>(), "dead": self.dead, "condemned": []})
    }

    /// These runs in place of all others, as after a merge.
    pub fn replace_runs(&mut self, runs: Vec<String>) {
        self.runs = runs;
    }

    /// Makes the index empty; all objects stay.
    pub fn forget_runs(&mut self) {
        self.runs.clear();
    }

    /// Names of the packs below `folder` that the last backup made.
    pub fn packs_of_last_run(&self, folder: &str) -> Vec<String> {
        let new = self.objects(folder).into_iter().filter(|key| !self.before.contains(key));
        new.map(|key| key.rsplit('/').next().unwrap().to_owned()).collect()
    }

    /// Options of a job with the index added.
    pub fn options(&self, mut options: Value) -> Value {
        options["index"] = self.index();
        options["scope"] = json!(self.scope.to_string());
        if options["memory_bytes"].is_null() {
            options["memory_bytes"] = json!(64 << 20);
        }
        options
    }

    /// Runs a job under the owner's key.
    pub fn serve<T: Send>(&self, job: impl FnOnce(&Scope) -> T) -> (T, Outputs) {
        self.serve_as(&self.keys, job)
    }

    /// Runs a job under other keys.
    pub fn serve_as<T: Send>(
        &self,
        keys: &Arc<ScopeKeys>,
        job: impl FnOnce(&Scope) -> T,
    ) -> (T, Outputs) {
        self.store.serve(|broker| job(&Scope::new(Arc::clone(broker), Arc::clone(keys))))
    }

    /// Backs up a directory; `more` adds to the options or replaces some. Compares with the last
    /// snapshot of the same source, unless `more` has a `parent`.
    pub fn backup(&mut self, source: &str, path: &Path, more: &Value) -> Snapshot {
        self.try_backup(source, path, more).unwrap()
    }

    /// The same, where it may fail.
    pub fn try_backup(&mut self, source: &str, path: &Path, more: &Value) -> Result<Snapshot> {
        self.before = [self.objects("data/"), self.objects("meta/")].concat();
        let (options, started_ns) = self.backup_options(source, path, more);
        let id = options.snapshot.clone();
        let source_id = options.source_id.clone();
        let (result, outputs) = self.serve(|scope| -> Result<BackupResult> {
            Backup::new(scope.clone(), options, &self.chunker)?.run()
        });
        let result = serde_json::to_value(result?).unwrap();
        self.runs.extend(names(&result["runs"]));
        let problems = json_of(&outputs, "problem");
        let snapshot = Snapshot { id, source_id, started_ns, result, problems };
        self.snapshots.push(snapshot.clone());
        Ok(snapshot)
    }

    /// A backup that is asked for checkpoints all the time, and forgotten but for what the last of
    /// them lists. Returns the checkpoints.
    pub fn broken_backup(&mut self, source: &str, path: &Path, more: &Value) -> Vec<Value> {
        let (options, _) = self.backup_options(source, path, more);
        let (result, outputs) = self.serve(|scope| -> Result<BackupResult> {
            let backup = Backup::new(scope.clone(), options, &self.chunker)?;
            let is_done = AtomicBool::new(false);
            std::thread::scope(|threads| {
                threads.spawn(|| {
                    while !is_done.load(SeqCst) {
                        backup.writer().control().ask_checkpoint();
                        std::thread::yield_now();
                    }
                });
                let result = backup.run();
                is_done.store(true, SeqCst);
                result
            })
        });
        result.unwrap();
        let checkpoints = json_of(&outputs, "checkpoint");
        let count = checkpoints.len();
        let kept: Vec<Value> = checkpoints.into_iter().take(count.div_ceil(2)).collect();
        if let Some(last) = kept.last() {
            self.runs.extend(names(&last["runs"]));
        }
        kept
    }

    /// A backup that is asked for a checkpoint before it begins; those that came.
    pub fn backup_asked_first(&mut self, source: &str, path: &Path, more: &Value) -> Vec<Value> {
        let (options, _) = self.backup_options(source, path, more);
        let (result, outputs) = self.serve(|scope| -> Result<BackupResult> {
            let backup = Backup::new(scope.clone(), options, &self.chunker)?;
            backup.writer().control().ask_checkpoint();
            backup.run()
        });
        result.unwrap();
        json_of(&outputs, "checkpoint")
    }

    fn backup_options(&self, source: &str, path: &Path, more: &Value) -> (BackupOptions, i64) {
        self.runs_begun.fetch_add(1, SeqCst);
        let id = format!("{:032x}", self.runs_begun.load(SeqCst));
        let source_id = self.source_id(source);
        let parent = self.snapshots.iter().rev().find(|earlier| earlier.source_id == source_id);
        let parent = parent
            .map(|parent| json!({"root": parent.result["root"], "started_ns": parent.started_ns}));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let started_ns = i64::try_from(now.as_nanos()).unwrap();
        let mut options = self.options(json!({
            "snapshot": id,
            "gen": 1,
            "source_id": source_id,
            "kind": "directory",
            "path_b64": BASE64.encode(path.as_os_str().as_encoded_bytes()),
            "parent": parent,
            "threads": 2,
            "pack_bytes": 1 << 20,
        }));
        for (name, value) in more.as_object().into_iter().flatten() {
            options[name] = value.clone();
        }
        (parse(options), started_ns)
    }
}

fn names(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// Options from JSON, as a job gets them.
pub fn parse<T: DeserializeOwned>(options: Value) -> T {
    serde_json::from_value(options).unwrap()
}

/// The lines of all outputs of one kind.
pub fn json_of(outputs: &Outputs, kind: &str) -> Vec<Value> {
    let bytes: Vec<u8> = outputs
        .iter()
        .filter(|(of, _)| *of == kind)
        .flat_map(|(_, bytes)| bytes.iter().copied().chain([b'\n']))
        .collect();
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

/// The path that a field of a row holds.
pub fn path_of(row: &Value) -> String {
    String::from_utf8(BASE64.decode(row["path_b64"].as_str().unwrap()).unwrap()).unwrap()
}

/// `count` bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}
