//! The state file: what a contender says of itself to scripts that must not go on without the lock. One small JSON
//! file, replaced atomically. `report/state.rs` keeps it true, the guard removes it when leader-run has died, and
//! `leader-run assert` reads it.

use crate::clock::Instant;
use crate::exit::Refusal;
use crate::text::duration;
use crate::text::shown;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc::c_int;
use nix::sys::stat::Mode;
use nix::unistd::{read, unlink};
use serde_json::{Value, json};
use std::ffi::{CString, OsStr};
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, absolute};
use std::time::Duration;

/// Where the child finds its absolute path.
pub const VARIABLE: &str = "LEADER_ELECTION_STATE_FILE";

/// No state file is longer: in bytes.
const LONGEST: u64 = 64 * 1024;

/// What a contender is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It holds the lock until the deadline.
    Leader,
    /// It waits for the lock.
    Standby,
    /// It led, and does so no more: the lock is lost, or about to be given back.
    Lost,
}

const ROLES: [(Role, &str); 3] = [(Role::Leader, "leader"), (Role::Standby, "standby"), (Role::Lost, "lost")];

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// What the contender is.
    pub role: Role,
    /// Who it is.
    pub identity: String,
    /// The type of the lock.
    pub lock: String,
    /// Where the lock lives.
    pub namespace: String,
    /// The lock's name.
    pub name: String,
    /// Who holds the lock, as far as it knows.
    pub holder: Option<String>,
    /// The term of a leader.
    pub term: Option<Term>,
    /// Which boot of the machine the deadline is of.
    pub boot_id: String,
}

/// What a leader says of its term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// The fencing token.
    pub token: String,
    /// How often the lock has changed hands.
    pub transitions: i64,
    /// When its tree is dead at the latest, unless the lock is renewed.
    pub deadline: Instant,
}

impl State {
    /// The lock, as people are told of it.
    pub fn shown(&self) -> String {
        let lock = if self.lock == "file" { "file lock" } else { &self.lock };
        format!("{} {}/{}", shown(lock), shown(&self.namespace), shown(&self.name))
    }

    /// How much longer the lock is held for sure.
    ///
    /// # Errors
    /// Why it is not held.
    pub fn left(&self, boot_id: &str, now: Instant) -> Result<Duration, String> {
        let lock = self.shown();
        let holder = self.holder.iter().filter(|holder| **holder != self.identity);
        let held: String = holder.map(|holder| format!(", which {} holds", shown(holder))).collect();
        let term = match (self.role, &self.term) {
            _ if self.boot_id != boot_id => return Err(format!("the state of {lock} is from before the last boot")),
            (Role::Leader, Some(term)) => term,
            (Role::Standby, _) => return Err(format!("still waiting for {lock}{held}")),
            _ => return Err(format!("no longer leading {lock}{held}")),
        };
        let left = term.deadline.leader_left(now);
        match left.is_zero() {
            true => Err(format!(
                "no longer leading {lock}: its deadline passed {} ago",
                duration(now.leader_since(term.deadline))
            )),
            false => Ok(left),
        }
    }

    /// What this text of a state file says, if it is one.
    pub fn parse(text: &[u8]) -> Option<State> {
        let value: Value = serde_json::from_slice(text).ok()?;
        let text = |name: &str| Some(value.get(name)?.as_str()?.to_owned());
        let nanos = |clock: &str| Some(Duration::from_nanos(value.get("deadline")?.get(clock)?.as_u64()?));
        let term = || {
            let deadline = Instant { boot: nanos("CLOCK_BOOTTIME")?, raw: nanos("CLOCK_MONOTONIC_RAW")? };
            Some(Term { token: text("token")?, transitions: value.get("transitions")?.as_i64()?, deadline })
        };
        let role = text("role")?;
        Some(State {
            role: ROLES.iter().find(|(_, name)| *name == role)?.0,
            identity: text("identity")?,
            lock: text("lock")?,
            namespace: text("namespace")?,
            name: text("name")?,
            holder: text("holder"),
            term: term(),
            boot_id: text("bootId")?,
        })
    }

