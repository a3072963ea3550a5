//! The command line: bad input gets one clear line and 125, and nothing is contended for.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use support::{Contender, Finished, copy_program, leader_run, output};

/// Asserts that it ended with this code, and one line on standard error that contains all the words.
fn one_line(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.code, code, "{finished:?}");
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
    assert!(finished.stderr.starts_with("leader-run: "), "{}", finished.stderr);
    assert!(finished.stdout.is_empty(), "{}", finished.stdout);
    for word in words {
        assert!(finished.stderr.contains(word), "{word:?} is not in: {}", finished.stderr);
    }
}

#[test]
fn bad_input_gets_one_line_and_125() {
    let rows: &[(&[&str], &[&str])] = &[
        (&[], &["no command", "--"]),
        (&["--lock", "file", "--name", "demo"], &["no command"]),
        (&["--lock", "file", "--name", "demo", "--"], &["no command"]),
        (&["--lock", "file", "true"], &["\"true\"", "after --"]),
        (&["true"], &["\"true\"", "after --"]),
        (&["stats"], &["\"stats\"", "after --"]),
        (&["--lock", "file", "status"], &["\"status\" comes before its options", "leader-run status --ns ops"]),
        (&["status", "true"], &["\"true\"", "after --"]),
        (&["status", "--lokc", "file"], &["--lokc", "did you mean --lock"]),
        (&["check", "--lock", "paper"], &["unknown lock type"]),
        (&["help"], &["\"help\"", "after --"]),
        (&["--lock", "paper", "--", "true"], &["unknown lock type", "lease, configmap"]),
        (&["--lokc", "file", "--", "true"], &["--lokc", "did you mean --lock"]),
        (&["--lock", "file", "--name", "Not_Valid", "--", "true"], &["--name", "lower-case"]),
        (&["--lock", "file", "--name", "", "--", "true"], &["--name"]),
        (&["--lock", "file", "--ns", "a.b", "--", "true"], &["--namespace", "\"a.b\""]),
        (&["--lock", "file", "--", "sh", "-c", "true"], &["\"sh\"", "--name"]),
        (&["--lock", "file", "--", "/usr/bin/env", "true"], &["\"env\"", "--name"]),
        (&["--lock", "file", "--lease-duration", "2s", "--", "true"], &["--lease-duration", "3s to 1h"]),
        (&["--lock", "file", "--lease-duration", "15", "--", "true"], &["did you mean 15s?"]),
        (&["--lock", "file", "--lease-duration", "-15s", "--", "true"], &["negative"]),
        (&["--lock", "file", "--wait", "-1s", "--", "true"], &["negative"]),
        (&["--lock", "file", "--wait", "99999999999999y", "--", "true"], &["--wait"]),
        (&["--lock", "file", "--wait", "300y", "--", "true"], &["--wait", "at most a year"]),
        (&["--lock", "file", "--lease-duration", "soon", "--", "true"], &["15s or 1m30s"]),
        (&["--lock", "file", "--lease-duration", "2h", "--", "true"], &["3s to 1h"]),
        (&["--lock", "file", "--renew-deadline", "14s", "--", "true"], &["--renew-deadline", "less than 13s 500ms"]),
        (&["--lock", "file", "--retry-period", "500ms", "--", "true"], &["--retry-period", "at least 1s"]),
        (&["--lock", "file", "--retry-period", "9s", "--", "true"], &["1.2 retry periods"]),
        (&["--lock", "file", "--loss-grace", "10s", "--", "true"], &["--loss-grace", "at most 3s 500ms"]),
        (&["--lock", "file", "--lease-duration", "3s", "--renew-deadline", "2s", "--", "true"], &["such as 1s 600ms"]),
        (&["--lock", "file", "--resume=maybe", "--", "true"], &["--resume", "true or false"]),
        (&["--lock", "file", "--stop-signal", "KABOOM", "--", "true"], &["no such signal"]),
        (&["--lock", "file", "--lost-exit-code", "0", "--", "true"], &["--lost-exit-code"]),
        (&["--lock", "file", "--identity", "", "--", "true"], &["--identity"]),
        (&["--lock", "file", "--log-format", "xml", "--", "true"], &["text or json"]),
        (&["--lock", "file", "--name"], &["--name", "value"]),
        (&["--lock", "file", "--lock-dir", "/proc/nowhere", "--", "true"], &["/proc/nowhere"]),
        (&["--", "true"], &["no cluster", "--kubeconfig", "--lock file"]),
    ];
    for (args, words) in rows {
        one_line(&output(args), 125, words);
    }
}

