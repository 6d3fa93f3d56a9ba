//! Node keys (section 9.1): the path below the source's root, components joined by one zero byte.

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1 << 20;
/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Joins the components of a key.
pub const SEPARATOR: u8 = 0;

/// Says why bytes cannot be a name: 1 to 255 bytes without `/` and zero, not `.` or `..`.
pub fn check_name(name: &[u8]) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err("name is empty or longer than 255 bytes");
    }
    if name == b"." || name == b".." || name.contains(&b'/') || name.contains(&SEPARATOR) {
        return Err("name that no file can have");
    }
    Ok(())
}

/// Says why bytes cannot be a key. The empty key is the root's.
pub fn check_key(key: &[u8]) -> Result<(), &'static str> {
    check_key_from(key, 0)
}

/// As [`check_key`], for a key whose first `known` bytes are those of a key that has been checked.
pub(crate) fn check_key_from(key: &[u8], known: usize) -> Result<(), &'static str> {
    if key.len() > KEY_BYTES_MAX {
        return Err("key longer than 1 MiB");
    }
    if key.is_empty() {
        return Ok(());
    }
    // The component that `known` ends in may have changed; those before it have not.
    let prefix = key.get(..known).unwrap_or(key);
    let start = prefix.iter().rposition(|byte| *byte == SEPARATOR).map_or(0, |at| at + 1);
    key.get(start..).unwrap_or_default().split(|byte| *byte == SEPARATOR).try_for_each(check_name)
}

/// The key of `name` in the directory with the key `parent`.
pub fn child_key(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(parent.len() + 1 + name.len());
    if !parent.is_empty() {
        key.extend_from_slice(parent);
        key.push(SEPARATOR);
    }
    key.extend_from_slice(name);
    key
}

/// Splits a key into its parent's key and its name; none for the root.
pub fn split_key(key: &[u8]) -> Option<(&[u8], &[u8])> {
    if key.is_empty() {
        return None;
    }
    let cut = key.iter().rposition(|byte| *byte == SEPARATOR);
    let name = key.get(cut.map_or(0, |at| at + 1)..)?;
    Some((key.get(..cut.unwrap_or(0))?, name))
}

/// The first key after everything at and below `key`; none when nothing can come after: below the
/// root is all there is.
pub fn subtree_end(key: &[u8]) -> Option<Vec<u8>> {
    (!key.is_empty()).then(|| [key, &[SEPARATOR + 1]].concat())
}

/// Bytes that two keys have in common at their start.
pub(crate) fn shared_len(a: &[u8], b: &[u8]) -> usize {
    let (a_words, _) = a.as_chunks::<8>();
    let (b_words, _) = b.as_chunks::<8>();
    let words = a_words.iter().zip(b_words).take_while(|(a, b)| a == b).count() * 8;
    let tail = |key| <[u8]>::get(key, words..).unwrap_or_default().iter();
    words + tail(a).zip(tail(b)).take_while(|(a, b)| a == b).count()
}
