//! The byte transport under one MQTT connection: a socket, with TLS and WebSocket where the
//! listener says so.
//!
//! Plain TCP costs one system call per read and per write and no copy. The layers are sans-I/O
//! and work in [`Scratch`] buffers of the worker thread; between polls a connection holds only
//! what is left of a partial record or frame, and what the socket did not take. A transport knows
//! nothing of MQTT, and no clock: deadlines are its caller's.

mod frames;
mod scratch;
mod socket;
#[cfg(test)]
pub(crate) mod testing;
mod unwritten;

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::BufMut;

pub use self::frames::{CloseCode, FrameRefusal, Frames, fuzz_websocket_frames};
pub use self::scratch::Scratch;
pub use self::socket::Socket;
use self::unwritten::Unwritten;
use super::tls::TlsSession;

/// The most that one read takes from the socket.
pub const READ_BYTES: usize = 64 * 1024;
/// Spare room in the caller's buffer below which it is grown to [`READ_BYTES`].
const READ_SPARE_BYTES_MIN: usize = 16 * 1024;
/// Reads of one poll that bring no MQTT bytes, before other connections get their turn.
const BARREN_READS_MAX: u32 = 4;
/// Bytes that a peer may send without one byte of MQTT in them: far above the largest TLS record,
/// far below what would make a flood of empty records, empty frames or pings worth sending.
const BARREN_BYTES_MAX: usize = 256 * 1024;
/// Unwritten bytes above which the layers queue no answers (pongs) of their own: a peer that does
/// not read gets none.
const ANSWER_BACKLOG_BYTES_MAX: usize = 4 * 1024;
/// The most that is read and thrown away while a connection ends.
const DISCARD_BYTES_MAX: usize = 256 * 1024;

/// The byte transport of one connection.
#[derive(Debug)]
pub struct Transport {
    socket: Socket,
    tls: Option<Box<TlsSession>>,
    frames: Option<Box<Frames>>,
    /// Bytes that came before the present layers were there: behind a PROXY header, a TLS
    /// handshake or an upgrade request. Below the frames, above TLS.
    unread: Vec<u8>,
    unwritten: Unwritten,
    /// Bytes since the last MQTT byte came out.
    barren_bytes: usize,
    ended: bool,
}

impl Transport {
    /// A transport without layers. `unread` are bytes that were read from `socket` already.
    #[must_use]
    pub fn plain(socket: Socket, unread: Vec<u8>) -> Self {
        Self {
            socket,
            tls: None,
            frames: None,
            unread,
            unwritten: Unwritten::default(),
            barren_bytes: 0,
            ended: false,
        }
    }

    /// A transport over a finished handshake. `unread` is what the session decrypted already.
    #[must_use]
    pub(super) fn encrypted(socket: Socket, session: Box<TlsSession>, unread: Vec<u8>) -> Self {
        Self { tls: Some(session), ..Self::plain(socket, unread) }
    }

    /// The same transport, now with WebSocket frames on top; `unread` came after the upgrade
    /// request and has frames in it.
    #[must_use]
    pub(super) fn framed(mut self, frames: Frames, unread: Vec<u8>) -> Self {
        self.frames = Some(Box::new(frames));
        self.unread.extend(unread);
        self
    }

