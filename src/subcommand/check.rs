//! `leader-run check`: whether a run with these options could do its work, and what it needs for that.
//!
//! What people read goes to standard error. Standard output has the Role that is missing, and nothing else, so that
//! it can be applied as it is.

use super::note;
use super::role::{Need, role};
use crate::backend::{self, Access, Cluster, Lock, find_file};
use crate::cli::{Check, Options};
use crate::config::{Timing, lock_options, program};
use crate::exit::{self, Refusal};
use crate::lock::request::{Failure, Reply};
use crate::text::duration;
use crate::text::shown;
use futures_util::future::join_all;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

/// Says what there is and what is missing, and returns the exit code.
///
/// # Errors
/// When the options are wrong, or the API server cannot be asked.
pub fn answer(check: Check) -> Result<i32, Refusal> {
    let options = &check.options;
    let timing = Timing::new(options)?;
    let place = lock_options(options)?;
    let mut list = List::default();
    list.ok(format!(
        "the timings: lease duration {}, renew deadline {}, retry period {}, killed after {}",
        duration(timing.lease_duration),
        duration(timing.renew_deadline),
        duration(timing.retry_period),
        duration(timing.renew_deadline + timing.loss_grace)
    ));
    if let Some(command) = options.command.first() {
        match program(command) {
            Ok(path) => list.ok(format!("the command: {}", path.display())),
            // It may be meant for another machine.
            Err(refusal) => list.warn(format!("{refusal}, here")),
        }
    }
    super::run(async {
        match Cluster::of(&place).await? {
            Some(cluster) => {
                let asking = Asking { cluster: &cluster, options, place: &place, limit: timing.request_timeout };
                asking.answer(&mut list, &timing).await?;
            }
            None => folder(&mut list, &place)?,
        }
        Ok(list.code())
    })
}

/// What a person reads, line by line.
#[derive(Default)]
struct List {
    missing: bool,
}

impl List {
    fn ok(&self, what: String) {
        note(&format!("ok       {what}"));
    }

    fn warn(&self, what: String) {
        note(&format!("warning  {what}"));
    }

    fn missing(&mut self, what: String) {
        self.missing = true;
        note(&format!("missing  {what}"));
    }

    fn code(&self) -> i32 {
        if self.missing { exit::MISSING } else { 0 }
    }
}

/// All that a run with these options needs, beside the lock itself.
fn others(options: &Options) -> Vec<Need> {
    let need = |wanted: bool, resource, verb, without| {
        let access = Access { group: "", resource, name: None, verb };
        wanted.then_some(Need { access, without })
    };
    let events = options.reports.events && !options.reports.no_events;
    let label = options.reports.pod_label.is_some();
    let needs = [
        need(events, "events", "create", Some("no events will be left (--no-events)")),
        need(label, "pods", "patch", Some("the pod will not be labelled (--pod-label)")),
    ];
    needs.into_iter().flatten().collect()
}

struct Asking<'a> {
    cluster: &'a Cluster,
    options: &'a Options,
    place: &'a backend::Options,
    limit: Duration,
}

