//! Which paths of a snapshot match a pattern.

use serde::{Deserialize, Serialize};

use super::passing::Passing;
use super::{LookOptions, NodeRow, Rows, TreeOptions, kind_name, path_of};
use crate::error::{Error, ErrorKind, Result};
use crate::globs::Globs;
use crate::scope::Scope;

/// Options of `find`.
#[derive(Clone, Debug, Deserialize)]
pub struct FindOptions {
    /// What every verb is given.
    #[serde(flatten)]
    pub look: LookOptions,
    /// The tree.
    #[serde(flatten)]
    pub tree: TreeOptions,
    /// Globs over whole paths; see [`Globs`]. A path is found when any of them matches.
    pub patterns: Vec<String>,
    /// Only these kinds, by the names that rows have; all when empty.
    #[serde(default)]
    pub kinds: Vec<String>,
    /// Repeated in each row.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// Extended attributes too.
    #[serde(default)]
    pub long: bool,
}

/// What `find` ends with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FindResult {
    /// Rows that were given out.
    pub matches: u64,
    /// Nodes that were looked at.
    pub nodes: u64,
}

/// Gives a row for each node whose path matches, in the order of paths. Reads the whole tree, a few
/// pages at a time. `Usage` for a pattern or kind that makes no sense. Where a page cannot be read the rest is
/// searched, and the error comes last.
pub fn find(scope: &Scope, options: &FindOptions) -> Result<FindResult> {
    let globs = Globs::new(&options.patterns)?;
    if let Some(kind) = options.kinds.iter().find(|kind| !is_kind(kind)) {
        return Err(Error::new(ErrorKind::Usage, "no such kind of node").at(kind.clone()));
    }
    let index = options.look.load_index(scope)?;
    let reader = options.tree.reader(scope, &index)?;
    let mut rows = Rows::new(scope);
    let mut result = FindResult::default();
    let mut reading = Passing::new(reader.nodes());
    while let Some(node) = reading.next_node()? {
        result.nodes += 1;
        let kind = kind_name(node.kind());
        if (options.kinds.is_empty() || options.kinds.iter().any(|wanted| wanted == kind))
            && globs.matches(&path_of(&node.key))
        {
            result.matches += 1;
            let row = NodeRow::new(&node, options.long);
            rows.push(&row.of_snapshot(options.snapshot.as_deref()))?;
        }
    }
    rows.finish()?;
    reading.finish()?;
    Ok(result)
}

fn is_kind(name: &str) -> bool {
    super::KINDS.iter().any(|kind| kind_name(*kind) == name)
}
