//! What each fuzz target does with its bytes: shared by `fuzz/` and by the test that replays
//! its corpus, so that both run the same code.
//!
//! Each function takes any bytes and returns. It panics where the broker breaks a promise, which
//! is what a fuzzer looks for. The parsers of the edges keep their part of it beside their code.

mod policy;
mod session;
mod topic;

pub use self::policy::policy;
pub use self::session::session;
pub use self::topic::topic;

use crate::mqtt::ProtocolVersion;
use crate::mqtt::frame::{FrameHeader, PACKET_BYTES_MAX};
use crate::mqtt::packet::{Packet, Side};
use crate::{config, identity, pki, server};

const VERSIONS: [ProtocolVersion; 3] =
    [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5];

/// The bytes are the start of a stream. What the header says must not depend on how the bytes
/// arrive, and must stay below the cap.
///
/// # Panics
/// When that does not hold.
pub fn frame(data: &[u8]) {
    const BYTES_MAX: u32 = 1 << 20;
    let whole = FrameHeader::peek(data, BYTES_MAX);
    for bytes in (0..data.len().min(6)).filter_map(|end| data.get(..end)) {
        let cut = FrameHeader::peek(bytes, BYTES_MAX);
        assert!(cut == Ok(None) || cut == whole, "{cut:?} became {whole:?}");
    }
    if let Ok(Some(header)) = whole {
        assert!((2..=5).contains(&header.header_bytes));
        assert!(u32::try_from(header.packet_bytes()).is_ok_and(|bytes| bytes <= BYTES_MAX));
        assert_eq!(FrameHeader::peek(data, PACKET_BYTES_MAX), whole);
    }
}

/// The first byte is that of a packet, the rest its body, without the remaining length. What
/// decodes must encode, to as many bytes as announced, and decode to the same again.
///
/// # Panics
/// When that does not hold.
pub fn packet(data: &[u8]) {
    let Some((&first_byte, body)) = data.split_first() else { return };
    for version in VERSIONS {
        for side in [Side::FromClient, Side::FromServer] {
            if let Ok(packet) = Packet::decode(first_byte, body, version, side) {
                round_trip(&packet, version, side);
            }
        }
    }
}

fn round_trip(packet: &Packet<'_>, version: ProtocolVersion, side: Side) {
    let mut bytes = Vec::new();
    packet.encode(version, &mut bytes);
    assert_eq!(bytes.len(), packet.encoded_bytes(version), "{packet:?}");
    let header = FrameHeader::peek(&bytes, PACKET_BYTES_MAX);
    let Ok(Some(header)) = header else { unreachable!("{header:?} of {packet:?}") };
    assert_eq!(header.packet_bytes(), bytes.len(), "{packet:?}");
    let body = bytes.get(header.header_bytes..).unwrap_or_default();
    let again = Packet::decode(header.first_byte, body, version, side);
    // Boxed empty properties say the same as none.
    assert_eq!(again.as_ref(), Ok(packet));
}

/// The bytes are where to cut a WebSocket stream, and the stream: what it carries must not
/// depend on the cut.
///
/// # Panics
/// When that does not hold.
pub fn websocket(data: &[u8]) {
    server::transport::fuzz_websocket_frames(data);
}

/// The bytes are the start of a connection behind a load balancer: once the PROXY header is
/// decided, no byte that follows may change the decision.
///
/// # Panics
/// When that does not hold.
pub fn proxy(data: &[u8]) {
    server::proxy_protocol::fuzz_proxy_header(data);
}

/// The bytes are a configuration file: read or refused, and the refusal drawn.
///
/// # Panics
/// Never knowingly.
pub fn config(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        config::fuzz_config_text(text);
    }
}

/// The bytes are a file of passwords: it is read, or refused.
///
/// # Panics
/// When a name that is taken has no hash.
pub fn password(data: &[u8]) {
    identity::method::fuzz_passwords(data);
}

/// The bytes are a token, or a set of keys, or the answer of a back end: nobody is let in who has
/// signed nothing.
///
/// # Panics
/// When an unsigned token counts.
pub fn token(data: &[u8]) {
    identity::method::fuzz_token(data);
}

/// The bytes are a file of SCRAM records, or the messages of a client, a line each: nobody is let
/// in who has no record.
///
/// # Panics
/// When somebody is.
pub fn scram(data: &[u8]) {
    identity::method::fuzz_scram(data);
}

/// The bytes are a client's certificate, DER, that is its own authority: it makes identities or
/// is refused.
///
/// # Panics
/// When an identity has a name that could be read in two ways, or a client id assigned to it is
/// refused.
pub fn certificate(data: &[u8]) {
    identity::fuzz_client_certificate(data);
}

/// The bytes are a certificate signing request, PEM or DER: it is refused, or what a certificate
/// for it would say is what a profile allows.
///
/// # Panics
/// When a profile gives a name or a usage that it does not have.
pub fn request(data: &[u8]) {
    pki::request::fuzz_request(data);
}

/// The bytes are the answer of an OCSP responder: it is refused, since nobody has signed it.
pub fn ocsp(data: &[u8]) {
    crate::identity::revocation::ocsp::fuzz_answer(data);
}

/// The bytes are a revocation list in DER: it is refused, or read to its end.
pub fn revocation(data: &[u8]) {
    crate::identity::revocation::fuzz_list(data);
}
