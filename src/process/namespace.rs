//! A PID namespace of the tree's own: `--pid-namespace`.
//!
//! Its first process, the namespace's init, is a child of the guard, and the kernel kills everybody in the
//! namespace when it dies. It dies with the guard. So the tree is dead even if leader-run and the guard are killed
//! at the same moment, and a fork bomb dies in one blow. The child's parent is still the guard.

use crate::exit::Refusal;
use crate::sys;
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid};
use std::convert::Infallible;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A namespace with its init.
#[derive(Debug)]
pub struct Namespace {
    init: Pid,
    /// The way to init, as long as that is alive.
    socket: Option<OwnedFd>,
}

impl Namespace {
    /// Makes a namespace and has `start` fork the first process in it.
    ///
    /// # Errors
    /// The `errno` of what failed. Then nobody is left in it.
    pub fn with<T>(start: impl FnOnce() -> Result<T, i32>) -> Result<(Namespace, T), i32> {
        let number = |errno: Errno| errno as i32;
        let home = File::open("/proc/self/ns/pid").map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
        // Only what is forked from now on is in it, the first one as its init.
        unshare(CloneFlags::CLONE_NEWPID).map_err(number)?;
        let started = Namespace::new().map_err(number).and_then(|namespace| match start() {
            Ok(started) => Ok((namespace, started)),
            Err(error) => {
                namespace.end();
                Err(error)
            }
        });
        match setns(home, CloneFlags::CLONE_NEWPID) {
            Ok(()) => started,
            Err(error) => started.and_then(|(namespace, _)| {
                namespace.end();
                Err(number(error))
            }),
        }
    }

    fn new() -> nix::Result<Namespace> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        match sys::fork()? {
            ForkResult::Parent { child } => Ok(Namespace { init: child, socket: Some(ours) }),
            ForkResult::Child => {
                let Err(error) = serve(theirs);
                sys::exit_now(error as i32)
            }
        }
    }

    /// Kills everybody in it.
    fn end(self) {
        let _ = kill(self.init, Signal::SIGKILL);
        let _ = waitpid(self.init, None);
    }

    /// Asks init what the child, which has ended, has left behind: if nothing, init ends.
    pub fn child_ended(&self) {
        if let Some(socket) = &self.socket {
            let _ = send(socket.as_raw_fd(), &[0], MsgFlags::MSG_NOSIGNAL);
        }
    }

    /// Whether init has answered that others are alive.
    pub fn has_others(&mut self) -> bool {
        match self.socket.as_ref().map(|socket| recv(socket.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT)) {
            Some(Ok(1)) => true,
            Some(Err(Errno::EAGAIN | Errno::EINTR)) | None => false,
            Some(Ok(_) | Err(_)) => {
                // Readable for ever, from now on.
                self.socket = None;
                false
            }
        }
    }

    /// What is readable when init has answered.
    pub fn answer(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }
}

/// What the init does: reaps orphans. When it hears that the child has ended it ends too, or says that others are
/// alive and ends after them. When the guard is gone it ends at once, and with it everybody.
fn serve(socket: OwnedFd) -> nix::Result<Infallible> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let socket = sys::close_all_but(socket)?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    let mut chld = SigSet::empty();
    chld.add(Signal::SIGCHLD);
    let signals = SignalFd::with_flags(&chld, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut child_ended = false;
    loop {
        while let Ok(Some(_)) = signals.read_signal() {}
        let asked = match recv(socket.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) {
            Ok(0) => sys::exit_now(0),
            Ok(_) => true,
            Err(Errno::EAGAIN | Errno::EINTR) => false,
            Err(error) => return Err(error),
        };
        child_ended |= asked;
        let is_alone = loop {
            match sys::reap_one() {
                Ok(Some(_)) | Err(Errno::EINTR) => {}
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        if child_ended && is_alone {
            sys::exit_now(0);
        }
        if asked {
            send(socket.as_raw_fd(), &[0], MsgFlags::MSG_NOSIGNAL)?;
        }
        let mut fds = [signals.as_fd(), socket.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Has a process of the namespace see only that in /proc. Makes system calls only.
///
/// # Errors
/// When mounting is not permitted.
pub fn mount_proc() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing = None::<&[u8]>;
    // What is mounted here stays here; what is unmounted outside goes here too.
    mount(nothing, c"/", nothing, MsFlags::MS_REC | MsFlags::MS_SLAVE, nothing)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(c"proc"), c"/proc", Some(c"proc"), flags, nothing)
}

/// Makes a namespace and ends it again, to know before contending whether that is permitted.
///
/// # Errors
/// That it is not, and what to do.
pub fn try_out() -> Result<(), Refusal> {
    sys::reset_sigchld();
    let tried = Namespace::with(|| match sys::fork() {
        Ok(ForkResult::Parent { child }) => match waitpid(child, None) {
            Ok(nix::sys::wait::WaitStatus::Exited(_, 0)) => Ok(()),
            Ok(nix::sys::wait::WaitStatus::Exited(_, errno)) => Err(errno),
            _ => Err(libc::EIO),
        },
        Ok(ForkResult::Child) => sys::exit_now(mount_proc().err().map_or(0, |errno| errno as i32)),
        Err(error) => Err(error as i32),
    });
    match tried {
        Ok((namespace, ())) => {
            namespace.end();
            Ok(())
        }
        Err(error) => Err(Refusal::new(format!(
            "--pid-namespace is not possible here: {}; it needs the rights of root (CAP_SYS_ADMIN)",
            Errno::from_raw(error).desc()
        ))),
    }
}
