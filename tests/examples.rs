//! Every example of the README and the manual is run: here those that need no cluster, in `tests/cluster` the others.

#[path = "support/examples.rs"]
mod examples;
mod support;

use examples::Needs;

#[test]
fn the_examples_that_need_no_cluster() {
    let all = examples::all();
    let here: Vec<_> = all.iter().filter(|(_, needs)| *needs == Needs::File).collect();
    assert!(here.len() >= 2, "{all:?}");
    for (text, _) in here {
        examples::run(text, None);
    }
    for (text, needs) in &all {
        if let Needs::More(why) = needs {
            eprintln!("not run, {why}: {}", text.lines().next().unwrap_or_default());
        }
    }
}
