//! leader-run: runs a command only while holding a Kubernetes lock.

use leader_run::cli::Cli;
use leader_run::config::{Config, Timing};
use leader_run::exit::{self, Refusal};
use leader_run::guard::{self, Guard};
use leader_run::process::{namespace, pid1, signal, spawn, terminal};
use leader_run::report::write_termination_log;
use leader_run::{crash_release, log, run, subcommand, sys};
use std::io::{ErrorKind, Write};
use tracing::{Level, error};

fn main() {
    std::panic::set_hook(Box::new(die));
    let code = pid1::step_aside().map_err(Refusal::from).and_then(|()| start()).unwrap_or_else(|refusal| {
        say(&refusal);
        // A question, which begins with its name, is not what the container was started for.
        if std::env::args_os().nth(1).is_none_or(|first| first.as_encoded_bytes().starts_with(b"-")) {
            write_termination_log(&format!("{refusal}; exit code {}", refusal.code));
        }
        refusal.code
    });
    log::finish();
    std::process::exit(code)
}

/// Reads the command line, forks the guard while there is a single thread, and runs the election.
fn start() -> Result<i32, Refusal> {
    let Some(cli) = Cli::read()? else {
        return Ok(0);
    };
    if let Some(question) = cli.question {
        return subcommand::answer(question);
    }
    let options = cli.options;
    let timing = Timing::new(&options)?;
    if cli.help {
        // Not println!, which panics when nobody reads it.
        return match writeln!(std::io::stdout(), "{}", Cli::help(&timing.meaning())) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(0),
        };
    }
    let level = match (options.reports.verbose, options.reports.quiet) {
        (_, true) => Level::ERROR,
        (true, _) => Level::DEBUG,
        _ => Level::INFO,
    };
    let format = options.reports.log_format;
    let config = Config::new(options, timing)?;

    if let Some((record, within)) = &config.release {
        log::start(format, level);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let code = runtime.block_on(crash_release::run(&config, record.clone(), *within));
        runtime.shutdown_background();
        return code;
    }
    sys::check_descriptors()?;
    if config.pid_namespace {
        namespace::try_out()?;
    }
    if let Some(file) = &config.state_file {
        file.try_out()?;
    }
    let signals = signal::block(config.step_down_signal)?;
    let plan = spawn::Plan {
        program: config.program.clone(),
        name: config.command[0].clone(),
        args: config.command[1..].to_vec(),
        mask: signals.before,
        terminal: terminal::is_all_ours(),
        scheduling: sys::Scheduling::current(),
        pid_namespace: config.pid_namespace,
        state_file: config.state_file.clone(),
        again: spawn::Again { args: std::env::args_os().collect() },
    };
    let (stop_signal, wait_all, crash_release) = (config.stop_signal, config.wait_all, config.crash_release);
    let settings = guard::core::Settings { stop_signal, wait_all, crash_release };
    let guard = guard::fork_guard(plan, settings)?;
    log::start(format, level);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        let guard = Guard::new(guard)?;
        run::run(&config, guard, &signals).await
    });
    // Not dropped: that would wait for look-ups that hang.
    runtime.shutdown_background();
    code
}

/// One line, through the log once there is one.
fn say(refusal: &Refusal) {
    if tracing::dispatcher::has_been_set() {
        error!("{refusal}");
    } else {
        eprintln!("leader-run: {refusal}");
    }
}

/// A bug must not leave a tree running: our end closes the guard's socket, and the guard kills.
fn die(panic: &std::panic::PanicHookInfo<'_>) {
    eprintln!("leader-run: internal error, please report it: {panic}");
    sys::exit_now(exit::OWN_FAILURE)
}
