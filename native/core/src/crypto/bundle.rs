//! What a principal holds, as JSON: nothing but what its role needs, for all epochs in use. Owners
//! hold the master key, from which the rest derives. The JSON is only ever seen sealed.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::sign::{CERTIFICATE_BYTES, Role, SIGNATURE_BYTES};
use super::text::Base64Array;
use super::{Key, ScopeId, SourceId};
use crate::error::{Error, Result};

/// The longest JSON of a bundle, key file or config.
pub const JSON_BYTES_MAX: usize = 1 << 20;

const VERSION: u32 = 1;

/// A bundle's contents.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Bundle {
    pub(super) v: u32,
    pub(super) role: Role,
    /// What a person calls the principal.
    pub(super) label: String,
    /// M. Owners only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) master: Option<Key>,
    /// Ed25519 seed. Writers and maintainers; owners derive theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) seed: Option<Key>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) scopes: Vec<BundleScope>,
}

/// What a bundle holds of one scope.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct BundleScope {
    pub(super) scope: ScopeId,
    /// All roles but maintainer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) domain: Option<Key>,
    /// The only sources whose metadata a writer reads and may write; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sources: Option<Vec<SourceId>>,
    pub(super) epochs: Vec<BundleEpoch>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) certificates: Vec<BundleCertificate>,
}

/// What a bundle holds of one epoch of a scope.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct BundleEpoch {
    pub(super) epoch: u32,
    pub(super) index: Key,
    /// Restorers, and writers of all sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) meta: Option<Key>,
    /// Writers of some sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) source_keys: Vec<BundleSource>,
    /// X25519 public key. Writers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) public: Option<Base64Array<32>>,
    /// X25519 private key. Restorers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) private: Option<Key>,
}

/// The key of one source's metadata in one epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct BundleSource {
    pub(super) source: SourceId,
    pub(super) key: Key,
}

/// A certificate and the owner's signature.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct BundleCertificate {
    pub(super) certificate: Base64Array<CERTIFICATE_BYTES>,
    pub(super) signature: Base64Array<SIGNATURE_BYTES>,
}

impl Bundle {
    pub(super) fn new(role: Role, label: &str) -> Self {
        let label = label.to_owned();
        Self { v: VERSION, role, label, master: None, seed: None, scopes: Vec::new() }
    }

    /// Its JSON, in memory that is wiped and was never moved while it grew.
    pub(super) fn to_json(&self) -> Result<Zeroizing<Vec<u8>>> {
        self.check_shape()?;
        let mut out = Zeroizing::new(Vec::with_capacity(JSON_BYTES_MAX));
        serde_json::to_writer(&mut *out, self)
            .map_err(|error| Error::internal(format!("a bundle is no JSON: {error}")))?;
        if out.len() > JSON_BYTES_MAX {
            return Err(super::usage("more scopes and sources than one key file holds"));
        }
        Ok(out)
    }

    /// Reads and checks the JSON of a bundle whose owner signature is verified.
    pub(super) fn from_json(json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            v: u32,
        }
        let malformed = |_| Error::damaged("a malformed key bundle");
        let Versioned { v } = serde_json::from_slice(json).map_err(malformed)?;
        if v != VERSION {
            return Err(Error::unsupported(format!("a key bundle of version {v}")));
        }
        let bundle: Self = serde_json::from_slice(json).map_err(malformed)?;
        bundle.check_shape()?;
        Ok(bundle)
    }

    /// Checks that each role holds what it needs and nothing that it must not have: before sealing
    /// and after opening.
    fn check_shape(&self) -> Result<()> {
        let is_owner = self.role == Role::Owner;
        let signs = matches!(self.role, Role::Writer | Role::Maintainer);
        let is_right = self.master.is_some() == is_owner
            && self.seed.is_some() == signs
            && self.scopes.is_empty() == is_owner
            && self.scopes.iter().all(|scope| self.is_scope_right(scope));
        if is_right {
            Ok(())
        } else {
            Err(Error::damaged("a key bundle that does not hold what its role needs"))
        }
    }

    fn is_scope_right(&self, scope: &BundleScope) -> bool {
        let is_limited = scope.sources.is_some();
        let holds_domain = self.role != Role::Maintainer;
        scope.domain.is_some() == holds_domain
            && (!is_limited || self.role == Role::Writer)
            && !scope.epochs.is_empty()
            && scope.epochs.is_sorted_by(|a, b| a.epoch < b.epoch)
            && scope.epochs.iter().all(|epoch| {
                epoch.meta.is_some() == (holds_domain && !is_limited)
                    && (is_limited || epoch.source_keys.is_empty())
                    && epoch.public.is_some() == (self.role == Role::Writer)
                    && epoch.private.is_some() == (self.role == Role::Restorer)
            })
    }
}
