//! Keyrings: what each role can do, what it cannot, and how keys change.

use std::collections::BTreeMap;

use crate::crypto::blob::{BlobKind, BlobOpener, BlobSealer, Compression};
use crate::crypto::bundle::Bundle;
use crate::crypto::config::{Config, Revoked};
use crate::crypto::issue::public_key;
use crate::crypto::object::ObjectType;
use crate::crypto::sign::{Action, OwnerKey, Role, Standing};
use crate::crypto::slot::{SlotKind, UnlockSecret, generate_recovery_key};
use crate::crypto::stretch::Argon2Cost;
use crate::crypto::{
    InitOptions, IssueRequest, IssueScope, Key, KeyFile, Keyring, ScopeId, ScopeKeys, SourceId,
};
use crate::error::{Error, ErrorKind};

/// The least that is allowed, to keep the tests short.
const COST: Argon2Cost = Argon2Cost { memory_kib: 64 << 10, passes: 3, lanes: 4 };
const SOURCE: &str = "k8s:prod/shop/pvc/db-0";

struct Repository {
    owner: Keyring,
    config: Vec<u8>,
    owner_file: KeyFile,
    scope: ScopeId,
}

fn repository() -> Repository {
    let (owner, config, owner_file) = Keyring::init_repository(&InitOptions::default()).unwrap();
    let scope = owner.scopes()[0];
    Repository { owner, config, owner_file, scope }
}

impl Repository {
    fn config(&self) -> Config {
        Config::parse(&self.config, Some(self.owner.config().owner())).unwrap()
    }

    fn issue_file(&self, role: Role, sources: Option<Vec<SourceId>>) -> (KeyFile, UnlockSecret) {
        let scopes = vec![IssueScope { scope: self.scope, sources }];
        let request = IssueRequest { role, label: "test".to_owned(), scopes };
        self.owner.issue(&request).unwrap()
    }

    fn issue(&self, role: Role, sources: Option<Vec<SourceId>>) -> Keyring {
        let (file, secret) = self.issue_file(role, sources);
        let file = KeyFile::parse(&file.to_bytes().unwrap()).unwrap();
        Keyring::unlock_secret(self.config(), &file, secret.to_bytes().as_slice()).unwrap()
    }

    fn keys(&self, role: Role) -> ScopeKeys {
        self.issue(role, None).scope(&self.scope).unwrap()
    }

    fn owner_keys(&self) -> ScopeKeys {
        self.owner.scope(&self.scope).unwrap()
    }

    fn adopt(&mut self, config: Vec<u8>) {
        self.config = config;
        let config = self.config();
        self.owner.set_config(config).unwrap();
    }
}

fn kind<T>(result: Result<T, Error>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind)
}

const WRONG_KEY: Option<ErrorKind> = Some(ErrorKind::WrongKey);

#[test]
fn a_writer_seals_content_that_only_readers_open() {
    let repository = repository();
    let writer = repository.keys(Role::Writer);
    let (key, envelope) = writer.new_data_key().unwrap();
    let id = writer.id_key().unwrap().id(b"content");
    let mut sealer = BlobSealer::new().unwrap();
    let sealed =
        sealer.seal(&key, BlobKind::Data, &id, b"content", Compression::Zstd(1)).unwrap().to_vec();
    drop(key);

    for reader in [repository.owner_keys(), repository.keys(Role::Restorer)] {
        let key = reader.open_data_key(&envelope).unwrap();
        let opened = BlobOpener::new().unwrap().open(&key, BlobKind::Data, &id, &sealed).unwrap();
        assert_eq!(opened, b"content");
    }
    assert_eq!(kind(writer.open_data_key(&envelope)), WRONG_KEY);
    assert_eq!(kind(repository.keys(Role::Maintainer).open_data_key(&envelope)), WRONG_KEY);
}

