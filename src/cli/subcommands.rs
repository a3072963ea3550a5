//! The options of what is asked instead of running a command. `ask` has the answers.

use super::{Options, duration, one_of};
use clap::{ArgAction, ArgMatches, Args, Command, FromArgMatches, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// How an answer looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Text,
    /// An object.
    Json,
    /// The holder's identity, and nothing else.
    Name,
}

/// What can be asked, beside a run or before it.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant)] // There is only ever one.
pub enum Question {
    /// Who holds the lock, and until when
    Status(Status),
    /// Whether a run with these options could do its work, and what it needs
    Check(Check),
    /// Whether the lock is held now, from the state file alone
    Assert(Assert),
}

/// Who holds the lock.
#[derive(Args, Debug)]
#[command(override_usage = "leader-run status [OPTIONS] [-- COMMAND [ARG]...]", after_help = ABOUT_STATUS)]
pub struct Status {
    /// How a command is run; what has nothing to do with the question is taken and not looked at.
    #[command(flatten)]
    pub run: Pasted,

    /// As text, json or name (the holder's identity only)
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    #[arg(value_parser = one_of(["text", "json", "name"], output), hide_possible_values = true)]
    pub output: Output,

    /// Go on, and print a line for each change but renewals
    #[arg(long)]
    pub watch: bool,

    /// Print this help
    #[arg(short, long, action = ArgAction::HelpShort)]
    pub help: Option<bool>,
}

/// Whether a run could do its work.
#[derive(Args, Debug)]
#[command(override_usage = "leader-run check [OPTIONS] [-- COMMAND [ARG]...]", after_help = ABOUT_CHECK)]
pub struct Check {
    /// How a command is run
    #[command(flatten)]
    pub options: Options,

    /// Print this help
    #[arg(short, long, action = ArgAction::HelpShort)]
    pub help: Option<bool>,
}

/// Whether the lock is held now.
#[derive(Args, Debug)]
#[command(override_usage = "leader-run assert [OPTIONS]", after_help = ABOUT_ASSERT)]
pub struct Assert {
    /// Only if it is held for so much longer, even if it is not renewed
    #[arg(long, value_name = "DUR", default_value = "0s", value_parser = duration, allow_hyphen_values = true)]
    pub min_remaining: Duration,

    /// The state file [default: LEADER_RUN_STATE_FILE, else LEADER_ELECTION_STATE_FILE, which a child finds in its
    /// environment]
    #[arg(long, value_name = "PATH", env = "LEADER_RUN_STATE_FILE", hide_env = true)]
    pub state_file: Option<PathBuf>,

    /// Print this help
    #[arg(short, long, action = ArgAction::HelpShort)]
    pub help: Option<bool>,
}

/// The options of a run, for a question that minds those only which say where the lock is and how to reach it. The
/// others are hidden, and taken, so that the arguments of a run can be pasted.
#[derive(Debug)]
pub struct Pasted(pub Options);

impl Args for Pasted {
    fn augment_args(command: Command) -> Command {
        let options = Options::augment_args(Command::default());
        let minded = |arg: &clap::Arg| {
            let id = arg.get_id().as_str();
            let heading = arg.get_help_heading();
            (heading == Some("Lock") && !["identity", "resume"].contains(&id)) || heading == Some("Kubernetes")
        };
        command.args(options.get_arguments().map(|arg| match minded(arg) {
            true => arg.clone(),
            false => arg.clone().hide(true),
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Pasted {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Options::from_arg_matches(matches).map(Pasted)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

const ABOUT_ASSERT: &str = "\
Exit codes:
  0    the lock is held, and stays so for --min-remaining even if it is not renewed
  1    it is not, or its deadline has passed; one line says why
  125  wrong options, or no state file, as when leader-run has ended

For the child of leader-run, or a script, to ask before each step that must not be repeated.
";

const ABOUT_STATUS: &str = "\
Exit codes:
  0    somebody holds the lock
  1    nobody does, or there is no such lock
  2    that cannot be told: the lock cannot be reached or read, or its
       two objects name different holders
  125  wrong options or settings

The arguments of a run can be given as they are; what does not say where the
lock is makes no difference.
";

const ABOUT_CHECK: &str = "\
Exit codes:
  0    nothing is missing that a run cannot do without
  1    something is
  125  wrong options or settings, or the API server cannot be asked

What there is goes to standard error. Where rights are missing, standard output
has the Role and the RoleBinding that grant them, as in:
  leader-run check --ns ops --name cronworker | kubectl apply -f -
";

fn output(text: &str) -> Result<Output, String> {
    match text {
        "text" => Ok(Output::Text),
        "json" => Ok(Output::Json),
        "name" => Ok(Output::Name),
        _ => Err("use text, json or name".into()),
    }
}
