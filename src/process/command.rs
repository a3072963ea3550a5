//! Finding the command, and what of our environment it must not inherit.

use crate::state_file;
use nix::unistd::{AccessFlags, access};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Whether what leader-run starts must not inherit this variable: one of its own options, or where to find the state
/// file of a leader-run above it, which has another lock.
pub fn is_left_out(variable: &OsStr) -> bool {
    variable.as_bytes().starts_with(b"LEADER_RUN_") || variable == state_file::VARIABLE
}

/// Why a command cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// It is there, but is no program that this user may execute.
    NotExecutable,
    /// There is no such file.
    NotFound,
}

/// Finds the command as a shell would: by its path where it has a slash, else in `PATH`.
///
/// # Errors
/// Says what is wrong with it, so that it is known before contending.
pub fn look_up(command: &OsStr) -> Result<PathBuf, Missing> {
    if command.is_empty() {
        return Err(Missing::NotFound);
    }
    if command.as_bytes().contains(&b'/') {
        return executable(Path::new(command));
    }
    let mut missing = Missing::NotFound;
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    for folder in std::env::split_paths(&path) {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
        match executable(&folder.join(command)) {
            Ok(found) => return Ok(found),
            Err(Missing::NotExecutable) => missing = Missing::NotExecutable,
            Err(Missing::NotFound) => {}
        }
    }
    Err(missing)
}

fn executable(path: &Path) -> Result<PathBuf, Missing> {
    match path.metadata() {
        Ok(file) if file.is_file() && access(path, AccessFlags::X_OK).is_ok() => Ok(path.to_owned()),
        Ok(_) => Err(Missing::NotExecutable),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Missing::NotExecutable),
        Err(_) => Err(Missing::NotFound),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_found_as_a_shell_finds_it() {
        assert!(look_up(OsStr::new("sh")).unwrap().ends_with("sh"));
        assert_eq!(look_up(OsStr::new("no-such-command-anywhere")), Err(Missing::NotFound));
        assert_eq!(look_up(OsStr::new("/etc/no-such-file")), Err(Missing::NotFound));
        assert_eq!(look_up(OsStr::new("")), Err(Missing::NotFound), "not the directories of PATH");
        assert_eq!(look_up(OsStr::new("/etc/passwd")), Err(Missing::NotExecutable));
        assert_eq!(look_up(OsStr::new("/tmp")), Err(Missing::NotExecutable));
    }
}
