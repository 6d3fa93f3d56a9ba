//! Comparison with earlier trees: what an interrupted run left, and the parent. An entry that is as
//! it was, and whose content the repository still has, is taken over without being read.

use std::sync::Arc;

use super::chunks::Known;
use super::entries::{kind_of, time};
use super::metadata::Refs;
use super::problems::Problems;
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
    /// To be read, a file perhaps from behind what an interrupted run has covered, and perhaps with a
    /// content that may turn out to be as it was.
    Read { change: Change, resume: Option<(Content, u64)>, before: Option<Before> },
}

/// What an earlier tree has of a small file that is to be read: where the bytes are the same, they are
/// not stored again.
#[derive(Clone, Debug)]
pub(super) struct Before {
    pub(super) digest: [u8; 16],
    pub(super) content: Content,
    /// How the file compares if its content is the same.
    pub(super) change: Change,
}

/// How an entry compares with a node by what the file system shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Likeness {
    Different,
    /// The same, but changed so shortly before the earlier scan that it may have changed again unseen.
    InDoubt,
    Same,
}

/// The earlier trees, and what was found out about them.
pub(super) struct Comparison<'a> {
    pub(super) known: &'a Known,
    pub(super) refs: &'a Refs,
    pub(super) rules: CompareRules,
    /// Asked in this order.
    pub(super) earlier: Vec<Earlier>,
    problems: &'a Problems,
    /// It was said that a revocation makes files be read again.
    is_revocation_told: bool,
    /// The last id that was looked up: consecutive small files share chunks.
    last_known: Option<Id>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(
        known: &'a Known,
        refs: &'a Refs,
        rules: CompareRules,
        earlier: Vec<Earlier>,
        problems: &'a Problems,
    ) -> Self {
        let (is_revocation_told, last_known) = (false, None);
        Self { known, refs, rules, earlier, problems, is_revocation_told, last_known }
    }

    /// Decides about one entry. Keys come in order. Tells people what they must know.
    pub(super) fn judge(&mut self, key: &[u8], stat: &Stat) -> Result<Verdict> {
        let mut change = Change::New;
        let (mut resume, mut before) = (None, None);
        for number in 0..self.earlier.len() {
            let Some(found) = self.find(number, key)? else { continue };
            change = Change::Changed;
            let Some(earlier) = self.earlier.get(number) else { continue };
            let likeness = compare(&found, stat, self.rules, earlier.started_ns);
            if likeness != Likeness::Same {
                if before.is_none() && !self.rules.force {
                    before = self.before(number, &found, stat, likeness)?;
                }
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
            let what = "stored content is missing or damaged; the file is read again";
            let path = crate::fs::display_path(&super::dispatch::path_of(key));
            self.lost(&Error::damaged(what).at(path))?;
        }
        Ok(Verdict::Read { change, resume, before })
    }

    /// The node that an earlier tree has here. A tree that cannot be read is told about, once, and from
    /// there on is not there to be compared with: its cursor is then at its end.
    fn find(&mut self, number: usize, key: &[u8]) -> Result<Option<Node>> {
        let Some(earlier) = self.earlier.get_mut(number) else { return Ok(None) };
        let error = match earlier.cursor.advance_to(key) {
            Ok(found) => return Ok(found.cloned()),
            Err(error) if is_lost(&error) => {
                distrust_lost(self.known, &earlier.pages);
                error
            }
            Err(error) => return Err(error),
        };
        let what = format!("the tree of an earlier backup is not usable, files are read: {error}");
        self.lost(&Error::new(error.kind, what))?;
        Ok(None)
    }

    /// Something that an earlier backup stored cannot be had. After a revocation that is as it should be,
    /// and said once.
    fn lost(&mut self, error: &Error) -> Result<()> {
        if self.known.index().revoked_count() == 0 {
            return self.problems.report(error);
        }
        if std::mem::replace(&mut self.is_revocation_told, true) {
            return Ok(());
        }
        let what = "earlier backups were made with a key that was removed since: what they stored is not \
                    built upon, and files are read again";
        self.problems.note(&Error::new(error.kind, what))
    }

    /// The content to compare with once the file has been read.
    fn before(
        &mut self,
        number: usize,
        node: &Node,
        stat: &Stat,
        likeness: Likeness,
    ) -> Result<Option<Before>> {
        let (Body::File { size, content }, Some(digest)) = (&node.body, node.digest) else {
            return Ok(None);
        };
        let is_whole = !node.unstable && !node.unreadable && !node.partial;
        if !is_whole || *size != stat.size || !matches!(content, Content::Inline(_)) {
            return Ok(None);
        }
        let is_stored = self.is_stored(number, content)?.is_some();
        let change = if likeness == Likeness::InDoubt { Change::None } else { Change::Changed };
        Ok(is_stored.then(|| Before { digest, content: content.clone(), change }))
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
            match collect_content(&*earlier.pages, content, &mut noting) {
                // Noted for nothing, in part: that only keeps it a while.
                Err(error) if is_lost(&error) => {
                    distrust_lost(self.known, &earlier.pages);
                    return Ok(false);
                }
                other => other?,
            }
            noting.result?;
        }
        Ok(true)
    }

    /// How many bytes the content covers, if every chunk and page of it is in the index.
    fn is_stored(&mut self, number: usize, content: &Content) -> Result<Option<u64>> {
        let Some(earlier) = self.earlier.get(number) else { return Ok(None) };
        let mut search = Search { known: self.known, last: self.last_known, missing: None };
        match collect_content(&*earlier.pages, content, &mut search) {
            Err(error) if is_lost(&error) => {
                distrust_lost(self.known, &earlier.pages);
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

/// Whether the file system shows the entry exactly as the earlier tree has it.
fn compare(node: &Node, stat: &Stat, rules: CompareRules, started_ns: i128) -> Likeness {
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
    let is_same = is_whole
        && is_same_kind
        && is_same_size
        && is_same_inode
        && is_same_ctime
        && node.mtime == mtime;
    match (is_same, is_racy) {
        (false, _) => Likeness::Different,
        (true, true) => Likeness::InDoubt,
        (true, false) => Likeness::Same,
    }
}

fn nanos(time: Timestamp) -> i128 {
    i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos)
}