#[test]
fn the_environment_is_checked_like_the_options_and_an_option_beats_it() {
    let run = |name: &str, value: &str, args: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let all = [&["--lock", "file", "--lock-dir", folder.path().to_str().unwrap()], args].concat();
        Finished::from(leader_run().env(name, value).args(all).output().unwrap())
    };
    let words = ["did you mean 15s?", "from LEADER_RUN_LEASE_DURATION"];
    one_line(&run("LEADER_RUN_LEASE_DURATION", "15", &["--", "true"]), 125, &words);
    one_line(&run("LEADER_RUN_RESUME", "maybe", &["--", "true"]), 125, &["maybe", "true or false"]);
    one_line(&run("LEADER_RUN_LOCK_TYPO", "ignored", &["--", "no-such-command"]), 127, &["not found"]);
    let beaten = run("LEADER_RUN_LEASE_DURATION", "15", &["--lease-duration", "15s", "--", "true"]);
    assert_eq!(beaten.code, 0, "{}", beaten.stderr);
    let named = run("LEADER_RUN_NAME", "demo", &["--", "sh", "-c", "echo $LEADER_ELECTION_NAME"]);
    assert_eq!(named.stdout, "demo\n", "{}", named.stderr);
}

#[test]
fn a_command_that_cannot_be_run_is_known_before_contending() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    let lock = ["--lock", "file", "--name", "demo", "--lock-dir", folder.path().to_str().unwrap(), "--"];
    let run = |command: &str| output(&[&lock[..], &[command]].concat());
    one_line(&run("no-such-command"), 127, &["no-such-command", "not found"]);
    one_line(&run("./no/such/command"), 127, &["not found"]);
    one_line(&run(script.to_str().unwrap()), 126, &["cannot be executed"]);
    one_line(&run("/tmp"), 126, &["cannot be executed"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was contended for");
    // What only the kernel can tell is found out when it is started: the lock is given back.
    fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(run(script.to_str().unwrap()).code, 127);
    let record = fs::read_to_string(folder.path().join("default_demo.json")).unwrap();
    assert!(record.contains("\"holderIdentity\":\"\""), "{record}");
}

#[test]
fn kubeconfigs_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    let file = path.to_str().unwrap().to_owned();
    let run = |text: &str, args: &[&str]| {
        fs::write(&path, text).unwrap();
        output(&[&["--kubeconfig", &file, "--wait", "1s"], args, &["--", "true"]].concat())
    };
    let missing = output(&["--kubeconfig", "/nowhere/config", "--", "true"]);
    one_line(&missing, 125, &["/nowhere/config"]);
    one_line(&run("{{{", &[]), 125, &["cannot use kubeconfig"]);
    one_line(&run("", &[]), 125, &["current-context"]);
    one_line(&run("apiVersion: v1\nkind: Config\n", &[]), 125, &["current-context", "--context"]);
    let whole = |cluster: &str| {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{{name: a, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{{cluster}}}}}]\nusers: [{{name: u, user: {{token: secret-token}}}}]\n"
        )
    };
    let local = whole("server: 'http://127.0.0.1:1'");
    one_line(&run(&local, &["--context", "", "--lock-dir", "/", "--ns", "Ops"]), 125, &["--namespace"]);
    // As for kubectl, a file of the list may be missing.
    fs::write(&path, &local).unwrap();
    let mut listed = leader_run();
    listed.env("KUBECONFIG", format!("/nowhere/config:{file}")).args(["--ns", "ops", "--wait", "0s", "--", "true"]);
    assert_eq!(Finished::from(listed.output().unwrap()).code, 124);
    one_line(&run(&local, &["--context", "b", "--ns", "ops"]), 125, &["no context \"b\"", "it has a"]);
    one_line(&run(&local, &[]), 125, &["no namespace", "--namespace"]);
    let insecure = whole("server: 'https://127.0.0.1:1', insecure-skip-tls-verify: true");
    one_line(&run(&insecure, &["--ns", "ops"]), 125, &["insecure-skip-tls-verify", "certificate-authority"]);
    one_line(&run(&whole("server: 'http://192.0.2.1:1'"), &["--ns", "ops"]), 125, &["https"]);
    let proxied = whole("server: 'https://127.0.0.1:1', proxy-url: 'http://127.0.0.1:2'");
    one_line(&run(&proxied, &["--ns", "ops"]), 125, &["proxy-url"]);
    one_line(&run(&whole("server: 'not a url'"), &["--ns", "ops"]), 125, &["cannot use kubeconfig"]);
    // Without a certificate of its own, on a system that has none.
    let bare = |server: &str| {
        fs::write(&path, whole(server)).unwrap();
        let mut command = leader_run();
        command.envs([("SSL_CERT_FILE", "/nowhere"), ("SSL_CERT_DIR", "/nowhere")]);
        command.args(["--kubeconfig", &file, "--ns", "ops", "--wait", "0s", "--", "true"]);
        Finished::from(command.output().unwrap())
    };
    one_line(&bare("server: 'https://127.0.0.1:1'"), 125, &["certificate-authority", "ca-certificates"]);
    assert_eq!(bare("server: 'http://127.0.0.1:1'").code, 124);
    // An unreachable server is said once and tried again; the last error is repeated at the end.
    let unreachable = run(&local, &["--ns", "ops"]);
    assert_eq!(unreachable.code, 124, "{}", unreachable.stderr);
    let lines: Vec<_> = unreachable.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{}", unreachable.stderr);
    assert!(lines[0].contains("cannot reach http://127.0.0.1:1") && lines[0].contains("trying again"), "{}", lines[0]);
    assert!(lines[1].contains("not leading after 1s") && lines[1].contains("Connection refused"), "{}", lines[1]);
    assert!(!unreachable.stderr.contains("secret-token"));
}

