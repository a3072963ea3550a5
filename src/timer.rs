//! A timer that a suspend does not hold up: `tokio::time` stands still in one.

use crate::clock::Instant;
use crate::sys::{self, Watched};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::io;
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// No nap is longer: one more look costs nothing.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Wakes one waiter at one moment of `CLOCK_BOOTTIME`.
#[derive(Debug)]
pub struct Alarm(AsyncFd<Watched<TimerFd>>);

impl Alarm {
    /// An alarm that is not set.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn new() -> io::Result<Alarm> {
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        Ok(Alarm(sys::watch(timer)?))
    }

    /// Sets it to go off this long after `now`, or never, in place of what was set before.
    ///
    /// # Errors
    /// None in practice: the kernel refuses only what is no time.
    pub fn set(&self, now: Instant, after: Option<Duration>) -> io::Result<()> {
        let Some(after) = after else {
            return Ok(self.0.get_ref().unset()?);
        };
        let at = TimeSpec::from_duration(now.boot.saturating_add(after.clamp(Duration::from_nanos(1), DAY)));
        Ok(self.0.get_ref().set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?)
    }

    /// Waits until it goes off.
    pub async fn wait(&self) {
        if let Ok(mut ready) = self.0.readable().await {
            ready.clear_ready();
        }
    }
}
