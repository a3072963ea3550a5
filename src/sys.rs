//! The only module with `unsafe`: the few calls that no library wraps safely.
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, Pid};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::slice;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The runtime panics, rather than fails, when it cannot open its descriptors.
///
/// # Errors
/// When the limit leaves too few.
pub fn check_descriptors() -> io::Result<()> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    match limit {
        0..MIN_DESCRIPTORS => {
            Err(io::Error::other(format!("only {limit} files may be open (ulimit -n); {MIN_DESCRIPTORS} are needed")))
        }
        _ => Ok(()),
    }
}

/// What we open at the most, with some room for what was inherited.
const MIN_DESCRIPTORS: u64 = 32;

/// Forks this process. Must be called while it has a single thread.
pub fn fork() -> nix::Result<ForkResult> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, |tasks| tasks.count());
    assert_eq!(threads, 1, "forking needs a single thread");
    // SAFETY: with a single thread no lock can be held by another one, so the copy may do anything.
    unsafe { nix::unistd::fork() }
}

/// Forks this process, and ends the copy with what `child` returns. That may make system calls only: another thread
/// may have held a lock.
pub fn fork_to_exec(child: impl FnOnce() -> i32) -> nix::Result<Pid> {
    // SAFETY: the caller's closure takes no locks, as said above.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => exit_now(child()),
    }
}

/// Ends this process at once: no destructors, no flushing of buffers that the parent will flush too.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Sends a signal by its number, real-time signals included, which `nix::sys::signal::kill` has no names for.
pub fn kill(pid: Pid, signal: i32) -> nix::Result<()> {
    // SAFETY: kill only takes numbers.
    Errno::result(unsafe { libc::kill(pid.as_raw(), signal) }).map(drop)
}

/// Reaps one child that has ended, without waiting, or reports one that was stopped: its process id and raw
/// wait status. `None` when nothing is new. Unlike nix's, it knows children that died of a real-time signal.
///
/// # Errors
/// ECHILD when there is no child at all.
pub fn reap_one() -> nix::Result<Option<(Pid, i32)>> {
    let mut status = 0;
    // SAFETY: waitpid writes to a status that outlives the call.
    let pid = Errno::result(unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::WUNTRACED | libc::__WALL) })?;
    Ok((pid != 0).then_some((Pid::from_raw(pid), status)))
}

/// A descriptor of a process, which keeps meaning that process even when its number is given to another.
///
/// # Errors
/// ESRCH when there is no such process, ENOSYS or EPERM where this is not to be had.
pub fn open_process(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: pidfd_open only takes numbers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    // SAFETY: the kernel has just opened it for us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends a signal to an open process.
pub fn kill_open(process: BorrowedFd<'_>, signal: i32) -> nix::Result<()> {
    let no_details = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open, and a null pointer asks for the details that kill would give.
    let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, no_details, 0) };
    Errno::result(done).map(drop)
}

