//! What can be wrong with who the server is, where it is, and who we are to it.

use crate::scene::{P, R, Scene, at_once, child, loses, seconds, undisturbed};
use crate::server::{NAMESPACE, TOKEN};
use crate::support::{AT_ONCE, Contender, LONG, POLITE, SHORT, STUBBORN, started_by, wait_for};
use crate::tls::Tls;
use crate::{Row, Seen};
use nix::libc::{O_NONBLOCK, SIGKILL, SIGTERM};
use nix::sys::stat::Mode;
use nix::unistd::{Uid, mkfifo};
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const ROWS: &[Row] = &[
    Row {
        number: 25,
        fault: "a server that nobody vouches for",
        injected: "another CA, an expired certificate, one for another name, plain http, skipped verification; and a \
                   leader whose server is exchanged for another one",
        expected: "refused with 125, a leader loses at R; no request is sent",
        run: untrusted,
    },
    Row {
        number: 26,
        fault: "look-ups of the server's name hang",
        injected: "in a mount namespace, a name server that never answers",
        expected: "a leader loses at R and K, --wait ends a standby and SIGTERM too, none of them late",
        run: hanging_names,
    },
    Row {
        number: 27,
        fault: "tokens are rotated",
        injected: "a new token in the file, the old one refused once the new one has been seen: in a pod, in a kubeconfig",
        expected: "no loss",
        run: rotated_tokens,
    },
    Row {
        number: 28,
        fault: "the program that brings credentials hangs",
        injected: "a program that is asked for every request: it hangs from the start, or from some moment on under a \
                   leader, or is slower than a request may be",
        expected: "--wait ends a contender and SIGTERM too, a leader loses at R and K, none of them late; the program is \
                   gone when leader-run is; there is one of it at a time, and a slow one is of use",
        run: hanging_program,
    },
];

fn untrusted() -> Seen {
    let refused = |what: &'static str, serve: fn() -> Tls, trust_it: bool| -> Box<dyn FnOnce() -> String + Send> {
        Box::new(move || {
            let scene = Scene::new();
            let tls = serve();
            scene.server.stop();
            scene.server.listen_as(&tls);
            let config =
                if trust_it { scene.config_trusting(&tls) } else { scene.server.config(&scene.server.url(), TOKEN) };
            refused_with(&scene, &config, what, "cannot trust https://")
        })
    };
    let misconfigured = |what: &'static str, edit: fn(&mut Value), message: &'static str| {
        let case: Box<dyn FnOnce() -> String + Send> = Box::new(move || {
            let scene = Scene::new();
            let mut config = scene.server.config(&scene.server.url(), TOKEN);
            edit(&mut config["clusters"][0]["cluster"]);
            refused_with(&scene, &config, what, message)
        });
        case
    };
    let exchanged = || {
        let scene = Scene::new();
        let mut leader = scene.contender("leader", STUBBORN);
        let pid = child(&leader);
        let since = scene.after_a_renewal("leader");
        sleep(P / 4);
        scene.server.stop();
        let requests = scene.server.requests().len();
        scene.server.listen_as(&Tls::new());
        let lost = loses(&mut leader, pid, since);
        assert_eq!(scene.server.requests().len(), requests, "a request to a stranger");
        let said = leader.wait_line("lost lease").text;
        assert!(said.contains("cannot trust"), "{said}");
        format!("exchanged under a leader: no request, {lost}")
    };
    let plain = |cluster: &mut Value| cluster["server"] = "http://192.0.2.1:6443".into();
    let unverified = |cluster: &mut Value| {
        cluster["insecure-skip-tls-verify"] = true.into();
        cluster.as_object_mut().expect("an object").remove("certificate-authority-data");
    };
    Seen::Held(at_once(vec![
        refused("another CA", Tls::new, false),
        refused("expired", Tls::expired, true),
        refused("for another name", || Tls::of(&["another.test"]), true),
        misconfigured("plain http", plain, "without https anybody on the way could answer"),
        misconfigured("unverified", unverified, "insecure-skip-tls-verify is refused"),
        Box::new(exchanged),
    ]))
}

