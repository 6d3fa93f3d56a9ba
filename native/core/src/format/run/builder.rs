//! Writes index runs.

use super::super::filter::{build_filter, filter_key};
use super::super::pack::{Envelope, PackDirectory, PackKind};
use super::super::{ShortId, padded_body_len};
use super::{
    Location, PackRecord, RUN_HEADER_BYTES, RUN_PACK_BYTES, RawEntry, RunHeader, entry_id,
    entry_order,
};
use crate::{Error, Result};

/// A pack that is put into a run.
#[derive(Clone, Debug)]
pub struct NewPack {
    /// Its name.
    pub name: [u8; 16],
    /// What it holds.
    pub kind: PackKind,
    /// Bytes of the whole object in the store.
    pub object_bytes: u32,
    /// Its envelopes.
    pub envelopes: Vec<Envelope>,
    /// From which plaintext offset on which envelope counts, in order of offsets.
    pub spans: Vec<(u32, u16)>,
}

/// Collects packs and entries in any order and writes the run. Holds 28 bytes an entry.
#[derive(Debug, Default)]
pub struct RunBuilder {
    entries: Vec<RawEntry>,
    packs: Vec<u8>,
    pack_count: u32,
    sections: Vec<u8>,
}

impl RunBuilder {
    /// An empty builder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of entries so far.
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries yet.
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a pack; returns its position, which its entries name.
    pub fn add_pack(&mut self, pack: &NewPack) -> Result<u32> {
        let too_long = || Error::internal("index run is too long");
        let section_offset = u32::try_from(self.sections.len()).map_err(|_| too_long())?;
        let record = PackRecord {
            name: pack.name,
            kind: pack.kind,
            object_bytes: pack.object_bytes,
            section_offset,
        };
        let ordinal = self.pack_count;
        self.pack_count = ordinal.checked_add(1).ok_or_else(too_long)?;
        record.encode(&mut self.packs);
        let envelopes = u16::try_from(pack.envelopes.len()).map_err(|_| too_long())?;
        let spans = u32::try_from(pack.spans.len()).map_err(|_| too_long())?;
        self.sections.extend_from_slice(&envelopes.to_le_bytes());
        self.sections.extend_from_slice(pack.envelopes.as_flattened());
        self.sections.extend_from_slice(&spans.to_le_bytes());
        for (start, envelope) in &pack.spans {
            self.sections.extend_from_slice(&start.to_le_bytes());
            self.sections.extend_from_slice(&envelope.to_le_bytes());
            self.sections.extend_from_slice(&[0; 2]);
        }
        Ok(ordinal)
    }

    /// Adds a pack with its envelope section as it stands in another run; `record` is that run's.
    pub fn add_section(&mut self, record: &PackRecord, section: &[u8]) -> Result<u32> {
        let too_long = || Error::internal("index run is too long");
        let section_offset = u32::try_from(self.sections.len()).map_err(|_| too_long())?;
        let ordinal = self.pack_count;
        self.pack_count = ordinal.checked_add(1).ok_or_else(too_long)?;
        PackRecord { section_offset, ..*record }.encode(&mut self.packs);
        self.sections.extend_from_slice(section);
        Ok(ordinal)
    }

    /// Adds where a blob lies; `location.pack` comes from [`add_pack`](Self::add_pack).
    pub fn add_entry(&mut self, id: ShortId, location: Location) -> Result<()> {
        if location.pack >= self.pack_count {
            return Err(Error::internal("entry of a pack that the index run does not have"));
        }
        let mut entry = [0; super::RUN_ENTRY_BYTES];
        let fields = (id.0.into_iter())
            .chain(location.pack.to_le_bytes())
            .chain(location.offset.to_le_bytes())
            .chain(location.length.to_le_bytes());
        entry.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        self.entries.push(entry);
        Ok(())
    }

    /// Adds a pack with everything that its directory lists.
    pub fn add_directory(
        &mut self,
        name: [u8; 16],
        object_bytes: u32,
        directory: &PackDirectory,
    ) -> Result<u32> {
        let mut spans: Vec<(u32, u16)> = Vec::new();
        for entry in &directory.entries {
            if spans.last().map(|(_, last)| *last) != Some(entry.envelope) {
                spans.push((entry.offset, entry.envelope));
            }
        }
        let pack = self.add_pack(&NewPack {
            name,
            kind: directory.kind,
            object_bytes,
            envelopes: directory.envelopes.clone(),
            spans,
        })?;
        for entry in &directory.entries {
            let location = Location { pack, offset: entry.offset, length: entry.length };
            self.add_entry(entry.id.short(), location)?;
        }
        Ok(pack)
    }

    /// The run's body: its plaintext without the signature block, padded for one. An entry that was
    /// added twice is written once. Readers check the body with [`Run::parse`](super::Run::parse);
    /// so should whoever uploads it.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.entries.sort_unstable_by_key(entry_order);
        self.entries.dedup();
        let mut keys: Vec<u64> =
            self.entries.iter().map(|entry| filter_key(&entry_id(entry))).collect();
        keys.dedup(); // the same first bytes stand together
        let filter = build_filter(&keys)?;
        drop(keys);
        let length = |bytes: usize| {
            u32::try_from(bytes).map_err(|_| Error::internal("index run is too long"))
        };
        let header = RunHeader {
            entries: self.entries.len() as u64,
            packs: self.pack_count,
            filter_bytes: length(filter.len())?,
            envelope_bytes: length(self.sections.len())?,
        };
        let entries = self.entries.as_flattened();
        let bare = RUN_HEADER_BYTES
            + filter.len()
            + entries.len()
            + self.pack_count as usize * RUN_PACK_BYTES
            + self.sections.len();
        let body = padded_body_len(bare);
        let mut out = Vec::with_capacity(body);
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(&filter);
        out.extend_from_slice(entries);
        out.extend_from_slice(&self.packs);
        out.extend_from_slice(&self.sections);
        out.resize(body, 0);
        Ok(out)
    }
}
