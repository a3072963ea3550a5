//! An API server within the test: Leases over TLS, with the answers of the real one, and a state that a test
//! can change behind the clients' backs. What goes wrong on the way there is the proxy's.
#![allow(dead_code)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    convert::Infallible,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::stream;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::{self, Runtime},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{self, sleep_until},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    faults::Seen,
    kubeconfig::{client, kubeconfig},
    proxy::{Recorded, Upstream},
    store::{Event, Key, Refusal, Snapshot, Store, matches},
    support::{LONG, wait_for},
    tls::Tls,
};

/// The namespace that the tests' own view is of; there are all others too.
pub const NAMESPACE: &str = "ops";
/// The token of a user who may do everything.
pub const TOKEN: &str = "token-of-a-contender";
const GROUP: &str = "/apis/coordination.k8s.io/v1/namespaces/";
/// As often a watch hears that nothing happened, if it asked for that.
const BOOKMARK: Duration = Duration::from_secs(15);
const WATCH_TIME: Duration = Duration::from_secs(1800);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A server of a test's own, in a thread of its own. All of it ends when dropped.
pub struct Server {
    state: Arc<State>,
    tls: Tls,
    address: SocketAddr,
    /// Bound and never listening: keeps the port ours while the server is stopped.
    _port: TcpSocket,
    listening: Mutex<Option<JoinHandle<()>>>,
    runtime: Option<Runtime>,
    folder: TempDir,
    files: AtomicUsize,
}

struct State {
    store: Mutex<Store>,
    /// What gets are answered from instead, where that is set.
    stale: Mutex<Option<Snapshot>>,
    /// By token.
    users: Mutex<BTreeMap<String, User>>,
    requests: Mutex<Vec<Recorded>>,
    tokens: Mutex<BTreeSet<String>>,
    /// Counts the restorations: a watch from before one is over.
    epoch: watch::Sender<usize>,
    changed: watch::Sender<()>,
}

#[derive(Clone)]
struct User {
    name: String,
    /// All of them where none are named.
    verbs: Option<Vec<String>>,
}

impl Upstream for Server {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn tls(&self) -> &Tls {
        &self.tls
    }
}

impl Server {
    pub fn start() -> Server {
        let state = Arc::new(State {
            store: Mutex::default(),
            stale: Mutex::default(),
            users: Mutex::default(),
            requests: Mutex::default(),
            tokens: Mutex::default(),
            epoch: watch::Sender::new(0),
            changed: watch::Sender::new(()),
        });
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let port = socket("127.0.0.1:0".parse().expect("an address"));
        let address = port.local_addr().expect("its address");
        let server = Server {
            state,
            tls: Tls::new(),
            address,
            _port: port,
            listening: Mutex::default(),
            runtime: Some(runtime),
            folder: tempfile::tempdir().expect("a folder"),
            files: AtomicUsize::new(0),
        };
        server.admit(TOKEN, "contender", None);
        server.listen();
        server
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("there until dropped")
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Serves again after a [`Self::stop`], on the same port.
    pub fn listen(&self) {
        self.listen_as(&self.tls);
    }

    /// The same with these certificates instead of its own.
    pub fn listen_as(&self, tls: &Tls) {
        let mut listening = lock(&self.listening);
        assert!(listening.is_none(), "it is listening");
        let _runtime = self.runtime().enter();
        let listener = socket(self.address).listen(1024).expect("listen");
        *listening = Some(self.runtime().spawn(accept(listener, tls.server.clone().into(), self.state.clone())));
    }

    /// Closes the port and all connections. What is stored stays.
    pub fn stop(&self) {
        if let Some(listening) = lock(&self.listening).take() {
            listening.abort();
            let _ = self.runtime().block_on(listening);
        }
    }

    /// From now on this token is of this user, who may do this: everything where nothing is named.
    pub fn admit(&self, token: &str, user: &str, verbs: Option<&[&str]>) {
        let verbs = verbs.map(|verbs| verbs.iter().map(|&verb| verb.into()).collect());
        lock(&self.state.users).insert(token.into(), User { name: user.into(), verbs });
    }

    /// From now on nobody has this token.
    pub fn expel(&self, token: &str) {
        lock(&self.state.users).remove(token);
    }

    /// Whether any request came with this token.
    pub fn saw(&self, token: &str) -> bool {
        lock(&self.state.tokens).contains(token)
    }

    /// All requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<Recorded> {
        lock(&self.state.requests).clone()
    }

