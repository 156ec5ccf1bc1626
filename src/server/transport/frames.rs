//! WebSocket frames (RFC 6455, section 5), the server's side, sans-I/O.
//!
//! Payload bytes are handed on as they arrive: MQTT packets need not align with frames
//! [MQTT-6.0.0-2], so nothing is reassembled and nothing is allocated by a declared length. There
//! are no extensions, hence no compression.

use std::io::{self, Cursor};

use smallvec::SmallVec;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

pub use tungstenite::protocol::frame::coding::CloseCode;

/// The longest header of a frame from a client.
const HEADER_BYTES_MAX: usize = 14;
/// The longest payload of a control frame (RFC 6455, section 5.5).
const CONTROL_BYTES_MAX: u64 = 125;

/// Why a peer's frame is refused. [`Self::close_code`] is what the peer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameRefusal {
    /// A reserved opcode.
    #[error("WebSocket frame with a reserved opcode")]
    ReservedOpcode,
    /// A reserved bit is set, without an extension that gives it a meaning.
    #[error("WebSocket frame with a reserved bit set")]
    ReservedBit,
    /// A client's frame has to be masked.
    #[error("WebSocket frame that is not masked")]
    NotMasked,
    /// The length is not in its shortest form.
    #[error("WebSocket frame whose length is not in its shortest form")]
    LengthNotMinimal,
    /// The frame is longer than the listener takes.
    #[error("WebSocket frame of {bytes} bytes; {bytes_max} are allowed")]
    TooLong {
        /// As declared.
        bytes: u64,
        /// As allowed.
        bytes_max: u64,
    },
    /// MQTT comes in binary frames only [MQTT-6.0.0-1].
    #[error("WebSocket text frame")]
    Text,
    /// A continuation without a message, or a new message within one.
    #[error("WebSocket frame out of sequence")]
    OutOfSequence,
    /// A control frame that is fragmented, or longer than 125 bytes.
    #[error("WebSocket control frame that is fragmented or too long")]
    Control,
    /// A close frame whose code or reason is none.
    #[error("WebSocket close frame that is not well formed")]
    Close,
}

impl FrameRefusal {
    /// The close code for the peer (RFC 6455, section 7.4.1).
    #[must_use]
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::TooLong { .. } => CloseCode::Size,
            Self::Text => CloseCode::Unsupported,
            Self::ReservedOpcode
            | Self::ReservedBit
            | Self::NotMasked
            | Self::LengthNotMinimal
            | Self::OutOfSequence
            | Self::Control
            | Self::Close => CloseCode::Protocol,
        }
    }
}

/// The state of one connection's frames.
#[derive(Debug)]
pub struct Frames {
    frame_bytes_max: u64,
    reading: Reading,
    /// The part of a header that came.
    header: SmallVec<[u8; HEADER_BYTES_MAX]>,
    /// The payload, so far, of the control frame that is being read.
    control: Vec<u8>,
    message_is_open: bool,
    close_sent: bool,
}

/// Where in the stream the next byte is.
#[derive(Clone, Copy, Debug)]
enum Reading {
    Header,
    Payload {
        kind: Kind,
        left: u64,
        mask: [u8; 4],
    },
    /// Behind the peer's close frame: what comes is ignored.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Ping,
    Pong,
    Close,
}

impl Frames {
    /// Frames of up to `frame_bytes_max` payload bytes each.
    #[must_use]
    pub fn new(frame_bytes_max: u64) -> Self {
        Self {
            frame_bytes_max,
            reading: Reading::Header,
            header: SmallVec::new(),
            control: Vec::new(),
            message_is_open: false,
            close_sent: false,
        }
    }

