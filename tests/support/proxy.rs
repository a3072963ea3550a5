//! A network between a client and the API server that fails as a test asks.
//!
//! The proxy ends TLS, so it sees requests and can fail any one of them; what fails whole connections
//! (`cut`, `pause`) happens to the encrypted bytes, so that a client sees what it would see of a network.
#![allow(dead_code)]

use std::{
    error::Error,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::stream;
use http::{Request, Response, header, request::Parts};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Bytes, Incoming},
    client, server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{self, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    net::{TcpListener, TcpStream},
    runtime::{self, Runtime},
    sync::{mpsc, watch},
    task::JoinHandle,
    time,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    faults::{Fault, Matcher, Rule, Seen},
    tls::Tls,
};

type AnyError = Box<dyn Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// An API server, as a proxy in front of it needs to know it.
pub trait Upstream {
    fn address(&self) -> SocketAddr;
    fn tls(&self) -> &Tls;
}

/// A request that reached the proxy.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub at: Instant,
    pub request: Seen,
    /// What the API server answered, whether the client heard of it or not.
    pub committed: Option<u16>,
    /// What the client was answered.
    pub status: Option<u16>,
}

/// A proxy of a test's own, in a thread of its own. All of it ends when dropped.
pub struct Proxy {
    state: Arc<State>,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

struct State {
    upstream: SocketAddr,
    accept: TlsAcceptor,
    connect: TlsConnector,
    network: watch::Sender<Network>,
    rules: Mutex<Vec<Rule>>,
    requests: Mutex<Vec<Recorded>>,
}

#[derive(Clone, Copy, Default)]
struct Network {
    cut: bool,
    /// Counts, so that a cut ends what was open before it even when it is healed at once.
    cuts: usize,
    paused: bool,
    /// Paused in one direction.
    mute: bool,
    delay: Duration,
}

impl Proxy {
    pub fn start(upstream: &impl Upstream) -> Self {
        let tls = upstream.tls();
        let state = Arc::new(State {
            upstream: upstream.address(),
            accept: tls.server.clone().into(),
            connect: tls.client.clone().into(),
            network: watch::Sender::new(Network::default()),
            rules: Mutex::default(),
            requests: Mutex::default(),
        });
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("its address");
        runtime.spawn(accept(listener, state.clone()));
        Self { state, address, runtime: Some(runtime) }
    }

    /// Where a client finds it, `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Resets all connections, and every new one at once. What the proxy has already read is still done.
    pub fn cut(&self) {
        self.state.network.send_modify(|network| {
            network.cut = true;
            network.cuts += 1;
        });
    }

    /// Holds all bytes in both directions, while connections stay open and new ones can be made.
    ///
    /// What a client sends meanwhile arrives when the pause ends, even if it has given up by then.
    pub fn pause(&self) {
        self.state.network.send_modify(|network| network.paused = true);
    }

    /// Holds all bytes to the client, while what it sends arrives.
    pub fn mute(&self) {
        self.state.network.send_modify(|network| network.mute = true);
    }

    /// Ends a cut, a pause and a muting.
    pub fn resume(&self) {
        self.state.network.send_modify(|network| {
            network.cut = false;
            network.paused = false;
            network.mute = false;
        });
    }

    /// From now on every answer, and every event of a watch, comes so much later.
    pub fn delay(&self, delay: Duration) {
        self.state.network.send_modify(|network| network.delay = delay);
    }

    /// Applies a fault to requests from now on. Where several rules match, the oldest one counts.
    pub fn on(&self, matcher: Matcher, fault: Fault) -> Rule {
        let rule = Rule::new(matcher, fault);
        lock(&self.state.rules).push(rule.clone());
        rule
    }

    /// All requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<Recorded> {
        lock(&self.state.requests).clone()
    }

