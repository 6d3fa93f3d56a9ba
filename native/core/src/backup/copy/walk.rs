//! Goes through the tree that is copied, in step with those of earlier copies, and says what has to be brought.

use std::sync::Arc;

use crossbeam_channel::Sender;

use super::fetch::{RangeTask, Slots};
use super::is_lost;
use super::losses::{Around, Losses, Step};
use super::memo::{ChunkSlot, Found, Memo};
use crate::backup::carry::{Carrier, distrust_lost, is_lost as is_lost_for_good};
use crate::backup::files::stopped;
use crate::backup::problems::Problems;
use crate::backup::progress::Change;
use crate::backup::slot::{Signal, Slot};
use crate::backup::writer::Writer;
use crate::blobs::{BlobStore, Wanted};
use crate::error::{Error, Result};
use crate::format::Id;
use crate::format::pack::PackKind;
use crate::index::Index;
use crate::pages::PageStore;
use crate::tree::extents::ExtentIter;
use crate::tree::{Body, Content, Cursor, Extent, ExtentKind, Node, Root, TreeReader};

/// Extents of a file that stand in one item.
const PIECES_MAX: usize = 256;
/// A window ends at so many bytes of items, at so many chunks to bring, or at so many sealed bytes of them. What
/// is in it is not in a checkpoint before it has passed.
const WINDOW_ITEM_BYTES: usize = 2 << 20;
const WINDOW_CHUNKS: usize = 4096;
const WINDOW_SEALED_BYTES: u64 = 128 << 20;

/// A tree that is followed.
pub(super) struct Earlier {
    pub(super) pages: Arc<PageStore>,
    pub(super) cursor: Cursor<Arc<PageStore>>,
}

/// An earlier snapshot of the source, and its copy.
pub(super) struct Base {
    pub(super) from: Earlier,
    pub(super) copy: Earlier,
}

/// In the order of keys, what the finisher takes.
pub(super) enum Item {
    /// A node with everything that belongs to it.
    Node(Box<Node>, Change),
    /// A file; its extents follow, behind those of an interrupted copy if there are any.
    Begin(Box<Node>, Option<(Content, u64)>),
    /// Extents of the file that was begun.
    Pieces(Vec<Piece>),
    /// More of its extents cannot be had.
    Spoilt(Error),
    /// It is complete.
    End,
}

/// One extent, and what its chunk is called now.
pub(super) struct Piece {
    pub(super) extent: Extent,
    pub(super) name: Name,
}

/// The new id of a chunk.
pub(super) enum Name {
    /// There is no chunk.
    None,
    Known(Id),
    Coming(Arc<ChunkSlot>),
}

/// Where the walk hands over.
pub(super) struct Outputs {
    pub(super) ranges: Sender<RangeTask>,
    pub(super) windows: Sender<Vec<Item>>,
}

/// What was gone through and not handed over.
#[derive(Default)]
pub(super) struct Window {
    items: Vec<Item>,
    item_bytes: usize,
    wanted: Vec<Wanted>,
    slots: Slots,
    sealed_bytes: u64,
}

/// What an earlier copy has of a file.
enum Carried {
    Whole(Content),
    Prefix(Content, u64),
    Nothing,
}

/// The walk.
pub(super) struct Walk<'a> {
    pub(super) writer: &'a Writer,
    pub(super) signal: &'a Arc<Signal>,
    pub(super) problems: &'a Problems,
    pub(super) memo: &'a Memo,
    pub(super) index: &'a Index,
    /// The source's pages.
    pub(super) pages: Arc<PageStore>,
    pub(super) resume: Option<Earlier>,
    pub(super) base: Option<Base>,
    pub(super) carrier: Carrier<'a>,
    pub(super) loses_missing: bool,
    /// What to write around: the tree is of the scope that is written to, and its names stay.
    pub(super) losses: Option<&'a Losses>,
    pub(super) range_bytes_max: u64,
    pub(super) outputs: Outputs,
    pub(super) window: Window,
}

