//! One scope as a job sees it: its keys, and its objects through the broker. Everything that comes
//! back has passed seal and, where it is read whole, signature.

use std::ops::Range;
use std::sync::Arc;

use crate::broker::{Broker, Pending};
use crate::buffers::Buffer;
use crate::crypto::object::{HEADER_BYTES, ObjectLayout, ObjectReader, SegmentRange};
use crate::crypto::sign::SIGNATURE_BLOCK_BYTES;
use crate::crypto::sign::SignedBy;
use crate::crypto::{Action, ObjectType, ScopeKeys};
use crate::error::{Error, Result};

/// A scope of an open repository.
#[derive(Clone)]
pub struct Scope {
    /// Where requests go.
    pub broker: Arc<Broker>,
    /// What may be done here.
    pub keys: Arc<ScopeKeys>,
    prefix: Arc<str>,
}

/// An object that is read in ranges.
pub struct Ranged {
    broker: Arc<Broker>,
    key: String,
    reader: ObjectReader,
}

/// A range of an object on its way.
pub struct PendingRange {
    pending: Pending,
    segments: SegmentRange,
}

/// An object's header and end on their way.
pub struct PendingTail {
    kind: ObjectType,
    name: String,
    size: u64,
    header: Pending,
    tail: PendingRange,
    start: u64,
}

impl Scope {
    /// The scope that `keys` open, below `s/<scope>/`.
    pub fn new(broker: Arc<Broker>, keys: Arc<ScopeKeys>) -> Self {
        let prefix = format!("s/{}/", hex16(&keys.scope().0)).into();
        Self { broker, keys, prefix }
    }

    /// The whole key of the object called `name` in this scope.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Reads an object whole and gives its body: sealed, and signed by somebody who may add such
    /// objects. `Damaged` where it is not.
    pub fn open_body(&self, kind: ObjectType, name: &str) -> Result<Vec<u8>> {
        self.open_signed(kind, name, Action::Add).map(|(body, _)| body)
    }

    /// The same, with who signed it, who has to be somebody that may do `action`: `Replace` for runs in the
    /// base of `gc/state`, which stand for others.
    pub fn open_signed(
        &self,
        kind: ObjectType,
        name: &str,
        action: Action,
    ) -> Result<(Vec<u8>, SignedBy)> {
        let key = self.key(name);
        let sealed = self.broker.get_all(&key)?;
        self.verify_bytes(kind, name, action, &sealed).map_err(|error| error.at(key))
    }

    /// The same, of bytes that are at hand.
    pub fn open_bytes(&self, kind: ObjectType, name: &str, sealed: &[u8]) -> Result<Vec<u8>> {
        self.verify_bytes(kind, name, Action::Add, sealed).map(|(body, _)| body)
    }

    fn verify_bytes(
        &self,
        kind: ObjectType,
        name: &str,
        action: Action,
        sealed: &[u8],
    ) -> Result<(Vec<u8>, SignedBy)> {
        let mut plaintext = self.keys.objects().open_object(kind, name, sealed)?;
        let too_short = || Error::damaged("an object without its signature");
        let (body, block) =
            plaintext.split_last_chunk::<SIGNATURE_BLOCK_BYTES>().ok_or_else(too_short)?;
        let signed_by = self.keys.verifier().verify(kind, name, action, body, block)?;
        let length = body.len();
        plaintext.truncate(length);
        Ok((plaintext, signed_by))
    }

    /// Signs and seals a body that is already padded.
    pub fn seal_body(&self, kind: ObjectType, name: &str, body: Vec<u8>) -> Result<Vec<u8>> {
        self.seal_body_as(Action::Add, kind, name, body)
    }

    /// The same, as what does more than add.
    pub fn seal_body_as(
        &self,
        action: Action,
        kind: ObjectType,
        name: &str,
        mut body: Vec<u8>,
    ) -> Result<Vec<u8>> {
        let block = self.keys.sign_block(kind, name, action, &body)?;
        body.extend_from_slice(&block);
        self.keys.objects().seal_object(kind, name, &body)
    }

    /// Opens an object of `size` bytes for reading in ranges: one request for its header.
    pub fn ranged(&self, kind: ObjectType, name: &str, size: u64) -> Result<Ranged> {
        let key = self.key(name);
        let header = self.broker.get(&key, 0, HEADER_BYTES as u64)?;
        self.ranged_with_header(kind, name, size, &header).map_err(|error| error.at(key))
    }

