//! A connection to a broker that may be killed at any moment.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::harness::raw::PATIENCE;
use crate::harness::wire::{self, Connack, Connect, Version};

/// The connection is gone.
#[derive(Debug)]
pub(super) struct Lost;

/// How long a look at the socket waits.
const TICK: Duration = Duration::from_millis(4);

/// A connection that was accepted.
#[derive(Debug)]
pub(super) struct Line {
    stream: TcpStream,
    pub(super) version: Version,
    waiting: Vec<u8>,
}

impl Line {
    /// Connects and sends CONNECT.
    pub(super) fn open(address: SocketAddr, connect: &Connect) -> Result<(Self, Connack), Lost> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|_| Lost)?;
        stream.set_read_timeout(Some(TICK)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut line = Self { stream, version: connect.version, waiting: Vec::new() };
        line.send(&connect.bytes())?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(packet) = line.next()? {
                return Ok((line, Connack::parse(connect.version, &packet)));
            }
            assert!(Instant::now() < deadline, "no CONNACK for {}", connect.client_id);
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), Lost> {
        self.stream.write_all(bytes).map_err(|_| Lost)
    }

    /// The next packet; `None` when there is none just now.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, Lost> {
        if let Some(packet) = self.received() {
            return Ok(Some(packet));
        }
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(Lost),
            Ok(length) => {
                self.waiting.extend(&chunk[..length]);
                Ok(self.received())
            }
            Err(error) => match error.kind() {
                ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(None),
                _ => Err(Lost),
            },
        }
    }

    /// The next packet of those that were read already.
    pub(super) fn received(&mut self) -> Option<Vec<u8>> {
        let ends = self.waiting.get(1..)?.iter().take(4).position(|byte| byte & 0x80 == 0)?;
        let length = ends + 2 + wire::read_varint(&self.waiting[1..]).0;
        (self.waiting.len() >= length).then(|| self.waiting.drain(..length).collect())
    }
}

/// The packet identifier and the reason code of an acknowledgement.
pub(super) fn acknowledged(packet: &[u8]) -> (u16, u8) {
    let id = u16::from_be_bytes([packet[2], packet[3]]);
    (id, packet.get(4).copied().unwrap_or(0))
}