impl Walk<'_> {
    /// Goes through all of it. A page of the tree that cannot be had ends the copy: nobody can say which
    /// entries it held.
    pub(super) fn run(mut self, root: Root) -> Result<()> {
        let reader = TreeReader::new(Arc::clone(&self.pages), root);
        if let Some(losses) = self.losses {
            return self.run_around(&reader, losses);
        }
        for node in reader.nodes() {
            self.node(node?)?;
            self.signal.check()?;
        }
        self.hand_over()
    }

    /// Goes through what is left of it.
    fn run_around(mut self, reader: &TreeReader<Arc<PageStore>>, losses: &Losses) -> Result<()> {
        let mut around = Around::new(reader, self.loses_missing);
        while let Step::Node { made, mut node, .. } = around.step()? {
            for directory in made {
                self.push(Item::Node(Box::new(directory), Change::None))?;
            }
            losses.mark(&mut node);
            self.node(*node)?;
            self.signal.check()?;
        }
        self.hand_over()
    }

    fn node(&mut self, mut node: Node) -> Result<()> {
        if self.losses.is_none() {
            node.digest = None;
        }
        let Body::File { size, .. } = node.body else {
            return self.push(Item::Node(Box::new(node), Change::None));
        };
        if size == 0 || node.unreadable {
            return self.push(Item::Node(Box::new(node), Change::New));
        }
        let carried = match self.resumed(&node)? {
            Carried::Nothing if self.losses.is_some() => self.kept(&node)?,
            Carried::Nothing => self.based(&node)?,
            found => found,
        };
        match carried {
            Carried::Whole(content) => {
                node.body = Body::File { size, content };
                self.push(Item::Node(Box::new(node), Change::None))
            }
            Carried::Prefix(content, bytes) => self.file(node, Some((content, bytes))),
            Carried::Nothing => self.file(node, None),
        }
    }

    /// The content itself, where all of it may be built upon.
    fn kept(&mut self, node: &Node) -> Result<Carried> {
        let Body::File { content, .. } = &node.body else { return Ok(Carried::Nothing) };
        let is_carried = self.carrier.is_carried(&self.pages, content)?;
        Ok(if is_carried { Carried::Whole(content.clone()) } else { Carried::Nothing })
    }

    /// What an interrupted copy of this snapshot has.
    fn resumed(&mut self, node: &Node) -> Result<Carried> {
        let Some(resume) = &mut self.resume else { return Ok(Carried::Nothing) };
        let found = match resume.cursor.advance_to(&node.key) {
            Ok(found) => found.cloned(),
            Err(error) => {
                let pages = Arc::clone(&resume.pages);
                self.resume = None;
                self.give_up(&error, &pages)?;
                return Ok(Carried::Nothing);
            }
        };
        let Some(found) = found.filter(|found| is_sound(found, node.size())) else {
            return Ok(Carried::Nothing);
        };
        let Body::File { content, .. } = found.body else { return Ok(Carried::Nothing) };
        if found.partial {
            let stored = self.carrier.is_stored(&resume.pages, &content)?;
            return Ok(match stored {
                Some(bytes) if bytes > 0 => Carried::Prefix(content, bytes),
                _ => Carried::Nothing,
            });
        }
        let is_carried = self.carrier.is_carried(&resume.pages, &content)?;
        Ok(if is_carried { Carried::Whole(content) } else { Carried::Nothing })
    }

    /// What the copy of an earlier snapshot has: all of a file that is the same there. Of others it tells the
    /// names of their chunks.
    fn based(&mut self, node: &Node) -> Result<Carried> {
        let Some(base) = &mut self.base else { return Ok(Carried::Nothing) };
        let pair = base.from.cursor.advance_to(&node.key).and_then(|from| {
            let copy = base.copy.cursor.advance_to(&node.key)?;
            Ok(from.cloned().zip(copy.cloned()))
        });
        let (from, copy) = match pair {
            Ok(Some(pair)) => pair,
            Ok(None) => return Ok(Carried::Nothing),
            Err(error) => {
                let pages = Arc::clone(&base.copy.pages);
                self.base = None;
                self.give_up(&error, &pages)?;
                return Ok(Carried::Nothing);
            }
        };
        if !is_sound(&from, from.size()) || !is_sound(&copy, from.size()) || copy.partial {
            return Ok(Carried::Nothing);
        }
        let (Body::File { content: from, .. }, Body::File { content: copy, .. }) =
            (&from.body, copy.body)
        else {
            return Ok(Carried::Nothing);
        };
        if matches!(&node.body, Body::File { content, .. } if content == from)
            && self.carrier.is_carried(&base.copy.pages, &copy)?
        {
            return Ok(Carried::Whole(copy));
        }
        learn(self.memo, (&base.from.pages, from), (&base.copy.pages, &copy))?;
        distrust_lost(&self.writer.known, &base.copy.pages);
        Ok(Carried::Nothing)
    }

    /// An earlier copy that cannot be read further is not there to be compared with.
    fn give_up(&self, error: &Error, pages: &PageStore) -> Result<()> {
        if !is_lost_for_good(error) {
            return Err(error.clone());
        }
        distrust_lost(&self.writer.known, pages);
        let what = format!("an earlier copy cannot be compared with: {error}");
        self.problems.note(&Error::new(error.kind, what))
    }

    fn file(&mut self, mut node: Node, prefix: Option<(Content, u64)>) -> Result<()> {
        let Body::File { content, .. } = &mut node.body else {
            return Err(Error::internal("content of what is no file"));
        };
        let content = std::mem::replace(content, Content::empty());
        let start = prefix.as_ref().map_or(0, |(_, bytes)| *bytes);
        self.push(Item::Begin(Box::new(node), prefix))?;
        let mut pieces = Vec::new();
        for extent in ExtentIter::new(Arc::clone(&self.pages), &content, start) {
            let (offset, extent) = match extent {
                Ok(found) => found,
                Err(error) if is_lost(&error, self.loses_missing) => {
                    pieces.clear();
                    self.push(Item::Spoilt(error))?;
                    break;
                }
                Err(error) => return Err(error),
            };
            let extent = behind(extent, start.saturating_sub(offset));
            let name = self.name(&extent)?;
            pieces.push(Piece { extent, name });
            if pieces.len() >= PIECES_MAX {
                self.push(Item::Pieces(std::mem::take(&mut pieces)))?;
            }
        }
        self.push(Item::Pieces(pieces))?;
        self.push(Item::End)
    }

    /// What the chunk of an extent is called, or will be once it has been brought.
    fn name(&mut self, extent: &Extent) -> Result<Name> {
        let ExtentKind::Data { id, .. } = extent.kind else { return Ok(Name::None) };
        if self.losses.is_some() && self.writer.known.has(&id.short())? {
            return Ok(Name::Known(id));
        }
        match self.memo.find(&id) {
            Found::Named(name) if self.writer.known.has(&name.short())? => {
                return Ok(Name::Known(name));
            }
            Found::Coming(slot) => return Ok(Name::Coming(slot)),
            _ => {}
        }
        let slot: Arc<ChunkSlot> = Slot::new(self.signal);
        let Some(place) = find_chunk(self.index, &id)? else {
            slot.set(Err(self.index.missing("chunk", &id)));
            return Ok(Name::Coming(slot));
        };
        self.memo.expect(id, Arc::clone(&slot));
        self.window.sealed_bytes += u64::from(place.place.length());
        self.window.wanted.push(place);
        self.window.slots.insert(id, Arc::clone(&slot));
        Ok(Name::Coming(slot))
    }

    fn push(&mut self, item: Item) -> Result<()> {
        let window = &mut self.window;
        window.item_bytes += item.bytes();
        window.items.push(item);
        let is_full = window.item_bytes >= WINDOW_ITEM_BYTES
            || window.wanted.len() >= WINDOW_CHUNKS
            || window.sealed_bytes >= WINDOW_SEALED_BYTES;
        if is_full { self.hand_over() } else { Ok(()) }
    }

    /// Hands over the items of the window, and has its chunks brought. In this order, so that the finisher can
    /// begin with the first of them; it waits for none that is not asked for before we wait for it again.
    fn hand_over(&mut self) -> Result<()> {
        let Window { items, wanted, slots, .. } = std::mem::take(&mut self.window);
        self.outputs.windows.send(items).map_err(|_| stopped())?;
        let slots = Arc::new(slots);
        for range in BlobStore::plan(wanted, self.range_bytes_max) {
            let task = RangeTask { range, slots: Arc::clone(&slots) };
            self.outputs.ranges.send(task).map_err(|_| stopped())?;
        }
        Ok(())
    }
}

