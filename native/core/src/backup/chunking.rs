//! How a run cuts: large files by content or in pieces of one size, small ones as a stream.

use super::options::ChunkerChoice;
use crate::chunk::{Argmin, ArgminSizes, Chunker, CutKey, Fixed};
use crate::crypto::config::ChunkerParams;
use crate::error::Result;
use crate::scope::Scope;

/// The chunkers of a run.
pub(super) struct Chunking {
    pub(super) argmin: Chunker,
    pub(super) fixed: Chunker,
    /// Files from this size on are cut by themselves.
    pub(super) small_bytes: u64,
}

impl Chunking {
    pub(super) fn new(scope: &Scope, params: &ChunkerParams) -> Result<Self> {
        let sizes = ArgminSizes::from_stored(params.min, params.average, params.max)?;
        let secret = scope.keys.chunker_secret()?;
        let argmin = Argmin::new(sizes, CutKey::new(secret.expose()));
        let fixed = usize::try_from(params.fixed).unwrap_or(usize::MAX);
        Ok(Self {
            small_bytes: sizes.min_bytes() as u64,
            argmin: Chunker::Argmin(argmin),
            fixed: Chunker::Fixed(Fixed::new(fixed)?),
        })
    }

    /// `is_image` says that the source is a device or an image of one.
    pub(super) fn choose(&self, choice: ChunkerChoice, is_image: bool) -> &Chunker {
        match choice {
            ChunkerChoice::Fixed => &self.fixed,
            ChunkerChoice::Auto if is_image => &self.fixed,
            ChunkerChoice::Auto | ChunkerChoice::Argmin => &self.argmin,
        }
    }
}
