//! One chunk, tree page or snapshot record, compressed and sealed under a key of its own.
//!
//! ```text
//! nonce 12 || AEAD(codec u8, 0 u8, dictionary u16, raw length u32, payload) || tag 16
//! ```
//!
//! The key derives from the pack's data key (or the source's page key), repository, scope, kind,
//! suite and id, but not from the place: a prune that cannot open a blob may still move it. The id
//! is a keyed digest of the plaintext and is checked whenever a blob is opened; that also makes up
//! for ciphers that do not commit to their key.

use zeroize::{Zeroize, Zeroizing};
use zstd::bulk::Decompressor;

use super::kdf::{IdKey, Label, Prepared, SourceKey, prepare};
use super::squeeze::{self, Zstd};
use super::suite::{AeadKey, NONCE_BYTES, Suite, TAG_BYTES};
use super::{Key, RepositoryId, ScopeId, fill_random, random_array, usage};
use crate::error::{Error, Result};

/// The longest plaintext of a blob.
pub const RAW_BYTES_MAX: usize = 16 << 20;
/// Bytes that sealing adds to what compression leaves.
pub const BLOB_OVERHEAD: usize = NONCE_BYTES + PREFIX_BYTES + TAG_BYTES;

const PREFIX_BYTES: usize = 8;
const CONTEXT_BYTES: usize = 68;
const CODEC_STORED: u8 = 0;
const CODEC_ZSTD: u8 = 1;

/// What a blob is; part of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BlobKind {
    /// A chunk of file content.
    Data = 1,
    /// A tree page.
    Page = 2,
    /// A snapshot record. Its id is the snapshot's 16 bytes and 16 zeros, not a digest.
    Snapshot = 3,
}

impl BlobKind {
    /// Reads the kind byte; an unknown one is `Unsupported`.
    pub fn from_byte(byte: u8) -> Result<Self> {
        match byte {
            1 => Ok(Self::Data),
            2 => Ok(Self::Page),
            3 => Ok(Self::Snapshot),
            other => Err(Error::unsupported(format!("a blob of unknown kind {other}"))),
        }
    }

    /// The byte that stands for it in directories.
    pub const fn to_byte(self) -> u8 {
        self as u8
    }
}

/// How to store a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    Stored,
    /// zstd at this level, or as it is where that does not make it shorter.
    Zstd(i32),
}

/// What seals and opens the blobs of one pack, or the pages and records of one source in one epoch.
/// It knows how their ids are made, so that none is opened without a look at its id.
#[derive(Clone, Debug)]
pub struct BlobKey {
    parent: Prepared,
    ids: IdKey,
    holds_data: bool,
    repository: RepositoryId,
    scope: ScopeId,
    suite: Suite,
}

impl BlobKey {
    /// For the chunks of a pack with this data key.
    pub(super) fn data(
        data_key: &Key,
        ids: IdKey,
        (repository, scope): (RepositoryId, ScopeId),
        suite: Suite,
    ) -> Self {
        let parent = prepare(Label::Blob, data_key);
        Self { parent, ids, holds_data: true, repository, scope, suite }
    }

    /// For the pages and snapshot records of a source.
    pub(super) fn metadata(
        source: &SourceKey,
        (repository, scope): (RepositoryId, ScopeId),
        suite: Suite,
    ) -> Self {
        let parent = prepare(Label::Blob, &source.page_key());
        let ids = source.page_id_key();
        Self { parent, ids, holds_data: false, repository, scope, suite }
    }

    /// The cipher that it seals and opens with.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// What names the plaintexts: chunks by the scope's id key, pages by their source's.
    pub fn id_key(&self) -> &IdKey {
        &self.ids
    }

