//! The key tree. Every key of a repository but the data keys of packs derives from one owner secret:
//!
//! ```text
//! M  master, owners only
//! |- W  write master                          |- R  restore master
//! |  |- domain(S)  fixed for a scope's life   |  `- data epoch(S, e)  X25519 private key
//! |  |  `- chunk id, chunker, source ids
//! |  |- index(S, e)  the outer layer
//! |  |- meta(S, e) -> source(sid) -> page key, page id
//! |  |- identity(p), principal sign(p)
//! `- owner sign
//! ```
//!
//! `KDF(label, K, ctx, n) = BLAKE3.keyed(BLAKE3.derive_key("pvback v1 2026-11-20 " + label, K), ctx)`,
//! read as an XOF of `n` bytes: the label is a constant of this program, the context is what varies.

use zeroize::{Zeroize, Zeroizing};

use super::{Key, PrincipalId, ScopeId, SourceId};
use crate::error::Result;

macro_rules! labels {
    ($($name:ident = $text:literal),+ $(,)?) => {
        /// What a derived key is for. The list is closed: each text is used in one place only.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each is named for its text")]
        pub enum Label { $($name),+ }

        impl Label {
            /// The whole BLAKE3 context string.
            const fn context(self) -> &'static str {
                match self { $(Self::$name => concat!("pvback v1 2026-11-20 ", $text)),+ }
            }
        }
    };
}

labels! {
    WriteMaster = "write master",
    RestoreMaster = "restore master",
    DedupDomain = "dedup domain",
    ChunkId = "chunk id",
    Chunker = "chunker",
    SourceId = "source id",
    Index = "index",
    Meta = "meta",
    Source = "source",
    PageKey = "page key",
    PageId = "page id",
    DataEpoch = "data epoch",
    Identity = "identity",
    OwnerSign = "owner sign",
    PrincipalSign = "principal sign",
    Object = "object",
    Blob = "blob",
    Slot = "slot",
    Bundle = "bundle",
    ScopeLabel = "scope label",
}

/// Fills `out` with `KDF(label, key, ctx, out.len())`.
pub fn kdf(label: Label, key: &Key, ctx: &[u8], out: &mut [u8]) {
    prepare(label, key).expand(ctx, out);
}

/// The half of the KDF that depends on label and key alone, for keys that many others derive from.
pub(super) fn prepare(label: Label, key: &Key) -> Prepared {
    Prepared(Key::new(*Zeroizing::new(blake3::derive_key(label.context(), key.expose()))))
}

/// See [`prepare`].
#[derive(Clone, Debug)]
pub(super) struct Prepared(Key);

impl Prepared {
    /// The other half: fills `out` from the variable context.
    pub(super) fn expand(&self, ctx: &[u8], out: &mut [u8]) {
        let mut hasher = blake3::Hasher::new_keyed(self.0.expose());
        hasher.update(ctx);
        let mut reader = hasher.finalize_xof();
        reader.fill(out);
        reader.zeroize();
        hasher.zeroize();
    }
}

fn derive(label: Label, key: &Key, ctx: &[u8]) -> Key {
    let mut out = Key::new([0; 32]);
    kdf(label, key, ctx, out.expose_mut());
    out
}

fn scope_epoch(scope: &ScopeId, epoch: u32) -> [u8; 20] {
    let mut ctx = [0; 20];
    let (id, number) = ctx.split_at_mut(16);
    id.copy_from_slice(&scope.0);
    number.copy_from_slice(&epoch.to_le_bytes());
    ctx
}

/// M: everything else derives from it. Owners hold it, nobody else.
#[derive(Clone, Debug)]
pub(super) struct Master(pub(super) Key);

impl Master {
    pub(super) fn random() -> Result<Self> {
        Key::random().map(Self)
    }

    /// W.
    pub(super) fn write(&self) -> WriteMaster {
        WriteMaster(derive(Label::WriteMaster, &self.0, b""))
    }

    /// The private key of a scope's data epoch, by way of R.
    pub(super) fn data_private(&self, scope: &ScopeId, epoch: u32) -> Key {
        let restore = derive(Label::RestoreMaster, &self.0, b"");
        derive(Label::DataEpoch, &restore, &scope_epoch(scope, epoch))
    }

    /// The seed of the owner's Ed25519 key.
    pub(super) fn owner_seed(&self) -> Key {
        derive(Label::OwnerSign, &self.0, b"")
    }
}

/// W: all keys that write, none that opens content.
#[derive(Clone, Debug)]
pub(super) struct WriteMaster(Key);

impl WriteMaster {
    pub(super) fn domain(&self, scope: &ScopeId) -> DomainKey {
        DomainKey(derive(Label::DedupDomain, &self.0, &scope.0))
    }

    pub(super) fn index(&self, scope: &ScopeId, epoch: u32) -> Key {
        derive(Label::Index, &self.0, &scope_epoch(scope, epoch))
    }

    pub(super) fn meta(&self, scope: &ScopeId, epoch: u32) -> MetaKey {
        MetaKey(derive(Label::Meta, &self.0, &scope_epoch(scope, epoch)))
    }

    pub(super) fn identity(&self, principal: &PrincipalId) -> Key {
        derive(Label::Identity, &self.0, &principal.0)
    }

    pub(super) fn principal_seed(&self, principal: &PrincipalId) -> Key {
        derive(Label::PrincipalSign, &self.0, &principal.0)
    }
}

/// What all members of a scope share for its whole life, so that their chunks deduplicate.
#[derive(Clone, Debug)]
pub(super) struct DomainKey(pub(super) Key);

impl DomainKey {
    /// Names chunks.
    pub(super) fn id_key(&self) -> IdKey {
        IdKey(derive(Label::ChunkId, &self.0, b""))
    }

    /// The chunker's secret.
    pub(super) fn chunker(&self) -> Key {
        derive(Label::Chunker, &self.0, b"")
    }

    /// The id of the source called `name`.
    pub(super) fn source_id(&self, name: &str) -> SourceId {
        let mut out = [0; 16];
        kdf(Label::SourceId, &self.0, name.as_bytes(), &mut out);
        SourceId(out)
    }
}

/// Opens the metadata of every source of a scope, in one epoch.
#[derive(Clone, Debug)]
pub(super) struct MetaKey(pub(super) Key);

impl MetaKey {
    pub(super) fn source(&self, source: &SourceId) -> SourceKey {
        SourceKey(derive(Label::Source, &self.0, &source.0))
    }
}

/// Opens the metadata of one source, in one epoch.
#[derive(Clone, Debug)]
pub(super) struct SourceKey(pub(super) Key);

impl SourceKey {
    /// Seals tree pages and snapshot records.
    pub(super) fn page_key(&self) -> Key {
        derive(Label::PageKey, &self.0, b"")
    }

    /// Names tree pages.
    pub(super) fn page_id_key(&self) -> IdKey {
        IdKey(derive(Label::PageId, &self.0, b""))
    }
}

/// Names plaintexts: a keyed digest, so that nobody outside can test a guess.
#[derive(Clone, Debug)]
pub struct IdKey(pub(super) Key);

impl IdKey {
    /// The key itself, for those who name pages with it.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// The id of `plaintext`.
    pub fn id(&self, plaintext: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(self.0.expose(), plaintext).as_bytes()
    }
}