    /// The instant at which the last write was sent that was answered with success: about S.
    pub fn last_renewal(&self) -> Instant {
        let answered = |r: &Recorded| {
            let method = r.request.method.as_str();
            method == "PUT" && r.status == Some(200) || method == "POST" && r.status == Some(201)
        };
        lock(&self.state.requests).iter().rfind(|r| answered(r)).expect("a renewal").at
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl State {
    /// Notes the request and finds the rule for it.
    fn arrived(&self, request: Seen) -> (usize, Option<Rule>) {
        let at = Instant::now();
        let rule = lock(&self.rules).iter().find(|rule| rule.takes(&request)).cloned();
        let mut requests = lock(&self.requests);
        requests.push(Recorded { at, request, committed: None, status: None });
        (requests.len() - 1, rule)
    }

    fn delay(&self) -> Duration {
        self.network.borrow().delay
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        let (tcp, _) = listener.accept().await.expect("accept a connection");
        let network = *state.network.borrow();
        if network.cut {
            // Dropped with a reset.
            let _ = tcp.set_zero_linger();
        } else {
            tokio::spawn(connection(tcp, state.clone(), network.cuts));
        }
    }
}

/// Serves one connection, through a pipe that can be stopped, until it ends or is cut.
async fn connection(mut tcp: TcpStream, state: Arc<State>, cuts: usize) {
    let _ = tcp.set_nodelay(true);
    let mut network = state.network.subscribe();
    let (inner, outer) = io::duplex(64 * 1024);
    let (mut from_server, mut to_server) = io::split(outer);
    let (mut from_client, mut to_client) = tcp.split();

    let requests = pump(&mut from_client, &mut to_server, network.clone(), |network| network.paused);
    let answers = pump(&mut from_server, &mut to_client, network.clone(), |network| network.paused || network.mute);
    let done = async {
        tokio::join!(serve(inner, state), answers);
    };
    tokio::select! {
        () = done => return,
        // The client sends no more, or can't be heard: what is under way may still be answered.
        () = async { requests.await; std::future::pending().await } => {}
        _ = network.wait_for(|network| network.cuts != cuts) => {}
    }
    let _ = tcp.set_zero_linger();
}

/// Carries bytes one way, and the end of them; none while the network is stopped in that direction.
async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut network: watch::Receiver<Network>,
    stopped: fn(&Network) -> bool,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await.unwrap_or(0);
        let open = network.wait_for(|network| !stopped(network)).await.is_ok();
        if length == 0 || !open || to.write_all(&buffer[..length]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}

async fn serve(io: DuplexStream, state: Arc<State>) {
    // A client that goes away, or does not trust us, is no concern of ours.
    let Ok(tls) = state.accept.accept(io).await else {
        return;
    };
    let service = service_fn(|request| {
        // A task of its own, begun at once: what was sent arrives, also when the client is gone by now.
        let forwarded = tokio::spawn(forward(request, state.clone()));
        answer(forwarded, state.clone())
    });
    let _ = server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
}

/// A request that went as far as its rule lets it go without an answer.
struct Forwarded {
    number: usize,
    rule: Option<Rule>,
    /// What the API server answered, if it was to see the request at all.
    response: Option<Response<Incoming>>,
}

/// Has the API server do what is asked, when a rule lets it through.
async fn forward(request: Request<Incoming>, state: Arc<State>) -> Result<Forwarded, AnyError> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let (number, rule) = state.arrived(Seen {
        method: head.method.to_string(),
        path: head.uri.path().into(),
        query: head.uri.query().unwrap_or_default().into(),
        body: String::from_utf8_lossy(&body).into(),
    });
    if let Some(rule) = &rule {
        match rule.fault() {
            Fault::Answer { .. } => return Ok(Forwarded { number, rule: Some(rule.clone()), response: None }),
            Fault::AnswerThenHold { .. } => {
                let (rule, forwarded) = (rule.clone(), Forwarded { number, rule: Some(rule.clone()), response: None });
                tokio::spawn(async move {
                    rule.released().await;
                    send(head, body, number, &state).await
                });
                return Ok(forwarded);
            }
            Fault::DelayRequest(delay) => time::sleep(*delay).await,
            Fault::Hold => rule.released().await,
            _ => {}
        }
    }
    let response = send(head, body, number, &state).await?;
    Ok(Forwarded { number, rule, response: Some(response) })
}

/// Sends the API server a request, on a connection of its own.
async fn send(head: Parts, body: Bytes, number: usize, state: &State) -> Result<Response<Incoming>, AnyError> {
    let tcp = TcpStream::connect(state.upstream).await?;
    tcp.set_nodelay(true)?;
    let tls = state.connect.connect(state.upstream.ip().into(), tcp).await?;
    let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(tls)).await?;
    tokio::spawn(connection);
    let response = sender.send_request(Request::from_parts(head, Full::new(body))).await?;
    lock(&state.requests)[number].committed = Some(response.status().as_u16());
    Ok(response)
}

