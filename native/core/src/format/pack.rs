//! Pack directories and footers (section 6): what lies where in a pack, enough to rebuild the index
//! from one ranged read.

use std::ops::Range;

use super::varint::ByteReader;
use super::{Id, SIGNATURE_BYTES, padded_len};
use crate::{Error, Result};

/// The largest pack plaintext, in bytes.
pub const PACK_BYTES_MAX: u64 = 1 << 30;
/// The most blobs in one pack.
pub const PACK_ENTRIES_MAX: usize = 1 << 20;
/// The most envelopes in one pack.
pub const PACK_ENVELOPES_MAX: usize = 0xffff;
/// Bytes of one sealed data key.
pub const ENVELOPE_BYTES: usize = 104;
/// Bytes of the footer.
pub const FOOTER_BYTES: usize = 16;

const HEAD_BYTES: usize = 6;
const ENTRY_BYTES: usize = 44;
const FOOTER_MAGIC: &[u8; 8] = b"PVBKEND1";

/// A data key sealed to the scope, as it is stored.
pub type Envelope = [u8; ENVELOPE_BYTES];

/// What a pack holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PackKind {
    /// Chunks.
    Data,
    /// Tree and extent pages.
    Metadata,
}

impl PackKind {
    /// The number that stands for it in packs and runs; also the kind of the blobs inside.
    pub const fn code(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Metadata => 2,
        }
    }

    /// The kind with this number.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Data),
            2 => Some(Self::Metadata),
            _ => None,
        }
    }
}

/// Where one blob lies in its pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackEntry {
    /// Identity of the chunk or page.
    pub id: Id,
    /// Offset of the sealed blob in the pack's plaintext, in bytes.
    pub offset: u32,
    /// Length of the sealed blob, in bytes, not 0.
    pub length: u32,
    /// Which of the pack's envelopes tells how to open it.
    pub envelope: u16,
}

/// The directory of one pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackDirectory {
    /// What the pack holds.
    pub kind: PackKind,
    /// Sealed data keys, by position.
    pub envelopes: Vec<Envelope>,
    /// Blobs in the order of their offsets.
    pub entries: Vec<PackEntry>,
}

impl PackDirectory {
    /// Bytes of a directory with so many envelopes and entries.
    pub const fn encoded_bytes(envelopes: usize, entries: usize) -> u64 {
        HEAD_BYTES as u64 + (envelopes * ENVELOPE_BYTES) as u64 + (entries * ENTRY_BYTES) as u64
    }

    /// The directory's bytes. Refuses what [`parse`](Self::parse) would refuse, as a bug of the caller.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check(PACK_BYTES_MAX).map_err(|(what, _)| Error::internal(what))?;
        let (Ok(envelopes), Ok(entries)) =
            (u16::try_from(self.envelopes.len()), u32::try_from(self.entries.len()))
        else {
            return Err(Error::internal("pack directory is too long"));
        };
        let bytes =
            HEAD_BYTES + self.envelopes.len() * ENVELOPE_BYTES + self.entries.len() * ENTRY_BYTES;
        let mut out = Vec::with_capacity(bytes);
        out.extend_from_slice(&envelopes.to_le_bytes());
        out.extend_from_slice(&entries.to_le_bytes());
        for envelope in &self.envelopes {
            out.extend_from_slice(envelope);
        }
        for entry in &self.entries {
            out.extend_from_slice(&entry.id.0);
            out.extend_from_slice(&entry.offset.to_le_bytes());
            out.extend_from_slice(&entry.length.to_le_bytes());
            out.extend_from_slice(&entry.envelope.to_le_bytes());
            out.extend_from_slice(&[self.kind.code(), 0]);
        }
        Ok(out)
    }

    /// Reads the directory of a pack of `kind`, whose blobs must all end at or before
    /// `directory_offset` ([`Footer::directory`]).
    pub fn parse(bytes: &[u8], kind: PackKind, directory_offset: u32) -> Result<Self> {
        let mut reader = ByteReader::new(bytes);
        let envelope_count = usize::from(reader.u16()?);
        let entry_count = reader.u32()? as usize;
        if Self::encoded_bytes(envelope_count, entry_count) != bytes.len() as u64 {
            return Err(reader.damaged("pack directory does not have the length of its counts"));
        }
        let mut envelopes = Vec::with_capacity(envelope_count);
        for _ in 0..envelope_count {
            envelopes.push(reader.array()?);
        }
        let mut entries = Vec::with_capacity(entry_count);
        for _ in 0..entry_count {
            let id = Id(reader.array()?);
            let offset = reader.u32()?;
            let length = reader.u32()?;
            let envelope = reader.u16()?;
            if reader.u8()? != kind.code() {
                return Err(reader.damaged("blob of another kind than its pack"));
            }
            if reader.u8()? != 0 {
                return Err(reader.damaged("unknown flags of a blob"));
            }
            entries.push(PackEntry { id, offset, length, envelope });
        }
        let directory = Self { kind, envelopes, entries };
        directory.check(u64::from(directory_offset)).map_err(|(what, at)| {
            let offset = Self::encoded_bytes(envelope_count, at);
            Error::damaged(what).offset(offset)
        })?;
        Ok(directory)
    }

    /// The rules of section 6; the error names the entry.
    fn check(&self, blobs_end: u64) -> Result<(), (&'static str, usize)> {
        if self.entries.len() > PACK_ENTRIES_MAX || self.envelopes.len() > PACK_ENVELOPES_MAX {
            return Err(("pack of too many blobs", 0));
        }
        let mut end = 0;
        for (index, entry) in self.entries.iter().enumerate() {
            let offset = u64::from(entry.offset);
            if entry.length == 0 || offset < end {
                return Err(("blobs overlap or are out of order", index));
            }
            end = offset + u64::from(entry.length);
            let has_envelope = usize::from(entry.envelope) < self.envelopes.len();
            if !has_envelope {
                return Err(("blob without its envelope", index));
            }
        }
        if end > blobs_end {
            return Err(("blob reaches into the pack directory", self.entries.len()));
        }
        let mut order: Vec<&PackEntry> = self.entries.iter().collect();
        order.sort_unstable_by_key(|entry| entry.id);
        let twice = |pair: &[&PackEntry]| matches!(pair, [a, b] if a.id == b.id);
        if order.windows(2).any(twice) {
            return Err(("id twice in one pack", self.entries.len()));
        }
        Ok(())
    }
}

