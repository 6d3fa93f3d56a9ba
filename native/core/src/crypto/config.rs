//! The config: what everybody must know before reading or writing, signed by the owner.
//!
//! One line of JSON, a newline, and the base64 of the owner's signature over `"pvback/1 config\0"` and
//! the BLAKE3 of the line. The line names the owner's key, so the signature alone proves only
//! that it was not changed by others; whose it is, an unlocked key file or a pinned key says.

use std::collections::BTreeMap;

use ed25519_dalek::Signer as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::bundle::JSON_BYTES_MAX;
use super::sign::{OwnerKey, signing_key};
use super::text::{self, Base64, Base64Array};
use super::{Key, PrincipalId, RepositoryId, ScopeId, SourceId, wrong_key};
use crate::chunk::{ArgminSizes, Fixed};
use crate::error::{Error, Result};

/// The repository format that this program reads and writes.
pub const FORMAT: u32 = 1;
/// The greatest `min_reader` that this program satisfies.
pub const READER_VERSION: u32 = 1;
/// The greatest `min_writer` that this program satisfies.
pub const WRITER_VERSION: u32 = 1;
/// Features that this program knows.
pub const FEATURES: &[&str] = &[TIMED_COMMITS];
/// The store keeps no conditions on writes: who commits or prunes has to wait instead.
const TIMED_COMMITS: &str = "timed-commits";
/// The chunker that this program knows.
pub const CHUNKER_ALGORITHM: &str = "argmin32";

/// How content is cut into chunks, sizes in bytes. Fixed for a repository's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkerParams {
    /// Which chunker.
    pub id: String,
    /// Shortest chunk but for the last of a file: half the average.
    pub min: u64,
    /// Chunks are this long on average.
    pub average: u64,
    /// Longest chunk: one and a half times the average.
    pub max: u64,
    /// Length of chunks where content does not decide: devices and images.
    pub fixed: u64,
}

impl Default for ChunkerParams {
    /// Chunks of 512 KiB on average, of 128 KiB where they are all of one size.
    fn default() -> Self {
        Self::with_average(512 << 10)
    }
}

impl ChunkerParams {
    /// Chunks of `average` bytes on average.
    pub fn with_average(average: u64) -> Self {
        let (min, max) = (average / 2, average.saturating_mul(3) / 2);
        Self { id: CHUNKER_ALGORITHM.to_owned(), min, average, max, fixed: 128 << 10 }
    }

    fn check(&self) -> Result<()> {
        if self.id != CHUNKER_ALGORITHM {
            return Err(Error::unsupported(format!("unknown chunker `{}`", self.id)));
        }
        ArgminSizes::from_stored(self.min, self.average, self.max)?;
        let fixed = usize::try_from(self.fixed).unwrap_or(usize::MAX);
        Fixed::new(fixed).map_err(|error| Error::unsupported(error.what))?;
        Ok(())
    }
}

/// One scope, as everybody sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScopeEntry {
    /// Its id, which is also its prefix.
    pub id: ScopeId,
    /// The epoch that new objects are written in; the first is 1.
    pub epoch: u32,
    pk: Base64Array<32>,
    label: Base64,
}

impl ScopeEntry {
    pub(super) fn new(id: ScopeId, epoch: u32, public: [u8; 32], label: Vec<u8>) -> Self {
        Self { id, epoch, pk: Base64Array(public), label: Base64(label) }
    }

    /// The X25519 public key of the current epoch.
    pub fn public_key(&self) -> &[u8; 32] {
        &self.pk.0
    }

    /// What people call the scope, sealed: a salt of 16 bytes and a small sealed value.
    pub(super) fn sealed_label(&self) -> &[u8] {
        &self.label.0
    }

    pub(super) fn rotate(&mut self, epoch: u32, public: [u8; 32]) {
        self.epoch = epoch;
        self.pk = Base64Array(public);
    }
}

