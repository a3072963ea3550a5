//! Many contenders over the library in this process, without children: each has a client of its own.

use crate::contender::{Ground, Kind, Timing};
use crate::report::{Goal, Line, Part};
use crate::scene::{Scene, milliseconds, now};
use crate::support::LONG;
use futures_util::StreamExt;
use leader_run::backend::kubeconfig::Source;
use leader_run::backend::{self, Answer, Changes, Lock, Opened, Options, Type};
use leader_run::clock::Now;
use leader_run::election::elector::{Action, Elector, Event, Settings};
use leader_run::lock::record::Precision;
use leader_run::lock::request::{Change, Failure, Reply};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;
use tokio::runtime;
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::timeout;

/// As many threads as there are processors on the smallest machine.
const THREADS: usize = 2;
const SETTLED: Duration = Duration::from_secs(2);

/// What a contender says.
enum Told {
    /// It watches the lock that another one holds.
    Watching,
    /// This one leads.
    Leading(usize, Duration),
    /// It has given the lock back.
    Released,
    /// Its write came too late.
    Lost,
}

/// Ended when dropped.
pub struct Crowd {
    told: Receiver<Told>,
    finish: Vec<Arc<Notify>>,
    leader: usize,
    end: Arc<Notify>,
    threads: Vec<JoinHandle<()>>,
}

/// From a release to the next leader among a thousand standbys, and how many of them ask in vain.
pub fn release(scene: &Scene) -> Vec<Line> {
    let times = scene.choose(10, 50);
    let ground = Ground::new(scene, Kind::LeaderRun, Timing::Default);
    let mut crowd = Crowd::start(&ground, 1000 + times);
    sleep(SETTLED);
    let (mut takeovers, mut lost) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let refused = || scene.requests(|verb, code| verb == "PUT" && code == 409);
        let before = refused();
        let (takeover, in_vain) = crowd.hand_over();
        takeovers.push(takeover);
        let counted = refused() - before;
        assert_eq!(counted, in_vain, "the API server refused other writes than the contenders say");
        lost.push(in_vain as f64);
    }
    let goal = |most| Goal { most: Some(most), ..Goal::default() };
    let name = "1,000 standbys: asked to release to the next leader, ms";
    let puts = "1,000 standbys: losing PUTs";
    let (first, later) = ("first release", "from the third release on");
    vec![
        Line::once(&format!("{name}, {first}"), takeovers[0], None, Goal::default()),
        Line::once(&format!("{puts}, {first}"), lost[0], None, Goal::default()),
        Line::new(&format!("{name}, {later}"), Part::P99, &takeovers[2..], &[], goal(150.0)),
        Line::new(&format!("{puts}, {later}"), Part::Most, &lost[2..], &[], goal(20.0)),
    ]
}

impl Crowd {
    /// Starts so many contenders, and waits until one leads and the others watch.
    pub fn start(ground: &Ground, count: usize) -> Crowd {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("more descriptors");
        let (sender, told) = channel();
        let finish: Vec<_> = (0..count).map(|_| Arc::new(Notify::new())).collect();
        let end = Arc::new(Notify::new());
        let options = Options {
            kind: Type::named("lease").expect("a lock type"),
            namespace: None,
            name: "crowd".into(),
            folder: None,
            source: Source { kubeconfig: Some(ground.kubeconfig()), ..Source::default() },
        };
        let threads = (0..THREADS).map(|thread| {
            let members: Vec<_> = finish.iter().cloned().enumerate().skip(thread).step_by(THREADS).collect();
            let (options, sender, end) = (options.clone(), sender.clone(), end.clone());
            thread::spawn(move || {
                let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                let local = LocalSet::new();
                local.spawn_local(async move {
                    for (number, finish) in members {
                        tokio::task::spawn_local(contend(number, options.clone(), finish, sender.clone()));
                        // Not all at once: that is not what is measured.
                        tokio::time::sleep(Duration::from_millis(4 * THREADS as u64)).await;
                    }
                });
                local.block_on(&runtime, end.notified());
                drop(local);
                runtime.shutdown_background();
            })
        });
        let threads = threads.collect();
        let mut crowd = Crowd { told, finish, leader: 0, end, threads };
        let (mut watching, mut leads) = (0, false);
        while watching < count - 1 || !leads {
            match crowd.told.recv_timeout(LONG).expect("all of the crowd watch") {
                Told::Watching => watching += 1,
                Told::Leading(number, _) => (crowd.leader, leads) = (number, true),
                Told::Released | Told::Lost => {}
            }
        }
        crowd
    }

