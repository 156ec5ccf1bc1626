//! TLS of one connection: the handshake, and records afterwards.
//!
//! rustls without its buffers: a session holds keys and the rest of a partial record, nothing
//! else. A handshake waits for the peer without a slot and holds one only while it computes, so
//! that slow or silent peers keep nobody out and a flood takes no more than the slots.

use std::future::poll_fn;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, ReadTraffic,
    UnbufferedStatus,
};
use rustls::{ProtocolVersion, ServerConfig};
use tokio::sync::Semaphore;

use super::tls_config::{RefusedCertificate, take_refused};
use super::transport::{Scratch, Socket, Transport, poll_fill};

/// The most that a peer may send before its handshake is done: a long client chain has 10 KiB.
pub const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;
/// A record on the wire: header, 2^14 bytes, expansion as TLS 1.2 allows (RFC 5246, 6.2.3).
const RECORD_BYTES_MAX: usize = 5 + (1 << 14) + 2048;
/// Content types: change cipher spec, alert, handshake, application data.
const RECORD_KINDS: RangeInclusive<u8> = 20..=23;
/// Plaintext of one record.
const RECORD_PLAIN_BYTES: usize = 1 << 14;
/// What encryption adds to a record, at most, with the suites in use.
const RECORD_OVERHEAD_BYTES: usize = 32;
/// Records after which the sending keys are renewed. AES-GCM is safe for 2^24 records, and the
/// unbuffered API of rustls only takes note of that bound.
const KEY_RECORDS_MAX: u32 = 1 << 22;
/// States that one `encrypt` or `close` may pass through before it is done.
const STEPS_MAX: u32 = 16;

/// What a handshake came to.
#[derive(Debug)]
pub struct Accepted {
    /// The connection, encrypted.
    pub transport: Transport,
    /// The client's chain, leaf first, as the verifier accepted it.
    pub peer_certificates: Option<Vec<CertificateDer<'static>>>,
    /// 13 for TLS 1.3, 12 for TLS 1.2.
    pub tls_version: u8,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum TlsFailure {
    /// The peer's bytes, or its certificate: rustls says which. The peer got the alert.
    #[error("TLS handshake refused: {}", reason(.0))]
    Refused(#[source] rustls::Error),
    /// The peer's certificate. The peer got the alert.
    #[error(
        "{}; SHA-256 of the certificate: {}",
        .certificate.why.map_or_else(|| format!("TLS handshake refused: {}", reason(.error)), |why| why.to_string()),
        .certificate.fingerprint
    )]
    RefusedCertificate {
        /// What rustls says.
        #[source]
        error: rustls::Error,
        /// Which one, and what was found.
        certificate: RefusedCertificate,
    },
    /// The peer went before the handshake was done.
    #[error("the peer ended the connection within the TLS handshake")]
    Ended,
    /// The peer sent more than a handshake needs.
    #[error("TLS handshake of more than {bytes_max} bytes")]
    TooLong {
        /// As allowed.
        bytes_max: usize,
    },
    /// The socket failed.
    #[error("socket failed within the TLS handshake: {0}")]
    Socket(#[source] io::Error),
    /// The broker is shutting down, or rustls could not begin.
    #[error("TLS handshake is not available")]
    Unavailable,
}

/// The keys of one connection, and what is left of a partial record.
pub struct TlsSession {
    connection: UnbufferedServerConnection,
    /// Ciphertext that is not a whole record yet. rustls may refer to bytes in it (a handshake
    /// message in pieces), so it is what every call has to be given.
    kept: Vec<u8>,
    /// Records sent with the present key.
    key_records: u32,
    phase: Phase,
}

/// How far a session is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// The peer sent `close_notify`: it sends no more, and may still be sent to.
    PeerClosed,
    /// An error. rustls is asked nothing more: it takes a second error for a bug.
    Broken,
}

