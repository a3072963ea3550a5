//! The user's own commands that are run when something happens in the election: `--on-new-leader` and
//! `--on-stopped-leading`. They run beside everything else, and nothing waits for them but our own end.

use crate::blocking;
use crate::config::Callback;
use crate::process::command::is_left_out;
use crate::sys;
use nix::libc::SIGKILL;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::Pid;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{Sender, channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::warn;

/// One that runs for longer is killed.
pub const LIMIT: Duration = Duration::from_secs(30);
/// So many wait for their turn. Of more than these the oldest is left out: the last one told has to be true.
const WAITING: usize = 16;

/// One of the commands, run once for each thing that happened: in order, one at a time.
pub struct Runner {
    option: &'static str,
    /// Keeps the latest.
    queue: Sender<String>,
    runs: JoinHandle<()>,
}

impl Runner {
    /// A runner of this command with these additions to its environment.
    pub fn new(callback: &Callback, env: &[String], mask: SigSet) -> Runner {
        let (queue, mut waiting) = channel::<String>(WAITING);
        let (callback, env, option) = (callback.clone(), env.to_vec(), callback.option);
        let runs = tokio::spawn(async move {
            loop {
                let variable = match waiting.recv().await {
                    Ok(variable) => variable,
                    Err(RecvError::Lagged(many)) => {
                        warn!("the command of {option} is too slow: {many} runs of it are left out");
                        continue;
                    }
                    Err(RecvError::Closed) => return,
                };
                let (callback, env) = (callback.clone(), [env.as_slice(), &[variable]].concat());
                let result = blocking::start(move || run(&callback, &env, mask)).await;
                match result {
                    Ok(Ok(Some(status))) if status.success() => {}
                    Ok(Ok(Some(status))) => warn!("the command of {option} failed: {status}"),
                    Ok(Ok(None)) => warn!("the command of {option} ran for 30s: killed"),
                    Ok(Err(error)) => warn!("the command of {option} cannot be run: {error}"),
                    Err(_) => {}
                }
            }
        });
        Runner { option, queue, runs }
    }

    /// Has it run, as soon as it is its turn, with this variable (`NAME=value`) in its environment.
    pub fn run(&self, variable: String) {
        // Refused only when the task is gone that runs it, and then there is nobody to tell.
        let _ = self.queue.send(variable);
    }

    /// Waits until it has run for everything that has happened, but not for longer than one run may take.
    pub async fn finish(self) {
        drop(self.queue);
        if timeout(LIMIT, self.runs).await.is_err() {
            warn!("the command of {} has not ended within 30s: killed", self.option);
        }
    }
}

/// Runs it to its end; `None` if that did not come in time.
fn run(callback: &Callback, env: &[String], mask: SigSet) -> io::Result<Option<ExitStatus>> {
    let mut command = Command::new(&callback.program);
    command.arg0(&callback.words[0]).args(&callback.words[1..]);
    // What the child prints may be data; what these print is for people.
    command.stdin(Stdio::null()).stdout(io::stderr().as_fd().try_clone_to_owned()?);
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_left_out(name)) {
        command.env_remove(name);
    }
    command.envs(env.iter().filter_map(|variable| variable.split_once('=')));
    // A group of its own: no signal of the terminal's is meant for it, and it can be killed with what it starts.
    command.process_group(0);
    // This thread waits for it, so it dies only with all of us.
    sys::before_exec(&mut command, move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?)
    });
    let mut child = command.spawn()?;
    let pid = Pid::from_raw(child.id() as i32);
    let process = sys::open_process(pid)?;
    let mut ends = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(LIMIT).unwrap_or(PollTimeout::MAX);
    if poll(&mut ends, limit).is_ok_and(|ended| ended > 0) {
        return child.wait().map(Some);
    }
    // Not reaped yet, so its number is still its own.
    let _ = sys::kill(Pid::from_raw(-pid.as_raw()), SIGKILL);
    child.wait()?;
    Ok(None)
}
