//! Questions about a lock, answered without contending for it. Nothing of a run is set up for them.

mod check;
mod status;

use crate::cli::Question;
use crate::exit::Refusal;

/// Answers it, and returns the exit code.
///
/// # Errors
/// One line about why there is no answer at all, such as a wrong option.
pub fn answer(question: Question) -> Result<i32, Refusal> {
    match question {
        Question::Status(status) => status::answer(status),
        Question::Check(check) => check::answer(check),
    }
}
