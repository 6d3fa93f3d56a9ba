//! Tests of sealing and keys.
