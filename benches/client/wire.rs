//! The few packets that a load client needs, written and read without allocation.
//!
//! Kept apart from the broker's codec on purpose: a mistake that both ends share would not show,
//! and the generator must cost less than what it measures.

use std::io;

/// The protocol versions that the client speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Version {
    /// MQTT 3.1.1.
    #[default]
    V3_1_1,
    /// MQTT 5.0.
    V5,
}

/// The packet types that are acknowledgements, as the first byte on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acknowledgement {
    /// PUBACK.
    Puback = 0x40,
    /// PUBREC.
    Pubrec = 0x50,
    /// PUBREL.
    Pubrel = 0x62,
    /// PUBCOMP.
    Pubcomp = 0x70,
}

/// What the server sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    /// CONNACK: its reason code, and how many publications the server takes at a time.
    Connack { code: u8, receive_maximum: u16 },
    /// PUBLISH.
    Publish { qos: u8, packet_id: u16, payload: &'a [u8] },
    /// PUBACK, PUBREC, PUBREL or PUBCOMP with its reason code.
    Acknowledgement { kind: Acknowledgement, packet_id: u16, code: u8 },
    /// SUBACK: how many filters it answers, and the worst of the codes.
    Suback { filters: u32, worst: u8 },
    /// PINGRESP.
    Pingresp,
    /// DISCONNECT with its reason code.
    Disconnect { code: u8 },
}

/// Appends a CONNECT.
pub(crate) fn connect(
    out: &mut Vec<u8>,
    version: Version,
    client_id: &str,
    clean: bool,
    keep_alive_s: u16,
) {
    let properties: &[u8] = match version {
        Version::V3_1_1 => &[],
        // Receive Maximum 65,535: the server need not hold back.
        Version::V5 => &[3, 0x21, 0xff, 0xff],
    };
    out.push(0x10);
    remaining_length(out, 10 + properties.len() + 2 + client_id.len());
    string(out, "MQTT");
    out.push(match version {
        Version::V3_1_1 => 4,
        Version::V5 => 5,
    });
    out.push(u8::from(clean) << 1);
    out.extend_from_slice(&keep_alive_s.to_be_bytes());
    out.extend_from_slice(properties);
    string(out, client_id);
}

/// Appends a SUBSCRIBE for all `filters` with the same QoS.
pub(crate) fn subscribe(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    qos: u8,
    filters: &[String],
) {
    let properties = usize::from(version == Version::V5);
    let bytes: usize = filters.iter().map(|filter| filter.len() + 3).sum();
    out.push(0x82);
    remaining_length(out, 2 + properties + bytes);
    out.extend_from_slice(&packet_id.to_be_bytes());
    out.extend(std::iter::repeat_n(0, properties));
    for filter in filters {
        string(out, filter);
        out.push(qos);
    }
}

/// Appends an acknowledgement with reason code 0.
pub(crate) fn acknowledge(out: &mut Vec<u8>, kind: Acknowledgement, packet_id: u16) {
    let [high, low] = packet_id.to_be_bytes();
    out.extend_from_slice(&[kind as u8, 2, high, low]);
}

/// A DISCONNECT, the same in both versions.
pub(crate) const DISCONNECT: [u8; 2] = [0xe0, 0];

/// A PUBLISH that is encoded once and sent many times; only the packet id and the first eight
/// bytes of the payload differ.
#[derive(Clone, Debug)]
pub(crate) struct Publication {
    frame: Vec<u8>,
    packet_id_at: Option<usize>,
    payload_at: usize,
}

impl Publication {
    /// Encodes a PUBLISH with a payload of `payload_bytes`, at least eight.
    pub(crate) fn new(
        version: Version,
        topic: &str,
        qos: u8,
        retain: bool,
        payload_bytes: usize,
    ) -> Self {
        let payload_bytes = payload_bytes.max(8);
        let mut frame = vec![0x30 | (qos << 1) | u8::from(retain)];
        let head = 2 + topic.len() + 2 * usize::from(qos > 0);
        let properties = usize::from(version == Version::V5);
        remaining_length(&mut frame, head + properties + payload_bytes);
        string(&mut frame, topic);
        let packet_id_at = (qos > 0).then_some(frame.len());
        if qos > 0 {
            frame.extend_from_slice(&[0, 0]);
        }
        frame.extend(std::iter::repeat_n(0, properties));
        let payload_at = frame.len();
        frame.extend(std::iter::repeat_n(b'.', payload_bytes));
        Self { frame, packet_id_at, payload_at }
    }

