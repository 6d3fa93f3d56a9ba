//! `tests/vectors/sealed_pack.json`: packs as they are stored, made by another hand, from the object's
//! header to the plaintext of each blob. And the objects of `reference_sealing.json`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::crypto::blob::{BlobKey, BlobKind, BlobOpener};
use crate::crypto::envelope::Envelope;
use crate::crypto::issue::owner_key;
use crate::crypto::kdf::Master;
use crate::crypto::object::{ObjectBuilder, ObjectKeys, ObjectType};
use crate::crypto::sign::{Action, Certificate, Role, Signer, Verifier, signing_key};
use crate::crypto::{Key, PrincipalId, RepositoryId, ScopeId, SourceId, Suite};
use crate::error::ErrorKind;
use crate::format::pack::{FOOTER_BYTES, Footer, PackDirectory, PackKind};
use crate::format::testing::{load_vectors, unhex};

fn array<const N: usize>(value: &Value) -> [u8; N] {
    unhex(value).try_into().unwrap()
}

fn length(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

fn raw(value: &Value) -> Vec<u8> {
    if value.get("blake3_of").is_some() {
        let mut out = vec![0; length(&value["bytes"])];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&unhex(&value["blake3_of"])).finalize_xof().fill(&mut out);
        return out;
    }
    unhex(&value["repeat"]).repeat(length(&value["times"]))
}

struct Given {
    master: Master,
    place: (RepositoryId, ScopeId),
    vectors: Value,
}

fn given() -> Given {
    let vectors = load_vectors("sealed_pack.json");
    let master = Master(Key::new(array(&vectors["M"])));
    let place = (RepositoryId(array(&vectors["repository"])), ScopeId(array(&vectors["scope"])));
    Given { master, place, vectors }
}

impl Given {
    fn objects(&self, epoch: u32) -> ObjectKeys {
        let index = |epoch| (epoch, self.master.write().index(&self.place.1, epoch));
        let epochs = BTreeMap::from([index(1), index(2)]);
        ObjectKeys::new(self.place.0, self.place.1, epochs, Some(epoch))
    }

    fn blob_key(&self, kind: PackKind, envelope: &Envelope) -> BlobKey {
        let (repository, scope) = self.place;
        let write = self.master.write();
        if kind == PackKind::Data {
            let private = self.master.data_private(&scope, envelope.epoch);
            let key = envelope.open(&private, repository, scope).unwrap();
            return BlobKey::data(&key, write.domain(&scope).id_key(), self.place, envelope.suite);
        }
        assert!(envelope.is_of_metadata());
        let source = write.domain(&scope).source_id(self.vectors["source"].as_str().unwrap());
        let key = write.meta(&scope, envelope.epoch).source(&source);
        BlobKey::metadata(&key, self.place, envelope.suite)
    }

    /// The signer of a pack, as its owner certifies it.
    fn signer(&self, role: Role, block: &[u8; 240]) -> Signer {
        let name = if role == Role::Writer { "writer" } else { "maintainer" };
        let certificate = Certificate::from_bytes(block.first_chunk().unwrap()).unwrap();
        let principal = PrincipalId(array(&self.vectors[name]["principal"]));
        let seed = self.master.write().principal_seed(&principal);
        assert_eq!(*seed.expose(), array(&self.vectors[name]["seed"]));
        assert_eq!((certificate.principal, certificate.role), (principal, role));
        assert_eq!(certificate.source, SourceId::ANY);
        let owner_signature = block[112..176].try_into().unwrap();
        Signer { key: signing_key(&seed), certificate, owner_signature }
    }
}

