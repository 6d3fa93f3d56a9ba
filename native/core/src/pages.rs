//! Tree and extent pages of one source, read through the index.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use hashbrown::HashMap;

use crate::ahead::{Reach, Windows};
use crate::blobs::{BlobStore, RANGE_BYTES_MAX, Range1, Wanted};
use crate::broker::lock;
use crate::crypto::{BlobOpener, SourceId};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Id;
use crate::format::pack::PackKind;
use crate::index::{Index, Place};
use crate::scope::{PendingRange, Scope};
use crate::tree::PageSource;

/// Reads pages in batches.
pub struct PageStore {
    blobs: BlobStore,
    /// Those that are not in use: several threads may read at a time.
    openers: Mutex<Vec<BlobOpener>>,
    windows: Mutex<Windows>,
    lost: Mutex<Vec<Id>>,
}

impl PageStore {
    /// The pages of `source` that `index` lists, for who may want a few of them only.
    pub fn new(scope: Scope, index: Arc<Index>, source: &SourceId) -> Result<Self> {
        Self::reaching(scope, index, source, Reach::SHORT)
    }

    /// The same for who walks through whole trees: packs are read at once where `bytes` suffice for them.
    pub(crate) fn walked(
        scope: Scope,
        index: Arc<Index>,
        source: &SourceId,
        bytes: u64,
    ) -> Result<Self> {
        Self::reaching(scope, index, source, Reach::walk(bytes))
    }

    fn reaching(scope: Scope, index: Arc<Index>, source: &SourceId, reach: Reach) -> Result<Self> {
        let keys = Arc::clone(&scope.keys);
        // Fails now rather than at the first page where the key does not reach this source.
        keys.source(source)?;
        let source = *source;
        let page_key = Box::new(move |envelope: &_| keys.source(&source)?.open_page_key(envelope));
        let blobs = BlobStore::new(scope, index, Some(page_key));
        let (openers, lost) = (Mutex::default(), Mutex::default());
        let windows = Mutex::new(Windows::new(reach));
        Ok(Self { blobs, openers, windows, lost })
    }

    /// The index that it reads through.
    pub fn index(&self) -> &Arc<Index> {
        self.blobs.index()
    }

    /// The pages that could not be had since this was asked last, for whatever reason.
    pub fn take_lost(&self) -> Vec<Id> {
        std::mem::take(&mut *lock(&self.lost))
    }
}

impl PageSource for PageStore {
    fn get_pages(&self, ids: &[Id]) -> Result<Vec<Vec<u8>>> {
        let kept = lock(&self.openers).pop();
        let mut opener = kept.map_or_else(BlobOpener::new, Ok)?;
        let pages = self.read_pages(ids, &mut opener);
        lock(&self.openers).push(opener);
        pages
    }
}

impl PageStore {
    /// Asks for a range, and for what is likely to be wanted next.
    fn start(&self, range: &Range1) -> Result<(Place, Range<u64>, PendingRange)> {
        let place = range.blobs.first().ok_or_else(|| Error::internal("an empty range"))?.place;
        let wide = lock(&self.windows).widen(range, self.blobs.pack_bytes(&place)?);
        let pending = self.blobs.start(&place, wide.clone())?;
        Ok((place, wide, pending))
    }

    fn read_pages(&self, ids: &[Id], opener: &mut BlobOpener) -> Result<Vec<Vec<u8>>> {
        let index = self.blobs.index();
        let mut wanted = Vec::with_capacity(ids.len());
        for id in ids {
            for place in index.lookup_all(&id.short())? {
                if index.pack(&place)?.kind == PackKind::Metadata {
                    wanted.push(Wanted { id: *id, place });
                    break;
                }
            }
        }
        let mut pages: HashMap<Id, Vec<u8>> = HashMap::with_capacity(ids.len());
        wanted.retain(|blob| {
            let Some(window) = lock(&self.windows).find(&blob.place) else {
                return true;
            };
            let range = Range1 { blobs: Vec::new(), bytes: window.bytes };
            // One that does not open here is asked for once more below, copy by copy.
            if let Ok(page) = self.blobs.open(opener, &range, &window.data, blob) {
                pages.insert(blob.id, page);
            }
            false
        });
        let ranges = BlobStore::plan(wanted, RANGE_BYTES_MAX);
        let mut pending = Vec::with_capacity(ranges.len());
        for range in &ranges {
            pending.push(self.start(range));
        }
        for (mut range, pending) in ranges.into_iter().zip(pending) {
            // What is damaged here, or in what was read with it, is asked for once more below.
            let read = pending.and_then(|(place, wide, pending)| {
                Ok((place, wide, self.blobs.finish(&place, pending)?))
            });
            let (place, wide, data) = match read {
                Err(error) if error.kind == ErrorKind::Cancelled => return Err(error),
                Err(_) => continue,
                Ok(read) => read,
            };
            range.bytes = wide.clone();
            let window = lock(&self.windows).keep(place.pack_key(), wide, data);
            for blob in &range.blobs {
                if let Ok(page) = self.blobs.open(opener, &range, &window.data, blob) {
                    pages.insert(blob.id, page);
                }
            }
        }
        let mut found = Vec::with_capacity(ids.len());
        let mut failure = None;
        for id in ids {
            let page = match pages.get(id) {
                Some(page) => Ok(page.clone()),
                None => self.blobs.fetch(opener, id, PackKind::Metadata),
            };
            match page {
                Ok(page) => found.push(page),
                Err(error) if error.kind == ErrorKind::Cancelled => return Err(error),
                // The others are looked at, too: what is lost together is told together.
                Err(error) => {
                    lock(&self.lost).push(*id);
                    failure.get_or_insert(error);
                }
            }
        }
        failure.map_or(Ok(found), Err)
    }
}
