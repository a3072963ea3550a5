//! Mistakes (`src/mutant.rs`) that the simulation cannot make, for they are in what it leaves out, and the fault
//! that shows each.

use crate::faults::{Fault, Matcher};
use crate::proxy::Proxy;
use crate::scene::{LOCK, Scene, undisturbed};
use crate::server::TOKEN;
use crate::support::{Contender, LONG, SHORT, STUBBORN, wait_for};
use libtest_mimic::Trial;
use nix::libc::SIGTERM;
use serde_json::json;
use std::time::Duration;

pub fn trials() -> Vec<Trial> {
    let trial = |name, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    vec![trial("mutant_unconditional_put", unconditional_put), trial("mutant_page_is_conflict", page_is_conflict)]
}

/// A standby whose acquiring write is carried out, but answered with a proxy's page, and that is stopped then.
fn page_is_conflict() {
    let holder_after = |mutant: Option<&str>| {
        let scene = Scene::new();
        scene.server.change(LOCK, |lease| lease["spec"] = json!({"holderIdentity": ""}));
        let proxy = Proxy::start(&scene.server);
        let page = Fault::AnswerAfterCommit { status: 404, body: "404 page not found".into() };
        let write = proxy.on(Matcher::method("PUT").first(1), page);
        let written = write.clone();
        let look = proxy.on(Matcher::new(move |request| request.method == "GET" && written.hits() > 0), Fault::Hold);
        let config = scene.server.config(&proxy.url(), TOKEN);
        let mut command = scene.command(&config, "stopped", &[], STUBBORN);
        command.envs(mutant.map(|name| ("LEADER_RUN_MUTANT", name)));
        let mut contender = Contender::start(&mut command);
        look.wait_hits(1);
        contender.signal(SIGTERM);
        look.release();
        assert_eq!(contender.wait(), 128 + SIGTERM, "{}", contender.said());
        scene.holder()
    };
    assert_eq!(holder_after(None), "");
    assert_eq!(holder_after(Some("page-is-conflict")), "stopped", "not noticed");
    println!("figure: mutant page-is-conflict is caught by an acquiring write that a page answers before a stop");
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
