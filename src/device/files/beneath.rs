//! Opens what lies beneath one directory and never anything else, whatever is renamed meanwhile.
//!
//! The kernel is only ever asked for single names in directories that are open already, and never
//! to follow a symbolic link: those are read and walked here, where a `..` goes back over names
//! that were passed and an absolute target has to begin with the directory itself. So there is no
//! moment between a check and its use. `openat2(RESOLVE_BENEATH)` would do the same in one call,
//! but Linux 5.6 alone has it, many containers forbid it, and it refuses absolute links that stay
//! inside; a second way would be needed beside it, and this one costs microseconds.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, readlinkat, statat};
use rustix::io::Errno;

/// Names looked at for one request, those of links' targets and those passed once more after a `..`
/// included. It also ends links that go round in circles (the kernel's own bound is 40 links), and
/// no request's path is deeper than this.
pub(super) const STEPS_MAX: usize = 512;

/// To look names up in a directory takes the right to search it, not to list it.
#[cfg(any(target_os = "linux", target_os = "android"))]
const LOOK_UP: OFlags = OFlags::PATH;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const LOOK_UP: OFlags = OFlags::RDONLY;
const ENTER: OFlags = LOOK_UP.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory, open, and where it stood when it was opened.
#[derive(Debug)]
pub(super) struct Root {
    directory: OwnedFd,
    path: PathBuf,
}

/// What a path leads to.
#[derive(Debug)]
pub(super) enum Found {
    /// A regular file, open for reading.
    File(File),
    Directory,
}

impl Root {
    /// # Errors
    /// It is no directory, or one in which names may not be looked up.
    pub(super) fn open(path: &Path) -> std::io::Result<Root> {
        let path = path.canonicalize()?;
        let directory = rustix::fs::open(&path, ENTER, Mode::empty())?;
        statat(&directory, ".", AtFlags::SYMLINK_NOFOLLOW)?; // opening asked its parents alone
        Ok(Root { directory, path })
    }

    /// Opens what these names lead to, one in the other; no names are the directory itself.
    ///
    /// # Errors
    /// `XDEV` where a link leads outside, `NOENT` for anything but a file or a directory (it is not
    /// opened: that could block, or start something), `LOOP` after [`STEPS_MAX`]; else the
    /// system's.
    pub(super) fn find(&self, names: &[Vec<u8>]) -> Result<Found, Errno> {
        let mut ahead: Vec<Vec<u8>> = names.iter().rev().cloned().collect();
        let mut passed: Vec<Vec<u8>> = Vec::new();
        let mut inner: Option<OwnedFd> = None; // where we are, once we are not at the root any more
        for _ in 0..STEPS_MAX {
            let Some(name) = ahead.pop() else { return Ok(Found::Directory) };
            let here = inner.as_ref().unwrap_or(&self.directory);
            if name == b".." {
                // Up is down again from the root: the kernel's `..` of a directory that was moved
                // away meanwhile may be anywhere.
                passed.pop().ok_or(Errno::XDEV)?;
                ahead.extend(passed.drain(..).rev());
                inner = None;
                continue;
            }
            let swapped = match FileType::from_raw_mode(
                statat(here, &*name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode,
            ) {
                FileType::Directory => {
                    match openat(here, &*name, ENTER | OFlags::NOFOLLOW, Mode::empty()) {
                        Ok(directory) => {
                            inner = Some(directory);
                            passed.push(name);
                            continue;
                        }
                        Err(e) => e,
                    }
                }
                FileType::Symlink => match readlinkat(here, &*name, Vec::new()) {
                    Ok(target) => {
                        if self.splice(target.to_bytes(), &mut ahead)? {
                            passed.clear();
                            inner = None;
                        }
                        continue;
                    }
                    Err(e) => e,
                },
                FileType::RegularFile if ahead.is_empty() => match open_file(here, &name) {
                    Ok(file) => return Ok(Found::File(file)),
                    Err(e) => e,
                },
                FileType::RegularFile => return Err(Errno::NOTDIR),
                _ => return Err(Errno::NOENT),
            };
            match swapped {
                // It is something else than it was a moment ago (MLINK is FreeBSD's word for a
                // link); look once more.
                Errno::LOOP | Errno::NOTDIR | Errno::INVAL | Errno::MLINK => ahead.push(name),
                e => return Err(e),
            }
        }
        Err(Errno::LOOP)
    }

    /// Puts a link's target before the names that are still ahead; whether it begins at the root.
    fn splice(&self, target: &[u8], ahead: &mut Vec<Vec<u8>>) -> Result<bool, Errno> {
        let path = Path::new(std::ffi::OsStr::from_bytes(target));
        let inside = if path.is_absolute() {
            path.strip_prefix(&self.path).map_err(|_| Errno::XDEV)?
        } else {
            path
        };
        for component in inside.components().rev() {
            match component {
                Component::Normal(name) => ahead.push(name.as_bytes().to_vec()),
                Component::ParentDir => ahead.push(b"..".to_vec()),
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            }
        }
        if ahead.len() > STEPS_MAX { Err(Errno::LOOP) } else { Ok(path.is_absolute()) }
    }
}

/// Opens a regular file. Without `NONBLOCK` a FIFO that took its place since it was looked at would
/// hold this thread.
fn open_file(directory: &OwnedFd, name: &[u8]) -> Result<File, Errno> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = openat(directory, name, flags, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode) {
        FileType::RegularFile => Ok(File::from(opened)),
        _ => Err(Errno::NOENT),
    }
}
