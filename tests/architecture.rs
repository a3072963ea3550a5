//! Every file and function that docs/design/architecture.md names exists, and every layer is one of tests/layers.rs.

use std::fs;
use std::path::Path;

const MAP: &str = include_str!("../docs/design/architecture.md");

/// What stands between backquotes on this line.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn source(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_file_and_function_that_the_architecture_names_exists() {
    let (mut files, mut functions) = (0, 0);
    for line in MAP.lines() {
        let mut text = String::new();
        for word in quoted(line) {
            if word.ends_with(".rs") {
                text = source(word);
                files += 1;
            } else if !text.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
                let is_defined =
                    [format!("fn {word}("), format!("fn {word}<")].iter().any(|start| text.contains(start));
                assert!(is_defined, "there is no function {word} in the file of: {line}");
                functions += 1;
            }
        }
    }
    assert!(files > 40 && functions > 35, "{files} files, {functions} functions");
}

#[test]
fn the_drawn_layers_are_those_of_the_layering_test() {
    let layers = source("tests/layers.rs");
    let drawing = MAP.split("```").nth(1).unwrap();
    let drawn: Vec<_> = drawing.lines().skip(1).flat_map(|line| line.split("  ").next().unwrap().split(' ')).collect();
    // The first module of each line; the others of a line follow three blanks.
    for module in drawn.iter().filter(|module| !module.is_empty()) {
        assert!(layers.contains(&format!("\"{module}\"")), "{module} is drawn and has no place in tests/layers.rs");
    }
}
