//! `salvage`: what still opens of packs that are damaged, in new packs.
//!
//! Where a pack's directory is lost, the index says where its blobs lie, but holds short ids only; whole ones
//! come from the trees, as far as the key at hand opens them. A blob whose outer seal opens, and which opens
//! and has its id where the key allows that, is copied as it lies. Everything else is named as lost.

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::super::Rows;
use super::runs::check_runs;
use super::walk::Reach;
use super::{CheckOptions, Context, Findings, fault_or_end, open_sources, walk_trees};
use crate::bulk::rebuild::PackObject;
use crate::bulk::repack::RepackOptions;
use crate::bulk::survey::each_place;
use crate::bulk::writer::PackWriter;
use crate::crypto::{BlobKey, BlobKind, BlobOpener, Envelope, SourceId};
use crate::directory::read_directory;
use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::PackKind;
use crate::format::{Id, ShortId};
use crate::index::{PackName, pack_type};
use crate::scope::{Ranged, Scope, hex16};

/// Options of `salvage`.
#[derive(Clone, Debug, Deserialize)]
pub struct SalvageOptions {
    /// The index, and snapshots whose trees may name what the packs hold.
    #[serde(flatten)]
    pub check: CheckOptions,
    /// The packs, with the size that they should have.
    pub salvage: Vec<PackObject>,
    /// Generation of the new runs.
    #[serde(rename = "gen")]
    pub generation: u64,
    /// Bytes of a new pack, about.
    pub pack_bytes: u64,
}

/// What was saved.
#[derive(Debug, Default, Serialize)]
pub struct Salvaged {
    /// Names of the new packs.
    pub packs: Vec<String>,
    /// Names of the new runs.
    pub runs: Vec<String>,
    /// Blobs that were saved, and their sealed bytes.
    pub saved: u64,
    /// Bytes of these.
    pub saved_bytes: u64,
    /// Blobs that the packs listed, or the index listed in them, and that are lost.
    pub lost: u64,
}

#[derive(Serialize)]
struct LostRow {
    pack: String,
    id: String,
    length: u32,
}

/// One blob to save.
struct Wanted {
    id: Option<Id>,
    short: ShortId,
    offset: u32,
    length: u32,
    envelope: Option<[u8; 104]>,
}

/// Saves what can be saved. New runs are written after the packs that they list.
pub fn salvage(scope: &Scope, options: &SalvageOptions) -> Result<Salvaged> {
    let context = Context { scope, options: &options.check, findings: Findings::silent(scope) };
    let look = &options.check.look;
    let repack = RepackOptions {
        bulk: super::runs::bulk_options(&context, &look.readable()),
        packs: Vec::new(),
        marks: crate::bulk::MarksOptions::default(),
        refs: Vec::new(),
        order: Vec::new(),
        generation: options.generation,
        pack_bytes: options.pack_bytes,
    };
    let mut saver = Saver {
        scope,
        sources: open_sources(&context)?,
        opener: BlobOpener::new()?,
        writer: PackWriter::new(scope, &repack),
        rows: Rows::new(scope),
        lost: 0,
    };
    let mut found = Vec::new();
    for pack in &options.salvage {
        let (kind, name) = pack.parse()?;
        let ranged = scope.ranged(pack_type(kind), &pack.name, pack.size);
        let ranged = fault_or_end(ranged)?.ok();
        let directory = match &ranged {
            Some(ranged) => fault_or_end(read_directory(scope, ranged, kind, &pack.name))?.ok(),
            None => None,
        };
        let wanted = directory.map(|(directory, _)| {
            let entries = directory.entries.iter();
            let wanted = entries.map(|entry| Wanted {
                id: Some(entry.id),
                short: entry.id.short(),
                offset: entry.offset,
                length: entry.length,
                envelope: directory.envelopes.get(usize::from(entry.envelope)).copied(),
            });
            wanted.collect::<Vec<_>>()
        });
        found.push(Found { kind, name, ranged, wanted });
    }
    if found.iter().any(|pack| pack.wanted.is_none()) {
        find_in_index(&context, &mut found)?;
    }
    for pack in found {
        saver.pack(pack)?;
    }
    saver.rows.flush()?;
    let lost = saver.lost;
    let done = saver.writer.finish()?;
    Ok(Salvaged {
        packs: done.packs,
        runs: done.runs,
        saved: done.moved,
        saved_bytes: done.moved_bytes,
        lost,
    })
}

/// A pack, and what should be in it.
struct Found {
    kind: PackKind,
    name: PackName,
    ranged: Option<Ranged>,
    /// None: its directory is lost.
    wanted: Option<Vec<Wanted>>,
}

/// For packs without a directory: places from the index, ids from the trees.
fn find_in_index(context: &Context<'_>, found: &mut [Found]) -> Result<()> {
    let catalog = check_runs(context)?;
    let mut places: HashMap<PackName, Vec<Wanted>> = HashMap::new();
    for pack in found.iter().filter(|pack| pack.wanted.is_none()) {
        places.insert(pack.name, Vec::new());
    }
    let bulk = super::runs::bulk_options(context, &catalog.good);
    let mut reach = Reach::default();
    each_place(context.scope, &bulk, |short, place| {
        if let Some(wanted) = places.get_mut(&place.name) {
            let (offset, length) = (place.offset, place.length);
            wanted.push(Wanted { id: None, short, offset, length, envelope: None });
            reach.ask_for(short);
        }
        Ok(())
    })?;
    for (name, wanted) in &mut places {
        for blob in wanted {
            blob.envelope = catalog.surveyed.envelope_at(name, blob.offset);
        }
    }
    let index = catalog.load(context)?;
    walk_trees(context, &index, &mut reach)?;
    for pack in found.iter_mut().filter(|pack| pack.wanted.is_none()) {
        let mut wanted = places.remove(&pack.name).unwrap_or_default();
        for blob in &mut wanted {
            blob.id = reach.whole_id(&blob.short);
        }
        wanted.sort_unstable_by_key(|blob| (blob.offset, blob.short));
        pack.wanted = Some(wanted);
    }
    Ok(())
}

