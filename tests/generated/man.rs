//! The manual: roff made of the command line definition, the texts that follow it in the help, and what only the
//! manual says, which is in `man/<page>.txt`, in the same format as those texts.

use clap::{Arg, Command};
use std::fmt::Write;

/// The order of man-pages(7). What is not among them is a part of the description.
const ORDER: [&str; 8] =
    ["DESCRIPTION", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "SIGNALS", "FILES", "EXAMPLES", "SEE ALSO"];

/// A section of the page: its title, and its roff.
type Section = (String, String);

/// The page of this command, whose help ends in `help`; `more` is what only the manual says.
pub fn page(command: &Command, name: &str, help: &str, more: &str) -> String {
    let about = command.get_about().unwrap_or_default().to_string();
    let short = about.split([':', ';', '.']).next().unwrap_or_default();
    let version = env!("CARGO_PKG_VERSION");
    let mut page = String::from(".\\\" Made by tests/generated; see README.md.\n");
    let _ = writeln!(
        page,
        ".TH {} 1 \"\" \"leader-run {version}\" \"User Commands\"\n.nh\n.ad l",
        escape(&name.to_uppercase())
    );
    let _ = writeln!(page, ".SH NAME\n{} \\- {}", escape(name), escape(&lower_first(short)));
    let _ = writeln!(page, ".SH SYNOPSIS\n.nf\n{}.fi", synopsis(command));

    let own = [("DESCRIPTION".into(), format!(".PP\n{}.\n", escape(&about))), ("OPTIONS".into(), options(command))];
    let all = own.into_iter().chain(questions(command, name)).chain(sections(help)).chain(sections(more));
    let all: Vec<Section> = all.collect();
    for title in ORDER {
        let parts = all.iter().filter(|(section, _)| section == title);
        let parts: String = parts.map(|(_, roff)| roff.as_str()).collect();
        if !parts.is_empty() {
            let _ = write!(page, ".SH {title}\n{parts}");
        }
        if title == "DESCRIPTION" {
            for (title, roff) in all.iter().filter(|(title, _)| !ORDER.contains(&title.as_str())) {
                let _ = write!(page, ".SS {title}\n{roff}");
            }
        }
    }
    // A heading begins a paragraph by itself.
    let mut lines: Vec<_> = page.lines().collect();
    let is_heading = |line: &str| line.starts_with(".SH") || line.starts_with(".SS");
    lines.dedup_by(|line, before| *line == ".PP" && is_heading(before));
    lines.join("\n") + "\n"
}

/// The lines of the usage: what is typed as it is in bold, what stands for something else in italics.
fn synopsis(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    let lines = usage.trim_start_matches("Usage:").lines().map(|line| {
        let words = line.split_whitespace().map(|word| {
            let font = if word.chars().any(|c| c.is_ascii_uppercase()) { 'I' } else { 'B' };
            format!("\\f{font}{}\\fR", escape(word))
        });
        words.collect::<Vec<_>>().join(" ") + "\n"
    });
    lines.collect()
}

/// The subcommands that have pages of their own.
pub fn parts(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|part| part.get_name() != "help" && !part.is_hide_set())
}

/// Where they are told of, at the page that this one is a part of or has parts of.
fn questions(command: &Command, name: &str) -> Vec<Section> {
    let reference = |name: &str| format!("\\fB{}\\fR(1)", escape(name));
    let rows = parts(command).map(|part| {
        let about = part.get_about().unwrap_or_default().to_string();
        format!(".TP\n{}\n{}\n", reference(&format!("{name}-{}", part.get_name())), escape(&about))
    });
    let rows: String = rows.collect();
    let heading = command.get_subcommand_help_heading().unwrap_or("Commands");
    match (name, rows.is_empty()) {
        ("leader-run", true) => Vec::new(),
        ("leader-run", false) => vec![(heading.into(), rows)],
        _ => vec![("SEE ALSO".into(), format!("{}\n", reference("leader-run")))],
    }
}

