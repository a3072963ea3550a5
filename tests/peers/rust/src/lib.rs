//! What the contenders have in common: their settings, and the child that runs while they lead.

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// How the work ended.
#[derive(PartialEq)]
pub enum End {
    /// SIGTERM before we ever led.
    StandingBy,
    /// SIGTERM, or the child's own end: the lock may be released.
    Asked,
    Lost,
}

impl End {
    /// Says that the work has stopped, where there was any.
    pub fn report(&self) -> ExitCode {
        if *self != Self::StandingBy {
            say("stopped");
        }
        ExitCode::from(u8::from(*self == Self::Lost))
    }
}

/// A setting from the environment.
pub fn setting(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} has to be set"))
}

/// A setting in whole seconds.
pub fn seconds(name: &str) -> Duration {
    Duration::from_secs(setting(name).parse().unwrap_or_else(|_| panic!("{name} has to be a number of seconds")))
}

/// The one lock that both libraries know, and where their messages go.
pub fn prepare() {
    assert_eq!(setting("LOCK"), "lease", "the only lock that this library knows");
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).init();
}

/// Waits until we lead, and runs the child for as long as we do. It is dead when this returns.
pub async fn work(mut leading: watch::Receiver<bool>) -> End {
    let mut terminate = signal(SignalKind::terminate()).expect("a signal handler");
    tokio::select! {
        gained = leading.wait_for(|leading| *leading) => assert!(gained.is_ok(), "the library has given up"),
        _ = terminate.recv() => return End::StandingBy,
    }

    say("leading");
    let mut child = start();
    let end = tokio::select! {
        _ = leading.wait_for(|leading| !leading) => End::Lost,
        _ = terminate.recv() => End::Asked,
        _ = child.wait() => End::Asked,
    };
    // An error says that it has ended already.
    let _ = child.kill().await;
    end
}

fn say(line: &str) {
    println!("{line}");
    io::stdout().flush().expect("standard output");
}

fn start() -> Child {
    let mut arguments = env::args_os().skip(1);
    let command = arguments.next().expect("a command");
    Command::new(command).args(arguments).spawn().expect("start the child")
}
