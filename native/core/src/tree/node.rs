//! Nodes: what a tree knows about one file, directory, or other entry (section 9.3).

use std::sync::Arc;

use super::key;
use crate::format::{BLOB_BYTES_MAX, Id};

/// The longest name of an extended attribute, in bytes.
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// The longest target of a symlink, in bytes.
pub const SYMLINK_BYTES_MAX: usize = 65_535;
/// The most bytes of key, attributes, symlink target and inline content of one node together.
pub const NODE_BYTES_MAX: usize = 4 << 20;
/// Extents are shorter than this.
pub const EXTENT_BYTES_MAX: u64 = (1 << 62) - 1;

const SECOND: u32 = 1_000_000_000;

/// Why a node cannot be written.
pub type Refusal = &'static str;

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A regular file; a device or stream that is backed up is one, too.
    File = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
    /// A named pipe.
    Fifo = 4,
    /// A socket.
    Socket = 5,
    /// A character device.
    CharDevice = 6,
    /// A block device.
    BlockDevice = 7,
}

/// A point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds after that, below 10^9.
    pub nanoseconds: u32,
}

/// Name and value of an extended attribute.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// The extended attributes of a node, sorted by name. Copies share memory: most nodes repeat those of
/// their neighbours.
#[derive(Clone, Debug, Default)]
pub struct Xattrs(Option<Arc<[Xattr]>>);

impl Xattrs {
    /// Sorts and checks attributes: names of 1 to 255 bytes without zero bytes, none twice.
    pub fn new(mut xattrs: Vec<Xattr>) -> Result<Self, Refusal> {
        xattrs.sort_unstable();
        Self::from_sorted(xattrs)
    }

    /// As [`new`](Self::new), but refuses what is not sorted.
    pub(crate) fn from_sorted(xattrs: Vec<Xattr>) -> Result<Self, Refusal> {
        if !xattrs.is_sorted_by(|a, b| a.0 < b.0) {
            return Err("extended attributes are not sorted or stand twice");
        }
        let good =
            |name: &[u8]| (1..=XATTR_NAME_BYTES_MAX).contains(&name.len()) && !name.contains(&0);
        if !xattrs.iter().all(|(name, _)| good(name)) {
            return Err("extended attribute without a proper name");
        }
        Ok(Self((!xattrs.is_empty()).then(|| xattrs.into())))
    }

    /// The attributes in order.
    pub fn as_slice(&self) -> &[Xattr] {
        self.0.as_deref().unwrap_or_default()
    }

    /// The value of one attribute.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        let found = self.as_slice().binary_search_by(|(other, _)| other.as_slice().cmp(name));
        self.as_slice().get(found.ok()?).map(|(_, value)| value.as_slice())
    }
}

impl PartialEq for Xattrs {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            (a, b) => a.is_none() && b.is_none(),
        }
    }
}

impl Eq for Xattrs {}

/// What an extent of a file consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExtentKind {
    /// A slice of one chunk.
    Data {
        /// The chunk.
        id: Id,
        /// Where the slice starts in it, in bytes.
        offset: u32,
    },
    /// Not allocated.
    Hole,
    /// Allocated, and all zero.
    Zero,
}

/// A piece of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// What it consists of.
    pub kind: ExtentKind,
    /// Its length in bytes, 1 to [`EXTENT_BYTES_MAX`]; a slice ends within 16 MiB of its chunk's start.
    pub length: u64,
}

impl Extent {
    /// A slice of a chunk.
    pub const fn data(id: Id, offset: u32, length: u64) -> Self {
        Self { kind: ExtentKind::Data { id, offset }, length }
    }

    /// A range that is not allocated.
    pub const fn hole(length: u64) -> Self {
        Self { kind: ExtentKind::Hole, length }
    }

    /// An allocated range of zeros.
    pub const fn zero(length: u64) -> Self {
        Self { kind: ExtentKind::Zero, length }
    }

    /// Says why no file can have this extent.
    pub const fn check(&self) -> Result<(), Refusal> {
        if self.length == 0 || self.length > EXTENT_BYTES_MAX {
            return Err("extent of impossible length");
        }
        if let ExtentKind::Data { offset, .. } = self.kind
            && self.length > BLOB_BYTES_MAX.saturating_sub(offset) as u64
        {
            return Err("extent reaches beyond the longest chunk");
        }
        Ok(())
    }
}

/// Where the bytes of a file are (section 9.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// In the node: the extents in order.
    Inline(Vec<Extent>),
    /// In pages of their own.
    Pages {
        /// One more than the level of the pages, at least 1.
        level: u8,
        /// Pages in order, each with the bytes of the file that it covers.
        refs: Vec<(Id, u64)>,
    },
}

impl Content {
    /// The content of an empty file.
    pub const fn empty() -> Self {
        Self::Inline(Vec::new())
    }

    /// Bytes covered; none beyond 2^64.
    pub fn covered(&self) -> Option<u64> {
        match self {
            Self::Inline(extents) => sum(extents.iter().map(|extent| extent.length)),
            Self::Pages { refs, .. } => sum(refs.iter().map(|(_, bytes)| *bytes)),
        }
    }

    fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Inline(extents) => extents.iter().try_for_each(Extent::check),
            Self::Pages { level: 0, .. } => Err("extent pages of level -1"),
            Self::Pages { refs, .. } if refs.is_empty() => Err("content without its pages"),
            Self::Pages { refs, .. } if refs.iter().any(|(_, bytes)| *bytes == 0) => {
                Err("extent page that covers nothing")
            }
            Self::Pages { .. } => Ok(()),
        }
    }
}