    pub(super) fn cipher(
        &self,
        kind: BlobKind,
        id: &[u8; 32],
    ) -> Result<(AeadKey, [u8; CONTEXT_BYTES])> {
        if self.holds_data != (kind == BlobKind::Data) {
            return Err(usage("a data key for metadata, or the other way round"));
        }
        let context = self.context(kind, id);
        let mut key = Key::new([0; 32]);
        self.parent.expand(&context, key.expose_mut());
        Ok((self.suite.key(key.expose())?, context))
    }

    pub(super) fn context(&self, kind: BlobKind, id: &[u8; 32]) -> [u8; CONTEXT_BYTES] {
        let mut out = [0; CONTEXT_BYTES];
        let marks = [kind.to_byte(), self.suite.to_byte(), 0, 0];
        let fields: [&[u8]; 4] = [&self.repository.0, &self.scope.0, &marks, id];
        for (byte, value) in out.iter_mut().zip(fields.into_iter().flatten()) {
            *byte = *value;
        }
        out
    }

    fn is_id_of(&self, kind: BlobKind, id: &[u8; 32], plaintext: &[u8]) -> bool {
        match kind {
            BlobKind::Data | BlobKind::Page => self.ids.id(plaintext) == *id,
            BlobKind::Snapshot => id.ends_with(&[0; 16]),
        }
    }
}

/// Seals blobs, with a compression context and a buffer that are used again.
pub struct BlobSealer {
    zstd: Zstd,
    buffer: Vec<u8>,
}

impl BlobSealer {
    /// A sealer with nothing in its buffer.
    pub fn new() -> Result<Self> {
        Ok(Self { zstd: Zstd::new()?, buffer: Vec::new() })
    }

    /// Seals `raw`, which has `id` under `key.id_key()`, and returns the blob; it stays in this
    /// sealer's buffer until the next call. Within one pack each id is sealed once.
    pub fn seal(
        &mut self,
        key: &BlobKey,
        kind: BlobKind,
        id: &[u8; 32],
        raw: &[u8],
        compression: Compression,
    ) -> Result<&[u8]> {
        self.seal_with_nonce(key, (kind, id), raw, compression, random_array()?)
    }

    /// [`Self::seal`] with a given nonce, which must never repeat for one id and key: for vectors.
    pub(super) fn seal_with_nonce(
        &mut self,
        key: &BlobKey,
        (kind, id): (BlobKind, &[u8; 32]),
        raw: &[u8],
        compression: Compression,
        nonce: [u8; NONCE_BYTES],
    ) -> Result<&[u8]> {
        let raw_len = match u32::try_from(raw.len()) {
            Ok(len) if raw.len() <= RAW_BYTES_MAX => len,
            _ => return Err(usage("a blob of more than 16 MiB")),
        };
        let (cipher, context) = key.cipher(kind, id)?;
        if self.buffer.len() < raw.len() + BLOB_OVERHEAD {
            self.buffer.resize(raw.len() + BLOB_OVERHEAD, 0);
        }
        let (codec, payload_len) = self.fill_payload(raw, compression)?;
        let sealed_len = payload_len + BLOB_OVERHEAD;
        let too_short = || Error::internal("a blob longer than its buffer");
        let blob = self.buffer.get_mut(..sealed_len).ok_or_else(too_short)?;
        let (head, rest) = blob.split_first_chunk_mut().ok_or_else(too_short)?;
        *head = nonce;
        let (plaintext, tag) = rest.split_last_chunk_mut().ok_or_else(too_short)?;
        let (prefix, _) = plaintext.split_first_chunk_mut().ok_or_else(too_short)?;
        let [l0, l1, l2, l3] = raw_len.to_le_bytes();
        *prefix = [codec, 0, 0, 0, l0, l1, l2, l3];
        *tag = cipher.seal(nonce, &context, plaintext)?;
        Ok(blob)
    }

    /// Whether the blob that was sealed last has hardly become shorter, whatever the level.
    pub fn is_hard(&self) -> bool {
        self.zstd.is_hard()
    }

