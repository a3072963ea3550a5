//! Questions about a lock, answered without contending for it. Nothing of a run is set up for them.

mod assert;
mod check;
mod role;
mod status;

use crate::blocking;
use crate::cli::Question;
use crate::exit::Refusal;
use crate::process::tree;
use std::io::Write;

/// Answers it, and returns the exit code.
///
/// # Errors
/// One line about why there is no answer at all, such as a wrong option.
pub fn answer(question: Question) -> Result<i32, Refusal> {
    match question {
        Question::Status(status) => status::answer(status),
        Question::Check(check) => check::answer(check),
        Question::Assert(assert) => assert::answer(assert),
    }
}

/// A line for people, whether or not anybody reads it.
fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Does this in a runtime, and leaves nothing behind.
fn run(work: impl Future<Output = Result<i32, Refusal>>) -> Result<i32, Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(work);
    // A program that should have brought credentials may hang.
    if blocking::are_at_work() {
        tree::sweep();
    }
    runtime.shutdown_background();
    code
}
