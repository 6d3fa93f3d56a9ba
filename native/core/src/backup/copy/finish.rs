//! The end of a copy: items in order, their chunks arrived, into the tree; and checkpoints.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::losses::Losses;
use super::walk::{Item, Name, Piece};
use crate::backup::dispatch::path_of;
use crate::backup::finish::{Finished, admit, without_builder};
use crate::backup::large::resume_content;
use crate::backup::metadata::Pages;
use crate::backup::problems::Problems;
use crate::backup::progress::Change;
use crate::backup::slot::Signal;
use crate::backup::writer::Writer;
use crate::error::{Error, Result};
use crate::format::Id;
use crate::pages::PageStore;
use crate::tree::{Body, Content, ContentBuilder, Extent, ExtentKind, Node, PageKey, TreeBuilder};

/// How often a checkpoint that was asked for is looked for while nothing comes in.
const POLL: Duration = Duration::from_millis(100);

/// The builder of the tree and what it needs.
pub(super) struct Finisher<'a> {
    pub(super) writer: &'a Writer,
    pub(super) signal: &'a Arc<Signal>,
    pub(super) problems: &'a Problems,
    /// What is left out, where a snapshot is written around it.
    pub(super) losses: Option<&'a Losses>,
    pub(super) pages: Pages,
    /// For what only a checkpoint needs.
    pub(super) checkpoint_pages: Pages,
    pub(super) page_key: PageKey,
    /// Where the extent pages of an interrupted copy are.
    pub(super) resumed: Option<Arc<PageStore>>,
    /// Taken at the end.
    pub(super) builder: Option<TreeBuilder>,
    /// The file whose extents are coming.
    pub(super) file: Option<OpenFile>,
    /// Closed when all workers have ended.
    pub(super) workers: Receiver<()>,
}

/// A file under way.
pub(super) struct OpenFile {
    node: Box<Node>,
    content: ContentBuilder,
    /// Why it cannot be had whole.
    spoilt: Option<Error>,
}

