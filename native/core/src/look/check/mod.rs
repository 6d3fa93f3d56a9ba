//! Whether a repository still holds what its snapshots need, from the outside in: runs, trees,
//! reference sets, packs against the store's list, their directories, and with `read_data` every byte
//! of some or all of them. Damage is data here: it leaves as findings, and only what keeps the check
//! itself from going on is an error.
//!
//! What every snapshot reaches is noted once ([`walk`]), pages that snapshots share are read once.
//! Chunks are then looked for in the runs, one run after the other, so that the index need not fit
//! into memory. Only when a chunk turns out to be lost, the trees are gone through again, along the
//! pages that lead to it, to say which files that hits.
//!
//! Memory beyond the index share: per million distinct chunks 28 to 52 MB for their ids, 4 MB for
//! each million of references to them from pages, about 300 bytes a page (a page is about 64 KiB of
//! tree), 64 bytes a pack, and up to 20 MiB for each pack that is being read.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use base64::Engine as _;
use serde::{Deserialize, Serialize};

use super::{BASE64, LookOptions, Rows, TreeOptions, path_of};
use crate::broker::lock;
use crate::crypto::SourceId;
use crate::error::{Error, ErrorKind, Result};
use crate::pages::PageStore;
use crate::scope::Scope;

mod blobs;
mod files;
mod packs;
mod refs;
mod runs;
pub mod salvage;
mod walk;

use packs::{PackCheck, compare_with_store};
use walk::{Reach, Walker};

/// Options of `check`.
#[derive(Clone, Debug, Deserialize)]
pub struct CheckOptions {
    /// What every verb is given.
    #[serde(flatten)]
    pub look: LookOptions,
    /// The snapshots to check.
    #[serde(default)]
    pub snapshots: Vec<CheckSnapshot>,
    /// Every object below `data/` and `meta/`, as the store lists them; without it, what the store
    /// has is not compared with the index.
    #[serde(default)]
    pub packs: Option<Vec<StoredObject>>,
    /// How many percent of the packs to read and open whole.
    #[serde(default)]
    pub read_data: Option<f64>,
    /// Names of the packs to read whole, in this order, in place of a share.
    #[serde(default)]
    pub read_packs: Option<Vec<String>>,
    /// No more than so many bytes of packs are read whole, but one pack in any case.
    #[serde(default)]
    pub read_bytes: Option<u64>,
    /// No pack is begun to be read whole so long after the first one, in seconds.
    #[serde(default)]
    pub seconds: Option<f64>,
    /// Read the directories of data packs too; those of metadata packs are always read.
    #[serde(default)]
    pub directories: bool,
    /// Which packs `read_data` takes: the same ones for the same number.
    #[serde(default)]
    pub seed: u64,
}

/// One snapshot.
#[derive(Clone, Debug, Deserialize)]
pub struct CheckSnapshot {
    /// Its id.
    pub snapshot: String,
    /// Its tree.
    #[serde(flatten)]
    pub tree: TreeOptions,
    /// The parts of its reference set, as its register names them.
    #[serde(default)]
    pub refs: Vec<RefPart>,
}

/// One part of a reference set.
#[derive(Clone, Debug, Deserialize)]
pub struct RefPart {
    /// Its name below the scope.
    pub name: String,
    /// BLAKE3 of the object, in hex.
    pub hash: String,
}

/// One object of the store.
#[derive(Clone, Debug, Deserialize)]
pub struct StoredObject {
    /// Its key, with or without the scope's prefix.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something that was stored is lost, or will be.
    Error,
    /// Nothing is lost, but something is not as it should be.
    Warning,
    /// Worth knowing.
    Info,
}