#[test]
fn whole_packs_open() {
    let given = given();
    let owner = owner_key(&given.master).unwrap();
    let verifier = Verifier::new(owner, given.place, &[]);
    for pack in given.vectors["packs"].as_array().unwrap() {
        let what = pack["name"].as_str().unwrap();
        let name = pack["key"].as_str().unwrap();
        let kind = PackKind::from_code(u8::try_from(length(&pack["kind"])).unwrap()).unwrap();
        let object_type = match kind {
            PackKind::Data => ObjectType::DataPack,
            PackKind::Metadata => ObjectType::MetadataPack,
        };
        let sealed = STANDARD.decode(pack["object_b64"].as_str().unwrap()).unwrap();
        let epoch = u32::from_le_bytes(sealed[12..16].try_into().unwrap());
        let keys = given.objects(epoch).with_suite(Suite::from_byte(sealed[8]).unwrap());
        let plaintext = keys.open_object(object_type, name, &sealed).unwrap();

        let mut builder = ObjectBuilder::with_capacity(plaintext.len());
        builder.extend(&plaintext);
        let salt = sealed[16..48].try_into().unwrap();
        let again = builder.finish_with_salt(&keys, object_type, name, &salt).unwrap();
        assert_eq!(again, sealed, "{what}");

        let footer = plaintext[plaintext.len() - FOOTER_BYTES..].try_into().unwrap();
        let footer = Footer::parse(footer, plaintext.len() as u64).unwrap();
        let part = |range: std::ops::Range<u64>| {
            &plaintext[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
        };
        let listing = part(footer.directory());
        let directory = PackDirectory::parse(listing, kind, footer.directory_offset).unwrap();
        assert_eq!(directory.encode().unwrap(), listing, "{what}");
        let block = part(footer.signature()).try_into().unwrap();
        let role = match pack["signed_by"].as_str().unwrap() {
            "writer" => Role::Writer,
            _ => Role::Maintainer,
        };
        let replaces = verifier.verify(object_type, name, Action::Replace, listing, block);
        match role {
            Role::Writer => assert_eq!(replaces.unwrap_err().kind, ErrorKind::Damaged),
            _ => assert_eq!(replaces.unwrap().role, role),
        }
        verifier.verify(object_type, name, Action::Add, listing, block).unwrap();
        let signed = given.signer(role, block).sign_block(object_type, name, listing).unwrap();
        assert_eq!(signed, *block, "{what}");
        check_blobs(&given, pack, &directory, &plaintext);
    }
}

fn check_blobs(given: &Given, pack: &Value, directory: &PackDirectory, plaintext: &[u8]) {
    let what = pack["name"].as_str().unwrap();
    let mut opener = BlobOpener::new().unwrap();
    let wanted = pack["entries"].as_array().unwrap();
    assert_eq!(directory.entries.len(), wanted.len(), "{what}");
    let blob_kind = match directory.kind {
        PackKind::Data => BlobKind::Data,
        PackKind::Metadata => BlobKind::Page,
    };
    for (entry, want) in directory.entries.iter().zip(wanted) {
        assert_eq!(entry.id.0, array(&want["id"]), "{what}");
        assert_eq!(entry.offset as usize, length(&want["offset"]), "{what}");
        assert_eq!(entry.length as usize, length(&want["length"]), "{what}");
        assert_eq!(usize::from(entry.envelope), length(&want["envelope"]), "{what}");
        let envelope = &directory.envelopes[usize::from(entry.envelope)];
        let envelope = Envelope::from_bytes(envelope).unwrap();
        let key = given.blob_key(directory.kind, &envelope);
        let blob = &plaintext[entry.offset as usize..][..entry.length as usize];
        let opened = opener.open(&key, blob_kind, &entry.id.0, blob).unwrap();
        assert!(opened == raw(&want["raw"]), "{what}");
    }
}

#[test]
fn objects_of_the_reference() {
    let vectors = load_vectors("reference_sealing.json");
    let inputs = &vectors["inputs"];
    let master = Master(Key::new(array(&inputs["M"])));
    let (repository, scope) =
        (RepositoryId(array(&inputs["repo"])), ScopeId(array(&inputs["scope"])));
    let key_epoch = u32::try_from(length(&inputs["epoch"])).unwrap();
    for want in vectors["object"].as_array().unwrap() {
        let epoch = u32::try_from(length(&want["epoch"])).unwrap();
        let epochs = BTreeMap::from([(epoch, master.write().index(&scope, key_epoch))]);
        let suite = Suite::from_byte(u8::try_from(length(&want["suite"])).unwrap()).unwrap();
        let keys = ObjectKeys::new(repository, scope, epochs, Some(epoch)).with_suite(suite);
        let name = want["name"].as_str().unwrap();
        let plaintext: Vec<u8> = (0..=250).cycle().take(length(&want["len"])).collect();
        let mut builder = ObjectBuilder::with_capacity(plaintext.len());
        builder.extend(&plaintext);
        let salt = array(&vectors["object_salt"]);
        let sealed = builder.finish_with_salt(&keys, ObjectType::Run, name, &salt).unwrap();
        assert_eq!(sealed[..80], unhex(&want["header"]));
        assert_eq!(*blake3::hash(&sealed).as_bytes(), array(&want["blake3"]));
        assert_eq!(keys.open_object(ObjectType::Run, name, &sealed).unwrap(), plaintext);
    }
}
