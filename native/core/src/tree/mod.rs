//! Trees (section 9): the nodes of a snapshot sorted by key, cut into pages whose borders depend on
//! the content, with inner pages above. Equal parts of two trees are equal pages, so what did not
//! change is neither written nor read twice.
//!
//! Pages are plaintext here. [`PageSink`] takes them to be sealed and packed, [`PageSource`] brings
//! them back verified.

use zeroize::Zeroizing;

use crate::Result;
use crate::format::Id;

pub mod builder;
pub mod collect;
pub mod content;
pub mod diff;
pub mod extents;
pub mod key;
pub mod node;
pub mod node_page;
pub mod page;
pub mod reader;

pub use builder::TreeBuilder;
pub use content::ContentBuilder;
pub use node::{Body, Content, Extent, ExtentKind, Kind, LeftOut, Node, Time, Xattr, Xattrs};
pub use reader::{Cursor, TreeIter, TreeReader};

/// What roots a tree; stands in the snapshot's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Root {
    /// The page at the top.
    pub page: Id,
    /// Its level; 0 when it holds nodes.
    pub level: u8,
    /// Nodes in the tree.
    pub nodes: u64,
    /// Sum of the sizes of all files, each name counted; `u64::MAX` when it is more.
    pub bytes: u64,
}

/// Where finished pages go.
pub trait PageSink {
    /// Takes a page. It may be one that was put before: what is known by its id need not be stored
    /// again. When this returns the page need not be durable yet.
    fn put_page(&mut self, raw: Vec<u8>, id: Id) -> Result<()>;
}

/// Where pages come from.
pub trait PageSource {
    /// The plaintexts of `ids`, in their order. Each has been checked against its id. Fails when any
    /// of them is missing or damaged.
    fn get_pages(&self, ids: &[Id]) -> Result<Vec<Vec<u8>>>;
}

impl<T: PageSource + ?Sized> PageSource for &T {
    fn get_pages(&self, ids: &[Id]) -> Result<Vec<Vec<u8>>> {
        (**self).get_pages(ids)
    }
}

impl<T: PageSource + ?Sized> PageSource for std::sync::Arc<T> {
    fn get_pages(&self, ids: &[Id]) -> Result<Vec<Vec<u8>>> {
        (**self).get_pages(ids)
    }
}

/// The key `K_pid` of a source, which gives pages their ids and their borders. Wiped when dropped.
#[derive(Clone)]
pub struct PageKey(Zeroizing<[u8; 32]>);

impl PageKey {
    /// Takes `K_pid`.
    pub fn new(key: [u8; 32]) -> Self {
        Self(Zeroizing::new(key))
    }

    /// The id of a page.
    pub fn page_id(&self, raw: &[u8]) -> Id {
        Id(*blake3::keyed_hash(&self.0, raw).as_bytes())
    }

    /// The number that decides whether a page may start at a node key (section 9.2).
    pub fn border_hash(&self, key: &[u8]) -> u64 {
        let hash = blake3::keyed_hash(&self.0, key);
        u64::from_le_bytes(hash.as_bytes().first_chunk().copied().unwrap_or_default())
    }
}

impl std::fmt::Debug for PageKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageKey")
    }
}

/// One page by its id.
pub(crate) fn get_page<S: PageSource + ?Sized>(source: &S, id: Id) -> Result<Vec<u8>> {
    let mut pages = get_pages(source, &[id])?;
    pages.pop().ok_or_else(|| crate::Error::internal("page source returned no page"))
}

/// Pages by their ids; a source that returns another number of them is a bug.
pub(crate) fn get_pages<S: PageSource + ?Sized>(source: &S, ids: &[Id]) -> Result<Vec<Vec<u8>>> {
    let pages = source.get_pages(ids)?;
    if pages.len() == ids.len() {
        Ok(pages)
    } else {
        Err(crate::Error::internal("page source returned another number of pages"))
    }
}

#[cfg(test)]
mod tests;
