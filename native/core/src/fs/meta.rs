//! What a file system says about one entry, apart from its content.

use rustix::fs::FileType;

/// The kind of a directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Socket: only its node, as a restore brings no listener back.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

impl FileKind {
    /// The kind that `file_type` names; `None` if the kernel did not say, or says something new.
    pub(crate) fn from_type(file_type: FileType) -> Option<Self> {
        Some(match file_type {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Dir,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Unknown => return None,
        })
    }

    /// Whether this is a character or block device.
    pub fn is_device(self) -> bool {
        matches!(self, Self::CharDevice | Self::BlockDevice)
    }

    /// Whether entries of this kind carry file flags that can be reached: a descriptor that reads
    /// them cannot be had for the others without side effects.
    pub fn has_flags(self) -> bool {
        matches!(self, Self::File | Self::Dir)
    }
}

/// A point in time: `secs` seconds since 1970-01-01T00:00:00Z, negative before, plus `nanos`
/// nanoseconds (below 1,000,000,000, counting forward also before 1970).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds.
    pub secs: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

/// What `statx` says: enough to decide whether a file is unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Kind of the entry.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky: `mode & 0o7777`.
    pub mode: u32,
    /// Owning user, 0 to 2^32 - 2.
    pub uid: u32,
    /// Owning group, 0 to 2^32 - 2.
    pub gid: u32,
    /// Bytes of a regular file; for other kinds what the file system likes.
    pub size: u64,
    /// Bytes that the file system allocated.
    pub allocated_bytes: u64,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of content or attributes; cannot be set.
    pub ctime: Timestamp,
    /// Creation, where the file system keeps it; cannot be set.
    pub btime: Option<Timestamp>,
    /// Inode number.
    pub ino: u64,
    /// Device that holds the inode.
    pub dev: u64,
    /// Number of names of the inode.
    pub nlink: u32,
    /// Major and minor number of a device node; zeros for other kinds.
    pub rdev: (u32, u32),
}

impl Stat {
    /// Whether both describe the same inode, whatever else changed.
    pub fn is_same_inode(&self, other: &Self) -> bool {
        self.ino == other.ino && self.dev == other.dev
    }

    /// Whether looking for holes may pay. A file for which this is false can still have holes (with
    /// preallocated space behind its end); they read as zeros, so nothing is lost.
    pub fn may_have_holes(&self) -> bool {
        self.kind == FileKind::File && self.allocated_bytes < self.size
    }
}

/// Name and value of one extended attribute, the name with its namespace.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// Everything about an entry but its name and its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// What `statx` says.
    pub stat: Stat,
    /// `FS_IOC_GETFLAGS` bits, only those of [`super::flags::RESTORABLE`].
    pub flags: u32,
    /// Extended attributes of all namespaces, sorted by name, each name once. Access control lists
    /// are `system.posix_acl_access` and `system.posix_acl_default`.
    pub xattrs: Vec<Xattr>,
    /// Where a symlink points; empty for other kinds.
    pub link_target: Vec<u8>,
}
