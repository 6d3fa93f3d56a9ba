//! One sealed object read from its first byte to its last, a block of whole segments at a time.
//!
//! What comes out before the end has passed the outer seal, which every key to the scope can make; who
//! vouches for it is known when all of it was read. So nothing that follows from it may leave, except as
//! objects that nothing names yet, before [`Sequence::finish`] has returned.

use std::ops::Range;

use crate::broker::Pending;
use crate::buffers::Buffer;
use crate::crypto::object::{
    HEADER_BYTES, ObjectReader, SEGMENT_BYTES, SEGMENT_STRIDE, sealed_len,
};
use crate::crypto::sign::{SIGNATURE_BLOCK_BYTES, SignedBy};
use crate::crypto::{Action, ObjectType};
use crate::error::{Error, ErrorKind, Result};
use crate::format::varint::check_zero;
use crate::format::{SIGNATURE_BYTES, padded_len};
use crate::scope::{Ranged, Scope};

/// What a sequence is to read.
#[derive(Clone, Debug)]
pub(super) struct What {
    /// Type of the object.
    pub(super) kind: ObjectType,
    /// Name below the scope.
    pub(super) name: String,
    /// Bytes of the object, where they are known.
    pub(super) size: Option<u64>,
    /// BLAKE3 of the object in hex, where somebody vouches for it.
    pub(super) hash: Option<String>,
    /// Segments in a block.
    pub(super) block: u64,
}

/// An object whose first block has been asked for.
pub(super) struct Opening {
    scope: Scope,
    what: What,
    asked: u64,
    pending: Pending,
}

/// An object that is read in order. Holds one block opened, and one on its way.
pub(super) struct Sequence {
    scope: Scope,
    what: What,
    key: String,
    header: [u8; HEADER_BYTES],
    reader: ObjectReader,
    /// Bytes of the plaintext, without the signature block.
    body_bytes: u64,
    /// Bytes of the plaintext that were opened so far.
    opened: u64,
    /// The next segment to ask for.
    next_segment: u64,
    pending: Option<Pending>,
    buffer: Vec<u8>,
    at: usize,
    body_hash: blake3::Hasher,
    object_hash: Option<blake3::Hasher>,
    block: Vec<u8>,
}

/// The error, of the object with this key. That a run is gone is left as it is: it has been merged, and
/// the caller looks again. Everything else that is gone was named, and is missed.
fn located(kind: ObjectType, key: &str, error: Error) -> Error {
    let is_lost = error.kind == ErrorKind::NotFound && kind != ObjectType::Run;
    let error = if is_lost { Error::damaged("the object is missing") } else { error };
    Error { key: Some(key.to_owned()), ..error }
}

impl Opening {
    /// Asks for the first block.
    pub(super) fn start(scope: &Scope, what: What) -> Result<Self> {
        let first = HEADER_BYTES as u64 + what.block * SEGMENT_STRIDE as u64;
        // One byte more than the block tells whether the object ends with it.
        let asked = what.size.map_or(first + 1, |size| size.min(first));
        let pending = scope.broker.get_later(&scope.key(&what.name), 0, Some(asked))?;
        Ok(Self { scope: scope.clone(), what, asked, pending })
    }

    /// Waits for the first block and opens it. `size_of` gives the bytes of the plaintext, without
    /// padding, from its first ones: for objects that are longer than a block and of unknown size.
    pub(super) fn finish(self, size_of: impl Fn(&[u8]) -> Result<u64>) -> Result<Sequence> {
        let key = self.scope.key(&self.what.name);
        let kind = self.what.kind;
        self.open(&key, size_of).map_err(|error| located(kind, &key, error))
    }

    fn open(self, key: &str, size_of: impl Fn(&[u8]) -> Result<u64>) -> Result<Sequence> {
        let Self { scope, what, asked, pending } = self;
        let sealed = pending.wait()?;
        let length = sealed.len() as u64;
        let short = || Error::damaged("the object is shorter than it should be").offset(length);
        if what.size.is_some() && length != asked {
            return Err(short());
        }
        let (header, body) = sealed.split_first_chunk::<HEADER_BYTES>().ok_or_else(short)?;
        let objects = scope.keys.objects();
        let reader_of = |size| objects.reader(what.kind, &what.name, header, size);
        let is_longer = what.size.is_none() && length == asked;
        let reader = match what.size {
            Some(size) => reader_of(size)?,
            None if !is_longer => reader_of(length)?,
            None => {
                // Any longer object opens its first segment like this one, which tells how long it is.
                let first = body.get(..SEGMENT_STRIDE).ok_or_else(short)?;
                let mut head = Vec::new();
                reader_of(u64::from(u32::MAX))?.open_segments(0, first, &mut head)?;
                let bare = size_of(&head)? + SIGNATURE_BYTES as u64;
                let plaintext = usize::try_from(padded_len(bare)).unwrap_or(usize::MAX);
                reader_of(sealed_len(plaintext) as u64)?
            }
        };
        let plaintext_bytes = reader.layout().plaintext_bytes();
        let body_bytes = plaintext_bytes.checked_sub(SIGNATURE_BYTES as u64);
        let body_bytes =
            body_bytes.ok_or_else(|| Error::damaged("an object without its signature"))?;
        let block = if is_longer { body.split_last().map_or(body, |(_, rest)| rest) } else { body };
        let mut object_hash = what.hash.is_some().then(blake3::Hasher::new);
        object_hash.as_mut().map(|hash| hash.update(header));
        let mut sequence = Sequence {
            header: *header,
            key: key.to_owned(),
            reader,
            body_bytes,
            opened: 0,
            next_segment: 0,
            pending: None,
            buffer: Vec::new(),
            at: 0,
            body_hash: blake3::Hasher::new(),
            object_hash,
            block: Vec::new(),
            scope,
            what,
        };
        sequence.take_in(block)?;
        drop(sealed);
        sequence.ask()?;
        Ok(sequence)
    }
}