fn refused_with(scene: &Scene, config: &Value, what: &str, message: &str) -> String {
    let mut contender = scene.with(config, "contender", POLITE);
    let code = contender.wait();
    assert_eq!(code, 125, "{what}: {}", contender.said());
    assert!(contender.said().contains(message), "{what}: {}", contender.said());
    assert_eq!(scene.server.requests().len(), 0, "{what}: a request to a stranger");
    format!("{what}: {code}, no request")
}

/// A mount namespace in which these files and folders lie over others, and the command in it.
fn mounted(mounts: &[(&Path, &str)], command: &Command) -> Command {
    let binds: String = mounts.iter().map(|(from, to)| format!("mount --bind {} {to} && ", from.display())).collect();
    // Below /var/run nothing else is needed.
    let script = format!("mount -t tmpfs none /var/run && mkdir -p {POD_FOLDER} && {binds} exec \"$@\"");
    let way = if Uid::effective().is_root() { "-m" } else { "-rm" };
    started_by(&["unshare", way, "sh", "-c", &script, "sh"], command)
}

const POD_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn can_mount() -> bool {
    let status = mounted(&[], &Command::new("true")).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn hanging_names() -> Seen {
    if !can_mount() {
        return Seen::NotInjected("no mount namespace is to be had".into());
    }
    // Name servers have no other port.
    let Ok(silent) = UdpSocket::bind("127.83.0.1:53") else {
        return Seen::NotInjected("port 53 of 127.83.0.1 is not to be had (it needs root)".into());
    };
    silent.set_read_timeout(Some(LONG)).unwrap();
    let scene = Scene::new();
    let (resolv, hosts, switch) = (scene.path("resolv.conf"), scene.path("hosts"), scene.path("nsswitch.conf"));
    fs::write(&resolv, "nameserver 127.83.0.1\noptions timeout:30 attempts:5\n").unwrap();
    fs::write(&switch, "hosts: files dns\n").unwrap();
    fs::write(&hosts, "127.0.0.1 api.test\n").unwrap();
    let (_, port) = scene.server.url().rsplit_once(':').map(|(host, port)| (host.to_owned(), port.to_owned())).unwrap();
    let config = scene.server.config(&format!("https://api.test:{port}"), TOKEN);
    let start = |identity: &str, options: &[&str], script: &str| {
        let command = scene.command(&config, identity, &[&SHORT[..], options].concat(), script);
        let mounts = [
            (resolv.as_path(), "/etc/resolv.conf"),
            (hosts.as_path(), "/etc/hosts"),
            (switch.as_path(), "/etc/nsswitch.conf"),
        ];
        Contender::start(&mut mounted(&mounts, &command))
    };
    let mut leader = start("leader", &[], STUBBORN);
    let pid = child(&leader);
    let since = scene.after_a_renewal("leader");
    sleep(P / 4);
    // From here on nobody can say where the server is.
    fs::write(&hosts, "").unwrap();
    scene.server.stop();
    scene.server.listen();
    let begun = Instant::now();
    let mut waiting = start("waiting", &["--wait", "3s"], POLITE);
    let mut stopped = start("stopped", &["-v"], POLITE);
    stopped.wait_line("request 1");
    let asked = Instant::now();
    stopped.signal(SIGTERM);
    assert_eq!(stopped.wait(), 143, "{}", stopped.said());
    let stopped = asked.elapsed();
    assert_eq!(waiting.wait(), 124, "{}", waiting.said());
    let waited = begun.elapsed();
    let lost = loses(&mut leader, pid, since);
    silent.recv(&mut [0; 512]).expect("a question to the name server");
    assert!(stopped <= AT_ONCE * 2 && waited <= Duration::from_secs(3) + AT_ONCE * 2, "{stopped:?} {waited:?}");
    let (waited, stopped) = (seconds(waited), seconds(stopped));
    Seen::Held(format!("{lost}; --wait 3s: 124 after {waited}; SIGTERM: 143 after {stopped}"))
}

fn rotated_tokens() -> Seen {
    let in_a_file = || {
        let scene = Scene::new();
        let token = scene.path("token");
        let mut config = scene.server.config(&scene.server.url(), "");
        config["users"][0]["user"] = json!({ "tokenFile": token });
        rotate(&scene, &token, "kubeconfig", |script| scene.command(&config, "leader", &SHORT, script))
    };
    let in_a_pod = || {
        let scene = Scene::new();
        let folder = scene.path("serviceaccount");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("namespace"), NAMESPACE).unwrap();
        fs::write(folder.join("ca.crt"), &crate::proxy::Upstream::tls(&scene.server).ca_pem).unwrap();
        let (host, port) = scene
            .server
            .url()
            .strip_prefix("https://")
            .unwrap()
            .split_once(':')
            .map(|(h, p)| (h.to_owned(), p.to_owned()))
            .unwrap();
        rotate(&scene, &folder.join("token"), "pod", |script| {
            let mut command = crate::support::leader_run();
            command.env("KUBERNETES_SERVICE_HOST", &host).env("KUBERNETES_SERVICE_PORT", &port);
            command.args(["--name", crate::scene::LOCK, "--identity", "leader"]).args(SHORT).arg("--");
            command.args(crate::support::alone(&scene.oracle(), script));
            mounted(&[(&folder, POD_FOLDER)], &command)
        })
    };
    let mut cases: Vec<Box<dyn FnOnce() -> String + Send>> = vec![Box::new(in_a_file)];
    if can_mount() {
        cases.push(Box::new(in_a_pod));
    } else {
        cases.push(Box::new(|| "pod: not injected, no mount namespace is to be had".into()));
    }
    Seen::Held(at_once(cases))
}

