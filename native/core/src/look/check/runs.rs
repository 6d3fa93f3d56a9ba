//! Index runs: whether each can be read, what they say of packs, and which chunks they lead to.

use std::sync::Arc;

use hashbrown::HashMap;

use super::packs::BadPacks;
use super::walk::{NumberSet, Reach};
use super::{Context, Finding, Severity, fault_or_end};
use crate::error::Result;
use crate::format::ShortId;
use crate::format::pack::{Envelope, PackDirectory, PackKind};
use crate::index::{Index, IndexOptions, PackName, Place, pack_key};

/// What a list of a pack's blobs comes to, whatever its order: their number, and the sum of a digest
/// of each. Two lists with the same sum are equal unless somebody can make BLAKE3 collide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) entries: u64,
    sum: u128,
}

impl Listing {
    fn add(&mut self, id: &ShortId, offset: u32, length: u32, envelope: &Envelope) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&id.0).update(&offset.to_le_bytes()).update(&length.to_le_bytes());
        hasher.update(envelope);
        let digest = hasher.finalize();
        let half = digest.as_bytes().first_chunk::<16>().copied().unwrap_or_default();
        self.sum = self.sum.wrapping_add(u128::from_le_bytes(half));
        self.entries += 1;
    }

    /// Of what a pack says of itself.
    pub(super) fn of(directory: &PackDirectory) -> Self {
        let mut listing = Self::default();
        for entry in &directory.entries {
            if let Some(envelope) = directory.envelopes.get(usize::from(entry.envelope)) {
                listing.add(&entry.id.short(), entry.offset, entry.length, envelope);
            }
        }
        listing
    }
}

/// What the runs say of a pack.
#[derive(Clone, Copy, Debug)]
pub(super) struct PackFacts {
    pub(super) kind: PackKind,
    pub(super) object_bytes: u32,
    pub(super) listing: Listing,
}

/// What the runs say of all packs.
pub(super) struct Catalog {
    pub(super) packs: HashMap<PackName, PackFacts>,
    /// The runs that can be read.
    pub(super) good: IndexOptions,
}

/// The index to look pages up in.
pub(super) struct LoadedIndex {
    pub(super) index: Arc<Index>,
    /// All runs are held whole.
    is_whole: bool,
}

/// Reads every run on its own, whole: what is wrong with one shall not hide the others.
pub(super) fn check_runs(context: &Context<'_>) -> Result<Catalog> {
    let all = context.options.look.readable();
    let mut catalog =
        Catalog { packs: HashMap::new(), good: IndexOptions { runs: Vec::new(), ..all.clone() } };
    for run in &all.runs {
        let key = context.scope.key(&format!("index/{}", run.name));
        let one = IndexOptions { runs: vec![run.clone()], ..all.clone() };
        let loaded = Index::load_present(context.scope, &one, u64::MAX);
        let loaded = loaded.and_then(|index| Ok((packs_of(&index)?, index)));
        match fault_or_end(loaded)? {
            Ok((_, index)) if index.is_empty() => {
                let detail = "an index run is gone; what only it lists cannot be found";
                context.findings.report(&Finding::error("run-missing", detail).on(key))?;
            }
            Ok((packs, _)) => {
                catalog.good.runs.push(run.clone());
                for (name, facts) in packs {
                    catalog.add(context, name, facts, &key)?;
                }
            }
            Err(error) => {
                let finding = Finding::error("run-damaged", error.to_string());
                context.findings.report(&finding.on(key))?;
            }
        }
    }
    Ok(catalog)
}

fn packs_of(index: &Index) -> Result<HashMap<PackName, PackFacts>> {
    let mut packs: HashMap<PackName, PackFacts> = HashMap::new();
    for pack in index.packs() {
        let (kind, object_bytes) = (pack.kind, pack.object_bytes);
        packs.insert(pack.name, PackFacts { kind, object_bytes, listing: Listing::default() });
    }
    for (id, place) in index.entries() {
        let envelope = index.envelope(&place)?;
        if let Some(facts) = packs.get_mut(&index.pack(&place)?.name) {
            facts.listing.add(&id, place.offset(), place.length(), &envelope);
        }
    }
    Ok(packs)
}