/// Not only does the interface refuse: the bytes are not there.
#[test]
fn bundles_hold_no_key_beyond_their_role() {
    let repository = repository();
    let source = repository.owner_keys().source_id(SOURCE).unwrap();
    let master = repository.owner.master().unwrap();
    let write = master.write();
    let scope = repository.scope;
    let meta = write.meta(&scope, 1);
    let private = master.data_private(&scope, 1);
    let secrets: [(&str, Key, &[Role]); 5] = [
        ("M", master.0.clone(), &[Role::Owner]),
        ("sk", private, &[Role::Restorer]),
        ("K_dom", write.domain(&scope).0, &[Role::Restorer, Role::Writer]),
        ("K_meta", meta.0.clone(), &[Role::Restorer, Role::Writer]),
        ("K_index", write.index(&scope, 1), &[Role::Restorer, Role::Writer, Role::Maintainer]),
    ];
    let text_of = |file: &KeyFile, secret: &UnlockSecret| {
        let bundle: Bundle = file.open_bundle(secret).unwrap();
        String::from_utf8(bundle.to_json().unwrap().to_vec()).unwrap()
    };
    let contains =
        |text: &str, key: &Key| text.contains(&crate::crypto::text::to_base64(key.expose()));
    for role in [Role::Restorer, Role::Writer, Role::Maintainer] {
        let (file, secret) = repository.issue_file(role, None);
        let text = text_of(&file, &secret);
        for (name, key, holders) in &secrets {
            assert_eq!(contains(&text, key), holders.contains(&role), "{name} for {role:?}");
        }
        let foreign_seed = write.principal_seed(&repository.owner.principal());
        assert!(!contains(&text, &foreign_seed));
        assert!(!contains(&text, &master.owner_seed()));
    }
    let (file, secret) = repository.issue_file(Role::Writer, Some(vec![source]));
    let text = text_of(&file, &secret);
    assert!(!contains(&text, &meta.0));
    assert!(contains(&text, &meta.source(&source).0));
}

#[test]
fn a_writer_reads_the_metadata_of_its_sources_only() {
    let repository = repository();
    let owner = repository.owner_keys();
    let (mine, other) = (owner.source_id(SOURCE).unwrap(), owner.source_id("other").unwrap());
    let limited = repository.issue(Role::Writer, Some(vec![mine]));
    let limited = limited.scope(&repository.scope).unwrap();
    assert_eq!(limited.source_id(SOURCE).unwrap(), mine);

    let my_keys = limited.source(&mine).unwrap();
    let (key, envelope) = my_keys.new_page_key().unwrap();
    let id = key.id_key().id(b"page");
    let mut sealer = BlobSealer::new().unwrap();
    let page =
        sealer.seal(&key, BlobKind::Page, &id, b"page", Compression::Stored).unwrap().to_vec();
    let all = repository.keys(Role::Writer);
    let theirs = all.source(&mine).unwrap();
    let key = theirs.open_page_key(&envelope).unwrap();
    assert_eq!(BlobOpener::new().unwrap().open(&key, BlobKind::Page, &id, &page).unwrap(), b"page");
    let theirs = all.source(&other).unwrap();
    let key = theirs.open_page_key(&envelope).unwrap();
    assert!(BlobOpener::new().unwrap().open(&key, BlobKind::Page, &id, &page).is_err());

    assert_eq!(kind(limited.source(&other)), WRONG_KEY);
    let (_, data_envelope) = limited.new_data_key().unwrap();
    assert_eq!(kind(my_keys.open_page_key(&data_envelope)), Some(ErrorKind::Damaged));
    assert_eq!(kind(owner.open_data_key(&envelope)), Some(ErrorKind::Damaged));
}

