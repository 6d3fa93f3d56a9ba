//! Comparison with earlier trees: what an interrupted run left, and the parent. An entry that is as
//! it was, and whose content the repository still has, is taken over without being read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use hashbrown::HashSet;

use super::carry::{Carrier, distrust_lost, is_lost};
use super::chunks::Known;
use super::clones::Evidence;
use super::entries::{kind_of, time};
use super::metadata::Refs;
use super::problems::Problems;
use super::progress::Change;
use super::recheck::{Recheck, Sampler};
use super::repack;
use crate::error::{Error, ErrorKind, Result};
use crate::format::ShortId;
use crate::fs::{FileKind, Stat, Timestamp};
use crate::pages::PageStore;
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

impl CompareRules {
    /// Without what is different throughout in a clone.
    fn without(self, clone: &Evidence) -> Self {
        Self {
            ignore_ctime: self.ignore_ctime || clone.ignores_ctime(),
            ignore_inode: self.ignore_inode || clone.ignores_inode(),
            ..self
        }
    }
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
    Read { change: Change, resume: Option<(Content, u64)>, before: Option<Box<Before>> },
    /// As it was, a large file; these pieces were drawn to be compared.
    Recheck(Recheck, Box<Before>),
}

/// The content that an earlier tree has of a file, all of it still stored.
#[derive(Clone, Debug)]
pub(super) struct Before {
    /// Of small files: where what is read has the same, it is not stored again.
    pub(super) digest: Option<[u8; 16]>,
    pub(super) content: Content,
    pub(super) why: Why,
}

impl Before {
    /// How the file compares if its content is the same.
    pub(super) fn change(&self) -> Change {
        if self.why == Why::Changed { Change::Changed } else { Change::None }
    }

    /// Whether the content counts as the file's as long as nothing else is known.
    pub(super) fn is_trusted(&self) -> bool {
        matches!(self.why, Why::Drawn | Why::Attributes | Why::Repacked)
    }

    /// Whether a content that is not the same has changed without a trace.
    pub(super) fn is_unseen(&self) -> bool {
        matches!(self.why, Why::Drawn | Why::Repacked)
    }
}

