//! Opens files below one directory and nowhere else, even if names are changed meanwhile.
//!
//! The kernel gets only single names in directories that are open already, and never follows a
//! symbolic link. This code reads and follows links: a `..` goes back over names that were passed,
//! and an absolute target has to begin with the directory itself. So there is no time between a
//! check and its use. `openat2(RESOLVE_BENEATH)` would do the same in one call. But only Linux has
//! it, since 5.6; many containers forbid it; and it refuses absolute links that stay inside. So
//! this walk would be needed as a fallback, and it costs only microseconds.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, readlinkat, statat};
use rustix::io::Errno;

/// The most names that are looked up for one request, including those of links' targets and those
/// that are passed again after a `..`. It also ends circles of links (the kernel's own bound is 40
/// links). No path of a request is deeper than this.
pub(super) const STEPS_MAX: usize = 512;

/// Looking up names in a directory requires the permission to search it, not to list it.
#[cfg(any(target_os = "linux", target_os = "android"))]
const LOOK_UP: OFlags = OFlags::PATH;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const LOOK_UP: OFlags = OFlags::RDONLY;
const ENTER: OFlags = LOOK_UP.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// An open directory, and its path when it was opened.
#[derive(Debug)]
pub(super) struct Root {
    directory: OwnedFd,
    path: PathBuf,
}

/// The target of a path.
#[derive(Debug)]
pub(super) enum Found {
    /// A regular file, open for reading.
    File(File),
    Directory,
}

impl Root {
    /// # Errors
    /// It is not a directory, or names may not be looked up in it.
    pub(super) fn open(path: &Path) -> std::io::Result<Root> {
        let path = path.canonicalize()?;
        let directory = rustix::fs::open(&path, ENTER, Mode::empty())?;
        statat(&directory, ".", AtFlags::SYMLINK_NOFOLLOW)?; // opening checked only its parents
        Ok(Root { directory, path })
    }

    /// Opens the file or directory at these names, each in the previous one; without names, the
    /// directory itself.
    ///
    /// # Errors
    /// `XDEV` if a link leads outside; `NOENT` for anything but a file or a directory (opening it
    /// could block, or have effects); `LOOP` after [`STEPS_MAX`]; else errors of the system.
    pub(super) fn find(&self, names: &[Vec<u8>]) -> Result<Found, Errno> {
        let mut ahead: Vec<Vec<u8>> = names.iter().rev().cloned().collect();
        let mut passed: Vec<Vec<u8>> = Vec::new();
        let mut inner: Option<OwnedFd> = None; // the current directory, if it is not the root
        for _ in 0..STEPS_MAX {
            let Some(name) = ahead.pop() else { return Ok(Found::Directory) };
            let here = inner.as_ref().unwrap_or(&self.directory);
            if name == b".." {
                // The parent is reached from the root again: the kernel's `..` of a directory that
                // was moved meanwhile may be anywhere.
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
                // The name was replaced in between (FreeBSD returns MLINK for a link); look it up
                // again.
                Errno::LOOP | Errno::NOTDIR | Errno::INVAL | Errno::MLINK => ahead.push(name),
                e => return Err(e),
            }
        }
        Err(Errno::LOOP)
    }

    /// Puts a link's target before the remaining names. Returns true if it begins at the root.
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

/// Opens a regular file. Without `NONBLOCK`, a FIFO that has replaced it meanwhile would block this
/// thread.
fn open_file(directory: &OwnedFd, name: &[u8]) -> Result<File, Errno> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = openat(directory, name, flags, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode) {
        FileType::RegularFile => Ok(File::from(opened)),
        _ => Err(Errno::NOENT),
    }
}
