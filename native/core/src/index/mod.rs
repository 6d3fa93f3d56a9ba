//! The index as one job sees it: the valid runs, and which of their packs count.
//!
//! Runs that fit the memory given for them are held whole (28 bytes a blob). Of the others only
//! header, filter and pack table are held, about 10 bits a blob, and blocks of entries are read on demand; so
//! the start of a backup follows the volume, not the repository.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hashbrown::{HashMap, HashSet};
use serde::Deserialize;

use crate::broker::lock;
use crate::bulk::doubts::Origins;
use crate::crypto::sign::Standing;
use crate::crypto::{self, Action, ObjectType, Role, ScopeKeys};
use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::{Envelope, PackKind};
use crate::format::run::{
    EnvelopeSection, Location, PackRecord, RUN_HEADER_BYTES, RUN_PACK_BYTES, Run, RunHeader,
    RunParts,
};
use crate::format::{Id, ShortId};
use crate::scope::{Ranged, Scope, hex16};

mod holding;

use holding::{Holding, holdings};

/// Runs that are loaded at the same time.
const LOADS_IN_FLIGHT: usize = 16;

/// Name of a pack: 16 random bytes.
pub type PackName = [u8; 16];

/// The view that the caller gives a job: what `gc/state` and the list of runs say.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct IndexOptions {
    /// The runs that count.
    #[serde(default)]
    pub runs: Vec<RunName>,
    /// Packs whose entries do not count.
    #[serde(default)]
    pub dead: Vec<String>,
    /// Packs that a backup must not dedup against.
    #[serde(default)]
    pub condemned: Vec<String>,
}

/// One run.
#[derive(Clone, Debug, Deserialize)]
pub struct RunName {
    /// The last part of its key.
    pub name: String,
    /// Bytes of the object.
    pub size: u64,
    /// It stands in the base of `gc/state`, in place of others: no writer may have signed it.
    #[serde(default)]
    pub base: bool,
}

/// Where a blob lies. Means something only to the index that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    run: u32,
    /// Offset, length and pack ordinal as the run has them.
    at: Location,
}

impl Place {
    /// Offset of the blob in its pack's plaintext, in bytes.
    pub fn offset(&self) -> u32 {
        self.at.offset
    }

    /// Bytes of the sealed blob.
    pub fn length(&self) -> u32 {
        self.at.length
    }

    /// Which pack of the index it is in: equal for two places in one pack of one run.
    pub fn pack_key(&self) -> (u32, u32) {
        (self.run, self.at.pack)
    }
}

enum Body {
    Whole(Run),
    Parts {
        parts: RunParts,
        ranged: Ranged,
        blocks: Mutex<HashMap<u64, Vec<u8>>>,
        blocks_kept: usize,
    },
}

/// What an index is loaded for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Read,
    Check,
    Deduplicate,
}

struct View {
    name: String,
    /// Whoever signed it has been revoked since, as far as that was looked at.
    is_revoked: bool,
    /// A writer signed it, and it lists what somebody else sealed, as far as that was looked at.
    is_forged: bool,
    body: Body,
    packs: Vec<PackRecord>,
    /// By pack ordinal: whether its entries count.
    is_usable: Vec<bool>,
}

/// The runs of one scope.
#[derive(Default)]
pub struct Index {
    views: Vec<View>,
    damaged: Vec<Error>,
    /// The keys, where nothing counts that was sealed by somebody who has been revoked.
    distrust: Option<Arc<ScopeKeys>>,
    /// Something does not count because whoever signed or sealed it has been revoked.
    lacks_revoked: AtomicBool,
    /// By run and pack: whether it counts, of packs of which all or nothing does.
    judged: Mutex<HashMap<(u32, u32), bool>>,
}

impl Index {
    /// Loads the runs for a reader, whole ones up to `memory_bytes` together. `NotFound` when one is gone:
    /// it was merged into another that `options` do not name yet, and without it what is there would seem
    /// to be missing. The caller looks again. Runs that do not open are left out, see [`Self::damaged`].
    pub fn load(scope: &Scope, options: &IndexOptions, memory_bytes: u64) -> Result<Self> {
        Self::load_for(Purpose::Read, scope, options, memory_bytes)
    }

    /// The same without the runs that are gone, for whoever examines what there is. Here damage is an error.
    pub fn load_present(scope: &Scope, options: &IndexOptions, memory_bytes: u64) -> Result<Self> {
        Self::load_for(Purpose::Check, scope, options, memory_bytes)
    }

