//! What the targets share: an owner's keys.

use std::sync::OnceLock;

use pvback_core::crypto::{InitOptions, Key, Keyring, ObjectType, ScopeKeys};

/// All types of objects.
pub const OBJECT_TYPES: [ObjectType; 7] = [
    ObjectType::DataPack,
    ObjectType::MetadataPack,
    ObjectType::Run,
    ObjectType::ReferenceSet,
    ObjectType::Register,
    ObjectType::SnapshotRecord,
    ObjectType::GcState,
];

/// The types whose objects are JSON.
pub const JSON_TYPES: [ObjectType; 3] =
    [ObjectType::Register, ObjectType::SnapshotRecord, ObjectType::GcState];

/// An owner's keys of one scope. They are others in every process, so no target may depend on them.
pub fn owner() -> &'static ScopeKeys {
    static KEYS: OnceLock<ScopeKeys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let (keyring, _, _) = Keyring::init_repository(&InitOptions::default()).unwrap();
        let scope = keyring.scopes()[0];
        keyring.scope(&scope).unwrap()
    })
}

/// A key that is the same in every process.
pub fn key() -> Key {
    Key::new([7; 32])
}
