//! The ways to unlock a key file. Each slot holds the same 80 bytes, sealed for one recipient:
//! a passphrase (Argon2id), an X25519 key (HPKE), or a command such as a KMS client, to which they
//! are handed as they are and whose output is kept without being looked at.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::{Zeroize, Zeroizing};

use super::envelope::{hpke_open, hpke_seal};
use super::issue::public_key;
use super::kdf::Label;
use super::sign::OwnerKey;
use super::small::{small_open, small_seal};
use super::stretch::{ARGON2_VERSION, Argon2Cost, Passphrase, SALT_BYTES};
use super::text::{Base64, Base64Array};
use super::{Key, PrincipalId, RepositoryId, random_array, usage};
use crate::error::{Error, ErrorKind, Result};

/// X25519 in HPKE's registry.
const KEM_X25519: u32 = 32;

/// What every slot yields, and what a mover is given in place of a passphrase: the key to a
/// principal's bundles (of every serial), and whose repository it is. Wiped when dropped.
#[derive(Clone)]
pub struct UnlockSecret {
    pub(super) identity: Key,
    pub(super) owner: OwnerKey,
    pub(super) repository: RepositoryId,
}

impl UnlockSecret {
    /// Length of its bytes.
    pub const BYTES: usize = 80;

    /// The bytes, to be handed to a command, or to a mover as a secret.
    pub fn to_bytes(&self) -> Zeroizing<[u8; Self::BYTES]> {
        let mut out = Zeroizing::new([0; Self::BYTES]);
        let fields: [&[u8]; 3] =
            [self.identity.expose(), self.owner.as_bytes(), &self.repository.0];
        for (byte, value) in out.iter_mut().zip(fields.into_iter().flatten()) {
            *byte = *value;
        }
        out
    }

    /// Whether `bytes` hold the identity key as it is, in hex or in base64. Not in constant time: its
    /// use is to stop before it is stored.
    pub(super) fn is_shown_by(&self, bytes: &[u8]) -> bool {
        let plain = self.to_bytes();
        let key = self.identity.expose();
        let compact: Zeroizing<Vec<u8>> = Zeroizing::new(
            bytes.iter().filter(|byte| !byte.is_ascii_whitespace()).copied().collect(),
        );
        let hex: Zeroizing<String> =
            Zeroizing::new(key.iter().fold(String::new(), |mut out, byte| {
                out.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
                out.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
                out
            }));
        // 30 bytes are 40 digits of base64 that do not depend on what follows.
        let base64 = Zeroizing::new(super::text::to_base64(plain.get(..30).unwrap_or_default()));
        let url = Zeroizing::new(base64.replace('+', "-").replace('/', "_"));
        let holds = |what: &[u8]| compact.windows(what.len()).any(|part| part == what);
        let lower = Zeroizing::new(compact.to_ascii_lowercase());
        let is_plain = bytes.windows(key.len()).any(|part| part == key);
        is_plain
            || lower.windows(hex.len()).any(|part| part == hex.as_bytes())
            || holds(base64.as_bytes())
            || holds(url.as_bytes())
    }

    /// Reads the bytes back; `WrongKey` if they cannot be an unlock secret.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let parse = || {
            let (identity, rest) = bytes.split_first_chunk::<32>()?;
            let (owner, repository) = rest.split_first_chunk::<32>()?;
            Some(Self {
                identity: Key::new(*identity),
                owner: OwnerKey::from_bytes(owner).ok()?,
                repository: RepositoryId(repository.try_into().ok()?),
            })
        };
        parse().ok_or_else(|| Error::new(ErrorKind::WrongKey, "not an unlock secret"))
    }
}

impl fmt::Debug for UnlockSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnlockSecret").field("repository", &self.repository).finish_non_exhaustive()
    }
}

/// What a slot is bound to.
pub(super) type Binding = (RepositoryId, PrincipalId);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct PassphraseSlot {
    kdf: String,
    v: u32,
    m: u32,
    t: u32,
    p: u32,
    salt: Base64Array<SALT_BYTES>,
    sealed: Base64,
}

