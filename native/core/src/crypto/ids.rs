//! The 16-byte ids that keys and signatures are bound to. All random, but for sources, whose id is
//! derived from their name (see [`super::ScopeKeys::source_id`]).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{random_array, text};
use crate::error::Result;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// A new random id.
            pub fn random() -> Result<Self> {
                Ok(Self(random_array()?))
            }

            /// Reads 32 lower-case hexadecimal digits; anything else is `Damaged`.
            pub fn parse(digits: &str) -> Result<Self> {
                text::from_hex(digits).map(Self)
            }

            /// The id's bytes.
            pub fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        /// All 32 digits, as in object names.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                text::write_hex(f, &self.0)
            }
        }

        /// The first 8 digits.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "("))?;
                text::write_hex(f, self.0.first_chunk::<4>().unwrap_or(&[0; 4]))?;
                f.write_str(")")
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let digits = String::deserialize(deserializer)?;
                Self::parse(&digits).map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// One repository.
    RepositoryId
);
id!(
    /// One deduplication domain with its own keys and prefix.
    ScopeId
);
id!(
    /// One holder of a key file.
    PrincipalId
);
id!(
    /// One source of snapshots within a scope. All zero stands for "any source".
    SourceId
);

impl SourceId {
    /// Stands for every source of a scope in a certificate.
    pub const ANY: Self = Self([0; 16]);
}