    /// Loads what a backup may build on: neither runs that are gone or do not open, which costs only
    /// deduplication, nor those of a principal who was revoked, nor what such a one sealed, whoever lists it. Of runs
    /// that are not held whole nobody verifies who signed them: that would take reading all of them.
    pub fn load_trusted(scope: &Scope, options: &IndexOptions, memory_bytes: u64) -> Result<Self> {
        Self::load_for(Purpose::Deduplicate, scope, options, memory_bytes)
    }

    fn load_for(
        purpose: Purpose,
        scope: &Scope,
        options: &IndexOptions,
        memory_bytes: u64,
    ) -> Result<Self> {
        let mut left_out = parse_names(&options.dead)?;
        left_out.extend(parse_names(&options.condemned)?);
        let wanted = holdings(&options.runs, memory_bytes);
        let mut views = Vec::with_capacity(wanted.len());
        let mut damaged = Vec::new();
        let mut lacks_revoked = false;
        let loaded = View::load_all(scope, &wanted, &left_out);
        for ((run, _), found) in wanted.into_iter().zip(loaded) {
            match found {
                Ok(view) if purpose != Purpose::Deduplicate => views.push(view),
                Ok(view) if view.is_forged => {
                    let what = "a part of the index is left out: a writer lists what another principal sealed";
                    damaged.push(Error::damaged(what).at(view.name));
                }
                Ok(view) if !view.is_revoked => views.push(view),
                Ok(_) => lacks_revoked = true,
                Err(error) if purpose != Purpose::Read && error.kind == ErrorKind::NotFound => {}
                Err(error) if purpose != Purpose::Check && does_not_count(&error) => {
                    let what = format!("a part of the index is left out: {}", error.what);
                    damaged
                        .push(Error::damaged(what).at(scope.key(&format!("index/{}", run.name))));
                }
                Err(error) => return Err(error),
            }
        }
        let is_distrusting = purpose == Purpose::Deduplicate && scope.keys.verifier().has_revoked();
        Ok(Self {
            views,
            damaged,
            distrust: is_distrusting.then(|| Arc::clone(&scope.keys)),
            lacks_revoked: lacks_revoked.into(),
            judged: Mutex::default(),
        })
    }

    /// What was wrong with runs that were left out. What only they list cannot be found.
    pub fn damaged(&self) -> &[Error] {
        &self.damaged
    }

    /// Why the blob cannot be had: no run that opens lists it. `what` is `chunk` or the like.
    pub fn missing(&self, what: &str, id: &Id) -> Error {
        let missing = format!("{what} {id} is in no pack of the index");
        match self.damaged.as_slice() {
            [] => Error::new(ErrorKind::NotFound, missing),
            [one] => Error::damaged(format!("{missing}, a part of which is damaged"))
                .at(one.key.clone().unwrap_or_default()),
            [_, ..] => Error::damaged(format!("{missing}, parts of which are damaged")),
        }
    }

    /// Whether anything did not count so far because whoever signed or sealed it has been revoked.
    pub fn lacks_revoked(&self) -> bool {
        self.lacks_revoked.load(Ordering::Relaxed)
    }

    /// Whether a place counts: a backup builds on nothing that was sealed by somebody who was revoked.
    fn is_believed(&self, place: &Place) -> Result<bool> {
        let Some(keys) = &self.distrust else { return Ok(true) };
        if let Some(known) = lock(&self.judged).get(&place.pack_key()) {
            return Ok(*known);
        }
        let is_good =
            |one: &Envelope| !keys.verifier().is_revoked(&crypto::Envelope::origin_of(one));
        let (is_believed, is_uniform) = self.with_section(place, |section| {
            let envelope = section.envelope_at(place.at.offset)?;
            Some((is_good(envelope), section.envelopes().len() == 1))
        })?;
        if is_uniform {
            lock(&self.judged).insert(place.pack_key(), is_believed);
        }
        self.lacks_revoked.fetch_or(!is_believed, Ordering::Relaxed);
        Ok(is_believed)
    }

    /// One place where the blob with this short id lies, if there is any.
    pub fn lookup(&self, id: &ShortId) -> Result<Option<Place>> {
        for (number, view) in (0u32..).zip(&self.views) {
            for at in view.find(id)?.into_iter().filter(|at| view.counts(at)) {
                let place = Place { run: number, at };
                if self.is_believed(&place)? {
                    return Ok(Some(place));
                }
            }
        }
        Ok(None)
    }

