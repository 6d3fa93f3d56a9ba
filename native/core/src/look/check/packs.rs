//! Packs: against the store's list, their directories against the index, and whole.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use hashbrown::{HashMap, HashSet};
use serde::Serialize;

use super::blobs::BlobCheck;
use super::runs::{Catalog, LoadedIndex};
use super::walk::Reach;
use super::{CheckResult, Context, Finding, Severity, look_twice, open_sources};
use crate::broker::lock;
use crate::bulk::survey::{Listed, Listing, PackPlace};
use crate::crypto::{ObjectLayout, SourceId};
use crate::directory::read_directory;
use crate::error::{Error, Result};
use crate::format::pack::{PackDirectory, PackKind};
use crate::index::{PackName, pack_key, pack_type, parse_names};
use crate::scope::hex16;

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
    pub(super) fn is_readable(&self, place: &PackPlace) -> Result<bool> {
        let Some(bad) = self.0.get(&place.name) else {
            return Ok(true);
        };
        let start = u64::from(place.offset);
        let blob = start..start + u64::from(place.length);
        let layout = ObjectLayout::new(u64::from(place.object_bytes))?;
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
    for pack in &catalog.packs {
        let key = pack_key(pack.kind, &pack.name);
        let expected = u64::from(pack.object_bytes);
        let size = stored.get(&*key).copied();
        if size != Some(expected) {
            bad.cut(pack.name, size.unwrap_or(0));
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
    packs_left: u64,
    bad: Vec<(PackName, Damage)>,
}

/// Takes back what is beyond a number of bytes to be read whole, all but the first; returns how many packs.
fn within(packs: &mut [(&Listed, Option<usize>)], bytes_max: Option<u64>) -> u64 {
    let (mut bytes, mut left) = (0_u64, 0);
    for (pack, place) in packs.iter_mut().filter(|(_, place)| place.is_some()) {
        let with = bytes.saturating_add(u64::from(pack.object_bytes));
        if bytes > 0 && bytes_max.is_some_and(|most| with > most) {
            *place = None;
            left += 1;
        } else {
            bytes = with;
        }
    }
    left
}

/// A pack that was read whole.
#[derive(Serialize)]
struct ReadRow {
    name: String,
    is_good: bool,
    /// The key at hand opens everything in it.
    is_opened: bool,
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
        let began = Instant::now();
        let wanted = self.wanted()?;
        // Of a pack that the store has cut or lost, no more is to be learned; that was reported.
        let mut packs: Vec<(&Listed, Option<usize>)> = (self.catalog.packs.iter())
            .filter(|pack| !bad.is_cut(&pack.name))
            .map(|pack| (pack, wanted.get(&pack.name).copied()))
            .filter(|(pack, place)| {
                place.is_some() || pack.kind == PackKind::Metadata || options.directories
            })
            .collect();
        // What is only looked at comes first, so that no bound on the reading concerns it.
        packs.sort_by_key(|(_, place)| *place);
        result.packs_left = within(&mut packs, options.read_bytes);
        let is_over =
            || options.seconds.is_some_and(|seconds| began.elapsed().as_secs_f64() >= seconds);
        let by_memory = usize::try_from(options.look.memory_bytes / 2 / READER_BYTES);
        let by_gets = options.look.gets.max(options.look.thread_count());
        let readers = by_gets.min(by_memory.unwrap_or(usize::MAX)).clamp(1, 64);
        let next = AtomicUsize::new(0);
        let totals = Mutex::new(Totals::default());
        let failure = Mutex::new(None);
        std::thread::scope(|threads| {
            for _ in 0..readers.min(packs.len()) {
                threads.spawn(|| {
                    while let Some((pack, place)) = packs.get(next.fetch_add(1, Relaxed)) {
                        let is_whole = place.is_some() && !is_over();
                        lock(&totals).packs_left += u64::from(place.is_some() && !is_whole);
                        if !is_whole && pack.kind == PackKind::Data && !options.directories {
                            continue;
                        }
                        if let Err(error) = self.pack(pack, is_whole, &totals) {
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
        result.packs_left += totals.packs_left;
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

    /// The packs to read whole, with their place in the order: those that were named, or a share of all, the
    /// ones with the smallest digests of seed and name.
    fn wanted(&self) -> Result<HashMap<PackName, usize>> {
        let options = self.context.options;
        if let Some(names) = &options.read_packs {
            let mut wanted = HashMap::with_capacity(names.len());
            for (place, name) in names.iter().enumerate() {
                let name = parse_names(std::slice::from_ref(name))?;
                wanted.extend(name.into_iter().map(|name| (name, place)));
            }
            return Ok(wanted);
        }
        let percent = options.read_data.unwrap_or(0.0);
        let rank = |name: &PackName| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&self.context.options.seed.to_le_bytes()).update(name);
            *hasher.finalize().as_bytes()
        };
        let mut names: Vec<PackName> = self.catalog.packs.iter().map(|pack| pack.name).collect();
        names.sort_by_cached_key(rank);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            clippy::cast_possible_truncation,
            reason = "a share of a number of packs, rounded up on purpose"
        )]
        let count = (names.len() as f64 * percent / 100.0).ceil() as usize;
        names.truncate(count);
        Ok(names.into_iter().zip(0..).collect())
    }

    fn pack(&self, pack: &Listed, is_whole: bool, totals: &Mutex<Totals>) -> Result<()> {
        let name = pack.name;
        let key = pack_key(pack.kind, &name);
        let object = self.context.scope.key(&key);
        let report = |what, error: &Error| {
            let finding = Finding::error(what, error.to_string());
            self.context.findings.report(&finding.on(object.clone()))
        };
        let size = u64::from(pack.object_bytes);
        let scope = self.context.scope;
        let ranged = match look_twice(|| scope.ranged(pack_type(pack.kind), &key, size))? {
            Ok(ranged) => ranged,
            Err(error) => {
                let damage = Damage { is_whole: true, ranges: Vec::new() };
                lock(totals).bad.push((name, damage));
                return report("pack-damaged", &error);
            }
        };
        let directory = match look_twice(|| read_directory(scope, &ranged, pack.kind, &key))? {
            Ok(directory) => Some(directory),
            Err(error) => {
                report("pack-directory-damaged", &error)?;
                None
            }
        };
        if let Some((directory, _)) = &directory {
            lock(totals).directories += 1;
            self.compare(pack, directory, &object)?;
        }
        if is_whole {
            let mut blobs = BlobCheck::new(self, &ranged, pack.kind)?;
            let damage = blobs.run(directory.as_ref().map(|(found, footer)| (found, *footer)))?;
            let is_good = directory.is_some() && damage.ranges.is_empty();
            self.report_read(&name, is_good, !blobs.has_closed())?;
            let mut totals = lock(totals);
            totals.packs_read += 1;
            totals.bytes_read += size;
            totals.blobs_opened += blobs.opened();
            totals.bad.push((name, damage));
        }
        Ok(())
    }

    /// Tells the caller of a pack that was read whole, so that it need not be read again soon.
    fn report_read(&self, name: &PackName, is_good: bool, is_opened: bool) -> Result<()> {
        let row = ReadRow { name: hex16(name), is_good, is_opened };
        let mut line =
            serde_json::to_vec(&row).map_err(|error| Error::internal(error.to_string()))?;
        line.push(b'\n');
        self.context.scope.broker.output("read", line)
    }

    fn compare(&self, pack: &Listed, directory: &PackDirectory, object: &str) -> Result<()> {
        if Listing::of(directory) == pack.listing {
            if self.catalog.surveyed.has_envelopes_of(pack, directory) {
                return Ok(());
            }
            let detail = "the index gives blobs of a pack other envelopes than the pack does";
            return self.context.findings.report(&Finding::error("index-wrong", detail).on(object));
        }
        let index = &self.loaded.index;
        let mut matches = 0_u64;
        for entry in &directory.entries {
            let places = index.lookup_all(&entry.id.short())?;
            let is_there = places.iter().any(|place| {
                place.offset() == entry.offset
                    && place.length() == entry.length
                    && index.pack(place).is_ok_and(|found| found.name == pack.name)
            });
            matches += u64::from(is_there);
        }
        let (of, listed) = (directory.entries.len(), pack.listing.entries);
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
