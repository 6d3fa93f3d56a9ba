//! Builds the content of a file from its extents (section 9.4): in the node when it is short, in
//! pages of its own when it is long, so that a file of a terabyte costs what changed in it.

use super::node::{Content, Extent, ExtentKind};
use super::page::{PageType, PageWriter};
use super::{PageKey, PageSink};
use crate::format::Id;
use crate::format::varint::varint_len;
use crate::{Error, ErrorKind, Result};

/// Content whose encoding is longer moves out of the node, in bytes.
pub const INLINE_BYTES_MAX: usize = 16 << 10;
/// An extent page may end from this size on, in bytes.
pub const EXTENT_PAGE_BYTES_MIN: usize = 32 << 10;
/// An extent page ends at this size, in bytes.
pub const EXTENT_PAGE_BYTES_MAX: usize = 128 << 10;

const BORDER_MASK: u32 = 511;

/// Takes the extents of one file in order. Holds at most one page of each level, whatever the length
/// of the file. Neighbours that can be one extent become one.
#[derive(Clone, Debug)]
pub struct ContentBuilder {
    key: PageKey,
    extents: Vec<Extent>,
    extents_bytes: usize,
    /// Lists of pages, level 0 first.
    lists: Vec<PageList>,
    covered: u64,
}

/// Pages of one level that no page of the level above holds yet.
#[derive(Clone, Debug, Default)]
struct PageList {
    refs: Vec<(Id, u64)>,
    bytes: usize,
}

impl ContentBuilder {
    /// A builder for one file.
    pub const fn new(key: PageKey) -> Self {
        Self { key, extents: Vec::new(), extents_bytes: 0, lists: Vec::new(), covered: 0 }
    }

    /// Bytes of the file covered so far.
    pub const fn covered(&self) -> u64 {
        self.covered
    }

    /// Whether some of it has moved into pages, as all of it will.
    pub const fn is_paged(&self) -> bool {
        !self.lists.is_empty()
    }

    /// Appends an extent. One of length 0 is left out.
    pub fn push(&mut self, extent: Extent, sink: &mut dyn PageSink) -> Result<()> {
        if extent.length == 0 {
            return Ok(());
        }
        extent.check().map_err(|what| Error::new(ErrorKind::Usage, what))?;
        let covered = self.covered.checked_add(extent.length);
        self.covered = covered
            .ok_or_else(|| Error::new(ErrorKind::Usage, "content of more than 2^64 bytes"))?;
        if let Some(last) = self.extents.last_mut() {
            if let Some(merged) = merge(last, &extent) {
                self.extents_bytes += cost(&merged);
                self.extents_bytes -= cost(last);
                *last = merged;
                return Ok(());
            }
            if ends_page(self.extents_bytes, last) {
                self.close_extents(sink)?;
            }
        }
        self.extents_bytes += cost(&extent);
        self.extents.push(extent);
        Ok(())
    }

    /// The content. Everything that it needs has been put.
    pub fn finish(mut self, sink: &mut dyn PageSink) -> Result<Content> {
        if self.lists.is_empty() && self.extents_bytes <= INLINE_BYTES_MAX {
            return Ok(Content::Inline(self.extents));
        }
        if !self.extents.is_empty() {
            self.close_extents(sink)?;
        }
        let mut at = 0;
        loop {
            let is_top = at + 1 == self.lists.len();
            let Some(list) = self.lists.get_mut(at) else {
                return Err(Error::internal("content without its pages"));
            };
            if is_top && list.bytes <= INLINE_BYTES_MAX {
                let refs = std::mem::take(&mut list.refs);
                return Ok(Content::Pages { level: level_of(at)?, refs });
            }
            if !list.refs.is_empty() {
                self.close_list(at, sink)?;
            }
            at += 1;
        }
    }

    /// What [`finish`](Self::finish) would give now; the builder goes on.
    pub fn so_far(&self, sink: &mut dyn PageSink) -> Result<Content> {
        self.clone().finish(sink)
    }

