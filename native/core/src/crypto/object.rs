//! The container of every object below a scope's prefix.
//!
//! ```text
//!   0  "PVBKOBJ1"   8 suite u8   9 type u8   10 version u16 = 1   12 epoch u32
//!  16  salt 32     48 commitment 32
//!  80  segments: 65,536 plaintext bytes (the last one fewer, none only if it is the first) + tag 16
//! ```
//!
//! Commitment and cipher key derive from the scope's index key of that epoch, the header up to the
//! commitment, repository, scope and name. So an object opens only where it was put, as what it
//! was put, and under one key (GCM alone does not promise the last). A segment's nonce is its
//! number and whether it is the last: segments cannot be swapped, cut off or appended. The salt is
//! random, so every object has a key of its own.

use std::collections::BTreeMap;
use std::ops::Range;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::kdf::{Label, kdf};
use super::suite::{AeadKey, NONCE_BYTES, Suite, TAG_BYTES};
use super::{Key, RepositoryId, ScopeId, random_array, usage, wrong_key};
use crate::buffers::with_room;
use crate::error::{Error, Result};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 80;
/// Plaintext bytes of a full segment.
pub const SEGMENT_BYTES: usize = 65_536;
/// Bytes from the start of one sealed segment to that of the next.
pub const SEGMENT_STRIDE: usize = SEGMENT_BYTES + TAG_BYTES;

const MAGIC: &[u8; 8] = b"PVBKOBJ1";
const VERSION: u16 = 1;
const COMMITTED_BYTES: usize = 48;

/// What an object is; part of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ObjectType {
    /// A pack of file content.
    DataPack = 1,
    /// A pack of tree pages.
    MetadataPack = 2,
    /// A sorted run of the index.
    Run = 3,
    /// The chunks and pages that a snapshot needs.
    ReferenceSet = 4,
    /// A snapshot's register.
    Register = 5,
    /// A sealed snapshot record.
    SnapshotRecord = 6,
    /// The register of prune's decisions.
    GcState = 7,
    /// A list that is too long for it.
    GcList = 8,
    /// A part of the marks: how often each id is needed.
    Marks = 9,
}

impl ObjectType {
    /// The byte that stands for it in headers and signatures.
    pub const fn to_byte(self) -> u8 {
        self as u8
    }
}

/// The keys of a scope's outer layer, by epoch, and what they are bound to.
#[derive(Clone, Debug)]
pub struct ObjectKeys {
    repository: RepositoryId,
    scope: ScopeId,
    suite: Suite,
    epochs: BTreeMap<u32, Key>,
    write_epoch: Option<u32>,
}

impl ObjectKeys {
    /// Index keys of `scope` by epoch. New objects are sealed in `write_epoch`, or refused if that
    /// is `None` or has no key.
    pub fn new(
        repository: RepositoryId,
        scope: ScopeId,
        epochs: BTreeMap<u32, Key>,
        write_epoch: Option<u32>,
    ) -> Self {
        Self { repository, scope, suite: Suite::of_this_cpu(), epochs, write_epoch }
    }

    /// The same keys, sealing with `suite` whatever this processor is good at.
    #[must_use]
    pub fn with_suite(mut self, suite: Suite) -> Self {
        self.suite = suite;
        self
    }

    /// The cipher that new objects are sealed with.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Seals a whole object. `name` is its key below the scope's prefix.
    pub fn seal_object(&self, kind: ObjectType, name: &str, plaintext: &[u8]) -> Result<Vec<u8>> {
        let mut builder = ObjectBuilder::with_capacity(plaintext.len());
        builder.extend(plaintext);
        builder.finish(self, kind, name)
    }

    /// Opens a whole object.
    pub fn open_object(&self, kind: ObjectType, name: &str, object: &[u8]) -> Result<Vec<u8>> {
        let Some((header, body)) = object.split_first_chunk::<HEADER_BYTES>() else {
            return Err(Error::damaged("an object shorter than its header").at(name));
        };
        let mut out = Vec::new();
        self.reader(kind, name, header, object.len() as u64)
            .and_then(|reader| reader.open_segments(0, body, &mut out))
            .map_err(|error| error.at(name))?;
        Ok(out)
    }

    /// What opens ranges of an object of `object_bytes` that starts with `header`. It depends on
    /// nothing else, so it can be kept for as long as the object is read.
    pub fn reader(
        &self,
        kind: ObjectType,
        name: &str,
        header: &[u8; HEADER_BYTES],
        object_bytes: u64,
    ) -> Result<ObjectReader> {
        let layout = ObjectLayout::new(object_bytes).map_err(|error| error.at(name))?;
        let key = self.open_header(kind, name, header).map_err(|error| error.at(name))?;
        Ok(ObjectReader { key, layout })
    }

