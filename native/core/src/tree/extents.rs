//! Reads the content of a file: its extents in order, pages of extents as they are reached.

use std::collections::VecDeque;

use super::node::{Content, Extent};
use super::page::{parse_extent_inner, parse_extents};
use super::{PageSource, get_page, get_pages};
use crate::format::Id;
use crate::{Error, Result};

/// The most extent pages in one request, unless told otherwise: 2 MiB of them.
const READ_AHEAD: usize = 16;

/// The extents of a file with their offsets. Holds one list of pages for each level, and the extent pages of
/// one request, up to 16. The first error ends the iteration.
pub struct ExtentIter<S> {
    source: S,
    /// Lists of pages that are yet to be read, the topmost first; level of those in the last list.
    lists: Vec<VecDeque<(Id, u64)>>,
    level: u8,
    ahead: VecDeque<Vec<u8>>,
    extents: std::vec::IntoIter<Extent>,
    /// Where the next extent starts, and where the current page must end.
    offset: u64,
    page_end: u64,
    start: u64,
    read_ahead: usize,
    is_done: bool,
}

impl<S: PageSource> ExtentIter<S> {
    /// Iterates from the extent that holds byte `start` of the file; pages before it are not read.
    pub fn new(source: S, content: &Content, start: u64) -> Self {
        let mut iter = Self {
            source,
            lists: Vec::new(),
            level: 0,
            ahead: VecDeque::new(),
            extents: Vec::new().into_iter(),
            offset: 0,
            page_end: u64::MAX,
            start,
            read_ahead: READ_AHEAD,
            is_done: false,
        };
        match content {
            Content::Inline(extents) => iter.extents = extents.clone().into_iter(),
            Content::Pages { level, refs } => {
                iter.level = level.saturating_sub(1);
                iter.push_list(refs.iter().copied().collect());
            }
        }
        iter
    }

    /// Changes how many extent pages one request brings at most.
    #[must_use]
    pub fn read_ahead(mut self, pages: usize) -> Self {
        self.read_ahead = pages.max(1);
        self
    }

    fn push_list(&mut self, mut refs: VecDeque<(Id, u64)>) {
        while let Some((_, covered)) = refs.front()
            && self.offset.saturating_add(*covered) <= self.start
        {
            self.offset += covered;
            refs.pop_front();
        }
        self.lists.push(refs);
    }

    /// Makes the next extent page current; false at the end.
    fn next_page(&mut self) -> Result<bool> {
        loop {
            let Some(list) = self.lists.last_mut() else {
                return Ok(false);
            };
            if self.level == 0 && self.ahead.is_empty() {
                let ids: Vec<Id> = list.iter().take(self.read_ahead).map(|(id, _)| *id).collect();
                if !ids.is_empty() {
                    self.ahead = get_pages(&self.source, &ids)?.into();
                }
            }
            let Some((id, covered)) = list.pop_front() else {
                self.lists.pop();
                self.level = self.level.saturating_add(1);
                continue;
            };
            let damaged = || Error::damaged(format!("extent page {id} covers another length"));
            let end = self.offset.checked_add(covered).ok_or_else(damaged)?;
            if self.level == 0 {
                let Some(page) = self.ahead.pop_front() else {
                    return Err(Error::internal("extent page was not read"));
                };
                let extents = parse_extents(&page)?;
                if total(extents.iter().map(|extent| extent.length)) != Some(covered) {
                    return Err(damaged());
                }
                self.extents = extents.into_iter();
                self.page_end = end;
                return Ok(true);
            }
            let refs = parse_extent_inner(&get_page(&self.source, id)?, self.level)?;
            if total(refs.iter().map(|(_, bytes)| *bytes)) != Some(covered) {
                return Err(damaged());
            }
            self.level -= 1;
            self.push_list(refs.into());
        }
    }

    fn advance(&mut self) -> Result<Option<(u64, Extent)>> {
        loop {
            for extent in self.extents.by_ref() {
                let offset = self.offset;
                let Some(end) =
                    offset.checked_add(extent.length).filter(|end| *end <= self.page_end)
                else {
                    return Err(Error::damaged("content of more bytes than its file"));
                };
                self.offset = end;
                if end > self.start {
                    return Ok(Some((offset, extent)));
                }
            }
            if !self.next_page()? {
                return Ok(None);
            }
        }
    }
}

fn total(mut lengths: impl Iterator<Item = u64>) -> Option<u64> {
    lengths.try_fold(0_u64, u64::checked_add)
}

impl<S: PageSource> Iterator for ExtentIter<S> {
    /// Offset in the file, and the extent.
    type Item = Result<(u64, Extent)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let next = self.advance().transpose();
        self.is_done = !matches!(next, Some(Ok(_)));
        next
    }
}
