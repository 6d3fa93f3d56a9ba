//! A repository in memory: an object store served by threads, backups into it, restores out of it, and
//! comparing two trees on disk.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pvback_core::backup::{Backup, BackupOptions};
use pvback_core::broker::{Broker, Work};
use pvback_core::crypto::config::ChunkerParams;
use pvback_core::crypto::{Config, InitOptions, Keyring, ScopeId};
use pvback_core::fs::remove::remove_tree;
use pvback_core::fs::{
    Attributes, Event, FileKind, Opened, Segment, Segments, Stat, Timestamp, Walk, WalkOptions,
    open_regular, read_attributes_at, read_attributes_fd, stat_batch,
};
use pvback_core::restore::{
    Control, DumpOptions, DumpResult, RestoreOptions, RestoreResult, dump, restore,
};
use pvback_core::scope::Scope;
use pvback_core::{Error, ErrorKind, Result};
use serde_json::{Value, json};

/// What a store does with a read, of a key and so many bytes (0: all), instead of answering it.
pub type Fault = Arc<dyn Fn(&str, u64) -> Option<Error> + Send + Sync>;

/// A repository.
pub struct Repo {
    pub objects: Mutex<HashMap<String, Arc<Vec<u8>>>>,
    keyring: Keyring,
    scope: ScopeId,
    chunker: ChunkerParams,
    runs: Mutex<Vec<Value>>,
    first_number: AtomicUsize,
    pub fault: Mutex<Option<Fault>>,
}

/// A snapshot, as far as a restore needs to know.
#[derive(Clone)]
pub struct Snapshot {
    pub root: Value,
    source: String,
}

/// What a job put out.
#[derive(Default)]
pub struct Outputs {
    pub problems: Vec<Value>,
    pub rows: Vec<Value>,
    pub bytes: Vec<u8>,
}

impl Outputs {
    /// Paths of all problems, sorted.
    pub fn problem_paths(&self) -> Vec<String> {
        let mut paths: Vec<_> = self.problems.iter().map(path_of).collect();
        paths.sort();
        paths
    }

    /// Action and path of all rows, sorted.
    pub fn actions(&self) -> Vec<String> {
        let action = |row: &Value| format!("{} {}", row["action"].as_str().unwrap(), path_of(row));
        let mut actions: Vec<_> = self.rows.iter().map(action).collect();
        actions.sort();
        actions
    }
}

fn path_of(value: &Value) -> String {
    let path = STANDARD.decode(value["path_b64"].as_str().unwrap()).unwrap();
    String::from_utf8_lossy(&path).into_owned()
}

impl Repo {
    /// A repository with chunks of `average` bytes.
    pub fn new(average: u64) -> Self {
        let chunker = ChunkerParams::with_average(average);
        let options = InitOptions { chunker: chunker.clone(), ..InitOptions::default() };
        let (keyring, config, _) = Keyring::init_repository(&options).unwrap();
        let scope = Config::parse(&config, None).unwrap().scopes()[0].id;
        Self {
            objects: Mutex::default(),
            keyring,
            scope,
            chunker,
            runs: Mutex::default(),
            first_number: AtomicUsize::new(0),
            fault: Mutex::default(),
        }
    }

