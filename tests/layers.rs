//! The order of the layers: a module may use only what lies below it, and no modules use each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// From the top down. A module belongs to the entry with its longest prefix. Within a layer, an entry may use itself
/// only; the last layer holds single files, which may use each other.
const LAYERS: [&[&str]; 9] = [
    &["main"],
    &["run", "crash_release", "subcommand"],
    &["report"],
    &["config"],
    &["cli"],
    &["backend", "guard"],
    &["process"],
    &["election"],
    &["guard::core", "lock"],
];
const SINGLE_FILES: [&str; 9] = ["blocking", "clock", "exit", "log", "mutant", "state_file", "sys", "text", "timer"];
/// Uses that point up and are known: `from -> to`. This list only shrinks.
const KNOWN: [&str; 0] = [];

/// The modules of the program by their paths, `backend::client`, with their source outside of tests.
fn modules() -> BTreeMap<String, String> {
    let mut modules = BTreeMap::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    read(&source, &source, &mut modules);
    assert!(modules.len() > 40, "{modules:?}");
    modules
}

fn read(directory: &Path, source: &Path, modules: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("tests") {
                read(&path, source, modules);
            }
        } else if !path.ends_with("lib.rs") && !path.ends_with("tests.rs") {
            let name = path.strip_prefix(source).unwrap().with_extension("");
            let name = name.to_str().unwrap().replace('/', "::");
            let name = name.strip_suffix("::mod").unwrap_or(&name).to_owned();
            let text = fs::read_to_string(&path).unwrap();
            // Unit tests stand at the end of a file, and may use what they like.
            let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let parent = name.rsplit_once("::").map_or(String::new(), |(parent, _)| format!("{parent}::"));
            let text = text.replace("super::", &format!("crate::{parent}"));
            modules.insert(name, text);
        }
    }
}

/// The paths that a source uses after `crate::` or `leader_run::`, each item of a group by itself.
fn uses(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for root in ["crate::", "leader_run::"] {
        for (begin, _) in text.match_indices(root) {
            let rest = &text[begin + root.len()..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(rest.len());
            let path = rest[..end].trim_end_matches(':');
            match rest[end..].strip_prefix('{').filter(|_| rest[..end].is_empty() || rest[..end].ends_with("::")) {
                Some(group) => {
                    let group = group.split('}').next().unwrap_or_default();
                    for item in group.split(',').map(str::trim).filter(|item| !item.is_empty()) {
                        found.insert(
                            [path, item].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("::"),
                        );
                    }
                }
                None => drop(found.insert(path.to_owned())),
            }
        }
    }
    found
}

/// The module that a path leads to: the longest one that it begins with.
fn module_of<'a>(path: &str, modules: &'a BTreeMap<String, String>) -> Option<&'a str> {
    let leads_to = |module: &&String| path == *module || path.starts_with(&format!("{module}::"));
    modules.keys().filter(leads_to).max_by_key(|module| module.len()).map(String::as_str)
}

/// The layer of a module and its entry there; single files lie below all layers.
fn place(module: &str) -> (usize, &'static str) {
    let belongs = |entry: &&&str| module == **entry || module.starts_with(&format!("{entry}::"));
    let entries =
        LAYERS.iter().enumerate().flat_map(|(layer, entries)| entries.iter().map(move |entry| (layer, *entry)));
    let found = entries.filter(|(_, entry)| belongs(&entry)).max_by_key(|(_, entry)| entry.len());
    let single = SINGLE_FILES.iter().find(|entry| belongs(entry)).map(|entry| (LAYERS.len(), *entry));
    found.or(single).unwrap_or_else(|| panic!("{module} has no place in tests/layers.rs"))
}

fn points_up(from: &str, to: &str) -> bool {
    let ((from_layer, from_entry), (to_layer, to_entry)) = (place(from), place(to));
    to_layer < from_layer || to_layer == from_layer && from_entry != to_entry && from_layer < LAYERS.len()
}

/// What each module uses of the others.
fn arrows() -> Vec<(String, String)> {
    let modules = modules();
    let uses = |(from, text): (&String, &String)| {
        let targets: BTreeSet<_> = uses(text).iter().filter_map(|path| module_of(path, &modules)).collect();
        targets.into_iter().filter(|to| to != from).map(|to| (from.clone(), to.to_owned())).collect::<Vec<_>>()
    };
    modules.iter().flat_map(uses).collect()
}

#[test]
fn no_module_uses_one_of_a_layer_above_or_beside_it() {
    let up: BTreeSet<_> = arrows()
        .into_iter()
        .filter(|(from, to)| points_up(from, to))
        .map(|(from, to)| format!("{from} -> {to}"))
        .collect();
    let known = BTreeSet::from(KNOWN.map(str::to_owned));
    assert_eq!(up, known, "left: what points up; right: what is known to");
}

#[test]
fn no_modules_use_each_other_in_a_circle() {
    // A directory and what is in it make one whole.
    let is_within = |inner: &str, outer: &str| inner.starts_with(&format!("{outer}::"));
    let arrows: Vec<_> =
        arrows().into_iter().filter(|(from, to)| !is_within(from, to) && !is_within(to, from)).collect();
    let mut left: BTreeSet<_> = arrows.iter().flat_map(|(from, to)| [from, to]).collect();
    // What uses nothing that is left is in no circle.
    loop {
        let free: Vec<_> = left
            .iter()
            .copied()
            .filter(|module| !arrows.iter().any(|(from, to)| from == *module && left.contains(to)))
            .collect();
        if free.is_empty() {
            break;
        }
        left.retain(|module| !free.contains(module));
    }
    assert!(left.is_empty(), "in circles, or above them: {left:?}");
}

#[test]
fn an_arrow_that_points_up_is_noticed() {
    for (from, to, up) in [
        ("lock::record", "election::elector", true),
        ("election::elector", "guard::main", true),
        ("backend::client", "guard", true),
        ("election::contender", "guard::core", false),
        ("guard::main", "guard::core", false),
        ("run", "report::metrics", false),
        ("text", "clock", false),
    ] {
        assert_eq!(points_up(from, to), up, "{from} -> {to}");
    }
    let uses = uses("use crate::lock::{record::Record, request};\n    crate::text::shown(a)\nuse crate::{cli, sys};");
    assert_eq!(Vec::from_iter(uses), ["cli", "lock::record::Record", "lock::request", "sys", "text::shown"]);
}
