//! The names in a directory: read whole, sorted by their bytes, at 16 bytes an entry besides the
//! name.

use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, RawDir};

use super::meta::FileKind;
use crate::error::{Error, Result};

/// Size of the buffer for `getdents`, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// All entries of one directory but `.` and `..`, sorted by raw bytes, each name once.
#[derive(Debug, Default)]
pub struct Listing {
    arena: Vec<u8>,
    entries: Vec<Entry>,
    next: usize,
}

/// Where a name lies in the arena. `key` holds its first eight bytes behind what all names have in
/// common, so that most comparisons in the sort need not touch the arena.
#[derive(Clone, Copy, Debug)]
struct Entry {
    key: u64,
    /// Offset in the upper 40 bits, then 16 bits of length, then the kind.
    place: u64,
}

impl Entry {
    fn new(offset: usize, len: usize, kind: u8) -> Option<Self> {
        let offset = u64::try_from(offset).ok().filter(|&offset| offset < 1 << 40)?;
        let len = u16::try_from(len).ok()?;
        Some(Self { key: 0, place: offset << 24 | u64::from(len) << 8 | u64::from(kind) })
    }

    fn name(self, arena: &[u8]) -> &[u8] {
        let start = usize::try_from(self.place >> 24).unwrap_or(usize::MAX);
        let len = usize::from(u16::try_from(self.place >> 8 & 0xffff).unwrap_or(0));
        arena.get(start..start.saturating_add(len)).unwrap_or_default()
    }

    fn kind(self) -> Option<FileKind> {
        unpack_kind((self.place & 0xff) as u8)
    }
}

impl Listing {
    /// Reads the directory behind `fd` from the descriptor's position on. An error in the middle
    /// does not cost what was read before it.
    pub fn read(fd: BorrowedFd<'_>) -> (Self, Result<()>) {
        let mut listing = Self::default();
        let outcome = listing.fill(fd);
        listing.sort();
        (listing, outcome)
    }

    fn fill(&mut self, fd: BorrowedFd<'_>) -> Result<()> {
        let mut buffer = Vec::<u8>::with_capacity(READ_BYTES);
        let mut reader = RawDir::new(fd, buffer.spare_capacity_mut());
        while let Some(entry) = reader.next() {
            let entry = entry.map_err(|errno| Error::os("cannot list the directory", errno))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let entry = Entry::new(self.arena.len(), name.len(), pack_kind(entry.file_type()))
                .ok_or_else(|| Error::internal("directory too large to list"))?;
            self.arena.extend_from_slice(name);
            self.entries.push(entry);
        }
        Ok(())
    }

    fn sort(&mut self) {
        let arena = &self.arena;
        let Some(first) = self.entries.first().map(|entry| entry.name(arena)) else {
            return;
        };
        let common = self.entries.iter().fold(first.len(), |common, entry| {
            let same = entry.name(arena).iter().zip(first).take_while(|(a, b)| a == b).count();
            common.min(same)
        });
        for entry in &mut self.entries {
            let rest = entry.name(arena).get(common..).unwrap_or_default();
            let mut key = [0; 8];
            for (to, from) in key.iter_mut().zip(rest) {
                *to = *from;
            }
            entry.key = u64::from_be_bytes(key);
        }
        // Names hold no NUL, so the zero padding keeps a prefix before what it is a prefix of.
        self.entries.sort_unstable_by(|a, b| {
            a.key.cmp(&b.key).then_with(|| a.name(arena).cmp(b.name(arena)))
        });
        // A directory that changes while it is read may report an entry twice.
        self.entries.dedup_by(|a, b| a.key == b.key && a.name(arena) == b.name(arena));
    }

    /// Removes the entries that `is_dropped` holds for, and says whether there were any.
    pub fn drop_entries(
        &mut self,
        mut is_dropped: impl FnMut(&[u8], Option<FileKind>) -> bool,
    ) -> bool {
        let (arena, before) = (&self.arena, self.entries.len());
        self.entries.retain(|entry| !is_dropped(entry.name(arena), entry.kind()));
        self.entries.len() != before
    }

