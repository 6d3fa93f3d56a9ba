//! `tests/vectors/sealing.json`: published vectors of what is built upon, then those of the format.

use argon2::{Algorithm, Argon2, Params, ParamsBuilder, Version};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde_json::Value;
use std::collections::BTreeMap;

use crate::crypto::blob::{BlobKey, BlobKind, BlobOpener, BlobSealer, Compression};
use crate::crypto::envelope::{
    Binding, ENVELOPE_BYTES, Envelope, SystemRandom, hpke_open_with, hpke_seal_with,
};
use crate::crypto::kdf::{Label, Master};
use crate::crypto::keyfile::{bundle_context, bundle_message};
use crate::crypto::object::{HEADER_BYTES, ObjectBuilder, ObjectKeys, ObjectType};
use crate::crypto::sign::{Certificate, OwnerKey, message, signing_key};
use crate::crypto::slot::{open_stretched, seal_stretched};
use crate::crypto::small::{small_open, small_seal};
use crate::crypto::stretch::Argon2Cost;
use crate::crypto::{Key, PrincipalId, RepositoryId, ScopeId, SourceId, Suite};

fn vectors() -> Value {
    let text = include_str!("../../../../../tests/vectors/sealing.json");
    serde_json::from_str(text).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    let digits = value.as_str().expect("a string").as_bytes();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

fn number(value: &Value) -> u32 {
    value.as_u64().unwrap().try_into().unwrap()
}

struct Inputs {
    vectors: Value,
    master: Master,
    repository: RepositoryId,
    scope: ScopeId,
    principal: PrincipalId,
    source: SourceId,
}

fn inputs() -> Inputs {
    let vectors = vectors();
    let given = &vectors["inputs"];
    let master = Master(Key::new(array(&given["M"])));
    let scope = ScopeId(array(&given["scope"]));
    let source = master.write().domain(&scope).source_id(given["source"].as_str().unwrap());
    Inputs {
        master,
        repository: RepositoryId(array(&given["repo"])),
        scope,
        principal: PrincipalId(array(&given["principal"])),
        source,
        vectors,
    }
}

#[test]
fn blake3_matches_its_published_vectors() {
    let vectors = vectors();
    let given = &vectors["published"]["blake3"];
    let key = given["key_text"].as_str().unwrap().as_bytes().try_into().unwrap();
    for case in given["cases"].as_array().unwrap() {
        let input: Vec<u8> =
            (0..number(&case["input_len"])).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let mut out = [0; 131];
        blake3::Hasher::new_keyed(key).update(&input).finalize_xof().fill(&mut out);
        assert_eq!(out.to_vec(), bytes(&case["keyed_hash"]));
        let context = given["context_text"].as_str().unwrap();
        blake3::Hasher::new_derive_key(context).update(&input).finalize_xof().fill(&mut out);
        assert_eq!(out.to_vec(), bytes(&case["derive_key"]));
    }
}

#[test]
fn argon2id_matches_rfc_9106() {
    let vectors = vectors();
    let given = &vectors["published"]["argon2id"];
    let mut builder = ParamsBuilder::new();
    builder
        .m_cost(number(&given["memory_kib"]))
        .t_cost(number(&given["passes"]))
        .p_cost(number(&given["lanes"]))
        .data(argon2::AssociatedData::new(&bytes(&given["associated"])).unwrap());
    let params: Params = builder.build().unwrap();
    let secret = bytes(&given["secret"]);
    let argon2 =
        Argon2::new_with_secret(&secret, Algorithm::Argon2id, Version::V0x13, params).unwrap();
    let mut tag = [0; 32];
    argon2
        .hash_password_into(&bytes(&given["password"]), &bytes(&given["salt"]), &mut tag)
        .unwrap();
    assert_eq!(tag, array(&given["tag"]));
}

#[test]
fn ed25519_matches_rfc_8032() {
    for case in vectors()["published"]["ed25519"].as_array().unwrap() {
        let key = SigningKey::from_bytes(&array(&case["seed"]));
        assert_eq!(key.verifying_key().to_bytes(), array(&case["public"]));
        let message = bytes(&case["message"]);
        let signature = key.sign(&message);
        assert_eq!(signature.to_bytes(), array(&case["signature"]));
        let public = VerifyingKey::from_bytes(&array(&case["public"])).unwrap();
        public.verify_strict(&message, &signature).unwrap();
    }
}

#[test]
fn hpke_matches_rfc_9180() {
    let vectors = vectors();
    let given = &vectors["published"]["hpke"];
    let (info, aad) = (bytes(&given["info"]), bytes(&given["aad"]));
    let plaintext = bytes(&given["plaintext"]);
    let mut random = SystemRandom::default();
    random.fixed = Some(bytes(&given["ikm_e"]));
    let sealed =
        hpke_seal_with(&mut random, &array(&given["pk_r"]), &info, &plaintext, &aad).unwrap();
    assert_eq!(sealed, [bytes(&given["enc"]), bytes(&given["ciphertext"])].concat());
    let private = Key::new(array(&given["sk_r"]));
    assert_eq!(*hpke_open_with(&private, &info, &sealed, &aad).unwrap(), plaintext);
}

#[test]
fn key_tree() {
    let given = inputs();
    let want = &given.vectors["tree"];
    let write = given.master.write();
    let domain = write.domain(&given.scope);
    let meta = write.meta(&given.scope, 0);
    let source = meta.source(&given.source);
    let private = given.master.data_private(&given.scope, 0);
    let seed = write.principal_seed(&given.principal);
    let got: Vec<(&str, Vec<u8>)> = vec![
        ("K_dom", domain.0.expose().to_vec()),
        ("K_id", domain.id_key().0.expose().to_vec()),
        ("K_cdc", domain.chunker().expose().to_vec()),
        ("source_id", given.source.as_bytes().to_vec()),
        ("K_index", write.index(&given.scope, 0).expose().to_vec()),
        ("K_meta", meta.0.expose().to_vec()),
        ("K_src", source.0.expose().to_vec()),
        ("K_page_id", source.page_id_key().0.expose().to_vec()),
        ("K_page", source.page_key().expose().to_vec()),
        ("sk", private.expose().to_vec()),
        ("pk", crate::crypto::issue::public_key(&private).to_vec()),
        ("owner_seed", given.master.owner_seed().expose().to_vec()),
        ("principal_seed", seed.expose().to_vec()),
        ("principal_vk", signing_key(&seed).verifying_key().as_bytes().to_vec()),
        ("K_ident", write.identity(&given.principal).expose().to_vec()),
    ];
    for (name, value) in got {
        assert_eq!(value, bytes(&want[name]), "{name}");
    }
    let owner = signing_key(&given.master.owner_seed()).verifying_key();
    assert_eq!(owner.to_bytes(), array(&want["owner_vk"]));
}

#[test]
fn blob() {
    let given = inputs();
    let want = &given.vectors["blob"];
    let chunk: Vec<u8> = (0..=255).cycle().take(2048).collect();
    let ids = given.master.write().domain(&given.scope).id_key();
    let id = ids.id(&chunk);
    assert_eq!(id, array(&want["id"]));
    let data_key = Key::new(array(&want["data_key"]));
    let place = (given.repository, given.scope);
    let key = BlobKey::data(&data_key, ids, place, Suite::Aes256Gcm);
    let mut sealer = BlobSealer::new().unwrap();
    let nonce = array(&want["nonce"]);
    let sealed = sealer
        .seal_with_nonce(&key, (BlobKind::Data, &id), &chunk, Compression::Stored, nonce)
        .unwrap();
    assert_eq!(sealed.len() as u64, want["len"].as_u64().unwrap());
    assert_eq!(*blake3::hash(sealed).as_bytes(), array(&want["blake3_of_blob"]));
    let opened = BlobOpener::new().unwrap().open(&key, BlobKind::Data, &id, sealed).unwrap();
    assert_eq!(opened, chunk);
}

#[test]
fn envelope() {
    let given = inputs();
    let want = &given.vectors["envelope"];
    let mut stored = [0; ENVELOPE_BYTES];
    stored[0] = 1;
    stored[8..24].copy_from_slice(given.principal.as_bytes());
    stored[24..].copy_from_slice(&bytes(&want["enc_ct"]));
    let envelope = Envelope::from_bytes(&stored).unwrap();
    assert_eq!(envelope.to_bytes(), stored);
    let private = given.master.data_private(&given.scope, 0);
    let opened = envelope.open(&private, given.repository, given.scope).unwrap();
    assert_eq!(*opened.expose(), array(&want["opens_to"]));
    let bound = Binding {
        repository: given.repository,
        scope: given.scope,
        epoch: 0,
        origin: given.principal,
    };
    assert_eq!(bound.info(), bytes(&want["info"]));
}

#[test]
fn slot() {
    let given = inputs();
    let want = &given.vectors["slot"];
    let cost = Argon2Cost {
        memory_kib: number(&want["m"]),
        passes: number(&want["t"]),
        lanes: number(&want["p"]),
    };
    let passphrase = want["passphrase"].as_str().unwrap().as_bytes();
    let stretched = cost.stretch(passphrase, &bytes(&want["salt"])).unwrap();
    assert_eq!(*stretched.expose(), array(&want["argon2id"]));
    let binding = (given.repository, given.principal);
    let secret = open_stretched(&stretched, &bytes(&want["sealed"]), binding).unwrap();
    assert_eq!(secret.identity, given.master.write().identity(&given.principal));
    assert_eq!(secret.repository, given.repository);
    let sealed = seal_stretched(&stretched, &secret.to_bytes(), binding).unwrap();
    assert_eq!(sealed, bytes(&want["sealed"]));
}

/// The vector has no salt, which ours adds to the end of the context.
#[test]
fn bundle() {
    let given = inputs();
    let want = &given.vectors["bundle"];
    let (binding, serial) = ((given.repository, given.principal), number(&want["serial"]));
    let json = want["json"].as_str().unwrap().as_bytes();
    let identity = given.master.write().identity(&given.principal);
    let context = bundle_context(binding, serial, b"");
    let sealed = small_seal(Label::Bundle, &identity, &context, json).unwrap();
    assert_eq!(sealed, bytes(&want["sealed"]));
    assert_eq!(*small_open(Label::Bundle, &identity, &context, &sealed).unwrap(), json);
    let message = bundle_message(binding, serial, json);
    let owner = OwnerKey::from_bytes(&array(&given.vectors["tree"]["owner_vk"])).unwrap();
    owner.verify(&message, &array(&want["sig"])).unwrap();
}

#[test]
fn certificate_and_signature() {
    let given = inputs();
    let want = &given.vectors["cert"];
    let stored = array(&want["cert"]);
    let certificate = Certificate::from_bytes(&stored).unwrap();
    assert_eq!(certificate.to_bytes(), stored);
    assert_eq!(certificate.source, given.source);
    let owner = OwnerKey::from_bytes(&array(&given.vectors["tree"]["owner_vk"])).unwrap();
    owner.verify(&stored, &array(&want["sig"])).unwrap();

    let want = &given.vectors["sig"];
    let signed = bytes(&want["msg"]);
    let place = (given.repository, given.scope);
    let built =
        message(ObjectType::SnapshotRecord, place, "snapshots/x", &blake3::hash(b"body")).unwrap();
    assert_eq!(built[..signed.len() - 32], signed[..signed.len() - 32]);
    let key = signing_key(&given.master.write().principal_seed(&given.principal));
    assert_eq!(key.verifying_key().to_bytes(), certificate.key);
    assert_eq!(key.sign(&signed).to_bytes(), array(&want["sig"]));
}

#[test]
fn objects() {
    let given = inputs();
    let epochs = BTreeMap::from([(0, given.master.write().index(&given.scope, 0))]);
    let keys = ObjectKeys::new(given.repository, given.scope, epochs, Some(0));
    let name = given.vectors["object_name"].as_str().unwrap();
    for want in given.vectors["object"].as_array().unwrap() {
        let suite = Suite::from_byte(number(&want["suite"]).try_into().unwrap()).unwrap();
        let keys = keys.clone().with_suite(suite);
        let len = usize::try_from(number(&want["len"])).unwrap();
        let header: [u8; HEADER_BYTES] = array(&want["header"]);
        let salt = header[16..48].try_into().unwrap();
        let mut builder = ObjectBuilder::with_capacity(len);
        builder.extend(&vec![b'P'; len]);
        let sealed = builder.finish_with_salt(&keys, ObjectType::DataPack, name, &salt).unwrap();
        assert_eq!(sealed[..HEADER_BYTES], header);
        assert_eq!(sealed.len() as u64, want["size"].as_u64().unwrap());
        assert_eq!(*blake3::hash(&sealed).as_bytes(), array(&want["blake3"]), "{suite:?} {len}");
        let opened = keys.open_object(ObjectType::DataPack, name, &sealed).unwrap();
        assert_eq!(opened, vec![b'P'; len]);
    }
}