    /// Whether it needs a packet id and is acknowledged.
    pub(crate) const fn is_acknowledged(&self) -> bool {
        self.packet_id_at.is_some()
    }

    /// Appends the frame with this packet id (unused in QoS 0) and time stamp.
    pub(crate) fn append(&self, out: &mut Vec<u8>, packet_id: u16, stamp_ns: u64) {
        let start = out.len();
        out.extend_from_slice(&self.frame);
        if let Some(at) = self.packet_id_at {
            out[start + at..start + at + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
        let payload = start + self.payload_at;
        out[payload..payload + 8].copy_from_slice(&stamp_ns.to_be_bytes());
    }
}

/// Reads the first packet of `bytes`: the packet and its length, or `None` while it is
/// incomplete.
///
/// # Errors
/// `InvalidData` for a packet that no server may send.
pub(crate) fn read(bytes: &[u8], version: Version) -> io::Result<Option<(Incoming<'_>, usize)>> {
    let Some((body_at, length)) = frame_length(bytes)? else { return Ok(None) };
    if bytes.len() < length {
        return Ok(None);
    }
    let body = &bytes[body_at..length];
    let packet = incoming(bytes[0], body, version).ok_or_else(malformed)?;
    Ok(Some((packet, length)))
}

fn incoming(first: u8, body: &[u8], version: Version) -> Option<Incoming<'_>> {
    let code_after_id = || body.get(2).copied().unwrap_or(0);
    let acknowledgement = |kind| {
        Some(Incoming::Acknowledgement { kind, packet_id: u16_at(body, 0)?, code: code_after_id() })
    };
    match first >> 4 {
        2 => {
            let receive_maximum = match version {
                Version::V3_1_1 => u16::MAX,
                Version::V5 => receive_maximum(body.get(2..)?).unwrap_or(u16::MAX),
            };
            Some(Incoming::Connack { code: *body.get(1)?, receive_maximum })
        }
        3 => {
            let qos = (first >> 1) & 3;
            let mut at = 2 + usize::from(u16_at(body, 0)?);
            let mut packet_id = 0;
            if qos > 0 {
                packet_id = u16_at(body, at)?;
                at += 2;
            }
            if version == Version::V5 {
                let (length, bytes) = variable_integer(body.get(at..)?)?;
                at += bytes + length;
            }
            Some(Incoming::Publish { qos, packet_id, payload: body.get(at..)? })
        }
        4 => acknowledgement(Acknowledgement::Puback),
        5 => acknowledgement(Acknowledgement::Pubrec),
        6 => acknowledgement(Acknowledgement::Pubrel),
        7 => acknowledgement(Acknowledgement::Pubcomp),
        9 => {
            let mut codes = body.get(2..)?;
            if version == Version::V5 {
                let (length, bytes) = variable_integer(codes)?;
                codes = codes.get(bytes + length..)?;
            }
            let filters = u32::try_from(codes.len()).ok()?;
            Some(Incoming::Suback { filters, worst: *codes.iter().max()? })
        }
        13 => Some(Incoming::Pingresp),
        14 => Some(Incoming::Disconnect { code: body.first().copied().unwrap_or(0) }),
        _ => None,
    }
}

/// Finds Receive Maximum among the properties of a CONNACK.
fn receive_maximum(bytes: &[u8]) -> Option<u16> {
    let (length, at) = variable_integer(bytes)?;
    let mut rest = bytes.get(at..at + length)?;
    while let Some((&id, value)) = rest.split_first() {
        let length = match id {
            0x21 => return u16_at(value, 0),
            0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
            0x13 | 0x22 => 2,
            0x11 | 0x27 => 4,
            0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => 2 + usize::from(u16_at(value, 0)?),
            0x26 => {
                let name = 2 + usize::from(u16_at(value, 0)?);
                name + 2 + usize::from(u16_at(value, name)?)
            }
            _ => return None,
        };
        rest = value.get(length..)?;
    }
    None
}

/// Where the body begins and how long the whole frame is, once its header is there.
fn frame_length(bytes: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let Some(tail) = bytes.get(1..) else { return Ok(None) };
    match variable_integer(tail) {
        Some((length, header)) => Ok(Some((1 + header, 1 + header + length))),
        None if tail.len() < 4 => Ok(None),
        None => Err(malformed()),
    }
}

/// A variable byte integer and how many bytes it takes.
fn variable_integer(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

fn remaining_length(out: &mut Vec<u8>, mut length: usize) {
    loop {
        let low = (length & 0x7f) as u8;
        length >>= 7;
        out.push(low | (u8::from(length > 0) << 7));
        if length == 0 {
            return;
        }
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the server sent a malformed packet")
}