/// Answers the client as a rule says, or fails, which closes its connection.
async fn answer(
    forwarded: JoinHandle<Result<Forwarded, AnyError>>,
    state: Arc<State>,
) -> Result<Response<Body>, AnyError> {
    let Forwarded { number, rule, response } = forwarded.await??;
    if let Some(rule) = &rule {
        match rule.fault() {
            Fault::DropResponseAfterCommit => std::future::pending().await,
            Fault::CloseAfterCommit => return Err("closed by a rule".into()),
            Fault::DelayResponse(delay) => time::sleep(*delay).await,
            Fault::HoldResponse => rule.released().await,
            _ => {}
        }
    }
    let response = match (rule.as_ref().map(Rule::fault), response) {
        (Some(Fault::Answer { status, headers, body } | Fault::AnswerThenHold { status, headers, body }), _) => {
            made_up(*status, headers, body)?
        }
        (Some(Fault::AnswerAfterCommit { status, body }), _) => made_up(*status, &[], body)?,
        (_, Some(response)) => streamed(response, state.clone()),
        (_, None) => unreachable!("only a made-up answer has none behind it"),
    };
    sleep_until(time::Instant::now() + state.delay()).await;
    lock(&state.requests)[number].status = Some(response.status().as_u16());
    Ok(response)
}

fn made_up(status: u16, headers: &[(&str, &str)], body: &str) -> Result<Response<Body>, AnyError> {
    let body = Full::new(Bytes::from(body.to_owned()));
    let mut response = Response::builder().status(status);
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
        response = response.header(header::CONTENT_TYPE, "application/json");
    }
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    let body = body.map_err(|never| match never {}).boxed_unsync();
    Ok(response.body(body)?)
}

/// Passes an answer on piece by piece as it arrives: that of a watch never ends by itself.
fn streamed(response: Response<Incoming>, state: Arc<State>) -> Response<Body> {
    let (mut head, mut body) = response.into_parts();
    // How the pieces are marked is a matter of each connection.
    head.headers.remove(header::TRANSFER_ENCODING);
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        // Read on while earlier pieces wait, or their delays would add up; stop when the client is gone.
        while let Some(piece) = tokio::select! {
            piece = body.frame() => piece,
            () = sender.closed() => None,
        } {
            let due = time::Instant::now() + state.delay();
            let _ = sender.send((due, piece));
        }
    });
    let pieces = stream::unfold(receiver, |mut receiver| async {
        let (due, piece) = receiver.recv().await?;
        sleep_until(due).await;
        Some((piece, receiver))
    });
    Response::from_parts(head, StreamBody::new(pieces).boxed_unsync())
}

/// Without the millisecond that a timer rounds up to when there is nothing to wait for.
async fn sleep_until(due: time::Instant) {
    if due > time::Instant::now() {
        time::sleep_until(due).await;
    }
}

/// A test that panics with a lock held must not take the others with it.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