    fn open_header(&self, kind: ObjectType, name: &str, header: &[u8; 80]) -> Result<AeadKey> {
        let header = Header::parse(header)?;
        if header.kind != kind.to_byte() {
            return Err(Error::damaged(format!("an object of type {}", header.kind)));
        }
        let key = self.epochs.get(&header.epoch).ok_or_else(|| {
            wrong_key(format!("sealed in epoch {}, of which this key holds nothing", header.epoch))
        })?;
        let okm = self.derive(key, &header.committed, name)?;
        let (commitment, cipher) = okm.split_at(32);
        if !bool::from(commitment.ct_eq(&header.commitment)) {
            return Err(Error::damaged("an object that does not belong here, or a damaged header"));
        }
        header.suite.key(Key::from_slice(cipher)?.expose())
    }

    /// Commitment and cipher key.
    fn derive(&self, key: &Key, committed: &[u8; 48], name: &str) -> Result<Zeroizing<[u8; 64]>> {
        let name_bytes = u16::try_from(name.len())
            .map_err(|_| usage("an object name of more than 65,535 bytes"))?;
        let mut ctx = Vec::with_capacity(COMMITTED_BYTES + 34 + name.len());
        ctx.extend_from_slice(committed);
        ctx.extend_from_slice(&self.repository.0);
        ctx.extend_from_slice(&self.scope.0);
        ctx.extend_from_slice(&name_bytes.to_le_bytes());
        ctx.extend_from_slice(name.as_bytes());
        let mut okm = Zeroizing::new([0; 64]);
        kdf(Label::Object, key, &ctx, &mut *okm);
        Ok(okm)
    }

    /// The header of a new object, and its cipher key.
    fn new_header(
        &self,
        kind: ObjectType,
        name: &str,
        salt: &[u8; 32],
    ) -> Result<([u8; HEADER_BYTES], AeadKey)> {
        let epoch = self.write_epoch.ok_or_else(|| {
            wrong_key("this key may not write: it is of an older epoch; have it issued again")
        })?;
        let key = self
            .epochs
            .get(&epoch)
            .ok_or_else(|| wrong_key(format!("this key holds nothing of epoch {epoch}")))?;
        let mut committed = [0; COMMITTED_BYTES];
        let fields: [&[u8]; 5] = [
            MAGIC,
            &[self.suite.to_byte(), kind.to_byte()],
            &VERSION.to_le_bytes(),
            &epoch.to_le_bytes(),
            salt,
        ];
        join(&mut committed, &fields);
        let okm = self.derive(key, &committed, name)?;
        let (commitment, cipher) = okm.split_at(32);
        let mut header = [0; HEADER_BYTES];
        join(&mut header, &[&committed, commitment]);
        Ok((header, self.suite.key(Key::from_slice(cipher)?.expose())?))
    }
}

/// Writes `fields` one after the other into `out`.
fn join(out: &mut [u8], fields: &[&[u8]]) {
    for (byte, value) in out.iter_mut().zip(fields.iter().copied().flatten()) {
        *byte = *value;
    }
}

/// A header's fields, checked for what needs no key.
struct Header {
    suite: Suite,
    kind: u8,
    epoch: u32,
    committed: [u8; COMMITTED_BYTES],
    commitment: [u8; 32],
}

impl Header {
    fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self> {
        let short = || Error::internal("a header shorter than its fields");
        let (committed, commitment) = bytes.split_first_chunk().ok_or_else(short)?;
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
        let (&[suite, kind, v0, v1, e0, e1, e2, e3], _) =
            rest.split_first_chunk::<8>().ok_or_else(short)?;
        if magic != MAGIC {
            return Err(Error::damaged("not a sealed object"));
        }
        let version = u16::from_le_bytes([v0, v1]);
        if version != VERSION {
            return Err(Error::unsupported(format!("a sealed object of version {version}")));
        }
        Ok(Self {
            suite: Suite::from_byte(suite)?,
            kind,
            epoch: u32::from_le_bytes([e0, e1, e2, e3]),
            committed: *committed,
            commitment: commitment.try_into().map_err(|_| short())?,
        })
    }
}

fn segment_nonce(index: u64, is_last: bool) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    join(&mut nonce, &[&[0; 3], &index.to_be_bytes(), &[u8::from(is_last)]]);
    nonce
}