    /// Runs `job` with its requests served by `threads` threads.
    pub fn serve<T>(&self, threads: usize, job: impl FnOnce(&Scope) -> T) -> (T, Outputs) {
        let broker = Broker::new(4);
        let keys = Arc::new(self.keyring.scope(&self.scope).unwrap());
        let scope = Scope::new(Arc::clone(&broker), keys);
        let outputs = Mutex::new(Outputs::default());
        let result = std::thread::scope(|all| {
            for _ in 0..threads {
                let broker = Arc::clone(&broker);
                let outputs = &outputs;
                all.spawn(move || {
                    while let Some(request) = broker.next_request() {
                        match self.answer(&request.work, outputs) {
                            Ok(bytes) => request.complete(bytes),
                            Err(error) => request.fail(error),
                        }
                    }
                });
            }
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(&scope)));
            broker.close();
            result
        });
        let result = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (result, outputs.into_inner().unwrap())
    }

    fn answer(&self, work: &Work, outputs: &Mutex<Outputs>) -> Result<Vec<u8>> {
        match work {
            Work::Get { key, offset, length } => {
                // Called without the lock: it may wait for what other reads lead to.
                let fault = self.fault.lock().unwrap().clone();
                if let Some(fault) = fault
                    && let Some(error) = fault(key, length.unwrap_or(0))
                {
                    return Err(error);
                }
                let object = self.objects.lock().unwrap().get(key).cloned();
                let object =
                    object.ok_or_else(|| Error::new(ErrorKind::NotFound, "no such object"))?;
                let start = usize::try_from(*offset).unwrap().min(object.len());
                let end = length.map_or(object.len(), |length| {
                    object.len().min(start + usize::try_from(length).unwrap())
                });
                Ok(object[start..end].to_vec())
            }
            Work::Put { key, data } => {
                let old = self.objects.lock().unwrap().insert(key.clone(), Arc::new(data.clone()));
                assert!(old.is_none(), "{key} was put twice");
                Ok(Vec::new())
            }
            Work::Output { kind, data } => {
                let mut outputs = outputs.lock().unwrap();
                match *kind {
                    "problem" => outputs.problems.push(serde_json::from_slice(data).unwrap()),
                    "rows" => outputs.rows.push(serde_json::from_slice(data).unwrap()),
                    "bytes" => outputs.bytes.extend_from_slice(data),
                    _ => {}
                }
                Ok(Vec::new())
            }
        }
    }

    /// Backs up `path`; `kind` as the options call it.
    pub fn backup(&self, path: &Path, kind: &str) -> Snapshot {
        self.backup_with(path, kind, json!({}))
    }

    /// The same, with options of `more` added.
    pub fn backup_with(&self, path: &Path, kind: &str, more: Value) -> Snapshot {
        let (snapshot, problems) = self.backup_with_problems(path, kind, more);
        assert_eq!(problems, Vec::<Value>::new());
        snapshot
    }

    /// The same, whatever it tells.
    pub fn backup_with_problems(
        &self,
        path: &Path,
        kind: &str,
        more: Value,
    ) -> (Snapshot, Vec<Value>) {
        let keys = self.keyring.scope(&self.scope).unwrap();
        let source = keys.source_id("a source").unwrap().to_string();
        let number = self.first_number.fetch_add(1, Ordering::SeqCst);
        let mut options = json!({
            "scope": self.scope.to_string(), "memory_bytes": 256 << 20, "threads": 2,
            "index": self.index(), "snapshot": format!("{number:032x}"), "gen": 1,
            "source_id": source, "kind": kind, "path_b64": b64(path.as_os_str().as_bytes()),
        });
        for (key, value) in more.as_object().unwrap() {
            options[key] = value.clone();
        }
        let options: BackupOptions = serde_json::from_value(options).unwrap();
        let (result, outputs) = self.serve(2, |scope| {
            Backup::new(scope.clone(), options, &self.chunker).and_then(|backup| backup.run())
        });
        let result = result.unwrap();
        let objects = self.objects.lock().unwrap();
        let mut runs = self.runs.lock().unwrap();
        for name in &result.runs {
            let size = objects[&self.key(&format!("index/{name}"))].len();
            runs.push(json!({"name": name, "size": size}));
        }
        let root = serde_json::to_value(&result.root).unwrap();
        (Snapshot { root, source }, outputs.problems)
    }

    /// Does something as if nothing had been stored before.
    pub fn without_index<T>(&self, act: impl FnOnce(&Self) -> T) -> T {
        let before = std::mem::take(&mut *self.runs.lock().unwrap());
        let result = act(self);
        let mut runs = self.runs.lock().unwrap();
        let after = std::mem::replace(&mut *runs, before);
        runs.extend(after);
        result
    }

    fn key(&self, name: &str) -> String {
        format!("s/{}/{name}", self.scope)
    }

    fn index(&self) -> Value {
        json!({"runs": *self.runs.lock().unwrap()})
    }

    /// Options to restore `snapshot` to `target`, with `more` set.
    pub fn options(&self, snapshot: &Snapshot, target: &Path, more: Value) -> Value {
        let mut options = json!({
            "scope": self.scope.to_string(), "index": self.index(), "threads": 3, "gets": 8,
            "source_id": snapshot.source, "root": snapshot.root,
            "target_b64": b64(target.as_os_str().as_bytes()),
        });
        for (key, value) in more.as_object().unwrap() {
            options[key] = value.clone();
        }
        options
    }

    /// Restores.
    pub fn try_restore(
        &self,
        snapshot: &Snapshot,
        target: &Path,
        more: Value,
    ) -> (Result<RestoreResult>, Outputs) {
        let options = self.options(snapshot, target, more);
        let options: RestoreOptions = serde_json::from_value(options).unwrap();
        self.serve(4, |scope| restore(scope, &options, &Control::default()))
    }

    /// Restores, which must come to its end.
    pub fn restore(
        &self,
        snapshot: &Snapshot,
        target: &Path,
        more: Value,
    ) -> (RestoreResult, Outputs) {
        let (result, outputs) = self.try_restore(snapshot, target, more);
        (result.unwrap(), outputs)
    }

    /// Restores, which must come to its end without a problem.
    pub fn restore_well(&self, snapshot: &Snapshot, target: &Path, more: Value) -> RestoreResult {
        let (result, outputs) = self.restore(snapshot, target, more);
        assert_eq!(outputs.problems, Vec::<Value>::new());
        assert_eq!(result.errors, 0);
        result
    }

    /// Dumps the file at `path`.
    pub fn dump(&self, snapshot: &Snapshot, path: &str) -> (Result<DumpResult>, Vec<u8>) {
        let more = json!({"path_b64": b64(path.as_bytes())});
        let options = self.options(snapshot, Path::new("/"), more);
        let options: DumpOptions = serde_json::from_value(options).unwrap();
        let (result, outputs) = self.serve(3, |scope| dump(scope, &options, &Control::default()));
        (result, outputs.bytes)
    }

    /// Keys of the data packs.
    pub fn data_packs(&self) -> Vec<String> {
        let objects = self.objects.lock().unwrap();
        let mut keys: Vec<_> =
            objects.keys().filter(|key| key.contains("/data/")).cloned().collect();
        keys.sort();
        keys
    }

    /// Flips a bit of a stored object.
    pub fn flip(&self, key: &str, at: usize) {
        let mut objects = self.objects.lock().unwrap();
        let mut bytes = (*objects[key]).clone();
        bytes[at] ^= 0x10;
        objects.insert(key.to_owned(), Arc::new(bytes));
    }
}

