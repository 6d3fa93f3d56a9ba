//! `survey`: which runs can be read to their end, and what they say together of each pack. Unlike the
//! other verbs it goes on when a run cannot be read: finding that out is its purpose.

use std::collections::BTreeMap;

use hashbrown::HashSet;
use serde::{Deserialize, Serialize};

use super::catalog::Catalog;
use super::join::Join;
use super::runs::{RunOpening, Spot};
use super::usage::Group;
use super::{BulkOptions, Wanted, ahead};
use crate::directory::PackOpening;
use crate::error::{Error, ErrorKind, Result};
use crate::format::ShortId;
use crate::format::pack::{Envelope, PackDirectory, PackKind};
use crate::format::run::EnvelopeSection;
use crate::index::{PackName, RunName, pack_key, parse_names};
use crate::scope::{Scope, hex16};

/// A batch of rows has about so many bytes.
const BATCH_BYTES: usize = 64 << 10;

/// Options of `survey`.
#[derive(Clone, Debug, Deserialize)]
pub struct SurveyOptions {
    /// What every verb is given.
    #[serde(flatten)]
    pub bulk: BulkOptions,
    /// Read the directory of each pack, too, to see whether the runs list all of it.
    #[serde(default)]
    pub directories: bool,
}

/// Runs by what is wrong with them.
#[derive(Debug, Default, Serialize)]
pub struct Survey {
    /// Runs that can be read.
    pub runs: Vec<String>,
    /// Run -> why it cannot be read, or must not be believed.
    pub damaged: BTreeMap<String, String>,
    /// Runs that can be read, and contradict others that can.
    pub contradicting: BTreeMap<String, String>,
    /// Runs that are gone.
    pub missing: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    kind: &'static str,
    object_bytes: u32,
    entries: u64,
    /// The pack has blobs that no run lists.
    is_incomplete: bool,
}

/// What a list of a pack's blobs comes to, whatever its order: their number, and the sum of a digest
/// of each. Two lists with the same sum are equal unless somebody can make BLAKE3 collide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) entries: u64,
    sum: u128,
}

impl Listing {
    fn add(&mut self, id: &ShortId, offset: u32, length: u32) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&id.0).update(&offset.to_le_bytes()).update(&length.to_le_bytes());
        let digest = hasher.finalize();
        let half = digest.as_bytes().first_chunk::<16>().copied().unwrap_or_default();
        self.sum = self.sum.wrapping_add(u128::from_le_bytes(half));
        self.entries += 1;
    }

    /// Of what a pack says of itself.
    pub(crate) fn of(directory: &PackDirectory) -> Self {
        let mut listing = Self::default();
        for entry in &directory.entries {
            listing.add(&entry.id.short(), entry.offset, entry.length);
        }
        listing
    }
}

/// One pack, as all readable runs together have it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed {
    pub(crate) name: PackName,
    pub(crate) kind: PackKind,
    pub(crate) object_bytes: u32,
    pub(crate) listing: Listing,
    number: u32,
}

/// A place that two runs describe differently.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disagreement {
    pub(crate) pack: PackName,
    pub(crate) kind: PackKind,
    pub(crate) offset: u32,
}

/// The runs, and what they say.
pub(crate) struct Surveyed {
    pub(crate) good: Vec<RunName>,
    pub(crate) bad: Vec<(RunName, Error)>,
    /// Those that contradict the ones in `good`.
    pub(crate) contradicting: Vec<(RunName, Error)>,
    pub(crate) packs: Vec<Listed>,
    pub(crate) disagreements: Vec<Disagreement>,
    catalog: Catalog,
}

impl Surveyed {
    /// Whether the runs give each blob of a pack the envelope that the pack's directory gives it.
    pub(crate) fn has_envelopes_of(&self, pack: &Listed, directory: &PackDirectory) -> bool {
        let section = EnvelopeSection::parse(self.catalog.section(pack.number));
        section.is_ok_and(|(section, _)| {
            directory.entries.iter().all(|entry| {
                let said = directory.envelopes.get(usize::from(entry.envelope));
                said.is_some() && section.envelope_at(entry.offset) == said
            })
        })
    }