    /// Puts the payload in its place in the buffer, compressed if that makes it shorter.
    fn fill_payload(&mut self, raw: &[u8], compression: Compression) -> Result<(u8, usize)> {
        let start = NONCE_BYTES + PREFIX_BYTES;
        let Some(room) = self.buffer.get_mut(start..start + raw.len()) else {
            return Err(Error::internal("a blob longer than its buffer"));
        };
        if let (Compression::Zstd(level), Some((_, shorter))) = (compression, room.split_last_mut())
            && let Some(len) = self.zstd.compress(level, raw, shorter)?
        {
            return Ok((CODEC_ZSTD, len));
        }
        room.copy_from_slice(raw);
        Ok((CODEC_STORED, raw.len()))
    }

    /// A new random data key.
    pub(super) fn new_data_key() -> Result<Key> {
        let mut key = Key::new([0; 32]);
        fill_random(key.expose_mut())?;
        Ok(key)
    }
}

/// Opens blobs, with a decompression context and a buffer that are used again.
pub struct BlobOpener {
    zstd: Decompressor<'static>,
    buffer: Zeroizing<Vec<u8>>,
}

impl BlobOpener {
    /// An opener with nothing in its buffer.
    pub fn new() -> Result<Self> {
        let zstd = Decompressor::new().map_err(|error| squeeze::failed(&error))?;
        Ok(Self { zstd, buffer: Zeroizing::new(Vec::new()) })
    }

    /// Opens a blob and checks that its plaintext has `id`. `Damaged` if it is not the blob of that
    /// kind and id that was sealed under this key.
    pub fn open(
        &mut self,
        key: &BlobKey,
        kind: BlobKind,
        id: &[u8; 32],
        sealed: &[u8],
    ) -> Result<Vec<u8>> {
        let (cipher, context) = key.cipher(kind, id)?;
        let not_this = || Error::damaged("a blob is not what was written under this id");
        let (nonce, rest) = sealed.split_first_chunk().ok_or_else(not_this)?;
        let len = rest.len().checked_sub(TAG_BYTES).ok_or_else(not_this)?;
        if len > RAW_BYTES_MAX + PREFIX_BYTES {
            return Err(not_this());
        }
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        let plaintext = self.buffer.get_mut(..len).ok_or_else(not_this)?;
        cipher.open(*nonce, &context, rest, plaintext).ok_or_else(not_this)?;
        let mut raw = decompress(&mut self.zstd, plaintext)?;
        if !key.is_id_of(kind, id, &raw) {
            raw.zeroize();
            return Err(Error::damaged("a blob's plaintext does not have its id"));
        }
        Ok(raw)
    }
}

/// The raw bytes of an authentic plaintext. Authentic only says that somebody with the key made it.
fn decompress(zstd: &mut Decompressor<'static>, plaintext: &[u8]) -> Result<Vec<u8>> {
    let Some((&[codec, zero, d0, d1, l0, l1, l2, l3], payload)) =
        plaintext.split_first_chunk::<PREFIX_BYTES>()
    else {
        return Err(Error::damaged("a blob without its prefix"));
    };
    let raw_len = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    if raw_len > RAW_BYTES_MAX || zero != 0 {
        return Err(Error::damaged("a blob that claims to be longer than any is"));
    }
    let dictionary = u16::from_le_bytes([d0, d1]);
    if dictionary != 0 {
        return Err(Error::unsupported(format!("a blob compressed with dictionary {dictionary}")));
    }
    let raw = match codec {
        CODEC_STORED => payload.to_vec(),
        // The buffer is all the room it gets, whatever the frame says.
        CODEC_ZSTD => zstd
            .decompress(payload, raw_len)
            .map_err(|_| Error::damaged("a blob that does not decompress to its length"))?,
        other => {
            return Err(Error::unsupported(format!("a blob of unknown codec {other}")));
        }
    };
    if raw.len() == raw_len {
        Ok(raw)
    } else {
        Err(Error::damaged("a blob that does not decompress to its length"))
    }
}