    /// All places where a blob with this short id lies.
    pub fn lookup_all(&self, id: &ShortId) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        for (number, view) in (0u32..).zip(&self.views) {
            for at in view.find(id)?.into_iter().filter(|at| view.counts(at)) {
                let place = Place { run: number, at };
                if self.is_believed(&place)? {
                    places.push(place);
                }
            }
        }
        Ok(places)
    }

    /// The pack of a place.
    pub fn pack(&self, place: &Place) -> Result<&PackRecord> {
        let view = self.view(place)?;
        view.packs.get(place.at.pack as usize).ok_or_else(|| view.damaged("an entry names no pack"))
    }

    /// The envelope of the blob at a place.
    pub fn envelope(&self, place: &Place) -> Result<Envelope> {
        self.with_section(place, |section| section.envelope_at(place.at.offset).copied())
    }

    /// What `look` finds among the envelopes of a place's pack.
    fn with_section<T>(
        &self,
        place: &Place,
        look: impl Fn(&EnvelopeSection<'_>) -> Option<T>,
    ) -> Result<T> {
        let view = self.view(place)?;
        match &view.body {
            Body::Whole(run) => look(&run.section(place.at.pack)?),
            Body::Parts { parts, ranged, .. } => {
                let record = self.pack(place)?;
                let section = parts.header().envelopes_range();
                let start = section.start + u64::from(record.section_offset);
                // Most packs have one envelope and one span: 4 + 2 + 104 + 8 bytes.
                let bytes = ranged.read(start..section.end.min(start + 4096))?;
                if let Ok((found, _)) = EnvelopeSection::parse(&bytes) {
                    look(&found)
                } else {
                    let all = ranged.read(start..section.end)?;
                    look(&EnvelopeSection::parse(&all)?.0)
                }
            }
        }
        .ok_or_else(|| view.damaged("a blob without its envelope"))
    }

    /// Whether there are no runs.
    pub fn is_empty(&self) -> bool {
        self.views.is_empty()
    }

    /// Every entry of the runs that are held whole, for checks: id, place.
    pub fn entries(&self) -> impl Iterator<Item = (ShortId, Place)> + '_ {
        (0u32..).zip(&self.views).flat_map(|(number, view)| {
            let run = match &view.body {
                Body::Whole(run) => Some(run),
                Body::Parts { .. } => None,
            };
            run.into_iter()
                .flat_map(Run::iter)
                .filter(|(_, at)| view.counts(at))
                .map(move |(id, at)| (id, Place { run: number, at }))
        })
    }

    /// Every pack that counts, once for each run that lists it.
    pub fn packs(&self) -> impl Iterator<Item = &PackRecord> {
        self.views.iter().flat_map(|view| {
            view.packs
                .iter()
                .zip(&view.is_usable)
                .filter(|(_, usable)| **usable)
                .map(|(pack, _)| pack)
        })
    }

    fn view(&self, place: &Place) -> Result<&View> {
        let view = self.views.get(place.run as usize);
        view.ok_or_else(|| Error::internal("a place of another index"))
    }
}