impl Catalog {
    fn add(
        &mut self,
        context: &Context<'_>,
        name: PackName,
        facts: PackFacts,
        run: &str,
    ) -> Result<()> {
        let known = *self.packs.entry(name).or_insert(facts);
        let object = || context.scope.key(&pack_key(facts.kind, &name));
        if (known.kind, known.object_bytes) != (facts.kind, facts.object_bytes) {
            let detail = format!("{run} and another run disagree on the kind or size of a pack");
            return context.findings.report(&Finding::error("runs-disagree", detail).on(object()));
        }
        if known.listing != facts.listing {
            let detail = format!("{run} and another run list different blobs of a pack");
            let finding = Finding::new(Severity::Warning, "runs-disagree", detail);
            return context.findings.report(&finding.on(object()));
        }
        Ok(())
    }

    /// The readable runs together, to find pages by.
    pub(super) fn load(&self, context: &Context<'_>) -> Result<LoadedIndex> {
        let memory = context.options.look.index_memory();
        let index = Arc::new(Index::load_present(context.scope, &self.good, memory)?);
        let bytes: u64 = self.good.runs.iter().map(|run| run.size).sum();
        Ok(LoadedIndex { index, is_whole: bytes <= memory })
    }

    /// Gives every entry of every readable run to `look`, with the index that its place belongs to.
    fn each_entry(
        &self,
        context: &Context<'_>,
        loaded: &LoadedIndex,
        mut look: impl FnMut(&Index, ShortId, Place) -> Result<()>,
    ) -> Result<()> {
        if loaded.is_whole {
            let mut entries = loaded.index.entries();
            return entries.try_for_each(|(id, place)| look(&loaded.index, id, place));
        }
        for run in &self.good.runs {
            let one = IndexOptions { runs: vec![run.clone()], ..self.good.clone() };
            let index = Index::load_present(context.scope, &one, u64::MAX)?;
            index.entries().try_for_each(|(id, place)| look(&index, id, place))?;
        }
        Ok(())
    }
}

/// Chunks that cannot be had.
pub(super) struct Lost {
    pub(super) numbers: NumberSet,
    pub(super) ids: HashMap<u32, ShortId>,
    /// Of those that the index lists: a pack where they should be.
    places: HashMap<u32, (PackKind, PackName)>,
}

/// Looks for everything that is reached in the places that are not known to be bad.
pub(super) fn find_chunks(
    context: &Context<'_>,
    catalog: &Catalog,
    loaded: &LoadedIndex,
    bad: &BadPacks,
    reach: &Reach,
) -> Result<Lost> {
    let mut found = NumberSet::new(reach.count());
    let mut places = HashMap::new();
    catalog.each_entry(context, loaded, |index, id, place| {
        let Some(number) = reach.find(&id).filter(|number| !found.contains(*number)) else {
            return Ok(());
        };
        let pack = index.pack(&place)?;
        let is_kind = match pack.kind {
            PackKind::Data => !reach.is_page(number),
            PackKind::Metadata => reach.chunk_bytes(number).is_none(),
        };
        if is_kind {
            if bad.is_readable(pack, &place)? {
                found.insert(number);
            } else {
                places.insert(number, (pack.kind, pack.name));
            }
        }
        Ok(())
    })?;
    let mut numbers = NumberSet::new(reach.count());
    // Pages were read already, and reported then.
    let mut ids = HashMap::new();
    for (id, number) in reach.ids() {
        if !reach.is_page(number) && !found.contains(number) {
            numbers.insert(number);
            ids.insert(number, *id);
        }
    }
    Ok(Lost { numbers, ids, places })
}

/// One finding for each chunk that is lost, in the order of ids.
pub(super) fn report_lost(context: &Context<'_>, lost: &Lost) -> Result<()> {
    let mut ids: Vec<_> = lost.ids.iter().map(|(number, id)| (id, number)).collect();
    ids.sort_unstable();
    for (id, number) in ids {
        let finding = match lost.places.get(number) {
            None => Finding::error("chunk-missing", format!("no run lists chunk {id}")),
            Some((kind, name)) => {
                let detail = format!("chunk {id} cannot be read from any pack that has it");
                let object = context.scope.key(&pack_key(*kind, name));
                Finding::error("chunk-damaged", detail).on(object)
            }
        };
        context.findings.report(&finding)?;
    }
    Ok(())
}