/// What `check` ends with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckResult {
    /// Rows that were given out: the sum of the next three.
    pub findings: u64,
    /// Errors.
    pub errors: u64,
    /// Warnings.
    pub warnings: u64,
    /// The rest.
    pub infos: u64,
    /// Snapshots whose trees were gone through.
    pub snapshots: u64,
    /// Runs that could be read.
    pub runs: u64,
    /// Packs that they list.
    pub packs: u64,
    /// Distinct pages that the snapshots reach.
    pub pages: u64,
    /// Distinct chunks that they reach.
    pub chunks: u64,
    /// Packs whose directory was read.
    pub directories: u64,
    /// Packs that were read whole.
    pub packs_read: u64,
    /// Bytes of these objects.
    pub bytes_read: u64,
    /// Blobs that were opened and compared with their ids.
    pub blobs_opened: u64,
    /// Packs in the store that no run lists.
    pub orphans: u64,
    /// Packs that were to be read whole, and were not for lack of time or bytes.
    pub packs_left: u64,
}

/// Something that is not as it should be, or worth knowing.
#[derive(Debug, Serialize)]
struct Finding {
    severity: Severity,
    what: &'static str,
    object: Option<String>,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
}

impl Finding {
    fn new(severity: Severity, what: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { severity, what, object: None, detail, snapshot: None, path_b64: None }
    }

    fn error(what: &'static str, detail: impl Into<String>) -> Self {
        Self::new(Severity::Error, what, detail)
    }

    fn on(mut self, object: impl Into<String>) -> Self {
        self.object = Some(object.into());
        self
    }

    fn of(mut self, snapshot: &str) -> Self {
        self.snapshot = Some(snapshot.to_owned());
        self
    }

    fn at_key(mut self, key: &[u8]) -> Self {
        self.path_b64 = Some(BASE64.encode(path_of(key)));
        self
    }
}

/// Takes findings from any thread and gives them out.
struct Findings {
    /// None: nobody listens.
    rows: Option<Mutex<Rows>>,
    errors: AtomicU64,
    warnings: AtomicU64,
    infos: AtomicU64,
}

impl Findings {
    fn new(scope: &Scope) -> Self {
        let rows = Some(Mutex::new(Rows::new(scope)));
        let [errors, warnings, infos] = [const { AtomicU64::new(0) }; 3];
        Self { rows, errors, warnings, infos }
    }

    /// Takes findings and keeps them to itself.
    fn silent(scope: &Scope) -> Self {
        Self { rows: None, ..Self::new(scope) }
    }

    fn report(&self, finding: &Finding) -> Result<()> {
        let count = match finding.severity {
            Severity::Error => &self.errors,
            Severity::Warning => &self.warnings,
            Severity::Info => &self.infos,
        };
        count.fetch_add(1, Relaxed);
        self.rows.as_ref().map_or(Ok(()), |rows| lock(rows).push(finding))
    }

    fn flush(&self) -> Result<()> {
        self.rows.as_ref().map_or(Ok(()), |rows| lock(rows).flush())
    }
}

/// Whether an error says something about what is stored; any other ends the check.
fn is_fault(error: &Error) -> bool {
    use ErrorKind::{Damaged, NotFound, Unsupported, WrongKey};
    matches!(error.kind, Damaged | NotFound | Unsupported | WrongKey)
}

/// Turns a fault into `Err(Ok(error))` for the caller to report, and passes on what ends the check.
fn fault_or_end<T>(result: Result<T>) -> Result<std::result::Result<T, Error>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) if is_fault(&error) => Ok(Err(error)),
        Err(error) => Err(error),
    }
}

/// Reads again what seems to be damaged, before it is said to be: the answer may have been, on its way.
fn look_twice<T>(look: impl Fn() -> Result<T>) -> Result<std::result::Result<T, Error>> {
    match fault_or_end(look())? {
        Err(_) => fault_or_end(look()),
        good => Ok(good),
    }
}

/// What the parts of a check share.
struct Context<'a> {
    scope: &'a Scope,
    options: &'a CheckOptions,
    findings: Findings,
}

