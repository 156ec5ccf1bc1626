//! The PROXY protocol, versions 1 and 2: a load balancer says whom it speaks for.
//!
//! Read only where the listener expects it and only from the senders that it lists; a connection
//! that does not begin with a header is refused, since its address would be the proxy's. What a
//! header says about a certificate is reported and never an identity.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::BufMut;
use ppp::{v1, v2};

use super::transport::Socket;

/// The longest header that is read: the addresses and a handful of TLVs.
pub const HEADER_BYTES_MAX: usize = 536;
/// The longest header of version 1 (its specification, section 2.1).
const V1_HEADER_BYTES_MAX: usize = 107;
const V1_PREFIX: &[u8] = b"PROXY ";
/// Signature, version and command, family and protocol, length.
const V2_FIXED_BYTES: usize = 16;
/// Of the SSL TLV: the client's flags and the verification result, before the TLVs inside it.
const SSL_FIXED_BYTES: usize = 5;

/// `PP2_CLIENT_SSL`: the client connected to the proxy over TLS.
const CLIENT_SSL: u8 = 0x01;
/// `PP2_CLIENT_CERT_CONN` or `PP2_CLIENT_CERT_SESS`: it showed a certificate, on this connection or on
/// the one whose TLS session it resumed.
const CLIENT_CERTIFICATE: u8 = 0x02 | 0x04;

/// What a header announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// The client's address; `None` for a connection of the proxy itself (LOCAL, UNKNOWN).
    pub source: Option<SocketAddr>,
    /// The common name of a client certificate that the proxy says it verified.
    pub common_name: Option<String>,
    /// What came behind the header already.
    pub rest: Vec<u8>,
}

/// Why a header is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyRefusal {
    /// The connection does not begin with a header.
    #[error("no PROXY protocol header")]
    Missing,
    /// The header is longer than is read.
    #[error("PROXY protocol header of more than {bytes_max} bytes")]
    TooLong {
        /// As allowed.
        bytes_max: usize,
    },
    /// The header has a form that its version does not have.
    #[error("malformed PROXY protocol header")]
    Malformed,
    /// A family or transport that MQTT does not come over.
    #[error("PROXY protocol header for something other than TCP")]
    NotTcp,
}

/// Why no header could be read.
#[derive(Debug, thiserror::Error)]
pub enum ProxyFailure {
    /// The peer's bytes.
    #[error(transparent)]
    Refused(#[from] ProxyRefusal),
    /// The peer went before the header was whole.
    #[error("the peer ended the connection before its PROXY protocol header")]
    Ended,
    /// The socket failed.
    #[error("socket failed before the PROXY protocol header: {0}")]
    Socket(#[source] io::Error),
}

/// How far a header has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// So far a header; more bytes decide.
    NeedMore,
    /// A whole header.
    Done {
        /// The client's address; `None` for a connection of the proxy itself.
        source: Option<SocketAddr>,
        /// The common name of a client certificate that the proxy says it verified.
        common_name: Option<String>,
        /// The length of the header.
        header_bytes: usize,
    },
}

/// Reads the header off `socket`, which has to come first. The caller sets the deadline.
///
/// # Errors
/// See [`ProxyFailure`]. Never reads more than [`HEADER_BYTES_MAX`] bytes.
pub async fn read_header(socket: &mut Socket) -> Result<Announced, ProxyFailure> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES_MAX);
    loop {
        match parse(&bytes)? {
            Progress::NeedMore => {}
            Progress::Done { source, common_name, header_bytes } => {
                return Ok(Announced {
                    source,
                    common_name,
                    rest: bytes.get(header_bytes..).unwrap_or_default().to_vec(),
                });
            }
        }
        let room = HEADER_BYTES_MAX.saturating_sub(bytes.len());
        let received = poll_fn(|cx| socket.poll_read(cx, &mut (&mut bytes).limit(room)))
            .await
            .map_err(ProxyFailure::Socket)?;
        if received == 0 {
            return Err(ProxyFailure::Ended);
        }
    }
}

/// Looks for a header at the beginning of `bytes`.
///
/// # Errors
/// `bytes` are no header, nor the beginning of one.
pub fn parse(bytes: &[u8]) -> Result<Progress, ProxyRefusal> {
    if begins(bytes, v2::PROTOCOL_PREFIX) {
        parse_v2(bytes)
    } else if begins(bytes, V1_PREFIX) {
        parse_v1(bytes)
    } else {
        Err(ProxyRefusal::Missing)
    }
}

/// Whether `bytes` begin with `prefix`, or are its beginning.
fn begins(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.iter().zip(prefix).all(|(byte, expected)| byte == expected)
}

