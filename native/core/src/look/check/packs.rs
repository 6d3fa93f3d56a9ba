//! Packs: against the store's list, their directories against the index, and whole.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use hashbrown::{HashMap, HashSet};

use super::blobs::BlobCheck;
use super::runs::{Catalog, Listing, LoadedIndex, PackFacts};
use super::walk::Reach;
use super::{CheckResult, Context, Finding, Severity, fault_or_end, open_sources};
use crate::broker::lock;
use crate::crypto::{ObjectLayout, SourceId};
use crate::directory::read_directory;
use crate::error::{Error, Result};
use crate::format::pack::{PackDirectory, PackKind};
use crate::format::run::PackRecord;
use crate::index::{PackName, Place, pack_key, pack_type, parse_names};

/// Memory that reading one pack whole takes at most, in bytes: two ranges on their way or sealed, one
/// being opened, and a blob.
const READER_BYTES: u64 = 20 << 20;

/// What is known to be wrong with the bytes of packs.
#[derive(Default)]
pub(super) struct BadPacks(HashMap<PackName, BadPack>);

#[derive(Debug)]
struct BadPack {
    /// So much of the object is there.
    object_bytes: u64,
    /// Ranges of the plaintext that cannot be read.
    ranges: Vec<Range<u64>>,
}

impl BadPacks {
    fn cut(&mut self, name: PackName, object_bytes: u64) {
        let bad = self.0.entry(name).or_insert(BadPack { object_bytes, ranges: Vec::new() });
        bad.object_bytes = bad.object_bytes.min(object_bytes);
    }

    fn add(&mut self, name: PackName, ranges: Vec<Range<u64>>) {
        if !ranges.is_empty() {
            let whole = BadPack { object_bytes: u64::MAX, ranges: Vec::new() };
            self.0.entry(name).or_insert(whole).ranges.extend(ranges);
        }
    }

    /// Whether nothing is known that keeps a blob from being read.
    pub(super) fn is_readable(&self, pack: &PackRecord, place: &Place) -> Result<bool> {
        let Some(bad) = self.0.get(&pack.name) else {
            return Ok(true);
        };
        let start = u64::from(place.offset());
        let blob = start..start + u64::from(place.length());
        let layout = ObjectLayout::new(u64::from(pack.object_bytes))?;
        let Ok(segments) = layout.segments_of(blob.clone()) else {
            return Ok(false);
        };
        let overlaps = |range: &Range<u64>| range.start < blob.end && blob.start < range.end;
        Ok(segments.object.end <= bad.object_bytes && !bad.ranges.iter().any(overlaps))
    }

    fn is_cut(&self, name: &PackName) -> bool {
        self.0.get(name).is_some_and(|bad| bad.object_bytes < u64::MAX)
    }
}

/// Compares the packs that the runs list with the objects that the store has.
pub(super) fn compare_with_store(
    context: &Context<'_>,
    catalog: &Catalog,
    result: &mut CheckResult,
) -> Result<BadPacks> {
    let mut bad = BadPacks::default();
    let Some(objects) = &context.options.packs else {
        return Ok(bad);
    };
    let prefix = context.scope.key("");
    let stored: HashMap<&str, u64> = objects
        .iter()
        .map(|object| (object.key.strip_prefix(&*prefix).unwrap_or(&object.key), object.size))
        .collect();
    let mut listed = HashSet::with_capacity(catalog.packs.len());
    for (name, facts) in sorted(catalog) {
        let key = pack_key(facts.kind, name);
        let expected = u64::from(facts.object_bytes);
        let size = stored.get(&*key).copied();
        if size != Some(expected) {
            bad.cut(*name, size.unwrap_or(0));
            let finding = match size {
                None => Finding::error("pack-missing", "a pack that the index lists is gone"),
                Some(size) => {
                    let detail = format!("a pack has {size} bytes, and should have {expected}");
                    Finding::error("pack-size", detail)
                }
            };
            context.findings.report(&finding.on(context.scope.key(&key)))?;
        }
        listed.insert(key);
    }
    let dead = parse_names(&context.options.look.index.dead)?;
    let dead_keys: HashSet<String> = dead
        .iter()
        .flat_map(|name| [PackKind::Data, PackKind::Metadata].map(|kind| pack_key(kind, name)))
        .collect();
    let mut unlisted: Vec<&&str> = stored.keys().filter(|key| !listed.contains(**key)).collect();
    unlisted.sort_unstable();
    for key in unlisted {
        let (what, detail) = if dead_keys.contains(*key) {
            ("dead-pack", "prune has given this pack up, and not yet deleted it")
        } else {
            result.orphans += 1;
            ("orphan", "no run lists this pack: a backup is under way, or broke off")
        };
        let finding = Finding::new(Severity::Info, what, detail);
        context.findings.report(&finding.on(context.scope.key(key)))?;
    }
    Ok(bad)
}