#[test]
fn a_maintainer_is_blind_and_a_restorer_mute() {
    let repository = repository();
    let maintainer = repository.keys(Role::Maintainer);
    let source = repository.owner_keys().source_id(SOURCE).unwrap();
    assert_eq!(kind(maintainer.id_key()), WRONG_KEY);
    assert_eq!(kind(maintainer.chunker_secret()), WRONG_KEY);
    assert_eq!(kind(maintainer.source_id(SOURCE)), WRONG_KEY);
    assert_eq!(kind(maintainer.source(&source)), WRONG_KEY);
    assert_eq!(kind(maintainer.new_data_key()), WRONG_KEY);
    let sealed = maintainer.objects().seal_object(ObjectType::Run, "index/x", b"run").unwrap();
    let restorer = repository.keys(Role::Restorer);
    let opened = restorer.objects().open_object(ObjectType::Run, "index/x", &sealed).unwrap();
    assert_eq!(opened, b"run");
    assert_eq!(kind(restorer.objects().seal_object(ObjectType::Run, "index/x", b"")), WRONG_KEY);
    assert_eq!(kind(restorer.new_data_key()), WRONG_KEY);
    assert_eq!(kind(restorer.write_epoch()), WRONG_KEY);
    for action in [Action::Add, Action::Replace] {
        assert_eq!(kind(restorer.sign_block(ObjectType::Run, "index/x", action, b"")), WRONG_KEY);
    }
}

#[test]
fn all_members_of_a_scope_share_its_names_and_no_other_scope_does() {
    let mut repository = repository();
    let (config, second) = repository.owner.config_with_scope("second").unwrap();
    repository.adopt(config);
    assert_eq!(repository.owner.scope_label(&second).unwrap().unwrap(), "second");
    let first = repository.owner_keys();
    let second = repository.owner.scope(&second).unwrap();
    let id = |keys: &ScopeKeys| keys.id_key().unwrap().id(b"chunk");
    assert_eq!(id(&first), id(&repository.keys(Role::Writer)));
    assert_eq!(id(&first), id(&repository.keys(Role::Restorer)));
    assert_ne!(id(&first), id(&second));
    assert_ne!(first.chunker_secret().unwrap(), second.chunker_secret().unwrap());
    let writer = repository.issue(Role::Writer, None);
    assert_eq!(kind(writer.scope(&second.scope())), WRONG_KEY);
    assert_eq!(writer.scope_label(&repository.scope).unwrap().unwrap(), "default");
    assert_eq!(
        repository.issue(Role::Maintainer, None).scope_label(&repository.scope).unwrap(),
        None
    );
    assert_eq!(
        kind(writer.issue(&IssueRequest {
            role: Role::Owner,
            label: String::new(),
            scopes: Vec::new(),
        })),
        WRONG_KEY
    );
    assert_eq!(kind(writer.config_with_new_epoch(&repository.scope)), WRONG_KEY);
}

#[test]
fn a_rotation_leaves_old_keys_reading_and_stops_them_writing() {
    let mut repository = repository();
    let (file, secret) = repository.issue_file(Role::Writer, None);
    let before = repository.owner_keys();
    let (_, old_envelope) = before.new_data_key().unwrap();
    let old = before.objects().seal_object(ObjectType::Run, "index/1", b"old").unwrap();
    let old_config = repository.config();
    let config = repository.owner.config_with_new_epoch(&repository.scope).unwrap();
    repository.adopt(config);

    let unlock = |file: &KeyFile, config: Config| {
        Keyring::unlock_secret(config, file, secret.to_bytes().as_slice())
    };
    let stale = unlock(&file, repository.config()).unwrap().scope(&repository.scope).unwrap();
    assert_eq!(stale.objects().open_object(ObjectType::Run, "index/1", &old).unwrap(), b"old");
    assert_eq!(kind(stale.objects().seal_object(ObjectType::Run, "index/2", b"")), WRONG_KEY);
    assert_eq!(kind(stale.new_data_key()), WRONG_KEY);

    let again = repository.owner.issue_again(&file).unwrap();
    assert_eq!((again.serial(), again.principal()), (2, file.principal()));
    let fresh = unlock(&again, repository.config()).unwrap().scope(&repository.scope).unwrap();
    assert_eq!(fresh.write_epoch().unwrap(), 2);
    let new = fresh.objects().seal_object(ObjectType::Run, "index/2", b"new").unwrap();
    assert_eq!(fresh.objects().open_object(ObjectType::Run, "index/1", &old).unwrap(), b"old");
    assert_eq!(kind(stale.objects().open_object(ObjectType::Run, "index/2", &new)), WRONG_KEY);
    let (_, envelope) = fresh.new_data_key().unwrap();
    assert_eq!((old_envelope.epoch, envelope.epoch), (1, 2));
    let owner = repository.owner_keys();
    owner.open_data_key(&old_envelope).unwrap();
    owner.open_data_key(&envelope).unwrap();

    // A key that knows epoch 2 beside a config that does not: the store was rolled back.
    assert_eq!(kind(unlock(&again, old_config.clone())), Some(ErrorKind::Damaged));
    assert_eq!(kind(repository.owner.set_config(old_config)), Some(ErrorKind::Damaged));
}

