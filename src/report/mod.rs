//! What the outside sees.

mod callbacks;
pub mod http;
mod messages;
pub mod metrics;
mod pod_label;
mod state_writer;
mod summary;

use crate::backend::{Events, Lock};
use crate::config::Config;
use crate::election::contender::{End, Said};
use crate::election::elector::{Loss, Notice, Waiting};
use crate::guard::core::FromGuard;
use crate::lock::request::Failure;
use crate::log::{self, Live};
use crate::state_file::{Role, State};
use callbacks::Runner;
use futures_util::future::{OptionFuture, join_all};
use http::Feed;
use metrics::News;
use nix::sys::signal::SigSet;
use pod_label::Label;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use summary::Closing;
pub use summary::write_termination_log;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, info};

/// At our end the last events get this long to reach the API server.
const LAST_EVENTS: Duration = Duration::from_millis(500);

/// Everybody who is told of an election. Nothing here holds it up.
pub struct Reports<'a> {
    config: &'a Config,
    lock: &'a dyn Lock,
    events: Option<Events>,
    /// Events that have not reached the API server yet.
    on_the_way: JoinSet<()>,
    /// The lock could not be renewed in time: no event would get through either.
    cut_off: bool,
    /// Whether it has been said that events are refused.
    events_refused: Arc<AtomicBool>,
    on_new_leader: Option<Runner>,
    on_stopped_leading: Option<Runner>,
    /// For whoever asks over HTTP.
    feed: Option<Feed>,
    /// On a terminal: whom we wait for, as it is shown.
    waiting: Option<Option<Waiting>>,
    label: Option<Label>,
    state: Option<state_writer::Keeper>,
    closing: Closing,
}

impl<'a> Reports<'a> {
    /// Reports of an election for this lock, which lives in this namespace. The user's commands find `env` in their
    /// environment, and this signal mask; who asks over HTTP is told by `feed`.
    ///
    /// # Errors
    /// When the system does not give what they need.
    pub fn new(
        config: &'a Config,
        lock: &'a dyn Lock,
        events: Option<Events>,
        namespace: &str,
        env: &[String],
        mask: SigSet,
        feed: Option<Feed>,
    ) -> io::Result<Reports<'a>> {
        let labelled = |labeller| Label::new(labeller, config.timing.request_timeout);
        let runner = |callback: &Option<_>| callback.as_ref().map(|callback| Runner::new(callback, env, mask));
        let state = config.state_file.clone().map(|file| {
            let state = State {
                role: Role::Standby,
                identity: config.identity.clone(),
                lock: config.lock.kind.name.into(),
                namespace: namespace.into(),
                name: config.lock.name.clone(),
                holder: None,
                term: None,
                boot_id: file.boot_id().into(),
            };
            state_writer::Keeper::new(file, state)
        });
        Ok(Reports {
            config,
            lock,
            state: state.transpose()?,
            closing: Closing::new(),
            label: config
                .pod_label
                .as_ref()
                .zip(events.as_ref())
                .map(|(label, events)| events.labeller(label))
                .map(labelled),
            events,
            on_the_way: JoinSet::new(),
            cut_off: false,
            events_refused: Arc::default(),
            on_new_leader: runner(&config.on_new_leader),
            on_stopped_leading: runner(&config.on_stopped_leading),
            feed,
            waiting: log::has_live_line().then_some(None),
        })
    }

    /// Shows whom we wait for, where there is a terminal.
    pub fn waiting(&mut self, waiting: impl FnOnce() -> Option<Waiting>) {
        if let Some(shown) = &mut self.waiting {
            let waiting = waiting();
            if *shown != waiting {
                shown.clone_from(&waiting);
                let lock = self.lock.to_string();
                log::show(
                    waiting.map(|waiting| -> Live { Box::new(move |now| messages::waiting(&lock, &waiting, now)) }),
                );
            }
        }
    }

    /// What the next request waits for, if it is a release's: that our pod is no longer labelled, but not for long.
    pub fn before_release(&mut self) -> Option<impl Future<Output = ()> + use<>> {
        self.label.as_mut()?.before_release()
    }

    /// Tells those who ask over HTTP, if that is possible.
    pub fn feed(&self, news: impl FnOnce() -> News) {
        if let Some(feed) = &self.feed {
            feed.tell(news());
        }
    }

    /// Tells everybody.
    pub fn say(&mut self, said: &Said) {
        self.closing.note(self.lock, self.config, said);
        messages::say(self.lock, self.config, said);
        self.feed(|| News::Said(said.clone()));
        if let Some(label) = &mut self.label {
            match said {
                Said::Leading(_) => label.put_on(),
                Said::Stopping(_) | Said::SteppingDown(_) | Said::GuardFailed(_) => label.take_off(),
                Said::Tree(FromGuard::Exited(..) | FromGuard::Failed(..) | FromGuard::Died(..)) => label.take_off(),
                Said::GivingBack => label.give_back(),
                Said::Lost(_) => label.give_up(),
                _ => {}
            }
        }
        match said {
            Said::Leading(_) => {
                self.cut_off = false;
                self.announce("became leader");
            }
            Said::Lost(loss) => self.cut_off = matches!(loss, Loss::Deadline(_)),
            Said::Notice(Notice::Leader(identity)) => {
                if let Some(command) = &self.on_new_leader {
                    command.run(format!("LEADER_ELECTION_LEADER={identity}"));
                }
            }
            Said::Ended(end) => {
                if !self.cut_off {
                    self.announce("stopped leading");
                }
                if let Some(command) = &self.on_stopped_leading {
                    command.run(format!("LEADER_ELECTION_REASON={}", reason(*end)));
                }
            }
            _ => {}
        }
        // Last, for it may wait; what is done next comes after it all the same: to start the child, or the release.
        if let Some(state) = &mut self.state {
            state.say(said);
        }
    }

    fn announce(&mut self, what: &str) {
        if !self.config.events {
            return;
        }
        let limit = self.config.timing.request_timeout;
        let message = format!("{} {what}", self.config.identity);
        for event in self.events.iter().flat_map(|events| events.announce(&message)) {
            let said = self.events_refused.clone();
            self.on_the_way.spawn(async move {
                match timeout(limit, event).await {
                    Ok(Ok(())) => {}
                    Ok(Err(failure @ Failure::Refused(..))) if !said.swap(true, Ordering::Relaxed) => {
                        info!("{failure}; going on without (--no-events leaves them out)");
                    }
                    Ok(Err(failure)) => debug!("{failure}"),
                    Err(_) => debug!("an event has not reached the API server in time"),
                }
            });
        }
    }

    /// Waits, for a bounded time, until the last of it has been told, and says why we end with this code. Returns that.
    pub async fn finish(mut self, code: i32) -> String {
        self.waiting(|| None);
        if let Some(state) = self.state {
            state.finish();
        }
        let label = self.label.as_ref().filter(|_| !self.cut_off).map(Label::off);
        let last = async {
            while self.on_the_way.join_next().await.is_some() {}
            OptionFuture::from(label).await
        };
        let _ = timeout(LAST_EVENTS, last).await;
        let commands = [self.on_stopped_leading, self.on_new_leader];
        join_all(commands.into_iter().flatten().map(Runner::finish)).await;
        self.closing.say(self.lock, self.config, code)
    }
}

/// As the user's command is told it.
fn reason(end: End) -> &'static str {
    match end {
        End::Exited => "exited",
        End::Stopped => "stopped",
        End::SteppedDown => "stepped-down",
        End::Lost => "lost",
        End::Failed => "failed",
    }
}