    /// Has the leader give the lock back. Returns the time until the next one leads, in milliseconds, and how many
    /// writes were refused until nobody wanted it any more.
    fn hand_over(&mut self) -> (f64, u64) {
        let asked = now();
        self.finish[self.leader].notify_one();
        let (mut lost, mut took) = (0, None);
        loop {
            let wait = if took.is_some() { SETTLED } else { LONG };
            match self.told.recv_timeout(wait) {
                Ok(Told::Leading(number, at)) => (self.leader, took) = (number, Some(milliseconds(asked, at))),
                Ok(Told::Lost) => lost += 1,
                Ok(Told::Watching | Told::Released) => {}
                Err(_) => return (took.expect("a next leader"), lost),
            }
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        (0..self.threads.len()).for_each(|_| self.end.notify_one());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One contender, as `run.rs` has it but without a child.
async fn contend(number: usize, options: Options, finish: Arc<Notify>, told: Sender<Told>) {
    let tell = |what| drop(told.send(what));
    let Opened { lock, .. } = backend::open(&options).await.expect("a usable kubeconfig");
    let lock: &dyn Lock = &*lock;
    let settings = Settings {
        identity: format!("crowd-{number}"),
        lease_duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry_period: Duration::from_secs(2),
        request_timeout: Duration::from_secs(5),
        wait: None,
        precision: Precision::Microseconds,
        resume: false,
        complete_watch: true,
        seed: number as u64,
    };
    let mut elector = Elector::new(settings, Now::read());
    let mut request: Option<(u64, Answer)> = None;
    let mut watch: Option<Changes> = None;
    let mut event = Event::Tick;
    let mut was_watching = false;
    loop {
        for action in elector.step(Now::read(), event) {
            match action {
                Action::Request(id, asked, limit) => {
                    let answer = lock.request(asked);
                    let limited =
                        async move { timeout(limit, answer).await.unwrap_or(Err::<Reply, _>(Failure::Timeout)) };
                    request = Some((id, Box::pin(limited)));
                }
                Action::Cancel => request = None,
                Action::Watch(from) => {
                    watch = Some(lock.watch(from));
                    if !elector.is_leading() && !std::mem::replace(&mut was_watching, true) {
                        tell(Told::Watching);
                    }
                }
                Action::Lead(_) => tell(Told::Leading(number, now())),
                Action::Over(_) => return tell(Told::Released),
                Action::Lost(loss) => panic!("the leader of the crowd has lost its lock: {loss:?}"),
                Action::Renewed(_) | Action::Say(_) => {}
            }
        }
        let wake = elector.wake(Now::read()).unwrap_or(Duration::MAX);
        let answer = async {
            match &mut request {
                Some((id, answer)) => (*id, answer.await),
                None => std::future::pending().await,
            }
        };
        let change = async {
            match &mut watch {
                Some(changes) => changes.next().await.unwrap_or(Change::Ended(None)),
                None => std::future::pending().await,
            }
        };
        event = tokio::select! {
            biased;
            () = finish.notified() => Event::Finish,
            (id, answer) = answer => {
                request = None;
                if matches!(answer, Err(Failure::Conflict)) {
                    tell(Told::Lost);
                }
                Event::Answer(id, answer)
            }
            change = change => {
                if matches!(change, Change::Ended(_)) {
                    watch = None;
                }
                Event::Change(change)
            }
            () = tokio::time::sleep(wake) => Event::Tick,
        };
    }
}