    /// Whether the peer closed, or was refused.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.reading, Reading::Closed)
    }

    /// Replaces the frames in `bytes`, from `start` on, by the payload of their data frames.
    /// Control frames that have to be answered leave their answer in `answer`: of several pings
    /// in one go the last (RFC 6455, section 5.5.3).
    ///
    /// # Errors
    /// What the peer did wrong first; the close frame that says so is in `answer`, and no
    /// payload is handed on.
    pub fn take(
        &mut self,
        bytes: &mut Vec<u8>,
        start: usize,
        answer: &mut Vec<u8>,
    ) -> Result<(), FrameRefusal> {
        let mut ping = None;
        let taken = self.take_in_place(bytes, start, &mut ping, answer);
        match taken {
            Ok(end) => bytes.truncate(end),
            Err(refusal) => {
                bytes.truncate(start);
                self.reading = Reading::Closed;
                self.close(refusal.close_code(), answer);
                return Err(refusal);
            }
        }
        if let Some(payload) = ping
            && !self.close_sent
        {
            put_control(Control::Pong, &payload, answer);
        }
        Ok(())
    }

    /// Queues a close frame, once.
    pub fn close(&mut self, code: CloseCode, out: &mut Vec<u8>) {
        self.put_close(&u16::from(code).to_be_bytes(), out);
    }

    /// The header of one binary frame with `payload_bytes`.
    ///
    /// # Errors
    /// Never for the lengths that memory can have.
    pub fn put_header(&self, payload_bytes: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let length = u64::try_from(payload_bytes).map_err(io::Error::other)?;
        header(OpCode::Data(Data::Binary)).format(length, out).map_err(io::Error::other)
    }

    /// Does the work of [`Self::take`]; where the payload ends in `bytes`.
    fn take_in_place(
        &mut self,
        bytes: &mut [u8],
        start: usize,
        ping: &mut Option<Vec<u8>>,
        answer: &mut Vec<u8>,
    ) -> Result<usize, FrameRefusal> {
        // INVARIANT: start <= end <= next <= bytes.len(), and each turn moves `next` forward.
        let mut end = start;
        let mut next = start;
        while let Some(rest) = bytes.get_mut(next..).filter(|rest| !rest.is_empty()) {
            let advanced = match self.reading {
                Reading::Closed => break,
                Reading::Header => self.take_header(rest)?,
                Reading::Payload { kind, left, mask } => {
                    let length =
                        usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                    let payload = rest.get_mut(..length).unwrap_or_default();
                    unmask(payload, mask);
                    if kind == Kind::Data {
                        bytes.copy_within(next..next + length, end);
                        end += length;
                    } else {
                        self.control.extend_from_slice(payload);
                    }
                    let mut mask = mask;
                    mask.rotate_left(length % 4);
                    self.reading = Reading::Payload {
                        kind,
                        left: left.saturating_sub(u64::try_from(length).unwrap_or(left)),
                        mask,
                    };
                    length
                }
            };
            next += advanced;
            if let Reading::Payload { kind, left: 0, .. } = self.reading {
                self.reading = Reading::Header;
                self.end_frame(kind, ping, answer)?;
            }
        }
        Ok(end)
    }

    /// Reads a header, or what there is of one; the number of bytes of `rest` that are its.
    fn take_header(&mut self, rest: &[u8]) -> Result<usize, FrameRefusal> {
        let had = self.header.len();
        let room = HEADER_BYTES_MAX.saturating_sub(had).min(rest.len());
        self.header.extend_from_slice(rest.get(..room).unwrap_or_default());
        let mut cursor = Cursor::new(self.header.as_slice());
        let Some((header, length)) =
            FrameHeader::parse(&mut cursor).map_err(|_| FrameRefusal::ReservedOpcode)?
        else {
            // The longest header fits: this one is not whole, and all of `rest` is part of it.
            return self.check_first(room);
        };
        let header_bytes = header.len(length);
        if cursor.position() != u64::try_from(header_bytes).unwrap_or(u64::MAX) {
            return Err(FrameRefusal::LengthNotMinimal);
        }
        self.header.clear();
        let (kind, mask) = self.check(&header, length)?;
        self.reading = Reading::Payload { kind, left: length, mask };
        Ok(header_bytes.saturating_sub(had))
    }

    /// Refuses what the first bytes of an incomplete header show already, so that nobody is
    /// waited for in vain.
    fn check_first(&self, consumed: usize) -> Result<usize, FrameRefusal> {
        match self.header.as_slice() {
            [first, ..] if first & 0x70 != 0 => Err(FrameRefusal::ReservedBit),
            [_, second, ..] if second & 0x80 == 0 => Err(FrameRefusal::NotMasked),
            _ => Ok(consumed),
        }
    }

    fn check(
        &mut self,
        header: &FrameHeader,
        length: u64,
    ) -> Result<(Kind, [u8; 4]), FrameRefusal> {
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(FrameRefusal::ReservedBit);
        }
        let mask = header.mask.ok_or(FrameRefusal::NotMasked)?;
        let kind = match header.opcode {
            OpCode::Control(control) => {
                if !header.is_final || length > CONTROL_BYTES_MAX {
                    return Err(FrameRefusal::Control);
                }
                match control {
                    Control::Close => Kind::Close,
                    Control::Ping => Kind::Ping,
                    Control::Pong => Kind::Pong,
                    Control::Reserved(_) => return Err(FrameRefusal::ReservedOpcode),
                }
            }
            OpCode::Data(data) => {
                match data {
                    Data::Text => return Err(FrameRefusal::Text),
                    Data::Reserved(_) => return Err(FrameRefusal::ReservedOpcode),
                    Data::Binary if self.message_is_open => {
                        return Err(FrameRefusal::OutOfSequence);
                    }
                    Data::Continue if !self.message_is_open => {
                        return Err(FrameRefusal::OutOfSequence);
                    }
                    Data::Binary | Data::Continue => {}
                }
                if length > self.frame_bytes_max {
                    return Err(FrameRefusal::TooLong {
                        bytes: length,
                        bytes_max: self.frame_bytes_max,
                    });
                }
                self.message_is_open = !header.is_final;
                Kind::Data
            }
        };
        Ok((kind, mask))
    }

    /// Acts on a frame whose payload is complete.
    fn end_frame(
        &mut self,
        kind: Kind,
        ping: &mut Option<Vec<u8>>,
        answer: &mut Vec<u8>,
    ) -> Result<(), FrameRefusal> {
        if kind == Kind::Data {
            return Ok(());
        }
        let payload = std::mem::take(&mut self.control);
        match kind {
            Kind::Data | Kind::Pong => {}
            Kind::Ping => *ping = Some(payload),
            Kind::Close => {
                self.reading = Reading::Closed;
                let code = close_code_of(&payload)?;
                self.put_close(code.as_ref().map_or(&[], |code| code.as_slice()), answer);
            }
        }
        Ok(())
    }

    fn put_close(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        if !self.close_sent {
            self.close_sent = true;
            put_control(Control::Close, payload, out);
        }
    }
}

