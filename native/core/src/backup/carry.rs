//! Contents taken over from an earlier tree: whether the repository still has all of one, and what it names.

use super::chunks::Known;
use super::metadata::Refs;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Id;
use crate::pages::PageStore;
use crate::tree::Content;
use crate::tree::collect::{Visitor, collect_content};

/// Looks through contents before they are taken over.
pub(super) struct Carrier<'a> {
    known: &'a Known,
    refs: &'a Refs,
    /// The last id that was looked up: consecutive small files share chunks.
    last_known: Option<Id>,
}

impl<'a> Carrier<'a> {
    pub(super) fn new(known: &'a Known, refs: &'a Refs) -> Self {
        Self { known, refs, last_known: None }
    }

    /// Whether the repository still has all of a content. What it names through pages is then noted for
    /// the snapshot; inline extents are when the node arrives.
    pub(super) fn is_carried(&mut self, pages: &PageStore, content: &Content) -> Result<bool> {
        if self.is_stored(pages, content)?.is_none() {
            return Ok(false);
        }
        if let Content::Pages { .. } = content {
            let mut noting = Noting { refs: self.refs, result: Ok(()) };
            match collect_content(pages, content, &mut noting) {
                // Noted for nothing, in part: that only keeps it a while.
                Err(error) if is_lost(&error) => {
                    distrust_lost(self.known, pages);
                    return Ok(false);
                }
                other => other?,
            }
            noting.result?;
        }
        Ok(true)
    }

    /// How many bytes the content covers, if every chunk and page of it is in the index.
    pub(super) fn is_stored(
        &mut self,
        pages: &PageStore,
        content: &Content,
    ) -> Result<Option<u64>> {
        let mut search = Search { known: self.known, last: self.last_known, missing: None };
        match collect_content(pages, content, &mut search) {
            Err(error) if is_lost(&error) => {
                distrust_lost(self.known, pages);
                // Nor was anything looked at behind what is lost.
                if let Content::Pages { refs, .. } = content {
                    self.known.distrust(refs.iter().map(|(id, _)| id.short()));
                }
                return Ok(None);
            }
            other => other?,
        }
        match search.missing {
            None => self.last_known = search.last,
            Some(Ok(())) => return Ok(None),
            Some(Err(error)) => return Err(error),
        }
        Ok(content.covered())
    }
}

/// Whether an error means that something stored cannot be had, now or ever, so that it is to be stored
/// anew; as opposed to a store that fails.
pub(super) fn is_lost(error: &Error) -> bool {
    use ErrorKind::{Damaged, NotFound, Unsupported, WrongKey};
    matches!(error.kind, Damaged | NotFound | Unsupported | WrongKey)
}

/// Pages that the index has and that could not be read are the same pages when they are made anew: they
/// are stored then, or the new snapshot would lack what the old one lacks.
pub(super) fn distrust_lost(known: &Known, pages: &PageStore) {
    known.distrust(pages.take_lost().iter().map(Id::short));
}

/// Looks for what the index does not have.
struct Search<'a> {
    known: &'a Known,
    /// The last id that was found: consecutive small files share chunks.
    last: Option<Id>,
    missing: Option<Result<()>>,
}

impl Search<'_> {
    fn look(&mut self, id: &Id) {
        if self.missing.is_none() {
            match self.known.has(&id.short()) {
                Ok(true) => {}
                Ok(false) => self.missing = Some(Ok(())),
                Err(error) => self.missing = Some(Err(error)),
            }
        }
    }
}

impl Visitor for Search<'_> {
    fn page(&mut self, id: &Id) -> bool {
        self.look(id);
        self.missing.is_none()
    }

    fn chunk(&mut self, id: &Id) {
        if self.last != Some(*id) {
            self.look(id);
            self.last = Some(*id);
        }
    }
}

/// Notes pages and chunks for the new snapshot.
struct Noting<'a> {
    refs: &'a Refs,
    result: Result<()>,
}

impl Noting<'_> {
    fn note(&mut self, id: &Id) {
        if self.result.is_ok() {
            self.result = self.refs.insert(id.short());
        }
    }
}

impl Visitor for Noting<'_> {
    fn page(&mut self, id: &Id) -> bool {
        if self.result.is_ok() {
            self.result = self.refs.insert_page(id.short());
        }
        self.result.is_ok()
    }

    fn chunk(&mut self, id: &Id) {
        self.note(id);
    }
}
