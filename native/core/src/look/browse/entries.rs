//! Entries of directories as commands answer them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use super::super::passing::Passing;
use super::super::{kind_name, nanoseconds};
use crate::error::{Error, ErrorKind, Result};
use crate::tree::key::{SEPARATOR, child_key, split_key, subtree_end};
use crate::tree::{Body, Content, ExtentKind, Kind, Node, PageSource, TreeReader};

/// Permissions of a directory of which only what is below it is left.
const LOST_MODE: u32 = 0o755;

/// A node as commands show it.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    /// Empty for the root.
    name_b64: String,
    kind: &'static str,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    /// Bytes that are not holes, as far as the node itself says so.
    allocated: u64,
    mtime_ns: i128,
    ctime_ns: i128,
    /// Names of one inode have the same number; nothing else in the repository has it.
    ino: u64,
    links: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_b64: Option<String>,
    /// Major and minor number.
    #[serde(skip_serializing_if = "Option::is_none")]
    rdev: Option<[u32; 2]>,
    has_xattrs: bool,
    /// Names and values.
    #[serde(skip_serializing_if = "Option::is_none")]
    xattrs_b64: Option<Vec<[String; 2]>>,
}

impl Row {
    /// `links` is how many names the inode has.
    pub(super) fn new(node: &Node, snapshot: &[u8; 16], links: u32) -> Self {
        let target = if let Body::Symlink(target) = &node.body { Some(target) } else { None };
        Self {
            name_b64: BASE64.encode(node.name()),
            kind: kind_name(node.kind()),
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            size: target.map_or(node.size(), |target| target.len() as u64),
            allocated: allocated(node),
            mtime_ns: nanoseconds(node.mtime),
            ctime_ns: nanoseconds(node.ctime),
            ino: inode(node, snapshot),
            links,
            target_b64: target.map(|target| BASE64.encode(target)),
            rdev: match node.body {
                Body::CharDevice(major, minor) | Body::BlockDevice(major, minor) => {
                    Some([major, minor])
                }
                _ => None,
            },
            has_xattrs: !node.xattrs.as_slice().is_empty(),
            xattrs_b64: None,
        }
    }

    pub(super) fn with_xattrs(mut self, node: &Node) -> Self {
        let pairs = node.xattrs.as_slice().iter();
        let encode =
            |(name, value): &(Vec<u8>, Vec<u8>)| [BASE64.encode(name), BASE64.encode(value)];
        self.xattrs_b64 = Some(pairs.map(encode).collect());
        self
    }
}

fn allocated(node: &Node) -> u64 {
    match &node.body {
        Body::File { content: Content::Inline(extents), .. } => {
            let filled = extents.iter().filter(|extent| extent.kind != ExtentKind::Hole);
            filled.fold(0, |sum: u64, extent| sum.saturating_add(extent.length))
        }
        _ => node.size(),
    }
}

/// A number of 64 bits that no other inode of any snapshot is likely to have; the same each time.
fn inode(node: &Node, snapshot: &[u8; 16]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(snapshot);
    match node.link_group {
        Some(group) => hasher.update(b"group").update(&group.to_le_bytes()),
        None => hasher.update(b"key").update(&node.key),
    };
    let mut number = [0; 8];
    hasher.finalize_xof().fill(&mut number);
    // Small numbers have a meaning in file systems.
    u64::from_le_bytes(number) | 1 << 63
}

/// The node with this key; none if there is none. Where its page is lost: with `is_final` a directory in its
/// place if something below it is left, or the error.
pub(super) fn find<S: PageSource>(
    reader: &TreeReader<S>,
    key: &[u8],
    is_final: bool,
) -> Result<Option<Node>> {
    match reader.find(key) {
        Err(error)
            if is_final && matches!(error.kind, ErrorKind::Damaged | ErrorKind::NotFound) =>
        {
            reader.lost_directory(key).map(in_place_of_lost).ok_or(error).map(Some)
        }
        other => other,
    }
}

fn in_place_of_lost(mut node: Node) -> Node {
    node.mode = LOST_MODE;
    node
}

/// A part of a directory.
pub(super) struct Part {
    /// Whether there is nothing after it.
    pub(super) is_end: bool,
    /// What could not be read in it, if anything.
    pub(super) lost: Option<Error>,
}

/// Calls `row` for up to `count` entries of a directory, in the order of their names, from that after
/// `after` on. Behind pages that cannot be read it goes on, and says so in the end; a directory of which only
/// what is below it is left is shown as one.
pub(super) fn list<S: PageSource>(
    reader: &TreeReader<S>,
    key: &[u8],
    (after, count): (Option<&[u8]>, usize),
    mut row: impl FnMut(&Node) -> Result<()>,
) -> Result<Part> {
    let mut nodes = reader.subtree(key);
    if let Some(end) = after.and_then(|name| subtree_end(&child_key(key, name))) {
        nodes = nodes.straight_on();
        nodes.seek(&end);
    }
    let mut reading = Passing::new(nodes);
    let (mut shown, mut is_end) = (0, true);
    while let Some(node) = reading.next_node()? {
        let Some(child) = child_of(key, &node.key) else { continue };
        if shown == count {
            is_end = false;
            break;
        }
        shown += 1;
        if child.len() == node.key.len() {
            row(&node)?;
        } else {
            row(&in_place_of_lost(Node::new(child.to_vec(), Body::Directory)))?;
        }
        if (node.kind() == Kind::Directory || child.len() < node.key.len())
            && let Some(end) = subtree_end(child)
        {
            reading.nodes.seek(&end);
        }
    }
    Ok(Part { is_end, lost: reading.finish().err() })
}

/// The part of `below` that is the key of an entry of the directory `key`.
fn child_of<'a>(key: &[u8], below: &'a [u8]) -> Option<&'a [u8]> {
    let start = if key.is_empty() { 0 } else { key.len() + 1 };
    let rest = below.get(start..).filter(|rest| !rest.is_empty())?;
    let length = rest.iter().position(|byte| *byte == SEPARATOR).unwrap_or(rest.len());
    let child = below.get(..start + length)?;
    split_key(child).is_some_and(|(parent, _)| parent == key).then_some(child)
}
