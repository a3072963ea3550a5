//! How the messages between leader-run and its guard look on their socket pair.
//!
//! One message a packet, fixed little-endian fields, then the record and the environment as NUL-separated text.
//! Both ends are the same program, so there is no version; whatever does not parse is [`None`], which means kill.

use crate::clock::Instant;
use crate::guard::core::{Deadlines, FromGuard, ToGuard};
use std::ops::Deref;
use std::time::Duration;

/// No packet is longer: the environment additions are a few short variables.
pub const MAX_PACKET: usize = 16 * 1024;

/// A packet of the guard, which allocates nothing while it guards.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    bytes: [u8; Packet::ROOM],
    length: usize,
}

impl Packet {
    const ROOM: usize = 64;
}

impl Default for Packet {
    fn default() -> Packet {
        Packet { bytes: [0; Packet::ROOM], length: 0 }
    }
}

impl Extend<u8> for Packet {
    fn extend<T: IntoIterator<Item = u8>>(&mut self, bytes: T) {
        for byte in bytes {
            self.bytes[self.length] = byte;
            self.length += 1;
        }
    }
}

impl Deref for Packet {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

struct Writer<P>(P);

impl<P: Default + Extend<u8>> Writer<P> {
    fn new(kind: u8, term: u64) -> Writer<P> {
        let mut packet = P::default();
        packet.extend([kind]);
        Writer(packet).number(term)
    }

    fn number(mut self, number: u64) -> Writer<P> {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn int(self, int: i32) -> Writer<P> {
        self.number(int as u64)
    }

    fn instant(self, at: Instant) -> Writer<P> {
        self.number(at.boot.as_nanos() as u64).number(at.raw.as_nanos() as u64)
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    fn int(&mut self) -> Option<i32> {
        Some(self.number()? as i32)
    }

    fn instant(&mut self) -> Option<Instant> {
        let (boot, raw) = (self.number()?, self.number()?);
        Some(Instant { boot: Duration::from_nanos(boot), raw: Duration::from_nanos(raw) })
    }

    fn deadlines(&mut self) -> Option<Deadlines> {
        Some(Deadlines { stop: self.instant()?, kill: self.instant()? })
    }

    fn end<T>(self, message: T) -> Option<T> {
        self.0.is_empty().then_some(message)
    }
}

impl ToGuard {
    /// The packet of this message.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            ToGuard::Start { term, deadlines, env, record } => {
                let mut packet: Vec<u8> = Writer::new(0, *term).instant(deadlines.stop).instant(deadlines.kill).0;
                packet.extend(record.bytes());
                env.iter().for_each(|variable| packet.extend([0].into_iter().chain(variable.bytes())));
                packet
            }
            ToGuard::Extend { term, deadlines } => {
                Writer::new(1, *term).instant(deadlines.stop).instant(deadlines.kill).0
            }
            ToGuard::Stop { term, signal, kill, lost } => {
                Writer::new(2, *term).int(*signal).instant(*kill).int((*lost).into()).0
            }
            ToGuard::Signal { term, signal } => Writer::new(3, *term).int(*signal).0,
        }
    }

    /// The message of this packet.
    pub fn decode(packet: &[u8]) -> Option<ToGuard> {
        let (kind, rest) = packet.split_first()?;
        let mut read = Reader(rest);
        let term = read.number()?;
        match kind {
            0 => {
                let deadlines = read.deadlines()?;
                let mut texts = std::str::from_utf8(read.0).ok()?.split('\0').map(str::to_owned);
                let (record, env) = (texts.next()?, texts.collect());
                Some(ToGuard::Start { term, deadlines, env, record })
            }
            1 => {
                let deadlines = read.deadlines()?;
                read.end(ToGuard::Extend { term, deadlines })
            }
            2 => {
                let (signal, kill, lost) = (read.int()?, read.instant()?, read.int()? != 0);
                read.end(ToGuard::Stop { term, signal, kill, lost })
            }
            3 => {
                let signal = read.int()?;
                read.end(ToGuard::Signal { term, signal })
            }
            _ => None,
        }
    }
}