impl Item {
    /// About how many bytes it holds.
    fn bytes(&self) -> usize {
        64 + match self {
            Self::Node(node, _) => node.bytes_bound(),
            Self::Begin(node, prefix) => {
                let listed = prefix.as_ref().map_or(0, |(content, _)| match content {
                    Content::Inline(extents) => extents.len(),
                    Content::Pages { refs, .. } => refs.len(),
                });
                node.bytes_bound() + 48 * listed
            }
            // Each with a slot and its place in a pack.
            Self::Pieces(pieces) => pieces.len() * 256,
            Self::Spoilt(_) | Self::End => 0,
        }
    }
}

/// Where a chunk lies.
pub(super) fn find_chunk(index: &Index, id: &Id) -> Result<Option<Wanted>> {
    for place in index.lookup_all(&id.short())? {
        if index.pack(&place)?.kind == PackKind::Data {
            return Ok(Some(Wanted { id: *id, place }));
        }
    }
    Ok(None)
}

/// Whether the content of a node is all of a file of this size, or the beginning of one.
fn is_sound(node: &Node, size: u64) -> bool {
    matches!(node.body, Body::File { size: have, .. } if have == size) && !node.unreadable
}

/// What is left of an extent behind its first `bytes`.
fn behind(extent: Extent, bytes: u64) -> Extent {
    let kind = match extent.kind {
        ExtentKind::Data { id, offset } => {
            let skipped = u32::try_from(bytes).unwrap_or(u32::MAX);
            ExtentKind::Data { id, offset: offset.saturating_add(skipped) }
        }
        other => other,
    };
    Extent { kind, length: extent.length.saturating_sub(bytes) }
}

