//! Pages (section 9.2): their header, their table of ids, and the three simple types. Pages of nodes
//! are in [`node_page`](super::node_page).

use hashbrown::{HashMap, HashSet};

use super::key::{check_key_from, shared_len};
use super::node::{Extent, ExtentKind};
use crate::format::Id;
use crate::format::varint::{ByteReader, put_varint};
use crate::{Error, Result};

/// The largest page, in bytes.
pub const PAGE_BYTES_MAX: usize = 8 << 20;

const MAGIC: &[u8; 4] = b"PVT1";
const HEAD_BYTES: usize = 16;
const ID_BYTES: usize = 32;

/// What a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PageType {
    /// Nodes.
    Nodes = 1,
    /// Pages of nodes, or of such pages.
    Inner = 2,
    /// Extents of one file.
    Extents = 3,
    /// Pages of extents, or of such pages.
    ExtentInner = 4,
}

/// The fixed part of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHead {
    /// What it holds.
    pub page_type: PageType,
    /// 0 for nodes and extents, else one more than the level of the pages that it names.
    pub level: u8,
    /// Number of entries.
    pub count: u32,
    id_count: u32,
}

impl PageHead {
    /// Reads the header and checks the table of ids.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut reader = ByteReader::new(bytes);
        if bytes.len() > PAGE_BYTES_MAX || reader.array()? != *MAGIC {
            return Err(reader.damaged("not a page"));
        }
        let page_type = match reader.u8()? {
            1 => PageType::Nodes,
            2 => PageType::Inner,
            3 => PageType::Extents,
            4 => PageType::ExtentInner,
            _ => return Err(reader.damaged("unknown type of page")),
        };
        let level = reader.u8()?;
        let inner = matches!(page_type, PageType::Inner | PageType::ExtentInner);
        if inner != (level > 0) || reader.u16()? != 0 {
            return Err(reader.damaged("page of impossible level"));
        }
        let count = reader.u32()?;
        let id_count = reader.u32()?;
        let head = Self { page_type, level, count, id_count };
        let table_bytes =
            (id_count as usize).checked_mul(ID_BYTES).filter(|bytes| *bytes <= reader.remaining());
        let Some(table_bytes) = table_bytes else {
            return Err(reader.damaged("page ends in its table of ids"));
        };
        reader.take(table_bytes)?;
        if reader.remaining() < count as usize || (count == 0 && page_type != PageType::Nodes) {
            return Err(reader.damaged("page of impossible count"));
        }
        let table = head.table(bytes);
        if table.len() > 1 {
            let mut seen = HashSet::with_capacity(table.len());
            if !table.iter().all(|id| seen.insert(id)) {
                return Err(reader.damaged("id twice in the table of a page"));
            }
        }
        Ok(head)
    }

    fn table<'a>(&self, bytes: &'a [u8]) -> &'a [[u8; ID_BYTES]] {
        let table = bytes.get(HEAD_BYTES..self.body_start());
        table.unwrap_or_default().as_chunks().0
    }

    const fn body_start(&self) -> usize {
        HEAD_BYTES + self.id_count as usize * ID_BYTES
    }
}

/// Goes over the entries of a page: where the next one is, and which ids have been used.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    head: PageHead,
    position: usize,
    left: u32,
    ids_used: u32,
}

impl Progress {
    pub(crate) fn start(head: PageHead) -> Self {
        Self { head, position: head.body_start(), left: head.count, ids_used: 0 }
    }

    pub(crate) const fn head(&self) -> &PageHead {
        &self.head
    }

    /// Entries not read yet.
    pub(crate) const fn left(&self) -> u32 {
        self.left
    }

    /// Reads the next entry with `read`. After the last one, checks that nothing follows and that
    /// all ids of the table have been used.
    pub(crate) fn next<'a, T>(
        &mut self,
        bytes: &'a [u8],
        read: impl FnOnce(&mut Entry<'a>) -> Result<T>,
    ) -> Option<Result<T>> {
        let reader = ByteReader::at(bytes, self.position);
        self.left = self.left.checked_sub(1)?;
        let mut entry = Entry { reader, table: self.head.table(bytes), ids_used: self.ids_used };
        let mut result = read(&mut entry);
        self.position = entry.reader.position();
        self.ids_used = entry.ids_used;
        if result.is_ok() && self.left == 0 {
            if self.ids_used != self.head.id_count {
                result = Err(entry.reader.damaged("page with ids that nothing uses"));
            } else if let Err(error) = entry.reader.finish() {
                result = Err(error);
            }
        }
        if result.is_err() {
            self.left = 0;
        }
        Some(result)
    }
}

