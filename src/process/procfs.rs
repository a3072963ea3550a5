//! Reading /proc without allocating: whose child a process is, and which children it has.
//!
//! The guard kills with this, when memory may be what the machine is short of.

use crate::sys;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getpid, read};
use std::ffi::CStr;
use std::fmt::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

/// Enough for a `stat` up to the parent, and for a good many children or folder entries a call.
const CHUNK: usize = 2048;

/// Hands each child of each thread of this process to `found`, which says whether it wants more. A process
/// that has ended meanwhile has none.
///
/// # Errors
/// What keeps the lists from being read; ENOENT too where this kernel keeps none.
pub fn children(pid: Pid, mut found: impl FnMut(Pid) -> bool) -> nix::Result<()> {
    let threads = thread_folder(pid)?;
    numbered_entries(&threads, |thread| {
        let list = Path::of(format_args!("{thread}/children"));
        match openat(&threads, list.as_c_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(list) => numbers(&list, |child| found(Pid::from_raw(child))),
            // That thread has ended.
            Err(Errno::ENOENT) => Ok(true),
            Err(error) => Err(error),
        }
    })
}

/// Hands each thread of this process to `found`.
///
/// # Errors
/// What keeps /proc from being read.
pub fn threads(pid: Pid, found: impl Fn(Pid)) -> nix::Result<()> {
    numbered_entries(&thread_folder(pid)?, |thread| {
        found(Pid::from_raw(thread));
        Ok(true)
    })
}

/// Hands every process there is to `found`, which says whether it wants more.
///
/// # Errors
/// What keeps /proc from being read.
pub fn processes(mut found: impl FnMut(Pid) -> bool) -> nix::Result<()> {
    numbered_entries(&folder(c"/proc")?, |process| Ok(found(Pid::from_raw(process))))
}

/// Whether /proc has the numbers of our own PID namespace. With another's we would kill strangers.
pub fn is_ours() -> bool {
    std::fs::read_link("/proc/self").is_ok_and(|link| link.as_os_str() == getpid().to_string().as_str())
}

/// The parent of a process, if there is such a process.
pub fn parent(pid: Pid) -> Option<Pid> {
    let path = Path::of(format_args!("/proc/{pid}/stat"));
    let file = open(path.as_c_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    let mut buffer = [0; CHUNK];
    let length = read(&file, &mut buffer).ok()?;
    parent_in(&buffer[..length])
}

/// The parent in the text of a `stat`. The name in brackets may contain anything; the state and the parent
/// come after it.
fn parent_in(stat: &[u8]) -> Option<Pid> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let parent = stat[end..].split(|byte| *byte == b' ').nth(2)?;
    Some(Pid::from_raw(std::str::from_utf8(parent).ok()?.parse().ok()?))
}

fn thread_folder(pid: Pid) -> nix::Result<OwnedFd> {
    folder(Path::of(format_args!("/proc/{pid}/task")).as_c_str())
}

fn folder(path: &CStr) -> nix::Result<OwnedFd> {
    open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// The entries of a folder whose names are numbers. Stops where `found` says false or fails.
fn numbered_entries(folder: &OwnedFd, mut found: impl FnMut(i32) -> nix::Result<bool>) -> nix::Result<()> {
    /// Where the kernel puts an entry's length, and its name.
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    let mut buffer = [0; CHUNK];
    loop {
        let mut entries = match sys::read_folder(folder.as_fd(), &mut buffer)? {
            0 => return Ok(()),
            length => &buffer[..length],
        };
        while entries.len() > NAME {
            let length = u16::from_ne_bytes([entries[LENGTH], entries[LENGTH + 1]]);
            let (entry, rest) = entries.split_at_checked(length.into()).ok_or(Errno::EIO)?;
            entries = rest;
            let name = entry.get(NAME..).and_then(|name| CStr::from_bytes_until_nul(name).ok());
            if let Some(number) = name.and_then(|name| name.to_str().ok()?.parse().ok())
                && !found(number)?
            {
                return Ok(());
            }
        }
    }
}

/// The numbers in a file, separated by blanks. Stops, and says false, where `found` does.
fn numbers(file: &OwnedFd, mut found: impl FnMut(i32) -> bool) -> nix::Result<bool> {
    let mut buffer = [0; CHUNK];
    // One that has begun; it may go on in the next chunk.
    let mut begun: Option<i32> = None;
    loop {
        let chunk = match read(file, &mut buffer) {
            Ok(0) | Err(Errno::ESRCH) => return Ok(begun.is_none_or(found)),
            Ok(length) => &buffer[..length],
            Err(error) => return Err(error),
        };
        for byte in chunk {
            match byte {
                b'0'..=b'9' => {
                    let digit = i32::from(byte - b'0');
                    begun = Some(begun.unwrap_or(0).checked_mul(10).ok_or(Errno::EIO)? + digit);
                }
                _ if begun.take().is_some_and(|number| !found(number)) => return Ok(false),
                _ => {}
            }
        }
    }
}

/// A path on the stack.
struct Path {
    bytes: [u8; Path::ROOM],
    length: usize,
}

impl Path {
    /// The longest is `/proc/<pid>/task`.
    const ROOM: usize = 48;

    fn of(text: fmt::Arguments<'_>) -> Path {
        let empty = || Path { bytes: [0; Path::ROOM], length: 0 };
        let mut path = empty();
        // What does not fit names nothing.
        path.write_fmt(text).map_or_else(|_| empty(), |()| path)
    }

    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

impl Write for Path {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        // The last byte stays zero.
        let room = self.bytes[..Path::ROOM - 1].get_mut(self.length..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    #[test]
    fn a_parent_is_found_behind_any_name() {
        assert_eq!(parent_in(b"12 (sh) S 7 12 12 0"), Some(Pid::from_raw(7)));
        assert_eq!(parent_in(b"12 (a) R 1 ) S 9 12"), Some(Pid::from_raw(9)));
        assert_eq!(parent_in(b"12 (sh) S"), None);
        assert_eq!(parent_in(b""), None);
    }

    #[test]
    fn numbers_may_cross_the_border_of_two_chunks() {
        let mut file = tempfile::tempfile().unwrap();
        let all: Vec<i32> = (1..5000).map(|number| number * 31).collect();
        for number in &all {
            write!(file, "{number} ").unwrap();
        }
        let read_all = |mut file: std::fs::File, limit: usize| {
            file.rewind().unwrap();
            let mut found = Vec::new();
            let more = numbers(&file.into(), |number| {
                found.push(number);
                found.len() < limit
            });
            (more.unwrap(), found)
        };
        assert_eq!(read_all(file.try_clone().unwrap(), usize::MAX), (true, all.clone()));
        assert_eq!(read_all(file.try_clone().unwrap(), 3), (false, all[..3].to_vec()));
    }

    #[test]
    fn paths_that_do_not_fit_name_nothing() {
        assert_eq!(Path::of(format_args!("/proc/{}/task", i32::MAX)).as_c_str(), c"/proc/2147483647/task");
        assert_eq!(folder(Path::of(format_args!("/{}", "x".repeat(60))).as_c_str()).unwrap_err(), Errno::ENOENT);
    }
}
