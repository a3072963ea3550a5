//! leader-run.
fn main() {}
