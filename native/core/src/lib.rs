//! The data path of pvback: walking, reading, chunking, hashing, deduplication, compression,
//! sealing, packing, and the way back. Knows neither Python nor the network: objects are read and
//! written through an `ObjectIo`, which the caller implements.

pub mod error;
pub mod format;
pub mod tree;

pub use error::{Error, ErrorKind, Result};