impl FromGuard {
    /// The packet of this message.
    pub fn encode(&self) -> Packet {
        match *self {
            FromGuard::Acknowledged(term, kill) => Writer::new(0, term).instant(kill).0,
            FromGuard::Started(term, pid) => Writer::new(1, term).int(pid).0,
            FromGuard::Failed(term, errno) => Writer::new(2, term).int(errno).0,
            FromGuard::Late(term) => Writer::new(3, term).0,
            FromGuard::Exited(term, status) => Writer::new(4, term).int(status).0,
            FromGuard::Expired(term) => Writer::new(5, term).0,
            FromGuard::Gone(term) => Writer::new(6, term).0,
            FromGuard::Continued(term, signal) => Writer::new(7, term).int(signal).0,
            FromGuard::Leftover(term) => Writer::new(8, term).0,
            FromGuard::Killing(term) => Writer::new(9, term).0,
            FromGuard::Died(term, status) => Writer::new(11, term).int(status).0,
            FromGuard::Slow(term, late) => Writer::new(10, term).number(late.as_nanos() as u64).0,
        }
    }

    /// The message of this packet.
    pub fn decode(packet: &[u8]) -> Option<FromGuard> {
        let (kind, rest) = packet.split_first()?;
        let mut read = Reader(rest);
        let term = read.number()?;
        let message = match kind {
            0 => FromGuard::Acknowledged(term, read.instant()?),
            1 => FromGuard::Started(term, read.int()?),
            2 => FromGuard::Failed(term, read.int()?),
            3 => FromGuard::Late(term),
            4 => FromGuard::Exited(term, read.int()?),
            5 => FromGuard::Expired(term),
            6 => FromGuard::Gone(term),
            7 => FromGuard::Continued(term, read.int()?),
            8 => FromGuard::Leftover(term),
            9 => FromGuard::Killing(term),
            11 => FromGuard::Died(term, read.int()?),
            10 => FromGuard::Slow(term, Duration::from_nanos(read.number()?)),
            _ => return None,
        };
        read.end(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant { boot: Duration::from_secs(seconds), raw: Duration::from_secs(seconds + 1) }
    }

    #[test]
    fn every_message_survives_the_socket() {
        let deadlines = Deadlines { stop: at(3), kill: at(5) };
        let to = [
            ToGuard::Start { term: 1, deadlines, env: vec!["A=b c".into(), "D=é".into()], record: "{\"a\"}".into() },
            ToGuard::Start { term: 1, deadlines, env: Vec::new(), record: String::new() },
            ToGuard::Extend { term: u64::MAX, deadlines },
            ToGuard::Stop { term: 3, signal: 15, kill: at(9), lost: true },
            ToGuard::Signal { term: 4, signal: 64 },
        ];
        for message in to {
            assert_eq!(ToGuard::decode(&message.encode()), Some(message));
        }
        let from = [
            FromGuard::Acknowledged(1, at(7)),
            FromGuard::Started(2, 4711),
            FromGuard::Failed(3, 2),
            FromGuard::Late(4),
            FromGuard::Exited(5, -1),
            FromGuard::Expired(6),
            FromGuard::Gone(7),
            FromGuard::Continued(8, 21),
            FromGuard::Leftover(9),
            FromGuard::Killing(10),
            FromGuard::Died(12, 9),
            FromGuard::Slow(11, Duration::from_millis(120)),
        ];
        for message in from {
            assert_eq!(FromGuard::decode(&message.encode()), Some(message));
        }
    }

    #[test]
    fn nonsense_is_not_a_message() {
        let extend = ToGuard::Extend { term: 1, deadlines: Deadlines { stop: at(3), kill: at(5) } }.encode();
        let longer = [&extend[..], &[0]].concat();
        for packet in [&[][..], &[99, 0], &extend[..extend.len() - 1], &longer] {
            assert_eq!(ToGuard::decode(packet), None);
            assert_eq!(FromGuard::decode(packet), None);
        }
    }
}
