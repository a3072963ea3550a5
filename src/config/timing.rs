//! The timings of an election, and the rules that they satisfy.

use crate::cli::Options;
use crate::exit::Refusal;
use crate::text::duration;
use std::fmt::Write;
use std::time::Duration;

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// The timings of an election. K, when the tree of a leader that cannot renew is dead at the latest, follows
/// from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// L.
    pub lease_duration: Duration,
    /// R.
    pub renew_deadline: Duration,
    /// P.
    pub retry_period: Duration,
    /// How long after a loss the tree is killed; R and this together are never more than K.
    pub loss_grace: Duration,
    /// How long after a requested stop the tree is killed.
    pub stop_grace: Duration,
    /// How long one request may take.
    pub request_timeout: Duration,
    /// Give up when not leading after this.
    pub wait: Option<Duration>,
}

impl Timing {
    /// Checks the timings, and fills in those that are not given.
    ///
    /// # Errors
    /// One line that says which rule is broken, and what would satisfy it.
    pub fn new(options: &Options) -> Result<Timing, Refusal> {
        let (time, child) = (&options.time, &options.child);
        let lease = time.lease_duration;
        let refuse = |text: String| Err(Refusal::new(text));
        if lease.subsec_nanos() != 0 || lease < SECOND * 3 || lease > SECOND * 3600 {
            return refuse(format!("--lease-duration {} must be whole seconds from 3s to 1h", duration(lease)));
        }
        let retry = time.retry_period.unwrap_or((lease * 2 / 15).clamp(SECOND, SECOND * 2));
        let kill = kill_after(lease);
        // client-go's rule: R is more than this.
        let least = retry.mul_f64(1.2);
        // With the shortest lease two thirds of it are all there is until K: then half-way to it.
        let middle = (least + kill) / 2;
        let two_thirds = lease * 2 / 3;
        let renew = time.renew_deadline.unwrap_or(if two_thirds < kill { two_thirds } else { middle });
        if retry < SECOND {
            return refuse(format!(
                "--retry-period {} must be at least 1s: other clients see renewals by the second",
                duration(retry)
            ));
        }
        if least >= kill {
            return refuse(format!(
                "--retry-period {} is too long for a lease duration of {}: 1.2 of it must be less than {}; lower it, or \
                 raise --lease-duration",
                duration(retry),
                duration(lease),
                duration(kill)
            ));
        }
        if renew >= kill {
            return refuse(format!(
                "--renew-deadline {} must be less than {} with a lease duration of {}, so that the child is dead before \
                 the lock expires; give one such as {}, or raise --lease-duration",
                duration(renew),
                duration(kill),
                duration(lease),
                duration(middle)
            ));
        }
        if renew <= least {
            return refuse(format!(
                "--renew-deadline {} must be more than 1.2 retry periods ({}); raise it, or lower --retry-period",
                duration(renew),
                duration(least)
            ));
        }
        let longest = kill - renew;
        let loss_grace = child.loss_grace.unwrap_or(longest);
        if loss_grace > longest {
            return refuse(format!(
                "--loss-grace {} must be at most {} with these timings, so that the child is dead before the lock \
                 expires; raise --lease-duration or lower --renew-deadline",
                duration(loss_grace),
                duration(longest)
            ));
        }
        let request = (renew / 2).clamp(SECOND, SECOND * 10);
        let request_timeout = options.kubernetes.request_timeout.unwrap_or(request).min(request);
        if request_timeout.is_zero() {
            return refuse("--request-timeout must be more than 0s".into());
        }
        let year = SECOND * 3600 * 24 * 365;
        for (name, value) in [("--wait", time.wait), ("--stop-grace", Some(child.stop_grace))] {
            if value.is_some_and(|value| value > year) {
                return refuse(format!("{name} must be at most a year"));
            }
        }
        Ok(Timing {
            lease_duration: lease,
            renew_deadline: renew,
            retry_period: retry,
            loss_grace,
            stop_grace: child.stop_grace,
            request_timeout,
            wait: time.wait,
        })
    }

    /// What the values mean, for `--help`.
    pub fn meaning(&self) -> String {
        let (lease, renew, retry) = (self.lease_duration, self.renew_deadline, self.retry_period);
        let kill = renew + self.loss_grace;
        let ratio = lease.as_secs_f64() / kill.as_secs_f64();
        let mut text = format!("With these values (lease {}, renew deadline {}, ", duration(lease), duration(renew));
        let _ = write!(
            text,
            "retry period {}, loss grace {}):
  Takeover       at once when the leader gives the lock back; at most {} after a crash
                 ({} lease duration after the last renewal, and two requests of up to {})
  Cut off        the child gets its stop signal {} after the last successful renewal was sent,
                 and is killed after {}, before anybody else may start
  Stopped        asked to stop, the child has {} before it is killed; the lock is kept meanwhile
  Clock rates    one machine's clock may run up to {ratio:.2} times as fast as another's
                 (their values do not matter)
",
            duration(retry),
            duration(self.loss_grace),
            duration(lease + self.request_timeout * 2),
            duration(lease),
            duration(self.request_timeout),
            duration(renew),
            duration(kill),
            duration(self.stop_grace),
        );
        text
    }
}

/// K: when the tree of a leader that cannot renew is dead at the latest.
pub(super) fn kill_after(lease: Duration) -> Duration {
    lease - SECOND.max(lease / 10)
}
