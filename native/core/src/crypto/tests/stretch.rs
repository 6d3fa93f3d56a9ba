//! Passphrases stretched ahead: used for what they were made of, and for nothing else.

use zeroize::Zeroizing;

use crate::crypto::stretch::{Argon2Cost, Passphrase, Stretched};
use crate::crypto::{InitOptions, Key, KeyFile, Keyring};
use crate::error::ErrorKind;

/// The least that is allowed, to keep the tests short.
const COST: Argon2Cost = Argon2Cost { memory_kib: 64 << 10, passes: 3, lanes: 4 };

#[test]
fn only_what_fits_is_used() {
    let (owner, _, mut file) = Keyring::init_repository(&InitOptions::default()).unwrap();
    for passphrase in [b"correct horse".as_slice(), b"spare"] {
        file.add_passphrase(owner.secret(), passphrase, COST).unwrap();
    }
    file.add_command(owner.secret(), "vault", b"opaque").unwrap();
    let file = KeyFile::parse(&file.to_bytes().unwrap()).unwrap();
    let (salt, cost) = file.slots()[0].stretching().unwrap();
    assert_eq!(cost, COST);
    assert_ne!(file.slots()[1].stretching().unwrap().0, salt);
    assert_eq!(file.slots()[2].stretching(), None);

    let unlock = |passphrase: &[u8], ahead: &Stretched| {
        let opened = file.unlock_passphrase(Passphrase::with(passphrase, Some(ahead)));
        opened.err().map(|error| error.kind)
    };
    let ahead = Stretched::new(b"correct horse", salt, cost).unwrap();
    assert_eq!(unlock(b"correct horse", &ahead), None);
    // With another key in it the right passphrase opens nothing: so it is used.
    let with = |passphrase: &[u8], salt, cost| Stretched {
        passphrase: Zeroizing::new(passphrase.to_vec()),
        salt,
        cost,
        key: Key::new([1; 32]),
    };
    let wrong_key = Some(ErrorKind::WrongKey);
    assert_eq!(unlock(b"correct horse", &with(b"correct horse", salt, cost)), wrong_key);
    // Not where one of the three is another.
    assert_eq!(unlock(b"correct horse", &with(b"correct horse", [1; 16], cost)), None);
    let dearer = Argon2Cost { passes: cost.passes + 1, ..cost };
    assert_eq!(unlock(b"correct horse", &with(b"correct horse", salt, dearer)), None);
    assert_eq!(unlock(b"correct horse", &with(b"correct hors", salt, cost)), None);
    assert_eq!(unlock(b"spare", &with(b"correct horse", salt, cost)), None);
    assert_eq!(unlock(b"wrong horse", &ahead), wrong_key);

    let shown = format!("{ahead:?}");
    assert!(!shown.contains("horse") && !shown.contains("key"), "{shown}");
    let too_dear = Argon2Cost { memory_kib: (1 << 20) + 1, ..COST };
    let refused = Stretched::new(b"x", salt, too_dear);
    assert_eq!(refused.err().map(|error| error.kind), Some(ErrorKind::Unsupported));
}
