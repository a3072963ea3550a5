//! The guard: a process that is the parent of the tree, and the handle that leader-run holds of it.

pub mod core;
mod main;
pub mod wire;

use crate::process::procfs;
use crate::process::spawn::Plan;
use crate::process::terminal::Place;
use crate::process::tree;
use crate::sys::{self, Watched};
use core::{FromGuard, ToGuard};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::unistd::{ForkResult, Pid, getpgrp, getpid};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// The guard process, before there is a runtime to talk to it.
#[derive(Debug)]
pub struct Forked {
    socket: OwnedFd,
    pid: Pid,
    place: Option<Place>,
}

/// Forks the guard. To be called before any thread, runtime or connection exists.
///
/// # Errors
/// Whatever kept the system from giving us a socket pair or another process.
pub fn fork_guard(plan: Plan, settings: core::Settings) -> io::Result<Forked> {
    if !procfs::is_ours() {
        return Err(io::Error::other("/proc is not that of this PID namespace; mount it anew (unshare --mount-proc)"));
    }
    sys::reset_sigchld();
    // Should the guard die, its orphans become ours to kill.
    prctl::set_child_subreaper(true)?;
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    let parent = getpid();
    match sys::fork()? {
        ForkResult::Parent { child } => Ok(Forked { socket: ours, pid: child, place: Place::of(getpgrp()) }),
        ForkResult::Child => {
            drop(ours);
            main::run(theirs, plan, settings, parent)
        }
    }
}

/// leader-run's end of the socket pair to its guard.
#[derive(Debug)]
pub struct Guard {
    socket: AsyncFd<Watched<OwnedFd>>,
    pid: Pid,
    /// Our place on the terminal, should the guard not live to give it back.
    place: Option<Place>,
}

impl Guard {
    /// Takes the guard into the runtime of the caller.
    ///
    /// # Errors
    /// When the runtime cannot watch one more descriptor.
    pub fn new(forked: Forked) -> io::Result<Guard> {
        Ok(Guard { socket: sys::watch(forked.socket)?, pid: forked.pid, place: forked.place })
    }

    /// Tells the guard. Never waits: a guard that does not read is found out by its missing
    /// acknowledgement, one that is dead by [`Guard::receive`].
    pub fn send(&self, message: &ToGuard) {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let _ = send(self.socket.as_raw_fd(), &message.encode(), flags);
    }

    /// Waits for what the guard says next; `None` when it is dead or talks nonsense.
    pub async fn receive(&self) -> Option<FromGuard> {
        let mut packet = [0; 64];
        loop {
            let mut ready = self.socket.readable().await.ok()?;
            match recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => return FromGuard::decode(&packet[..length]),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// Kills the guard, and leaves it and what is below it to be killed and reaped by the caller.
    pub fn kill(&self) {
        let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
    }

    /// Takes the terminal back from a child that a dead guard had given it to, once its tree is dead.
    pub fn take_terminal_back(&self) {
        if let Some(place) = &self.place {
            place.take_back_from_the_dead();
        }
    }

    /// Ends a guard that has nothing to guard any more, with what else runs for us.
    pub fn dismiss(self) {
        self.kill();
        tree::sweep();
    }
}