#[test]
fn slots() {
    let mut repository = repository();
    let secret = repository.owner.secret().clone();
    let recovery = generate_recovery_key().unwrap();
    let private = Key::random().unwrap();
    let file = &mut repository.owner_file;
    file.add_passphrase(&secret, b"correct horse", COST).unwrap();
    file.add_passphrase(&secret, recovery.as_bytes(), COST).unwrap();
    file.add_x25519(&secret, public_key(&private)).unwrap();
    file.add_command(&secret, "vault", b"opaque").unwrap();
    let file = KeyFile::parse(&repository.owner_file.to_bytes().unwrap()).unwrap();
    let config = || repository.config();
    let passphrase = |file: &KeyFile, text: &[u8]| Keyring::unlock_passphrase(config(), file, text);

    assert_eq!(passphrase(&file, b"correct horse").unwrap().role(), Role::Owner);
    assert_eq!(passphrase(&file, recovery.as_bytes()).unwrap().role(), Role::Owner);
    assert_eq!(kind(passphrase(&file, b"wrong horse")), WRONG_KEY);
    Keyring::unlock_x25519(config(), &file, &private).unwrap();
    assert_eq!(kind(Keyring::unlock_x25519(config(), &file, &Key::new([1; 32]))), WRONG_KEY);
    assert_eq!(file.slots()[3].command_bytes().unwrap(), b"opaque");
    assert_eq!(file.slots()[3].kind(), SlotKind::Command("vault".to_owned()));
    assert_eq!(file.slots()[2].kind(), SlotKind::X25519(public_key(&private)));

    assert_eq!(file.slot_of_passphrase(recovery.as_bytes()).unwrap(), 1);
    assert_eq!(file.slot_of_x25519(&private).unwrap(), 2);
    assert_eq!(kind(file.slot_of_passphrase(b"wrong horse")), WRONG_KEY);

    // A command that gives the key back, in whatever dress, seals nothing.
    let bytes = secret.to_bytes();
    let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap().to_ascii_uppercase();
    let hex: String = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
    let base64 = crate::crypto::text::to_base64(bytes.as_slice());
    let folded = base64.chars().enumerate().flat_map(|(at, digit)| {
        [(at % 20 == 19).then_some('\n'), Some(digit)].into_iter().flatten()
    });
    let folded: String = folded.collect();
    let url = base64.replace('+', "-").replace('/', "_");
    let key_only = bytes[..32].to_vec();
    let shown = [bytes.to_vec(), key_only, hex.into(), base64.into(), folded.into(), url.into()];
    for plain in shown {
        let refused = file.clone().add_command(&secret, "cat", &plain);
        assert_eq!(kind(refused), Some(ErrorKind::Usage));
    }
    assert_eq!(kind(file.clone().add_command(&secret, "true", b"")), Some(ErrorKind::Usage));

    let mut fewer = file.clone();
    fewer.remove_slot(0).unwrap();
    assert_eq!(kind(passphrase(&fewer, b"correct horse")), WRONG_KEY);
    passphrase(&fewer, recovery.as_bytes()).unwrap();
    assert_eq!(kind(fewer.remove_slot(3)), Some(ErrorKind::Usage));
    for len in [0, 79, 81] {
        assert_eq!(kind(Keyring::unlock_secret(config(), &file, &vec![0; len])), WRONG_KEY);
    }
    let (_, stranger) = repository.issue_file(Role::Writer, None);
    assert_eq!(kind(fewer.add_x25519(&stranger, public_key(&private))), WRONG_KEY);
    // A slot of a later kind is kept, not taken for damage.
    let text = String::from_utf8(file.to_bytes().unwrap()).unwrap();
    let later = text.replace("\"command\"", "\"telepathy\"");
    let later = KeyFile::parse(later.as_bytes()).unwrap();
    assert_eq!(later.slots()[3].kind(), SlotKind::Unknown);
    assert!(String::from_utf8(later.to_bytes().unwrap()).unwrap().contains("telepathy"));
    // Also the last digit of its numbers, which a quick reader gets wrong.
    let later = text.replace("\"command\"", "\"telepathy\", \"odds\": 1.4089197702457888e-231");
    let later = KeyFile::parse(later.as_bytes()).unwrap().to_bytes().unwrap();
    assert!(String::from_utf8(later).unwrap().contains("1.4089197702457888e-231"));
}

