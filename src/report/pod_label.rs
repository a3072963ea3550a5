//! `--pod-label`: a label on our own pod while we lead, so that a Service can select the leader. The election waits
//! for it at one place only, and for a bounded time: before a release.

use crate::backend::Labeller;
use crate::lock::request::Failure;
use std::time::Duration;
use tokio::sync::watch::{Receiver, Sender, channel};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::warn;

/// How long after the label began to be taken away the lock is given back at the latest.
const TAKE_OFF: Duration = Duration::from_secs(1);
/// Between two tries: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The label, kept as it should be by a task of its own.
pub struct Label {
    wanted: Sender<bool>,
    /// What has been done, or surely cannot be; nothing while it is tried.
    settled: Receiver<Option<bool>>,
    /// Since when it is taken away before a release.
    ending: Option<Instant>,
    /// The next request is the release's first.
    giving_back: bool,
}

impl Label {
    /// Begins with taking away what an earlier process of the same pod may have left. One request may take this long.
    pub fn new(label: Labeller, limit: Duration) -> Label {
        let (wanted, wish) = channel(false);
        let (state, settled) = channel(None);
        tokio::spawn(keep(label, limit, wish, state));
        Label { wanted, settled, ending: None, giving_back: false }
    }

    /// A term begins.
    pub fn put_on(&mut self) {
        self.wanted.send_replace(true);
        (self.ending, self.giving_back) = (None, false);
    }

    /// The term is ending, and the lock will be given back.
    pub fn take_off(&mut self) {
        if self.wanted.send_replace(false) {
            self.ending = Some(Instant::now());
        }
    }

    /// The lock is about to be given back.
    pub fn give_back(&mut self) {
        self.take_off();
        self.giving_back = true;
    }

    /// The term is lost: nothing waits for the label.
    pub fn give_up(&mut self) {
        self.wanted.send_replace(false);
        (self.ending, self.giving_back) = (None, false);
    }

    /// What the next request waits for, if it is the release's first.
    pub fn before_release(&mut self) -> Option<impl Future<Output = ()> + use<>> {
        let until = self.ending.take_if(|_| std::mem::take(&mut self.giving_back))? + TAKE_OFF;
        let off = self.off();
        Some(async move { drop(timeout_at(until, off).await) })
    }

    /// Waits until it is taken away.
    pub fn off(&self) -> impl Future<Output = ()> + use<> {
        let mut settled = self.settled.clone();
        async move { drop(settled.wait_for(|settled| *settled == Some(false)).await) }
    }
}

/// Has the label be as it is wanted, until nobody is left to want it. One request at a time: an earlier one must not
/// overtake a later one.
async fn keep(label: Labeller, limit: Duration, mut wanted: Receiver<bool>, settled: Sender<Option<bool>>) {
    let (mut pause, mut said) = (PAUSE.0, false);
    loop {
        let on = *wanted.borrow_and_update();
        settled.send_replace(None);
        let answer = timeout(limit, label(on)).await.unwrap_or(Err(Failure::Timeout));
        if matches!(answer, Ok(()) | Err(Failure::Refused(..) | Failure::Rejected(_) | Failure::Unusable(_))) {
            settled.send_replace(Some(on));
        }
        let again = match answer {
            Ok(()) => {
                (pause, said) = (PAUSE.0, false);
                None
            }
            Err(failure) => {
                if !std::mem::replace(&mut said, true) {
                    warn!("--pod-label cannot be {}: {failure}; trying again", if on { "set" } else { "taken away" });
                }
                Some(pause)
            }
        };
        let rest = async {
            match again {
                Some(pause) => sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = wanted.changed() => match changed {
                Ok(()) => pause = PAUSE.0,
                Err(_) => return,
            },
            () = rest => pause = (pause * 2).min(PAUSE.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// A pod that takes this long to label, and what it was told.
    fn pod(takes: Duration, answer: Result<(), Failure>) -> (Labeller, Arc<Mutex<Vec<bool>>>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = told.clone();
        let label: Labeller = Box::new(move |on| {
            let (log, answer) = (log.clone(), answer.clone());
            Box::pin(async move {
                sleep(takes).await;
                log.lock().unwrap().push(on);
                answer
            })
        });
        (label, told)
    }

    #[tokio::test]
    async fn a_term_has_it_and_its_release_waits_until_it_is_off() {
        let (set, told) = pod(Duration::from_millis(100), Ok(()));
        let mut label = Label::new(set, Duration::from_secs(5));
        label.off().await;
        assert!(label.before_release().is_none(), "a standby has nothing to wait for");
        label.put_on();
        sleep(Duration::from_millis(10)).await;
        // It is under way, and not overtaken.
        label.take_off();
        assert!(label.before_release().is_none(), "renewals go on");
        label.give_back();
        label.before_release().unwrap().await;
        assert_eq!(*told.lock().unwrap(), [false, true, false]);
        assert!(label.before_release().is_none(), "once");
    }

    #[tokio::test]
    async fn a_release_waits_for_a_second_from_when_it_began_and_not_for_what_is_refused() {
        let (set, _) = pod(Duration::from_secs(3600), Ok(()));
        let mut label = Label::new(set, Duration::from_secs(5));
        label.put_on();
        label.take_off();
        let begun = Instant::now();
        sleep(TAKE_OFF * 9 / 10).await;
        let waited = Instant::now();
        label.give_back();
        label.before_release().unwrap().await;
        assert!(begun.elapsed() >= TAKE_OFF, "{:?}", begun.elapsed());
        assert!(waited.elapsed() < TAKE_OFF, "{:?}", waited.elapsed());
        label.put_on();
        label.take_off();
        label.give_up();
        assert!(label.before_release().is_none(), "nothing waits after a loss");

        let (set, _) = pod(Duration::ZERO, Err(Failure::Rejected("no such pod".into())));
        let mut label = Label::new(set, Duration::from_secs(5));
        label.put_on();
        label.take_off();
        let waited = Instant::now();
        label.give_back();
        label.before_release().unwrap().await;
        assert!(waited.elapsed() < TAKE_OFF, "{:?}", waited.elapsed());
    }
}