    /// The TLS session, if there is one.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsSession> {
        self.tls.as_deref()
    }

    /// Appends the MQTT bytes that are here now to `plain`: how many. `Ready(Ok(0))` is the end
    /// of the stream; `Pending` registers the waker.
    ///
    /// Hand over a [`Scratch`] that begins with what the connection kept of a partial packet: a
    /// plain socket is read straight into its spare room. At most about [`READ_BYTES`] are
    /// appended. Once this returned an error or the end, there is nothing more to read.
    ///
    /// # Errors
    /// Those of the socket; `InvalidData` for what the peer may not send: a [`rustls::Error`], a
    /// [`FrameRefusal`], or too many bytes without MQTT in them. The peer was told already.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        plain: &mut Vec<u8>,
    ) -> Poll<io::Result<usize>> {
        if self.tls.is_none() && self.frames.is_none() && self.unread.is_empty() {
            return poll_fill(&mut self.socket, cx, plain);
        }
        for _ in 0..BARREN_READS_MAX {
            if self.ended {
                return Poll::Ready(Ok(0));
            }
            let before = plain.len();
            let received = ready!(self.poll_layers(cx, plain)).inspect_err(|_| {
                self.ended = true;
                self.unwritten.try_flush(&self.socket);
            })?;
            let appended = plain.len().saturating_sub(before);
            if appended > 0 {
                self.barren_bytes = 0;
                return Poll::Ready(Ok(appended));
            }
            self.barren_bytes = self.barren_bytes.saturating_add(received);
            if self.barren_bytes > BARREN_BYTES_MAX {
                self.ended = true;
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    Barren { bytes_max: BARREN_BYTES_MAX },
                )));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One read through the layers; the bytes received below them.
    fn poll_layers(
        &mut self,
        cx: &mut Context<'_>,
        plain: &mut Vec<u8>,
    ) -> Poll<io::Result<usize>> {
        let start = plain.len();
        let mut answer = Scratch::take();
        let received = if self.unread.is_empty() {
            let received = match &mut self.tls {
                None => ready!(poll_fill(&mut self.socket, cx, plain))?,
                Some(session) => {
                    let read = ready!(session.poll_read(cx, &mut self.socket, plain, &mut answer));
                    self.unwritten.push(&answer);
                    answer.clear();
                    let received = read?;
                    self.ended |= session.has_ended();
                    received
                }
            };
            self.ended |= received == 0;
            received
        } else {
            let unread = std::mem::take(&mut self.unread);
            plain.extend_from_slice(&unread);
            unread.len()
        };
        if let Some(frames) = &mut self.frames {
            let refused = frames.take(plain, start, &mut answer).err();
            self.ended |= frames.has_ended();
            if !answer.is_empty() && self.unwritten.len() <= ANSWER_BACKLOG_BYTES_MAX {
                self.push_sealed(&answer)?;
            }
            if let Some(refusal) = refused {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refusal)));
            }
        }
        if !self.unwritten.is_empty() {
            // Not the peer's next read decides when an answer leaves; the waker is registered.
            let _ = self.unwritten.poll_flush(cx, &mut self.socket)?;
        }
        Poll::Ready(Ok(received))
    }

    /// Writes `plain` (framed as one WebSocket message, encrypted). `Ready(Ok(()))`: all of it is
    /// with the kernel. `Pending`: the rest is kept here and the waker registered; call
    /// [`Self::poll_flush`] until it is ready, and hand over nothing meanwhile.
    ///
    /// # Errors
    /// Those of the socket; the connection is then of no further use.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, plain: &[u8]) -> Poll<io::Result<()>> {
        if plain.is_empty() {
            return self.poll_flush(cx);
        }
        if self.tls.is_none() && self.frames.is_none() {
            return self.poll_send(cx, plain);
        }
        let mut wire = Scratch::take();
        self.seal(&[IoSlice::new(plain)], plain.len(), &mut wire)?;
        self.poll_send(cx, &wire)
    }

    /// Writes as much of `slices` as can leave now: how many of their bytes were taken.
    /// `Pending`: none, and the waker is registered.
    ///
    /// For payloads that several connections share: what is not taken stays with the caller and
    /// is not copied. Under TLS or WebSocket up to [`READ_BYTES`] are taken at once, and what the
    /// socket leaves of them is kept here ([`Self::has_pending`]).
    ///
    /// # Errors
    /// Those of the socket; the connection is then of no further use.
    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        if self.tls.is_none() && self.frames.is_none() {
            return self.socket.poll_write_vectored(cx, slices);
        }
        let plain_bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        let taken = plain_bytes.min(READ_BYTES);
        if taken == 0 {
            return Poll::Ready(Ok(0));
        }
        let mut wire = Scratch::take();
        self.seal(slices, taken, &mut wire)?;
        match self.poll_send(cx, &wire) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }

    /// Writes what is kept. `Ready(Ok(()))`: nothing is left.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unwritten.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.unwritten.poll_flush(cx, &mut self.socket)
    }

    /// Whether bytes are kept that the socket did not take.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Bytes that are kept because the socket did not take them.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.unwritten.len()
    }

    /// Says goodbye in every layer (WebSocket close frame, TLS `close_notify`), as far as the
    /// socket takes it now. Nothing may be written afterwards, and nothing more is read.
    pub fn close(&mut self, code: CloseCode) {
        self.ended = true;
        if let Some(frames) = &mut self.frames {
            let mut farewell = Scratch::take();
            frames.close(code, &mut farewell);
            if !farewell.is_empty() {
                // A session that can encrypt no more has no farewell to send.
                let _ = self.push_sealed(&farewell);
            }
        }
        if let Some(session) = &mut self.tls {
            let mut farewell = Scratch::take();
            session.close(&mut farewell);
            self.unwritten.push(&farewell);
        }
        self.unwritten.try_flush(&self.socket);
    }

    /// Writes what is kept and ends the sending side of the socket.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        self.socket.poll_shutdown(cx)
    }

    /// Ends the connection so that the peer gets the last bytes: says goodbye, ends the sending
    /// side, and discards what still comes (a socket closed with unread bytes resets, and a reset
    /// overtakes the last packet). The caller sets the deadline.
    pub async fn finish(mut self, code: CloseCode) {
        self.close(code);
        if poll_fn(|cx| self.poll_shutdown(cx)).await.is_err() {
            return;
        }
        let mut discarded_bytes = 0_usize;
        while discarded_bytes < DISCARD_BYTES_MAX {
            let read = poll_fn(|cx| {
                let mut scratch = Scratch::take();
                poll_fill(&mut self.socket, cx, &mut scratch)
            });
            match read.await {
                Ok(0) | Err(_) => return,
                Ok(received) => discarded_bytes = discarded_bytes.saturating_add(received),
            }
        }
    }

    /// Frames and encrypts the first `plain_bytes` of `slices` onto `wire`.
    fn seal(
        &mut self,
        slices: &[IoSlice<'_>],
        plain_bytes: usize,
        wire: &mut Vec<u8>,
    ) -> io::Result<()> {
        let mut gathered = Scratch::take();
        let Some(session) = &mut self.tls else {
            return gather(self.frames.as_deref(), slices, plain_bytes, wire);
        };
        match (&self.frames, slices) {
            (None, [one]) if one.len() == plain_bytes => session.encrypt(one, wire),
            (frames, _) => {
                gather(frames.as_deref(), slices, plain_bytes, &mut gathered)?;
                session.encrypt(&gathered, wire)
            }
        }
    }

    /// Queues `framed`, encrypted if there is TLS.
    fn push_sealed(&mut self, framed: &[u8]) -> io::Result<()> {
        let Some(session) = &mut self.tls else {
            self.unwritten.push(framed);
            return Ok(());
        };
        let mut wire = Scratch::take();
        session.encrypt(framed, &mut wire)?;
        self.unwritten.push(&wire);
        Ok(())
    }

    /// Writes `wire` behind what is kept, and keeps what the socket does not take.
    fn poll_send(&mut self, cx: &mut Context<'_>, wire: &[u8]) -> Poll<io::Result<()>> {
        if !self.unwritten.is_empty() {
            self.unwritten.push(wire);
            return self.unwritten.poll_flush(cx, &mut self.socket);
        }
        let mut rest = wire;
        while !rest.is_empty() {
            match self.socket.poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(taken)) => rest = rest.get(taken..).unwrap_or_default(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.unwritten.push(rest);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The peer sent too much that has no MQTT in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {bytes_max} bytes came without any MQTT in them")]
struct Barren {
    bytes_max: usize,
}

/// Reads once into the spare room of `buffer`.
pub(super) fn poll_fill(
    socket: &mut Socket,
    cx: &mut Context<'_>,
    buffer: &mut Vec<u8>,
) -> Poll<io::Result<usize>> {
    if buffer.capacity().saturating_sub(buffer.len()) < READ_SPARE_BYTES_MIN {
        buffer.reserve(READ_BYTES);
    }
    socket.poll_read(cx, &mut buffer.limit(READ_BYTES))
}

/// The first `plain_bytes` of `slices` in one piece, behind a frame header if there are frames.
fn gather(
    frames: Option<&Frames>,
    slices: &[IoSlice<'_>],
    plain_bytes: usize,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    if let Some(frames) = frames {
        frames.put_header(plain_bytes, out)?;
    }
    let mut left = plain_bytes;
    for slice in slices {
        let part = slice.get(..left.min(slice.len())).unwrap_or_default();
        out.extend_from_slice(part);
        left = left.saturating_sub(part.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