#[test]
fn recovery_keys_are_long_and_distinct() {
    let one = generate_recovery_key().unwrap();
    let two = generate_recovery_key().unwrap();
    assert_ne!(one, two);
    assert_eq!(one.len(), 39);
    assert_eq!(one.split('-').filter(|group| group.len() == 4).count(), 8);
}

#[test]
fn passphrase_costs_have_bounds_both_ways() {
    let mut repository = repository();
    let secret = repository.owner.secret().clone();
    let costs = [
        Argon2Cost { memory_kib: (64 << 10) - 1, ..COST },
        Argon2Cost { memory_kib: (1 << 20) + 1, ..COST },
        Argon2Cost { passes: 2, ..COST },
        Argon2Cost { passes: 17, ..COST },
        Argon2Cost { lanes: 3, ..COST },
        Argon2Cost { lanes: 17, ..COST },
    ];
    for cost in costs {
        let refused = repository.owner_file.add_passphrase(&secret, b"x", cost);
        assert_eq!(kind(refused), Some(ErrorKind::Usage), "{cost:?}");
    }
    repository.owner_file.add_passphrase(&secret, b"x", COST).unwrap();
    let text = String::from_utf8(repository.owner_file.to_bytes().unwrap()).unwrap();
    for (from, to) in [
        ("\"m\": 65536", "\"m\": 65535"),
        ("\"m\": 65536", "\"m\": 4294967295"),
        ("\"t\": 3", "\"t\": 2"),
        ("\"t\": 3", "\"t\": 17"),
        ("\"p\": 4", "\"p\": 1"),
        ("\"p\": 4", "\"p\": 4000000000"),
        ("\"v\": 19", "\"v\": 16"),
        ("argon2id", "argon2d"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        let file = KeyFile::parse(changed.as_bytes()).unwrap();
        let refused = Keyring::unlock_passphrase(repository.config(), &file, b"x");
        assert_eq!(kind(refused), Some(ErrorKind::Unsupported), "{to}");
    }
}

#[test]
fn key_files_cannot_be_swapped_or_changed() {
    let repository = repository();
    let (file, secret) = repository.issue_file(Role::Writer, None);
    let (other_file, other_secret) = repository.issue_file(Role::Maintainer, None);
    let unlock = |file: &KeyFile, secret: &UnlockSecret| {
        Keyring::unlock_secret(repository.config(), file, secret.to_bytes().as_slice())
    };
    unlock(&file, &secret).unwrap();
    assert_eq!(kind(unlock(&file, &other_secret)), WRONG_KEY);
    assert_eq!(kind(unlock(&other_file, &secret)), WRONG_KEY);

    let text = String::from_utf8(file.to_bytes().unwrap()).unwrap();
    let principal = file.principal().to_string();
    for (from, to) in [
        ("\"serial\": 1", "\"serial\": 2"),
        (principal.as_str(), &other_file.principal().to_string()),
    ] {
        let changed = KeyFile::parse(text.replace(from, to).as_bytes()).unwrap();
        assert!(unlock(&changed, &secret).is_err(), "{to}");
    }
    // Somebody who holds the identity key re-seals the bundle with more in it: not the owner.
    let bundle = other_file.open_bundle(&other_secret).unwrap();
    let forged =
        KeyFile::seal(&secret, file.principal(), 2, &bundle, &Key::random().unwrap()).unwrap();
    assert_eq!(kind(unlock(&forged, &secret)), Some(ErrorKind::Damaged));

    let (stranger, config, _) = Keyring::init_repository(&InitOptions::default()).unwrap();
    let config = Config::parse(&config, None).unwrap();
    assert_eq!(
        kind(Keyring::unlock_secret(config, &file, secret.to_bytes().as_slice())),
        WRONG_KEY
    );
    assert_eq!(kind(unlock(&file, stranger.secret())), WRONG_KEY);
}

/// The serial is the same, identity key and contents nearly so: without the salt, the two would be
/// sealed with one key stream.
#[test]
fn two_bundles_of_one_serial_share_no_key_stream() {
    let repository = repository();
    let (file, _) = repository.issue_file(Role::Writer, None);
    let [one, two] = [0, 1].map(|_| repository.owner.issue_again(&file).unwrap());
    assert_eq!(one.serial(), two.serial());
    assert_ne!(one.to_bytes().unwrap(), two.to_bytes().unwrap());
}

#[test]
fn malformed_key_files_are_errors() {
    let repository = repository();
    let (file, secret) = repository.issue_file(Role::Writer, None);
    let bytes = file.to_bytes().unwrap();
    for len in 0..bytes.len() - 2 {
        assert_eq!(kind(KeyFile::parse(&bytes[..len])), Some(ErrorKind::Damaged));
    }
    for position in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[position] ^= 1;
        if bad[position].is_ascii_whitespace() {
            continue;
        }
        let unlocked = KeyFile::parse(&bad).and_then(|file| {
            Keyring::unlock_secret(repository.config(), &file, secret.to_bytes().as_slice())
        });
        assert!(unlocked.is_err(), "byte {position}");
    }
    let text = String::from_utf8(bytes).unwrap();
    let later = text.replacen("\"v\": 1", "\"v\": 2", 1);
    assert_eq!(kind(KeyFile::parse(later.as_bytes())), Some(ErrorKind::Unsupported));
}