impl Finisher<'_> {
    /// Takes items until there are no more. Takes the queue itself, too: whoever fills it must not wait for
    /// us once we have failed.
    #[expect(clippy::needless_pass_by_value, reason = "the queue ends with this call")]
    pub(super) fn run(mut self, windows: Receiver<Vec<Item>>) -> Result<Finished> {
        loop {
            self.checkpoint_if_asked()?;
            match windows.recv_timeout(POLL) {
                Ok(items) => {
                    for item in items {
                        self.checkpoint_if_asked()?;
                        self.take(item)?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.signal.check()?,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // A chunk that nobody waits for any more is in no pack before the worker that has it is done.
        let _ = self.workers.recv();
        self.signal.check()?;
        if self.file.is_some() {
            return Err(Error::internal("a file without its end"));
        }
        let builder = self.builder.take().ok_or_else(without_builder)?;
        if let Some(losses) = self.losses {
            losses.compare(builder.nodes())?;
        }
        self.writer.finish(builder, &mut self.pages)
    }

    fn take(&mut self, item: Item) -> Result<()> {
        match item {
            Item::Node(node, change) => self.append(&node, change),
            Item::Begin(node, prefix) => self.begin(node, prefix),
            Item::Pieces(pieces) => pieces.into_iter().try_for_each(|piece| self.piece(piece)),
            Item::Spoilt(error) => {
                self.file()?.spoilt.get_or_insert(error);
                Ok(())
            }
            Item::End => self.end(),
        }
    }

    fn file(&mut self) -> Result<&mut OpenFile> {
        self.file.as_mut().ok_or_else(|| Error::internal("extents without a file"))
    }

    fn begin(&mut self, node: Box<Node>, prefix: Option<(Content, u64)>) -> Result<()> {
        let expected = prefix.as_ref().map_or(0, |(_, bytes)| *bytes);
        let earlier = self.resumed.as_ref();
        let (content, covered) = resume_content(&self.page_key, prefix, earlier, &mut self.pages)?;
        if covered != expected {
            // It could be read a moment ago, when the walk passed by: the extents behind it are on their way.
            return Err(Error::damaged("what an interrupted copy left cannot be read any more"));
        }
        self.file = Some(OpenFile { node, content, spoilt: None });
        Ok(())
    }

    fn piece(&mut self, piece: Piece) -> Result<()> {
        let Piece { extent, name } = piece;
        let named = match (extent.kind, name) {
            (ExtentKind::Data { .. }, Name::None) => {
                return Err(Error::internal("a chunk without a name"));
            }
            (ExtentKind::Data { offset, .. }, Name::Known(id)) => {
                Extent::data(id, offset, extent.length)
            }
            (ExtentKind::Data { offset, .. }, Name::Coming(slot)) => {
                match self.wait(|| slot.get().cloned())? {
                    Ok(id) => Extent::data(id, offset, extent.length),
                    Err(error) => {
                        self.file()?.spoilt.get_or_insert(error);
                        return Ok(());
                    }
                }
            }
            (ExtentKind::Hole | ExtentKind::Zero, _) => extent,
        };
        let file = self.file.as_mut().ok_or_else(|| Error::internal("extents without a file"))?;
        if file.spoilt.is_some() {
            return Ok(());
        }
        if let ExtentKind::Data { id, .. } = named.kind {
            self.pages.note(&id)?;
        }
        file.content.push(named, &mut self.pages)
    }

    /// Waits for a chunk; checkpoints do not have to.
    fn wait(
        &mut self,
        ready: impl Fn() -> Option<std::result::Result<Id, Error>>,
    ) -> Result<std::result::Result<Id, Error>> {
        loop {
            let control = &self.writer.control;
            let is_empty = self.builder.as_ref().is_none_or(|builder| builder.nodes() == 0)
                && self.file.as_ref().is_none_or(|file| file.spoilt.is_some());
            let arrived = self.signal.wait_for(|| {
                let arrived = ready();
                let is_asked = !is_empty && control.is_checkpoint_asked();
                (arrived.is_some() || is_asked).then_some(arrived)
            })?;
            match arrived {
                Some(arrived) => return Ok(arrived),
                None => self.checkpoint_if_asked()?,
            }
        }
    }

    fn end(&mut self) -> Result<()> {
        let file = self.file.take().ok_or_else(|| Error::internal("an end without a file"))?;
        let OpenFile { mut node, content, spoilt } = file;
        if let (Some(_), Some(losses)) = (&spoilt, self.losses) {
            losses.leave_out();
            return Ok(());
        }
        let content = match spoilt {
            None => content.finish(&mut self.pages)?,
            Some(error) => {
                let path = crate::fs::display_path(&path_of(&node.key));
                let place = error.key.as_deref().map(|key| format!(" at {key}"));
                let what = format!(
                    "cannot be read in the source, and is marked so: {}{}",
                    error.what,
                    place.unwrap_or_default()
                );
                self.problems.report(&Error::new(error.kind, what).at(path))?;
                node.unreadable = true;
                Content::empty()
            }
        };
        if let Body::File { content: target, .. } = &mut node.body {
            *target = content;
        }
        self.append(&node, Change::New)
    }

    fn append(&mut self, node: &Node, change: Change) -> Result<()> {
        if admit(node, change, self.writer, self.problems)? {
            self.builder.as_mut().ok_or_else(without_builder)?.push(node, &mut self.pages)?;
        }
        Ok(())
    }

    fn checkpoint_if_asked(&mut self) -> Result<()> {
        if !self.writer.control.is_checkpoint_asked() {
            return Ok(());
        }
        let mut builder = self.builder.clone().ok_or_else(without_builder)?;
        if let Some(file) = self.file.as_ref().filter(|file| file.spoilt.is_none()) {
            let mut node = Node::clone(&file.node);
            node.partial = true;
            if let Body::File { content, .. } = &mut node.body {
                *content = file.content.so_far(&mut self.checkpoint_pages)?;
            }
            builder.push(&node, &mut self.checkpoint_pages)?;
        }
        // Still asked for when there is something to tell: who wants to stop waits for it.
        if builder.nodes() == 0 {
            return Ok(());
        }
        self.writer.control.begin_checkpoint();
        self.writer.checkpoint(builder, &mut self.checkpoint_pages)
    }
}
