//! Signature blocks: who may sign what, and what does not pass.

use crate::crypto::object::ObjectType;
use crate::crypto::sign::{
    Action, CERTIFICATE_BYTES, Certificate, OwnerKey, Role, SIGNATURE_BLOCK_BYTES, Signer,
    Verifier, message, signing_key,
};
use crate::crypto::{Key, PrincipalId, RepositoryId, ScopeId, SourceId};
use crate::error::ErrorKind;
use ed25519_dalek::Signer as _;

const PLACE: (RepositoryId, ScopeId) = (RepositoryId([1; 16]), ScopeId([2; 16]));
const MINE: SourceId = SourceId([5; 16]);

fn certificate(role: Role, source: SourceId) -> Certificate {
    Certificate {
        repository: PLACE.0,
        scope: PLACE.1,
        principal: PrincipalId([3; 16]),
        source,
        role,
        serial: 4,
        key: signing_key(&Key::new([8; 32])).verifying_key().to_bytes(),
    }
}

fn signer(certificate: Certificate) -> Signer {
    let owner_signature = signing_key(&Key::new([9; 32])).sign(&certificate.to_bytes()).to_bytes();
    Signer { key: signing_key(&Key::new([8; 32])), certificate, owner_signature }
}

fn verifier() -> Verifier {
    let owner = signing_key(&Key::new([9; 32])).verifying_key().to_bytes();
    Verifier::new(OwnerKey::from_bytes(&owner).unwrap(), PLACE, &[])
}

const SNAPSHOT: Action = Action::Snapshot { source: MINE, sequence: 7 };
const OTHERS: Action = Action::Snapshot { source: SourceId([6; 16]), sequence: 7 };
const REWRITE: Action = Action::Rewrite { source: MINE, sequence: 7 };
const COMMIT: Action = Action::Commit { source: MINE, sequence: 7 };

/// Every role, type and action, against the table of the format.
#[test]
fn who_may_sign_what() {
    use ObjectType::{
        DataPack, GcList, GcState, MetadataPack, ReferenceSet, Register, Run, SnapshotRecord,
    };
    let signers = [
        (Role::Owner, SourceId::ANY),
        (Role::Restorer, SourceId::ANY),
        (Role::Writer, SourceId::ANY),
        (Role::Writer, MINE),
        (Role::Maintainer, SourceId::ANY),
    ];
    for (role, source) in signers {
        let signer = signer(certificate(role, source));
        let content = [DataPack, MetadataPack, Run, ReferenceSet];
        for kind in content.into_iter().chain([Register, SnapshotRecord, GcState, GcList]) {
            for action in [Action::Add, SNAPSHOT, OTHERS, REWRITE, COMMIT, Action::Replace] {
                let block = signer.sign_block(kind, "x", b"body").unwrap();
                let verified = verifier().verify(kind, "x", action, b"body", &block);
                let is_content = content.contains(&kind);
                let may = match action {
                    Action::Add => is_content && role != Role::Restorer,
                    Action::Replace => {
                        kind != SnapshotRecord && matches!(role, Role::Owner | Role::Maintainer)
                    }
                    Action::Snapshot { .. } => {
                        let is_its = source == SourceId::ANY || action == SNAPSHOT;
                        matches!(kind, Register | SnapshotRecord)
                            && (role == Role::Owner || (role == Role::Writer && is_its))
                    }
                    Action::Rewrite { .. } => kind == SnapshotRecord && role == Role::Owner,
                    // Writers here are of any source or of this one.
                    Action::Commit { .. } => kind == Register && role != Role::Restorer,
                };
                let got = verified.as_ref().map(|by| by.role).map_err(|error| error.kind);
                let want = if may { Ok(role) } else { Err(ErrorKind::Damaged) };
                assert_eq!(got, want, "{role:?} {source:?} {kind:?} {action:?}");
            }
        }
    }
}

#[test]
fn a_signature_is_for_one_object() {
    let block = signer(certificate(Role::Writer, MINE))
        .sign_block(ObjectType::DataPack, "packs/x", b"directory")
        .unwrap();
    let verify = |kind, name, body: &[u8], block: &[u8; SIGNATURE_BLOCK_BYTES]| {
        verifier().verify(kind, name, Action::Add, body, block)
    };
    verify(ObjectType::DataPack, "packs/x", b"directory", &block).unwrap();
    assert!(verify(ObjectType::MetadataPack, "packs/x", b"directory", &block).is_err());
    assert!(verify(ObjectType::DataPack, "packs/y", b"directory", &block).is_err());
    assert!(verify(ObjectType::DataPack, "packs/x", b"Directory", &block).is_err());
    for position in 0..block.len() {
        let mut bad = block;
        bad[position] ^= 1;
        let refused = verify(ObjectType::DataPack, "packs/x", b"directory", &bad);
        assert!(refused.is_err(), "byte {position}");
    }
}

#[test]
fn certificates_are_for_one_scope_of_one_repository() {
    let mut elsewhere = certificate(Role::Owner, SourceId::ANY);
    elsewhere.scope = ScopeId([9; 16]);
    let mut foreign = certificate(Role::Owner, SourceId::ANY);
    foreign.repository = RepositoryId([9; 16]);
    for certificate in [elsewhere, foreign] {
        let block = signer(certificate).sign_block(ObjectType::Run, "x", b"").unwrap();
        let refused = verifier().verify(ObjectType::Run, "x", Action::Add, b"", &block);
        assert_eq!(refused.unwrap_err().kind, ErrorKind::Damaged);
    }
}

/// With a verifying key of small order, a signature that needs no private key satisfies the plain
/// verification equation for any message. Even an owner's certificate does not make it pass.
#[test]
fn keys_of_small_order_are_refused() {
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut weak = certificate(Role::Owner, SourceId::ANY);
    weak.key = identity;
    let mut forged = [0; 64];
    forged[0] = 1;
    let text = message(ObjectType::Run, PLACE, "x", &blake3::hash(b"")).unwrap();
    let plain = ed25519_dalek::VerifyingKey::from_bytes(&identity).unwrap();
    let signature = ed25519_dalek::Signature::from_bytes(&forged);
    ed25519_dalek::Verifier::verify(&plain, &text, &signature).unwrap();

    let mut block = signer(weak).sign_block(ObjectType::Run, "x", b"").unwrap();
    block[CERTIFICATE_BYTES + 64..].copy_from_slice(&forged);
    let refused = verifier().verify(ObjectType::Run, "x", Action::Add, b"", &block);
    assert_eq!(refused.unwrap_err().kind, ErrorKind::Damaged);
    assert!(OwnerKey::from_bytes(&identity).is_err());
}

#[test]
fn malformed_certificates() {
    let good = certificate(Role::Writer, MINE);
    assert_eq!(Certificate::from_bytes(&good.to_bytes()).unwrap(), good);
    for (position, value, kind) in [
        (0, b'X', ErrorKind::Damaged),
        (72, 0, ErrorKind::Unsupported),
        (72, 5, ErrorKind::Unsupported),
        (73, 1, ErrorKind::Damaged),
    ] {
        let mut bad = good.to_bytes();
        bad[position] = value;
        assert_eq!(Certificate::from_bytes(&bad).unwrap_err().kind, kind, "byte {position}");
    }
}
