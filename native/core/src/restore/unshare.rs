//! Writing to a file that has other names would change what is seen under them, which may lie outside
//! of the target. Such a file is copied first, and the copy takes its name.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{copy_file_range, renameat};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::fs::content::{truncate, write_all};
use crate::fs::remove::remove_tree;
use crate::fs::target::create_file;
use crate::fs::{Segments, stat_fd};

/// Bytes copied at a time where the kernel cannot copy by itself.
const BUFFER_BYTES: usize = 1 << 20;

/// Makes the entry `name` of `dir`, which `file` has open, a file of its own with the same content,
/// holes included, and opens that. Its attributes are those of a new file. It is made under `new_name`, where
/// nothing is but perhaps what a killed restore has left.
pub(super) fn unshare(
    dir: BorrowedFd<'_>,
    name: &[u8],
    file: BorrowedFd<'_>,
    new_name: &[u8],
) -> Result<OwnedFd> {
    remove_tree(dir, new_name)?;
    let copy = create_file(dir, new_name)?;
    let named = copy_content(file, copy.as_fd()).and_then(|()| {
        renameat(dir, new_name, dir, name)
            .map_err(|errno| Error::os("cannot replace a file with other names", errno))
    });
    match named {
        Ok(()) => Ok(copy),
        Err(error) => {
            // What went wrong is worth telling, not that the copy stays too.
            let _ = remove_tree(dir, new_name);
            Err(error)
        }
    }
}

fn copy_content(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let size = stat_fd(from)?.size;
    truncate(to, size)?;
    for segment in Segments::new(from, size) {
        if !segment.is_hole {
            copy_range(from, to, segment.offset, segment.len)?;
        }
    }
    Ok(())
}

fn copy_range(from: BorrowedFd<'_>, to: BorrowedFd<'_>, offset: u64, len: u64) -> Result<()> {
    let mut done = 0;
    while done < len {
        let (mut here, mut there) = (offset + done, offset + done);
        let want = usize::try_from(len - done).unwrap_or(usize::MAX);
        match copy_file_range(from, Some(&mut here), to, Some(&mut there), want) {
            // Somebody cut it off: the rest is a hole, and will be seen to differ.
            Ok(0) => return Ok(()),
            Ok(count) => done += count as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_by_hand(from, to, offset + done, len - done);
            }
            Err(errno) => return Err(Error::os("cannot copy", errno).offset(offset + done)),
        }
    }
    Ok(())
}

fn copy_by_hand(from: BorrowedFd<'_>, to: BorrowedFd<'_>, offset: u64, len: u64) -> Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut done = 0;
    while done < len {
        let want = usize::try_from(len - done).unwrap_or(usize::MAX).min(BUFFER_BYTES);
        let space = buffer.get_mut(..want).unwrap_or_default();
        match rustix::io::pread(from, space, offset + done) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                write_all(to, bytes, offset + done)?;
                done += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::os("cannot copy", errno).offset(offset + done)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Target;
    use crate::fs::target::open_file;

    #[test]
    fn the_other_name_keeps_its_file() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        let mut content = vec![7; 3 << 20];
        content.extend(vec![0; 4 << 20]);
        std::fs::write(path("a"), &content).unwrap();
        std::fs::hard_link(path("a"), path("b")).unwrap();
        let target = Target::open(home.path()).unwrap();
        let (fd, _) = open_file(target.root(), b"a").unwrap().unwrap();
        crate::fs::content::punch_hole(fd.as_fd(), 3 << 20, 4 << 20).unwrap();
        let own = unshare(target.root(), b"a", fd.as_fd(), b"copy").unwrap();
        write_all(own.as_fd(), b"new", 1).unwrap();
        assert_eq!(std::fs::read(path("b")).unwrap(), content);
        content[1..4].copy_from_slice(b"new");
        assert_eq!(std::fs::read(path("a")).unwrap(), content);
        assert_eq!(stat_fd(own.as_fd()).unwrap().nlink, 1);
        assert!(stat_fd(own.as_fd()).unwrap().allocated_bytes < 4 << 20);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 2);
        let _ = copy_by_hand(fd.as_fd(), own.as_fd(), 0, 1 << 20);
        assert_eq!(std::fs::read(path("a")).unwrap()[1], 7);
    }
}
