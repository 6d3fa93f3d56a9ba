//! Everything that a tree reaches: its pages, extent pages and chunks, as reference sets, check and
//! prune need it.

use super::node::{Body, Content, Extent, ExtentKind};
use super::node_page::NodePage;
use super::page::{parse_extent_inner, parse_extents, parse_inner};
use super::reader::page_name;
use super::{PageSource, Root, get_pages};
use crate::Result;
use crate::format::Id;

/// How many pages one request brings at most.
const BATCH: usize = 16;

/// What is told about a tree while it is gone through.
pub trait Visitor {
    /// A page that the tree reaches. Returns whether to go below it: false for one that has been
    /// gone through before, in this tree or another. It can come again in the same tree.
    fn page(&mut self, id: &Id) -> bool;

    /// A chunk that the tree reaches. Can come again; in a row it comes once.
    fn chunk(&mut self, id: &Id);
}

#[derive(Clone, Copy)]
enum PageRole {
    Nodes(u8),
    Extents(u8),
}

/// Goes through all that `root` reaches, each page before what it holds. Holds the ids of the pages
/// on the way down and up to 16 pages.
pub fn collect<S: PageSource + ?Sized>(
    source: &S,
    root: &Root,
    visitor: &mut dyn Visitor,
) -> Result<()> {
    let mut walk = Walk { pending: Vec::new(), last_chunk: None, visitor };
    walk.page(root.page, PageRole::Nodes(root.level));
    walk.run(source)
}

/// The same for one file's content: its extent pages and chunks.
pub fn collect_content<S: PageSource + ?Sized>(
    source: &S,
    content: &Content,
    visitor: &mut dyn Visitor,
) -> Result<()> {
    let mut walk = Walk { pending: Vec::new(), last_chunk: None, visitor };
    walk.content(content);
    walk.run(source)
}

struct Walk<'v> {
    pending: Vec<(Id, PageRole)>,
    last_chunk: Option<Id>,
    visitor: &'v mut dyn Visitor,
}

impl Walk<'_> {
    fn run<S: PageSource + ?Sized>(mut self, source: &S) -> Result<()> {
        while !self.pending.is_empty() {
            let rest = self.pending.len().saturating_sub(BATCH);
            let batch = self.pending.split_off(rest);
            let ids: Vec<Id> = batch.iter().map(|(id, _)| *id).collect();
            let pages = get_pages(source, &ids)?;
            for ((id, role), raw) in batch.iter().zip(&pages) {
                self.expand(raw, *role).map_err(|error| error.at(page_name(id)))?;
            }
        }
        Ok(())
    }

    fn page(&mut self, id: Id, role: PageRole) {
        if self.visitor.page(&id) {
            self.pending.push((id, role));
        }
    }

    fn extents(&mut self, extents: &[Extent]) {
        for extent in extents {
            if let ExtentKind::Data { id, .. } = extent.kind
                && self.last_chunk != Some(id)
            {
                self.visitor.chunk(&id);
                self.last_chunk = Some(id);
            }
        }
    }

    fn expand(&mut self, raw: &[u8], role: PageRole) -> Result<()> {
        match role {
            PageRole::Nodes(0) => {
                for node in NodePage::parse(raw)? {
                    if let Body::File { content, .. } = node?.body {
                        self.content(&content);
                    }
                }
            }
            PageRole::Nodes(level) => {
                for entry in parse_inner(raw, level)? {
                    self.page(entry.id, PageRole::Nodes(level - 1));
                }
            }
            PageRole::Extents(0) => self.extents(&parse_extents(raw)?),
            PageRole::Extents(level) => {
                for (id, _) in parse_extent_inner(raw, level)? {
                    self.page(id, PageRole::Extents(level - 1));
                }
            }
        }
        Ok(())
    }

    fn content(&mut self, content: &Content) {
        match content {
            Content::Inline(extents) => self.extents(extents),
            Content::Pages { level, refs } => {
                for (id, _) in refs {
                    self.page(*id, PageRole::Extents(level.saturating_sub(1)));
                }
            }
        }
    }
}
