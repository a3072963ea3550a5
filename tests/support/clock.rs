//! A preloaded library, `clock.c`, that shows a program another time than the true one.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The library, built into this folder, where there is a C compiler for it.
pub fn library(folder: &Path) -> Option<PathBuf> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/clock.c");
    let library = folder.join("clock.so");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O", "-o"]).arg(&library).arg(source).status();
    compiled.ok().map(|status| {
        assert!(status.success(), "{source} does not compile");
        library
    })
}