/// Where the segments of an object lie. Depends on its size alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectLayout {
    object_bytes: u64,
    segments: u64,
}

/// The sealed bytes that hold a range of plaintext.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRange {
    /// Number of the first segment.
    pub first: u64,
    /// The bytes of the object to read: whole segments.
    pub object: Range<u64>,
    /// Where in the opened segments the wanted plaintext lies.
    pub plaintext: Range<usize>,
}

impl ObjectLayout {
    /// The layout of an object of `object_bytes`; `Damaged` if no object has that size.
    pub fn new(object_bytes: u64) -> Result<Self> {
        let odd = || Error::damaged(format!("an object cannot be {object_bytes} bytes long"));
        let body = object_bytes.checked_sub(HEADER_BYTES as u64).ok_or_else(odd)?;
        let segments = body.div_ceil(SEGMENT_STRIDE as u64);
        let last = body.checked_sub(segments.saturating_sub(1) * SEGMENT_STRIDE as u64);
        match last {
            Some(last) if last > TAG_BYTES as u64 => Ok(Self { object_bytes, segments }),
            Some(last) if last == TAG_BYTES as u64 && segments == 1 => {
                Ok(Self { object_bytes, segments })
            }
            _ => Err(odd()),
        }
    }

    /// Bytes of plaintext.
    pub fn plaintext_bytes(&self) -> u64 {
        self.object_bytes - HEADER_BYTES as u64 - self.segments * TAG_BYTES as u64
    }

    /// Bytes of the object itself.
    pub fn object_bytes(&self) -> u64 {
        self.object_bytes
    }

    /// The segments that hold `plaintext`, which must lie within the object and not be empty.
    pub fn segments_of(&self, plaintext: Range<u64>) -> Result<SegmentRange> {
        if plaintext.start >= plaintext.end || plaintext.end > self.plaintext_bytes() {
            return Err(Error::damaged("a range outside its object").offset(plaintext.start));
        }
        let segment = SEGMENT_BYTES as u64;
        let (header, stride) = (HEADER_BYTES as u64, SEGMENT_STRIDE as u64);
        let first = plaintext.start / segment;
        let end = plaintext.end.div_ceil(segment);
        let skip = plaintext.start - first * segment;
        let too_long = |_| usage("a range too long for memory");
        let skip_bytes = usize::try_from(skip).map_err(too_long)?;
        let len = usize::try_from(plaintext.end - plaintext.start).map_err(too_long)?;
        Ok(SegmentRange {
            first,
            object: header + first * stride..(header + end * stride).min(self.object_bytes),
            plaintext: skip_bytes..skip_bytes + len,
        })
    }
}

/// Opens segments of one object, in any order and from any number of threads.
#[derive(Debug)]
pub struct ObjectReader {
    key: AeadKey,
    layout: ObjectLayout,
}

impl ObjectReader {
    /// Where the segments lie.
    pub fn layout(&self) -> &ObjectLayout {
        &self.layout
    }

    /// Opens whole segments, the first of which is number `first`, and appends their plaintext to
    /// `out`. On error `out` is as it was.
    pub fn open_segments(&self, first: u64, sealed: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        out.resize(start + Self::opened_len(sealed.len()), 0);
        let opened = self.open_into(first, sealed, out.get_mut(start..).unwrap_or_default());
        if opened.is_err() {
            out.truncate(start);
        }
        opened
    }

    /// Bytes of plaintext in `sealed` bytes of whole segments.
    pub fn opened_len(sealed: usize) -> usize {
        sealed.saturating_sub(sealed.div_ceil(SEGMENT_STRIDE) * TAG_BYTES)
    }

    /// [`Self::open_segments`] into `out`, which is [`Self::opened_len`] long; on error nothing in it
    /// counts.
    pub fn open_into(&self, first: u64, sealed: &[u8], mut out: &mut [u8]) -> Result<()> {
        let segments = self.layout.segments;
        let count = sealed.len().div_ceil(SEGMENT_STRIDE) as u64;
        let end = first.checked_add(count).filter(|end| *end <= segments);
        let end = end.ok_or_else(|| Error::damaged("segments past the end of an object"))?;
        for (index, segment) in (first..end).zip(sealed.chunks(SEGMENT_STRIDE)) {
            let is_last = index + 1 == segments;
            let offset = HEADER_BYTES as u64 + index * SEGMENT_STRIDE as u64;
            let bad = |what| Error::damaged(what).offset(offset);
            if !is_last && segment.len() != SEGMENT_STRIDE {
                return Err(bad("not the whole segments of an object"));
            }
            let len = segment.len().saturating_sub(TAG_BYTES);
            let (now, rest) =
                out.split_at_mut_checked(len).ok_or_else(|| bad("a segment cut short"))?;
            self.key
                .open(segment_nonce(index, is_last), b"", segment, now)
                .ok_or_else(|| bad("a segment is not what was written"))?;
            out = rest;
        }
        Ok(())
    }
}

