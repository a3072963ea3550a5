//! Work that blocks and may start processes, in threads of its own.
//!
//! Nobody can stop such a thread, and one whose program is killed may go on and start the next. So that none
//! outlives us unseen, it is known whether any is at work.

use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::task::{JoinHandle, spawn_blocking};

static AT_WORK: AtomicUsize = AtomicUsize::new(0);

/// Does this in a thread of its own.
pub fn start<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let at_work = AtWork::new();
    spawn_blocking(move || {
        let result = work();
        drop(at_work);
        result
    })
}

/// Whether any is at work, or yet to begin.
pub fn are_at_work() -> bool {
    AT_WORK.load(Ordering::SeqCst) > 0
}

struct AtWork;

impl AtWork {
    fn new() -> AtWork {
        AT_WORK.fetch_add(1, Ordering::SeqCst);
        AtWork
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        AT_WORK.fetch_sub(1, Ordering::SeqCst);
    }
}
