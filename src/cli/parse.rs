//! Parsers for the values of options.

use super::OnLost;
use crate::backend::{TYPES, Type};
use crate::log::Format;
use crate::process::signal;
use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, Command};
use nix::libc::{SIGINT, SIGTERM};
use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// A parser whose usual words shells can complete.
#[derive(Clone)]
pub(super) struct OneOf<T> {
    words: Vec<&'static str>,
    parse: fn(&str) -> Result<T, String>,
}

pub(super) fn one_of<T>(
    words: impl IntoIterator<Item = &'static str>,
    parse: fn(&str) -> Result<T, String>,
) -> OneOf<T> {
    OneOf { words: words.into_iter().collect(), parse }
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for OneOf<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        self.parse.parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.words.iter().map(PossibleValue::new)))
    }
}

pub(super) fn lock_type(text: &str) -> Result<&'static Type, String> {
    Type::named(text).ok_or_else(|| {
        let names: Vec<_> = TYPES.iter().map(|kind| kind.name).collect();
        format!("unknown lock type; use one of {}", names.join(", "))
    })
}

pub(super) fn log_format(text: &str) -> Result<Format, String> {
    match text {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err("use text or json".into()),
    }
}

pub(super) fn http_address(text: &str) -> Result<SocketAddr, String> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    let loopback = port(text).map(|port| (Ipv4Addr::LOCALHOST, port).into());
    let all = || text.strip_prefix(':').and_then(port).map(|port| (Ipv6Addr::UNSPECIFIED, port).into());
    loopback.or_else(all).or_else(|| text.parse().ok()).ok_or_else(|| {
        "use a port (8080: on the loopback; :8080: on all addresses) or an address with one, such as 127.0.0.1:8080 or \
         [::1]:8080"
            .into()
    })
}

pub(super) fn on_lost(text: &str) -> Result<OnLost, String> {
    match text {
        "exit" => Ok(OnLost::Exit),
        "rejoin" => Ok(OnLost::Rejoin),
        _ => Err("use exit or rejoin".into()),
    }
}

pub(super) fn step_down_signal(text: &str) -> Result<i32, String> {
    let signal = signal_number(text)?;
    match signal::is_forwarded(signal) {
        _ if [SIGTERM, SIGINT].contains(&signal) => Err("TERM and INT end leader-run; use another one".into()),
        true => Ok(signal),
        false => Err("leader-run cannot be sent this one; use another, such as USR1".into()),
    }
}

pub(super) fn step_down_signals() -> impl Iterator<Item = &'static str> {
    signal::names().filter(|name| step_down_signal(name).is_ok())
}

pub(super) fn signal_number(text: &str) -> Result<i32, String> {
    signal::parse(text).ok_or_else(|| "no such signal; use a name or number, such as TERM or 15".into())
}

/// A duration with units, as humantime and GEP-2257 write them.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let trimmed = text.trim();
    if trimmed.starts_with('-') {
        return Err("a duration can't be negative".into());
    }
    if !trimmed.is_empty() && trimmed.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("a duration needs a unit; did you mean {trimmed}s?"));
    }
    humantime::parse_duration(trimmed).map_err(|_| "not a duration such as 500ms, 15s or 1m30s".into())
}