    /// When the last write was carried out.
    pub fn last_write(&self) -> Instant {
        let requests = lock(&self.state.requests);
        let write = requests.iter().rfind(|r| r.request.method.starts_with('P') && r.status.is_some_and(|s| s < 300));
        write.expect("a write").at
    }

    pub fn lease(&self, name: &str) -> Option<Value> {
        lock(&self.state.store).now().get(&key(name)).ok()
    }

    /// Who holds the lock; empty when nobody does.
    pub fn holder(&self, name: &str) -> String {
        let lease = self.lease(name).unwrap_or_default();
        lease["spec"]["holderIdentity"].as_str().unwrap_or_default().into()
    }

    /// Edits a Lease, or makes one, as nobody could who has to ask.
    pub fn change(&self, name: &str, edit: impl FnOnce(&mut Value)) -> Instant {
        let mut store = lock(&self.state.store);
        let mut lease = store.now().get(&key(name)).unwrap_or_else(|_| {
            json!({"metadata": {"name": name, "namespace": NAMESPACE, "uid": "00000000-0000-4000-8000-0000000000ff"}})
        });
        edit(&mut lease);
        store.force(key(name), lease);
        drop(store);
        self.state.changed.send_replace(());
        Instant::now()
    }

    pub fn delete(&self, name: &str) -> Instant {
        lock(&self.state.store).delete(&key(name)).expect("it is there");
        self.state.changed.send_replace(());
        Instant::now()
    }

    pub fn snapshot(&self) -> Snapshot {
        lock(&self.state.store).now().clone()
    }

    /// Goes back to an earlier state, as a restored backup does; open watches end.
    pub fn restore(&self, earlier: &Snapshot) -> Instant {
        lock(&self.state.store).restore(earlier);
        self.state.epoch.send_modify(|epoch| *epoch += 1);
        Instant::now()
    }

    /// From now on gets are answered from an earlier state, or from the latest again.
    pub fn serve_stale(&self, earlier: Option<&Snapshot>) {
        *lock(&self.state.stale) = earlier.cloned();
    }

    /// Forgets what happened, so that a watch from before is too old.
    pub fn compact(&self) {
        lock(&self.state.store).compact();
    }

    /// A kubeconfig of the user with this token.
    pub fn config(&self, server: &str, token: &str) -> Value {
        kubeconfig(&self.tls, server, token, Some(NAMESPACE))
    }

    /// Writes a kubeconfig, or another file that a test needs, to a file of its own.
    pub fn file(&self, text: &str) -> PathBuf {
        let path = self.folder.path().join(format!("file-{}", self.files.fetch_add(1, Ordering::Relaxed)));
        fs::write(&path, text).expect("write a file");
        path
    }

