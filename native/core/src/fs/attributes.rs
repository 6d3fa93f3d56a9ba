//! Everything about one entry in one call. A caller that knows from [`Stat`] alone that an entry is
//! unchanged has no need of it.

use std::os::fd::BorrowedFd;

use super::flags::read_flags;
use super::meta::{Attributes, FileKind, Stat};
use super::open::read_link;
use super::xattr::{XattrsRead, read_xattrs_at, read_xattrs_fd};
use crate::error::{Error, Result};

/// The attributes of an entry, and what of them could not be read: that costs them, not the entry.
#[derive(Clone, Debug)]
pub struct AttributesRead {
    /// What could be read.
    pub attributes: Attributes,
    /// What could not.
    pub errors: Vec<Error>,
}

/// The attributes of the regular file or directory behind `fd`, whose `stat` is known.
pub fn read_attributes_fd(fd: BorrowedFd<'_>, stat: Stat) -> AttributesRead {
    let (xattrs, mut errors) = split(read_xattrs_fd(fd));
    let flags = read_flags(fd).unwrap_or_else(|error| {
        errors.push(error);
        0
    });
    AttributesRead {
        attributes: Attributes { stat, flags, xattrs, link_target: Vec::new() },
        errors,
    }
}

/// The attributes of the entry `name` of `dir`, whose `stat` is known, without opening it. A
/// regular file or directory comes without its flags. An error only if a symlink's target cannot be
/// read.
pub fn read_attributes_at(dir: BorrowedFd<'_>, name: &[u8], stat: Stat) -> Result<AttributesRead> {
    let link_target = match stat.kind {
        FileKind::Symlink => read_link(dir, name)?,
        _ => Vec::new(),
    };
    let (xattrs, errors) = split(read_xattrs_at(dir, name));
    Ok(AttributesRead { attributes: Attributes { stat, flags: 0, xattrs, link_target }, errors })
}

fn split(read: Result<XattrsRead>) -> (Vec<super::Xattr>, Vec<Error>) {
    match read {
        Ok(read) => (read.pairs, read.errors),
        Err(error) => (Vec::new(), vec![error]),
    }
}
