//! What is handed out: the image's file system, and the Debian package, both of the released binary that the variable
//! RELEASE names (`RELEASE=$(packaging/build)`).

use crate::Test;
use crate::apiserver::Cluster;
use crate::scene::{LOCK, MINIMAL, Scene, holder};
use crate::support::{Finished, copy_program};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const TESTS: &[Test] = &[
    ("packaging::the_image_runs_the_main_job", the_image_runs_the_main_job),
    ("packaging::the_package_installs_and_is_removed", the_package_installs_and_is_removed),
];

/// Where the binary is in the image, as the Dockerfile says.
const PROGRAM: &str = "/usr/local/bin/leader-run";

/// The released binary, where there is one and what this needs may be done with it.
fn release() -> Option<PathBuf> {
    let Some(binary) = std::env::var_os("RELEASE") else {
        eprintln!("not run: RELEASE names no binary; tests/run builds one");
        return None;
    };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not run: it needs root to enter or to fill another root folder");
        return None;
    }
    Some(Path::new(env!("CARGO_MANIFEST_DIR")).join(binary))
}

/// Runs it to its end. The folders that it is to write to are temporary ones.
fn run(command: &mut Command) -> Finished {
    let finished = Finished::from(command.output().unwrap());
    assert_eq!(finished.code, 0, "{command:?}: {finished:?}");
    finished
}

/// As PID 1 and as nobody in particular, in a root with nothing but what every container gets, a leader of a Lease
/// whose command is a leader of a file.
fn the_image_runs_the_main_job(cluster: &Cluster) {
    let Some(binary) = release() else { return };
    let dockerfile = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Dockerfile")).unwrap();
    let (_, image) = dockerfile.split_once("FROM scratch\n").expect("an image of nothing else");
    let user = image.lines().find_map(|line| line.strip_prefix("USER ")).expect("a user");
    let (user, group) = user.split_once(':').expect("a group");
    assert!(user.parse::<u32>().is_ok_and(|user| user > 0), "{user}");
    assert!(image.contains(&format!("ENTRYPOINT [\"{PROGRAM}\"]")), "{image}");

    let scene = Scene::new(cluster, &MINIMAL);
    let root = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
    let inside = |path: &str| root.path().join(path.trim_start_matches('/'));
    for folder in ["etc", "proc", "tmp", "usr/local/bin"] {
        fs::create_dir_all(inside(folder)).unwrap();
    }
    fs::set_permissions(inside("tmp"), Permissions::from_mode(0o1777)).unwrap();
    fs::write(inside("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
    fs::write(inside("etc/resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    copy_program(&binary, &inside(PROGRAM));
    // By a name, that has to be looked up.
    let url = cluster.url().replace("127.0.0.1", "localhost");
    copy_program(scene.user.kubeconfig(&url, Some(scene.namespace.name())), &inside("kubeconfig"));
    fs::set_permissions(inside("kubeconfig"), Permissions::from_mode(0o644)).unwrap();

    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]).arg("--root").arg(root.path());
    command.args(["--wd", "/", "--setgid", group, "--setuid", user]).env_clear();
    // As a container's is, and where unshare itself is found.
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.args([PROGRAM, "--kubeconfig", "/kubeconfig", "--name", LOCK, "--"]);
    command.args(["leader-run", "--lock", "file", "--name", "inner", "--", "leader-run", "--version"]);
    let finished = run(&mut command);
    assert_eq!(finished.stdout, concat!("leader-run ", env!("CARGO_PKG_VERSION"), "\n"), "{finished:?}");
    let lease = scene.lease();
    assert_eq!(holder(&lease), "", "given back");
    assert!(finished.stderr.contains("leading"), "{}", finished.stderr);
    let record = inside(&format!("tmp/leader-run-{user}/default_inner.json"));
    assert!(fs::read_to_string(record).unwrap().contains("\"holderIdentity\":\"\""));
}

fn the_package_installs_and_is_removed(_: &Cluster) {
    let Some(binary) = release() else { return };
    let folder = tempfile::tempdir().unwrap();
    let package = |folder: &Path| {
        fs::create_dir(folder).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/deb");
        PathBuf::from(run(Command::new(script).arg(&binary).arg(folder)).stdout.trim())
    };
    let [first, second] = ["first", "second"].map(|name| package(&folder.path().join(name)));
    assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap(), "made twice, it differs");

    let root = folder.path().join("root");
    let state = root.join("var/lib/dpkg");
    ["info", "updates", "triggers"].iter().for_each(|name| fs::create_dir_all(state.join(name)).unwrap());
    ["status", "available"].iter().for_each(|name| fs::write(state.join(name), "").unwrap());
    let dpkg = |action: &str, what: &Path| run(Command::new("dpkg").arg("--root").arg(&root).arg(action).arg(what));
    dpkg("--install", &first);
    let version = run(Command::new(root.join("usr/bin/leader-run")).arg("--version")).stdout;
    assert_eq!(version, concat!("leader-run ", env!("CARGO_PKG_VERSION"), "\n"));
    for file in [
        "man/man1/leader-run.1.gz",
        "bash-completion/completions/leader-run",
        "zsh/vendor-completions/_leader-run",
        "fish/vendor_completions.d/leader-run.fish",
        "doc/leader-run/copyright",
    ] {
        assert!(root.join("usr/share").join(file).exists(), "{file}");
    }
    dpkg("--purge", Path::new("leader-run"));
    assert!(!root.join("usr").exists(), "it leaves something behind");
}
