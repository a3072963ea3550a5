//! A server that answers with whatever a test wants, down to the last byte.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// What is sent back before the connection is closed.
pub enum Answer {
    /// This.
    Text(String),
    /// The first of them, then the second again and again.
    Endless(&'static str, &'static str),
}

/// An answer with this status, and this JSON as its body.
pub fn json(status: u16, body: &serde_json::Value) -> Answer {
    text(status, &body.to_string())
}

/// An answer with this status and body.
pub fn text(status: u16, body: &str) -> Answer {
    Answer::Text(format!("HTTP/1.1 {status} Something\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
}

/// On the loopback, for as long as the test runs.
pub struct Hostile {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Hostile {
    /// Answers each request by its first line.
    pub fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Hostile {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (answer, counted) = (Arc::new(answer), connections.clone());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                counted.fetch_add(1, Ordering::SeqCst);
                let answer = answer.clone();
                thread::spawn(move || serve(client, &*answer));
            }
        });
        Hostile { address, connections }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn serve(mut client: TcpStream, answer: &dyn Fn(&str) -> Answer) {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    // A body that follows is of no interest.
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match client.read(&mut buffer) {
            Ok(length @ 1..) => request.extend_from_slice(&buffer[..length]),
            _ => return,
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    match answer(request.lines().next().unwrap_or_default()) {
        Answer::Text(text) => {
            let _ = client.write_all(text.as_bytes());
            // Closed with a body unread, the connection would be reset, and the answer lost.
            let _ = client.shutdown(Shutdown::Write);
            while client.read(&mut buffer).is_ok_and(|length| length > 0) {}
        }
        Answer::Endless(first, again) => {
            let again = again.repeat(1 + 65_536 / again.len());
            let _ = client.write_all(first.as_bytes());
            while client.write_all(again.as_bytes()).is_ok() {}
        }
    }
}