fn rotate(scene: &Scene, file: &Path, name: &str, command: impl FnOnce(&str) -> Command) -> String {
    let write = |token: &str| {
        let new = file.with_extension("new");
        fs::write(&new, token).unwrap();
        fs::rename(&new, file).unwrap();
    };
    write(TOKEN);
    let mut leader = Contender::start(&mut command(POLITE));
    leader.wait_line("start ");
    let standby = scene.contender("standby", POLITE);
    scene.server.admit("the-next-token", "contender", None);
    write("the-next-token");
    let written = Instant::now();
    // kube reads the file again every 50 s.
    wait_for("the new token", LONG * 2, || scene.server.saw("the-next-token").then_some(()));
    let seen = written.elapsed();
    scene.server.expel(TOKEN);
    undisturbed(&mut leader, &[], R + P);
    assert!(standby.line("start ").is_none());
    format!("{name}: the new token was used after {}, no loss", seconds(seen))
}

/// Credentials by a program that says that it was asked, and does this before it answers. It is asked for every
/// request, unless this sets `until` to a time to come.
fn program(scene: &Scene, before: &str) -> Value {
    let credential = json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {"token": TOKEN, "expirationTimestamp": "%s"}});
    let folder = scene.path("");
    let script = format!(
        "cd {}; until=2020-01-01T00:00:00Z; : > asked; {before}; printf '{credential}' $until",
        folder.display()
    );
    let mut config = scene.server.config(&scene.server.url(), TOKEN);
    config["users"][0]["user"] = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh",
        "args": ["-c", script], "interactiveMode": "Never"}});
    config
}

const MAY_HANG: &str = "[ ! -e hang ] || exec sleep 1000";

