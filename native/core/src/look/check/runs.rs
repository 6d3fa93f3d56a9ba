//! Index runs: whether each can be read, what they say of packs, and which chunks they lead to.

use std::sync::Arc;

use hashbrown::HashMap;

use super::packs::BadPacks;
use super::walk::{NumberSet, Reach};
use super::{Context, Finding, Severity};
use crate::bulk::BulkOptions;
use crate::bulk::survey::{Disagreement, Listed, PackPlace, Surveyed, each_place, survey_runs};
use crate::error::{ErrorKind, Result};
use crate::format::ShortId;
use crate::format::pack::PackKind;
use crate::index::{Index, IndexOptions, PackName, pack_key};

/// What the runs say of all packs.
pub(super) struct Catalog {
    /// By name; in the order of names.
    pub(super) packs: Vec<Listed>,
    /// The runs that can be read.
    pub(super) good: IndexOptions,
    pub(super) surveyed: Surveyed,
}

/// The index to look pages up in.
pub(super) struct LoadedIndex {
    pub(super) index: Arc<Index>,
    /// All runs are held whole.
    is_whole: bool,
}

/// Reads every run as a stream. What is wrong with one does not hide the others.
pub(super) fn check_runs(context: &Context<'_>) -> Result<Catalog> {
    let all = context.options.look.readable();
    let surveyed = survey_runs(context.scope, &bulk_options(context, &all))?;
    for (run, error) in &surveyed.bad {
        let key = context.scope.key(&format!("index/{}", run.name));
        let finding = if error.kind == ErrorKind::NotFound {
            let detail = "an index run is gone; what only it lists cannot be found";
            Finding::error("run-missing", detail)
        } else {
            Finding::error("run-damaged", error.to_string())
        };
        context.findings.report(&finding.on(key))?;
    }
    for (run, error) in &surveyed.contradicting {
        let key = context.scope.key(&format!("index/{}", run.name));
        context.findings.report(&Finding::error("runs-disagree", error.to_string()).on(key))?;
    }
    for Disagreement { pack, kind, offset } in &surveyed.disagreements {
        let detail = format!("index runs disagree about the blob at offset {offset} of a pack");
        let finding = Finding::new(Severity::Warning, "runs-disagree", detail);
        context.findings.report(&finding.on(context.scope.key(&pack_key(*kind, pack))))?;
    }
    let mut packs = surveyed.packs.clone();
    packs.sort_unstable_by_key(|pack| pack.name);
    let good = IndexOptions { runs: surveyed.good.clone(), ..all };
    Ok(Catalog { packs, good, surveyed })
}

pub(super) fn bulk_options(context: &Context<'_>, index: &IndexOptions) -> BulkOptions {
    let look = &context.options.look;
    BulkOptions { memory_bytes: look.memory_bytes, gets: look.gets, index: index.clone() }
}

impl Catalog {
    /// The readable runs together, to find pages by.
    pub(super) fn load(&self, context: &Context<'_>) -> Result<LoadedIndex> {
        let memory = context.options.look.index_memory();
        let index = Arc::new(Index::load_present(context.scope, &self.good, memory)?);
        let bytes: u64 = self.good.runs.iter().map(|run| run.size).sum();
        Ok(LoadedIndex { index, is_whole: bytes <= memory })
    }

    /// Gives every place in the readable runs to `look`.
    fn each_place(
        &self,
        context: &Context<'_>,
        loaded: &LoadedIndex,
        mut look: impl FnMut(ShortId, &PackPlace) -> Result<()>,
    ) -> Result<()> {
        if !loaded.is_whole {
            return each_place(context.scope, &bulk_options(context, &self.good), look);
        }
        loaded.index.entries().try_for_each(|(id, place)| {
            let pack = loaded.index.pack(&place)?;
            let place = PackPlace {
                name: pack.name,
                kind: pack.kind,
                object_bytes: pack.object_bytes,
                offset: place.offset(),
                length: place.length(),
            };
            look(id, &place)
        })
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
    catalog.each_place(context, loaded, |id, place| {
        let Some(number) = reach.find(&id).filter(|number| !found.contains(*number)) else {
            return Ok(());
        };
        let is_kind = match place.kind {
            PackKind::Data => !reach.is_page(number),
            PackKind::Metadata => reach.chunk_bytes(number).is_none(),
        };
        if is_kind {
            if bad.is_readable(place)? {
                found.insert(number);
            } else {
                places.insert(number, (place.kind, place.name));
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
