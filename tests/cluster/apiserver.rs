//! A real kube-apiserver on a real etcd, for one test run.

use std::{
    fmt::Write,
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use kube::Client;
use nix::libc::{SIGCONT, SIGSTOP};
use tempfile::TempDir;
use tokio::{
    runtime::{Handle, Runtime},
    signal::unix::{SignalKind, signal},
};

use crate::{
    kubeconfig::{client, kubeconfig},
    proxy::Upstream,
    support::send_signal,
    tls::{self, Tls},
};

/// Users are read from a file at the start of the API server, so they exist in advance.
const USERS: usize = 800;
const API_SERVER: &str = "kube-apiserver";
const ADMIN_TOKEN: &str = "token-of-admin";
const READY_WITHIN: Duration = Duration::from_secs(120);

/// The servers, and an admin's way in. Ends exactly the processes it started when dropped.
pub struct Cluster {
    pub(crate) shared: Arc<Shared>,
    servers: Servers,
    runtime: Option<Runtime>,
    /// Removed last, when nothing writes there any more.
    _folder: TempDir,
}

/// Also the handler of signals ends them.
type Servers = Arc<Mutex<Vec<Server>>>;

/// What everything that a test makes of the cluster needs of it.
pub(crate) struct Shared {
    pub handle: Handle,
    pub admin: Client,
    pub address: SocketAddr,
    pub tls: Tls,
    folder: PathBuf,
    next_name: AtomicUsize,
    next_user: AtomicUsize,
}

impl Cluster {
    /// Starts both servers and waits until they are ready.
    ///
    /// Call it from the main thread: the kernel kills the servers when the thread that started them ends.
    pub fn start() -> Self {
        let programs = programs();
        let folder = tempfile::Builder::new().prefix("leader-run-cluster-").tempdir().expect("a temporary folder");
        let tls = Tls::new();
        write_files(folder.path(), &tls);
        let runtime = Runtime::new().expect("a runtime");

        let (servers, address, admin) = (1..=5)
            .find_map(|_| launch(&programs, folder.path(), &tls, &runtime))
            .expect("the free ports found were taken again, five times in a row");
        let shared = Arc::new(Shared {
            handle: runtime.handle().clone(),
            admin,
            address,
            tls,
            folder: folder.path().to_owned(),
            next_name: AtomicUsize::new(0),
            next_user: AtomicUsize::new(0),
        });
        let servers = Arc::new(Mutex::new(servers));
        runtime.spawn(stop_when_asked(servers.clone(), folder.path().to_owned()));
        Self { shared, servers, runtime: Some(runtime), _folder: folder }
    }

    /// The API server's own address, `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("https://{}", self.shared.address)
    }

    /// A kubeconfig of somebody who may do everything, everywhere.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.shared.kubeconfig(&self.url(), ADMIN_TOKEN, None)
    }

    /// The last lines that each server wrote.
    pub fn logs(&self) -> String {
        tails(&self.servers.lock().expect("no panic"))
    }

    /// Stops the API server where it stands: connections stay open, and nothing is answered.
    pub fn halt(&self) {
        self.signal(SIGSTOP);
    }

    /// Has it go on.
    pub fn go_on(&self) {
        self.signal(SIGCONT);
    }

    fn signal(&self, signal: i32) {
        let servers = self.servers.lock().expect("no panic");
        let server = servers.iter().find(|server| server.name == API_SERVER).expect("started with the others");
        send_signal(server.process.id() as i32, signal);
    }

    /// Ends the servers and removes all they wrote.
    pub fn stop(self) {}
}

impl Upstream for Cluster {
    fn address(&self) -> SocketAddr {
        self.shared.address
    }

    fn tls(&self) -> &Tls {
        &self.shared.tls
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Recorders and clients first, so that none of them sees the servers die.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
        self.servers.lock().expect("no panic").clear();
    }
}

impl Shared {
    /// A number no one else has got.
    pub fn number(&self) -> usize {
        self.next_name.fetch_add(1, Ordering::Relaxed)
    }

    /// The name and token of a user no one else has got.
    pub fn user(&self) -> (String, String) {
        let number = self.next_user.fetch_add(1, Ordering::Relaxed);
        assert!(number < USERS, "more than {USERS} users: raise USERS");
        (format!("user-{number}"), format!("token-of-user-{number}"))
    }

    /// Writes a kubeconfig to a file of its own.
    pub fn kubeconfig(&self, server: &str, token: &str, namespace: Option<&str>) -> PathBuf {
        let path = self.folder.join(format!("kubeconfig-{}", self.number()));
        let text = kubeconfig(&self.tls, server, token, namespace).to_string();
        fs::write(&path, text).expect("write a kubeconfig");
        path
    }

    /// A kube client of the user with this token, through `server`.
    pub fn client(&self, server: &str, token: &str) -> Client {
        self.handle.block_on(client(&self.tls, server, token))
    }
}

/// A running server. Killed when dropped; the data it might want to save is thrown away anyway.
struct Server {
    name: &'static str,
    process: Child,
    log: PathBuf,
}

impl Server {
    fn start(name: &'static str, program: &Path, folder: &Path, arguments: &[String]) -> Self {
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log).expect("create a log file");
        // setpriv has the kernel kill the server when we die, however that happens.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .expect("start setpriv (of util-linux)");
        Self { name, process, log }
    }

    fn has_ended(&mut self) -> bool {
        let status = self.process.try_wait().expect("ask for a child's status");
        status.is_some()
    }

    fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Neither can fail in a way that leaves the process running: the child is ours and not yet reaped.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn tails(servers: &[Server]) -> String {
    let mut text = String::new();
    for server in servers {
        let log = server.log();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(20)..].join("\n");
        let _ = writeln!(text, "--- the end of {}'s log:\n{tail}", server.name);
    }
    text
}

