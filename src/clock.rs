//! Instants that no suspend, slewed clock or step of the wall clock can fool.
//!
//! Two kernel clocks are read at once. A leader believes the one that ran further, a standby the one that
//! ran less: each errs to the safe side.

use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// One moment of this machine since its boot, on two clocks. Comparable only with others of the same boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant {
    /// `CLOCK_BOOTTIME`: counts suspend, slewed by NTP.
    pub boot: Duration,
    /// `CLOCK_MONOTONIC_RAW`: stands still in suspend, never slewed.
    pub raw: Duration,
}

impl Instant {
    /// Reads both clocks.
    pub fn now() -> Instant {
        // Both have existed since Linux 2.6.39, so there is no failure to hand on.
        let read = |id| Duration::from(clock_gettime(id).expect("this kernel has no such clock"));
        Instant { boot: read(ClockId::CLOCK_BOOTTIME), raw: read(ClockId::CLOCK_MONOTONIC_RAW) }
    }

    /// How long ago `earlier` was at most: the clock that ran further. What a leader may count on.
    pub fn leader_since(self, earlier: Instant) -> Duration {
        let (boot, raw) = self.since(earlier);
        boot.max(raw)
    }

    /// How long ago `earlier` was at least: the clock that ran less. What a standby may count on.
    pub fn standby_since(self, earlier: Instant) -> Duration {
        let (boot, raw) = self.since(earlier);
        boot.min(raw)
    }

    /// The moment this much later, on both clocks.
    pub fn plus(self, span: Duration) -> Instant {
        Instant { boot: self.boot.saturating_add(span), raw: self.raw.saturating_add(span) }
    }

    /// The moment this much earlier, on both clocks.
    pub fn minus(self, span: Duration) -> Instant {
        Instant { boot: self.boot.saturating_sub(span), raw: self.raw.saturating_sub(span) }
    }

    /// For a leader: how long until `self`, seen from `now`; zero once either clock has passed it.
    pub fn leader_left(self, now: Instant) -> Duration {
        let (boot, raw) = self.since(now);
        boot.min(raw)
    }

    /// The earlier of two moments, clock by clock.
    pub fn earlier(self, other: Instant) -> Instant {
        Instant { boot: self.boot.min(other.boot), raw: self.raw.min(other.raw) }
    }

    /// The later of two moments, clock by clock.
    pub fn later(self, other: Instant) -> Instant {
        Instant { boot: self.boot.max(other.boot), raw: self.raw.max(other.raw) }
    }

    fn since(self, earlier: Instant) -> (Duration, Duration) {
        (self.boot.saturating_sub(earlier.boot), self.raw.saturating_sub(earlier.raw))
    }
}

/// What a wall clock said: microseconds since 1970, UTC. Written into records, never trusted in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wall(pub i64);

impl Wall {
    /// Reads the wall clock.
    pub fn now() -> Wall {
        Wall(jiff::Timestamp::now().as_microsecond())
    }

    /// The time that this text is, where it says of which place it is.
    pub fn parse(text: &str) -> Option<Wall> {
        text.parse().ok().map(|time: jiff::Timestamp| Wall(time.as_microsecond()))
    }

    /// The time that this header of HTTP's is.
    pub fn parse_http(text: &str) -> Option<Wall> {
        let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
        Some(Wall(time.as_microsecond()))
    }

    /// How many seconds it is after `earlier`; negative where it is before that.
    pub fn seconds_after(self, earlier: Wall) -> f64 {
        (self.0 as f64 - earlier.0 as f64) / 1e6
    }

    /// This much later.
    pub fn plus(self, span: Duration) -> Wall {
        Wall(self.0.saturating_add(span.as_micros() as i64))
    }

    /// The last moment until then that is so many microseconds after a full second.
    pub fn back_to(self, micros: i64) -> Wall {
        Wall((self.0 - micros).div_euclid(1_000_000) * 1_000_000 + micros)
    }

    /// `2026-11-21T07:00:10.000000Z`: exactly six digits and `Z`, the only form every API server accepts.
    pub fn micro_time(self) -> String {
        let time = jiff::Timestamp::from_microsecond(self.0).unwrap_or_default();
        format!("{time:.6}")
    }

