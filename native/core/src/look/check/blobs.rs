//! One pack from its first byte to its last: every segment is opened, and every blob that the key
//! opens is decompressed and compared with its id.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use super::packs::{Damage, PackCheck};
use super::{Finding, fault_or_end};
use crate::crypto::object::SEGMENT_BYTES;
use crate::crypto::{BlobKey, BlobKind, BlobOpener, Envelope};
use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::{Footer, PackDirectory, PackEntry, PackKind};
use crate::scope::{PendingRange, Ranged};

/// Bytes of plaintext in one request; a whole number of segments.
const STEP_BYTES: u64 = 64 * SEGMENT_BYTES as u64;

/// How the blobs of one envelope are opened.
enum Opening {
    /// With one of these: a page's source does not stand in its pack.
    Keys(Vec<BlobKey>),
    /// The key at hand does not.
    Closed,
    /// Nobody's key does.
    Damaged,
}

/// Reads one pack.
pub(super) struct BlobCheck<'a> {
    check: &'a PackCheck<'a>,
    ranged: &'a Ranged,
    kind: PackKind,
    opener: BlobOpener,
    opened: u64,
    has_closed: bool,
    damage: Damage,
    /// What has been read and is still needed: starts at this offset of the plaintext.
    base: u64,
    window: Vec<u8>,
}

impl<'a> BlobCheck<'a> {
    pub(super) fn new(
        check: &'a PackCheck<'a>,
        ranged: &'a Ranged,
        kind: PackKind,
    ) -> Result<Self> {
        let (opener, damage) = (BlobOpener::new()?, Damage::default());
        let (base, window) = (0, Vec::new());
        let has_closed = false;
        Ok(Self { check, ranged, kind, opener, opened: 0, has_closed, damage, base, window })
    }

    /// Blobs that were opened and have their ids.
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    /// Whether there were blobs that the key at hand does not open.
    pub(super) fn has_closed(&self) -> bool {
        self.has_closed
    }

    fn report(&self, what: &'static str, detail: String) -> Result<()> {
        let finding = Finding::error(what, detail).on(self.ranged.key());
        self.check.context.findings.report(&finding)
    }

    /// Reads all of it; without a directory, which is then damaged, opens segments only.
    pub(super) fn run(&mut self, found: Option<(&PackDirectory, Footer)>) -> Result<Damage> {
        // The end was read for the directory; where that failed, it is read again to see how much.
        let end = match &found {
            Some((_, footer)) => footer.directory().start,
            None => self.ranged.plaintext_bytes(),
        };
        let (envelopes, entries): (&[_], &[PackEntry]) = match &found {
            Some((directory, _)) => (&directory.envelopes, &directory.entries),
            None => (&[], &[]),
        };
        let openings =
            envelopes.iter().map(|bytes| self.opening(bytes)).collect::<Result<Vec<_>>>()?;
        let mut entries = entries.iter().peekable();
        let mut next = self.start(0, end)?;
        while let Some((range, pending)) = next.take() {
            next = self.start(range.end, end)?;
            self.take(&range, pending)?;
            while let Some(entry) = entries.next_if(|entry| blob_of(entry).end <= range.end) {
                let opening = openings.get(usize::from(entry.envelope)).unwrap_or(&Opening::Closed);
                self.blob(entry, opening)?;
            }
            let keep = entries.peek().map_or(range.end, |entry| u64::from(entry.offset));
            self.forget(keep.min(range.end));
        }
        Ok(std::mem::take(&mut self.damage))
    }

    fn start(&self, from: u64, end: u64) -> Result<Option<(Range<u64>, PendingRange)>> {
        if from >= end {
            return Ok(None);
        }
        let range = from..end.min(from + STEP_BYTES);
        let pending = self.ranged.start(range.clone())?;
        Ok(Some((range, pending)))
    }

    /// Appends a range to the window, with zeros for segments that do not open.
    fn take(&mut self, range: &Range<u64>, pending: PendingRange) -> Result<()> {
        if let Ok(bytes) = fault_or_end(self.ranged.finish(pending))? {
            self.window.extend_from_slice(&bytes);
            return Ok(());
        }
        let mut from = range.start;
        while from < range.end {
            let segment = from..range.end.min(from + SEGMENT_BYTES as u64);
            match fault_or_end(self.ranged.read(segment.clone()))? {
                Ok(bytes) => self.window.extend_from_slice(&bytes),
                Err(error) => {
                    self.report("pack-damaged", error.to_string())?;
                    let zeros = usize::try_from(segment.end - segment.start).unwrap_or_default();
                    self.window.resize(self.window.len() + zeros, 0);
                    self.damage.ranges.push(segment.clone());
                }
            }
            from = segment.end;
        }
        Ok(())
    }

