//! Mistakes (`src/mutant.rs`) that the simulation cannot make, for they are in what it leaves out, and the fault
//! that shows each.

use crate::faults::{Fault, Matcher};
use crate::proxy::Proxy;
use crate::scene::{LOCK, Scene, undisturbed};
use crate::server::TOKEN;
use crate::support::{Contender, LONG, SHORT, STUBBORN, wait_for};
use libtest_mimic::Trial;
use serde_json::json;
use std::time::Duration;

pub fn trials() -> Vec<Trial> {
    vec![Trial::test("mutant_unconditional_put", || {
        unconditional_put();
        Ok(())
    })]
}

/// A takeover that is under way while another contender takes over.
fn unconditional_put() {
    // Of the default timings, so that it waits long enough for its answer.
    let late = |mutant: Option<&str>| {
        let scene = Scene::new();
        scene.server.change(LOCK, |lease| lease["spec"] = json!({"holderIdentity": ""}));
        let proxy = Proxy::start(&scene.server);
        let write = proxy.on(Matcher::method("PUT").first(1), Fault::Hold);
        let config = scene.server.config(&proxy.url(), TOKEN);
        let mut command = scene.command(&config, "late", &[], STUBBORN);
        command.envs(mutant.map(|name| ("LEADER_RUN_MUTANT", name)));
        let late = Contender::start(&mut command);
        write.wait_hits(1);
        let config = scene.server.config(&scene.server.url(), TOKEN);
        let in_time = Contender::start(&mut scene.command(&config, "in-time", &SHORT, STUBBORN));
        in_time.wait_line("pid ");
        write.release();
        (scene, proxy, late, in_time)
    };

    let (scene, proxy, late_one, mut in_time) = late(None);
    let refused = || proxy.requests().iter().any(|r| r.request.method == "PUT" && r.status == Some(409));
    wait_for("the refusal", LONG, || refused().then_some(()));
    undisturbed(&mut in_time, &[&late_one], Duration::from_secs(2));
    assert_eq!(scene.holder(), "in-time");

    let (scene, _proxy, late_one, _in_time) = late(Some("unconditional-put"));
    late_one.wait_line("start ");
    assert!(scene.excuse_overlaps(), "not noticed: {}", late_one.said());
    println!("figure: mutant unconditional-put is caught by a takeover that is held until another has taken over");
}