/// What was found out about the object store when the repository was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreFacts {
    /// Whether it keeps conditions on writes (create-only, compare-and-swap).
    #[serde(default = "keeps_conditions")]
    pub conditional: bool,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl StoreFacts {
    /// A store that keeps conditions on writes, or does not.
    pub fn new(conditional: bool) -> Self {
        Self { conditional, rest: Map::new() }
    }
}

fn keeps_conditions() -> bool {
    true
}

/// A principal whose signatures count no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Who.
    pub principal: PrincipalId,
    /// The last snapshot number by source that is still believed.
    pub sequences: BTreeMap<SourceId, u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    pvback: String,
    format: u32,
    min_reader: u32,
    min_writer: u32,
    features: Vec<String>,
    repository: RepositoryId,
    owner_vk: Base64Array<32>,
    chunker: ChunkerParams,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    store: Option<StoreFacts>,
    scopes: Vec<ScopeEntry>,
    revoked: Vec<Revoked>,
    serial: u32,
    /// What newer writers added that this one need not understand, but must not lose.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// A verified config.
#[derive(Clone, Debug)]
pub struct Config {
    line: Line,
    owner: OwnerKey,
}

impl Config {
    pub(super) fn new(
        repository: RepositoryId,
        owner: OwnerKey,
        chunker: ChunkerParams,
        store: Option<StoreFacts>,
    ) -> Self {
        let is_conditional = store.as_ref().is_none_or(|store| store.conditional);
        let features = if is_conditional { Vec::new() } else { vec![TIMED_COMMITS.to_owned()] };
        let line = Line {
            pvback: "config".to_owned(),
            format: FORMAT,
            min_reader: READER_VERSION,
            min_writer: WRITER_VERSION,
            features,
            repository,
            owner_vk: Base64Array(*owner.as_bytes()),
            chunker,
            store,
            scopes: Vec::new(),
            revoked: Vec::new(),
            serial: 0,
            rest: Map::new(),
        };
        Self { line, owner }
    }

    /// Reads a config and verifies its signature by the owner it names, who must be `pinned` if that
    /// is given. `Unsupported` for a format, reader version or feature that this program does not
    /// know, `Damaged` if malformed or not so signed, `WrongKey` if the owner is not the pinned one.
    pub fn parse(bytes: &[u8], pinned: Option<&OwnerKey>) -> Result<Self> {
        Self::parse_unnamed(bytes, pinned).map_err(|error| error.at("config"))
    }

    fn parse_unnamed(bytes: &[u8], pinned: Option<&OwnerKey>) -> Result<Self> {
        if bytes.len() > JSON_BYTES_MAX {
            return Err(Error::damaged("a config that is too long"));
        }
        let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
        let (Some(json), Some(signature)) = (parts.next(), parts.next()) else {
            return Err(Error::damaged("a config without a signature"));
        };
        check_versions(json)?;
        let line: Line = serde_json::from_slice(json)
            .map_err(|error| Error::damaged(format!("a malformed config: {error}")))?;
        let owner = OwnerKey::from_bytes(&line.owner_vk.0)?;
        let signature = text::from_base64(signature.trim_ascii_end())?;
        let signature = signature.as_slice().try_into();
        let signature = signature.map_err(|_| Error::damaged("a signature of odd length"))?;
        owner.verify(&message(json), signature)?;
        if pinned.is_some_and(|pinned| *pinned != owner) {
            return Err(wrong_key("the repository has another owner than the one expected"));
        }
        line.chunker.check()?;
        let mut ids: Vec<_> = line.scopes.iter().map(|scope| scope.id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair.first() == pair.last())
            || line.scopes.iter().any(|scope| scope.epoch == 0)
        {
            return Err(Error::damaged("a config with impossible scopes"));
        }
        Ok(Self { line, owner })
    }

