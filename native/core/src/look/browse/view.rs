//! What the index was when it was loaded last, and how pages and chunks are read through it.

use std::sync::{Arc, Mutex};

use hashbrown::HashMap;

use super::cache::Cache;
use crate::blobs::{BlobStore, Wanted};
use crate::broker::lock;
use crate::crypto::SourceId;
use crate::error::{Error, Result};
use crate::format::Id;
use crate::format::pack::PackKind;
use crate::index::{Index, IndexOptions};
use crate::pages::PageStore;
use crate::scope::Scope;
use crate::tree::PageSource;

/// Pages as they are kept: checked against their ids.
pub(super) type PageCache = Cache<Arc<Vec<u8>>>;

/// One state of the index. Who reads keeps the view that it began with.
pub(super) struct View {
    scope: Scope,
    index: Arc<Index>,
    pub(super) blobs: BlobStore,
    pages: Mutex<HashMap<[u8; 16], Arc<PageStore>>>,
}

/// The pages of one source, those that were read lately out of memory.
#[derive(Clone)]
pub(super) struct CachedPages {
    store: Arc<PageStore>,
    cache: Arc<PageCache>,
}

impl View {
    /// Sees nothing: whoever asks for anything is told that it is missing.
    pub(super) fn empty(scope: &Scope) -> Self {
        Self::of(scope, Index::default())
    }

    pub(super) fn load(scope: &Scope, options: &IndexOptions, memory_bytes: u64) -> Result<Self> {
        Index::load(scope, options, memory_bytes).map(|index| Self::of(scope, index))
    }

    fn of(scope: &Scope, index: Index) -> Self {
        let index = Arc::new(index);
        let blobs = BlobStore::new(scope.clone(), Arc::clone(&index), None);
        Self { scope: scope.clone(), index, blobs, pages: Mutex::default() }
    }

    /// What was wrong with parts of the index that are left out.
    pub(super) fn damaged(&self) -> Vec<String> {
        self.index.damaged().iter().map(ToString::to_string).collect()
    }

    /// The pages of a source, read anew each time. `WrongKey` where this key does not reach it.
    pub(super) fn pages(&self, source: &SourceId) -> Result<Arc<PageStore>> {
        let mut pages = lock(&self.pages);
        if let Some(store) = pages.get(&source.0) {
            return Ok(Arc::clone(store));
        }
        let store = PageStore::new(self.scope.clone(), Arc::clone(&self.index), source)?;
        let store = Arc::new(store);
        pages.insert(source.0, Arc::clone(&store));
        Ok(store)
    }

    /// Where a chunk lies, if the index says so.
    pub(super) fn place(&self, id: &Id) -> Result<Option<Wanted>> {
        for place in self.index.lookup_all(&id.short())? {
            if self.index.pack(&place)?.kind == PackKind::Data {
                return Ok(Some(Wanted { id: *id, place }));
            }
        }
        Ok(None)
    }
}

impl CachedPages {
    pub(super) fn new(store: Arc<PageStore>, cache: &Arc<PageCache>) -> Self {
        Self { store, cache: Arc::clone(cache) }
    }
}

impl PageSource for CachedPages {
    fn get_pages(&self, ids: &[Id]) -> Result<Vec<Vec<u8>>> {
        let mut pages: Vec<_> = ids.iter().map(|id| self.cache.get(id)).collect();
        let missing: Vec<Id> =
            ids.iter().zip(&pages).filter(|(_, page)| page.is_none()).map(|(id, _)| *id).collect();
        let read = if missing.is_empty() {
            Vec::new()
        } else {
            let read = self.store.get_pages(&missing);
            if read.is_err() {
                // The error says it; nobody asks for the list.
                drop(self.store.take_lost());
            }
            read?
        };
        let mut read = missing.iter().zip(read);
        for slot in &mut pages {
            if slot.is_none()
                && let Some((id, page)) = read.next()
            {
                let (bytes, page) = (page.len() as u64, Arc::new(page));
                self.cache.insert(*id, Arc::clone(&page), bytes);
                *slot = Some(page);
            }
        }
        let all = pages.into_iter().map(|page| page.map(|page| page.to_vec()));
        all.collect::<Option<_>>().ok_or_else(|| Error::internal("a page was not read"))
    }
}
