//! The examples of the README and the manual that need an API server, and the README's objects.

use crate::Test;
use crate::apiserver::Cluster;
use crate::examples::{NAMESPACES, Needs, all, blocks, run};

pub const TESTS: &[Test] = &[
    ("readme::the_examples_that_need_a_cluster", the_examples_that_need_a_cluster),
    ("readme::the_objects_of_the_readme_are_accepted", the_objects_of_the_readme_are_accepted),
];

fn the_examples_that_need_a_cluster(cluster: &Cluster) {
    NAMESPACES.iter().for_each(|name| drop(cluster.namespace_named(name)));
    let kubeconfig = cluster.admin_kubeconfig();
    let mut count = 0;
    for (text, _) in all().iter().filter(|(_, needs)| *needs == Needs::Cluster) {
        run(text, Some(&kubeconfig));
        count += 1;
    }
    assert!(count >= 3, "{count}");
}

fn the_objects_of_the_readme_are_accepted(cluster: &Cluster) {
    let namespace = cluster.namespace("readme");
    let mut kinds = Vec::new();
    for block in blocks("yaml") {
        for text in block.split("\n---\n") {
            let text = whole(text);
            let kind = namespace.try_out(&text).unwrap_or_else(|why| panic!("{why}:\n{text}"));
            kinds.push(kind);
        }
    }
    // And it would be noticed if they were not.
    let typo =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: a, colour: red}]}\n";
    assert!(namespace.try_out(typo).is_err_and(|why| why.contains("colour")));
    assert!(kinds.iter().any(|kind| kind == "Deployment"), "{kinds:?}");
}

/// The object that a part of one belongs to.
fn whole(part: &str) -> String {
    let named = |kind: &str| format!("kind: {kind}\nmetadata: {{name: example}}\n");
    match part.lines().next().unwrap_or_default() {
        "rules:" => format!("apiVersion: rbac.authorization.k8s.io/v1\n{}{part}", named("Role")),
        first if first.starts_with("  - apiGroups:") => whole(&format!("rules:\n{part}")),
        first if first.starts_with("securityContext:") || first.starts_with("livenessProbe:") => {
            let inner = part.replace('\n', "\n    ");
            let spec = "spec:\n  containers:\n  - name: example\n    image: example";
            format!("apiVersion: v1\n{}{spec}\n    {inner}", named("Pod"))
        }
        _ => part.to_owned(),
    }
}