    /// The next entry, which [`Self::advance`] steps over.
    pub fn peek(&self) -> Option<(&[u8], Option<FileKind>)> {
        let entry = self.entries.get(self.next)?;
        Some((entry.name(&self.arena), entry.kind()))
    }

    /// Steps over one entry.
    pub fn advance(&mut self) {
        self.next += 1;
    }

    /// Number of entries, those already stepped over included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the directory is empty.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// A batch of sorted names of one directory, with their kinds where the directory tells them.
#[derive(Clone, Debug, Default)]
pub struct Names {
    arena: Vec<u8>,
    ends: Vec<(usize, Option<FileKind>)>,
}

impl Names {
    /// Appends a name.
    pub fn push(&mut self, name: &[u8], kind: Option<FileKind>) {
        self.arena.extend_from_slice(name);
        self.ends.push((self.arena.len(), kind));
    }

    /// The names in order. The kind is a hint, as of the listing; `None` means not known.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<FileKind>)> {
        let mut start = 0;
        self.ends.iter().map(move |&(end, kind)| {
            let name = self.arena.get(start..end).unwrap_or_default();
            start = end;
            (name, kind)
        })
    }

    /// Number of names.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

const KINDS: [FileKind; 7] = [
    FileKind::File,
    FileKind::Dir,
    FileKind::Symlink,
    FileKind::Fifo,
    FileKind::Socket,
    FileKind::CharDevice,
    FileKind::BlockDevice,
];

/// 0 for not known, else one more than the place in [`KINDS`].
fn pack_kind(file_type: FileType) -> u8 {
    FileKind::from_type(file_type)
        .and_then(|kind| KINDS.iter().position(|&other| other == kind))
        .and_then(|index| u8::try_from(index + 1).ok())
        .unwrap_or(0)
}

fn unpack_kind(packed: u8) -> Option<FileKind> {
    KINDS.get(usize::from(packed).checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {

    use super::*;

    fn listing(names: &[&[u8]]) -> Listing {
        let mut listing = Listing::default();
        for name in names {
            let kind = pack_kind(FileType::Symlink);
            listing.entries.push(Entry::new(listing.arena.len(), name.len(), kind).unwrap());
            listing.arena.extend_from_slice(name);
        }
        listing.sort();
        listing
    }

    fn drain(mut listing: Listing) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while let Some((name, kind)) = listing.peek() {
            assert_eq!(kind, Some(FileKind::Symlink));
            all.push(name.to_vec());
            listing.advance();
        }
        all
    }

    #[test]
    fn sorted_by_bytes_and_without_doubles() {
        let names: [&[u8]; 9] = [
            b"file",
            b"file0000001",
            b"file\xff",
            b"file00000010",
            b"file\x01",
            b"file0000001",
            b"filE",
            b"file000000100000002",
            b"file000000100000001",
        ];
        let mut expected: Vec<Vec<u8>> = names.iter().map(|name| name.to_vec()).collect();
        expected.sort();
        expected.dedup();
        assert_eq!(expected.len(), 8);
        assert_eq!(drain(listing(&names)), expected);
    }

    #[test]
    fn one_and_none() {
        assert_eq!(drain(listing(&[b"only"])), vec![b"only".to_vec()]);
        assert!(listing(&[]).is_empty());
    }

    #[test]
    fn an_entry_costs_sixteen_bytes() {
        assert_eq!(size_of::<Entry>(), 16);
    }

    #[test]
    fn kinds_survive_packing() {
        assert_eq!(unpack_kind(pack_kind(FileType::Unknown)), None);
        assert_eq!(unpack_kind(pack_kind(FileType::Socket)), Some(FileKind::Socket));
        assert_eq!(unpack_kind(200), None);
    }
}
