//! Text for people: durations, and what others wrote, such as a holder's identity or a server's message.

use humantime::{FormattedDuration, format_duration};
use std::time::Duration;

/// Text as it may be shown: bounded, and without anything that could move a cursor or forge a line.
pub fn shown(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().take(253) {
        match c {
            '"' | '\'' | '\\' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    if text.chars().nth(253).is_some() {
        shown.push('…');
    }
    shown
}

/// A duration as people write it, to the millisecond.
pub fn duration(duration: Duration) -> FormattedDuration {
    format_duration(Duration::from_millis(duration.as_millis().try_into().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn untrusted_text_is_escaped_and_capped() {
        assert_eq!(super::shown("host-a_9b2f"), "host-a_9b2f");
        assert_eq!(super::shown("it's \"a\""), "it's \"a\"");
        assert_eq!(super::shown("a\n\u{1b}[2J"), "a\\n\\u{1b}[2J");
        assert_eq!(super::shown(&"x".repeat(1000)).chars().count(), 254);
    }
}
