//! A disk whose power can be cut: loaded into a program (`LD_PRELOAD`), it keeps beside a directory what of it would be
//! left after a power cut at any moment.
//!
//! In: `MILLRACE_POWER_DISK`, the directory, and `MILLRACE_POWER_LEFT`, where that is kept; every call of the C library
//! that writes, names or syncs a file. Out: the calls as they were, and in `left` only what was synced: bytes by `fsync`
//! or `fdatasync` of their file, names by `fsync` of their directory.
//! As long as there is a file at `MILLRACE_POWER_LIES`, syncs say that they are done and leave nothing: `all`, or `half` of them.
//! Stricter than most file systems, which bring names and sizes along with a file's bytes. Not seen: `mmap`, streams.

#![expect(unsafe_code, reason = "stands in for functions of the C library")]

mod disk;

use std::cell::Cell;
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use libc::{c_char, c_int, c_long, iovec, mode_t, off_t, size_t, ssize_t};

use disk::Disk;

thread_local! {
    /// The bookkeeping itself uses files.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Lets the bookkeeping see a call, unless the call is its own.
fn with_disk<T>(act: impl FnOnce(&mut Disk) -> T) -> Option<T> {
    static DISK: OnceLock<Option<Mutex<Disk>>> = OnceLock::new();
    if INSIDE.replace(true) {
        return None;
    }
    let disk = DISK.get_or_init(|| {
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        let (real, left) = (path("MILLRACE_POWER_DISK")?, path("MILLRACE_POWER_LEFT")?);
        Some(Mutex::new(Disk::open(real, left).expect("the directories of the disk can be used")))
    });
    let seen = disk.as_ref().map(|disk| act(&mut disk.lock().unwrap_or_else(PoisonError::into_inner)));
    INSIDE.set(false);
    seen
}

/// # Safety
/// `path` is a string of C that outlives the result.
unsafe fn path_of<'p>(path: *const c_char) -> &'p Path {
    // SAFETY: the caller's promise.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()))
}

/// Makes a system call of the kernel itself: nobody stands between it and us.
macro_rules! call {
    ($number:expr $(, $argument:expr)*) => {
        // SAFETY: the arguments are those with which the C library's function of this name was called.
        unsafe { libc::syscall($number $(, $argument as c_long)*) }
    };
}

/// # Safety
/// As of `open`.
unsafe fn open_at(directory: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: whoever calls `open` gives a string.
    let name = unsafe { path_of(path) };
    let is_new = INSIDE.get() || !name.exists_without_us();
    let fd = call!(libc::SYS_openat, directory, path, flags, mode) as c_int;
    if fd >= 0 && directory == libc::AT_FDCWD {
        let creates = flags & libc::O_CREAT != 0 && is_new;
        with_disk(|disk| disk.opened(fd, name, creates, flags & libc::O_TRUNC != 0));
    }
    fd
}

trait ExistsWithoutUs {
    fn exists_without_us(&self) -> bool;
}

impl ExistsWithoutUs for Path {
    /// Whether there is something of this name; no call of it is taken for one of the program.
    fn exists_without_us(&self) -> bool {
        INSIDE.set(true);
        let exists = self.symlink_metadata().is_ok();
        INSIDE.set(false);
        exists
    }
}

macro_rules! opens {
    ($($name:ident),*) => {$(
        /// # Safety
        /// As of the function of this name in the C library.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
            // SAFETY: the caller's promise.
            unsafe { open_at(libc::AT_FDCWD, path, flags, mode) }
        }
    )*};
}
opens!(open, open64);

macro_rules! opens_at {
    ($($name:ident),*) => {$(
        /// # Safety
        /// As of the function of this name in the C library.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(directory: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
            // SAFETY: the caller's promise.
            unsafe { open_at(directory, path, flags, mode) }
        }
    )*};
}
opens_at!(openat, openat64);

/// # Safety
/// As of `close`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    with_disk(|disk| disk.closed(fd));
    call!(libc::SYS_close, fd) as c_int
}

/// # Safety
/// As of `write`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, bytes: *const libc::c_void, len: size_t) -> ssize_t {
    let written = call!(libc::SYS_write, fd, bytes, len) as ssize_t;
    note_written(fd, written);
    written
}

/// Lets the bookkeeping see what was written at the place where the file stands.
fn note_written(fd: c_int, written: ssize_t) {
    if written > 0 {
        // The place behind what was written: also right for a file that is appended to.
        let end = call!(libc::SYS_lseek, fd, 0, libc::SEEK_CUR);
        if end >= 0 {
            with_disk(|disk| disk.written(fd, (end - written as c_long) as u64, written as u64));
        }
    }
}

macro_rules! writes_at {
    ($($name:ident),*) => {$(
        /// # Safety
        /// As of the function of this name in the C library.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(fd: c_int, bytes: *const libc::c_void, len: size_t, at: off_t) -> ssize_t {
            let written = call!(libc::SYS_pwrite64, fd, bytes, len, at) as ssize_t;
            if written > 0 {
                with_disk(|disk| disk.written(fd, at as u64, written as u64));
            }
            written
        }
    )*};
}
writes_at!(pwrite, pwrite64);

/// # Safety
/// As of `writev`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    let written = call!(libc::SYS_writev, fd, parts, count) as ssize_t;
    note_written(fd, written);
    written
}

macro_rules! syncs {
    ($($name:ident $number:ident),*) => {$(
        /// # Safety
        /// As of the function of this name in the C library.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(fd: c_int) -> c_int {
            let done = call!(libc::$number, fd) as c_int;
            if done == 0 {
                with_disk(|disk| disk.synced(fd).expect("what is left can be written"));
            }
            done
        }
    )*};
}
syncs!(fsync SYS_fsync, fdatasync SYS_fdatasync);

/// # Safety
/// As of `rename`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let done = call!(libc::SYS_renameat, libc::AT_FDCWD, from, libc::AT_FDCWD, to) as c_int;
    if done == 0 {
        // SAFETY: whoever calls `rename` gives two strings.
        let (from, to) = unsafe { (path_of(from), path_of(to)) };
        with_disk(|disk| disk.renamed(from, to));
    }
    done
}

/// # Safety
/// As of `link`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn link(from: *const c_char, to: *const c_char) -> c_int {
    let done = call!(libc::SYS_linkat, libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0) as c_int;
    if done == 0 {
        // SAFETY: whoever calls `link` gives two strings.
        let (from, to) = unsafe { (path_of(from), path_of(to)) };
        with_disk(|disk| disk.linked(from, to));
    }
    done
}

/// # Safety
/// As of `unlink`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    let done = call!(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0) as c_int;
    if done == 0 {
        // SAFETY: whoever calls `unlink` gives a string.
        let path = unsafe { path_of(path) };
        with_disk(|disk| disk.unlinked(path));
    }
    done
}
