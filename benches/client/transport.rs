//! A non-blocking connection: plain TCP, or TLS over it.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustls::{ClientConfig, ClientConnection};

/// A non-blocking connection.
#[derive(Debug)]
pub(crate) struct Transport {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Transport {
    /// Begins to connect. The socket becomes writable once that has succeeded or failed.
    pub(crate) fn begin(address: SocketAddr, tls: Option<Arc<ClientConfig>>) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let tls = match tls {
            None => None,
            Some(config) => {
                let name = "localhost".try_into().map_err(io::Error::other)?;
                let mut tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
                tls.set_buffer_limit(None);
                Some(Box::new(tls))
            }
        };
        Ok(Self { stream: TcpStream::from(socket), tls })
    }

    /// Takes note that the socket has become writable for the first time.
    pub(crate) fn connected(&self) -> io::Result<()> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        self.stream.set_nodelay(true)
    }

    /// Whether it is TLS, so that bytes may wait inside it.
    pub(crate) const fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Reads into `buffer`; `None` when there is nothing to read now, zero at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(tls) = &mut self.tls else { return would_block(self.stream.read(buffer)) };
        loop {
            if let Some(bytes) = would_block(tls.reader().read(buffer))? {
                return Ok(Some(bytes));
            }
            match would_block(tls.read_tls(&mut self.stream))? {
                None => return Ok(None),
                // The reader tells apart an orderly end and a cut.
                Some(_) => tls.process_new_packets().map_err(io::Error::other)?,
            };
        }
    }

    /// Writes what it can and removes it from `bytes`. False when the socket takes no more.
    pub(crate) fn write(&mut self, bytes: &mut Vec<u8>) -> io::Result<bool> {
        if let Some(tls) = &mut self.tls {
            if !bytes.is_empty() {
                tls.writer().write_all(bytes)?;
                bytes.clear();
            }
            while tls.wants_write() {
                if would_block(tls.write_tls(&mut self.stream))?.is_none() {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        let mut written = 0;
        while written < bytes.len() {
            match would_block(self.stream.write(&bytes[written..]))? {
                Some(count) => written += count,
                None => break,
            }
        }
        bytes.drain(..written);
        Ok(bytes.is_empty())
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn would_block<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
