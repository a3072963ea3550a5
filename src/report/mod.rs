//! What the outside sees.

pub mod log;
pub mod words;

use humantime::{FormattedDuration, format_duration};
use std::time::Duration;

/// A duration as people write it, to the millisecond.
pub fn duration(duration: Duration) -> FormattedDuration {
    format_duration(Duration::from_millis(duration.as_millis().try_into().unwrap_or(u64::MAX)))
}