pub fn b64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub fn unb64(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap()
}

/// An entry as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    attributes: Attributes,
    content: Vec<u8>,
    holes: Vec<Segment>,
    /// The first path of the same inode.
    first_name: Option<Vec<u8>>,
}

/// Everything below `root` by path, in a form in which equal trees are equal.
pub fn read_tree(root: &Path) -> BTreeMap<String, Entry> {
    let mut entries = BTreeMap::new();
    let mut first_names = HashMap::new();
    for event in Walk::new(root, WalkOptions::default()).unwrap() {
        match event {
            Event::Enter(dir) => {
                let fd = dir.fd().unwrap();
                let read = read_attributes_fd(fd.as_fd(), dir.stat().clone());
                entries.insert(show(&dir.path()), entry(read.attributes, None));
            }
            Event::Names(dir, names) => {
                let fd = dir.fd().unwrap();
                for ((name, _), stat) in names.iter().zip(stat_batch(&dir, &names)) {
                    let stat = stat.unwrap();
                    let path = [&dir.path(), &b"/"[..], name].concat();
                    let first_name = (stat.nlink > 1).then(|| {
                        let inode = (stat.dev, stat.ino);
                        first_names.entry(inode).or_insert_with(|| path.clone()).clone()
                    });
                    let mut found = read_entry(fd.as_fd(), name, &stat);
                    found.first_name = first_name;
                    entries.insert(show(&path), found);
                }
            }
            Event::Leave(_) => {}
            other => panic!("{other:?}"),
        }
    }
    entries
}

