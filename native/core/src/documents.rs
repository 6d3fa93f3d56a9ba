//! The small objects that are JSON: registers, records, `gc/state`. Sealed, padded and signed by
//! whoever may say what they say (format, sections 5.1, 5.5 and 11).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::crypto::sign::{SIGNATURE_BLOCK_BYTES, SignedBy};
use crate::crypto::{
    Action, BlobKind, BlobOpener, BlobSealer, Compression, Envelope, ObjectType, PrincipalId,
    ScopeKeys, SourceId, Suite,
};
use crate::error::{Error, ErrorKind, Result};
use crate::format::padded_len;

/// The largest JSON body, in bytes.
pub const JSON_BYTES_MAX: usize = 16 << 20;

/// What decides who may sign a body.
#[derive(Deserialize)]
struct Claims {
    state: Option<String>,
    source: Option<String>,
    #[serde(default)]
    seq: u64,
    /// Of records: it stands in another snapshot's place.
    repaired: Option<serde::de::IgnoredAny>,
}

/// The type with this number, if its objects are JSON.
pub fn json_type(number: u8) -> Result<ObjectType> {
    const JSON: [ObjectType; 4] =
        [ObjectType::Register, ObjectType::SnapshotRecord, ObjectType::GcState, ObjectType::GcList];
    JSON.into_iter().find(|kind| kind.to_byte() == number).ok_or_else(|| {
        Error::new(ErrorKind::Usage, format!("objects of type {number} are not JSON"))
    })
}

fn action(kind: ObjectType, body: &[u8]) -> Result<Action> {
    let damaged = |_| Error::damaged("an object that should be JSON is not");
    if !matches!(kind, ObjectType::Register | ObjectType::SnapshotRecord) {
        return Ok(Action::Replace);
    }
    let claims: Claims = serde_json::from_slice(body).map_err(damaged)?;
    let is_record = kind == ObjectType::SnapshotRecord;
    let state = claims.state.as_deref();
    if !is_record && !matches!(state, Some("OPEN" | "COMMITTED")) {
        return Ok(Action::Replace);
    }
    let Some(source) = claims.source else {
        return Err(Error::damaged("a snapshot without a source"));
    };
    let (source, sequence) = (SourceId::parse(&source)?, claims.seq);
    Ok(match state {
        Some("COMMITTED") if !is_record => Action::Commit { source, sequence },
        _ if is_record && claims.repaired.is_some() => Action::Rewrite { source, sequence },
        _ => Action::Snapshot { source, sequence },
    })
}

/// Pads, signs and seals a JSON body as the object `name`.
pub fn seal_json(keys: &ScopeKeys, kind: ObjectType, name: &str, body: &[u8]) -> Result<Vec<u8>> {
    if body.len() > JSON_BYTES_MAX {
        return Err(Error::new(ErrorKind::Usage, "a record of more than 16 MiB").at(name));
    }
    let action = action(kind, body)?;
    let length = padded_len((body.len() + SIGNATURE_BLOCK_BYTES) as u64);
    let length = usize::try_from(length).map_err(|_| Error::internal("a record too long"))?;
    let mut plaintext = Vec::with_capacity(length);
    plaintext.extend_from_slice(body);
    plaintext.resize(length - SIGNATURE_BLOCK_BYTES, b' ');
    let block = keys.sign_block(kind, name, action, &plaintext)?;
    plaintext.extend_from_slice(&block);
    keys.objects().seal_object(kind, name, &plaintext)
}

/// Opens an object of JSON and verifies that its signer may say what it says.
pub fn open_json(keys: &ScopeKeys, kind: ObjectType, name: &str, sealed: &[u8]) -> Result<Vec<u8>> {
    open_signed(keys, kind, name, sealed).map(|(body, _)| body)
}

/// The same, with who signed it.
pub fn open_signed(
    keys: &ScopeKeys,
    kind: ObjectType,
    name: &str,
    sealed: &[u8],
) -> Result<(Vec<u8>, SignedBy)> {
    let open = || {
        let mut plaintext = keys.objects().open_object(kind, name, sealed)?;
        let (body, block) = plaintext
            .split_last_chunk::<SIGNATURE_BLOCK_BYTES>()
            .ok_or_else(|| Error::damaged("an object without its signature"))?;
        let unpadded = body.trim_ascii_end();
        if unpadded.len() > JSON_BYTES_MAX {
            return Err(Error::damaged("a record of more than 16 MiB"));
        }
        let action = action(kind, unpadded)?;
        let signed_by = keys.verifier().verify(kind, name, action, body, block)?;
        let length = unpadded.len();
        plaintext.truncate(length);
        Ok((plaintext, signed_by))
    };
    open().map_err(|error: Error| error.at(name))
}

/// The id of a record's blob: the snapshot's, filled up with zeros.
fn record_id(snapshot: &[u8; 16]) -> [u8; 32] {
    let mut id = [0; 32];
    let (head, _) = id.split_at_mut(16);
    head.copy_from_slice(snapshot);
    id
}

/// Seals the secret part of a record: suite, epoch, base64.
pub fn seal_record(
    keys: &ScopeKeys,
    source: &SourceId,
    snapshot: &[u8; 16],
    json: &[u8],
) -> Result<(u8, u32, String)> {
    let (key, envelope) = keys.source(source)?.new_page_key()?;
    let id = record_id(snapshot);
    let mut sealer = BlobSealer::new()?;
    let blob = sealer.seal(&key, BlobKind::Snapshot, &id, json, Compression::Zstd(6))?;
    Ok((envelope.suite.to_byte(), envelope.epoch, STANDARD.encode(blob)))
}

/// Opens the secret part of a record.
pub fn open_record(
    keys: &ScopeKeys,
    source: &SourceId,
    snapshot: &[u8; 16],
    (suite, epoch): (u8, u32),
    sealed: &str,
) -> Result<Vec<u8>> {
    let damaged = |_| Error::damaged("the sealed part of a record is not base64");
    let sealed = STANDARD.decode(sealed).map_err(damaged)?;
    let envelope = Envelope::of_metadata(Suite::from_byte(suite)?, epoch, PrincipalId([0; 16]));
    let key = keys.source(source)?.open_page_key(&envelope)?;
    BlobOpener::new()?.open(&key, BlobKind::Snapshot, &record_id(snapshot), &sealed)
}