/// Notes what the chunks of a file are called in its copy, as long as the two lists agree and can be read.
fn learn(
    memo: &Memo,
    (from_pages, from): (&Arc<PageStore>, &Content),
    (copy_pages, copy): (&Arc<PageStore>, &Content),
) -> Result<()> {
    let from = ExtentIter::new(from_pages, from, 0);
    let copy = ExtentIter::new(copy_pages, copy, 0);
    for pair in from.zip(copy).take(memo.names_max()) {
        let (from, copy) = match pair {
            (Ok((_, from)), Ok((_, copy))) => (from, copy),
            (Err(error), _) | (_, Err(error)) if is_lost_for_good(&error) => return Ok(()),
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        match (from.kind, copy.kind) {
            (
                ExtentKind::Data { id, offset },
                ExtentKind::Data { id: name, offset: copy_offset },
            ) if from.length == copy.length && offset == copy_offset => memo.learn(id, name),
            (a, b) if a == b && from.length == copy.length => {}
            _ => return Ok(()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extent_goes_on_behind_what_is_covered() {
        let id = Id([1; 32]);
        assert_eq!(behind(Extent::data(id, 7, 10), 4), Extent::data(id, 11, 6));
        assert_eq!(behind(Extent::hole(10), 4), Extent::hole(6));
        assert_eq!(behind(Extent::zero(10), 0), Extent::zero(10));
    }
}
