//! Reading one large file: its data segments into buffers, the buffers into chunks, the chunks to the
//! workers, and their names back into the file's content, in order.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crossbeam_channel::Sender;
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::chunks::{Bytes, ChunkTask};
use super::metadata::Pages;
use super::progress::Counters;
use super::slab::{Slab, SlabPool, Slice};
use super::slot::{Signal, Slot};
use crate::chunk::{Chunker, Span, Spans};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Id;
use crate::fs::Segments;
use crate::tree::{Content, ContentBuilder, Extent, ExtentKind};

/// Chunks of one file that may be with the workers at a time.
const CHUNKS_OUT_MAX: usize = 256;

/// `RWF_DONTCACHE`: pages that reading brings into the page cache leave it again; those that were
/// there stay. Linux 6.14.
const DONTCACHE: u32 = 0x80;

/// What a reader of large files has at hand.
pub(super) struct FileReader<'a> {
    pub(super) slabs: &'a Arc<SlabPool>,
    pub(super) chunker: &'a Chunker,
    pub(super) tasks: &'a Sender<ChunkTask>,
    pub(super) signal: &'a Arc<Signal>,
    pub(super) counters: &'a Counters,
    pub(super) pages: &'a mut Pages,
    /// Called between buffers, with what a checkpoint would need of this file.
    pub(super) between: Between<'a>,
}

/// What is done between buffers, given the content so far.
pub(super) type Between<'a> = &'a mut dyn FnMut(&ContentBuilder) -> Result<()>;

/// Where bytes come from.
pub(super) enum Source<'fd> {
    /// Something with offsets.
    File { fd: BorrowedFd<'fd>, can_skip_cache: bool },
    /// A pipe: bytes come when they come, once.
    Stream { fd: BorrowedFd<'fd>, signal: &'fd Signal },
}

impl Source<'_> {
    /// Reads into `buffer`, at `offset` where that means something; 0 at the end.
    pub(super) fn read(&mut self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        loop {
            let result = match self {
                Self::File { fd, can_skip_cache } => {
                    let flags = if *can_skip_cache { DONTCACHE } else { 0 };
                    let flags = ReadWriteFlags::from_bits_retain(flags);
                    let result = preadv2(*fd, &mut [IoSliceMut::new(buffer)], offset, flags);
                    if *can_skip_cache && matches!(result, Err(Errno::OPNOTSUPP | Errno::INVAL)) {
                        *can_skip_cache = false;
                        continue;
                    }
                    result
                }
                Self::Stream { fd, signal } => {
                    wait_readable(*fd, signal)?;
                    rustix::io::read(*fd, &mut *buffer)
                }
            };
            match result {
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(Error::os("cannot read", errno).offset(offset)),
                Ok(count) => return Ok(count),
            }
        }
    }
}

/// Waits for input, and looks now and then whether the run goes on: a pipe may be silent for hours.
fn wait_readable(fd: BorrowedFd<'_>, signal: &Signal) -> Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let timeout = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
    loop {
        signal.check()?;
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(Error::os("cannot wait for input", errno)),
        }
    }
}

/// What came of reading a file.
pub(super) struct ReadFile {
    pub(super) content: Content,
    /// Bytes that the content covers: less than was expected of a file that became shorter.
    pub(super) size: u64,
}

/// A file while it is read.
struct Flow<'r, 'a> {
    reader: &'r mut FileReader<'a>,
    content: ContentBuilder,
    out: VecDeque<(Arc<Slot<Id>>, u64)>,
    /// Chunks that are not noted yet. Those of a content that fits its node are when the node arrives, in the
    /// order of the tree; files are read in any order.
    unnoted: Vec<Id>,
}