fn sorted(catalog: &Catalog) -> Vec<(&PackName, &PackFacts)> {
    let mut packs: Vec<_> = catalog.packs.iter().collect();
    packs.sort_unstable_by_key(|(name, _)| **name);
    packs
}

/// Reads directories and whole packs.
pub(super) struct PackCheck<'a> {
    pub(super) context: &'a Context<'a>,
    catalog: &'a Catalog,
    loaded: &'a LoadedIndex,
    pub(super) reach: &'a Reach,
    pub(super) sources: Vec<SourceId>,
    /// The key at hand does not open content.
    pub(super) is_content_closed: AtomicBool,
    /// Pages that belong to no source at hand.
    pub(super) pages_closed: AtomicUsize,
}

#[derive(Default)]
struct Totals {
    directories: u64,
    packs_read: u64,
    bytes_read: u64,
    blobs_opened: u64,
    bad: Vec<(PackName, Damage)>,
}

/// What reading a pack brought to light.
#[derive(Default)]
pub(super) struct Damage {
    /// Nothing of it opens.
    is_whole: bool,
    /// Ranges of the plaintext that do not.
    pub(super) ranges: Vec<Range<u64>>,
}

impl<'a> PackCheck<'a> {
    pub(super) fn new(
        context: &'a Context<'a>,
        catalog: &'a Catalog,
        loaded: &'a LoadedIndex,
        reach: &'a Reach,
    ) -> Result<Self> {
        let (is_content_closed, pages_closed) = (AtomicBool::new(false), AtomicUsize::new(0));
        let sources = open_sources(context)?;
        Ok(Self { context, catalog, loaded, reach, sources, is_content_closed, pages_closed })
    }

    /// Reads what the options ask for, several packs at a time, and adds what is wrong to `bad`.
    pub(super) fn run(&self, bad: &mut BadPacks, result: &mut CheckResult) -> Result<()> {
        let options = self.context.options;
        let sample = self.sample();
        // Of a pack that the store has cut or lost, no more is to be learned; that was reported.
        let packs: Vec<(&PackName, &PackFacts, bool)> = sorted(self.catalog)
            .into_iter()
            .filter(|(name, _)| !bad.is_cut(name))
            .map(|(name, facts)| (name, facts, sample.contains(name)))
            .filter(|(_, facts, is_sampled)| {
                *is_sampled || facts.kind == PackKind::Metadata || options.directories
            })
            .collect();
        let by_memory = usize::try_from(options.look.memory_bytes / 2 / READER_BYTES);
        let by_gets = options.look.gets.max(options.look.thread_count());
        let readers = by_gets.min(by_memory.unwrap_or(usize::MAX)).clamp(1, 64);
        let next = AtomicUsize::new(0);
        let totals = Mutex::new(Totals::default());
        let failure = Mutex::new(None);
        std::thread::scope(|threads| {
            for _ in 0..readers.min(packs.len()) {
                threads.spawn(|| {
                    while let Some((name, facts, is_whole)) = packs.get(next.fetch_add(1, Relaxed))
                    {
                        if let Err(error) = self.pack(name, facts, *is_whole, &totals) {
                            // The others end after the pack that they are at.
                            next.store(packs.len(), Relaxed);
                            lock(&failure).get_or_insert(error);
                        }
                    }
                });
            }
        });
        if let Some(error) = lock(&failure).take() {
            return Err(error);
        }
        let totals = std::mem::take(&mut *lock(&totals));
        result.directories = totals.directories;
        result.packs_read = totals.packs_read;
        result.bytes_read = totals.bytes_read;
        result.blobs_opened = totals.blobs_opened;
        for (name, damage) in totals.bad {
            if damage.is_whole {
                bad.cut(name, 0);
            }
            bad.add(name, damage.ranges);
        }
        self.report_closed()
    }

