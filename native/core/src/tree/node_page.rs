//! Pages of nodes (section 9.3): each node is written as its difference from the one before.

use super::node::{
    Body, Content, Kind, LeftOut, Node, SYMLINK_BYTES_MAX, Time, XATTR_NAME_BYTES_MAX, Xattrs,
};
use super::page::{Entry, PageHead, PageType, PageWriter, Progress, expect};
use crate::Result;
use crate::format::varint::put_zigzag;

const MODE: u32 = 1;
const UID: u32 = 2;
const GID: u32 = 4;
const FLAGS: u32 = 8;
const XATTRS: u32 = 16;
const BTIME: u32 = 32;
const LINK_GROUP: u32 = 64;
const DIGEST: u32 = 128;
const UNSTABLE: u32 = 256;
const UNREADABLE: u32 = 512;
const PARTIAL: u32 = 1024;
const ENTRIES_LEFT_OUT: u32 = 2048;
const FILE_SYSTEM_LEFT_OUT: u32 = 4096;
const ALL: u32 = 8191;

/// What the next node is compared with.
#[derive(Clone, Debug, Default)]
struct Previous {
    key: Vec<u8>,
    mode: u32,
    uid: u32,
    gid: u32,
    flags: u32,
    xattrs: Xattrs,
    mtime_seconds: i64,
    ino: u64,
}

impl Previous {
    fn remember(&mut self, node: &Node) {
        self.mode = node.mode;
        self.uid = node.uid;
        self.gid = node.gid;
        self.flags = node.flags;
        if self.xattrs != node.xattrs {
            self.xattrs = node.xattrs.clone();
        }
        self.mtime_seconds = node.mtime.seconds;
        self.ino = node.ino;
    }
}

/// Collects the nodes of one page.
#[derive(Clone, Debug)]
pub(crate) struct NodePageWriter {
    pub(crate) page: PageWriter,
    previous: Previous,
}

impl NodePageWriter {
    pub(crate) fn new() -> Self {
        let page = PageWriter::new(PageType::Nodes, 0);
        Self { page, previous: Previous::default() }
    }

    /// Appends a node, which the caller has checked, with a key greater than the last.
    pub(crate) fn push(&mut self, node: &Node) {
        if self.page.count() == 0 {
            self.previous = Previous::default();
        }
        let mask = self.mask(node);
        let (page, previous) = (&mut self.page, &mut self.previous);
        page.begin();
        page.put_key(&node.key, &mut previous.key);
        page.body.push(node.kind() as u8);
        page.put(u64::from(mask));
        for (bit, value) in
            [(MODE, node.mode), (UID, node.uid), (GID, node.gid), (FLAGS, node.flags)]
        {
            if mask & bit != 0 {
                page.put(u64::from(value));
            }
        }
        if mask & XATTRS != 0 {
            let xattrs = node.xattrs.as_slice();
            page.put(xattrs.len() as u64);
            for (name, value) in xattrs {
                page.put_bytes(name);
                page.put_bytes(value);
            }
        }
        put_time(page, node.mtime, previous.mtime_seconds);
        put_time(page, node.ctime, node.mtime.seconds);
        put_zigzag(&mut page.body, node.ino.wrapping_sub(previous.ino).cast_signed());
        if let Some(btime) = node.btime {
            put_time(page, btime, node.mtime.seconds);
        }
        if let Some(group) = node.link_group {
            page.put(group);
        }
        if let Some(digest) = &node.digest {
            page.body.extend_from_slice(digest);
        }
        put_body(page, &node.body);
        previous.remember(node);
    }

    fn mask(&self, node: &Node) -> u32 {
        let previous = &self.previous;
        [
            (MODE, node.mode != previous.mode),
            (UID, node.uid != previous.uid),
            (GID, node.gid != previous.gid),
            (FLAGS, node.flags != previous.flags),
            (XATTRS, node.xattrs != previous.xattrs),
            (BTIME, node.btime.is_some()),
            (LINK_GROUP, node.link_group.is_some()),
            (DIGEST, node.digest.is_some()),
            (UNSTABLE, node.unstable),
            (UNREADABLE, node.unreadable),
            (PARTIAL, node.partial),
            (ENTRIES_LEFT_OUT, node.left_out == Some(LeftOut::Entries)),
            (FILE_SYSTEM_LEFT_OUT, node.left_out == Some(LeftOut::FileSystem)),
        ]
        .into_iter()
        .fold(0, |mask, (bit, set)| if set { mask | bit } else { mask })
    }
}

fn put_time(page: &mut PageWriter, time: Time, base: i64) {
    put_zigzag(&mut page.body, time.seconds.wrapping_sub(base));
    page.put(u64::from(time.nanoseconds));
}

fn put_body(page: &mut PageWriter, body: &Body) {
    match body {
        Body::File { size, content } => {
            page.put(*size);
            match content {
                Content::Inline(extents) => {
                    page.body.push(0);
                    page.put(extents.len() as u64);
                    for extent in extents {
                        page.put_extent(extent);
                    }
                }
                Content::Pages { level, refs } => {
                    page.body.push(*level);
                    page.put(refs.len() as u64);
                    for (id, covered) in refs {
                        page.put_id(id);
                        page.put(*covered);
                    }
                }
            }
        }
        Body::Symlink(target) => page.put_bytes(target),
        Body::CharDevice(major, minor) | Body::BlockDevice(major, minor) => {
            page.put(u64::from(*major));
            page.put(u64::from(*minor));
        }
        Body::Directory | Body::Fifo | Body::Socket => {}
    }
}

/// A page of nodes that is read node by node, with one node in memory at a time. The first damage
/// ends the iteration.
#[derive(Clone, Debug)]
pub struct NodePage<B> {
    bytes: B,
    progress: Progress,
    previous: Previous,
}