/// Reads the next entries of a folder, as the kernel lays them out (`linux_dirent64`), and says how many
/// bytes they are: none at the end. Unlike the standard library's way it does not allocate.
pub fn read_folder(folder: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<usize> {
    // SAFETY: the kernel writes into the buffer, and no more than its length.
    let read = unsafe { libc::syscall(libc::SYS_getdents64, folder.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) };
    Errno::result(read).map(|read| read as usize)
}

/// Closes all descriptors of this process but this one. What owned them must not be used again, nor dropped.
///
/// # Errors
/// ENOSYS before Linux 5.9.
pub fn close_all_but(kept: OwnedFd) -> nix::Result<OwnedFd> {
    let kept_number = kept.as_raw_fd() as libc::c_uint;
    let below = (kept_number > 0).then(|| (0, kept_number - 1));
    for (first, last) in [below, Some((kept_number + 1, libc::c_uint::MAX))].into_iter().flatten() {
        // SAFETY: the call only takes numbers; that nobody uses them any more, the caller promises.
        Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
    }
    Ok(kept)
}

/// Gives SIGCHLD its default again: inherited as ignored, it would lose every exit code.
pub fn reset_sigchld() {
    // SAFETY: SIG_DFL installs no handler of ours.
    let _ = unsafe { nix::sys::signal::signal(nix::sys::signal::SIGCHLD, nix::sys::signal::SigHandler::SigDfl) };
}

/// Gives SIGPIPE its default again, which the language's runtime has ignored: a command expects to die of it.
pub fn reset_sigpipe() {
    // SAFETY: SIG_DFL installs no handler of ours.
    let _ = unsafe { nix::sys::signal::signal(nix::sys::signal::SIGPIPE, nix::sys::signal::SigHandler::SigDfl) };
}

/// How the kernel schedules a process.
#[derive(Clone, Copy, Debug)]
pub struct Scheduling {
    policy: i32,
    /// Of real-time policies.
    priority: i32,
    nice: i32,
    /// How long it may run at a real-time policy without a pause: in microseconds, the soft and the hard limit.
    real_time: (libc::rlim_t, libc::rlim_t),
}

/// A guard that runs for longer than this without a pause has gone wrong, and must not take the machine along.
const LONGEST_RUN: libc::rlim_t = 500_000;

impl Scheduling {
    /// That of this process.
    pub fn current() -> Scheduling {
        let mut param = libc::sched_param { sched_priority: 0 };
        // SAFETY: the calls are about this process, and write to a value that outlives them.
        unsafe {
            libc::sched_getparam(0, &mut param);
            Scheduling {
                policy: libc::sched_getscheduler(0),
                priority: param.sched_priority,
                nice: libc::getpriority(libc::PRIO_PROCESS, 0),
                real_time: getrlimit(Resource::RLIMIT_RTTIME).unwrap_or((libc::RLIM_INFINITY, libc::RLIM_INFINITY)),
            }
        }
    }

    /// Schedules this process in this way. From what [`Scheduling::raise`] has done that is a step down,
    /// which needs no rights.
    pub fn apply(self) {
        // SAFETY: the call is about this process, and only takes numbers.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, self.nice) };
        let _ = setrlimit(Resource::RLIMIT_RTTIME, self.real_time.0, self.real_time.1);
        if set_policy(MYSELF, self.policy, self.priority).is_err() {
            let _ = set_policy(MYSELF, libc::SCHED_OTHER, 0);
        }
    }

    /// Before all ordinary processes, as far as our rights allow: a deadline waits for nobody. Forked
    /// processes inherit it. What runs for too long without a pause becomes an ordinary process again.
    pub fn raise() {
        let before = Scheduling::current();
        let policy = before.policy & !libc::SCHED_RESET_ON_FORK;
        if ![libc::SCHED_OTHER, libc::SCHED_BATCH, libc::SCHED_IDLE].contains(&policy) {
            return;
        }
        if step_down_when_spinning(before.real_time).is_err() || set_policy(MYSELF, libc::SCHED_FIFO, 1).is_err() {
            // SAFETY: as in `apply`.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
        }
    }
}

/// Lets this thread, which may be another process's, go before all ordinary ones, where our rights allow.
pub fn hurry(thread: Pid) {
    let _ = set_policy(thread, libc::SCHED_FIFO, 1);
}

/// Lets this thread go behind the others of this process, and everything else.
pub fn step_back() {
    // SAFETY: the calls only take numbers; on Linux they are about the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, (libc::getpriority(libc::PRIO_PROCESS, 0) + 10).min(19)) };
}

/// Has the kernel send SIGXCPU to a process that runs for too long at a real-time policy, and that give it up.
/// It is no longer blocked then.
fn step_down_when_spinning((soft, hard): (libc::rlim_t, libc::rlim_t)) -> nix::Result<()> {
    extern "C" fn step_down(_: libc::c_int) {
        let _ = set_policy(MYSELF, libc::SCHED_OTHER, 0);
    }
    let action = SigAction::new(SigHandler::Handler(step_down), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler makes one system call. It may change errno between another call and its reading by
    // a process that has gone wrong already.
    unsafe { sigaction(Signal::SIGXCPU, &action) }?;
    SigSet::from(Signal::SIGXCPU).thread_unblock()?;
    setrlimit(Resource::RLIMIT_RTTIME, soft.min(LONGEST_RUN), hard)
}

/// For the kernel, the calling thread.
const MYSELF: Pid = Pid::from_raw(0);

fn set_policy(thread: Pid, policy: i32, priority: i32) -> nix::Result<()> {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: the call reads a value that outlives it.
    Errno::result(unsafe { libc::sched_setscheduler(thread.as_raw(), policy, &param) }).map(drop)
}

/// Keeps what memory this process has in memory, where its rights and limits allow.
pub fn lock_memory() {
    // SAFETY: mlockall only takes flags.
    unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_ONFAULT) };
}