impl PassphraseSlot {
    /// `Unsupported` if the cost lies outside the limits, or is of another function.
    fn cost(&self) -> Result<Argon2Cost> {
        let cost = Argon2Cost { memory_kib: self.m, passes: self.t, lanes: self.p };
        if self.kdf != "argon2id" || self.v != ARGON2_VERSION || !cost.is_allowed() {
            return Err(Error::unsupported("a passphrase slot with Argon2 limits out of bounds"));
        }
        Ok(cost)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct X25519Slot {
    kem: u32,
    recipient: Base64Array<32>,
    sealed: Base64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct CommandSlot {
    name: String,
    sealed: Base64,
}

/// One way to unlock, as it lies in a key file. Kinds that this program does not know are kept as
/// they are.
#[derive(Clone, Debug)]
pub struct Slot(Value);

/// What kind of slot it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// A passphrase.
    Passphrase,
    /// The holder of this X25519 public key.
    X25519([u8; 32]),
    /// The command of this name.
    Command(String),
    /// One that this program does not know.
    Unknown,
}

impl Slot {
    pub(super) fn from_value(value: Value) -> Result<Self> {
        if value.get("type").is_some_and(Value::is_string) {
            Ok(Self(value))
        } else {
            Err(Error::damaged("a key file with a slot of no type"))
        }
    }

    pub(super) fn value(&self) -> &Value {
        &self.0
    }

    fn new(kind: &str, fields: &impl Serialize) -> Result<Self> {
        let mut value = serde_json::to_value(fields)
            .map_err(|error| Error::internal(format!("a slot is no JSON: {error}")))?;
        if let Some(object) = value.as_object_mut() {
            object.insert("type".to_owned(), Value::from(kind));
        }
        Ok(Self(value))
    }

    fn is(&self, kind: &str) -> bool {
        self.0.get("type").and_then(Value::as_str) == Some(kind)
    }

    fn fields<T: for<'de> Deserialize<'de>>(&self) -> Result<T> {
        T::deserialize(&self.0)
            .map_err(|error| Error::damaged(format!("a malformed slot in a key file: {error}")))
    }

    /// What kind of slot it is; malformed ones count as unknown.
    pub fn kind(&self) -> SlotKind {
        if self.is("passphrase") {
            return SlotKind::Passphrase;
        }
        if self.is("x25519") {
            let fields = self.fields::<X25519Slot>();
            return fields.map_or(SlotKind::Unknown, |slot| SlotKind::X25519(slot.recipient.0));
        }
        if self.is("command") {
            let fields = self.fields::<CommandSlot>();
            return fields.map_or(SlotKind::Unknown, |slot| SlotKind::Command(slot.name));
        }
        SlotKind::Unknown
    }

    /// What a passphrase is stretched with for this slot. `None` for other slots, and for one that
    /// no passphrase would open.
    pub fn stretching(&self) -> Option<([u8; SALT_BYTES], Argon2Cost)> {
        let slot: PassphraseSlot = self.is("passphrase").then(|| self.fields().ok())??;
        Some((slot.salt.0, slot.cost().ok()?))
    }

    /// What a command made of the unlock secret, for that command to undo. `None` for other slots.
    pub fn command_bytes(&self) -> Option<Vec<u8>> {
        if !self.is("command") {
            return None;
        }
        self.fields::<CommandSlot>().ok().map(|slot| slot.sealed.0)
    }

    pub(super) fn seal_passphrase(
        secret: &UnlockSecret,
        principal: PrincipalId,
        passphrase: &[u8],
        cost: Argon2Cost,
    ) -> Result<Self> {
        if !cost.is_allowed() {
            return Err(usage("a passphrase cost outside the limits"));
        }
        if passphrase.is_empty() {
            return Err(usage("an empty passphrase"));
        }
        let salt = random_array()?;
        let key = Passphrase::from(passphrase).stretch(&salt, cost)?;
        let sealed = seal_stretched(&key, &secret.to_bytes(), (secret.repository, principal))?;
        let Argon2Cost { memory_kib: m, passes: t, lanes: p } = cost;
        let (kdf, v) = ("argon2id".to_owned(), ARGON2_VERSION);
        let (salt, sealed) = (Base64Array(salt), Base64(sealed));
        Self::new("passphrase", &PassphraseSlot { kdf, v, m, t, p, salt, sealed })
    }

    /// `WrongKey` if this is not the passphrase, or not a passphrase slot; `Unsupported`, before any
    /// work, if the cost lies outside the limits.
    pub(super) fn open_passphrase(
        &self,
        binding: Binding,
        passphrase: Passphrase<'_>,
    ) -> Result<UnlockSecret> {
        if !self.is("passphrase") {
            return Err(not_for_you());
        }
        let slot: PassphraseSlot = self.fields()?;
        let key = passphrase.stretch(&slot.salt.0, slot.cost()?)?;
        open_stretched(&key, &slot.sealed.0, binding)
    }

    pub(super) fn seal_x25519(
        secret: &UnlockSecret,
        principal: PrincipalId,
        recipient: [u8; 32],
    ) -> Result<Self> {
        let info = x25519_info((secret.repository, principal));
        let sealed = Base64(hpke_seal(&recipient, &info, secret.to_bytes().as_slice())?);
        let recipient = Base64Array(recipient);
        Self::new("x25519", &X25519Slot { kem: KEM_X25519, recipient, sealed })
    }

    /// `WrongKey` if this is not the recipient's private key, or not an X25519 slot.
    pub(super) fn open_x25519(&self, binding: Binding, private: &Key) -> Result<UnlockSecret> {
        if !self.is("x25519") {
            return Err(not_for_you());
        }
        let slot: X25519Slot = self.fields()?;
        if slot.kem != KEM_X25519 {
            return Err(Error::unsupported("a slot with an unknown key encapsulation"));
        }
        let opened = hpke_open(private, &x25519_info(binding), &slot.sealed.0);
        UnlockSecret::from_bytes(&opened.ok_or_else(not_for_you)?)
    }

    pub(super) fn of_command(name: &str, opaque: &[u8]) -> Result<Self> {
        let (name, sealed) = (name.to_owned(), Base64(opaque.to_vec()));
        Self::new("command", &CommandSlot { name, sealed })
    }
}

fn not_for_you() -> Error {
    Error::new(ErrorKind::WrongKey, "the key does not open this")
}

fn passphrase_context((repository, principal): Binding) -> Vec<u8> {
    [repository.0.as_slice(), &principal.0, b"passphrase"].concat()
}

fn x25519_info((repository, principal): Binding) -> Vec<u8> {
    [b"pvback/1 unlock\0".as_slice(), &repository.0, &principal.0].concat()
}

/// Seals the unlock secret under a stretched passphrase, which its salt makes good for one use.
pub(super) fn seal_stretched(
    stretched: &Key,
    secret: &[u8; UnlockSecret::BYTES],
    binding: Binding,
) -> Result<Vec<u8>> {
    small_seal(Label::Slot, stretched, &passphrase_context(binding), secret)
}

pub(super) fn open_stretched(
    stretched: &Key,
    sealed: &[u8],
    binding: Binding,
) -> Result<UnlockSecret> {
    let opened = small_open(Label::Slot, stretched, &passphrase_context(binding), sealed)?;
    UnlockSecret::from_bytes(&opened)
}

/// A new X25519 key pair: the private key, which opens what is sealed for the public one.
pub fn generate_key_pair() -> Result<(Key, [u8; 32])> {
    let private = Key::random()?;
    let public = public_key(&private);
    Ok((private, public))
}

/// A new recovery key to print and lock away: 160 random bits in eight groups of four letters and
/// digits, good as a passphrase. Letters that look like digits are not used.
pub fn generate_recovery_key() -> Result<Zeroizing<String>> {
    const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut bytes = random_array::<20>()?;
    let mut out = Zeroizing::new(String::with_capacity(40));
    for (number, group) in bytes.as_chunks::<5>().0.iter().enumerate() {
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        for position in (0..8).rev() {
            if position % 4 == 3 && (number, position) != (0, 7) {
                out.push('-');
            }
            let letter = LETTERS.get(usize::try_from(bits >> (5 * position) & 31).unwrap_or(0));
            out.push(char::from(*letter.unwrap_or(&b'0')));
        }
    }
    bytes.zeroize();
    Ok(out)
}
