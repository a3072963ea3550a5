//! The completions for shells, and what the shells themselves make of them.

use crate::man;
use clap::Command;
use clap_complete::{Generator, Shell};
use std::process::{Command as Process, Stdio};

pub const SHELLS: [Shell; 5] = [Shell::Bash, Shell::Elvish, Shell::Fish, Shell::PowerShell, Shell::Zsh];

/// The name and the text of the file for this shell.
pub fn completions(shell: Shell, command: &Command) -> (String, String) {
    // What is hidden is not for people.
    let shown = |command: &Command| {
        let args: Vec<_> = command.get_arguments().filter(|arg| !arg.is_hide_set()).cloned().collect();
        Command::new(&*command.get_name().to_owned().leak())
            .about(command.get_about().cloned().unwrap_or_default())
            .version(env!("CARGO_PKG_VERSION"))
            .disable_help_flag(true)
            .disable_version_flag(true)
            .args(args)
    };
    let mut command = shown(command).disable_help_subcommand(true).subcommands(man::parts(command).map(shown));
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "leader-run", &mut text);
    let mut text = String::from_utf8(text).unwrap();
    // In bash it takes the hyphen of the name for the step to a subcommand, in one place of two.
    text = text.replace("leader__subcmd__run", "leader__run");
    if let Shell::Bash | Shell::Zsh = shell {
        let begin = text.find("() {\n").expect("a function") + "() {\n".len();
        text.insert_str(begin, if shell == Shell::Bash { BASH_COMMAND } else { ZSH_COMMAND });
    } else if shell == Shell::Fish {
        let names: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
        text += &FISH_COMMAND.replace("QUESTIONS", &names.join(" "));
    }
    (shell.file_name("leader-run"), text)
}

// clap_complete has no words for COMMAND in bash and fish, and in zsh none where there are subcommands.
const BASH_COMMAND: &str = r#"    # What follows -- is a command line of its own, as after sudo.
    local at
    for ((at = 1; at < COMP_CWORD; at++)); do
        if [[ ${COMP_WORDS[at]} == -- ]] && declare -F _command_offset >/dev/null; then
            _command_offset $((at + 1))
            return
        fi
    done
"#;
const ZSH_COMMAND: &str = r#"    # What follows -- is a command line of its own, as after sudo.
    local -i at=${words[(i)--]}
    if (( at < CURRENT )); then
        shift $at words
        (( CURRENT -= at ))
        _normal -p leader-run
        return
    fi
"#;
const FISH_COMMAND: &str = r#"
# Instead of the one above, which fails where an option lacks its value. A question is always the first word.
function __fish_leader_run_needs_command
    set -l words (commandline -opc)
    contains -- "$words[2]" QUESTIONS
    or return 0
    echo $words[2]
    return 1
end

# What follows -- is a command line of its own, as after sudo.
function __leader_run_command
    set -l words (commandline -opc)
    set -l at (contains -i -- -- $words)
    complete -C (string join ' ' -- (string escape -- $words[(math $at + 1)..-1]) (commandline -ct))
end
complete -c leader-run -n 'contains -- -- (commandline -opc)' -x -a '(__leader_run_command)'
"#;

/// All that the shell shows when a tab is typed after this line.
pub fn offered(shell: &str, line: &str) -> String {
    let program = match shell {
        "bash" => &["bash", "--norc", "-c", BASH, "bash"][..],
        "zsh" => &["zsh", "-f", "-c", ZSH, "zsh"],
        _ => &["fish", "--no-config", "-c", FISH],
    };
    let mut command = Process::new("timeout");
    command.arg("60").args(program).arg(line).env("TERM", "dumb").stdin(Stdio::null());
    let done = command.current_dir(super::root().join("completions")).output().unwrap();
    let said = [done.stdout, done.stderr.clone()].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(done.status.success() && done.stderr.is_empty(), "{shell}: {said}");
    said
}

/// Calls the function that `complete` has for leader-run, as bash does.
const BASH: &str = r#"
common=/usr/share/bash-completion/bash_completion
[ ! -r $common ] || . $common
. ./leader-run.bash
compopt() { :; } # which bash allows only while it completes
COMP_LINE=$1 COMP_POINT=${#1}
read -ra COMP_WORDS <<<"$1"
[[ $1 != *' ' ]] || COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
function=$(complete -p leader-run | sed 's/.*-F \([^ ]*\).*/\1/')
$function leader-run "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

/// Types into an interactive zsh: the line and a tab, then a line that says when all is shown.
const ZSH: &str = r#"
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "stty rows 100 columns 200; PROMPT='>''>' RPS1=; unset zle_bracketed_paste; fpath=($PWD \$fpath); \
  autoload -Uz compinit; compinit -D -u"
zpty -r -m shell text '*>>*'
zpty -w -n shell "$1"$'\t\x15'"print EN''D"$'\n'
zpty -r -m shell text '*END*'
zpty -d shell
print -r -- $text
"#;

const FISH: &str = "source ./leader-run.fish; complete -C $argv[1]";