    fn report_closed(&self) -> Result<()> {
        if self.is_content_closed.load(Relaxed) {
            let detail = "the key at hand does not open content: packs were read and their outer \
                          seals opened, chunks were not";
            let finding = Finding::new(Severity::Info, "content-not-opened", detail);
            self.context.findings.report(&finding)?;
        }
        let pages = self.pages_closed.load(Relaxed);
        if pages > 0 {
            let detail = format!("{pages} pages belong to none of the sources at hand");
            let finding = Finding::new(Severity::Info, "pages-not-opened", detail);
            self.context.findings.report(&finding)?;
        }
        Ok(())
    }

    /// The packs to read whole: those with the smallest digests of seed and name.
    fn sample(&self) -> HashSet<PackName> {
        let percent = self.context.options.read_data.unwrap_or(0.0);
        let rank = |name: &PackName| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&self.context.options.seed.to_le_bytes()).update(name);
            *hasher.finalize().as_bytes()
        };
        let mut names: Vec<PackName> = self.catalog.packs.keys().copied().collect();
        names.sort_by_cached_key(rank);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            clippy::cast_possible_truncation,
            reason = "a share of a number of packs, rounded up on purpose"
        )]
        let count = (names.len() as f64 * percent / 100.0).ceil() as usize;
        names.truncate(count);
        names.into_iter().collect()
    }

    fn pack(
        &self,
        name: &PackName,
        facts: &PackFacts,
        is_whole: bool,
        totals: &Mutex<Totals>,
    ) -> Result<()> {
        let key = pack_key(facts.kind, name);
        let object = self.context.scope.key(&key);
        let report = |what, error: &Error| {
            let finding = Finding::error(what, error.to_string());
            self.context.findings.report(&finding.on(object.clone()))
        };
        let size = u64::from(facts.object_bytes);
        let ranged = self.context.scope.ranged(pack_type(facts.kind), &key, size);
        let ranged = match fault_or_end(ranged)? {
            Ok(ranged) => ranged,
            Err(error) => {
                let damage = Damage { is_whole: true, ranges: Vec::new() };
                lock(totals).bad.push((*name, damage));
                return report("pack-damaged", &error);
            }
        };
        let directory = read_directory(self.context.scope, &ranged, facts.kind, &key);
        let directory = match fault_or_end(directory)? {
            Ok(directory) => Some(directory),
            Err(error) => {
                report("pack-directory-damaged", &error)?;
                None
            }
        };
        if let Some((directory, _)) = &directory {
            lock(totals).directories += 1;
            self.compare(name, facts, directory, &object)?;
        }
        if is_whole {
            let mut blobs = BlobCheck::new(self, &ranged, facts.kind)?;
            let damage = blobs.run(directory.as_ref().map(|(found, footer)| (found, *footer)))?;
            let mut totals = lock(totals);
            totals.packs_read += 1;
            totals.bytes_read += size;
            totals.blobs_opened += blobs.opened();
            totals.bad.push((*name, damage));
        }
        Ok(())
    }

    fn compare(
        &self,
        name: &PackName,
        facts: &PackFacts,
        directory: &PackDirectory,
        object: &str,
    ) -> Result<()> {
        if Listing::of(directory) == facts.listing {
            return Ok(());
        }
        let index = &self.loaded.index;
        let mut matches = 0_u64;
        for entry in &directory.entries {
            let places = index.lookup_all(&entry.id.short())?;
            let is_there = places.iter().any(|place| {
                place.offset() == entry.offset
                    && place.length() == entry.length
                    && index.pack(place).is_ok_and(|pack| pack.name == *name)
            });
            matches += u64::from(is_there);
        }
        let (of, listed) = (directory.entries.len(), facts.listing.entries);
        let finding = if matches == listed && matches < of as u64 {
            let detail = format!("the index lists {listed} of the {of} blobs of a pack");
            Finding::new(Severity::Warning, "index-incomplete", detail)
        } else {
            let detail = format!(
                "the index lists {listed} blobs of a pack that has {of}, and {matches} of them are \
                 where it says"
            );
            Finding::error("index-wrong", detail)
        };
        self.context.findings.report(&finding.on(object))
    }
}