struct Saver<'a> {
    scope: &'a Scope,
    sources: Vec<SourceId>,
    opener: BlobOpener,
    writer: PackWriter<'a>,
    rows: Rows,
    lost: u64,
}

impl Saver<'_> {
    fn pack(&mut self, pack: Found) -> Result<()> {
        let mut keys: HashMap<[u8; 104], Option<Vec<BlobKey>>> = HashMap::new();
        for blob in pack.wanted.unwrap_or_default() {
            let sealed = match (&pack.ranged, blob.id, blob.envelope) {
                (Some(ranged), Some(id), Some(envelope)) => {
                    let keys = match keys.entry(envelope) {
                        hashbrown::hash_map::Entry::Occupied(known) => known.into_mut(),
                        hashbrown::hash_map::Entry::Vacant(new) => {
                            new.insert(self.keys(pack.kind, &envelope)?)
                        }
                    };
                    let start = u64::from(blob.offset);
                    let read = ranged.read(start..start + u64::from(blob.length));
                    match fault_or_end(read)? {
                        Ok(sealed) if self.is_good(pack.kind, &id, &sealed, keys.as_deref())? => {
                            Some((id, envelope, sealed))
                        }
                        _ => None,
                    }
                }
                _ => None,
            };
            let Some((id, envelope, sealed)) = sealed else {
                self.lost += 1;
                let (pack, id) = (hex16(&pack.name), blob.short.to_string());
                self.rows.push(&LostRow { pack, id, length: blob.length })?;
                continue;
            };
            self.writer.add(pack.kind, id, &envelope, &sealed)?;
        }
        Ok(())
    }

    /// The keys that may open the blobs of an envelope; none where nobody's key does, an empty list where
    /// the key at hand does not.
    fn keys(&self, kind: PackKind, bytes: &[u8; 104]) -> Result<Option<Vec<BlobKey>>> {
        let keys = &self.scope.keys;
        let opened = Envelope::from_bytes(bytes).and_then(|envelope| match kind {
            PackKind::Data => Ok(vec![keys.open_data_key(&envelope)?]),
            PackKind::Metadata => {
                let keys = self.sources.iter().map(|source| {
                    keys.source(source).and_then(|source| source.open_page_key(&envelope))
                });
                Ok(keys.filter_map(Result::ok).collect())
            }
        });
        match fault_or_end(opened)? {
            Ok(keys) => Ok(Some(keys)),
            Err(error) if error.kind == ErrorKind::WrongKey => Ok(Some(Vec::new())),
            Err(_) => Ok(None),
        }
    }

    /// Whether a blob is what it should be, as far as the key at hand tells. A page that no key opens may be
    /// another source's; a chunk has one key.
    fn is_good(
        &mut self,
        kind: PackKind,
        id: &Id,
        sealed: &[u8],
        keys: Option<&[BlobKey]>,
    ) -> Result<bool> {
        let Some(keys) = keys else { return Ok(false) };
        if keys.is_empty() || kind == PackKind::Metadata {
            return Ok(true);
        }
        for key in keys {
            let opened: Result<()> =
                self.opener.open(key, BlobKind::Data, &id.0, sealed).map(|_| ());
            if fault_or_end(opened)?.is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Options of `references`.
#[derive(Clone, Debug, Deserialize)]
pub struct ReferencesOptions {
    /// The index, and the one snapshot.
    #[serde(flatten)]
    pub check: CheckOptions,
    /// Number of the first part.
    pub first: u64,
}

/// A reference set that was written.
#[derive(Debug, Default, Serialize)]
pub struct References {
    /// Its parts; none where pages are lost.
    pub parts: Vec<crate::bulk::Part>,
    /// Pages and chunks that the tree reaches.
    pub ids: u64,
    /// Pages that could not be read: what they reach is not known, and nothing was written.
    pub lost_pages: u64,
}

/// Goes through a snapshot's tree and writes what it reaches as a new reference set.
pub fn references(scope: &Scope, options: &ReferencesOptions) -> Result<References> {
    let context = Context { scope, options: &options.check, findings: Findings::silent(scope) };
    let [snapshot] = options.check.snapshots.as_slice() else {
        return Err(Error::new(ErrorKind::Usage, "one snapshot at a time"));
    };
    let index = check_runs(&context)?.load(&context)?;
    let mut reach = Reach::default();
    let trees = walk_trees(&context, &index, &mut reach)?;
    if trees.first().is_none_or(|tree| tree.root.is_none()) {
        return Err(Error::new(ErrorKind::WrongKey, "the key at hand does not open this tree"));
    }
    let mut result = References { ids: reach.count() as u64, ..References::default() };
    result.lost_pages = reach.pages().filter(|(_, facts)| facts.is_bad).count() as u64;
    if result.lost_pages > 0 {
        return Ok(result);
    }
    let mut builder = crate::format::refs::RefSetBuilder::new();
    let mut write = |body: Vec<u8>| -> Result<()> {
        let number = options.first + result.parts.len() as u64;
        let name = format!("refs/{}-{number}", snapshot.snapshot);
        result.parts.push(crate::bulk::put_part(scope, name, body)?);
        Ok(())
    };
    for (id, _) in reach.ids() {
        builder.insert(*id).map_or(Ok(()), &mut write)?;
    }
    builder.finish().map_or(Ok(()), &mut write)?;
    scope.broker.wait_puts()?;
    Ok(result)
}