    /// The same, with the header at hand.
    pub fn ranged_with_header(
        &self,
        kind: ObjectType,
        name: &str,
        size: u64,
        header: &[u8],
    ) -> Result<Ranged> {
        let header = header
            .first_chunk::<HEADER_BYTES>()
            .ok_or_else(|| Error::damaged("an object shorter than its header"))?;
        let reader = self.keys.objects().reader(kind, name, header, size)?;
        Ok(Ranged { broker: Arc::clone(&self.broker), key: self.key(name), reader })
    }
}

impl Scope {
    /// Asks for the header of an object of `size` bytes and, at the same time, for the last `tail_bytes` of
    /// its plaintext.
    pub fn start_tail(
        &self,
        kind: ObjectType,
        name: &str,
        size: u64,
        tail_bytes: u64,
    ) -> Result<PendingTail> {
        let key = self.key(name);
        let layout = ObjectLayout::new(size).map_err(|error| error.at(&*key))?;
        let end = layout.plaintext_bytes();
        let start = end.saturating_sub(tail_bytes);
        let header = self.broker.get_later(&key, 0, Some(HEADER_BYTES as u64))?;
        let tail = start_range(&self.broker, &key, &layout, start..end)?;
        Ok(PendingTail { kind, name: name.to_owned(), size, header, tail, start })
    }

    /// Asks for a range of the plaintext, which must not be empty, of an object of `size` bytes. Where it lies
    /// follows from the size; the header, which opens it, can be on its way at the same time.
    pub fn start(&self, name: &str, size: u64, plaintext: Range<u64>) -> Result<PendingRange> {
        let key = self.key(name);
        let layout = ObjectLayout::new(size).map_err(|error| error.at(&*key))?;
        start_range(&self.broker, &key, &layout, plaintext)
    }

    /// Waits for these: the object, open for reading, and its end with the offset where that begins.
    pub fn finish_tail(&self, pending: PendingTail) -> Result<(Ranged, Buffer, u64)> {
        let PendingTail { kind, name, size, header, tail, start } = pending;
        let header = header.wait()?;
        let ranged = self.ranged_with_header(kind, &name, size, &header);
        let ranged = ranged.map_err(|error| error.at(self.key(&name)))?;
        let tail = ranged.finish(tail)?;
        Ok((ranged, tail, start))
    }
}

impl Ranged {
    /// Bytes of the plaintext.
    pub fn plaintext_bytes(&self) -> u64 {
        self.reader.layout().plaintext_bytes()
    }

    /// Whole key of the object.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Layout of the object.
    pub fn layout(&self) -> &ObjectLayout {
        self.reader.layout()
    }

    /// Reads a range of the plaintext.
    pub fn read(&self, plaintext: Range<u64>) -> Result<Buffer> {
        if plaintext.is_empty() {
            return self.broker.buffers.take(0);
        }
        let pending = self.start(plaintext)?;
        self.finish(pending)
    }

    /// Asks for a range of the plaintext, which must not be empty.
    pub fn start(&self, plaintext: Range<u64>) -> Result<PendingRange> {
        start_range(&self.broker, &self.key, self.reader.layout(), plaintext)
    }

    /// Waits for a range and opens it.
    pub fn finish(&self, range: PendingRange) -> Result<Buffer> {
        let sealed = range.pending.wait()?;
        self.open(&range.segments, &sealed)
    }

    fn open(&self, segments: &SegmentRange, sealed: &[u8]) -> Result<Buffer> {
        let at = |error: Error| error.at(&*self.key).offset(segments.object.start);
        if sealed.len() as u64 != segments.object.end - segments.object.start {
            return Err(at(Error::damaged("the object is shorter than it should be")));
        }
        let mut out = self.broker.buffers.take(ObjectReader::opened_len(sealed.len()))?;
        self.reader.open_into(segments.first, sealed, &mut out).map_err(at)?;
        out.narrow(segments.plaintext.clone());
        Ok(out)
    }
}

fn start_range(
    broker: &Arc<Broker>,
    key: &str,
    layout: &ObjectLayout,
    plaintext: Range<u64>,
) -> Result<PendingRange> {
    let segments = layout.segments_of(plaintext).map_err(|error| error.at(key))?;
    let Range { start, end } = segments.object;
    let pending = broker.get_later(key, start, Some(end - start))?;
    Ok(PendingRange { pending, segments })
}

/// 16 bytes in hex.
pub fn hex16(bytes: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*bytes))
}