/// The options under their headings, in the order of the help.
fn options(command: &Command) -> String {
    let shown: Vec<_> = command.get_arguments().filter(|arg| !arg.is_hide_set()).collect();
    let mut headings: Vec<_> = shown.iter().map(|arg| arg.get_help_heading()).collect();
    headings.dedup();
    headings.sort_by_key(Option::is_some);
    headings.dedup();
    let mut roff = String::new();
    for heading in headings {
        if let Some(heading) = heading {
            let _ = writeln!(roff, ".SS {heading}");
        }
        for arg in shown.iter().filter(|arg| arg.get_help_heading() == heading) {
            let help = arg.get_help().unwrap_or_default().to_string();
            let _ = writeln!(roff, ".TP\n{}\n{}{}", spelling(arg), escape(&help), escape(&default(arg)));
        }
    }
    roff
}

/// `-n, --namespace, --ns NS`, or `COMMAND`.
fn spelling(arg: &Arg) -> String {
    let shorts = arg.get_short().into_iter().map(|short| format!("-{short}"));
    let longs = arg.get_long_and_visible_aliases().unwrap_or_default();
    let names = shorts.chain(longs.into_iter().map(|long| format!("--{long}")));
    let names: Vec<_> = names.map(|name| format!("\\fB{}\\fR", escape(&name))).collect();
    let values = arg.get_value_names().unwrap_or_default().iter();
    let is_flag = arg.get_num_args().is_some_and(|number| !number.takes_values());
    let value: Vec<_> = values.filter(|_| !is_flag).map(|value| format!("\\fI{}\\fR", escape(value))).collect();
    let value = value.join(" ");
    match (names.is_empty(), value.is_empty()) {
        (true, _) => value,
        (_, true) => names.join(", "),
        _ if arg.is_require_equals_set() => format!("{}[={value}]", names.join(", ")),
        _ => format!("{} {value}", names.join(", ")),
    }
}

fn default(arg: &Arg) -> String {
    match arg.get_default_values() {
        [value, ..] if !arg.is_hide_default_value_set() && arg.get_num_args().is_none_or(|n| n.takes_values()) => {
            format!(" [default: {}]", value.to_string_lossy())
        }
        _ => String::new(),
    }
}

/// Text as the help has it: headings, each followed by indented paragraphs and rows of two columns. A paragraph that is
/// not indented describes.
fn sections(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut is_new = true;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(heading) = line.strip_suffix(':').filter(|heading| !heading.starts_with(' ')) {
            sections.push((title(heading), String::new()));
            is_new = true;
            continue;
        }
        if !line.is_empty() && !line.starts_with(' ') && is_new {
            sections.push(("DESCRIPTION".into(), String::new()));
        }
        let Some((title, roff)) = sections.last_mut() else { continue };
        let in_second_column = |line: &str| line.starts_with("   ");
        let (first, second) = match line.trim().split_once("  ") {
            Some((first, second)) => (first, Some(second)),
            None => (line.trim(), lines.peek().copied().filter(|next| in_second_column(next)).and(Some(""))),
        };
        let _ = match second {
            _ if line.trim().is_empty() => {
                is_new = true;
                continue;
            }
            _ if title == "EXAMPLES" => writeln!(roff, ".PP\n.nf\n{}\n.fi", escape(line.trim())),
            _ if in_second_column(line) => writeln!(roff, "{}", escape(line.trim())),
            Some(second) => {
                is_new = true;
                let meaning = Some(escape(second.trim()) + "\n").filter(|meaning| meaning != "\n");
                write!(roff, ".TP\n\\fB{}\\fR\n{}", escape(first), meaning.unwrap_or_default())
            }
            None => {
                let paragraph = if std::mem::take(&mut is_new) { ".PP\n" } else { "" };
                writeln!(roff, "{paragraph}{}", escape(first))
            }
        };
    }
    sections
}

/// The title of the section with this heading: as the manual calls those that it always has.
fn title(heading: &str) -> String {
    let title = if heading == "Exit codes" { "EXIT STATUS".into() } else { heading.to_uppercase() };
    if ORDER.contains(&title.as_str()) { title } else { heading.into() }
}

/// Nothing in it means anything to roff.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('`', "\\(ga");
    let text = text.replace('~', "\\(ti").replace('^', "\\(ha");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}
