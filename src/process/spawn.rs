//! Starting the command.

use crate::clock::Instant;
use crate::exit;
use crate::guard::core::{NotExecuted, is_too_late};
use crate::mutant::Mutant;
use crate::process::command::is_left_out;
use crate::process::namespace::{self, Namespace};
use crate::process::terminal;
use crate::state_file::StateFile;
use crate::sys::{self, Scheduling};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc::{self, SIGKILL};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{Pid, execve, getpid, getppid, pipe2, read, setpgid, write};
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What it takes to start the child, all of it known before contending.
#[derive(Debug)]
pub struct Plan {
    /// The program to execute.
    pub program: PathBuf,
    /// The command as it was typed, which becomes its `argv[0]`.
    pub name: OsString,
    /// Its arguments, untouched.
    pub args: Vec<OsString>,
    /// The signal mask to give back to it: the one leader-run was started with.
    pub mask: SigSet,
    /// And how leader-run was scheduled.
    pub scheduling: Scheduling,
    /// Whether it takes leader-run's place on the terminal, if leader-run has it then.
    pub terminal: bool,
    /// Whether it is started in a PID namespace of its own.
    pub pid_namespace: bool,
    /// Removed when leader-run has died.
    pub state_file: Option<StateFile>,
    /// What gives back the lock when leader-run has died.
    pub again: Again,
}

/// A child that was forked and is about to execute COMMAND.
#[derive(Debug)]
pub struct Starting {
    /// Its process id.
    pub pid: Pid,
    /// The PID namespace that was made for it, if one was.
    pub namespace: Option<Namespace>,
    /// Where it says how its start goes.
    pub start: StartPipe,
}

/// The guard's end of a pipe that the child holds until it executes COMMAND or ends.
#[derive(Debug)]
pub struct StartPipe {
    pipe: OwnedFd,
    ready: bool,
}

/// What a child says of its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartNews {
    /// Nothing yet.
    Pending,
    /// It executes COMMAND.
    Executed,
    /// It ends without having executed COMMAND.
    NotExecuted(NotExecuted),
    /// It has died before it could say anything: its wait status tells.
    Dead,
}

/// Through the pipe: everything is done but the last look at the clock and execve.
const READY: i32 = 0;
/// Through the pipe: the last look at the clock says that it is too late. Any other number is an `errno`.
const LATE: i32 = -1;

impl StartPipe {
    /// The latest news. Does not wait, and does not allocate.
    pub fn read(&mut self) -> StartNews {
        loop {
            let mut number = [0; 4];
            match read(&self.pipe, &mut number) {
                Ok(4) => match i32::from_le_bytes(number) {
                    READY => self.ready = true,
                    LATE => return StartNews::NotExecuted(NotExecuted::Late),
                    errno => return StartNews::NotExecuted(NotExecuted::Failed(errno)),
                },
                // Closed by execve, or by a death.
                Ok(_) if self.ready => return StartNews::Executed,
                Ok(_) => return StartNews::Dead,
                Err(Errno::EINTR) => {}
                Err(_) => return StartNews::Pending,
            }
        }
    }
}

impl AsFd for StartPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// Forks the child, in the foreground of the terminal or not. It executes COMMAND with these additions to its
/// environment, unless its clocks are past `until` (S+R) then. Does not wait for that.
///
/// # Errors
/// The `errno` of what failed before the child was there.
pub fn spawn(plan: &Plan, foreground: bool, additions: &[String], until: Instant) -> Result<Starting, i32> {
    if plan.pid_namespace {
        let (namespace, (pid, start)) = Namespace::with(|| fork_child(plan, foreground, additions, until))?;
        return Ok(Starting { pid, namespace: Some(namespace), start });
    }
    let (pid, start) = fork_child(plan, foreground, additions, until)?;
    Ok(Starting { pid, namespace: None, start })
}

fn fork_child(plan: &Plan, foreground: bool, additions: &[String], until: Instant) -> Result<(Pid, StartPipe), i32> {
    let number = |errno: Errno| errno as i32;
    let program = c_string(plan.program.as_os_str())?;
    let args = [&plan.name].into_iter().chain(&plan.args).map(|arg| c_string(arg)).collect::<Result<Vec<_>, _>>()?;
    let env = environment(additions)?;
    let guard = getpid();
    let (pipe, tell) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(number)?;
    let looks = !Mutant::NoLookBeforeExec.is_on();
    let child = sys::fork_to_exec(|| {
        let say = |number: i32| {
            let _ = write(&tell, &number.to_le_bytes());
        };
        let prepared = prepare(plan, foreground, guard).map(|()| say(READY));
        if prepared.is_ok() && looks && is_too_late(Instant::now(), until) {
            say(LATE);
        } else {
            // Not left to the library, which has a shell try a file that is not executable.
            let Err(failed) = prepared.and_then(|()| execve(&program, &args, &env));
            say(failed as i32);
        }
        exit::OWN_FAILURE
    });
    Ok((child.map_err(number)?, StartPipe { pipe, ready: false }))
}

/// Prepares a copy of the guard for COMMAND: its group, terminal, signals and scheduling. Makes system calls only.
fn prepare(plan: &Plan, foreground: bool, guard: Pid) -> nix::Result<()> {
    plan.scheduling.apply();
    sys::reset_sigpipe();
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    if foreground {
        terminal::give_to(getpid());
    }
    // A backstop only: it is bound to the guard's one thread, and lost when the child changes its user.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if plan.pid_namespace {
        // There the guard has no number, but then its init, too, dies with it.
        namespace::mount_proc()?;
    } else if getppid() != guard {
        // The guard died before that took effect.
        sys::kill(getpid(), SIGKILL)?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&plan.mask), None)
}

/// How leader-run itself is run again by its guard.
#[derive(Debug)]
pub struct Again {
    /// The arguments it was given, its own name first.
    pub args: Vec<OsString>,
}

impl Again {
    /// Has it give back the lock of the term with this record, in this time, and waits for its end. It finds all else
    /// as the first one did.
    ///
    /// # Errors
    /// Whatever keeps the system from running it.
    pub fn release(&self, plan: &Plan, record: &str, within: Duration) -> io::Result<()> {
        let mut command = Command::new("/proc/self/exe");
        let (name, args) = self.args.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        command.arg0(name).arg("--crash-release").arg(format!("{}:{record}", within.as_millis())).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let (mask, scheduling) = (plan.mask, plan.scheduling);
        sys::before_exec(&mut command, move || {
            scheduling.apply();
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?)
        });
        command.status().map(drop)
    }
}

/// What was inherited, without our own options, and with these additions in place of what has their names.
fn environment(additions: &[String]) -> Result<Vec<CString>, i32> {
    let added =
        |name: &OsStr| additions.iter().any(|addition| addition.split_once('=').is_some_and(|(n, _)| n == name));
    let inherited = std::env::vars_os().filter(|(name, _)| !is_left_out(name) && !added(name));
    let inherited = inherited.map(|(mut variable, value)| {
        variable.push("=");
        variable.push(value);
        variable
    });
    inherited.chain(additions.iter().map(OsString::from)).map(|variable| c_string(&variable)).collect()
}

fn c_string(text: &OsStr) -> Result<CString, i32> {
    CString::new(text.as_bytes()).map_err(|_| libc::EINVAL)
}
