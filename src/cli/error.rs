//! clap's errors, in one line.

use super::Cli;
use clap::CommandFactory;
use clap::error::{ContextKind, ErrorKind};

/// The first line of clap's error, in our words where they are plainer.
pub(super) fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let stray = || line.split('\'').nth(1).filter(|arg| !arg.starts_with('-')).map(str::to_owned);
    let context = |kind| error.get(kind).map(ToString::to_string);
    match error.kind() {
        // A word where a question might stand, or after options, where none may.
        ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand | ErrorKind::ArgumentConflict
            if let Some(word) = context(ContextKind::InvalidSubcommand).or_else(stray) =>
        {
            match Cli::command().find_subcommand(&word) {
                Some(_) => format!("{word:?} comes before its options, as in: leader-run {word} --ns ops"),
                None => format!("unexpected {word:?}: COMMAND comes after --, as in: leader-run --ns ops -- {word}"),
            }
        }
        ErrorKind::UnknownArgument => {
            let tip = text.lines().find_map(|l| l.trim().strip_prefix("tip: a similar argument exists: "));
            match tip {
                Some(tip) => format!("{line}; did you mean {}?", tip.trim_matches('\'')),
                None => format!("{line}; see leader-run --help"),
            }
        }
        ErrorKind::ValueValidation => line,
        ErrorKind::InvalidValue | ErrorKind::TooManyValues if line.contains("--") && !line.contains('<') => {
            format!("{line}; use true or false")
        }
        _ => format!("{line}; see leader-run --help"),
    }
}

/// Names the environment variable, where the value that is wrong comes from one.
pub(super) fn source(error: &clap::Error) -> String {
    let text = error.to_string();
    let option = text.split('\'').find_map(|part| part.strip_prefix("--")).unwrap_or_default();
    let option = option.split([' ', '=']).next().unwrap_or_default();
    let twin = format!("LEADER_RUN_{}", option.to_uppercase().replace('-', "_"));
    let given = std::env::args_os().any(|arg| arg.to_string_lossy().starts_with(&format!("--{option}")));
    if given || std::env::var_os(&twin).is_none() { String::new() } else { format!(" (from {twin})") }
}