impl<'a> FileReader<'a> {
    /// The same reader with something else to do between buffers.
    pub(super) fn with_between<'b>(&'b mut self, between: Between<'b>) -> FileReader<'b>
    where
        'a: 'b,
    {
        FileReader {
            slabs: self.slabs,
            chunker: self.chunker,
            tasks: self.tasks,
            signal: self.signal,
            counters: self.counters,
            pages: self.pages,
            between,
        }
    }

    /// Reads the first `size` bytes of a regular file or device from `start`, before which `content`
    /// already covers everything.
    pub(super) fn read_file(
        &mut self,
        fd: &OwnedFd,
        size: u64,
        start: u64,
        content: ContentBuilder,
    ) -> Result<ReadFile> {
        let mut source = Source::File { fd: fd.as_fd(), can_skip_cache: true };
        let mut flow = Flow { reader: self, content, out: VecDeque::new(), unnoted: Vec::new() };
        let mut covered = start;
        for segment in Segments::new(fd.as_fd(), size) {
            let end = segment.offset + segment.len;
            if end <= start {
                continue;
            }
            let from = segment.offset.max(start);
            if segment.is_hole {
                flow.sparse(ExtentKind::Hole, end - from)?;
                covered = end;
                continue;
            }
            covered = flow.segment(&mut source, from, Some(end))?;
            if covered < end {
                break;
            }
        }
        // A file that was cut off at once reads as one hole to its old end, or as nothing.
        let content = flow.finish()?;
        Ok(ReadFile { content, size: covered })
    }

    /// Reads a stream to its end.
    pub(super) fn read_stream(
        &mut self,
        fd: BorrowedFd<'_>,
        content: ContentBuilder,
    ) -> Result<ReadFile> {
        let signal = Arc::clone(self.signal);
        let signal = &*signal;
        let mut flow = Flow { reader: self, content, out: VecDeque::new(), unnoted: Vec::new() };
        let size = flow.segment(&mut Source::Stream { fd, signal }, 0, None)?;
        let content = flow.finish()?;
        Ok(ReadFile { content, size })
    }
}

impl Flow<'_, '_> {
    /// Reads from `start` to `end`, or to where the source ends; returns where that was.
    fn segment(&mut self, source: &mut Source<'_>, start: u64, end: Option<u64>) -> Result<u64> {
        // What stands at the front of the buffer: bytes of a chunk whose end is not known yet, of
        // which the first `scanned` are known to be data.
        let mut carry: Option<(Arc<Slab>, usize)> = None;
        let mut scanned = 0;
        let mut position = start;
        loop {
            let signal = Arc::clone(self.reader.signal);
            let mut slab = self.reader.slabs.take(|| signal.check())?;
            if let Some((previous, from)) = carry.take() {
                slab.fill(previous.bytes().get(from..).unwrap_or_default());
            }
            let carried = slab.bytes().len();
            let at_end = fill(&mut slab, source, position, end)?;
            let read = (slab.bytes().len() - carried) as u64;
            self.reader.counters.read(read);
            let base = position - carried as u64;
            position += read;
            let slab = Arc::new(slab);
            let consumed = self.cut(&slab, base, &mut scanned, at_end)?;
            (self.reader.between)(&self.content)?;
            self.reader.signal.check()?;
            if at_end {
                return Ok(position);
            }
            scanned -= consumed.min(scanned);
            carry = Some((slab, consumed));
        }
    }

    /// Cuts what can be cut of a buffer whose first byte is byte `base` of the file and whose first
    /// `scanned` bytes are known to be data. Returns how many bytes are done with; `scanned` then
    /// counts from the start of the buffer how far it was looked at.
    fn cut(
        &mut self,
        slab: &Arc<Slab>,
        base: u64,
        scanned: &mut usize,
        at_end: bool,
    ) -> Result<usize> {
        let bytes = slab.bytes();
        let mut done = 0;
        let unscanned = bytes.get(*scanned..).unwrap_or_default();
        let mut spans = Spans::new(base + *scanned as u64, unscanned, at_end);
        let first = *scanned;
        for span in spans.by_ref() {
            if let Span::Zero(range) = span {
                let (start, end) = (first + range.start, first + range.end);
                done = self.chunks(slab, base, done..start, true)?;
                self.sparse(ExtentKind::Zero, (end - start) as u64)?;
                done = done.max(end);
            }
        }
        *scanned = first + spans.consumed();
        let limit = if at_end { bytes.len() } else { *scanned };
        self.chunks(slab, base, done..limit, at_end)
    }