fn parse_v1(bytes: &[u8]) -> Result<Progress, ProxyRefusal> {
    let line = bytes.get(..V1_HEADER_BYTES_MAX).unwrap_or(bytes);
    let end = line.iter().position(|byte| *byte == b'\r');
    let Some(line) = end.and_then(|end| line.get(..end.saturating_add(2))) else {
        return if bytes.len() < V1_HEADER_BYTES_MAX {
            Ok(Progress::NeedMore)
        } else {
            Err(ProxyRefusal::TooLong { bytes_max: V1_HEADER_BYTES_MAX })
        };
    };
    let header = v1::Header::try_from(line).map_err(|_| ProxyRefusal::Malformed)?;
    let source = match header.addresses {
        v1::Addresses::Tcp4(ip) => Some(source(ip.source_address.into(), ip.source_port)),
        v1::Addresses::Tcp6(ip) => Some(source(ip.source_address.into(), ip.source_port)),
        v1::Addresses::Unknown => None,
    };
    Ok(Progress::Done { source, common_name: None, header_bytes: line.len() })
}

fn parse_v2(bytes: &[u8]) -> Result<Progress, ProxyRefusal> {
    let Some(fixed) = bytes.first_chunk::<V2_FIXED_BYTES>() else {
        return Ok(Progress::NeedMore);
    };
    let [.., high, low] = *fixed;
    let header_bytes = V2_FIXED_BYTES.saturating_add(u16::from_be_bytes([high, low]).into());
    if header_bytes > HEADER_BYTES_MAX {
        return Err(ProxyRefusal::TooLong { bytes_max: HEADER_BYTES_MAX });
    }
    let Some(whole) = bytes.get(..header_bytes) else {
        return Ok(Progress::NeedMore);
    };
    let header = v2::Header::try_from(whole).map_err(|_| ProxyRefusal::Malformed)?;
    let (source, common_name) = match header.command {
        v2::Command::Local => (None, None),
        v2::Command::Proxy => (v2_source(&header)?, common_name(&header)?),
    };
    Ok(Progress::Done { source, common_name, header_bytes })
}

fn v2_source(header: &v2::Header<'_>) -> Result<Option<SocketAddr>, ProxyRefusal> {
    match (header.protocol, header.addresses) {
        (v2::Protocol::Stream, v2::Addresses::IPv4(ip)) => {
            Ok(Some(source(ip.source_address.into(), ip.source_port)))
        }
        (v2::Protocol::Stream, v2::Addresses::IPv6(ip)) => {
            Ok(Some(source(ip.source_address.into(), ip.source_port)))
        }
        (v2::Protocol::Unspecified, v2::Addresses::Unspecified) => Ok(None),
        _ => Err(ProxyRefusal::NotTcp),
    }
}

/// One form per address, so that a ban or a cap on an IPv4 address holds when it comes as IPv6.
fn source(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_canonical(), port)
}

/// The common name in the SSL TLV, where the proxy verified a certificate (specification, 2.2.5).
fn common_name(header: &v2::Header<'_>) -> Result<Option<String>, ProxyRefusal> {
    let mut found = None;
    for tlv in header.tlvs() {
        let tlv = tlv.map_err(|_| ProxyRefusal::Malformed)?;
        if tlv.kind != u8::from(v2::Type::SSL) {
            continue;
        }
        let Some((fixed, inner)) = tlv.value.split_first_chunk::<SSL_FIXED_BYTES>() else {
            return Err(ProxyRefusal::Malformed);
        };
        let [client, verify @ ..] = *fixed;
        let proven =
            client & CLIENT_SSL != 0 && client & CLIENT_CERTIFICATE != 0 && verify == [0; 4];
        for inner in v2::TypeLengthValues::from(inner) {
            let inner = inner.map_err(|_| ProxyRefusal::Malformed)?;
            if inner.kind != u8::from(v2::Type::SSLCommonName) || !proven {
                continue;
            }
            let name = std::str::from_utf8(&inner.value).map_err(|_| ProxyRefusal::Malformed)?;
            if found.replace(name.to_owned()).is_some() {
                return Err(ProxyRefusal::Malformed);
            }
        }
    }
    Ok(found)
}

/// Feeds `data` to the parser, whole and in growing pieces: a decision, once taken, must not
/// change with the bytes that follow.
pub fn fuzz_proxy_header(data: &[u8]) {
    let data = data.get(..HEADER_BYTES_MAX).unwrap_or(data);
    let whole = parse(data);
    for end in 0..data.len() {
        match parse(data.get(..end).unwrap_or_default()) {
            Ok(Progress::NeedMore) => {}
            decided => {
                assert_eq!(decided, whole);
                break;
            }
        }
    }
    if let Ok(Progress::Done { header_bytes, .. }) = whole {
        assert!(header_bytes <= data.len());
    }
}

#[cfg(test)]
mod tests;