/// Collects the plaintext of a new object where its sealed segments will lie, so that sealing needs
/// no second buffer.
#[derive(Debug)]
pub struct ObjectBuilder {
    buffer: Vec<u8>,
    plaintext_len: usize,
    segment_room: usize,
}

impl ObjectBuilder {
    /// An empty object with room for `plaintext_bytes` before it has to grow.
    pub fn with_capacity(plaintext_bytes: usize) -> Self {
        // Without memory for all of it at once it grows, and fails where it must.
        let mut buffer = with_room(sealed_len(plaintext_bytes)).unwrap_or_default();
        buffer.resize(HEADER_BYTES, 0);
        Self { buffer, plaintext_len: 0, segment_room: SEGMENT_BYTES }
    }

    /// Appends plaintext.
    pub fn extend(&mut self, mut bytes: &[u8]) {
        self.plaintext_len += bytes.len();
        while !bytes.is_empty() {
            self.start_segment_if_full();
            let (now, rest) = bytes.split_at(bytes.len().min(self.segment_room));
            self.buffer.extend_from_slice(now);
            self.segment_room -= now.len();
            bytes = rest;
        }
    }

    /// Appends `count` zero bytes, as padding does.
    pub fn extend_zeros(&mut self, mut count: usize) {
        self.plaintext_len += count;
        while count > 0 {
            self.start_segment_if_full();
            let now = count.min(self.segment_room);
            self.buffer.resize(self.buffer.len() + now, 0);
            self.segment_room -= now;
            count -= now;
        }
    }

    fn start_segment_if_full(&mut self) {
        if self.segment_room == 0 {
            self.buffer.extend_from_slice(&[0; TAG_BYTES]);
            self.segment_room = SEGMENT_BYTES;
        }
    }

    /// Bytes of plaintext so far.
    pub fn plaintext_len(&self) -> usize {
        self.plaintext_len
    }

    /// Bytes of the object if it were finished now.
    pub fn sealed_len(&self) -> usize {
        self.buffer.len() + TAG_BYTES
    }

    /// Seals the object in place, under the name that it will have below the scope's prefix.
    pub fn finish(self, keys: &ObjectKeys, kind: ObjectType, name: &str) -> Result<Vec<u8>> {
        self.finish_with_salt(keys, kind, name, &random_array()?)
    }

    /// [`Self::finish`] with a given salt, which must never repeat: for vectors.
    pub(super) fn finish_with_salt(
        self,
        keys: &ObjectKeys,
        kind: ObjectType,
        name: &str,
        salt: &[u8; 32],
    ) -> Result<Vec<u8>> {
        let mut buffer = self.buffer;
        let (header, key) = keys.new_header(kind, name, salt)?;
        buffer.extend_from_slice(&[0; TAG_BYTES]);
        let Some((head, body)) = buffer.split_first_chunk_mut::<HEADER_BYTES>() else {
            return Err(Error::internal("an object builder without a header"));
        };
        *head = header;
        let last = (body.len().div_ceil(SEGMENT_STRIDE) - 1) as u64;
        for (index, segment) in (0..).zip(body.chunks_mut(SEGMENT_STRIDE)) {
            let Some((data, tag)) = segment.split_last_chunk_mut::<TAG_BYTES>() else {
                return Err(Error::internal("a segment without room for its tag"));
            };
            *tag = key.seal(segment_nonce(index, index == last), b"", data)?;
        }
        Ok(buffer)
    }
}

/// Bytes of a sealed object of `plaintext_bytes`.
pub fn sealed_len(plaintext_bytes: usize) -> usize {
    let segments = plaintext_bytes.div_ceil(SEGMENT_BYTES).max(1);
    HEADER_BYTES + plaintext_bytes + segments * TAG_BYTES
}

/// What the plaintext of `bytes` is padded to, so that sizes say little: the next multiple of an
/// eighth of its order of magnitude, but of no less than 4 KiB and no more than 256 KiB.
pub fn padded_len(bytes: u64) -> u64 {
    let exponent = bytes.checked_ilog2().unwrap_or(0).saturating_sub(3);
    bytes.checked_next_multiple_of(1 << exponent.clamp(12, 18)).unwrap_or(bytes)
}
