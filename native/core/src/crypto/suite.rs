//! The two authenticated ciphers. The writer's processor decides, readers know both.

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::error::{Error, Result};

/// Bytes of an authentication tag.
pub(super) const TAG_BYTES: usize = 16;
/// Bytes of a nonce.
pub(super) const NONCE_BYTES: usize = 12;

/// Which cipher sealed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Suite {
    /// AES-256-GCM.
    Aes256Gcm = 1,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305 = 2,
}

impl Suite {
    /// AES where the processor has instructions for it and for GCM's multiplication.
    pub fn of_this_cpu() -> Self {
        #[cfg(target_arch = "x86_64")]
        let has_aes = std::arch::is_x86_feature_detected!("aes")
            && std::arch::is_x86_feature_detected!("pclmulqdq");
        #[cfg(target_arch = "aarch64")]
        let has_aes = std::arch::is_aarch64_feature_detected!("aes")
            && std::arch::is_aarch64_feature_detected!("pmull");
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let has_aes = false;
        if has_aes { Self::Aes256Gcm } else { Self::ChaCha20Poly1305 }
    }

    /// Reads the suite byte; an unknown one is `Unsupported`.
    pub fn from_byte(byte: u8) -> Result<Self> {
        match byte {
            1 => Ok(Self::Aes256Gcm),
            2 => Ok(Self::ChaCha20Poly1305),
            other => Err(Error::unsupported(format!("sealed with unknown cipher suite {other}"))),
        }
    }

    /// The byte that stands for it in headers.
    pub const fn to_byte(self) -> u8 {
        self as u8
    }

    /// A key of this suite, ready for use.
    pub(super) fn key(self, bytes: &[u8; 32]) -> Result<AeadKey> {
        let algorithm = match self {
            Self::Aes256Gcm => &AES_256_GCM,
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        UnboundKey::new(algorithm, bytes)
            .map(|key| AeadKey(LessSafeKey::new(key)))
            .map_err(|_| Error::internal("a cipher refused a 32-byte key"))
    }
}

/// A scheduled cipher key. It never repeats a nonce because whoever holds it seals one thing only.
#[derive(Debug)]
pub(super) struct AeadKey(LessSafeKey);

impl AeadKey {
    /// Encrypts `data` in place and returns the tag.
    pub(super) fn seal(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        data: &mut [u8],
    ) -> Result<[u8; TAG_BYTES]> {
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), data)
            .map_err(|_| Error::internal("a cipher refused to seal"))?;
        tag.as_ref().try_into().map_err(|_| Error::internal("a tag that is not 16 bytes long"))
    }

    /// Decrypts `sealed` (ciphertext and tag) into `out`, which is exactly the tag shorter.
    /// `None` if it is not authentic, or the lengths disagree; `out` is then meaningless.
    pub(super) fn open(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Option<()> {
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG_BYTES>()?;
        if ciphertext.len() != out.len() {
            return None;
        }
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0.open_separate_gather(nonce, Aad::from(aad), ciphertext, tag, out).ok()
    }
}