fn signed(repository: &Repository, change: impl FnOnce(&str) -> String) -> Vec<u8> {
    use ed25519_dalek::Signer as _;
    let text = String::from_utf8(repository.config.clone()).unwrap();
    let line = change(text.lines().next().unwrap());
    let digest = blake3::hash(line.as_bytes());
    let message = [b"pvback/1 config\0".as_slice(), digest.as_bytes()];
    let seed = repository.owner.master().unwrap().owner_seed();
    let signature = crate::crypto::sign::signing_key(&seed).sign(&message.concat()).to_bytes();
    format!("{line}\n{}\n", crate::crypto::text::to_base64(&signature)).into_bytes()
}

#[test]
fn configs_say_what_an_older_program_must_refuse() {
    let repository = repository();
    let same = signed(&repository, str::to_owned);
    assert_eq!(same, repository.config);
    for (from, to, expected) in [
        ("\"format\":1", "\"format\":2", ErrorKind::Unsupported),
        ("\"min_reader\":1", "\"min_reader\":2", ErrorKind::Unsupported),
        ("\"features\":[]", "\"features\":[\"x\"]", ErrorKind::Unsupported),
        ("argmin32", "argmin33", ErrorKind::Unsupported),
        ("\"average\":524288", "\"average\":524289", ErrorKind::Unsupported),
        ("\"average\":524288", "\"average\":0", ErrorKind::Unsupported),
        ("\"epoch\":1", "\"epoch\":0", ErrorKind::Damaged),
        ("\"pvback\":\"config\"", "\"pvback\":\"key\"", ErrorKind::Damaged),
        ("\"serial\":1", "\"serial\":-1", ErrorKind::Damaged),
    ] {
        let bytes = signed(&repository, |line| line.replacen(from, to, 1));
        assert_ne!(bytes, repository.config, "{from}");
        assert_eq!(kind(Config::parse(&bytes, None)), Some(expected), "{to}");
    }
    let bytes =
        signed(&repository, |line| line.replacen("\"min_writer\":1", "\"min_writer\":2", 1));
    let config = Config::parse(&bytes, None).unwrap();
    assert_eq!(kind(config.check_writable()), Some(ErrorKind::Unsupported));
    assert_eq!(kind(repository.config().check_writable()), None);
}

