//! The file system layer: reading everything that a POSIX volume holds, and putting it back.
//!
//! Rules that hold for every function here:
//!
//! - Names are raw bytes. One name never holds `/` or NUL; names that come out of a repository are
//!   checked by [`check_name`] before they reach a system call.
//! - Everything is relative to an open directory, and a symlink is never followed, so that what
//!   somebody renames or plants below us cannot lead out of the tree.
//! - No call blocks on a FIFO or a device: what is opened is opened with `O_NONBLOCK` and examined
//!   afterwards.
//! - Access times are left alone where the kernel permits it.
//!
//! Reading goes through [`walk`], [`stat`], [`open`], [`attributes`] and [`holes`]; writing
//! through [`target`], [`content`] and [`apply`], which counts in [`denied`] what it was not
//! permitted to do.

pub mod apply;
pub mod attributes;
pub mod content;
pub mod denied;
pub mod dir;
pub mod flags;
pub mod holes;
pub mod meta;
pub mod names;
pub mod open;
pub mod remove;
pub mod stat;
pub mod target;
pub mod walk;
pub mod xattr;

#[cfg(test)]
mod tests;

pub use apply::{Subject, apply_attributes, apply_attributes_but_flags};
pub use attributes::{AttributesRead, read_attributes_at, read_attributes_fd};
pub use denied::{Category, Denied};
pub use dir::Dir;
pub use holes::{Segment, Segments};
pub use meta::{Attributes, FileKind, Stat, Timestamp, Xattr};
pub use names::Names;
pub use open::{Opened, open_regular, read_link};
pub use stat::{stat_at, stat_batch, stat_fd};
pub use target::Target;
pub use walk::{Event, Exclude, NotEntered, Walk, WalkOptions};

use std::ffi::CString;
use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd as _};

use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};

/// Longest name of one directory entry, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// How many bytes of a path [`display_path`] shows before it cuts the middle out.
const DISPLAY_BYTES_MAX: usize = 1024;

/// Refuses a name that is not the name of exactly one directory entry: empty, `.`, `..`, longer
/// than [`NAME_BYTES_MAX`], or with `/` or NUL in it. A damaged or hostile repository can hold
/// such.
pub fn check_name(name: &[u8]) -> Result<()> {
    let is_bad = name.is_empty()
        || name == b"."
        || name == b".."
        || name.len() > NAME_BYTES_MAX
        || name.iter().any(|&byte| byte == b'/' || byte == 0);
    if is_bad {
        return Err(Error::damaged("not a file name").at(display_path(name)));
    }
    Ok(())
}

/// `path` for people: UTF-8 stays, control characters and other bytes become `\xNN`, and the middle
/// of a very long path is left out.
pub fn display_path(path: &[u8]) -> String {
    let half = DISPLAY_BYTES_MAX / 2;
    if path.len() <= DISPLAY_BYTES_MAX {
        return escape(path);
    }
    let head = path.get(..half).unwrap_or_default();
    let tail = path.get(path.len() - half..).unwrap_or_default();
    format!("{}[...]{}", escape(head), escape(tail))
}

fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for piece in bytes.utf8_chunks() {
        for letter in piece.valid().chars() {
            if letter.is_control() {
                let mut encoded = [0; 4];
                for byte in letter.encode_utf8(&mut encoded).bytes() {
                    push_hex(&mut text, byte);
                }
            } else {
                text.push(letter);
            }
        }
        for &byte in piece.invalid() {
            push_hex(&mut text, byte);
        }
    }
    text
}

fn push_hex(text: &mut String, byte: u8) {
    // Writing to a String does not fail.
    let _ = write!(text, "\\x{byte:02x}");
}

/// The path by which calls without a descriptor variant reach what `fd` has open, or the entry
/// `name` in it. Needs `/proc`.
fn proc_path(fd: impl AsFd, name: Option<&[u8]>) -> Result<CString> {
    let mut path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()).into_bytes();
    if let Some(name) = name {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    CString::new(path).map_err(|_| Error::damaged("NUL in a file name"))
}

/// The error of a call that went through `/proc`: where that is not mounted, every file seems to
/// have vanished, and the error must say what is really missing.
fn proc_error(what: &'static str, errno: Errno) -> Error {
    if errno == Errno::NOENT && rustix::fs::stat(c"/proc/self/fd").is_err() {
        return Error::new(ErrorKind::Unsupported, "/proc is not mounted");
    }
    Error::os(what, errno)
}
