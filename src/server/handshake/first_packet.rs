//! The first packet, read under a budget: nobody is authenticated yet.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, ready};

use super::{Gatehouse, Refused};
use crate::audit::Gate;
use crate::mqtt::frame::{FrameError, FrameHeader};
use crate::mqtt::packet::{Auth, Connect, Packet, Side};
use crate::mqtt::{ProtocolVersion, ReasonCode, Violation};
use crate::server::transport::{FrameRefusal, Scratch, Transport};

/// Reads the first packet, which has to be CONNECT [MQTT-3.1.0-1]. What came behind it is given
/// back. A refusal comes with the version to answer in, where it could be made out.
pub(super) async fn read_connect(
    transport: &mut Transport,
    gatehouse: &Gatehouse,
) -> Result<(Box<Connect>, Vec<u8>), (Refused, Option<ProtocolVersion>)> {
    let packet_bytes_max = gatehouse.settings.profile.size.packet_bytes_max;
    let mut held = Held::new(&gatehouse.unauthenticated);
    let mut input: Vec<u8> = Vec::new();
    let violated = |violation: Violation, version| (Refused::by_violation(&violation), version);
    loop {
        if input.first().is_some_and(|first| first >> 4 != 1) {
            let violation = Violation::protocol("MQTT-3.1.0-1", "the first packet is not CONNECT");
            return Err(violated(violation, None));
        }
        match FrameHeader::peek(&input, packet_bytes_max) {
            Ok(Some(header)) => {
                let bytes = header.header_bytes + header.body_bytes;
                if let Some(body) = input.get(header.header_bytes..bytes) {
                    let version = Connect::announced_version(body);
                    let packet = Packet::decode(
                        header.first_byte,
                        body,
                        ProtocolVersion::V5,
                        Side::FromClient,
                    );
                    let rest = input.get(bytes..).unwrap_or_default().to_vec();
                    return match packet {
                        Ok(Packet::Connect(connect)) => Ok((connect, rest)),
                        Ok(_) => Err(violated(
                            Violation::protocol("MQTT-3.1.0-1", "the first packet is not CONNECT"),
                            None,
                        )),
                        Err(violation) => Err(violated(violation, version)),
                    };
                }
            }
            Ok(None) => {}
            Err(FrameError::Malformed(violation)) => return Err(violated(violation, None)),
            Err(FrameError::TooLarge { bytes, bytes_max }) => {
                let why = format!("a CONNECT of {bytes} bytes, the most allowed is {bytes_max}");
                return Err((Refused::by(Gate::Size, ReasonCode::PacketTooLarge, &why), None));
            }
        }
        let read = poll_fn(|cx| {
            let mut scratch = Scratch::take();
            let read = ready!(transport.poll_read(cx, &mut scratch))?;
            if !held.grow(scratch.len()) {
                return Poll::Ready(Err(std::io::Error::from(std::io::ErrorKind::OutOfMemory)));
            }
            input.extend_from_slice(&scratch);
            Poll::Ready(std::io::Result::Ok(read))
        })
        .await;
        match read {
            Ok(0) => {
                let why = "the connection ended before CONNECT was complete";
                return Err((Refused::by(Gate::Connect, ReasonCode::UnspecifiedError, &why), None));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::OutOfMemory => {
                let why = "no memory left for connections that are not authenticated";
                return Err((Refused::by(Gate::Admission, ReasonCode::ServerBusy, &why), None));
            }
            Err(error) => return Err((by_transport(&error), None)),
        }
    }
}

/// Reads the answer to a challenge; `unread` is what came behind the packet before, and what
/// comes behind this one. Nothing else may come before CONNACK.
pub(super) async fn read_auth(
    transport: &mut Transport,
    gatehouse: &Gatehouse,
    unread: &mut Vec<u8>,
) -> Result<Auth, Refused> {
    const OTHER: Violation =
        Violation::protocol("MQTT-3.1.2-30", "something else than AUTH before CONNACK");
    let packet_bytes_max = gatehouse.settings.profile.size.packet_bytes_max;
    let mut held = Held::new(&gatehouse.unauthenticated);
    loop {
        match FrameHeader::peek(unread, packet_bytes_max) {
            Ok(Some(header)) if header.first_byte >> 4 != 15 => {
                return Err(Refused::by_violation(&OTHER));
            }
            Ok(Some(header)) => {
                let bytes = header.header_bytes + header.body_bytes;
                if let Some(body) = unread.get(header.header_bytes..bytes) {
                    let version = ProtocolVersion::V5;
                    let packet = Packet::decode(header.first_byte, body, version, Side::FromClient);
                    let packet = packet.map_err(|violation| Refused::by_violation(&violation))?;
                    let sized = gatehouse.settings.profile.size.check(&packet);
                    sized.map_err(|error| Refused::by_refusal(&error.into()))?;
                    let Packet::Auth(auth) = packet else {
                        return Err(Refused::by_violation(&OTHER));
                    };
                    unread.drain(..bytes);
                    return Ok(*auth);
                }
            }
            Ok(None) => {}
            Err(FrameError::Malformed(violation)) => return Err(Refused::by_violation(&violation)),
            Err(FrameError::TooLarge { bytes, bytes_max }) => {
                let why = format!("an AUTH of {bytes} bytes, the most allowed is {bytes_max}");
                return Err(Refused::by(Gate::Size, ReasonCode::PacketTooLarge, &why));
            }
        }
        let read = poll_fn(|cx| {
            // What is left of the challenge goes out meanwhile.
            let _ = transport.poll_flush(cx);
            let mut scratch = Scratch::take();
            let read = ready!(transport.poll_read(cx, &mut scratch))?;
            if !held.grow(scratch.len()) {
                return Poll::Ready(Err(std::io::Error::from(std::io::ErrorKind::OutOfMemory)));
            }
            unread.extend_from_slice(&scratch);
            Poll::Ready(std::io::Result::Ok(read))
        });
        match read.await {
            Ok(0) => {
                let why = "the connection ended before the client had proven itself";
                return Err(Refused::by(Gate::Authenticate, ReasonCode::UnspecifiedError, &why));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::OutOfMemory => {
                let why = "no memory left for connections that are not authenticated";
                return Err(Refused::by(Gate::Admission, ReasonCode::ServerBusy, &why));
            }
            Err(error) => return Err(by_transport(&error)),
        }
    }
}

/// A transport that failed: what the peer did wrong below MQTT is no matter of its CONNECT.
fn by_transport(error: &std::io::Error) -> Refused {
    match error.get_ref() {
        Some(source) if source.is::<FrameRefusal>() => {
            let statement = match source.downcast_ref() {
                Some(FrameRefusal::Text) => Some("MQTT-6.0.0-1"),
                _ => None,
            };
            Refused { statement, ..Refused::by(Gate::WebSocket, ReasonCode::ProtocolError, error) }
        }
        Some(source) if source.is::<rustls::Error>() => {
            Refused::by(Gate::Tls, ReasonCode::ProtocolError, error)
        }
        _ => Refused::by(Gate::Connect, ReasonCode::UnspecifiedError, error),
    }
}

/// Bytes held for all connections that have not been answered with CONNACK.
#[derive(Debug)]
pub(in crate::server) struct Unauthenticated {
    bytes: AtomicU64,
    bytes_max: u64,
}

impl Unauthenticated {
    pub(in crate::server) fn new(bytes_max: u64) -> Self {
        Self { bytes: AtomicU64::new(0), bytes_max }
    }
}

/// One connection's share of [`Unauthenticated`]; given back on drop.
#[derive(Debug)]
struct Held<'a> {
    budget: &'a Unauthenticated,
    bytes: u64,
}

impl<'a> Held<'a> {
    fn new(budget: &'a Unauthenticated) -> Self {
        Self { budget, bytes: 0 }
    }

    fn grow(&mut self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let before = self.budget.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        before.saturating_add(bytes) <= self.budget.bytes_max
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.budget.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
