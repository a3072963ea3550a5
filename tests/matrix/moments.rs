//! What happens at the same moment as something else.

use crate::proxy::Proxy;
use crate::scene::{LOCK, R, Scene, at_once, seconds};
use crate::support::{LONG, POLITE, wait_for};
use crate::{Row, Seen};
use nix::libc::SIGTERM;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const ROWS: &[Row] = &[
    Row {
        number: 40,
        fault: "SIGTERM at every step",
        injected: "SIGTERM after 0 to 200 ms in steps of 8 ms, with every answer 15 ms late; around a renewal, too",
        expected: "143 before the child, the child's code after it; never 0; the lock is free at once for the next one",
        run: stops,
    },
    Row {
        number: 41,
        fault: "the child exits as the lock is lost",
        injected: "the child's end and another holder, or the renew deadline, from 300 ms apart down to nothing",
        expected: "the child's code where it came first, 75 where the loss did; nothing else, and no write after a loss",
        run: ends,
    },
];

/// How often each exit code came.
#[derive(Default)]
struct Codes(BTreeMap<i32, usize>);

impl Codes {
    fn count(&mut self, code: i32) {
        *self.0.entry(code).or_default() += 1;
    }

    fn shown(&self) -> String {
        self.0.iter().map(|(code, count)| format!("{code}: {count} times")).collect::<Vec<_>>().join(", ")
    }
}

fn stops() -> Seen {
    let scene = Scene::new();
    let proxy = Proxy::start(&scene.server);
    proxy.delay(Duration::from_millis(15));
    let mut codes = Codes::default();
    let moments = (0..=200).step_by(8).chain((1_050..=1_150).step_by(20));
    let child = "trap 'exit 7' TERM; exec 8<<<x 8<>/proc/self/fd/8; echo ready; while :; do read -t 0.2 <&8; done";
    for moment in moments.map(Duration::from_millis) {
        let mut contender = scene.behind(&proxy, "stopped", child);
        sleep(moment);
        contender.signal(SIGTERM);
        // A shell shows a death by the signal itself, before leader-run has even begun, as 143, too.
        let code = if contender.wait() == -SIGTERM { 143 } else { contender.wait() };
        // A child that has not come to its trap yet dies of the signal.
        let fits = code == 7 || code == 143 && contender.line("ready").is_none();
        assert!(fits, "SIGTERM after {moment:?}: {code}: {}", contender.said());
        codes.count(code);
        assert_eq!(scene.holder(), "", "SIGTERM after {moment:?}: {}", contender.said());
    }
    let next = scene.contender("next", POLITE);
    let begun = Instant::now();
    next.wait_line("start ");
    let both = codes.0.len();
    assert_eq!(both, 2, "all came at one step: {}", codes.shown());
    Seen::Held(format!(
        "{}; the lock free every time, the next leads {} after its start",
        codes.shown(),
        seconds(begun.elapsed())
    ))
}

/// A child that ends with 3 as soon as somebody opens the pipe.
fn until_opened(scene: &Scene) -> String {
    let pipe = scene.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    format!("echo ready; read < {}; exit 3", pipe.display())
}

/// The other end of its pipe: held open, for a child that the loss has ended opens it no more.
fn pipe(scene: &Scene) -> File {
    OpenOptions::new().read(true).write(true).open(scene.path("pipe")).unwrap()
}

/// What the code has to be for a child that ended so long after the loss, in milliseconds.
fn check(code: i32, gap: i64) {
    match gap {
        ..=-300 => assert_eq!(code, 3, "the child ended first"),
        300.. => assert_eq!(code, 75, "the lock was lost first"),
        _ => assert!([3, 75].contains(&code), "{code}"),
    }
}

fn ends() -> Seen {
    let taken = || {
        let mut codes = Codes::default();
        for gap in [-300_i64, -12, -8, -5, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 8, 12, 300] {
            let scene = Scene::new();
            let mut leader = scene.contender("leader", &until_opened(&scene));
            leader.wait_line("ready");
            let (mut pipe, wait) = (pipe(&scene), Duration::from_millis(gap.unsigned_abs()));
            if gap < 0 {
                pipe.write_all(b"\n").unwrap();
                sleep(wait);
                scene.steal();
            } else {
                scene.steal();
                sleep(wait);
                pipe.write_all(b"\n").unwrap();
            }
            let code = leader.wait();
            check(code, gap);
            codes.count(code);
            assert_ne!(scene.holder(), "leader");
            let stolen = scene.server.lease(LOCK).unwrap();
            sleep(Duration::from_millis(20));
            assert_eq!(scene.server.lease(LOCK).unwrap(), stolen);
            // Given back before it was taken, or never touched since.
            let after = scene.writes("").len();
            assert!(scene.holder() == "somebody-else" && after <= 1, "{after} releases");
        }
        format!("another holder: {}", codes.shown())
    };
    let expired = |gap: i64| -> Box<dyn FnOnce() -> String + Send> {
        Box::new(move || {
            let scene = Scene::new();
            let proxy = Proxy::start(&scene.server);
            let mut leader = scene.behind(&proxy, "leader", &until_opened(&scene));
            leader.wait_line("ready");
            let mut pipe = pipe(&scene);
            let since = scene.after_a_renewal("leader");
            sleep(Duration::from_millis(250));
            proxy.pause();
            let due = if gap < 0 {
                R - Duration::from_millis(gap.unsigned_abs())
            } else {
                R + Duration::from_millis(gap as u64)
            };
            sleep(due.saturating_sub(since.elapsed()));
            pipe.write_all(b"\n").unwrap();
            let code = leader.wait();
            check(code, gap);
            wait_for("its end", LONG, || (!leader.is_running()).then_some(()));
            format!("at R{gap:+} ms: {code}")
        })
    };
    let mut cases: Vec<Box<dyn FnOnce() -> String + Send>> = vec![Box::new(taken)];
    cases.extend([-1_000, -6, -3, -1, 0, 1, 3, 6, 300].map(expired));
    Seen::Held(at_once(cases))
}