    /// Cuts chunks off a run of data and sends them to the workers; returns where it stopped.
    fn chunks(
        &mut self,
        slab: &Arc<Slab>,
        base: u64,
        run: std::ops::Range<usize>,
        at_end: bool,
    ) -> Result<usize> {
        let data = slab.bytes().get(run.clone()).unwrap_or_default();
        let mut cuts = self.reader.chunker.chunks(base + run.start as u64, data, at_end);
        for range in cuts.by_ref() {
            let length = range.len() as u64;
            let range = run.start + range.start..run.start + range.end;
            let slot = Slot::new(self.reader.signal);
            let bytes = Bytes::Slice(Slice::new(slab, range));
            let task = ChunkTask { bytes, slot: Arc::clone(&slot) };
            self.reader.tasks.send(task).map_err(|_| stopped())?;
            self.out.push_back((slot, length));
            self.collect(CHUNKS_OUT_MAX)?;
        }
        Ok(run.start + cuts.consumed())
    }

    fn sparse(&mut self, kind: ExtentKind, len: u64) -> Result<()> {
        self.collect(0)?;
        self.reader.counters.sparse(len);
        self.content.push(Extent { kind, length: len }, self.reader.pages)
    }

    /// Takes over the names that are known, and waits until at most `out_max` are not.
    fn collect(&mut self, out_max: usize) -> Result<()> {
        while let Some((slot, len)) = self.out.front() {
            let id = match slot.get() {
                Some(id) => *id,
                None if self.out.len() > out_max => *slot.wait()?,
                None => return Ok(()),
            };
            let extent = Extent::data(id, 0, *len);
            self.unnoted.push(id);
            self.content.push(extent, self.reader.pages)?;
            self.out.pop_front();
            if self.content.is_paged() {
                self.note()?;
            }
        }
        Ok(())
    }

    fn note(&mut self) -> Result<()> {
        self.unnoted.drain(..).try_for_each(|id| self.reader.pages.note(&id))
    }

    fn finish(mut self) -> Result<Content> {
        self.collect(0)?;
        let Self { reader, content, unnoted, .. } = self;
        let content = content.finish(reader.pages)?;
        if let Content::Pages { .. } = content {
            unnoted.iter().try_for_each(|id| reader.pages.note(id))?;
        }
        Ok(content)
    }
}

/// Reads until the buffer is full or `end` or the source's end is reached; says whether it was.
fn fill(slab: &mut Slab, source: &mut Source<'_>, start: u64, end: Option<u64>) -> Result<bool> {
    let mut position = start;
    loop {
        let spare = slab.spare_mut();
        let left = end.map_or(u64::MAX, |end| end - position);
        if left == 0 {
            return Ok(true);
        }
        if spare.is_empty() {
            return Ok(false);
        }
        let wanted = spare.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = source.read(spare.get_mut(..wanted).unwrap_or_default(), position)?;
        if count == 0 {
            return Ok(true);
        }
        slab.advance(count);
        position += count as u64;
    }
}

/// What a thread says whose partner has gone: the reason stands with the run's signal.
pub(super) fn stopped() -> Error {
    Error::new(ErrorKind::Cancelled, STOPPED)
}

const STOPPED: &str = "the run has stopped";

/// Whether an error only repeats that another stage has ended.
pub(super) fn is_echo(error: &Error) -> bool {
    error.kind == ErrorKind::Cancelled && error.what == STOPPED
}