#[test]
fn a_lock_folder_that_cannot_be_trusted() {
    // The default folder is named after the user, so this runs as a user that nobody is. Only root can.
    const NOBODY: u32 = 54_321;
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("not run: it needs root to become another user");
        return;
    }
    let path = format!("/tmp/leader-run-{NOBODY}");
    let binary = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    let program = binary.path().join("leader-run");
    copy_program(env!("CARGO_BIN_EXE_leader-run"), &program);
    let run = || {
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={NOBODY}")).args(["--clear-groups", "--"]).arg(&program);
        Finished::from(command.args(["--lock", "file", "--wait", "0s", "--", "true"]).output().unwrap())
    };
    fs::create_dir(&path).unwrap();
    let foreign = run();
    let owner = nix::unistd::Uid::from_raw(NOBODY);
    nix::unistd::chown(path.as_str(), Some(owner), None).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).unwrap();
    let open = run();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    let good = run();
    fs::remove_dir_all(&path).unwrap();
    std::os::unix::fs::symlink("/tmp", &path).unwrap();
    let link = run();
    fs::remove_file(&path).unwrap();
    one_line(&foreign, 125, &["belongs to user 0", "--lock-dir"]);
    one_line(&open, 125, &["mode 770", "chmod 700"]);
    assert_eq!(good.code, 0, "{}", good.stderr);
    one_line(&link, 125, &["not a folder"]);
}

#[test]
fn too_few_descriptors() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 8; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_leader-run")]);
    one_line(&command.args(["--lock", "file", "--", "true"]).output().unwrap().into(), 125, &["ulimit -n"]);
}

#[test]
fn help_says_what_the_values_given_mean() {
    let help = output(&["--lease-duration", "60s", "--renew-deadline", "30s", "--loss-grace", "0s", "--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    for words in ["Lock:", "Time:", "Child:", "Kubernetes:", "killed after 30s", "up to 2.00 times", "-- COMMAND"] {
        assert!(help.stdout.contains(words), "{words:?} is not in: {}", help.stdout);
    }
    assert!(help.stdout.lines().all(|line| line.chars().count() <= 100), "{}", help.stdout);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let unread = Finished::from(leader_run().arg("--help").stdout(full).output().unwrap());
    one_line(&unread, 125, &["No space left"]);
    let version = output(&["--version"]);
    assert_eq!((version.code, version.stdout.as_str()), (0, concat!("leader-run ", env!("CARGO_PKG_VERSION"), "\n")));
}

#[test]
fn credentials_that_never_come_do_not_make_it_deaf() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    let exec = "{apiVersion: client.authentication.k8s.io/v1, command: sleep, args: ['300'], interactiveMode: Never}";
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{{name: a, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:1'}}}}]\nusers: [{{name: u, user: {{exec: {exec}}}}}]\n"
    );
    fs::write(&path, text).unwrap();
    let start = |wait: &[&str]| {
        let mut command = leader_run();
        command.arg("--kubeconfig").arg(&path).args(["-v", "--ns", "ops"]).args(wait).args(["--", "true"]);
        Contender::start(&mut command)
    };
    let mut contender = start(&["--wait", "1s"]);
    assert_eq!(contender.wait(), 124, "{}", contender.said());
    contender.wait_line("did not come in time");
    let mut contender = start(&[]);
    contender.wait_line("reading the configuration");
    contender.signal(nix::libc::SIGTERM);
    assert_eq!(contender.wait(), 143, "{}", contender.said());
}