/// One entry while it is read.
pub(crate) struct Entry<'a> {
    pub(crate) reader: ByteReader<'a>,
    table: &'a [[u8; ID_BYTES]],
    ids_used: u32,
}

impl Entry<'_> {
    /// An id by its position in the table; new ones must come in the table's order.
    pub(crate) fn id(&mut self) -> Result<Id> {
        let position = self.reader.varint_u32()?;
        let id = self.table.get(position as usize);
        let (Some(id), true) = (id, position <= self.ids_used) else {
            return Err(self.reader.damaged("id outside the table of the page or out of turn"));
        };
        self.ids_used = self.ids_used.max(position + 1);
        Ok(Id(*id))
    }

    /// A front-coded key, which must be greater than `previous`; replaces it. The first key of a page
    /// shares nothing and may be empty.
    pub(crate) fn key(&mut self, previous: &mut Vec<u8>, first: bool) -> Result<()> {
        let shared = self.reader.varint()?;
        let rest = self.reader.string(super::key::KEY_BYTES_MAX)?;
        let shared = match usize::try_from(shared) {
            Ok(shared) if shared <= previous.len() => shared,
            _ => {
                return Err(self.reader.damaged("key shares more than the one before has"));
            }
        };
        if !first && previous.get(shared..).is_none_or(|tail| rest <= tail) {
            return Err(self.reader.damaged("keys out of order"));
        }
        previous.truncate(shared);
        previous.extend_from_slice(rest);
        check_key_from(previous, shared).map_err(|what| self.reader.damaged(what))
    }

    /// An extent.
    pub(crate) fn extent(&mut self) -> Result<Extent> {
        let packed = self.reader.varint()?;
        let length = packed >> 2;
        let extent = match packed & 3 {
            0 => {
                let id = self.id()?;
                Extent::data(id, self.reader.varint_u32()?, length)
            }
            1 => Extent::hole(length),
            2 => Extent::zero(length),
            _ => return Err(self.reader.damaged("unknown type of extent")),
        };
        extent.check().map_err(|what| self.reader.damaged(what))?;
        Ok(extent)
    }
}

/// Collects the entries of one page.
#[derive(Clone, Debug)]
pub(crate) struct PageWriter {
    page_type: PageType,
    level: u8,
    count: u32,
    table: Vec<[u8; ID_BYTES]>,
    positions: HashMap<[u8; ID_BYTES], u32>,
    pub(crate) body: Vec<u8>,
}

impl PageWriter {
    pub(crate) fn new(page_type: PageType, level: u8) -> Self {
        let (table, positions, body) = (Vec::new(), HashMap::new(), Vec::new());
        Self { page_type, level, count: 0, table, positions, body }
    }

    /// Bytes of the page if it ended here.
    pub(crate) const fn size(&self) -> usize {
        HEAD_BYTES + self.table.len() * ID_BYTES + self.body.len()
    }

    pub(crate) const fn count(&self) -> u32 {
        self.count
    }

    /// Counts an entry, whose bytes are then put.
    pub(crate) const fn begin(&mut self) {
        self.count += 1;
    }

    pub(crate) fn put(&mut self, value: u64) {
        put_varint(&mut self.body, value);
    }

    pub(crate) fn put_bytes(&mut self, bytes: &[u8]) {
        put_varint(&mut self.body, bytes.len() as u64);
        self.body.extend_from_slice(bytes);
    }

    pub(crate) fn put_id(&mut self, id: &Id) {
        // A page has at most 8 MiB / 32 ids.
        let next = u32::try_from(self.table.len()).unwrap_or(u32::MAX);
        let position = match self.table.last() {
            Some(last) if *last == id.0 => next - 1,
            _ => *self.positions.entry(id.0).or_insert(next),
        };
        if position == next {
            self.table.push(id.0);
        }
        self.put(u64::from(position));
    }

    /// Front-codes `key` against `previous`, which becomes `key`.
    pub(crate) fn put_key(&mut self, key: &[u8], previous: &mut Vec<u8>) {
        let shared = shared_len(key, previous);
        let rest = key.get(shared..).unwrap_or_default();
        self.put(shared as u64);
        self.put_bytes(rest);
        previous.truncate(shared);
        previous.extend_from_slice(rest);
    }

