//! Reading blobs: by pack, in ranges that join what lies close together, several on their way at a
//! time, each opened and compared with its id before anybody sees a byte of it.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use hashbrown::HashMap;

use crate::broker::lock;
use crate::buffers::Buffer;
use crate::crypto::object::ObjectLayout;
use crate::crypto::{BlobKey, BlobKind, BlobOpener, Envelope};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Id;
use crate::format::pack::PackKind;
use crate::index::{Index, PackName, Place, pack_key, pack_type};
use crate::scope::{PendingRange, Ranged, Scope};

/// Blobs closer together than this many bytes are read in one range: about what a request costs.
pub const GAP_BYTES: u64 = 256 << 10;
/// Ranges grow to this many bytes.
pub const RANGE_BYTES_MAX: u64 = 8 << 20;

/// One blob that is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Its id.
    pub id: Id,
    /// Where it lies.
    pub place: Place,
}

/// Blobs of one pack that are read with one request.
#[derive(Debug)]
pub struct Range1 {
    /// In the order of their offsets.
    pub blobs: Vec<Wanted>,
    /// Plaintext offsets of the pack.
    pub bytes: Range<u64>,
}

/// Finds the key of the pages under an envelope.
pub type PageKeys = Box<dyn Fn(&Envelope) -> Result<BlobKey> + Send + Sync>;

/// A pack that is open, once the first who wants it has opened it.
type OpenPack = Mutex<Option<Arc<Ranged>>>;

/// Opens packs and blobs, and remembers what opening them took.
pub struct BlobStore {
    scope: Scope,
    index: Arc<Index>,
    packs: Mutex<HashMap<PackName, Arc<OpenPack>>>,
    keys: Mutex<HashMap<[u8; 104], Arc<BlobKey>>>,
    page_key: Option<PageKeys>,
}

/// How many open packs and keys are remembered.
const REMEMBERED_MAX: usize = 4096;

impl BlobStore {
    /// Blobs of `scope` as `index` lists them. `page_key` opens pages, if there are any to open.
    pub fn new(scope: Scope, index: Arc<Index>, page_key: Option<PageKeys>) -> Self {
        Self { scope, index, packs: Mutex::default(), keys: Mutex::default(), page_key }
    }

    /// The index that places belong to.
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Joins blobs into ranges of up to `range_bytes_max`, pack by pack in the order in which packs are
    /// first wanted.
    pub fn plan(wanted: Vec<Wanted>, range_bytes_max: u64) -> Vec<Range1> {
        let mut order: HashMap<(u32, u32), usize> = HashMap::new();
        let mut by_pack: Vec<Vec<Wanted>> = Vec::new();
        for blob in wanted {
            let next = by_pack.len();
            let number = *order.entry(blob.place.pack_key()).or_insert(next);
            if number == next {
                by_pack.push(Vec::new());
            }
            if let Some(list) = by_pack.get_mut(number) {
                list.push(blob);
            }
        }
        let mut ranges: Vec<Range1> = Vec::new();
        for mut list in by_pack {
            list.sort_unstable_by_key(|blob| blob.place.offset());
            let mut open: Option<Range1> = None;
            for blob in list {
                let start = u64::from(blob.place.offset());
                let end = start + u64::from(blob.place.length());
                match &mut open {
                    Some(range)
                        if start <= range.bytes.end + GAP_BYTES
                            && end.saturating_sub(range.bytes.start) <= range_bytes_max =>
                    {
                        range.bytes.end = range.bytes.end.max(end);
                        range.blobs.push(blob);
                    }
                    _ => {
                        ranges.extend(open.take());
                        open = Some(Range1 { blobs: vec![blob], bytes: start..end });
                    }
                }
            }
            ranges.extend(open);
        }
        ranges
    }

    /// The pack that a place is in, open for reading.
    fn pack(&self, place: &Place) -> Result<Arc<Ranged>> {
        let record = self.index.pack(place)?;
        let slot = {
            let mut packs = lock(&self.packs);
            if packs.len() >= REMEMBERED_MAX {
                packs.clear();
            }
            Arc::clone(packs.entry(record.name).or_default())
        };
        // Others who want this pack wait here rather than ask for its header too.
        let mut open = lock(&slot);
        if let Some(pack) = &*open {
            return Ok(Arc::clone(pack));
        }
        let name = pack_key(record.kind, &record.name);
        let size = u64::from(record.object_bytes);
        let pack = Arc::new(self.scope.ranged(pack_type(record.kind), &name, size)?);
        *open = Some(Arc::clone(&pack));
        Ok(pack)
    }

