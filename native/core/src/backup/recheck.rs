//! Files that seem unchanged are believed, but for a random share, which is read and compared with what
//! is stored: a change without a trace in size, times and inode, and a disk that returns other bytes than
//! were written, show nowhere else.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use super::files::Source;
use super::options::RecheckOptions;
use super::progress::Counters;
use super::slot::Signal;
use crate::crypto::IdKey;
use crate::error::{Error, ErrorKind, Result};
use crate::pages::PageStore;
use crate::tree::extents::ExtentIter;
use crate::tree::{Body, Content, ExtentKind};

/// Of large files, pieces of this size are drawn, with the chunks that begin in them.
const WINDOW_BYTES: u64 = 4 << 20;

const BUFFER_BYTES: usize = 128 << 10;

/// Draws the share. The same seed draws the same files of the same tree.
#[derive(Clone, Debug)]
pub(super) struct Sampler {
    /// A draw below this is a hit; none is when it is 0.
    threshold: u64,
    state: u64,
}

impl Sampler {
    /// Draws the share that `options` ask for of `total` bytes.
    pub(super) fn new(options: Option<&RecheckOptions>, total: u64) -> Self {
        let Some(options) = options else { return Self { threshold: 0, state: 0 } };
        let parts = |share: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a share between 0 and 1; a cast of floats saturates"
            )]
            let parts = (share.clamp(0.0, 1.0) * u64::MAX as f64) as u64;
            parts
        };
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let most = match options.bytes_max {
            Some(bytes) if bytes < total => bytes as f64 / total as f64,
            _ => 1.0,
        };
        Self { threshold: parts((options.percent / 100.0).min(most)), state: options.seed }
    }

    /// `SplitMix64`: nobody gains anything by guessing it.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Whether a small file is drawn.
    pub(super) fn draws(&mut self) -> bool {
        self.threshold != 0 && self.next() <= self.threshold
    }

    /// Where the pieces begin that are drawn of a large file.
    pub(super) fn windows(&mut self, size: u64) -> Vec<u64> {
        if self.threshold == 0 {
            return Vec::new();
        }
        let count = size.div_ceil(WINDOW_BYTES);
        (0..count).filter(|_| self.draws()).map(|number| number * WINDOW_BYTES).collect()
    }
}

/// Both ends of a file.
pub(super) fn ends(size: u64) -> Vec<u64> {
    let last = size.saturating_sub(1) / WINDOW_BYTES * WINDOW_BYTES;
    if last == 0 { vec![0] } else { vec![0, last] }
}

/// A large file of which pieces were drawn.
pub(super) struct Recheck {
    pub(super) content: Content,
    pub(super) pages: Arc<PageStore>,
    pub(super) windows: Vec<u64>,
}

/// What comparing takes.
pub(super) struct Checker<'a> {
    pub(super) ids: &'a IdKey,
    pub(super) counters: &'a Counters,
    pub(super) signal: &'a Signal,
}

impl Checker<'_> {
    /// Where the first of the drawn chunks begins that the file no longer has. Chunks of which the file
    /// holds but a slice are not compared: their names say nothing of a slice.
    pub(super) fn find_change(&self, file: &OwnedFd, recheck: &Recheck) -> Result<Option<u64>> {
        let mut source = Source::File { fd: file.as_fd(), can_skip_cache: true };
        for start in &recheck.windows {
            let end = start.saturating_add(WINDOW_BYTES);
            for extent in ExtentIter::new(&recheck.pages, &recheck.content, *start) {
                let (offset, extent) = extent?;
                if offset >= end {
                    break;
                }
                let ExtentKind::Data { id, offset: 0 } = extent.kind else { continue };
                if offset < *start {
                    continue;
                }
                self.signal.check()?;
                if self.digest(&mut source, offset, extent.length)? != Some(id.0) {
                    return Ok(Some(offset));
                }
            }
        }
        Ok(None)
    }

    /// The digest of a range; `None` where the file ends before.
    pub(super) fn digest(
        &self,
        source: &mut Source<'_>,
        offset: u64,
        length: u64,
    ) -> Result<Option<[u8; 32]>> {
        let mut hasher = blake3::Hasher::new_keyed(self.ids.expose());
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut done = 0;
        while done < length {
            let wanted = usize::try_from(length - done).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
            let buffer = buffer.get_mut(..wanted).unwrap_or_default();
            let count = source.read(buffer, offset + done)?;
            if count == 0 {
                return Ok(None);
            }
            hasher.update(buffer.get(..count).unwrap_or_default());
            self.counters.read(count as u64);
            done += count as u64;
        }
        Ok(Some(*hasher.finalize().as_bytes()))
    }
}

/// What is said of a file that changed without a trace.
pub(super) fn unseen_change(offset: Option<u64>) -> Error {
    let what = "its content is not what was stored, though size, times and inode are the same: it was changed \
                without a trace, or the disk is failing; it is stored as it is now";
    let error = Error::new(ErrorKind::Io, what);
    match offset {
        Some(offset) => error.offset(offset),
        None => error,
    }
}

/// The content of a file's node.
pub(super) fn content_of(body: &Body) -> Content {
    match body {
        Body::File { content, .. } => content.clone(),
        _ => Content::empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(percent: f64, bytes_max: Option<u64>, total: u64) -> Sampler {
        Sampler::new(Some(&RecheckOptions { percent, bytes_max, seed: 7 }), total)
    }

    #[test]
    fn the_share_is_what_was_asked_for_and_bounded() {
        let hits = |mut sampler: Sampler| (0..100_000).filter(|_| sampler.draws()).count();
        assert_eq!(hits(Sampler::new(None, 9)), 0);
        assert_eq!(hits(sampler(0.0, None, 9)), 0);
        assert_eq!(hits(sampler(100.0, None, 9)), 100_000);
        assert!((800..1_200).contains(&hits(sampler(1.0, None, 9))));
        // A tenth of a percent is all that the bound leaves.
        assert!((60..140).contains(&hits(sampler(1.0, Some(1 << 30), 1 << 40))));
        assert!((800..1_200).contains(&hits(sampler(1.0, Some(1 << 30), 1 << 30))));
    }

    #[test]
    fn windows_cover_a_file() {
        let all = sampler(100.0, None, 9).windows(2 * WINDOW_BYTES + 1);
        assert_eq!(all, [0, WINDOW_BYTES, 2 * WINDOW_BYTES]);
        assert_eq!(sampler(100.0, None, 9).windows(0), [0; 0]);
        assert_eq!(ends(2 * WINDOW_BYTES + 1), [0, 2 * WINDOW_BYTES]);
        assert_eq!(ends(2 * WINDOW_BYTES), [0, WINDOW_BYTES]);
        assert_eq!(ends(1), [0]);
    }
}