    pub(crate) fn put_extent(&mut self, extent: &Extent) {
        match extent.kind {
            ExtentKind::Data { id, offset } => {
                self.put(extent.length << 2);
                self.put_id(&id);
                self.put(u64::from(offset));
            }
            ExtentKind::Hole => self.put(extent.length << 2 | 1),
            ExtentKind::Zero => self.put(extent.length << 2 | 2),
        }
    }

    /// The page; the writer is empty afterwards.
    pub(crate) fn finish(&mut self) -> Result<Vec<u8>> {
        let size = self.size();
        if size > PAGE_BYTES_MAX {
            return Err(Error::internal("page of more than 8 MiB"));
        }
        let mut page = Vec::with_capacity(size);
        page.extend_from_slice(MAGIC);
        page.extend_from_slice(&[self.page_type as u8, self.level, 0, 0]);
        page.extend_from_slice(&self.count.to_le_bytes());
        page.extend_from_slice(&u32::try_from(self.table.len()).unwrap_or(u32::MAX).to_le_bytes());
        page.extend_from_slice(self.table.as_flattened());
        page.extend_from_slice(&self.body);
        self.count = 0;
        self.table.clear();
        self.positions.clear();
        self.body.clear();
        Ok(page)
    }
}

/// An entry of an inner page over nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InnerEntry {
    /// The first key of the child.
    pub key: Vec<u8>,
    /// The child.
    pub id: Id,
    /// Nodes below.
    pub nodes: u64,
    /// File bytes below; `u64::MAX` when it is more.
    pub bytes: u64,
}

pub(crate) fn put_inner(page: &mut PageWriter, entry: &InnerEntry, previous: &mut Vec<u8>) {
    if page.count() == 0 {
        previous.clear();
    }
    page.begin();
    page.put_key(&entry.key, previous);
    page.put_id(&entry.id);
    page.put(entry.nodes);
    page.put(entry.bytes);
}

/// Reads a whole inner page over nodes, which must be of this level.
pub fn parse_inner(bytes: &[u8], level: u8) -> Result<Vec<InnerEntry>> {
    let mut progress = expect(bytes, PageType::Inner, level)?;
    let mut entries = Vec::with_capacity(reserve(progress.left()));
    let mut key = Vec::new();
    while let Some(entry) = progress.next(bytes, |entry| {
        entry.key(&mut key, entries.is_empty())?;
        let id = entry.id()?;
        let nodes = entry.reader.varint()?;
        let bytes = entry.reader.varint()?;
        if nodes == 0 {
            return Err(entry.reader.damaged("page of no nodes"));
        }
        Ok(InnerEntry { key: key.clone(), id, nodes, bytes })
    }) {
        entries.push(entry?);
    }
    Ok(entries)
}

/// Reads a whole page of extents.
pub fn parse_extents(bytes: &[u8]) -> Result<Vec<Extent>> {
    let mut progress = expect(bytes, PageType::Extents, 0)?;
    let mut extents = Vec::with_capacity(reserve(progress.left()));
    while let Some(extent) = progress.next(bytes, Entry::extent) {
        extents.push(extent?);
    }
    Ok(extents)
}

/// Reads a whole inner page over extents, which must be of this level: pages and the bytes that each
/// covers.
pub fn parse_extent_inner(bytes: &[u8], level: u8) -> Result<Vec<(Id, u64)>> {
    let mut progress = expect(bytes, PageType::ExtentInner, level)?;
    let mut refs = Vec::with_capacity(reserve(progress.left()));
    while let Some(entry) = progress.next(bytes, |entry| {
        let id = entry.id()?;
        let covered = entry.reader.varint()?;
        if covered == 0 {
            return Err(entry.reader.damaged("extent page that covers nothing"));
        }
        Ok((id, covered))
    }) {
        refs.push(entry?);
    }
    Ok(refs)
}

/// How many entries to make room for at first: a count that lies shall not cost memory.
fn reserve(count: u32) -> usize {
    count.min(2048) as usize
}

/// Starts on a page that must be of this type and level.
pub(crate) fn expect(bytes: &[u8], page_type: PageType, level: u8) -> Result<Progress> {
    let head = PageHead::parse(bytes)?;
    if head.page_type != page_type || head.level != level {
        return Err(Error::damaged("page of another type or level than its place says"));
    }
    let progress = Progress::start(head);
    if head.count == 0 && bytes.len() != head.body_start() {
        return Err(Error::damaged("bytes after the end").offset(head.body_start() as u64));
    }
    if head.count == 0 && head.id_count != 0 {
        return Err(Error::damaged("page with ids that nothing uses"));
    }
    Ok(progress)
}