    /// The bytes to store, signed with the owner's seed.
    pub(super) fn sign(&self, owner_seed: &Key) -> Result<Vec<u8>> {
        self.line.chunker.check()?;
        let mut out = serde_json::to_vec(&self.line)
            .map_err(|error| Error::internal(format!("a config is no JSON: {error}")))?;
        let signature = signing_key(owner_seed).sign(&message(&out)).to_bytes();
        out.push(b'\n');
        out.extend_from_slice(text::to_base64(&signature).as_bytes());
        out.push(b'\n');
        Ok(out)
    }

    /// The repository's id.
    pub fn repository(&self) -> RepositoryId {
        self.line.repository
    }

    /// Whose signature it bears.
    pub fn owner(&self) -> &OwnerKey {
        &self.owner
    }

    /// Grows with each change: a lower one than seen before means that the store was rolled back.
    pub fn serial(&self) -> u32 {
        self.line.serial
    }

    /// How content is cut.
    pub fn chunker(&self) -> &ChunkerParams {
        &self.line.chunker
    }

    /// Whether the store keeps conditions on writes, as far as `init` found out.
    pub fn is_store_conditional(&self) -> bool {
        self.line.store.as_ref().is_none_or(|store| store.conditional)
    }

    /// All scopes.
    pub fn scopes(&self) -> &[ScopeEntry] {
        &self.line.scopes
    }

    /// One scope, if there is one of that id.
    pub fn scope(&self, id: &ScopeId) -> Option<&ScopeEntry> {
        self.line.scopes.iter().find(|scope| scope.id == *id)
    }

    /// Whose signatures count no longer.
    pub fn revoked(&self) -> &[Revoked] {
        &self.line.revoked
    }

    /// Whether a principal's signatures count no longer.
    pub fn is_revoked(&self, principal: &PrincipalId) -> bool {
        self.line.revoked.iter().any(|entry| entry.principal == *principal)
    }

    /// `Unsupported` if only newer programs may write here.
    pub fn check_writable(&self) -> Result<()> {
        if self.line.min_writer > WRITER_VERSION {
            let what = format!("writing needs a program of version {}", self.line.min_writer);
            return Err(Error::unsupported(what).at("config"));
        }
        Ok(())
    }

    pub(super) fn scope_mut(&mut self, id: &ScopeId) -> Option<&mut ScopeEntry> {
        self.line.scopes.iter_mut().find(|scope| scope.id == *id)
    }

    pub(super) fn add_scope(&mut self, scope: ScopeEntry) {
        self.line.scopes.push(scope);
    }

    pub(super) fn revoke(&mut self, revoked: Revoked) {
        self.line.revoked.retain(|entry| entry.principal != revoked.principal);
        self.line.revoked.push(revoked);
    }

    pub(super) fn increment_serial(&mut self) -> Result<()> {
        let next = self.line.serial.checked_add(1);
        self.line.serial = next.ok_or_else(|| Error::internal("no serial left for the config"))?;
        Ok(())
    }
}

/// Looks at the versions before anything else, so that a newer format is not taken for damage.
fn check_versions(json: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    struct Versions {
        pvback: String,
        format: u32,
        min_reader: u32,
        #[serde(default)]
        features: Vec<String>,
    }
    let versions: Versions = serde_json::from_slice(json)
        .map_err(|error| Error::damaged(format!("a malformed config: {error}")))?;
    if versions.pvback != "config" {
        return Err(Error::damaged("not a config"));
    }
    if versions.format != FORMAT {
        return Err(Error::unsupported(format!("repository format {}", versions.format)));
    }
    if versions.min_reader > READER_VERSION {
        let what = format!("reading needs a program of version {}", versions.min_reader);
        return Err(Error::unsupported(what));
    }
    match versions.features.iter().find(|name| !FEATURES.contains(&name.as_str())) {
        Some(unknown) => Err(Error::unsupported(format!("unknown feature `{unknown}`"))),
        None => Ok(()),
    }
}

fn message(line: &[u8]) -> Vec<u8> {
    [b"pvback/1 config\0".as_slice(), blake3::hash(line).as_bytes()].concat()
}