/// The folder that holds kube-apiserver and etcd, built first where need be.
fn programs() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/assets");
    let output = Command::new(script).stderr(Stdio::inherit()).output().expect("run tests/cluster/assets");
    assert!(output.status.success(), "tests/cluster/assets failed");
    let folder = String::from_utf8(output.stdout).expect("a folder's name");
    PathBuf::from(folder.trim_end())
}

/// Writes what the API server reads at its start.
fn write_files(folder: &Path, tls: &Tls) {
    let mut tokens = format!("{ADMIN_TOKEN},admin,admin,system:masters\n");
    for user in 0..USERS {
        let _ = writeln!(tokens, "token-of-user-{user},user-{user},user-{user}");
    }
    let accounts = tls::new_key();
    for (name, text) in [
        ("server.crt", &tls.certificate_pem),
        ("server.key", &tls.key_pem),
        ("accounts.key", &accounts.serialize_pem()),
        ("accounts.pub", &accounts.public_key_pem()),
        ("tokens.csv", &tokens),
    ] {
        fs::write(folder.join(name), text).expect("write a file");
    }
}

/// Starts both servers on ports that were free a moment ago: `None` if one of these was taken meanwhile.
fn launch(programs: &Path, folder: &Path, tls: &Tls, runtime: &Runtime) -> Option<(Vec<Server>, SocketAddr, Client)> {
    let [etcd, address] = free_addresses();
    let url = format!("https://{address}");
    let mut servers = vec![
        Server::start("etcd", &programs.join("etcd"), folder, &etcd_arguments(folder, etcd)),
        Server::start(API_SERVER, &programs.join(API_SERVER), folder, &apiserver_arguments(folder, etcd, address)),
    ];
    let admin = runtime.block_on(client(tls, &url, ADMIN_TOKEN));

    let deadline = Instant::now() + READY_WITHIN;
    loop {
        // Looked at first: with an etcd that died of a taken port, the API server would use that of someone else.
        if servers.iter_mut().any(Server::has_ended) {
            let taken = servers.iter().any(|server| server.log().contains("address already in use"));
            assert!(taken, "a server has ended\n{}", tails(&servers));
            return None;
        }
        if runtime.block_on(is_ready(&admin)) {
            return Some((servers, address, admin));
        }
        assert!(Instant::now() < deadline, "not ready within {READY_WITHIN:?}\n{}", tails(&servers));
        thread::sleep(Duration::from_millis(50));
    }
}

/// Leaves nothing behind when the tests are interrupted. The servers would end anyway, but not their files.
async fn stop_when_asked(servers: Servers, folder: PathBuf) {
    let [mut interrupt, mut terminate] =
        [SignalKind::interrupt(), SignalKind::terminate()].map(|kind| signal(kind).expect("a handler"));
    let code = tokio::select! {
        _ = interrupt.recv() => 130,
        _ = terminate.recv() => 143,
    };
    servers.lock().expect("no panic").clear();
    let _ = fs::remove_dir_all(folder);
    process::exit(code);
}

/// Addresses that no one listens on. Both are held at once, so that they differ.
fn free_addresses() -> [SocketAddr; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("its address"))
}

fn etcd_arguments(folder: &Path, address: SocketAddr) -> Vec<String> {
    vec![
        format!("--data-dir={}", folder.join(format!("etcd-{}", address.port())).display()),
        format!("--listen-client-urls=http://{address}"),
        format!("--advertise-client-urls=http://{address}"),
        // It has no peers, so no one needs to know that port.
        "--listen-peer-urls=http://127.0.0.1:0".into(),
        // The data need not outlive the machine.
        "--unsafe-no-fsync".into(),
        "--log-level=warn".into(),
    ]
}

fn apiserver_arguments(folder: &Path, etcd: SocketAddr, address: SocketAddr) -> Vec<String> {
    let file = |name: &str| folder.join(name).display().to_string();
    vec![
        format!("--etcd-servers=http://{etcd}"),
        format!("--bind-address={}", address.ip()),
        format!("--secure-port={}", address.port()),
        format!("--advertise-address={}", address.ip()),
        format!("--cert-dir={}", folder.display()),
        format!("--tls-cert-file={}", file("server.crt")),
        format!("--tls-private-key-file={}", file("server.key")),
        "--authorization-mode=RBAC".into(),
        format!("--token-auth-file={}", file("tokens.csv")),
        "--service-account-issuer=https://localhost".into(),
        format!("--service-account-key-file={}", file("accounts.pub")),
        format!("--service-account-signing-key-file={}", file("accounts.key")),
        "--service-cluster-ip-range=10.0.0.0/24".into(),
        // No pods run here, so what serves only them is left out, and so is housekeeping: a run is short.
        "--disable-admission-plugins=ServiceAccount".into(),
        "--endpoint-reconciler-type=none".into(),
        "--etcd-compaction-interval=0".into(),
        "--etcd-count-metric-poll-period=0".into(),
        "--enable-priority-and-fairness=false".into(),
        "--profiling=false".into(),
    ]
}

/// Whether all its start-up work is done, the built-in roles among it.
async fn is_ready(client: &Client) -> bool {
    let request = http::Request::get("/readyz").body(Vec::new());
    let answer = client.request_text(request.expect("a valid request")).await;
    answer.is_ok_and(|text| text == "ok")
}