/// A contender whose program may hang, and a pipe at whose end nothing is left of it: everything that it starts
/// inherits the other end.
fn piped(scene: &Scene, options: &[&str], script: &str) -> (Contender, File) {
    let path = scene.path("pipe");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    let pipe = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(&path).unwrap();
    let mut config = program(scene, MAY_HANG);
    if scene.path("hang").exists() {
        // Reading the machine's own takes a moment, between the two times that it asks at the start.
        config["clusters"][0]["cluster"].as_object_mut().unwrap().remove("certificate-authority-data");
    }
    let command = scene.command(&config, "contender", &[&SHORT[..], options].concat(), script);
    // With -v the pipe has its messages too, and is full already, so that it ends a little later.
    let to_the_pipe = if options.contains(&"-v") {
        let mut full = OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(&path).unwrap();
        while full.write(&[0; 4096]).is_ok() {}
        "exec 7>\"$0\" 2>&7 \"$@\""
    } else {
        "exec 7>\"$0\" \"$@\""
    };
    let path = path.to_str().unwrap();
    (Contender::start(&mut started_by(&["sh", "-c", to_the_pipe, path], &command)), pipe)
}

/// Waits for its end, and for that of everything that it started.
fn end(contender: &mut Contender, pipe: File) -> i32 {
    let code = contender.wait();
    gone(pipe, Duration::from_secs(1));
    code
}

/// Waits until nothing holds the other end any more.
fn gone(mut pipe: File, within: Duration) {
    let mut buffer = vec![0; 1 << 16];
    let mut gone = || matches!(pipe.read(&mut buffer), Ok(0)).then_some(());
    wait_for("the end of all that it started", within, &mut gone);
}

fn hanging_program() -> Seen {
    let from_the_start = |name: &'static str, options: &'static [&str], signal: Option<i32>, code: i32| {
        let case: Box<dyn FnOnce() -> String + Send> = Box::new(move || {
            let scene = Scene::new();
            fs::write(scene.path("hang"), "").unwrap();
            let begun = Instant::now();
            let (mut contender, pipe) = piped(&scene, options, POLITE);
            wait_for("the program", LONG, || scene.path("asked").exists().then_some(()));
            let begun = signal.map_or(begun, |signal| {
                contender.signal(signal);
                Instant::now()
            });
            assert_eq!(end(&mut contender, pipe), code, "{}", contender.said());
            let took = begun.elapsed();
            assert!(took <= Duration::from_secs(5), "{took:?}");
            format!("{name}: {code} after {}", seconds(took))
        });
        case
    };
    let under_a_leader = || {
        let scene = Scene::new();
        let (mut leader, pipe) = piped(&scene, &[], STUBBORN);
        let pid = child(&leader);
        let since = scene.after_a_renewal("contender");
        fs::write(scene.path("hang"), "").unwrap();
        let lost = loses(&mut leader, pid, since);
        end(&mut leader, pipe);
        format!("under a leader: {lost}")
    };
    let after_a_crash = || {
        let scene = Scene::new();
        let (mut leader, pipe) = piped(&scene, &[], STUBBORN);
        child(&leader);
        fs::write(scene.path("hang"), "").unwrap();
        leader.signal(SIGKILL);
        let killed = Instant::now();
        leader.wait();
        // The crash release has until S+R.
        gone(pipe, R + Duration::from_secs(3));
        let took = seconds(killed.elapsed());
        leader.wait_line("leader-run has died");
        format!("killed: all is gone {took} later")
    };
    let slow = || {
        let scene = Scene::new();
        // Longer than a request may take, which is R/2. The first two times nobody waits for with a limit.
        let slowly = "mkdir one || : > two; sleep 2.5; rmdir one; echo >> times; \
                      [ $(wc -l < times) -le 2 ] || until=2099-01-01T00:00:00Z";
        let config = program(&scene, slowly);
        let contender = scene.with(&config, "contender", POLITE);
        contender.wait_line("start ");
        assert!(!scene.path("two").exists(), "two programs at a time");
        String::from("slower than a request: it leads")
    };
    Seen::Held(at_once(vec![
        from_the_start("--wait 2s", &["--wait", "2s"], None, 124),
        from_the_start("SIGTERM", &["-v"], Some(SIGTERM), 143),
        Box::new(under_a_leader),
        Box::new(after_a_crash),
        Box::new(slow),
    ]))
}