impl Sequence {
    /// Whole key of the object.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Bytes of the plaintext without the signature block.
    pub(super) fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// Where in the plaintext the next byte lies.
    pub(super) fn position(&self) -> u64 {
        self.opened.min(self.body_bytes) - self.available().len() as u64
    }

    /// What is at hand.
    pub(super) fn available(&self) -> &[u8] {
        self.buffer.get(self.at..).unwrap_or_default()
    }

    /// The next `N` bytes; `Damaged` where the body ends before.
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        loop {
            if let Some(bytes) = self.available().first_chunk::<N>() {
                let bytes = *bytes;
                self.at += N;
                return Ok(bytes);
            }
            self.fill()?;
        }
    }

    /// Gives the next `count` bytes to `look`, piece by piece.
    pub(super) fn pass(
        &mut self,
        mut count: u64,
        mut look: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        while count > 0 {
            let here = self.available();
            if here.is_empty() {
                self.fill()?;
                continue;
            }
            let length = usize::try_from(count).unwrap_or(usize::MAX).min(here.len());
            let at = self.position();
            look(here.get(..length).unwrap_or_default())
                .map_err(|error| self.fault(error.offset(at)))?;
            self.at += length;
            count -= length as u64;
        }
        Ok(())
    }

    /// The error, of this object.
    pub(super) fn fault(&self, error: Error) -> Error {
        located(self.what.kind, &self.key, error)
    }

    /// Reads a part out of order.
    pub(super) fn read_ahead(&self, plaintext: Range<u64>) -> Result<Buffer> {
        self.ranged().and_then(|ranged| ranged.read(plaintext)).map_err(|error| self.fault(error))
    }

    fn ranged(&self) -> Result<Ranged> {
        let size = self.reader.layout().object_bytes();
        self.scope.ranged_with_header(self.what.kind, &self.what.name, size, &self.header)
    }

    /// Reads what is left, which has to be zeros, and checks who vouches for the whole.
    pub(super) fn finish(&mut self, action: Action) -> Result<SignedBy> {
        let left = self.body_bytes - self.position();
        let mut at = usize::try_from(self.position()).unwrap_or(usize::MAX);
        self.pass(left, |padding| {
            check_zero(padding, at)?;
            at += padding.len();
            Ok(())
        })?;
        // The block may begin where a segment does.
        while self.pending.is_some() {
            self.fill()?;
        }
        self.verify(action).map_err(|error| self.fault(error))
    }

    fn verify(&self, action: Action) -> Result<SignedBy> {
        if let (Some(hash), Some(named)) = (&self.object_hash, &self.what.hash)
            && *hash.finalize().to_hex() != **named
        {
            return Err(Error::damaged("the object is not the one that was recorded"));
        }
        let block = self.block.first_chunk::<SIGNATURE_BLOCK_BYTES>();
        let block = block.ok_or_else(|| Error::damaged("an object without its signature"))?;
        let (kind, name, digest) = (self.what.kind, &self.what.name, self.body_hash.finalize());
        match self.scope.keys.verifier().verify_digest(kind, name, action, &digest, block) {
            Ok(signed_by) => Ok(signed_by),
            // The key at hand is not what is wrong here.
            Err(error) if error.kind == ErrorKind::WrongKey => Err(Error::damaged(error.what)),
            Err(error) => Err(error),
        }
    }

    /// Asks for the next block, if there is one.
    fn ask(&mut self) -> Result<()> {
        let layout = self.reader.layout();
        let start = self.next_segment * SEGMENT_BYTES as u64;
        let total = layout.plaintext_bytes();
        if start >= total {
            return Ok(());
        }
        let end = total.min(start + self.what.block * SEGMENT_BYTES as u64);
        let range = layout.segments_of(start..end)?.object;
        let length = range.end - range.start;
        self.pending = Some(self.scope.broker.get_later(&self.key, range.start, Some(length))?);
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        self.fill_unnamed().map_err(|error| self.fault(error))
    }

    fn fill_unnamed(&mut self) -> Result<()> {
        let Some(pending) = self.pending.take() else {
            return Err(Error::damaged("bytes end too early").offset(self.body_bytes));
        };
        let sealed = pending.wait()?;
        let start = self.next_segment * SEGMENT_BYTES as u64;
        let end = self.reader.layout().plaintext_bytes();
        let end = end.min(start + self.what.block * SEGMENT_BYTES as u64);
        if ObjectReader::opened_len(sealed.len()) as u64 != end - start {
            return Err(Error::damaged("the object is shorter than it should be"));
        }
        self.take_in(&sealed)?;
        drop(sealed);
        self.ask()
    }

    fn take_in(&mut self, sealed: &[u8]) -> Result<()> {
        self.object_hash.as_mut().map(|hash| hash.update(sealed));
        self.buffer.drain(..self.at);
        self.at = 0;
        let start = self.buffer.len();
        self.reader.open_segments(self.next_segment, sealed, &mut self.buffer)?;
        self.next_segment += sealed.len().div_ceil(SEGMENT_STRIDE) as u64;
        let new = self.buffer.get(start..).unwrap_or_default();
        let body_left = self.body_bytes.saturating_sub(self.opened);
        let body_left = usize::try_from(body_left).unwrap_or(usize::MAX).min(new.len());
        let (body, block) = new.split_at(body_left);
        self.body_hash.update(body);
        self.block.extend_from_slice(block);
        self.opened += new.len() as u64;
        self.buffer.truncate(start + body_left);
        Ok(())
    }
}
