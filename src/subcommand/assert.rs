//! `leader-run assert`: whether the lock is held at this moment, from the state file alone. A script asks before each
//! step that must not be repeated, so it is fast: no runtime, no connection, one file.

use crate::cli::Assert;
use crate::clock::Instant;
use crate::exit::{NOT_HELD, Refusal};
use crate::state_file::{self, State};
use crate::text::duration;
use std::path::PathBuf;

/// 0 while the lock is held for long enough; else [`NOT_HELD`], with one line that says why.
///
/// # Errors
/// When there is no state file.
pub fn answer(assert: Assert) -> Result<i32, Refusal> {
    let in_child = || std::env::var_os(state_file::VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let path = assert.state_file.or_else(in_child).ok_or_else(|| {
        Refusal::new(
            "no state file: start leader-run with --state-file PATH, and give the same one here or run this below it",
        )
    })?;
    let unusable = |why: String| Refusal::new(format!("--state-file {} {why}", path.display()));
    let text = state_file::read_file(&path)
        .map_err(|error| unusable(format!("cannot be read: {error}; it is there while a leader-run keeps it")))?;
    let state = State::parse(&text).ok_or_else(|| unusable("is no state file of leader-run".into()))?;
    let boot_id =
        state_file::boot_id().map_err(|error| unusable(format!("cannot be compared with this boot: {error}")))?;
    // The clock last: what was read may be from before a pause.
    let why = match state.left(&boot_id, Instant::now()) {
        Ok(left) if left >= assert.min_remaining => return Ok(0),
        Ok(left) => {
            let (left, wanted) = (duration(left), duration(assert.min_remaining));
            format!("leading {}, but for sure only {left} longer: less than --min-remaining {wanted}", state.shown())
        }
        Err(why) => why,
    };
    eprintln!("leader-run: {why}");
    Ok(NOT_HELD)
}