    /// The text of the file, which begins with `writer`.
    fn text(&self, writer: &str) -> String {
        let mut value = json!({
            "role": ROLES.iter().find(|(role, _)| *role == self.role).map(|(_, name)| name),
            "identity": self.identity,
            "lock": self.lock,
            "namespace": self.namespace,
            "name": self.name,
            "holder": self.holder,
            "bootId": self.boot_id,
        });
        if let Some(term) = &self.term {
            value["token"] = term.token.as_str().into();
            value["transitions"] = term.transitions.into();
            value["deadline"] = json!({
                "CLOCK_BOOTTIME": term.deadline.boot.as_nanos() as u64,
                "CLOCK_MONOTONIC_RAW": term.deadline.raw.as_nanos() as u64,
            });
        }
        format!("{writer}{}\n", value.to_string().trim_start_matches('{'))
    }
}

/// The state file of this process. That of another one is only ever replaced, by a leader or where it promises
/// nothing any more, and never removed.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: CString,
    /// What is renamed to it once it is written.
    temporary: CString,
    /// What it begins with, as no other process's does.
    writer: String,
    /// Of this boot.
    boot_id: String,
}

impl StateFile {
    /// Names it, and touches nothing. The number tells this process from all others.
    ///
    /// # Errors
    /// When it cannot have this path, or the system does not say which boot this is.
    pub fn new(path: &Path, number: u64) -> Result<StateFile, Refusal> {
        let refuse = |why: &str| Refusal::new(format!("--state-file {} {why}", path.display()));
        let whole = absolute(path)?;
        // The child finds it in its environment, beside other text.
        let text = whole.to_str().ok_or_else(|| refuse("must be UTF-8"))?;
        let name = whole.file_name().filter(|_| !text.ends_with('/')).ok_or_else(|| refuse("must name a file"))?;
        let temporary = whole.with_file_name(format!(".{}.{number:016x}", name.to_string_lossy()));
        let c_string = |path: &OsStr| CString::new(path.as_bytes()).map_err(|_| refuse("must have no NUL in it"));
        Ok(StateFile {
            path: c_string(whole.as_os_str())?,
            temporary: c_string(temporary.as_os_str())?,
            writer: format!("{{\"writer\":\"{number:016x}\","),
            boot_id: boot_id().map_err(|error| refuse(&format!("needs this boot's number: {error}")))?,
        })
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(self.path.as_bytes()))
    }

    /// The boot that its deadlines are of.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Makes sure that it can be written.
    ///
    /// # Errors
    /// One line that says why not.
    pub fn try_out(&self) -> Result<(), Refusal> {
        let path = self.path().display();
        if self.path().symlink_metadata().is_ok_and(|there| !there.is_file()) {
            return Err(Refusal::new(format!("--state-file {path} is there, and is no plain file; give another path")));
        }
        let written = self.write_temporary("");
        let _ = unlink(&*self.temporary);
        written.map_err(|error| {
            Refusal::new(format!(
                "--state-file {path} cannot be written: {error}; its folder must be there and writable"
            ))
        })
    }

    /// Replaces it.
    ///
    /// # Errors
    /// Why it could not be written; what was there before is still there.
    pub fn write(&self, state: &State) -> io::Result<()> {
        let temporary = Path::new(OsStr::from_bytes(self.temporary.as_bytes()));
        let written = self.write_temporary(&state.text(&self.writer)).and_then(|()| fs::rename(temporary, self.path()));
        if written.is_err() {
            let _ = unlink(&*self.temporary);
        }
        written
    }

    fn write_temporary(&self, text: &str) -> io::Result<()> {
        let temporary = Path::new(OsStr::from_bytes(self.temporary.as_bytes()));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o644).custom_flags(OFlag::O_NOFOLLOW.bits());
        options.open(temporary)?.write_all(text.as_bytes())
    }

    /// Whether it is the file of another contender that leads.
    pub fn is_anothers(&self, identity: &str) -> bool {
        let there = read_file(self.path()).ok().filter(|text| !text.starts_with(self.writer.as_bytes()));
        let state = there.and_then(|text| State::parse(&text)).filter(|state| state.identity != identity);
        state.is_some_and(|state| state.left(&self.boot_id, Instant::now()).is_ok())
    }

    /// Removes it, where it is ours. Allocates nothing, so that the guard can do it at any time.
    ///
    /// # Errors
    /// Why it could not be removed, if it is there.
    pub fn remove(&self) -> nix::Result<()> {
        let mut start = [0; 32];
        let _ = unlink(&*self.temporary);
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let removed = open(&*self.path, flags, Mode::empty()).and_then(|file| {
            let length = read(&file, &mut start)?;
            match start[..length].starts_with(self.writer.as_bytes()) {
                true => unlink(&*self.path),
                false => Ok(()),
            }
        });
        removed.or_else(|error| if error == Errno::ENOENT { Ok(()) } else { Err(error) })
    }
}

