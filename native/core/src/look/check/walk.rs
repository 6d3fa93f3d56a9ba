//! Goes through the trees of all snapshots, each page once, and notes what names what.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{CheckSnapshot, Context, Finding, fault_or_end};
use crate::error::{Error, Result};
use crate::format::{Id, ShortId};
use crate::tree::node_page::NodePage;
use crate::tree::page::{InnerEntry, parse_extent_inner, parse_extents, parse_inner};
use crate::tree::{Body, Content, Extent, ExtentKind, PageSource, Root};

/// How many pages one request brings at most.
const BATCH: usize = 32;
/// Stands for an id of which only a reference set tells: chunk or page.
const UNKNOWN: u32 = u32::MAX;

/// What a page is by its place in a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Of extents, by level. Before pages of nodes, which name them.
    Extents(u8),
    /// Of nodes, by level.
    Nodes(u8),
}

/// What is known of a page that was read.
pub(super) struct PageFacts {
    pub(super) id: Id,
    pub(super) role: Role,
    /// What it holds, as the page above should say it.
    sums: Sums,
    /// All keys in and below it were found to be below this one; none: not compared.
    end: Option<Arc<[u8]>>,
    /// Numbers of the pages and chunks that it names.
    pub(super) names: Box<[u32]>,
    /// It could not be read, or is not what it should be.
    pub(super) is_bad: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Sums {
    /// Of pages of nodes.
    nodes: u64,
    first_key: Option<Arc<[u8]>>,
    /// File bytes below, or bytes covered by extents.
    bytes: u64,
}

/// What all snapshots together reach. Ids have numbers in the order in which they were met.
#[derive(Default)]
pub(super) struct Reach {
    numbers: HashMap<ShortId, u32>,
    /// By number: how many bytes a chunk must have at least; 0 for a page.
    lengths: Vec<u32>,
    pages: HashMap<u32, PageFacts>,
    /// Ids that are wanted whole, and those that were met.
    wanted: HashMap<ShortId, Option<Id>>,
}

/// A set of numbers.
pub(super) struct NumberSet(Vec<u64>);

impl NumberSet {
    pub(super) fn new(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        let word = self.0.get(number as usize / 64);
        word.is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// False if it was there.
    pub(super) fn insert(&mut self, number: u32) -> bool {
        let is_new = !self.contains(number);
        if let Some(word) = self.0.get_mut(number as usize / 64) {
            *word |= 1 << (number % 64);
        }
        is_new
    }

    pub(super) fn len(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

impl Reach {
    fn number(&mut self, id: ShortId, bytes: u32) -> Result<u32> {
        let next = u32::try_from(self.lengths.len()).ok().filter(|next| *next < u32::MAX);
        let next = next.ok_or_else(|| Error::unsupported("more than 2^32 chunks in one check"))?;
        let number = *self.numbers.entry(id).or_insert(next);
        if number == next {
            self.lengths.push(bytes);
        } else if let Some(length) = self.lengths.get_mut(number as usize) {
            *length = if *length == UNKNOWN { bytes } else { bytes.max(*length) };
        }
        Ok(number)
    }

    /// Lets the walk note the whole id.
    pub(super) fn ask_for(&mut self, id: ShortId) {
        self.wanted.entry(id).or_default();
    }

    /// A whole id that was asked for, if it was met.
    pub(super) fn whole_id(&self, id: &ShortId) -> Option<Id> {
        self.wanted.get(id).copied().flatten()
    }

    fn met(&mut self, id: &Id) {
        if let Some(wanted) = self.wanted.get_mut(&id.short()) {
            *wanted = Some(*id);
        }
    }

    /// Notes an id of which only a reference set tells.
    pub(super) fn note_unknown(&mut self, id: ShortId) -> Result<()> {
        if self.find(&id).is_none() {
            self.number(id, UNKNOWN)?;
        }
        Ok(())
    }

    pub(super) fn find(&self, id: &ShortId) -> Option<u32> {
        self.numbers.get(id).copied()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = (&ShortId, u32)> {
        self.numbers.iter().map(|(id, number)| (id, *number))
    }

    /// Bytes that a chunk must have at least; `None` for a page and what may be one.
    pub(super) fn chunk_bytes(&self, number: u32) -> Option<u32> {
        let length = self.lengths.get(number as usize).copied();
        length.filter(|length| *length != 0 && *length != UNKNOWN)
    }

    pub(super) fn is_page(&self, number: u32) -> bool {
        self.lengths.get(number as usize) == Some(&0)
    }

    pub(super) fn page(&self, number: u32) -> Option<&PageFacts> {
        self.pages.get(&number)
    }

    pub(super) fn pages(&self) -> impl Iterator<Item = (u32, &PageFacts)> {
        self.pages.iter().map(|(number, facts)| (*number, facts))
    }

    pub(super) fn count(&self) -> usize {
        self.lengths.len()
    }

    pub(super) fn page_count(&self) -> u64 {
        self.pages.len() as u64
    }

    /// Chunks, and what may be one.
    pub(super) fn chunk_count(&self) -> u64 {
        self.lengths.iter().filter(|length| **length != 0).count() as u64
    }

    /// Everything that the tree below a page reaches, itself included.
    pub(super) fn below(&self, root: u32) -> NumberSet {
        let mut set = NumberSet::new(self.count());
        let mut pending = vec![root];
        while let Some(number) = pending.pop() {
            if set.insert(number)
                && let Some(facts) = self.page(number)
            {
                pending.extend_from_slice(&facts.names);
            }
        }
        set
    }
}

/// A page on the way down, and what the page above says of it.
struct Visit {
    id: Id,
    number: u32,
    role: Role,
    sums: Sums,
    /// The first key after it.
    end: Option<Arc<[u8]>>,
    /// Where people find it: its first key, or the file whose extents it holds.
    path: Arc<[u8]>,
}

/// Goes through one tree.
pub(super) struct Walker<'a, S> {
    context: &'a Context<'a>,
    snapshot: &'a CheckSnapshot,
    source: &'a S,
    reach: &'a mut Reach,
    pending: Vec<Visit>,
}

const ABOVE: &str = "a page does not hold what the page above says";

impl<'a, S: PageSource> Walker<'a, S> {
    pub(super) fn new(
        context: &'a Context<'a>,
        snapshot: &'a CheckSnapshot,
        source: &'a S,
        reach: &'a mut Reach,
    ) -> Self {
        Self { context, snapshot, source, reach, pending: Vec::new() }
    }

    /// Reads what has not been read before. Returns the number of the root.
    pub(super) fn run(mut self, root: &Root) -> Result<u32> {
        // The first node of every tree is its root, whose key is empty.
        let path: Arc<[u8]> = Arc::default();
        let sums =
            Sums { nodes: root.nodes, first_key: Some(Arc::clone(&path)), bytes: root.bytes };
        let number = self.push(root.page, Role::Nodes(root.level), sums, None, path)?;
        while !self.pending.is_empty() {
            let rest = self.pending.len().saturating_sub(BATCH);
            let mut batch = self.pending.split_off(rest);
            let mut unread = Vec::with_capacity(batch.len());
            // The batch is in the order of the tree when it is taken from the end.
            while let Some(visit) = batch.pop() {
                if !self.is_done(&visit)? {
                    unread.push(visit);
                }
            }
            self.read(unread)?;
        }
        Ok(number)
    }

    fn push(
        &mut self,
        id: Id,
        role: Role,
        sums: Sums,
        end: Option<Arc<[u8]>>,
        path: Arc<[u8]>,
    ) -> Result<u32> {
        self.reach.met(&id);
        let number = self.reach.number(id.short(), 0)?;
        self.pending.push(Visit { id, number, role, sums, end, path });
        Ok(number)
    }

    fn bad_page(&self, visit: &Visit, error: &Error) -> Result<()> {
        let object = error.key.clone().unwrap_or_else(|| format!("page {}", visit.id));
        let detail = format!("page {}: {error}", visit.id);
        let finding = Finding::error("page-damaged", detail).on(object);
        let finding = finding.of(&self.snapshot.snapshot).at_key(&visit.path);
        self.context.findings.report(&finding)
    }

    /// Whether the page was read before, and is what this place wants as well.
    fn is_done(&self, visit: &Visit) -> Result<bool> {
        let Some(known) = self.reach.page(visit.number) else {
            return Ok(false);
        };
        if known.is_bad {
            return Ok(true);
        }
        if known.role != visit.role || known.sums != visit.sums {
            self.bad_page(visit, &Error::damaged(ABOVE))?;
            return Ok(true);
        }
        // Something else may follow it here; then its last keys must be looked at again.
        Ok(match (&visit.end, &known.end) {
            (Some(end), Some(known)) => end >= known,
            (Some(_), None) => false,
            (None, _) => true,
        })
    }

    fn read(&mut self, visits: Vec<Visit>) -> Result<()> {
        let ids: Vec<Id> = visits.iter().map(|visit| visit.id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let mut pages = match fault_or_end(self.source.get_pages(&ids))? {
            Ok(pages) => pages.into_iter().map(Ok).collect::<Vec<_>>(),
            // One of them is bad: which?
            Err(_) => ids
                .iter()
                .map(|id| fault_or_end(self.source.get_pages(std::slice::from_ref(id))))
                .map(|page| page.map(|page| page.map(|mut page| page.pop().unwrap_or_default())))
                .collect::<Result<Vec<_>>>()?,
        }
        .into_iter();
        for visit in visits {
            let page = pages.next().ok_or_else(|| Error::internal("a page was not read"))?;
            let mut names = Vec::new();
            let expanded = match page {
                Ok(raw) => fault_or_end(self.expand(&raw, &visit, &mut names))?,
                Err(error) => Err(error),
            };
            if let Err(error) = &expanded {
                self.bad_page(&visit, error)?;
            }
            names.sort_unstable();
            names.dedup();
            let facts = PageFacts {
                id: visit.id,
                role: visit.role,
                sums: visit.sums,
                end: visit.end,
                names: names.into(),
                is_bad: expanded.is_err(),
            };
            self.reach.pages.insert(visit.number, facts);
        }
        Ok(())
    }

    fn expand(&mut self, raw: &[u8], visit: &Visit, names: &mut Vec<u32>) -> Result<()> {
        match visit.role {
            Role::Nodes(0) => self.nodes(raw, visit, names),
            Role::Nodes(level) => self.inner(&parse_inner(raw, level)?, level, visit, names),
            Role::Extents(0) => {
                let extents = parse_extents(raw)?;
                let covered = extents.iter().map(|extent| extent.length);
                self.extents(&extents, names)?;
                expect(sum(covered) == Some(visit.sums.bytes))
            }
            Role::Extents(level) => {
                let refs = parse_extent_inner(raw, level)?;
                self.extent_pages(&refs, level - 1, &visit.path, names)?;
                expect(sum(refs.iter().map(|(_, bytes)| *bytes)) == Some(visit.sums.bytes))
            }
        }
    }

    fn nodes(&mut self, raw: &[u8], visit: &Visit, names: &mut Vec<u32>) -> Result<()> {
        let page = NodePage::parse(raw)?;
        let count = u64::from(page.head().count);
        let mut first: Option<Arc<[u8]>> = None;
        let mut last = Vec::new();
        let mut bytes = 0_u64;
        for node in page {
            let node = node?;
            bytes = bytes.saturating_add(node.size());
            if let Body::File { content, .. } = &node.body {
                match content {
                    Content::Inline(extents) => self.extents(extents, names)?,
                    Content::Pages { level, refs } => {
                        let path = node.key.as_slice().into();
                        self.extent_pages(refs, level.saturating_sub(1), &path, names)?;
                    }
                }
            }
            if first.is_none() {
                first = Some(node.key.as_slice().into());
            }
            last = node.key;
        }
        expect(visit.sums == Sums { nodes: count, first_key: first, bytes })?;
        expect(visit.end.as_ref().is_none_or(|end| *last < **end))
    }

    fn inner(
        &mut self,
        entries: &[InnerEntry],
        level: u8,
        visit: &Visit,
        names: &mut Vec<u32>,
    ) -> Result<()> {
        let nodes = sum(entries.iter().map(|entry| entry.nodes));
        let bytes = entries.iter().fold(0_u64, |sum, entry| sum.saturating_add(entry.bytes));
        let mut end = visit.end.clone();
        let last = entries.last().map(|entry| entry.key.as_slice());
        expect(end.as_ref().is_none_or(|end| last.is_some_and(|last| *last < **end)))?;
        // From the end, so that the first child is the first to be taken off the pile.
        let mut first_key = None;
        for entry in entries.iter().rev() {
            let key: Arc<[u8]> = entry.key.as_slice().into();
            let sums =
                Sums { nodes: entry.nodes, first_key: Some(Arc::clone(&key)), bytes: entry.bytes };
            let path = Arc::clone(&key);
            let role = Role::Nodes(level - 1);
            names.push(self.push(entry.id, role, sums, end.replace(Arc::clone(&key)), path)?);
            first_key = Some(key);
        }
        let nodes = nodes.ok_or_else(|| Error::damaged(ABOVE))?;
        expect(visit.sums == Sums { nodes, first_key, bytes })
    }

    fn extent_pages(
        &mut self,
        refs: &[(Id, u64)],
        level: u8,
        path: &Arc<[u8]>,
        names: &mut Vec<u32>,
    ) -> Result<()> {
        for (id, bytes) in refs.iter().rev() {
            let sums = Sums { nodes: 0, first_key: None, bytes: *bytes };
            names.push(self.push(*id, Role::Extents(level), sums, None, Arc::clone(path))?);
        }
        Ok(())
    }

    fn extents(&mut self, extents: &[Extent], names: &mut Vec<u32>) -> Result<()> {
        for extent in extents {
            if let ExtentKind::Data { id, offset } = extent.kind {
                // Parsing has seen to it that a slice ends within 16 MiB.
                let bytes = u32::try_from(u64::from(offset) + extent.length).unwrap_or(UNKNOWN - 1);
                self.reach.met(&id);
                names.push(self.reach.number(id.short(), bytes)?);
            }
        }
        Ok(())
    }
}

fn sum(mut values: impl Iterator<Item = u64>) -> Option<u64> {
    values.try_fold(0_u64, u64::checked_add)
}

fn expect(is_so: bool) -> Result<()> {
    if is_so { Ok(()) } else { Err(Error::damaged(ABOVE)) }
}