/// Checks. Needs no more rights than to read; what the key does not open is said once and left out.
/// Findings come in no particular order. Fails when the store does, or the job is cancelled.
pub fn check(scope: &Scope, options: &CheckOptions) -> Result<CheckResult> {
    if let Some(percent) = options.read_data
        && !(0.0..=100.0).contains(&percent)
    {
        return Err(Error::new(ErrorKind::Usage, "a share of packs to read is 0 to 100 percent"));
    }
    let context = Context { scope, options, findings: Findings::new(scope) };
    let catalog = runs::check_runs(&context)?;
    let mut result = CheckResult {
        runs: catalog.good.runs.len() as u64,
        packs: catalog.packs.len() as u64,
        ..CheckResult::default()
    };
    let mut reach = Reach::default();
    let index = catalog.load(&context)?;
    let trees = walk_trees(&context, &index, &mut reach)?;
    result.snapshots = trees.iter().filter(|tree| tree.root.is_some()).count() as u64;
    result.pages = reach.page_count();
    for (snapshot, tree) in options.snapshots.iter().zip(&trees) {
        refs::check_refs(&context, snapshot, &mut reach, tree.root)?;
    }
    result.chunks = reach.chunk_count();
    let mut bad = compare_with_store(&context, &catalog, &mut result)?;
    PackCheck::new(&context, &catalog, &index, &reach)?.run(&mut bad, &mut result)?;
    let lost = runs::find_chunks(&context, &catalog, &index, &bad, &reach)?;
    runs::report_lost(&context, &lost)?;
    files::report_files(&context, &index, &trees, &reach, &lost)?;
    context.findings.flush()?;
    result.errors = context.findings.errors.load(Relaxed);
    result.warnings = context.findings.warnings.load(Relaxed);
    result.infos = context.findings.infos.load(Relaxed);
    result.findings = result.errors + result.warnings + result.infos;
    Ok(result)
}

/// What became of one snapshot's tree.
struct Tree {
    /// Number of its root page; none when the key does not open this source.
    root: Option<u32>,
}

fn walk_trees(
    context: &Context<'_>,
    index: &runs::LoadedIndex,
    reach: &mut Reach,
) -> Result<Vec<Tree>> {
    let mut closed: Vec<&str> = Vec::new();
    let mut trees = Vec::with_capacity(context.options.snapshots.len());
    for snapshot in &context.options.snapshots {
        let pages = match snapshot.tree.pages(context.scope, &index.index) {
            Ok(pages) => pages,
            Err(error) if error.kind == ErrorKind::WrongKey => {
                if !closed.contains(&&*snapshot.tree.source_id) {
                    closed.push(&snapshot.tree.source_id);
                    let what = "the key at hand does not open the trees of this source; what its \
                                reference sets list is looked for";
                    let finding = Finding::new(Severity::Info, "tree-not-opened", what);
                    context.findings.report(&finding.of(&snapshot.snapshot))?;
                }
                trees.push(Tree { root: None });
                continue;
            }
            Err(error) => return Err(error),
        };
        let root = walk_tree(context, snapshot, &pages, reach)?;
        trees.push(Tree { root });
    }
    Ok(trees)
}

fn walk_tree(
    context: &Context<'_>,
    snapshot: &CheckSnapshot,
    pages: &PageStore,
    reach: &mut Reach,
) -> Result<Option<u32>> {
    match fault_or_end(snapshot.tree.root())? {
        Ok(root) => Walker::new(context, snapshot, pages, reach).run(&root).map(Some),
        Err(error) => {
            let finding = Finding::error("snapshot-damaged", error.to_string());
            context.findings.report(&finding.of(&snapshot.snapshot))?;
            Ok(None)
        }
    }
}

/// The sources whose pages this key opens.
fn open_sources(context: &Context<'_>) -> Result<Vec<SourceId>> {
    let mut sources = Vec::new();
    for snapshot in &context.options.snapshots {
        let source = SourceId::parse(&snapshot.tree.source_id)?;
        if !sources.contains(&source) && context.scope.keys.source(&source).is_ok() {
            sources.push(source);
        }
    }
    Ok(sources)
}
