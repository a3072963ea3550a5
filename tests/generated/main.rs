//! `man/` and `completions/` are what the command line definition makes them, and programs can read them.
//! `GENERATE=1 cargo test --test generated` writes them anew.

mod man;
mod shells;

use clap::{Command, CommandFactory};
use leader_run::cli::{ABOUT_ENVIRONMENT, ABOUT_EXIT, Cli, EXAMPLES};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::LazyLock;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files that are made, by their paths. Written before anybody looks at them, where that is asked for.
fn files() -> &'static BTreeMap<PathBuf, String> {
    static FILES: LazyLock<BTreeMap<PathBuf, String>> = LazyLock::new(|| {
        let made = make();
        if std::env::var_os("GENERATE").is_some() {
            made.iter().for_each(|(path, text)| fs::write(root().join(path), text).unwrap());
        }
        made
    });
    &FILES
}

fn make() -> BTreeMap<PathBuf, String> {
    let mut command = Cli::command();
    command.build();
    let mut files = BTreeMap::new();
    let help = format!("{ABOUT_EXIT}\n{ABOUT_ENVIRONMENT}\n{EXAMPLES}");
    let mut add = |command: &Command, name: &str, help: &str| {
        let more = fs::read_to_string(root().join(format!("man/{name}.txt"))).unwrap_or_default();
        files.insert(format!("man/{name}.1").into(), man::page(command, name, help, &more));
    };
    add(&command, "leader-run", &help);
    for part in man::parts(&command) {
        let help = part.get_after_help().unwrap_or_default().to_string();
        add(part, &format!("leader-run-{}", part.get_name()), &help);
    }
    for shell in shells::SHELLS {
        let (name, text) = shells::completions(shell, &command);
        files.insert(Path::new("completions").join(name), text);
    }
    files
}

/// Whether this machine has the program. If not, that is said.
fn is_here(program: &str) -> bool {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|folder| folder.join(program).exists());
    if !found {
        eprintln!("not run: no {program} here");
    }
    found
}

#[test]
fn the_manual_and_the_completions_are_current() {
    let made = files();
    let again = "run: GENERATE=1 cargo test --test generated";
    for (path, text) in made {
        let found = fs::read_to_string(root().join(path)).unwrap_or_default();
        assert!(found == *text, "{} is not what src/cli/ makes it; {again}", path.display());
    }
    for folder in ["man", "completions"] {
        for file in fs::read_dir(root().join(folder)).unwrap() {
            let path = Path::new(folder).join(file.unwrap().file_name());
            let source = path.with_extension("1");
            assert!(made.contains_key(&path) || made.contains_key(&source), "{}: nothing makes it", path.display());
        }
    }
}

#[test]
fn the_pages_render_without_warnings() {
    let readers = [["groff", "-ww", "-man", "-Tutf8"], ["mandoc", "-Tlint", "-W", "warning"]];
    for [program, options @ ..] in readers.into_iter().filter(|reader| is_here(reader[0])) {
        for page in files().keys().filter(|path| path.starts_with("man")) {
            let mut command = Process::new(program);
            let done = command.args(options).arg(root().join(page)).env("LC_ALL", "C.UTF-8").output().unwrap();
            let said = if program == "groff" { done.stderr } else { done.stdout };
            let said = String::from_utf8(said).unwrap();
            // Pages without one are the same whenever they are made.
            let warnings: Vec<_> = said.lines().filter(|line| !line.contains("missing date")).collect();
            assert!(warnings.is_empty(), "{program} {}: {warnings:?}", page.display());
        }
    }
}

#[test]
fn shells_complete() {
    files();
    for shell in ["bash", "zsh", "fish"].into_iter().filter(|shell| is_here(shell)) {
        let offers = |line: &str, words: &[&str]| {
            let text = shells::offered(shell, line);
            let found: Vec<_> = text.split_whitespace().collect();
            words.iter().for_each(|word| assert!(found.contains(word), "{shell}: no {word} after {line:?} in {text}"));
        };
        offers(
            "leader-run --lock ",
            &["lease", "configmap", "endpoints", "configmapsleases", "endpointsleases", "file"],
        );
        offers("leader-run --lock configmaps", &["configmapsleases"]);
        offers("leader-run --stop-signal USR", &["USR1", "USR2"]);
        offers("leader-run --on-lost ", &["exit", "rejoin"]);
        offers("leader-run stat", &["status"]);
        offers("leader-run status --output ", &["text", "json", "name"]);
        // As it would be without leader-run before it.
        if shell != "bash" || Path::new("/usr/share/bash-completion/bash_completion").exists() {
            offers("leader-run --lock file -- timeou", &["timeout"]);
            offers("leader-run -- timeou", &["timeout"]);
        } else {
            eprintln!("not run: no bash-completion here");
        }
    }
}