/// Reads a state file, and waits for nothing that is no file.
///
/// # Errors
/// When it is not there, or is not readable.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let flags: c_int = OFlag::O_NONBLOCK.bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text)?;
    Ok(text)
}

/// The number of this boot of the machine.
///
/// # Errors
/// When the system does not say.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::allocations;

    fn at(seconds: u64) -> Instant {
        Instant { boot: Duration::from_secs(seconds), raw: Duration::from_secs(seconds + 1) }
    }

    fn leader(identity: &str, deadline: Instant) -> State {
        State {
            role: Role::Leader,
            identity: identity.into(),
            lock: "lease".into(),
            namespace: "ops".into(),
            name: "demo".into(),
            holder: Some(identity.into()),
            term: Some(Term { token: "17".into(), transitions: 3, deadline }),
            boot_id: boot_id().unwrap(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let standby = State { role: Role::Standby, term: None, holder: None, ..leader("{\"a\n", at(0)) };
        for state in [leader("a", at(1_000_000_000)), standby] {
            assert_eq!(State::parse(state.text("{\"writer\":\"17\",").as_bytes()), Some(state));
        }
        for text in ["", "{}", "[]", "{\"role\":\"leader\"}"] {
            assert_eq!(State::parse(text.as_bytes()), None);
        }
    }

    #[test]
    fn only_a_leader_before_its_deadline_on_both_clocks_holds_the_lock() {
        let state = leader("a", at(100));
        let left = |state: &State, now| state.left(&state.boot_id, now);
        assert_eq!(left(&state, at(98)), Ok(Duration::from_secs(2)));
        // One of the clocks has passed it, by a suspend or by its rate.
        for now in [Instant { boot: at(100).boot, ..at(1) }, Instant { raw: at(102).raw, ..at(1) }] {
            assert!(left(&state, now).unwrap_err().contains("deadline passed"));
        }
        assert!(state.left("another", at(98)).unwrap_err().contains("boot"));
        for role in [Role::Standby, Role::Lost] {
            let words = left(&State { role, holder: Some("b\n".into()), ..state.clone() }, at(98)).unwrap_err();
            assert!(words.contains("b\\n holds") && !words.contains('\n'), "{words}");
        }
        left(&State { term: None, ..state }, at(98)).unwrap_err();
    }

    #[test]
    fn what_is_another_process_s_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let [one, other] = [1, 2].map(|number| StateFile::new(&path, number).unwrap());
        one.try_out().unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        one.remove().unwrap();
        one.write(&leader("one", Instant::now().plus(Duration::from_secs(60)))).unwrap();
        assert!(other.is_anothers("other") && !other.is_anothers("one") && !one.is_anothers("one"));
        other.remove().unwrap();
        assert!(State::parse(&read_file(&path).unwrap()).is_some());
        one.write(&leader("one", Instant::now())).unwrap();
        assert!(!other.is_anothers("other"), "it promises nothing any more");
        assert_eq!(allocations::during(|| one.remove().unwrap()), 0);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::create_dir(&path).unwrap();
        assert!(one.try_out().unwrap_err().message.contains("no plain file"));
    }
}
