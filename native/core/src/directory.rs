//! Pack directories as they are read: from the end of a pack, and believed only when signed by somebody
//! who may have made that pack.

use std::ops::Range;

use crate::crypto::sign::Role;
use crate::crypto::{Action, Envelope};
use crate::error::{Error, ErrorKind, Result};
use crate::format::SIGNATURE_BYTES;
use crate::format::pack::{FOOTER_BYTES, Footer, PackDirectory, PackKind};
use crate::index::pack_type;
use crate::scope::{PendingTail, Ranged, Scope};

/// What is read of a pack's end at first: most directories are shorter.
const TAIL_BYTES: u64 = 64 << 10;

/// A pack that is open, with what it says of itself.
pub struct OpenedPack {
    /// For reading blobs.
    pub ranged: Ranged,
    /// Its directory.
    pub directory: PackDirectory,
}

/// A pack whose header and end have been asked for.
pub struct PackOpening {
    pending: PendingTail,
    kind: PackKind,
    name: String,
}

impl PackOpening {
    /// Asks for the pack called `name` below the scope, an object of `object_bytes`.
    pub fn start(scope: &Scope, kind: PackKind, name: String, object_bytes: u64) -> Result<Self> {
        let pending = scope.start_tail(pack_type(kind), &name, object_bytes, TAIL_BYTES)?;
        Ok(Self { pending, kind, name })
    }

    /// Waits for it. A directory of more than `bytes_max` is refused as `Usage`.
    pub fn finish(self, scope: &Scope, bytes_max: u64) -> Result<OpenedPack> {
        let Self { pending, kind, name } = self;
        let (ranged, tail, start) = scope.finish_tail(pending)?;
        let parsed = parse(scope, &ranged, (kind, &name), (tail.to_vec(), start), bytes_max);
        let (directory, _) =
            parsed.map_err(|error| Error { key: Some(scope.key(&name)), ..error })?;
        Ok(OpenedPack { ranged, directory })
    }
}

/// Reads the directory of a pack that is open already.
pub fn read_directory(
    scope: &Scope,
    ranged: &Ranged,
    kind: PackKind,
    name: &str,
) -> Result<(PackDirectory, Footer)> {
    let end = ranged.plaintext_bytes();
    let start = end.saturating_sub(TAIL_BYTES);
    let tail = ranged.read(start..end)?.to_vec();
    parse(scope, ranged, (kind, name), (tail, start), u64::MAX)
}

/// `tail` is what lies from the given offset to the pack's end; what is missing of the directory is read.
fn parse(
    scope: &Scope,
    ranged: &Ranged,
    (kind, name): (PackKind, &str),
    (mut tail, start): (Vec<u8>, u64),
    bytes_max: u64,
) -> Result<(PackDirectory, Footer)> {
    let short = || Error::damaged("a pack shorter than its footer");
    let end = ranged.plaintext_bytes();
    let footer = Footer::parse(tail.last_chunk::<FOOTER_BYTES>().ok_or_else(short)?, end)?;
    let Range { start: from, end: to } = footer.directory();
    if to - from > bytes_max {
        let what = format!("the directory of a pack has {} MiB", (to - from) >> 20);
        return Err(Error::new(ErrorKind::Usage, what));
    }
    if from < start {
        let mut whole = ranged.read(from..start)?.to_vec();
        whole.append(&mut tail);
        tail = whole;
    } else {
        tail.drain(..usize::try_from(from - start).unwrap_or(usize::MAX).min(tail.len()));
    }
    let length = usize::try_from(to - from).unwrap_or(usize::MAX);
    let (listing, rest) = tail.split_at_checked(length).ok_or_else(short)?;
    let block = rest.first_chunk::<SIGNATURE_BYTES>().ok_or_else(short)?;
    let verifier = scope.keys.verifier();
    let signer = verifier.verify(pack_type(kind), name, Action::Add, listing, block)?;
    let directory = PackDirectory::parse(listing, kind, footer.directory_offset)?;
    for envelope in &directory.envelopes {
        let origin = Envelope::from_bytes(envelope)?.origin;
        if signer.role == Role::Writer && origin != signer.principal {
            return Err(Error::damaged("a writer signed for what another principal sealed"));
        }
    }
    Ok((directory, footer))
}
