//! The examples of the README and the manual: taken out of them, sorted by what they need, and run.
#![allow(dead_code)]

use super::support::{Finished, leader_run};
use leader_run::cli::EXAMPLES;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// What an example needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// This machine.
    File,
    /// An API server with the namespaces of the examples.
    Cluster,
    /// It is not run here, for this reason.
    More(&'static str),
}

/// What is not run, by a part of it.
const NOT_RUN: &[(&str, &str)] = &[
    ("tests/run", "it is all tests, this one among them"),
    ("cargo test", "it runs tests"),
    ("NEMESIS_SECONDS=3600", "it takes an hour"),
];

/// The exit codes that are not 0, by a part of the example.
const CODES: &[(&str, i32)] = &[
    ("exit 7", 7),
    ("| kubectl apply", 0),
    // Nobody leads, and nobody has been given any rights.
    ("leader-run status", 1),
    ("check --as", 1),
];

/// The namespaces that the examples name.
pub const NAMESPACES: [&str; 2] = ["ops", "ci"];

fn readme() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap()
}

/// The fenced blocks of this language in the README.
pub fn blocks(language: &str) -> Vec<String> {
    let text = readme();
    let fence = format!("\n```{language}\n");
    let blocks: Vec<String> =
        text.split(&fence).skip(1).map(|rest| rest.split("\n```").next().unwrap().into()).collect();
    assert!(!blocks.is_empty(), "no {language} in the README");
    blocks
}

/// Those that are the text of a script which another example starts, with the name in their second line.
fn scripts() -> Vec<(String, String)> {
    let scripts = blocks("sh").into_iter().filter(|text| text.starts_with("#!"));
    let named = scripts.map(|text| {
        let name = text.lines().nth(1).and_then(|line| line.strip_prefix("# "));
        (name.unwrap_or_else(|| panic!("a script without its name in the second line:\n{text}")).to_owned(), text)
    });
    named.collect()
}

/// All examples in sh, of both, with what they need.
pub fn all() -> Vec<(String, Needs)> {
    let pages = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/man")).unwrap().map(|page| page.unwrap().path());
    let sources = pages.filter(|page| page.extension().is_some_and(|extension| extension == "txt"));
    let manual: String = sources.map(|page| fs::read_to_string(page).unwrap()).chain([EXAMPLES.into()]).collect();
    let sections = manual.split("Examples:\n").skip(1);
    let manual = sections.flat_map(|rest| rest.lines().map_while(|line| line.strip_prefix("  ")).map(String::from));
    let examples: Vec<_> = blocks("sh").into_iter().filter(|text| !text.starts_with("#!")).chain(manual).collect();
    for (name, text) in scripts() {
        assert!(examples.iter().any(|example| example.contains(&format!("./{name}"))), "nothing starts:\n{text}");
    }
    let examples = examples.into_iter();
    let sorted = examples.map(|text| {
        let needs = match NOT_RUN.iter().find(|(part, _)| text.contains(part)) {
            Some((_, why)) => Needs::More(why),
            None if text.contains("--lock file") => Needs::File,
            None if text.contains("leader-run") => Needs::Cluster,
            None => panic!("neither run nor said why not, in tests/support/examples.rs:\n{text}"),
        };
        (text, needs)
    });
    sorted.collect()
}

/// Runs it as it is, in a folder of its own, with stand-ins for the programs that it names.
pub fn run(text: &str, kubeconfig: Option<&Path>) {
    let folder = tempfile::tempdir().unwrap();
    let add = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    };
    let (scripts, mut texts) = (scripts(), vec![text.to_owned()]);
    while let Some(text) = texts.pop() {
        let words = text.split_whitespace().map(|word| word.trim_matches([';', '"', '\'']));
        for name in words.filter_map(|word| word.strip_prefix("./")) {
            match scripts.iter().find(|(script, _)| script == name) {
                Some((_, script)) => {
                    add(name, script);
                    texts.push(script.clone());
                }
                None => add(name, &format!("#!/bin/sh\necho '{name} runs'\n")),
            }
        }
    }
    // `cargo run -q -- ...` would build it first.
    add("cargo", "#!/bin/sh\n[ \"$1 $2 $3\" = 'run -q --' ] && shift 3 && exec leader-run \"$@\"\n");

    add("kubectl", "#!/bin/sh\ncat\n");
    let binary = Path::new(env!("CARGO_BIN_EXE_leader-run")).parent().unwrap();
    let path = format!("{}:{}:{}", folder.path().display(), binary.display(), std::env::var("PATH").unwrap());
    let ours = leader_run();
    let mut command = Command::new("sh");
    command.args(["-c", text]).current_dir(folder.path());
    for (name, _) in ours.get_envs().filter(|(_, value)| value.is_none()) {
        command.env_remove(name);
    }
    command.env("PATH", path).env("LEADER_RUN_LOCK_DIR", folder.path()).env("HOME", folder.path());
    if let Some(kubeconfig) = kubeconfig {
        command.env("KUBECONFIG", kubeconfig);
    }
    let finished = Finished::from(command.output().unwrap());
    let code = CODES.iter().find(|(part, _)| text.contains(part)).map_or(0, |(_, code)| *code);
    assert_eq!(finished.code, code, "{text}\n{finished:?}");
    assert!(!finished.stdout.is_empty() || !finished.stderr.is_empty(), "{text}\n{finished:?}");
}