impl std::fmt::Debug for TlsSession {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("TlsSession")
            .field("kept_bytes", &self.kept.len())
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

/// Does the handshake on `socket`; `prefix` are bytes that were read from it already.
///
/// Holds one of `slots` only while it computes, never while it waits for the peer. The caller
/// sets the deadline, and boxes the future.
///
/// # Errors
/// See [`TlsFailure`]; the peer was sent an alert where TLS has one.
pub async fn accept(
    mut socket: Socket,
    prefix: Vec<u8>,
    config: Arc<ServerConfig>,
    slots: Arc<Semaphore>,
) -> Result<Accepted, TlsFailure> {
    let mut session = Box::new(TlsSession {
        connection: UnbufferedServerConnection::new(config).map_err(|_| TlsFailure::Unavailable)?,
        kept: prefix,
        key_records: 0,
        phase: Phase::Open,
    });
    let mut received_bytes = session.kept.len();
    let mut plain = Vec::new();
    loop {
        if begins_with_record(&session.kept) {
            let mut output = Vec::new();
            let stepped = {
                let _slot = slots.acquire().await.map_err(|_| TlsFailure::Unavailable)?;
                let mut input = std::mem::take(&mut session.kept);
                session.take_records(&mut input, &mut plain, &mut output)
            };
            if let Err(error) = stepped {
                // The alert, at best effort: the peer has no more claim on our time.
                let _ = socket.try_write(&output);
                return Err(match take_refused() {
                    Some(certificate) => TlsFailure::RefusedCertificate { error, certificate },
                    None => TlsFailure::Refused(error),
                });
            }
            write_all(&mut socket, &output).await.map_err(TlsFailure::Socket)?;
            if !session.connection.is_handshaking() {
                break;
            }
        }
        if session.has_ended() {
            return Err(TlsFailure::Ended);
        }
        if received_bytes >= HANDSHAKE_BYTES_MAX {
            return Err(TlsFailure::TooLong { bytes_max: HANDSHAKE_BYTES_MAX });
        }
        let received = poll_fn(|cx| {
            let mut input = Scratch::take();
            let received = ready!(poll_fill(&mut socket, cx, &mut input))?;
            session.kept.extend_from_slice(&input);
            Poll::Ready(Ok(received))
        });
        match received.await.map_err(TlsFailure::Socket)? {
            0 => return Err(TlsFailure::Ended),
            received => received_bytes = received_bytes.saturating_add(received),
        }
    }
    session.kept.shrink_to_fit();
    let tls_version = match session.connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => 13,
        Some(ProtocolVersion::TLSv1_2) => 12,
        _ => return Err(TlsFailure::Unavailable),
    };
    Ok(Accepted {
        peer_certificates: session
            .connection
            .peer_certificates()
            .map(<[CertificateDer<'static>]>::to_vec),
        tls_version,
        transport: Transport::encrypted(socket, session, plain),
    })
}

async fn write_all(socket: &mut Socket, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match poll_fn(|cx| socket.poll_write(cx, rest)).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            taken => rest = rest.get(taken..).unwrap_or_default(),
        }
    }
    Ok(())
}

/// Whether `bytes` have a whole record, or what can never be one: something to compute on.
fn begins_with_record(bytes: &[u8]) -> bool {
    let Some([kind, major, _, high, low]) = bytes.first_chunk::<5>() else {
        return false;
    };
    let length = usize::from(u16::from_be_bytes([*high, *low])).saturating_add(5);
    let is_record = RECORD_KINDS.contains(kind) && *major == 3 && length <= RECORD_BYTES_MAX;
    bytes.len() >= length || !is_record
}

