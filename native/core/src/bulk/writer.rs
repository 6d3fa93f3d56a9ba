//! New packs made of blobs that are sealed already, and the runs that list them.

use hashbrown::HashMap;

use super::put::{put_run, run_entries_max};
use super::repack::{RepackOptions, Repacked};
use crate::crypto::{Action, ObjectBuilder};
use crate::error::{Error, Result};
use crate::format::pack::{
    ENVELOPE_BYTES, Envelope, FOOTER_BYTES, PACK_ENTRIES_MAX, PACK_ENVELOPES_MAX, PackDirectory,
    PackEntry, PackKind, PackLayout,
};
use crate::format::run::RunBuilder;
use crate::format::{Id, SIGNATURE_BYTES};
use crate::index::{PackName, pack_key, pack_type};
use crate::scope::{Scope, hex16};

/// The longest pack that is made, in bytes: a blob more still fits the format.
const PACK_BYTES_MAX: u64 = 512 << 20;

struct OpenPack {
    name: PackName,
    builder: ObjectBuilder,
    directory: PackDirectory,
    /// Which envelope stands where.
    envelopes: HashMap<Envelope, u16>,
}

/// Writes packs, one of each kind at a time.
pub(crate) struct PackWriter<'a> {
    scope: &'a Scope,
    generation: u64,
    pack_bytes: u64,
    entries_max: usize,
    data: Option<OpenPack>,
    meta: Option<OpenPack>,
    /// Lists packs that were handed to the store.
    run: RunBuilder,
    done: Repacked,
}

impl<'a> PackWriter<'a> {
    pub(crate) fn new(scope: &'a Scope, options: &RepackOptions) -> Self {
        // One of each kind in the making, and one on its way to the store.
        let most = (options.bulk.memory_bytes / 6).min(PACK_BYTES_MAX);
        Self {
            scope,
            generation: options.generation,
            pack_bytes: options.pack_bytes.min(most),
            entries_max: run_entries_max(options.bulk.memory_bytes / 8),
            data: None,
            meta: None,
            run: RunBuilder::new(),
            done: Repacked::default(),
        }
    }

    /// Adds a blob as it was sealed.
    pub(crate) fn add(
        &mut self,
        kind: PackKind,
        id: Id,
        envelope: &Envelope,
        sealed: &[u8],
    ) -> Result<()> {
        let pack_bytes = self.pack_bytes;
        let slot = match kind {
            PackKind::Data => &mut self.data,
            PackKind::Metadata => &mut self.meta,
        };
        if slot.is_none() {
            *slot = Some(OpenPack::new(kind)?);
        }
        let pack = slot.as_mut().ok_or_else(|| Error::internal("no open pack"))?;
        pack.add(id, envelope, sealed)?;
        self.done.moved += 1;
        self.done.moved_bytes += sealed.len() as u64;
        let full = if pack.is_full(pack_bytes) { slot.take() } else { None };
        full.map_or(Ok(()), |pack| self.store(pack))
    }

    fn store(&mut self, pack: OpenPack) -> Result<()> {
        let OpenPack { name, mut builder, directory, .. } = pack;
        let blob_bytes = builder.plaintext_len() as u64;
        let (envelopes, entries) = (directory.envelopes.len(), directory.entries.len());
        let layout = PackLayout::plan(blob_bytes, envelopes, entries)?;
        builder.extend_zeros(usize::try_from(layout.padding_bytes).unwrap_or_default());
        let listing = directory.encode()?;
        let object = pack_key(directory.kind, &name);
        let kind = pack_type(directory.kind);
        builder.extend(&listing);
        builder.extend(&self.scope.keys.sign_block(kind, &object, Action::Replace, &listing)?);
        builder.extend(&layout.footer.encode());
        self.scope.broker.wait_puts()?;
        let sealed = builder.finish(self.scope.keys.objects(), kind, &object)?;
        let object_bytes = u32::try_from(sealed.len())
            .map_err(|_| Error::internal("a pack of more than 4 GiB"))?;
        self.scope.broker.put(self.scope.key(&object), sealed, Box::new(|_| ()))?;
        self.run.add_directory(name, object_bytes, &directory)?;
        self.done.packs.push(hex16(&name));
        if self.run.len() >= self.entries_max { self.store_run() } else { Ok(()) }
    }

    /// Waits until every pack that the run lists is durable, and writes it.
    fn store_run(&mut self) -> Result<()> {
        self.scope.broker.wait_puts()?;
        let run = std::mem::take(&mut self.run);
        self.done.runs.extend(put_run(self.scope, run, self.generation, None)?);
        Ok(())
    }

    /// Stores what is left.
    pub(crate) fn finish(mut self) -> Result<Repacked> {
        for pack in [self.data.take(), self.meta.take()].into_iter().flatten() {
            self.store(pack)?;
        }
        self.store_run()?;
        self.scope.broker.wait_puts()?;
        Ok(self.done)
    }
}

impl OpenPack {
    fn new(kind: PackKind) -> Result<Self> {
        let mut name = PackName::default();
        crate::random(&mut name)?;
        let directory = PackDirectory { kind, envelopes: Vec::new(), entries: Vec::new() };
        let builder = ObjectBuilder::with_capacity(0);
        Ok(Self { name, builder, directory, envelopes: HashMap::new() })
    }

    fn add(&mut self, id: Id, envelope: &Envelope, sealed: &[u8]) -> Result<()> {
        let too_long = |_| Error::internal("pack of more than 4 GiB");
        let position = if let Some(position) = self.envelopes.get(envelope) {
            *position
        } else {
            let position = u16::try_from(self.directory.envelopes.len());
            let position = position.map_err(|_| Error::internal("pack of too many envelopes"))?;
            self.directory.envelopes.push(*envelope);
            self.envelopes.insert(*envelope, position);
            position
        };
        self.directory.entries.push(PackEntry {
            id,
            offset: u32::try_from(self.builder.plaintext_len()).map_err(too_long)?,
            length: u32::try_from(sealed.len()).map_err(too_long)?,
            envelope: position,
        });
        self.builder.extend(sealed);
        Ok(())
    }

    fn is_full(&self, pack_bytes: u64) -> bool {
        let (envelopes, entries) = (self.directory.envelopes.len(), self.directory.entries.len());
        let tail = PackDirectory::encoded_bytes(envelopes, entries)
            + (SIGNATURE_BYTES + FOOTER_BYTES + ENVELOPE_BYTES) as u64;
        self.builder.plaintext_len() as u64 + tail >= pack_bytes
            || entries >= PACK_ENTRIES_MAX
            || envelopes >= PACK_ENVELOPES_MAX
    }
}