    fn close_extents(&mut self, sink: &mut dyn PageSink) -> Result<()> {
        let mut page = PageWriter::new(PageType::Extents, 0);
        let mut covered = 0;
        for extent in &self.extents {
            page.begin();
            page.put_extent(extent);
            covered += extent.length;
        }
        self.extents.clear();
        self.extents_bytes = 0;
        let id = self.put(&mut page, sink)?;
        self.add_page(0, id, covered, sink)
    }

    fn add_page(&mut self, at: usize, id: Id, covered: u64, sink: &mut dyn PageSink) -> Result<()> {
        if self.lists.len() == at {
            self.lists.push(PageList::default());
        }
        let list = self.lists.get(at);
        let is_full = list.is_some_and(|list| {
            list.refs
                .last()
                .is_some_and(|(last, _)| list.refs.len() > 1 && is_border(list.bytes, last))
        });
        if is_full {
            self.close_list(at, sink)?;
        }
        if let Some(list) = self.lists.get_mut(at) {
            list.bytes += 32 + varint_len(covered);
            list.refs.push((id, covered));
        }
        Ok(())
    }

    /// Writes the list of pages of one level as a page of the next.
    fn close_list(&mut self, at: usize, sink: &mut dyn PageSink) -> Result<()> {
        let mut page = PageWriter::new(PageType::ExtentInner, level_of(at)?);
        let list = self.lists.get_mut(at).map(std::mem::take).unwrap_or_default();
        let mut covered = 0;
        for (id, bytes) in &list.refs {
            page.begin();
            page.put_id(id);
            page.put(*bytes);
            covered += bytes;
        }
        let id = self.put(&mut page, sink)?;
        self.add_page(at + 1, id, covered, sink)
    }

    fn put(&self, page: &mut PageWriter, sink: &mut dyn PageSink) -> Result<Id> {
        let raw = page.finish()?;
        let id = self.key.page_id(&raw);
        sink.put_page(raw, id)?;
        Ok(id)
    }
}

fn level_of(list: usize) -> Result<u8> {
    u8::try_from(list + 1).map_err(|_| Error::internal("content of too many levels"))
}

/// Bytes of an extent in a page, its id counted in full.
const fn cost(extent: &Extent) -> usize {
    varint_len(extent.length << 2)
        + match extent.kind {
            ExtentKind::Data { offset, .. } => 32 + varint_len(offset as u64),
            ExtentKind::Hole | ExtentKind::Zero => 0,
        }
}

fn is_border(bytes: usize, id: &Id) -> bool {
    let [a, b, c, d, ..] = id.0;
    let at_border = u32::from_le_bytes([a, b, c, d]) & BORDER_MASK == 0;
    bytes >= EXTENT_PAGE_BYTES_MAX || (bytes >= EXTENT_PAGE_BYTES_MIN && at_border)
}

fn ends_page(bytes: usize, last: &Extent) -> bool {
    match last.kind {
        ExtentKind::Data { id, .. } => is_border(bytes, &id),
        ExtentKind::Hole | ExtentKind::Zero => bytes >= EXTENT_PAGE_BYTES_MAX,
    }
}

/// One extent in place of two neighbours, where that is possible.
fn merge(last: &Extent, next: &Extent) -> Option<Extent> {
    let kind = match (last.kind, next.kind) {
        (ExtentKind::Hole, ExtentKind::Hole) | (ExtentKind::Zero, ExtentKind::Zero) => last.kind,
        (ExtentKind::Data { id: a, offset }, ExtentKind::Data { id: b, offset: next_offset })
            if a == b && u64::from(offset) + last.length == u64::from(next_offset) =>
        {
            last.kind
        }
        _ => return None,
    };
    let merged = Extent { kind, length: last.length.checked_add(next.length)? };
    merged.check().is_ok().then_some(merged)
}
