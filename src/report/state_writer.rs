//! Keeps the state file true.
//!
//! It is written by a thread of its own: a disk that hangs must hold up no renewal. Only where somebody could be
//! misled is it waited for, and that for a moment: before a child starts that may ask at once, and before the lock is
//! given back.

use crate::election::contender::Said;
use crate::election::elector::{Loss, Notice};
use crate::state_file::{Role, State, StateFile, Term};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use tracing::warn;

/// So long is a write waited for. Later the deadline in the file bounds what it promises.
const LIMIT: Duration = Duration::from_millis(500);

/// Knows what the file has to say.
pub struct Keeper {
    state: State,
    /// The term that a renewal may extend.
    term: Option<Term>,
    desk: Arc<Desk>,
}

impl Keeper {
    /// Begins with a file that says that we stand by. `state` says who we are, and what the lock is.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn new(file: StateFile, state: State) -> io::Result<Keeper> {
        let desk = Arc::<Desk>::default();
        let seen = desk.clone();
        thread::Builder::new().name("state".into()).spawn(move || write_all(&file, &seen))?;
        let keeper = Keeper { state, term: None, desk };
        keeper.write();
        Ok(keeper)
    }

    /// Takes what happened. Returns when the file says so, where that matters.
    pub fn say(&mut self, said: &Said) {
        match said {
            Said::Leading(leadership) => {
                let transitions = leadership.record.transition_count();
                let (token, deadline) = (leadership.token.clone(), leadership.since);
                self.term = Some(Term { token, transitions, deadline });
            }
            Said::HeldUntil(deadline) => {
                let Some(term) = &mut self.term else {
                    return;
                };
                term.deadline = *deadline;
                let begins = self.state.role != Role::Leader;
                self.state.holder = Some(self.state.identity.clone());
                (self.state.role, self.state.term) = (Role::Leader, Some(term.clone()));
                self.write();
                if begins {
                    self.desk.wait();
                }
            }
            Said::Lost(_) | Said::GivingBack | Said::GuardFailed(_) => {
                if let Said::Lost(Loss::Taken(holder)) = said {
                    self.state.holder = Some(holder.clone()).filter(|holder| !holder.is_empty());
                }
                if self.term.take().is_some() {
                    (self.state.role, self.state.term) = (Role::Lost, None);
                    self.write();
                    self.desk.wait();
                }
            }
            Said::Again => {
                self.state.role = Role::Standby;
                self.write();
            }
            Said::Notice(Notice::Leader(holder)) if self.term.is_none() => {
                self.state.holder = Some(holder.clone()).filter(|holder| !holder.is_empty());
                self.write();
            }
            _ => {}
        }
    }

    /// Removes the file.
    pub fn finish(self) {
        self.desk.put(None);
        self.desk.wait();
    }

    fn write(&self) {
        self.desk.put(Some(self.state.clone()));
    }
}

/// Where the thread finds what is to be written: only ever the latest.
#[derive(Default)]
struct Desk {
    tray: Mutex<Tray>,
    changed: Condvar,
}

#[derive(Default)]
struct Tray {
    /// Yet to be written; inside, what, or `None`: the file is to be removed.
    next: Option<Option<State>>,
    /// A write is under way.
    busy: bool,
    /// It was waited for in vain, and is not waited for again.
    hangs: bool,
}

impl Tray {
    fn is_unwritten(&mut self) -> bool {
        self.next.is_some() || self.busy
    }
}

impl Desk {
    fn tray(&self) -> MutexGuard<'_, Tray> {
        self.tray.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, state: Option<State>) {
        self.tray().next = Some(state);
        self.changed.notify_all();
    }

    /// Waits, for a moment, until what was put last is written.
    fn wait(&self) {
        let tray = self.tray();
        if !tray.hangs {
            let waited = self.changed.wait_timeout_while(tray, LIMIT, Tray::is_unwritten);
            let mut tray = waited.unwrap_or_else(PoisonError::into_inner).0;
            tray.hangs = tray.is_unwritten();
        }
    }

    fn take(&self) -> Option<State> {
        let waited = self.changed.wait_while(self.tray(), |tray| tray.next.is_none());
        let mut tray = waited.unwrap_or_else(PoisonError::into_inner);
        tray.busy = true;
        tray.next.take().flatten()
    }

    fn done(&self) {
        let mut tray = self.tray();
        (tray.busy, tray.hangs) = (false, false);
        self.changed.notify_all();
    }
}

/// Writes what it is told, until the file is to be removed.
fn write_all(file: &StateFile, desk: &Desk) {
    let mut failing = false;
    loop {
        let wanted = desk.take();
        let done = match &wanted {
            Some(state) => write(file, state),
            None => file.remove().map_err(|error| format!("cannot remove it: {error}")),
        };
        // Said once, until one succeeds.
        let failed_before = std::mem::replace(&mut failing, done.is_err());
        if let (Err(why), false) = (done, failed_before) {
            warn!("--state-file {}: {why}", file.path().display());
        }
        desk.done();
        if wanted.is_none() {
            return;
        }
    }
}

fn write(file: &StateFile, state: &State) -> Result<(), String> {
    let leads = state.role == Role::Leader;
    if !leads && file.is_anothers(&state.identity) {
        return Err("it is that of another contender, which leads; give each one of its own".into());
    }
    let written = file.write(state);
    if written.is_err() && !leads {
        // What it says of a term must not outlive it. Also a full disk lets go of a file.
        let _ = file.remove();
    }
    written.map_err(|error| format!("cannot write it: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_disk_that_hangs_is_waited_for_once_and_then_hears_the_latest() {
        let desk = Desk::default();
        let state = |holder: &str| State {
            role: Role::Lost,
            identity: "a".into(),
            lock: "lease".into(),
            namespace: "ops".into(),
            name: "demo".into(),
            holder: Some(holder.into()),
            term: None,
            boot_id: String::new(),
        };
        desk.put(Some(state("first")));
        assert_eq!(desk.take(), Some(state("first")));
        // It is being written, and that does not end.
        let begun = Instant::now();
        desk.wait();
        assert!(begun.elapsed() >= LIMIT);
        desk.put(Some(state("second")));
        desk.put(Some(state("third")));
        let begun = Instant::now();
        desk.wait();
        assert!(begun.elapsed() < LIMIT);
        desk.done();
        assert_eq!(desk.take(), Some(state("third")));
        desk.put(None);
        desk.done();
        assert_eq!(desk.take(), None);
        desk.done();
        desk.wait();
        assert!(!desk.tray().hangs);
    }
}
