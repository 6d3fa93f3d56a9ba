//! Comparison with earlier trees: what an interrupted run left, and the parent. An entry that is as
//! it was, and whose content the repository still has, is taken over without being read.

use std::sync::Arc;

use super::chunks::Known;
use super::entries::{kind_of, time};
use super::metadata::Refs;
use super::progress::Change;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Id;
use crate::fs::{FileKind, Stat, Timestamp};
use crate::pages::PageStore;
use crate::tree::collect::{Visitor, collect_content};
use crate::tree::{Body, Content, Cursor, Node};

/// A file whose times are younger than this before the parent's scan may have changed since without
/// showing it, because clocks tick coarsely: it is read again. Two seconds, as FAT counts.
const RACY_NANOS: i128 = 2_000_000_000;

/// How to decide that a file is unchanged.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CompareRules {
    pub(super) ignore_ctime: bool,
    pub(super) ignore_inode: bool,
    /// Read everything.
    pub(super) force: bool,
}

/// An earlier tree to compare with.
pub(super) struct Earlier {
    pub(super) pages: Arc<PageStore>,
    pub(super) cursor: Cursor<Arc<PageStore>>,
    pub(super) started_ns: i128,
}

/// What comes of comparing an entry.
pub(super) enum Verdict {
    /// As it was: take this node over.
    Same(Box<Node>),
    /// To be read, a file perhaps from behind what an interrupted run has covered.
    Read { change: Change, resume: Option<(Content, u64)> },
}

/// The earlier trees, and what was found out about them.
pub(super) struct Comparison<'a> {
    pub(super) known: &'a Known,
    pub(super) refs: &'a Refs,
    pub(super) rules: CompareRules,
    /// Asked in this order.
    pub(super) earlier: Vec<Earlier>,
    /// The last id that was looked up: consecutive small files share chunks.
    last_known: Option<Id>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(
        known: &'a Known,
        refs: &'a Refs,
        rules: CompareRules,
        earlier: Vec<Earlier>,
    ) -> Self {
        Self { known, refs, rules, earlier, last_known: None }
    }

    /// Decides about one entry. Keys come in order. `lost` takes what people must be told.
    pub(super) fn judge(
        &mut self,
        key: &[u8],
        stat: &Stat,
        lost: &mut Vec<Error>,
    ) -> Result<Verdict> {
        let mut change = Change::New;
        let mut resume = None;
        for number in 0..self.earlier.len() {
            let Some(found) = self.find(number, key, lost)? else { continue };
            change = Change::Changed;
            let Some(earlier) = self.earlier.get(number) else { continue };
            if !is_unchanged(&found, stat, self.rules, earlier.started_ns) {
                continue;
            }
            if found.partial {
                if let Body::File { content, .. } = &found.body
                    && let Some(bytes) = self.is_stored(number, content)?
                {
                    resume = Some((content.clone(), bytes));
                }
                continue;
            }
            if self.is_carried(number, &found)? {
                return Ok(Verdict::Same(Box::new(found)));
            }
            let what = "stored content is missing from the index; the file is read again";
            let path = crate::fs::display_path(&super::dispatch::path_of(key));
            lost.push(Error::damaged(what).at(path));
        }
        Ok(Verdict::Read { change, resume })
    }

    /// The node that an earlier tree has here. A tree that cannot be read is told about, once, and from
    /// there on is not there to be compared with: its cursor is then at its end.
    fn find(&mut self, number: usize, key: &[u8], lost: &mut Vec<Error>) -> Result<Option<Node>> {
        let Some(earlier) = self.earlier.get_mut(number) else { return Ok(None) };
        match earlier.cursor.advance_to(key) {
            Ok(found) => Ok(found.cloned()),
            Err(error) if matches!(error.kind, ErrorKind::Damaged | ErrorKind::NotFound) => {
                lost.push(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the repository still has all that a node needs. What it names through pages is then
    /// noted for the snapshot; inline extents are when the node arrives.
    fn is_carried(&mut self, number: usize, node: &Node) -> Result<bool> {
        let Body::File { content, .. } = &node.body else { return Ok(true) };
        if self.is_stored(number, content)?.is_none() {
            return Ok(false);
        }
        if let (Content::Pages { .. }, Some(earlier)) = (content, self.earlier.get(number)) {
            let mut noting = Noting { refs: self.refs, result: Ok(()) };
            collect_content(&*earlier.pages, content, &mut noting)?;
            noting.result?;
        }
        Ok(true)
    }

    /// How many bytes the content covers, if every chunk and page of it is in the index.
    fn is_stored(&mut self, number: usize, content: &Content) -> Result<Option<u64>> {
        let Some(earlier) = self.earlier.get(number) else { return Ok(None) };
        let mut search = Search { known: self.known, last: self.last_known, missing: None };
        match collect_content(&*earlier.pages, content, &mut search) {
            Err(error) if matches!(error.kind, ErrorKind::Damaged | ErrorKind::NotFound) => {
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

/// Whether the file system shows the entry exactly as the earlier tree has it.
fn is_unchanged(node: &Node, stat: &Stat, rules: CompareRules, started_ns: i128) -> bool {
    let is_whole = !node.unstable && !node.unreadable;
    let (mtime, ctime) = (time(stat.mtime), time(stat.ctime));
    let is_same_kind = node.kind() == kind_of(stat.kind);
    let is_same_size = match &node.body {
        Body::File { size, .. } => !rules.force && *size == stat.size,
        Body::CharDevice(major, minor) | Body::BlockDevice(major, minor) => {
            (*major, *minor) == stat.rdev
        }
        _ => true,
    };
    let is_racy = nanos(stat.mtime) > started_ns - RACY_NANOS
        || (!rules.ignore_ctime && nanos(stat.ctime) > started_ns - RACY_NANOS);
    let is_same_inode = rules.ignore_inode || node.ino == stat.ino;
    let is_same_ctime = if rules.ignore_ctime {
        (node.mode, node.uid, node.gid) == (stat.mode, stat.uid, stat.gid)
            || stat.kind == FileKind::File
    } else {
        node.ctime == ctime
    };
    is_whole
        && is_same_kind
        && is_same_size
        && is_same_inode
        && is_same_ctime
        && node.mtime == mtime
        && !is_racy
}

fn nanos(time: Timestamp) -> i128 {
    i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos)
}