impl<B: AsRef<[u8]>> NodePage<B> {
    /// Starts on a page; checks its header.
    pub fn parse(bytes: B) -> Result<Self> {
        let progress = expect(bytes.as_ref(), PageType::Nodes, 0)?;
        Ok(Self { bytes, progress, previous: Previous::default() })
    }

    /// Its header.
    pub const fn head(&self) -> &PageHead {
        self.progress.head()
    }

    /// Nodes that have not been read yet.
    pub const fn left(&self) -> u32 {
        self.progress.left()
    }

    /// Key of the node that was read last; empty before the first one.
    pub fn last_key(&self) -> &[u8] {
        &self.previous.key
    }
}

impl<B: AsRef<[u8]>> Iterator for NodePage<B> {
    type Item = Result<Node>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.progress.left() == self.progress.head().count;
        let previous = &mut self.previous;
        self.progress.next(self.bytes.as_ref(), |entry| read_node(entry, previous, first))
    }
}

fn read_node(entry: &mut Entry<'_>, previous: &mut Previous, first: bool) -> Result<Node> {
    entry.key(&mut previous.key, first)?;
    let kind = entry.reader.u8()?;
    let mask = entry.reader.varint_u32()?;
    if mask & !ALL != 0 {
        return Err(entry.reader.damaged("unknown mask of a node"));
    }
    let mut field = |bit: u32, before: u32| {
        if mask & bit == 0 { Ok(before) } else { entry.reader.varint_u32() }
    };
    let mode = field(MODE, previous.mode)?;
    let uid = field(UID, previous.uid)?;
    let gid = field(GID, previous.gid)?;
    let flags = field(FLAGS, previous.flags)?;
    if mask & XATTRS != 0 {
        previous.xattrs = read_xattrs(entry)?;
    }
    let mtime = read_time(entry, previous.mtime_seconds)?;
    let ctime = read_time(entry, mtime.seconds)?;
    let ino = previous.ino.wrapping_add(entry.reader.zigzag()?.cast_unsigned());
    let has = |bit: u32| mask & bit != 0;
    let btime = if has(BTIME) { Some(read_time(entry, mtime.seconds)?) } else { None };
    let link_group = if has(LINK_GROUP) { Some(entry.reader.varint()?) } else { None };
    let digest = if has(DIGEST) { Some(entry.reader.array()?) } else { None };
    let left_out = match (has(ENTRIES_LEFT_OUT), has(FILE_SYSTEM_LEFT_OUT)) {
        (false, false) => None,
        (true, false) => Some(LeftOut::Entries),
        (false, true) => Some(LeftOut::FileSystem),
        (true, true) => return Err(entry.reader.damaged("directory left out twice")),
    };
    let node = Node {
        key: previous.key.clone(),
        mode,
        uid,
        gid,
        flags,
        xattrs: previous.xattrs.clone(),
        mtime,
        ctime,
        btime,
        ino,
        link_group,
        digest,
        body: read_body(entry, kind)?,
        unstable: has(UNSTABLE),
        unreadable: has(UNREADABLE),
        partial: has(PARTIAL),
        left_out,
    };
    node.check().map_err(|what| entry.reader.damaged(what))?;
    previous.remember(&node);
    Ok(node)
}

fn read_time(entry: &mut Entry<'_>, base: i64) -> Result<Time> {
    let seconds = base.wrapping_add(entry.reader.zigzag()?);
    Ok(Time { seconds, nanoseconds: entry.reader.varint_u32()? })
}

fn read_xattrs(entry: &mut Entry<'_>) -> Result<Xattrs> {
    let count = entry.reader.count(3)?;
    let mut xattrs = Vec::with_capacity(count.min(64));
    for _ in 0..count {
        let name = entry.reader.string(XATTR_NAME_BYTES_MAX)?.to_vec();
        let value = entry.reader.string(usize::MAX)?.to_vec();
        xattrs.push((name, value));
    }
    Xattrs::from_sorted(xattrs).map_err(|what| entry.reader.damaged(what))
}

fn read_body(entry: &mut Entry<'_>, kind: u8) -> Result<Body> {
    const FILE: u8 = Kind::File as u8;
    const DIRECTORY: u8 = Kind::Directory as u8;
    const SYMLINK: u8 = Kind::Symlink as u8;
    const FIFO: u8 = Kind::Fifo as u8;
    const SOCKET: u8 = Kind::Socket as u8;
    const CHAR: u8 = Kind::CharDevice as u8;
    const BLOCK: u8 = Kind::BlockDevice as u8;
    Ok(match kind {
        FILE => {
            let size = entry.reader.varint()?;
            Body::File { size, content: read_content(entry)? }
        }
        DIRECTORY => Body::Directory,
        SYMLINK => Body::Symlink(entry.reader.string(SYMLINK_BYTES_MAX)?.to_vec()),
        FIFO => Body::Fifo,
        SOCKET => Body::Socket,
        CHAR => Body::CharDevice(entry.reader.varint_u32()?, entry.reader.varint_u32()?),
        BLOCK => Body::BlockDevice(entry.reader.varint_u32()?, entry.reader.varint_u32()?),
        _ => return Err(entry.reader.damaged("unknown kind of node")),
    })
}

fn read_content(entry: &mut Entry<'_>) -> Result<Content> {
    let level = entry.reader.u8()?;
    if level == 0 {
        let count = entry.reader.count(1)?;
        let mut extents = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            extents.push(entry.extent()?);
        }
        return Ok(Content::Inline(extents));
    }
    let count = entry.reader.count(2)?;
    let mut refs = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        let id = entry.id()?;
        refs.push((id, entry.reader.varint()?));
    }
    Ok(Content::Pages { level, refs })
}