impl TlsSession {
    /// Whether nothing more can come: the peer sent `close_notify`, or was refused.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.phase != Phase::Open
    }

    /// Reads once, decrypts what is whole onto `plain`; the bytes received, 0 at the end of the
    /// stream. What TLS itself has to answer is left in `answer`, an alert with an error too.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut Socket,
        plain: &mut Vec<u8>,
        answer: &mut Vec<u8>,
    ) -> Poll<io::Result<usize>> {
        if self.has_ended() {
            return Poll::Ready(Ok(0));
        }
        let mut input = Scratch::take();
        input.extend_from_slice(&self.kept);
        let received = ready!(poll_fill(socket, cx, &mut input))?;
        if received == 0 {
            return Poll::Ready(Ok(0));
        }
        Poll::Ready(
            self.take_records(&mut input, plain, answer)
                .map(|()| received)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        )
    }

    /// Decrypts the whole records of `input` onto `plain` and keeps the rest.
    fn take_records(
        &mut self,
        input: &mut [u8],
        plain: &mut Vec<u8>,
        answer: &mut Vec<u8>,
    ) -> Result<(), rustls::Error> {
        let mut start = 0_usize;
        // Ends: each turn consumes a record, or one of the few messages that rustls has queued.
        let result = loop {
            let rest = input.get_mut(start..).unwrap_or_default();
            let UnbufferedStatus { discard, state, .. } = self.connection.process_tls_records(rest);
            let quiet = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    take_plain(&mut traffic, plain).map(|()| false)
                }
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    put_message(&mut message, answer).map(|()| false)
                }
                Ok(ConnectionState::TransmitTlsData(transmit)) => {
                    transmit.done();
                    Ok(false)
                }
                Ok(ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake) => {
                    Ok(true)
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    self.phase = Phase::PeerClosed;
                    Ok(true)
                }
                Ok(_) => Err(rustls::Error::General("early data was not offered".into())),
                Err(error) => Err(error),
            };
            start = start.saturating_add(discard);
            match quiet {
                Ok(false) => {}
                Ok(true) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let rest = input.get_mut(start..).unwrap_or_default();
        match result {
            Ok(()) if rest.len() > HANDSHAKE_BYTES_MAX => {
                Err(rustls::InvalidMessage::HandshakePayloadTooLarge.into())
            }
            Ok(()) => {
                // INVARIANT: an idle session keeps no memory here, a waiting one a record at most.
                self.kept = rest.to_vec();
                Ok(())
            }
            Err(error) => {
                self.phase = Phase::Broken;
                self.put_alerts(rest, answer);
                Err(error)
            }
        }
    }

    /// Leaves what rustls has queued with an error, the alert last, in `answer`.
    fn put_alerts(&mut self, input: &mut [u8], answer: &mut Vec<u8>) {
        // While something is queued, rustls hands it out before it looks at the input again.
        while self.connection.wants_write() {
            match self.connection.process_tls_records(input).state {
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    if put_message(&mut message, answer).is_err() {
                        return;
                    }
                }
                // What was decrypted before the error goes no further.
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while traffic.next_record().is_some() {}
                }
                _ => return,
            }
        }
    }

    /// Encrypts `plain` onto `wire`.
    ///
    /// # Errors
    /// The keys are used up and cannot be renewed (TLS 1.2), or the session is broken.
    pub(super) fn encrypt(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> io::Result<()> {
        if self.phase == Phase::Broken {
            return Err(io::Error::other("the TLS session is broken"));
        }
        let records = (plain.len() / RECORD_PLAIN_BYTES).saturating_add(1);
        let room = plain.len().saturating_add(records.saturating_mul(RECORD_OVERHEAD_BYTES));
        let renew = self.key_records >= KEY_RECORDS_MAX
            && self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        self.key_records = if renew {
            0
        } else {
            self.key_records.saturating_add(u32::try_from(records).unwrap_or(u32::MAX))
        };
        let mut renew = renew;
        for _ in 0..STEPS_MAX {
            // INVARIANT: `kept` was processed as far as it goes, so that nothing is discarded.
            let UnbufferedStatus { state, .. } =
                self.connection.process_tls_records(&mut self.kept);
            match state.map_err(io::Error::other)? {
                ConnectionState::WriteTraffic(traffic) if renew => {
                    renew = false;
                    traffic.refresh_traffic_keys().map_err(io::Error::other)?;
                }
                ConnectionState::WriteTraffic(mut traffic) => {
                    let encrypted = put_sized(wire, room, |out| traffic.encrypt(plain, out));
                    if encrypted.is_err() {
                        self.phase = Phase::Broken;
                    }
                    return encrypted;
                }
                ConnectionState::EncodeTlsData(mut message) => {
                    put_message(&mut message, wire).map_err(io::Error::other)?;
                }
                ConnectionState::TransmitTlsData(transmit) => transmit.done(),
                _ => break,
            }
        }
        Err(io::Error::other("the TLS session cannot send"))
    }

    /// Queues `close_notify` on `wire`; nothing when the session cannot send any more.
    pub(super) fn close(&mut self, wire: &mut Vec<u8>) {
        if self.phase == Phase::Broken {
            return;
        }
        for _ in 0..STEPS_MAX {
            let UnbufferedStatus { state, .. } =
                self.connection.process_tls_records(&mut self.kept);
            match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    // A farewell that does not fit is one that the peer goes without.
                    let _ = put_sized(wire, RECORD_OVERHEAD_BYTES, |out| {
                        traffic.queue_close_notify(out)
                    });
                    return;
                }
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    if put_message(&mut message, wire).is_err() {
                        return;
                    }
                }
                Ok(ConnectionState::TransmitTlsData(transmit)) => transmit.done(),
                _ => return,
            }
        }
    }
}

/// Appends to `out` what `put` writes into a slice: `room` bytes are offered first, then what it
/// says it needs.
fn put_sized(
    out: &mut Vec<u8>,
    room: usize,
    mut put: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> io::Result<()> {
    let start = out.len();
    out.resize(start.saturating_add(room), 0);
    let mut written = put(out.get_mut(start..).unwrap_or_default());
    if let Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) = written {
        out.resize(start.saturating_add(required_size), 0);
        written = put(out.get_mut(start..).unwrap_or_default());
    }
    out.truncate(start.saturating_add(*written.as_ref().unwrap_or(&0)));
    written.map(|_| ()).map_err(io::Error::other)
}

/// Appends what was decrypted to `plain`.
fn take_plain(
    traffic: &mut ReadTraffic<'_, '_, ServerConnectionData>,
    plain: &mut Vec<u8>,
) -> Result<(), rustls::Error> {
    while let Some(record) = traffic.next_record() {
        plain.extend_from_slice(record?.payload);
    }
    Ok(())
}

/// Appends a message that rustls has queued to `out`.
fn put_message(
    message: &mut EncodeTlsData<'_, ServerConnectionData>,
    out: &mut Vec<u8>,
) -> Result<(), rustls::Error> {
    let start = out.len();
    let mut encoded = message.encode(&mut []);
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = encoded {
        out.resize(start.saturating_add(required_size), 0);
        encoded = message.encode(out.get_mut(start..).unwrap_or_default());
    }
    encoded.map(|_| ()).map_err(|error| rustls::Error::General(error.to_string()))
}

/// What is wrong, in words: rustls shows what a verifier found only as it is debugged.
fn reason(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(found)) => {
            format!("invalid peer certificate: {found}")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