    /// The envelope that the runs give the blob at an offset of a pack.
    pub(crate) fn envelope_at(&self, pack: &PackName, offset: u32) -> Option<Envelope> {
        let section = self.catalog.section(self.catalog.find(pack)?);
        EnvelopeSection::parse(section).ok()?.0.envelope_at(offset).copied()
    }
}

/// Reads the runs, and tells of each pack in rows.
pub fn survey(scope: &Scope, options: &SurveyOptions) -> Result<Survey> {
    let surveyed = survey_runs(scope, &options.bulk)?;
    let mut result = Survey::default();
    result.runs.extend(surveyed.good.iter().map(|run| run.name.clone()));
    for (run, error) in &surveyed.bad {
        if error.kind == ErrorKind::NotFound {
            result.missing.push(run.name.clone());
        } else {
            result.damaged.insert(run.name.clone(), error.what.clone().into_owned());
        }
    }
    for (run, error) in &surveyed.contradicting {
        result.contradicting.insert(run.name.clone(), error.what.clone().into_owned());
    }
    let incomplete = if options.directories {
        find_incomplete(scope, &options.bulk, &surveyed)?
    } else {
        HashSet::new()
    };
    let mut batch = Vec::new();
    for pack in &surveyed.packs {
        let row = Row {
            name: hex16(&pack.name),
            kind: if pack.kind == PackKind::Data { "data" } else { "meta" },
            object_bytes: pack.object_bytes,
            entries: pack.listing.entries,
            is_incomplete: incomplete.contains(&pack.name),
        };
        serde_json::to_writer(&mut batch, &row)
            .map_err(|error| Error::internal(error.to_string()))?;
        batch.push(b'\n');
        if batch.len() >= BATCH_BYTES {
            scope.broker.output("rows", std::mem::take(&mut batch))?;
        }
    }
    if !batch.is_empty() {
        scope.broker.output("rows", batch)?;
    }
    Ok(result)
}

/// Packs that have more blobs than the runs list. A merge spreads the blobs of a pack over several runs,
/// of which one may be lost. What cannot be read is left out.
fn find_incomplete(
    scope: &Scope,
    bulk: &BulkOptions,
    surveyed: &Surveyed,
) -> Result<HashSet<PackName>> {
    let mut incomplete = HashSet::new();
    let start = |pack: &Listed| {
        let key = pack_key(pack.kind, &pack.name);
        fault_or_end(PackOpening::start(scope, pack.kind, key, u64::from(pack.object_bytes)))
    };
    let bytes_max = bulk.memory_bytes / 8;
    ahead(&surveyed.packs, bulk.gets, start, |pack, opening| {
        let opened = fault_or_end(opening.and_then(|opening| opening.finish(scope, bytes_max)))?;
        if opened.is_ok_and(|pack_itself| {
            pack_itself.directory.entries.len() as u64 > pack.listing.entries
        }) {
            incomplete.insert(pack.name);
        }
        Ok(())
    })?;
    Ok(incomplete)
}

/// Reads all runs side by side, and each on its own only when that fails.
pub(crate) fn survey_runs(scope: &Scope, bulk: &BulkOptions) -> Result<Surveyed> {
    let all = &bulk.index.runs;
    if let Ok(surveyed) = fault_or_end(join_runs(scope, bulk, all.clone()))? {
        return Ok(surveyed);
    }
    let Sorted { good, bad, contradicting } = try_each(scope, bulk)?;
    Ok(Surveyed { bad, contradicting, ..join_runs(scope, bulk, good)? })
}