/// Lets go of what is mapped of the program. What is needed again is there again at once; what only the start needed
/// stays away.
pub fn let_go_of_the_program() {
    extern "C" fn of_object(object: *mut libc::dl_phdr_info, _: libc::size_t, _: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the C library hands out what it knows of a loaded object, with its headers. What of it cannot be
        // written is as in the file, from which the kernel reads it anew.
        unsafe {
            for header in slice::from_raw_parts((*object).dlpi_phdr, (*object).dlpi_phnum.into()) {
                if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
                    let begin = ((*object).dlpi_addr + header.p_vaddr) as usize;
                    let before = begin % libc::sysconf(libc::_SC_PAGESIZE) as usize;
                    let length = header.p_memsz as usize + before;
                    libc::madvise((begin - before) as *mut libc::c_void, length, libc::MADV_DONTNEED);
                }
            }
        }
        // The program comes first; libraries are others' too.
        1
    }
    // SAFETY: the function is as the call wants it, and keeps nothing.
    unsafe { libc::dl_iterate_phdr(Some(of_object), std::ptr::null_mut()) };
}

/// Has `prepare` run in the new process right before it becomes the command. It may take no locks, which other
/// threads may hold.
pub fn before_exec(command: &mut Command, prepare: impl FnMut() -> io::Result<()> + Send + Sync + 'static) {
    // SAFETY: the caller's closure takes no locks, as said above.
    unsafe { command.pre_exec(prepare) };
}

/// A descriptor that a runtime may watch: it is owned, so it stays what it is.
#[derive(Debug)]
pub struct Watched<T>(T);

impl<T: AsFd> AsRawFd for Watched<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl<T> Deref for Watched<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Has the caller's runtime watch whether this descriptor can be read; that it can be written to again would only wake
/// it.
///
/// # Errors
/// When the runtime cannot watch one more.
pub fn watch<T: AsFd + Into<OwnedFd>>(fd: T) -> io::Result<AsyncFd<Watched<T>>> {
    // SAFETY: what can be turned into an owned descriptor owns it, and gives out no other while it lives;
    // `Watched` hands out shared references only, so it is not replaced.
    Ok(unsafe { AsyncFd::register_with_interest(Watched(fd), Interest::READABLE) }?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::tree::in_own_process;
    use std::time::{Duration, Instant};

    #[test]
    fn what_spins_does_not_take_the_machine_along() {
        if !in_own_process("sys::tests::what_spins_does_not_take_the_machine_along") {
            return;
        }
        Scheduling::raise();
        if Scheduling::current().policy != libc::SCHED_FIFO {
            return eprintln!("not run: it needs the right to real-time scheduling");
        }
        let begin = Instant::now();
        while Scheduling::current().policy == libc::SCHED_FIFO {
            assert!(begin.elapsed() < Duration::from_secs(30));
        }
    }
}

/// Counts what each thread allocates, so that tests can prove that something does not.
#[cfg(test)]
pub mod allocations {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    struct Counting;

    #[global_allocator]
    static COUNTING: Counting = Counting;

    thread_local! {
        static COUNT: Cell<usize> = const { Cell::new(0) };
    }

    // SAFETY: everything is left to the system's allocator; the count neither allocates nor unwinds.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            let _ = COUNT.try_with(|count| count.set(count.get() + 1));
            // SAFETY: the caller's promises are passed on as they are.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
            // SAFETY: as above.
            unsafe { System.dealloc(memory, layout) }
        }
    }

    /// How often the calling thread allocates while it does this.
    pub fn during(what: impl FnOnce()) -> usize {
        let before = COUNT.get();
        what();
        COUNT.get() - before
    }
}