fn sum(mut lengths: impl Iterator<Item = u64>) -> Option<u64> {
    lengths.try_fold(0_u64, u64::checked_add)
}

/// What the backup was told to leave out of a directory: nobody can say from the tree that the
/// directory did not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeftOut {
    /// Some entries, with all that is below them.
    Entries,
    /// Everything: another file system is mounted there.
    FileSystem,
}

/// What a node holds besides its attributes; says what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A regular file.
    File {
        /// Its size in bytes.
        size: u64,
        /// Its content.
        content: Content,
    },
    /// A directory; its children are nodes of their own.
    Directory,
    /// A symbolic link with its target: 1 to 65,535 bytes, none of them zero.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device: major and minor number.
    CharDevice(u32, u32),
    /// A block device: major and minor number.
    BlockDevice(u32, u32),
}

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Path below the source's root, components joined by zero bytes; the root's is empty.
    pub key: Vec<u8>,
    /// Permission bits, 07777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Flags of `FS_IOC_GETFLAGS`.
    pub flags: u32,
    /// Extended attributes, ACLs among them.
    pub xattrs: Xattrs,
    /// When the content was last modified.
    pub mtime: Time,
    /// When the inode was last changed.
    pub ctime: Time,
    /// When the file was born, where the file system knows.
    pub btime: Option<Time>,
    /// Inode number.
    pub ino: u64,
    /// Nodes with the same number are one inode under several names.
    pub link_group: Option<u64>,
    /// Files only: first 16 bytes of the keyed digest of the content.
    pub digest: Option<[u8; 16]>,
    /// What it holds.
    pub body: Body,
    /// Files and directories: it changed while it was read.
    pub unstable: bool,
    /// Files and directories: it could not be read. A file's size is what was seen, its content is empty.
    pub unreadable: bool,
    /// Files in checkpoints only: the content covers a prefix of the file.
    pub partial: bool,
    /// Directories only: what is missing here was left out on purpose.
    pub left_out: Option<LeftOut>,
}

impl Node {
    /// A node with this key and body, and everything else zero or absent.
    pub fn new(key: Vec<u8>, body: Body) -> Self {
        Self {
            key,
            mode: 0,
            uid: 0,
            gid: 0,
            flags: 0,
            xattrs: Xattrs::default(),
            mtime: Time::default(),
            ctime: Time::default(),
            btime: None,
            ino: 0,
            link_group: None,
            digest: None,
            body,
            unstable: false,
            unreadable: false,
            partial: false,
            left_out: None,
        }
    }

    /// What it is.
    pub const fn kind(&self) -> Kind {
        match self.body {
            Body::File { .. } => Kind::File,
            Body::Directory => Kind::Directory,
            Body::Symlink(_) => Kind::Symlink,
            Body::Fifo => Kind::Fifo,
            Body::Socket => Kind::Socket,
            Body::CharDevice(..) => Kind::CharDevice,
            Body::BlockDevice(..) => Kind::BlockDevice,
        }
    }

    /// The size of a file in bytes; 0 of everything else.
    pub const fn size(&self) -> u64 {
        match self.body {
            Body::File { size, .. } => size,
            _ => 0,
        }
    }

    /// The last component of its path; empty for the root.
    pub fn name(&self) -> &[u8] {
        key::split_key(&self.key).map_or(&[], |(_, name)| name)
    }

    /// Says why the format cannot hold this node. Does not look at the key, which
    /// [`key::check_key`] checks.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.mode > 0o7777 {
            return Err("mode of more than 07777");
        }
        let times = [Some(self.mtime), Some(self.ctime), self.btime];
        if times.into_iter().flatten().any(|time| time.nanoseconds >= SECOND) {
            return Err("time of more than 999,999,999 nanoseconds");
        }
        let kind = self.kind();
        let marked = self.digest.is_some() || self.partial;
        if (marked && kind != Kind::File)
            || ((self.unstable || self.unreadable) && !matches!(kind, Kind::File | Kind::Directory))
            || (self.left_out.is_some() && kind != Kind::Directory)
        {
            return Err("mark that this kind of node cannot have");
        }
        if kind == Kind::Directory && self.link_group.is_some() {
            return Err("directory with several names");
        }
        match &self.body {
            Body::File { size, content } => self.check_content(*size, content),
            Body::Symlink(target)
                if target.is_empty() || target.len() > SYMLINK_BYTES_MAX || target.contains(&0) =>
            {
                Err("symlink target of impossible form")
            }
            _ => Ok(()),
        }
    }

    fn check_content(&self, size: u64, content: &Content) -> Result<(), Refusal> {
        content.check()?;
        let covered = content.covered().ok_or("content of more than 2^64 bytes")?;
        let fits = if self.unreadable {
            *content == Content::empty()
        } else if self.partial {
            covered <= size
        } else {
            covered == size
        };
        if fits { Ok(()) } else { Err("content does not add up to the size of the file") }
    }

    /// About how many bytes it takes in a page, rather too many.
    pub(crate) fn bytes_bound(&self) -> usize {
        let xattrs = self.xattrs.as_slice().iter();
        let body = match &self.body {
            Body::File { content: Content::Inline(extents), .. } => extents.len() * 48,
            Body::File { content: Content::Pages { refs, .. }, .. } => refs.len() * 48,
            Body::Symlink(target) => target.len(),
            _ => 0,
        };
        let xattrs: usize = xattrs.map(|(name, value)| name.len() + value.len() + 8).sum();
        128 + self.key.len() + xattrs + body
    }
}