/// Why a file is opened though an earlier tree has its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It is not as it was.
    Changed,
    /// It may have changed unseen.
    InDoubt,
    /// It is as it was, and was drawn to be compared.
    Drawn,
    /// It is as it was, but for its attributes.
    Attributes,
    /// It is as it was, and is stored again because its chunk is mostly unused.
    Repacked,
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
    pub(super) rules: CompareRules,
    /// Asked in this order.
    pub(super) earlier: Vec<Earlier>,
    problems: &'a Problems,
    sampler: Sampler,
    /// Set by readers who found a file changed that seemed unchanged.
    is_doubted: &'a AtomicBool,
    /// Files in these are stored again.
    pub(super) idle: HashSet<ShortId>,
    /// What is ignored because the source seems to be a clone.
    clone: Option<Evidence>,
    /// It was said that a revocation makes files be read again.
    is_revocation_told: bool,
    carrier: Carrier<'a>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(
        known: &'a Known,
        refs: &'a Refs,
        rules: CompareRules,
        earlier: Vec<Earlier>,
        problems: &'a Problems,
        (sampler, is_doubted): (Sampler, &'a AtomicBool),
    ) -> Self {
        Self {
            known,

            rules,
            earlier,
            problems,
            sampler,
            is_doubted,
            idle: HashSet::new(),
            clone: None,
            is_revocation_told: false,
            carrier: Carrier::new(known, refs),
        }
    }

    /// The source seems to be a clone: ignores what is different throughout, until a file is found that
    /// changed all the same.
    pub(super) fn trust_clone(&mut self, evidence: Evidence) -> Result<()> {
        let Evidence { compared, other_ctime, other_inode, .. } = evidence;
        self.clone = Some(evidence);
        let what = format!(
            "the source seems to be a clone of what the parent saw: of {compared} files with the same size \
             and mtime {other_ctime} have another ctime and {other_inode} another inode; files are compared \
             without what is different throughout. hint: `--clones never` reads them all"
        );
        self.problems.note(&Error::new(ErrorKind::Io, what))
    }

    /// The rules that hold now.
    fn rules(&self) -> CompareRules {
        match self.clone.filter(|_| !self.is_doubted.load(Relaxed)) {
            Some(clone) => self.rules.without(&clone),
            None => self.rules,
        }
    }

    /// Decides about one entry. Keys come in order. Tells people what they must know.
    pub(super) fn judge(&mut self, key: &[u8], stat: &Stat) -> Result<Verdict> {
        let (mut change, rules) = (Change::New, self.rules());
        let (mut resume, mut before) = (None, None);
        for number in 0..self.earlier.len() {
            let Some(found) = self.find(number, key)? else { continue };
            change = Change::Changed;
            let Some(earlier) = self.earlier.get(number) else { continue };
            let likeness = compare(&found, stat, rules, earlier.started_ns);
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
                return Ok(self.draw(number, found, stat));
            }
            let what = "stored content is missing or damaged; the file is read again";
            let path = crate::fs::display_path(&super::dispatch::path_of(key));
            self.lost(&Error::damaged(what).at(path))?;
        }
        Ok(Verdict::Read { change, resume, before })
    }

    /// An unchanged entry is taken over, or drawn to be compared.
    fn draw(&mut self, number: usize, found: Node, stat: &Stat) -> Verdict {
        let Body::File { size, content } = &found.body else {
            return Verdict::Same(Box::new(found));
        };
        let before = |why| Box::new(Before { digest: found.digest, content: content.clone(), why });
        let is_idle = repack::is_in(&self.idle, &found);
        if is_idle || found.digest.is_some() && self.sampler.draws() {
            let before = Some(before(if is_idle { Why::Repacked } else { Why::Drawn }));
            return Verdict::Read { change: Change::Changed, resume: None, before };
        }
        if found.digest.is_none()
            && let Some(earlier) = self.earlier.get(number)
        {
            let windows = self.sampler.windows(*size);
            if !windows.is_empty() {
                let (content, pages) = (content.clone(), Arc::clone(&earlier.pages));
                return Verdict::Recheck(Recheck { content, pages, windows }, before(Why::Drawn));
            }
        }
        if found.ctime == time(stat.ctime) {
            return Verdict::Same(Box::new(found));
        }
        let before = Some(before(Why::Attributes));
        Verdict::Read { change: Change::None, resume: None, before }
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
        if !self.known.index().lacks_revoked() {
            return self.problems.lost(error);
        }
        if std::mem::replace(&mut self.is_revocation_told, true) {
            return Ok(());
        }
        let what = "earlier backups were made with a key that was revoked since: what they stored is not \
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
    ) -> Result<Option<Box<Before>>> {
        let (Body::File { size, content }, Some(digest)) = (&node.body, node.digest) else {
            return Ok(None);
        };
        let is_whole = !node.unstable && !node.unreadable && !node.partial;
        let is_inline = matches!(content, Content::Inline(_));
        if !is_whole || *size != stat.size || !is_inline || repack::is_in(&self.idle, node) {
            return Ok(None);
        }
        let is_stored = self.is_stored(number, content)?.is_some();
        let why = if likeness == Likeness::InDoubt { Why::InDoubt } else { Why::Changed };
        let before = Before { digest: Some(digest), content: content.clone(), why };
        Ok(is_stored.then(|| Box::new(before)))
    }

    /// Whether the repository still has all that a node needs. What it names through pages is then
    /// noted for the snapshot; inline extents are when the node arrives.
    fn is_carried(&mut self, number: usize, node: &Node) -> Result<bool> {
        let Body::File { content, .. } = &node.body else { return Ok(true) };
        let Some(earlier) = self.earlier.get(number) else { return Ok(false) };
        self.carrier.is_carried(&earlier.pages, content)
    }

    /// How many bytes the content covers, if every chunk and page of it is in the index.
    fn is_stored(&mut self, number: usize, content: &Content) -> Result<Option<u64>> {
        let Some(earlier) = self.earlier.get(number) else { return Ok(None) };
        self.carrier.is_stored(&earlier.pages, content)
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
    // Of everything but files the attributes are all there is to read.
    let is_same_ctime = node.ctime == ctime || rules.ignore_ctime && stat.kind == FileKind::File;
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