#[test]
fn configs_keep_what_they_do_not_understand() {
    let mut repository = repository();
    let bytes =
        signed(&repository, |line| line.replacen("\"serial\":1", "\"serial\":1,\"later\":[1]", 1));
    repository.adopt(bytes);
    let (bytes, _) = repository.owner.config_with_scope("second").unwrap();
    assert!(String::from_utf8(bytes).unwrap().contains("\"later\":[1]"));
}

#[test]
fn a_config_is_its_owners() {
    let repository = repository();
    for position in 0..repository.config.len() - 1 {
        let mut bad = repository.config.clone();
        bad[position] ^= 1;
        assert!(Config::parse(&bad, None).is_err(), "byte {position}");
        assert!(Config::parse(&repository.config[..position], None).is_err());
    }
    let (stranger, config, _) = Keyring::init_repository(&InitOptions::default()).unwrap();
    let pinned = *repository.owner.config().owner();
    assert_eq!(kind(Config::parse(&config, Some(&pinned))), WRONG_KEY);
    let config = Config::parse(&config, Some(stranger.config().owner())).unwrap();
    assert_eq!(kind(repository.owner.clone().set_config(config)), WRONG_KEY);
    let mut small_order = [0; 32];
    small_order[0] = 1;
    assert!(OwnerKey::from_bytes(&small_order).is_err());
}

#[test]
fn a_revoked_writer_is_believed_up_to_its_last_snapshot() {
    let mut repository = repository();
    let writer = repository.issue(Role::Writer, None);
    let keys = writer.scope(&repository.scope).unwrap();
    let source = keys.source_id(SOURCE).unwrap();
    let at = |sequence| Action::Snapshot { source, sequence };
    let record = keys.sign_block(ObjectType::SnapshotRecord, "records/x", at(5), b"r").unwrap();
    let pack = keys.sign_block(ObjectType::DataPack, "packs/x", Action::Add, b"d").unwrap();
    let sequences = BTreeMap::from([(source, 5)]);
    let revoked = Revoked { principal: writer.principal(), sequences };
    let config = repository.owner.config_with_revoked(revoked).unwrap();
    repository.adopt(config);

    let keys = repository.owner_keys();
    let verify = |sequence| {
        let action = at(sequence);
        keys.verifier().verify(ObjectType::SnapshotRecord, "records/x", action, b"r", &record)
    };
    assert_eq!(verify(5).unwrap().standing, Standing::Good);
    assert_eq!(kind(verify(6)), Some(ErrorKind::Damaged));
    let signed_by =
        keys.verifier().verify(ObjectType::DataPack, "packs/x", Action::Add, b"d", &pack).unwrap();
    assert_eq!(signed_by.standing, Standing::Revoked);
}

#[test]
fn secrets_are_not_printed() {
    let repository = repository();
    let master = repository.owner.master().unwrap();
    let printed = format!("{:?} {:?}", repository.owner, repository.owner_keys());
    let digits: Vec<String> = master.0.expose().iter().map(ToString::to_string).collect();
    assert!(!printed.contains(&digits.join(", ")));
    assert!(!printed.contains(&crate::crypto::text::to_base64(master.0.expose())));
    assert!(printed.contains("Key(..)"));
}
