//! The stream socket under a connection: TCP or Unix.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::BufMut;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// A connected stream socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

impl Socket {
    /// Reads once into what `buffer` has room for. `Ready(Ok(0))` is the end of the stream.
    ///
    /// A read that leaves room in `buffer` has emptied the socket, and tokio then knows that
    /// without asking the kernel again: large buffers save a system call per wake.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut impl BufMut,
    ) -> Poll<io::Result<usize>> {
        // The future holds nothing between polls, so making one per poll loses nothing.
        match self {
            Self::Tcp(stream) => pin!(stream.read_buf(buffer)).poll(cx),
            Self::Unix(stream) => pin!(stream.read_buf(buffer)).poll(cx),
        }
    }

    /// Writes once; the number of bytes that the socket took.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    /// Writes several slices in one system call; the number of bytes that the socket took.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    /// Writes once without waiting and without a waker, for what is sent at best effort.
    ///
    /// # Errors
    /// Those of the socket, `WouldBlock` among them.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// Ends the sending side.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