/// The last bytes of a pack's plaintext: where its directory lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Offset of the directory in the plaintext.
    pub directory_offset: u32,
    /// Bytes of the directory.
    pub directory_length: u32,
}

impl Footer {
    /// The footer's bytes.
    pub fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut out = [0; FOOTER_BYTES];
        let (numbers, magic) = out.split_at_mut(8);
        let both = u64::from(self.directory_offset) | u64::from(self.directory_length) << 32;
        numbers.copy_from_slice(&both.to_le_bytes());
        magic.copy_from_slice(FOOTER_MAGIC);
        out
    }

    /// Reads the footer of a pack of `plaintext_bytes` and checks that directory, signature block and
    /// footer end it without a gap.
    pub fn parse(footer: &[u8; FOOTER_BYTES], plaintext_bytes: u64) -> Result<Self> {
        let at = plaintext_bytes.saturating_sub(FOOTER_BYTES as u64);
        let damaged = |what: &'static str| Error::damaged(what).offset(at);
        let mut reader = ByteReader::new(footer);
        let footer = Self { directory_offset: reader.u32()?, directory_length: reader.u32()? };
        if reader.array()? != *FOOTER_MAGIC {
            return Err(damaged("pack without its footer"));
        }
        if plaintext_bytes > PACK_BYTES_MAX {
            return Err(damaged("pack of more than 1 GiB"));
        }
        let tail = (SIGNATURE_BYTES + FOOTER_BYTES) as u64;
        let end = u64::from(footer.directory_offset) + u64::from(footer.directory_length) + tail;
        if end != plaintext_bytes || footer.directory_length < 6 {
            return Err(damaged("pack footer does not fit its pack"));
        }
        Ok(footer)
    }

    /// Plaintext offsets of the directory.
    pub fn directory(&self) -> Range<u64> {
        let start = u64::from(self.directory_offset);
        start..start + u64::from(self.directory_length)
    }

    /// Plaintext offsets of the signature block.
    pub fn signature(&self) -> Range<u64> {
        let start = self.directory().end;
        start..start + SIGNATURE_BYTES as u64
    }
}

/// Where the parts of a pack go that has so many bytes of blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackLayout {
    /// Zero bytes between the last blob and the directory.
    pub padding_bytes: u64,
    /// Bytes of the whole plaintext.
    pub plaintext_bytes: u64,
    /// The footer to write.
    pub footer: Footer,
}

impl PackLayout {
    /// Plans a pack whose blobs end at `blob_bytes`. Fails when it would exceed 1 GiB.
    pub fn plan(blob_bytes: u64, envelopes: usize, entries: usize) -> Result<Self> {
        let too_long = || Error::internal("pack of more than 1 GiB");
        let directory = PackDirectory::encoded_bytes(envelopes, entries);
        let tail = directory + (SIGNATURE_BYTES + FOOTER_BYTES) as u64;
        let bare = blob_bytes.checked_add(tail).ok_or_else(too_long)?;
        let plaintext_bytes = padded_len(bare);
        if plaintext_bytes > PACK_BYTES_MAX {
            return Err(too_long());
        }
        let padding_bytes = plaintext_bytes - bare;
        let footer = Footer {
            directory_offset: u32::try_from(blob_bytes + padding_bytes).map_err(|_| too_long())?,
            directory_length: u32::try_from(directory).map_err(|_| too_long())?,
        };
        Ok(Self { padding_bytes, plaintext_bytes, footer })
    }
}

#[cfg(test)]
mod tests;