/// What the runs say of each pack; fails for any that cannot be read.
fn join_runs(scope: &Scope, bulk: &BulkOptions, good: Vec<RunName>) -> Result<Surveyed> {
    let mut catalog = Catalog::new(parse_names(&bulk.index.dead)?, bulk.catalog_memory());
    let wanted = Wanted { runs: &good, with_sections: true, ..Wanted::default() };
    let mut join = Join::new(bulk.open(scope, &mut catalog, &wanted)?)?;
    let mut listings = vec![Listing::default(); catalog.packs().len()];
    let mut note = |id: &ShortId, spot: Spot| {
        if let Some(listing) = listings.get_mut(spot.pack as usize) {
            listing.add(id, spot.offset, spot.length);
        }
    };
    let mut disagreements = Vec::new();
    let mut group = Group::default();
    while let Some(id) = group.next(&mut join, |id, spot| {
        note(&id, spot);
        Ok(())
    })? {
        group.places.iter().for_each(|spot| note(&id, *spot));
        for pair in group.places.windows(2) {
            if let [a, b] = pair
                && (a.pack, a.offset) == (b.pack, b.offset)
            {
                let pack = catalog.pack(a.pack)?;
                let (pack, kind) = (pack.name, pack.kind);
                disagreements.push(Disagreement { pack, kind, offset: a.offset });
            }
        }
    }
    let numbered = catalog.packs().iter().zip(&listings).zip(0_u32..);
    let packs = numbered.map(|((pack, listing), number)| Listed {
        name: pack.name,
        kind: pack.kind,
        object_bytes: pack.object_bytes,
        listing: *listing,
        number,
    });
    let packs = packs.collect();
    let (bad, contradicting) = (Vec::new(), Vec::new());
    Ok(Surveyed { good, bad, contradicting, packs, disagreements, catalog })
}

/// Runs by how reading each on its own went.
#[derive(Default)]
struct Sorted {
    good: Vec<RunName>,
    bad: Vec<(RunName, Error)>,
    contradicting: Vec<(RunName, Error)>,
}

/// Which runs can be read to their end and do not contradict those before them.
fn try_each(scope: &Scope, bulk: &BulkOptions) -> Result<Sorted> {
    let dead = parse_names(&bulk.index.dead)?;
    let mut known = Catalog::new(dead.clone(), bulk.catalog_memory() / 2);
    let mut sorted = Sorted::default();
    for run in &bulk.index.runs {
        let mut own = Catalog::new(dead.clone(), bulk.catalog_memory() / 2);
        let read = RunOpening::start(scope, run, bulk.block(1))
            .and_then(|opening| opening.finish(&mut own, false, true))
            .and_then(|mut stream| {
                while stream.next()?.is_some() {}
                Ok(())
            });
        if let Err(error) = fault_or_end(read)? {
            sorted.bad.push((run.clone(), error));
        } else if let Err(error) = fault_or_end(known.take_in(&own))? {
            sorted.contradicting.push((run.clone(), error));
        } else {
            sorted.good.push(run.clone());
        }
    }
    Ok(sorted)
}

/// What is wrong with something stored is inside; what ends the job is outside.
fn fault_or_end<T>(result: Result<T>) -> Result<Result<T>> {
    use ErrorKind::{Damaged, NotFound, Unsupported, WrongKey};
    match result {
        Err(error) if !matches!(error.kind, Damaged | NotFound | Unsupported | WrongKey) => {
            Err(error)
        }
        other => Ok(other),
    }
}

/// Gives every place that the runs know to `look`, id by id.
pub(crate) fn each_place(
    scope: &Scope,
    bulk: &BulkOptions,
    mut look: impl FnMut(ShortId, &PackPlace) -> Result<()>,
) -> Result<()> {
    let mut catalog = Catalog::new(parse_names(&bulk.index.dead)?, bulk.catalog_memory());
    let wanted = Wanted { runs: &bulk.index.runs, ..Wanted::default() };
    let mut join = Join::new(bulk.open(scope, &mut catalog, &wanted)?)?;
    let mut group = Group::default();
    let place = |spot: Spot| -> Result<PackPlace> {
        let pack = catalog.pack(spot.pack)?;
        Ok(PackPlace {
            name: pack.name,
            kind: pack.kind,
            object_bytes: pack.object_bytes,
            offset: spot.offset,
            length: spot.length,
        })
    };
    while let Some(id) = group.next(&mut join, |id, spot| look(id, &place(spot)?))? {
        for spot in &group.places {
            look(id, &place(*spot)?)?;
        }
    }
    Ok(())
}

/// Where a blob lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PackPlace {
    pub(crate) name: PackName,
    pub(crate) kind: PackKind,
    pub(crate) object_bytes: u32,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}