fn show(path: &[u8]) -> String {
    pvback_core::fs::display_path(path.strip_prefix(b"/").unwrap_or(path))
}

fn entry(mut attributes: Attributes, content: Option<(Vec<u8>, Vec<Segment>)>) -> Entry {
    let stat = &mut attributes.stat;
    (stat.ino, stat.dev, stat.ctime, stat.btime) = (0, 0, Timestamp::default(), None);
    stat.allocated_bytes = 0;
    if stat.kind == FileKind::Dir {
        (stat.size, stat.nlink) = (0, 0);
    }
    let (content, holes) = content.unwrap_or_default();
    Entry { attributes, content, holes, first_name: None }
}

fn read_entry(dir: std::os::fd::BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Entry {
    if stat.kind != FileKind::File {
        return entry(read_attributes_at(dir, name, stat.clone()).unwrap().attributes, None);
    }
    let Opened::File(fd, now) = open_regular(dir, name, stat).unwrap() else { panic!("replaced") };
    let holes = Segments::new(fd.as_fd(), now.size).filter(|segment| segment.is_hole).collect();
    let mut content = vec![0; usize::try_from(now.size).unwrap()];
    let mut done = 0;
    while done < content.len() {
        let count = rustix::io::pread(&fd, &mut content[done..], done as u64).unwrap();
        assert_ne!(count, 0);
        done += count;
    }
    let attributes = read_attributes_fd(fd.as_fd(), now).attributes;
    entry(attributes, Some((content, holes)))
}

/// Panics at the first difference.
pub fn assert_same(wanted: &Path, found: &Path) {
    let (wanted, found) = (read_tree(wanted), read_tree(found));
    for (path, entry) in &wanted {
        let Some(other) = found.get(path) else { panic!("{path} is missing") };
        assert_eq!(entry.attributes, other.attributes, "{path}");
        // More may be holes: reserved space that was never written counts as such.
        for hole in &entry.holes {
            let is_in = |other: &&Segment| {
                other.offset <= hole.offset && hole.offset + hole.len <= other.offset + other.len
            };
            assert!(other.holes.iter().any(|other| is_in(&other)), "{path}: {hole:?}");
        }
        assert!(entry.content == other.content, "content of {path}");
        assert_eq!(entry.first_name, other.first_name, "{path}");
    }
    let extra: Vec<_> = found.keys().filter(|path| !wanted.contains_key(*path)).collect();
    assert_eq!(extra, Vec::<&String>::new());
}

/// A temporary directory that goes away with everything in it, immutable files and all.
pub struct Scratch {
    home: tempfile::TempDir,
}

impl Scratch {
    pub fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    /// In memory where there is such a file system: for very many files, which others are slow to make
    /// again where some were removed just before.
    pub fn in_memory() -> Self {
        let home = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self { home: home.unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir(&path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let home = std::fs::File::open(self.home.path()).unwrap();
        for entry in std::fs::read_dir(self.home.path()).unwrap() {
            let name = entry.unwrap().file_name();
            let outcome = remove_tree(home.as_fd(), name.as_bytes());
            assert!(outcome.is_ok() || std::thread::panicking(), "{outcome:?}");
        }
    }
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Bytes that look like nothing, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

pub fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}
