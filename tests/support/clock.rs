//! Preloaded libraries: `clock.c` shows a program another time than the true one, `hold.c` holds up the start of a
//! child.

use std::path::{Path, PathBuf};
use std::process::Command;

/// `clock.c` or `hold.c`, built into this folder, where there is a C compiler for it.
pub fn library(name: &str, folder: &Path) -> Option<PathBuf> {
    let source = format!("{}/tests/support/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let library = folder.join(format!("{name}.so"));
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O", "-o"]).arg(&library).arg(&source).status();
    compiled.ok().map(|status| {
        assert!(status.success(), "{source} does not compile");
        library
    })
}