    /// `2026-11-21T07:00:10Z`, as Go writes its times.
    pub fn whole_second(self) -> String {
        let time = jiff::Timestamp::from_second(self.0.div_euclid(1_000_000)).unwrap_or_default();
        format!("{time:.0}")
    }
}

/// Both kinds of now, taken together at the start of a step.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For every decision.
    pub at: Instant,
    /// For what is written into the record.
    pub wall: Wall,
}

impl Now {
    /// Reads all clocks.
    pub fn read() -> Now {
        Now { at: Instant::now(), wall: Wall::now() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(boot: u64, raw: u64) -> Instant {
        Instant { boot: Duration::from_secs(boot), raw: Duration::from_secs(raw) }
    }

    #[test]
    fn a_leader_counts_a_suspend_and_a_standby_does_not() {
        let (start, resumed) = (at(100, 100), at(170, 110));
        assert_eq!(resumed.leader_since(start), Duration::from_secs(70));
        assert_eq!(resumed.standby_since(start), Duration::from_secs(10));
        let deadline = start.plus(Duration::from_secs(15));
        assert_eq!(deadline.leader_left(resumed), Duration::ZERO);
    }

    #[test]
    fn micro_time_has_six_digits() {
        assert_eq!(Wall(1_795_330_810_000_000).micro_time(), "2026-11-22T07:00:10.000000Z");
        assert_eq!(Wall(1_795_330_810_000_007).micro_time(), "2026-11-22T07:00:10.000007Z");
        assert_eq!(Wall(1_795_330_810_999_999).whole_second(), "2026-11-22T07:00:10Z");
        assert_eq!(Wall(1_795_330_810_000_007).back_to(7), Wall(1_795_330_810_000_007));
        assert_eq!(Wall(1_795_330_810_000_006).back_to(7), Wall(1_795_330_809_000_007));
    }

    #[test]
    fn moments_move_on_both_clocks_and_stop_at_the_ends_of_time() {
        let span = Duration::from_secs(5);
        assert_eq!(at(100, 90).plus(span), at(105, 95));
        assert_eq!(at(100, 90).minus(span), at(95, 85));
        assert_eq!(at(3, 90).minus(span), at(0, 85));
        let end = Instant { boot: Duration::MAX, raw: Duration::MAX };
        assert_eq!(end.plus(span), end);
        assert_eq!(at(100, 90).leader_since(at(200, 200)), Duration::ZERO, "not before it");
    }

    #[test]
    fn moments_are_compared_clock_by_clock() {
        let (one, other) = (at(100, 95), at(110, 90));
        assert_eq!([one.earlier(other), other.earlier(one)], [at(100, 90); 2]);
        assert_eq!([one.later(other), other.later(one)], [at(110, 95); 2]);
    }

    #[test]
    fn the_clocks_run() {
        let (before, wall) = (Now::read(), std::time::SystemTime::now());
        std::thread::sleep(Duration::from_millis(2));
        let after = Now::read();
        assert!(after.at.standby_since(before.at) >= Duration::from_millis(2), "{before:?} {after:?}");
        let since_1970 = wall.duration_since(std::time::UNIX_EPOCH).unwrap();
        let difference = Wall(since_1970.as_micros() as i64).seconds_after(before.wall);
        assert!(difference.abs() < 60.0, "{difference}");
    }

    #[test]
    fn times_are_read_with_their_zone() {
        let time = Some(Wall(1_795_330_810_500_000));
        assert_eq!(Wall::parse("2026-11-22T07:00:10.5Z"), time);
        assert_eq!(Wall::parse("2026-11-22T09:00:10.500000+02:00"), time);
        assert_eq!(Wall::parse("2026-11-22T07:00:10"), None, "a time of nowhere");
        assert_eq!(Wall::parse_http("Sun, 22 Nov 2026 07:00:10 GMT"), Some(Wall(1_795_330_810_000_000)));
        assert_eq!(Wall::parse_http("yesterday"), None);
    }

    #[test]
    fn wall_times_are_subtracted_in_seconds() {
        let (earlier, later) = (Wall(1_795_330_810_000_000), Wall(1_795_330_812_500_000));
        assert_eq!((later.seconds_after(earlier), earlier.seconds_after(later)), (2.5, -2.5));
        assert_eq!(earlier.plus(Duration::from_millis(2_500)), later);
        assert_eq!(Wall(i64::MAX).plus(Duration::from_secs(1)), Wall(i64::MAX));
    }
}