/// What `work` gives in `count` threads, this one among them.
fn load_beside<T: Send>(count: usize, work: impl Fn() -> Vec<T> + Sync) -> Vec<T> {
    std::thread::scope(|threads| {
        let others: Vec<_> = (1..count).map(|_| threads.spawn(&work)).collect();
        let mut found = work();
        for other in others {
            match other.join() {
                Ok(more) => found.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        found
    })
}

/// A run that does not open, or that somebody signed who may not: it is left out, and said so.
fn does_not_count(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Damaged | ErrorKind::WrongKey)
}

impl View {
    /// All of them, in order, several at a time: each takes some requests, one after the other.
    fn load_all(
        scope: &Scope,
        wanted: &[(&RunName, Holding)],
        left_out: &HashSet<PackName>,
    ) -> Vec<Result<Self>> {
        let next = AtomicUsize::new(0);
        let load = || {
            let mut loaded = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some((run, holding)) = wanted.get(number) else { return loaded };
                loaded.push((number, Self::load(scope, run, *holding, left_out)));
            }
        };
        let mut loaded = load_beside(wanted.len().min(LOADS_IN_FLIGHT), load);
        loaded.sort_unstable_by_key(|(number, _)| *number);
        loaded.into_iter().map(|(_, view)| view).collect()
    }

    fn load(
        scope: &Scope,
        run: &RunName,
        holding: Holding,
        left_out: &HashSet<PackName>,
    ) -> Result<Self> {
        let name = format!("index/{}", run.name);
        let at = |error: Error| error.at(scope.key(&name));
        let (mut is_revoked, mut is_forged) = (false, false);
        let (body, packs) = if let Holding::Parts { blocks_kept } = holding {
            Self::load_parts(scope, &name, run.size, blocks_kept).map_err(at)?
        } else {
            let action = if run.base { Action::Replace } else { Action::Add };
            let (body, signed_by) = scope.open_signed(ObjectType::Run, &name, action)?;
            is_revoked = signed_by.standing == Standing::Revoked;
            let loaded = Run::parse(body).map_err(at)?;
            let count = loaded.header().packs;
            let packs: Result<_> = (0..count).map(|ordinal| loaded.pack(ordinal)).collect();
            if signed_by.role == Role::Writer {
                let mut origins = Origins::default();
                for ordinal in 0..count {
                    origins.note(&loaded.section(ordinal).map_err(at)?);
                }
                is_forged = !origins.are_of(signed_by.principal);
            }
            (Body::Whole(loaded), packs.map_err(at)?)
        };
        let is_usable = packs.iter().map(|pack| !left_out.contains(&pack.name)).collect();
        Ok(Self { name: scope.key(&name), is_revoked, is_forged, body, packs, is_usable })
    }

    fn load_parts(
        scope: &Scope,
        name: &str,
        size: u64,
        blocks_kept: usize,
    ) -> Result<(Body, Vec<PackRecord>)> {
        let ranged = scope.ranged(ObjectType::Run, name, size)?;
        let header = RunHeader::parse(&ranged.read(0..RUN_HEADER_BYTES as u64)?)?;
        let parts = RunParts::parse(&ranged.read(0..header.filter_range().end)?)?;
        let table = ranged.read(header.packs_range())?;
        let packs: Result<_> = table.chunks_exact(RUN_PACK_BYTES).map(PackRecord::parse).collect();
        Ok((Body::Parts { parts, ranged, blocks: Mutex::default(), blocks_kept }, packs?))
    }

    fn counts(&self, at: &Location) -> bool {
        self.is_usable.get(at.pack as usize).copied().unwrap_or(false)
    }

    fn find(&self, id: &ShortId) -> Result<Vec<Location>> {
        match &self.body {
            Body::Whole(run) => Ok(run.lookup(id).collect()),
            Body::Parts { parts, ranged, blocks, blocks_kept } => {
                if !parts.maybe_contains(id) {
                    return Ok(Vec::new());
                }
                let mut probe = parts.probe(*id);
                while let Some(range) = probe.wanted() {
                    let kept = lock(blocks).get(&range.start).cloned();
                    let block = if let Some(block) = kept {
                        block
                    } else {
                        let block = ranged.read(range.clone())?.to_vec();
                        let mut blocks = lock(blocks);
                        if blocks.len() >= *blocks_kept {
                            // Any will do: blocks are asked for in no order, chunk ids are random.
                            let victim = blocks.keys().next().copied();
                            victim.map(|key| blocks.remove(&key));
                        }
                        blocks.insert(range.start, block.clone());
                        block
                    };
                    probe.feed(&range, &block)?;
                }
                Ok(probe.into_locations())
            }
        }
    }

    fn damaged(&self, what: &'static str) -> Error {
        Error::damaged(what).at(self.name.clone())
    }
}

/// Key of a pack below the scope.
pub fn pack_key(kind: PackKind, name: &PackName) -> String {
    let name = hex16(name);
    let folder = match kind {
        PackKind::Data => "data",
        PackKind::Metadata => "meta",
    };
    format!("{folder}/{}/{name}", name.get(..2).unwrap_or_default())
}

/// Type of the object that a pack is.
pub fn pack_type(kind: PackKind) -> ObjectType {
    match kind {
        PackKind::Data => ObjectType::DataPack,
        PackKind::Metadata => ObjectType::MetadataPack,
    }
}

/// Pack names in hex, as a set.
pub fn parse_names(names: &[String]) -> Result<HashSet<PackName>> {
    names
        .iter()
        .map(|name| {
            let number = u128::from_str_radix(name, 16).ok().filter(|_| name.len() == 32);
            number.map(u128::to_be_bytes).ok_or_else(|| {
                Error::new(ErrorKind::Usage, "not the name of a pack").at(name.clone())
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;
    use std::time::Duration;

    use super::*;

    #[test]
    fn loads_run_beside_each_other() {
        let (here, changed) = (Mutex::new(0), Condvar::new());
        let met = load_beside(4, || {
            let mut count = lock(&here);
            *count += 1;
            changed.notify_all();
            let wait = changed.wait_timeout_while(count, Duration::from_secs(30), |n| *n < 4);
            vec![wait.is_ok_and(|(_, timeout)| !timeout.timed_out())]
        });
        assert_eq!(met, [true; 4], "all four were there at the same time");
    }
}