    fn forget(&mut self, until: u64) {
        let count = usize::try_from(until.saturating_sub(self.base)).unwrap_or(usize::MAX);
        self.window.drain(..count.min(self.window.len()));
        self.base = self.base.max(until);
    }

    fn opening(&self, bytes: &[u8; 104]) -> Result<Opening> {
        let keys = &self.check.context.scope.keys;
        let keys = Envelope::from_bytes(bytes).and_then(|envelope| match self.kind {
            PackKind::Data => Ok(vec![keys.open_data_key(&envelope)?]),
            PackKind::Metadata => {
                let sources = self.check.sources.iter();
                let keys = sources.map(|source| keys.source(source)?.open_page_key(&envelope));
                // One epoch too old for this key is none the less opened by others.
                let held = keys
                    .filter(|key| !matches!(key, Err(error) if error.kind == ErrorKind::WrongKey));
                held.collect()
            }
        });
        match fault_or_end(keys)? {
            Ok(keys) if keys.is_empty() => Ok(Opening::Closed),
            Ok(keys) => Ok(Opening::Keys(keys)),
            Err(error) if error.kind == ErrorKind::WrongKey => Ok(Opening::Closed),
            Err(error) => {
                self.report("envelope-damaged", error.to_string())?;
                Ok(Opening::Damaged)
            }
        }
    }

    fn blob(&mut self, entry: &PackEntry, opening: &Opening) -> Result<()> {
        let blob = blob_of(entry);
        let overlaps = |range: &Range<u64>| range.start < blob.end && blob.start < range.end;
        if self.damage.ranges.iter().any(overlaps) {
            return Ok(());
        }
        let number = self.check.reach.find(&entry.id.short());
        let is_needed = number.is_some();
        let problem = match opening {
            Opening::Damaged => Some("it has no envelope that opens".to_owned()),
            Opening::Closed => {
                self.note_closed();
                None
            }
            Opening::Keys(keys) => {
                let result = self.open(entry, &blob, keys);
                match fault_or_end(result)? {
                    Ok(length) => {
                        self.opened += 1;
                        let needed = number.and_then(|number| self.check.reach.chunk_bytes(number));
                        let is_short = needed.is_some_and(|needed| length < needed as usize);
                        is_short.then(|| "it is shorter than files that need it say".to_owned())
                    }
                    // Without a tree that names it, a page may belong to a source that is not at hand.
                    Err(_) if self.kind == PackKind::Metadata && !is_needed => {
                        self.note_closed();
                        None
                    }
                    Err(error) => Some(error.to_string()),
                }
            }
        };
        let Some(problem) = problem else {
            return Ok(());
        };
        let noun = if self.kind == PackKind::Data { "chunk" } else { "page" };
        let detail = format!("{noun} {} at offset {}: {problem}", entry.id, entry.offset);
        self.report("blob-damaged", detail)?;
        self.damage.ranges.push(blob);
        Ok(())
    }

    /// The length of the plaintext.
    fn open(&mut self, entry: &PackEntry, blob: &Range<u64>, keys: &[BlobKey]) -> Result<usize> {
        let unread = || Error::internal("a blob that was not read");
        let start = blob.start.checked_sub(self.base).ok_or_else(unread)?;
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let end = start.saturating_add(entry.length as usize);
        let sealed = self.window.get(start..end).ok_or_else(unread)?;
        let kind = match self.kind {
            PackKind::Data => BlobKind::Data,
            PackKind::Metadata => BlobKind::Page,
        };
        let mut last = Error::internal("no key to open a blob with");
        for key in keys {
            match self.opener.open(key, kind, &entry.id.0, sealed) {
                Ok(raw) => return Ok(raw.len()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn note_closed(&mut self) {
        self.has_closed = true;
        match self.kind {
            PackKind::Data => self.check.is_content_closed.store(true, Relaxed),
            PackKind::Metadata => {
                self.check.pages_closed.fetch_add(1, Relaxed);
            }
        }
    }
}

fn blob_of(entry: &PackEntry) -> Range<u64> {
    let start = u64::from(entry.offset);
    start..start + u64::from(entry.length)
}
