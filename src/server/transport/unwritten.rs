//! Bytes that the socket did not take yet.

use std::io;
use std::task::{Context, Poll, ready};

use super::Socket;

/// What is left of earlier writes, in order. Empty, it holds no memory.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    bytes: Vec<u8>,
    written: usize,
}

impl Unwritten {
    /// Bytes still to be written.
    pub(super) fn len(&self) -> usize {
        self.bytes.len().saturating_sub(self.written)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds `bytes` at the end.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes until nothing is left or the socket takes no more.
    pub(super) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut Socket,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.rest() {
            let taken = ready!(socket.poll_write(cx, rest))?;
            self.advance(taken)?;
        }
        *self = Self::default();
        Poll::Ready(Ok(()))
    }

    /// Writes what the socket takes at once; for farewells, whose loss is no error.
    pub(super) fn try_flush(&mut self, socket: &Socket) {
        while let Some(rest) = self.rest() {
            let Ok(taken) = socket.try_write(rest) else {
                return;
            };
            if self.advance(taken).is_err() {
                return;
            }
        }
        *self = Self::default();
    }

    fn rest(&self) -> Option<&[u8]> {
        self.bytes.get(self.written..).filter(|rest| !rest.is_empty())
    }

    fn advance(&mut self, taken: usize) -> io::Result<()> {
        if taken == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.written = self.written.saturating_add(taken);
        Ok(())
    }
}
