//! Which snapshots and files suffer from what is lost.

use hashbrown::{HashMap, HashSet};

use super::runs::{LoadedIndex, Lost};
use super::walk::{NumberSet, PageFacts, Reach, Role};
use super::{CheckSnapshot, Context, Finding, Severity, Tree, fault_or_end};
use crate::error::Result;
use crate::format::Id;
use crate::pages::PageStore;
use crate::tree::node_page::NodePage;
use crate::tree::{Body, Content, ExtentKind, PageSource};

/// So many files are named for each chunk that is lost.
const FILES_MAX: u32 = 100;
/// How many pages one request brings at most.
const BATCH: usize = 32;

/// Says of each snapshot that reaches something lost how much that is, and names the files. Reads
/// only pages that lead to something lost, and those once.
pub(super) fn report_files(
    context: &Context<'_>,
    loaded: &LoadedIndex,
    trees: &[Tree],
    reach: &Reach,
    lost: &Lost,
) -> Result<()> {
    let bad_pages: Vec<u32> =
        reach.pages().filter(|(_, facts)| facts.is_bad).map(|(number, _)| number).collect();
    if lost.numbers.len() == 0 && bad_pages.is_empty() {
        return Ok(());
    }
    let mut search = Search {
        context,
        reach,
        lost,
        leading: leading_pages(reach, &lost.numbers),
        visited: NumberSet::new(reach.count()),
        named: HashMap::new(),
    };
    for (snapshot, tree) in context.options.snapshots.iter().zip(trees) {
        let Some(root) = tree.root else { continue };
        let below = reach.below(root);
        let pages = bad_pages.iter().filter(|page| below.contains(**page)).count();
        let chunks = (0..u32::try_from(reach.count()).unwrap_or(u32::MAX))
            .filter(|number| lost.numbers.contains(*number) && below.contains(*number))
            .count();
        if pages + chunks > 0 {
            let detail = format!("{chunks} chunks and {pages} pages of this snapshot are lost");
            let finding = Finding::error("snapshot-damaged", detail).of(&snapshot.snapshot);
            context.findings.report(&finding)?;
        }
        if chunks > 0 {
            let pages = snapshot.tree.pages(context.scope, &loaded.index)?;
            search.run(snapshot, &pages, root)?;
        }
    }
    search.report_cut()
}

/// The pages that lead to a lost chunk.
fn leading_pages(reach: &Reach, lost: &NumberSet) -> NumberSet {
    let mut pages: Vec<(Role, u32)> =
        reach.pages().map(|(number, facts)| (facts.role, number)).collect();
    // A page only names pages whose role comes before its own.
    pages.sort_unstable();
    let mut leading = NumberSet::new(reach.count());
    for (_, number) in pages {
        let names = reach.page(number).map(|facts| &*facts.names).unwrap_or_default();
        if names.iter().any(|name| lost.contains(*name) || leading.contains(*name)) {
            leading.insert(number);
        }
    }
    leading
}

struct Search<'a> {
    context: &'a Context<'a>,
    reach: &'a Reach,
    lost: &'a Lost,
    leading: NumberSet,
    visited: NumberSet,
    /// How many files were found for each chunk.
    named: HashMap<u32, u32>,
}

impl Search<'_> {
    fn run(&mut self, snapshot: &CheckSnapshot, pages: &PageStore, root: u32) -> Result<()> {
        let mut pending = vec![root];
        let mut leaves = Vec::new();
        while let Some(number) = pending.pop() {
            if !self.leading.contains(number) || !self.visited.insert(number) {
                continue;
            }
            match self.reach.page(number) {
                Some(PageFacts { role: Role::Nodes(0), id, is_bad: false, .. }) => leaves.push(*id),
                Some(facts @ PageFacts { role: Role::Nodes(_), .. }) => {
                    pending.extend(facts.names.iter().rev());
                }
                _ => {}
            }
        }
        for batch in leaves.chunks(BATCH) {
            // They could be read a moment ago; if not now, what is lost was reported anyway.
            let Ok(raws) = fault_or_end(pages.get_pages(batch))? else { continue };
            for raw in raws {
                self.leaf(snapshot, &raw)?;
            }
        }
        Ok(())
    }

    fn leaf(&mut self, snapshot: &CheckSnapshot, raw: &[u8]) -> Result<()> {
        for node in NodePage::parse(raw)? {
            let node = node?;
            let Body::File { content, .. } = &node.body else { continue };
            for chunk in self.lost_of(content) {
                let named = self.named.entry(chunk).or_default();
                *named = named.saturating_add(1);
                if *named > FILES_MAX {
                    continue;
                }
                let finding = Finding::error("file-damaged", "a chunk of this file is lost");
                let finding = finding.on(self.name(chunk)).of(&snapshot.snapshot);
                self.context.findings.report(&finding.at_key(&node.key))?;
            }
        }
        Ok(())
    }

    fn lost_of(&self, content: &Content) -> Vec<u32> {
        let find = |id: &Id| self.reach.find(&id.short());
        let mut lost = HashSet::new();
        match content {
            Content::Inline(extents) => {
                let ids = extents.iter().filter_map(|extent| match &extent.kind {
                    ExtentKind::Data { id, .. } => find(id),
                    _ => None,
                });
                lost.extend(ids.filter(|number| self.lost.numbers.contains(*number)));
            }
            Content::Pages { refs, .. } => {
                let mut pending: Vec<u32> = refs.iter().filter_map(|(id, _)| find(id)).collect();
                while let Some(number) = pending.pop() {
                    if self.lost.numbers.contains(number) {
                        lost.insert(number);
                    } else if self.leading.contains(number)
                        && let Some(facts) = self.reach.page(number)
                    {
                        pending.extend_from_slice(&facts.names);
                    }
                }
            }
        }
        let mut lost: Vec<u32> = lost.into_iter().collect();
        lost.sort_unstable();
        lost
    }

    fn name(&self, chunk: u32) -> String {
        self.lost.ids.get(&chunk).map_or_else(String::new, |id| format!("chunk {id}"))
    }

    fn report_cut(&self) -> Result<()> {
        for (chunk, named) in self.named.iter().filter(|(_, named)| **named > FILES_MAX) {
            let detail = format!("{} more files have this lost chunk", named - FILES_MAX);
            let finding = Finding::new(Severity::Info, "files-not-named", detail);
            self.context.findings.report(&finding.on(self.name(*chunk)))?;
        }
        Ok(())
    }
}