    /// The bytes of a range, still sealed blob by blob.
    pub fn read(&self, range: &Range1) -> Result<Buffer> {
        let first = range.blobs.first().ok_or_else(|| Error::internal("a range without blobs"))?;
        let pending = self.start(&first.place, range.bytes.clone())?;
        self.finish(&first.place, pending)
    }

    /// Bytes of the plaintext of the pack that a place is in.
    pub fn pack_bytes(&self, place: &Place) -> Result<u64> {
        let record = self.index.pack(place)?;
        Ok(ObjectLayout::new(u64::from(record.object_bytes))?.plaintext_bytes())
    }

    /// Asks for a range of the pack that a place is in, which need not be open.
    pub fn start(&self, place: &Place, bytes: Range<u64>) -> Result<PendingRange> {
        let record = self.index.pack(place)?;
        let name = pack_key(record.kind, &record.name);
        self.scope.start(&name, u64::from(record.object_bytes), bytes)
    }

    /// Waits for it, and for the header of its pack where nobody has read that yet.
    pub fn finish(&self, place: &Place, pending: PendingRange) -> Result<Buffer> {
        self.pack(place)?.finish(pending)
    }

    /// Opens one blob of a range that was read.
    pub fn open(
        &self,
        opener: &mut BlobOpener,
        range: &Range1,
        bytes: &[u8],
        blob: &Wanted,
    ) -> Result<Vec<u8>> {
        let start = u64::from(blob.place.offset()) - range.bytes.start;
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let end = start.saturating_add(blob.place.length() as usize);
        let sealed = bytes
            .get(start..end)
            .ok_or_else(|| Error::damaged("a blob reaches beyond its pack"))?;
        let record = self.index.pack(&blob.place)?;
        let kind = match record.kind {
            PackKind::Data => BlobKind::Data,
            PackKind::Metadata => BlobKind::Page,
        };
        let key = self.key(record.kind, &self.index.envelope(&blob.place)?)?;
        opener.open(&key, kind, &blob.id.0, sealed).map_err(|error| {
            let name = pack_key(record.kind, &record.name);
            error.at(self.scope.key(&name)).offset(u64::from(blob.place.offset()))
        })
    }

    fn key(&self, kind: PackKind, envelope: &[u8; 104]) -> Result<Arc<BlobKey>> {
        if let Some(key) = lock(&self.keys).get(envelope) {
            return Ok(Arc::clone(key));
        }
        let parsed = Envelope::from_bytes(envelope)?;
        let key = match (kind, &self.page_key) {
            (PackKind::Data, _) => self.scope.keys.open_data_key(&parsed)?,
            (PackKind::Metadata, Some(page_key)) => page_key(&parsed)?,
            (PackKind::Metadata, None) => {
                return Err(Error::new(ErrorKind::WrongKey, "no key to pages at hand"));
            }
        };
        let key = Arc::new(key);
        let mut keys = lock(&self.keys);
        if keys.len() >= REMEMBERED_MAX {
            keys.clear();
        }
        keys.insert(*envelope, Arc::clone(&key));
        Ok(key)
    }

    /// Reads and opens one blob, trying every copy of it.
    pub fn fetch(&self, opener: &mut BlobOpener, id: &Id, kind: PackKind) -> Result<Vec<u8>> {
        let mut last =
            Error { kind: ErrorKind::Damaged, ..self.index.missing("chunk or page", id) };
        for place in self.index.lookup_all(&id.short())? {
            if self.index.pack(&place)?.kind != kind {
                continue;
            }
            let start = u64::from(place.offset());
            let bytes = start..start + u64::from(place.length());
            let range = Range1 { blobs: vec![Wanted { id: *id, place }], bytes };
            let result = self
                .read(&range)
                .and_then(|bytes| self.open(opener, &range, &bytes, &Wanted { id: *id, place }));
            match result {
                Err(error) if error.kind == ErrorKind::Cancelled => return Err(error),
                Err(error) => last = error,
                Ok(raw) => return Ok(raw),
            }
        }
        Err(last)
    }
}