/// The code in the payload of a close frame, which may have none (RFC 6455, section 5.5.1).
fn close_code_of(payload: &[u8]) -> Result<Option<[u8; 2]>, FrameRefusal> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(None) } else { Err(FrameRefusal::Close) };
    };
    let allowed = CloseCode::from(u16::from_be_bytes(*code)).is_allowed();
    if !allowed || std::str::from_utf8(reason).is_err() {
        return Err(FrameRefusal::Close);
    }
    Ok(Some(*code))
}

fn header(opcode: OpCode) -> FrameHeader {
    FrameHeader { is_final: true, opcode, ..FrameHeader::default() }
}

/// Appends a control frame; `payload` has at most 125 bytes.
fn put_control(control: Control, payload: &[u8], out: &mut Vec<u8>) {
    let length = u64::try_from(payload.len()).unwrap_or(u64::MAX);
    // Writing to memory does not fail; an answer that did would be one the peer goes without.
    if length <= CONTROL_BYTES_MAX && header(OpCode::Control(control)).format(length, out).is_ok() {
        out.extend_from_slice(payload);
    }
}

/// Takes the mask off, four bytes at a time.
fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let word = u32::from_ne_bytes(mask);
    let (words, tail) = bytes.as_chunks_mut::<4>();
    for chunk in words {
        *chunk = (u32::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// Feeds `data` to the frame layer, cut in two at every place that its first byte names: what it
/// gives must not depend on the cut, and never be longer than what came.
pub fn fuzz_websocket_frames(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else {
        return;
    };
    let whole = take_pieces(&[stream]);
    let cut = usize::from(*cut).min(stream.len());
    let (head, tail) = stream.split_at(cut);
    let pieces = take_pieces(&[head, tail]);
    assert_eq!(whole.0.is_ok(), pieces.0.is_ok());
    if whole.0.is_ok() {
        assert_eq!(whole.1, pieces.1);
    }
    assert!(whole.1.len() <= stream.len());
}

fn take_pieces(pieces: &[&[u8]]) -> (Result<(), FrameRefusal>, Vec<u8>) {
    let mut frames = Frames::new(1024);
    let mut plain = Vec::new();
    let mut answer = Vec::new();
    for piece in pieces {
        let start = plain.len();
        plain.extend_from_slice(piece);
        if let Err(refusal) = frames.take(&mut plain, start, &mut answer) {
            return (Err(refusal), plain);
        }
    }
    (Ok(()), plain)
}

#[cfg(test)]
mod tests;
