//! `--http`: health, leader and metrics. In a thread of its own, which owns all that it tells: whatever is asked of
//! it, and however often, the election neither waits for it nor shares a lock with it.

use super::metrics::{Metrics, News};
use crate::clock::Instant;
use crate::exit::Refusal;
use crate::sys;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::info;

/// So many connections are open at once. One more closes the oldest, so that a probe gets through to us however
/// many others only wait.
pub const CONNECTIONS: usize = 64;
/// Each is for one request, and closed after this.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes; no request that we answer has a longer head.
const LONGEST_HEAD: usize = 8 * 1024;
/// After so many connections there is a pause: a flood of them must not take the processor.
const BURST: usize = 32;
const PAUSE: Duration = Duration::from_millis(10);
/// How often what is told is taken in while nobody asks.
const TAKE_IN: Duration = Duration::from_secs(1);
/// So many may wait for us in the kernel: as many as we have accepted when a probe's patience is over.
const BACKLOG: i32 = 1024;

/// Where what happens is told. Telling never waits.
pub struct Feed(Sender<(Instant, News)>);

impl Feed {
    /// Tells it.
    pub fn tell(&self, news: News) {
        // Its reader ends with the program.
        let _ = self.0.send((Instant::now(), news));
    }
}

/// Listens at this address from now on. To be called after the last fork: it starts a thread.
///
/// # Errors
/// When nobody can listen there, or the system does not give what it takes.
pub fn start(address: SocketAddr, metrics: Metrics) -> Result<Feed, Refusal> {
    let listener = bind(address).map_err(|error| {
        let why = match error.kind() {
            ErrorKind::AddrInUse => "the address is in use".into(),
            ErrorKind::AddrNotAvailable => "no such address on this machine".into(),
            ErrorKind::PermissionDenied => "permission denied".into(),
            _ => error.to_string(),
        };
        Refusal::new(format!("--http: cannot listen on {address}: {why}"))
    })?;
    info!("listening on http://{}", listener.local_addr()?);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (feed, told) = channel();
    let board = Arc::new(Mutex::new(Board { metrics, told }));
    thread::Builder::new().name("http".into()).spawn(move || serve(&runtime, listener, &board))?;
    Ok(Feed(feed))
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let any = address.is_ipv6() && address.ip().is_unspecified();
    let listen = |address: SocketAddr| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if any && address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok::<std::net::TcpListener, io::Error>(socket.into())
    };
    match listen(address) {
        // A machine without IPv6.
        Err(error) if any && error.kind() != ErrorKind::AddrInUse => {
            listen((Ipv4Addr::UNSPECIFIED, address.port()).into()).map_err(|_| error)
        }
        bound => bound,
    }
}

fn serve(runtime: &Runtime, listener: std::net::TcpListener, board: &Arc<Mutex<Board>>) {
    sys::step_back();
    runtime.block_on(async {
        let Ok(listener) = TcpListener::from_std(listener) else {
            return;
        };
        let mut open = VecDeque::new();
        let mut ticks = interval(TAKE_IN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for count in 1_usize.. {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => admit(&mut open, stream, board).await,
                    // Short of something: that passes.
                    Err(_) => sleep(PAUSE * 10).await,
                },
                _ = ticks.tick() => read(board, |_, _| ()),
            }
            if count % BURST == 0 {
                sleep(PAUSE).await;
            }
        }
    });
}

async fn admit(open: &mut VecDeque<JoinHandle<()>>, stream: TcpStream, board: &Arc<Mutex<Board>>) {
    open.retain(|connection| !connection.is_finished());
    if open.len() >= CONNECTIONS
        && let Some(oldest) = open.pop_front()
    {
        oldest.abort();
        // Then it is closed.
        let _ = oldest.await;
    }
    let board = board.clone();
    open.push_back(tokio::spawn(async move {
        let service = service_fn(|request| {
            let response = read(&board, |metrics, now| answer(metrics, now, &request));
            async { Ok::<_, Infallible>(response) }
        });
        let mut server = http1::Builder::new();
        server.keep_alive(false).header_read_timeout(None).max_buf_size(LONGEST_HEAD).auto_date_header(false);
        let _ = timeout(LIMIT, server.serve_connection(TokioIo::new(stream), service)).await;
    }));
}

/// What is known, and what has been told since.
struct Board {
    metrics: Metrics,
    told: Receiver<(Instant, News)>,
}

/// Reads what is known at this moment, which is all that has been told.
fn read<T>(board: &Mutex<Board>, view: impl FnOnce(&Metrics, Instant) -> T) -> T {
    // Only one thread ever has it.
    let mut board = board.lock().unwrap_or_else(PoisonError::into_inner);
    while let Ok((at, news)) = board.told.try_recv() {
        board.metrics.learn(at, news);
    }
    view(&board.metrics, Instant::now())
}

fn answer(metrics: &Metrics, now: Instant, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into());
        response.headers_mut().insert(ALLOW, http::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let ok = |fine| if fine { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let leader = |status| with_type(status, "application/json", format!("{}\n", metrics.leader(now)));
    match request.uri().path() {
        "/" => leader(StatusCode::OK),
        "/leader" => leader(ok(metrics.is_leading(now))),
        "/livez" if metrics.is_live(now) => plain(StatusCode::OK, "ok\n".into()),
        "/livez" => plain(StatusCode::INTERNAL_SERVER_ERROR, "the election stands still\n".into()),
        "/readyz" if metrics.is_taking_part() => plain(StatusCode::OK, "ok\n".into()),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "the lock has not been read yet\n".into()),
        "/metrics" => with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics.text(now)),
        _ => plain(StatusCode::NOT_FOUND, "there are /livez, /readyz, /leader, /metrics and /\n".into()),
    }
}

fn plain(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn with_type(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}