    pub fn client(&self, token: &str) -> kube::Client {
        self.block_on(client(&self.tls, &self.url(), token))
    }

    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime().block_on(future)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn key(name: &str) -> Key {
    (NAMESPACE.into(), name.into())
}

/// A port that was given up for a while may be the near end of somebody's connection, and is waited for.
fn socket(address: SocketAddr) -> TcpSocket {
    wait_for("a free port", LONG, || {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("a port that can be shared");
        socket.bind(address).ok().map(|()| socket)
    })
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, state: Arc<State>) {
    // Aborted with this task, all of them.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (tcp, _) = accepted.expect("accept a connection");
                connections.spawn(serve(tcp, tls.clone(), state.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(tcp: TcpStream, tls: TlsAcceptor, state: Arc<State>) {
    let _ = tcp.set_nodelay(true);
    // A client that goes away, or does not trust us, is no concern of ours.
    let Ok(tls) = tls.accept(tcp).await else {
        return;
    };
    let service = service_fn(|request| answer(request, state.clone()));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Body>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let seen = Seen {
        method: head.method.to_string(),
        path: head.uri.path().into(),
        query: head.uri.query().unwrap_or_default().into(),
        body: String::from_utf8_lossy(&body).into(),
    };
    let token = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let number = {
        let mut requests = lock(&state.requests);
        requests.push(Recorded { at: Instant::now(), request: seen.clone(), committed: None, status: None });
        requests.len() - 1
    };
    let response = state.respond(&head.method, &seen, &body, token).unwrap_or_else(|refusal| {
        let status = refusal.code;
        json_response(status, &refusal.status())
    });
    let status = response.status().as_u16();
    let recorded = &mut lock(&state.requests)[number];
    (recorded.committed, recorded.status) = (Some(status), Some(status));
    Ok(response)
}

impl State {
    fn respond(
        self: &Arc<Self>,
        method: &Method,
        seen: &Seen,
        body: &Bytes,
        token: Option<&str>,
    ) -> Result<Response<Body>, Refusal> {
        let unknown = || Refusal::new(404, "NotFound", "", "the server could not find the requested resource".into());
        let path = seen.path.strip_prefix(GROUP).ok_or_else(unknown)?;
        let (namespace, name) = match path.split('/').collect::<Vec<_>>()[..] {
            [namespace, "leases"] => (namespace, None),
            [namespace, "leases", name] => (namespace, Some(name)),
            _ => return Err(unknown()),
        };
        let verb = match (method, name) {
            (&Method::GET, None) if seen.is_watch() => "watch",
            (&Method::GET, None) => "list",
            (&Method::GET, Some(_)) => "get",
            (&Method::POST, None) => "create",
            (&Method::PUT, Some(_)) => "update",
            (&Method::DELETE, Some(_)) => "delete",
            _ => return Err(Refusal::new(405, "MethodNotAllowed", "", "the server does not allow this method".into())),
        };
        self.authorize(token, verb, namespace, name.unwrap_or_default())?;

        let key = |name: &str| (namespace.to_owned(), name.to_owned());
        let parsed = || {
            let value: Option<Value> = serde_json::from_slice(body).ok().filter(Value::is_object);
            value.ok_or_else(|| Refusal::new(400, "BadRequest", "", "the object provided is unrecognized".into()))
        };
        let query = Query::of(&seen.query);
        match (verb, name) {
            ("watch", _) => Ok(self.watch(namespace, query)),
            ("get", Some(name)) => {
                let found = match &*lock(&self.stale) {
                    Some(stale) => stale.get(&key(name)),
                    None => lock(&self.store).now().get(&key(name)),
                };
                Ok(json_response(200, &found?))
            }
            ("create", _) => {
                let lease = parsed()?;
                let name = lease["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let created = lock(&self.store).create(key(&name), lease)?;
                self.changed.send_replace(());
                Ok(json_response(201, &created))
            }
            ("update", Some(name)) => {
                let lease = parsed()?;
                let updated = lock(&self.store).update(key(name), lease)?;
                self.changed.send_replace(());
                Ok(json_response(200, &updated))
            }
            ("delete", Some(name)) => {
                let status = lock(&self.store).delete(&key(name))?;
                self.changed.send_replace(());
                Ok(json_response(200, &status))
            }
            _ => {
                let store = lock(&self.store);
                let items: Vec<_> =
                    store.now().list(namespace, query.only.as_deref()).map(|(_, lease)| lease).collect();
                let metadata = json!({"resourceVersion": store.now().revision.to_string()});
                let kind = "LeaseList";
                let list =
                    json!({"kind": kind, "apiVersion": "coordination.k8s.io/v1", "metadata": metadata, "items": items});
                Ok(json_response(200, &list))
            }
        }
    }

    fn authorize(&self, token: Option<&str>, verb: &str, namespace: &str, name: &str) -> Result<(), Refusal> {
        let user = match token {
            None => User { name: "system:anonymous".into(), verbs: Some(Vec::new()) },
            Some(token) => {
                lock(&self.tokens).insert(token.into());
                let known = lock(&self.users).get(token).cloned();
                known.ok_or_else(|| Refusal::new(401, "Unauthorized", "", "Unauthorized".into()))?
            }
        };
        if user.verbs.is_some_and(|verbs| !verbs.iter().any(|allowed| allowed == verb)) {
            let text = format!(
                "leases.coordination.k8s.io {name:?} is forbidden: User {:?} cannot {verb} resource \"leases\" in API \
                 group \"coordination.k8s.io\" in the namespace {namespace:?}",
                user.name
            );
            return Err(Refusal::new(403, "Forbidden", name, text));
        }
        Ok(())
    }

    /// Answers with all that happens from where the client asked to begin, until its time is over.
    fn watch(self: &Arc<Self>, namespace: &str, query: Query) -> Response<Body> {
        let mut waiting = VecDeque::new();
        let after = {
            let store = lock(&self.store);
            query.from.unwrap_or_else(|| {
                let all = store.now().list(namespace, query.only.as_deref());
                waiting.extend(all.map(|(_, lease)| line("ADDED", lease)));
                store.now().revision
            })
        };
        let watch = Watch {
            state: self.clone(),
            namespace: namespace.into(),
            after,
            waiting,
            over: false,
            epoch: *self.epoch.borrow(),
            end: time::Instant::now() + query.time,
            bookmark: time::Instant::now() + BOOKMARK,
            query,
        };
        let lines = stream::unfold(watch, |mut watch| async {
            let line = watch.next().await?;
            Some((Ok(Frame::data(Bytes::from(line))), watch))
        });
        let response = Response::builder().header(header::CONTENT_TYPE, "application/json");
        response.body(StreamBody::new(lines).boxed_unsync()).expect("a response")
    }
}

/// What a client asks of a list or a watch.
struct Query {
    only: Option<String>,
    /// Without a version, or from "0", a watch begins with what is there.
    from: Option<u64>,
    bookmarks: bool,
    time: Duration,
}

impl Query {
    fn of(query: &str) -> Query {
        let pairs: BTreeMap<_, _> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let get = |name| pairs.get(name).copied().unwrap_or_default();
        let selector = get("fieldSelector").replace("%3D", "=");
        Query {
            only: selector.strip_prefix("metadata.name=").map(|name| name.trim_start_matches('=').into()),
            from: get("resourceVersion").parse().ok().filter(|from| *from != 0),
            bookmarks: get("allowWatchBookmarks") == "true",
            time: get("timeoutSeconds").parse().map_or(WATCH_TIME, Duration::from_secs),
        }
    }
}

struct Watch {
    state: Arc<State>,
    namespace: String,
    query: Query,
    /// All until here has been sent.
    after: u64,
    waiting: VecDeque<String>,
    over: bool,
    epoch: usize,
    end: time::Instant,
    bookmark: time::Instant,
}

impl Watch {
    async fn next(&mut self) -> Option<String> {
        let (mut changed, mut epoch) = (self.state.changed.subscribe(), self.state.epoch.subscribe());
        loop {
            if let Some(line) = self.waiting.pop_front() {
                return Some(line);
            }
            if self.over || *epoch.borrow_and_update() != self.epoch {
                return None;
            }
            changed.borrow_and_update();
            self.collect();
            if !self.waiting.is_empty() {
                continue;
            }
            tokio::select! {
                _ = changed.changed() => {}
                _ = epoch.changed() => {}
                () = sleep_until(self.bookmark), if self.query.bookmarks => {
                    self.bookmark += BOOKMARK;
                    let mark = json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "spec": {},
                        "metadata": {"resourceVersion": self.after.to_string(), "creationTimestamp": null}});
                    return Some(line("BOOKMARK", &mark));
                }
                () = sleep_until(self.end) => return None,
            }
        }
    }

    fn collect(&mut self) {
        let store = lock(&self.state.store);
        match store.since(self.after) {
            Ok(events) => {
                let own = |event: &&Event| matches(&event.key, &self.namespace, self.query.only.as_deref());
                self.waiting.extend(events.filter(own).map(|event| line(event.kind, &event.lease)));
                // From a version to come, as after a restored backup, nothing is said until then.
                self.after = self.after.max(store.now().revision);
            }
            Err(refusal) => {
                self.waiting.push_back(line("ERROR", &refusal.status()));
                self.over = true;
            }
        }
    }
}

fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

fn json_response(status: u16, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).boxed_unsync();
    let response = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
    response.body(body).expect("a response")
}

/// A test that panics with a lock held must not take the others with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