impl Asking<'_> {
    async fn answer(&self, list: &mut List, timing: &Timing) -> Result<(), Refusal> {
        let namespace = &self.cluster.namespace;
        let user = self.ask(self.cluster.user()).await?;
        match &user {
            Some(user) => list.ok(format!("the API server knows us as {}", shown(user))),
            None => list.warn("the API server cannot say who we are: put the subject into the RoleBinding".into()),
        }
        match self.ask(self.cluster.has_namespace()).await? {
            Some(true) => list.ok(format!("namespace {namespace}")),
            Some(false) => list.missing(format!("namespace {namespace} does not exist: create it first")),
            None => list.warn(format!("whether namespace {namespace} exists is not for us to know")),
        }
        let needs = self.needs().await;
        let answers = join_all(needs.iter().map(|need| self.ask(self.cluster.may(&need.access)))).await;
        let mut lacking = false;
        for (need, allowed) in needs.iter().zip(answers) {
            let allowed = allowed?;
            lacking |= !allowed;
            let Access { resource, name, verb, .. } = &need.access;
            let which = name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
            let what = format!("{verb} {resource}{which}");
            match need.without {
                _ if allowed => list.ok(format!("may {what}")),
                Some(without) => list.warn(format!("may not {what}: {without}")),
                None => list.missing(format!("may not {what}")),
            }
        }
        self.compare_clocks(list, timing).await?;
        if lacking {
            let text = role(self.place, namespace, user.as_deref(), &needs);
            let mut out = std::io::stdout().lock();
            out.write_all(text.as_bytes())?;
            out.flush()?;
        }
        Ok(())
    }

    /// All rights that a run needs. Whoever need not create an object can do without that right.
    async fn needs(&self) -> Vec<Need> {
        let mut needs = Vec::new();
        for object in self.cluster.objects(self.place) {
            let found = timeout(self.limit, object.get()).await;
            let is_there = matches!(found, Ok(Ok(Reply::Found(Some(_)))));
            needs.extend(object.accesses().map(|access| {
                let without = match access.verb {
                    "watch" => Some("it will be polled"),
                    "create" if is_there => Some("it is there, and must not be deleted"),
                    _ => None,
                };
                Need { access, without }
            }));
        }
        needs.extend(others(self.options));
        needs
    }

    /// leader-run does not mind it, but others that share the lock may.
    async fn compare_clocks(&self, list: &mut List, timing: &Timing) -> Result<(), Refusal> {
        let margin = Duration::from_secs(1).max(timing.lease_duration / 10);
        match self.ask(self.cluster.clock_difference()).await? {
            Some(ahead) if ahead.abs() > margin.as_secs_f64() => {
                let (by, how) = (ahead.abs(), if ahead > 0.0 { "ahead of" } else { "behind" });
                list.warn(format!(
                    "the server's clock is {by:.1}s {how} ours: leader-run does not mind, but clients that trust the \
                     times in a record do"
                ));
            }
            Some(_) => list.ok("the server's clock and ours show the same".into()),
            None => list.warn("the server does not say what time it is".into()),
        }
        Ok(())
    }

    async fn ask<T>(&self, question: impl Future<Output = Result<T, Failure>>) -> Result<T, Refusal> {
        let answer = timeout(self.limit, question).await.unwrap_or(Err(Failure::Timeout));
        answer.map_err(|failure| match failure {
            Failure::Timeout => Refusal::new("the API server has not answered in time"),
            failure => Refusal::new(failure.to_string()),
        })
    }
}

/// The folder of a lock in a file: whose it is, and where. Nothing is made.
fn folder(list: &mut List, place: &backend::Options) -> Result<(), Refusal> {
    let lock = match find_file(place) {
        Ok(lock) => lock,
        Err(error) => {
            list.missing(format!("{error:#}"));
            return Ok(());
        }
    };
    let folder = lock.folder();
    let shown = folder.display();
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() && is_usable(folder) => {
            let (mode, owner) = (found.mode() & 0o7777, found.uid());
            let system = lock.remote().unwrap_or("a local file system");
            list.ok(format!("lock folder {shown}: of user {owner}, mode {mode:03o}, on {system}"));
            if mode & 0o1000 != 0 {
                list.warn(format!("lock folder {shown} is sticky: users cannot take the lock over from each other"));
            }
        }
        Ok(found) if found.is_dir() => list.missing(format!("lock folder {shown} cannot be written")),
        Ok(_) => list.missing(format!("lock folder {shown} is not a folder")),
        Err(_) => {
            let parent = folder.ancestors().find(|parent| parent.is_dir() || parent.as_os_str().is_empty());
            match parent.map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent }) {
                Some(parent) if is_usable(parent) => list.ok(format!("lock folder {shown} will be made")),
                _ => list.missing(format!("lock folder {shown} is not there, and cannot be made")),
            }
        }
    }
    if let Some(remote) = lock.remote() {
        list.warn(format!("the lock folder is on {remote}: kernel locks may not reach every contender there"));
    }
    Ok(())
}

/// Whether we can make files in this folder.
fn is_usable(folder: &Path) -> bool {
    use nix::unistd::{AccessFlags, eaccess};
    eaccess(folder, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}
