//! Tests of [`super`].

use super::*;

/// A client's frame with the mask 1 2 3 4.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        short @ 0..=125 => out.push(0x80 | u8::try_from(short).unwrap()),
        long => {
            out.push(0xFE);
            out.extend_from_slice(&u16::try_from(long).unwrap().to_be_bytes());
        }
    }
    out.extend_from_slice(&[1, 2, 3, 4]);
    out.extend(
        payload.iter().zip([1, 2, 3, 4].into_iter().cycle()).map(|(byte, mask)| byte ^ mask),
    );
    out
}

/// The plain bytes, the answer and the refusal, if any, when `stream` comes in `piece_bytes`.
fn take(stream: &[u8], piece_bytes: usize) -> (Vec<u8>, Vec<u8>, Option<FrameRefusal>) {
    let mut frames = Frames::new(1000);
    let mut plain = Vec::new();
    let mut answer = Vec::new();
    for piece in stream.chunks(piece_bytes) {
        let start = plain.len();
        plain.extend_from_slice(piece);
        if let Err(refusal) = frames.take(&mut plain, start, &mut answer) {
            assert!(frames.has_ended());
            return (plain, answer, Some(refusal));
        }
    }
    (plain, answer, None)
}

#[test]
#[expect(clippy::type_complexity, reason = "a table")]
fn payloads_come_out_whatever_the_pieces() {
    let long: Vec<u8> = (0..=255).cycle().take(999).collect();
    let cases: [(&str, Vec<u8>, Vec<u8>, Vec<u8>); 7] = [
        (
            "two packets in one frame",
            frame(0x82, &[0xC0, 0, 0xC0, 0]),
            vec![0xC0, 0, 0xC0, 0],
            vec![],
        ),
        (
            "one packet over two frames",
            [frame(0x82, &[0xC0]), frame(0x82, &[0])].concat(),
            vec![0xC0, 0],
            vec![],
        ),
        (
            "a fragmented message with an empty fragment",
            [frame(0x02, &[0xC0]), frame(0x00, &[]), frame(0x80, &[0])].concat(),
            vec![0xC0, 0],
            vec![],
        ),
        (
            "a ping between fragments",
            [frame(0x02, &[0xC0]), frame(0x89, b"hi"), frame(0x80, &[0])].concat(),
            vec![0xC0, 0],
            b"\x8A\x02hi".to_vec(),
        ),
        (
            "a pong nobody asked for",
            [frame(0x8A, b"hi"), frame(0x82, &[0xC0, 0])].concat(),
            vec![0xC0, 0],
            vec![],
        ),
        ("a long frame", frame(0x82, &long), long.clone(), vec![]),
        (
            "a close without a code, and what follows it",
            [frame(0x82, &[0xC0, 0]), frame(0x88, b""), frame(0x82, &[9])].concat(),
            vec![0xC0, 0],
            b"\x88\x00".to_vec(),
        ),
    ];
    for (name, stream, plain, answer) in cases {
        for piece_bytes in 1..=stream.len() {
            assert_eq!(
                take(&stream, piece_bytes),
                (plain.clone(), answer.clone(), None),
                "{name}, in pieces of {piece_bytes}"
            );
        }
    }
}

#[test]
fn a_frame_that_breaks_the_rules_is_refused_with_its_close_code() {
    let fragment = frame(0x02, &[0xC0]);
    let cases: [(&str, Vec<u8>, FrameRefusal, u16); 16] = [
        ("unmasked", vec![0x82, 0x01, 0x00], FrameRefusal::NotMasked, 1002),
        ("unmasked, header only", vec![0x82, 0x7F], FrameRefusal::NotMasked, 1002),
        ("RSV1", frame(0xC2, &[0]), FrameRefusal::ReservedBit, 1002),
        ("RSV1, first byte only", vec![0xC2], FrameRefusal::ReservedBit, 1002),
        ("RSV3", frame(0x92, &[0]), FrameRefusal::ReservedBit, 1002),
        ("text", frame(0x81, b"a"), FrameRefusal::Text, 1003),
        ("reserved data opcode", frame(0x83, b"a"), FrameRefusal::ReservedOpcode, 1002),
        ("reserved control opcode", frame(0x8B, b"a"), FrameRefusal::ReservedOpcode, 1002),
        ("continuation of nothing", frame(0x80, &[0]), FrameRefusal::OutOfSequence, 1002),
        (
            "message within a message",
            [fragment, frame(0x82, &[0])].concat(),
            FrameRefusal::OutOfSequence,
            1002,
        ),
        (
            "longest length there is, before any payload",
            b"\x82\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0\0\0\0".to_vec(),
            FrameRefusal::TooLong { bytes: u64::MAX, bytes_max: 1000 },
            1009,
        ),
        (
            "one byte too long",
            b"\x82\xFE\x03\xE9\0\0\0\0".to_vec(),
            FrameRefusal::TooLong { bytes: 1001, bytes_max: 1000 },
            1009,
        ),
        (
            "length in a longer form than needed",
            b"\x82\xFE\x00\x01\0\0\0\0".to_vec(),
            FrameRefusal::LengthNotMinimal,
            1002,
        ),
        ("fragmented ping", frame(0x09, b"hi"), FrameRefusal::Control, 1002),
        ("ping of 126 bytes", frame(0x89, &[0; 126]), FrameRefusal::Control, 1002),
        ("close with half a code", frame(0x88, &[3]), FrameRefusal::Close, 1002),
    ];
    for (name, stream, refusal, code) in cases {
        let close = [&[0x88, 0x02], code.to_be_bytes().as_slice()].concat();
        assert_eq!(
            take(&stream, stream.len()),
            (Vec::new(), close.clone(), Some(refusal)),
            "{name}"
        );
        let (_, answer, refused) = take(&stream, 1);
        assert_eq!((answer, refused), (close, Some(refusal)), "{name}, byte by byte");
    }
}

#[test]
fn a_close_frame_is_echoed_with_its_code_or_refused() {
    for (payload, answer) in [
        (&b"\x03\xE8"[..], &b"\x88\x02\x03\xE8"[..]),
        (b"\x03\xE9bye", b"\x88\x02\x03\xE9"),
        (b"\x0F\xA0", b"\x88\x02\x0F\xA0"),
        // 1005 is not for the wire; a reason is text.
        (b"\x03\xED", b"\x88\x02\x03\xEA"),
        (b"\x03\xE8\xFF", b"\x88\x02\x03\xEA"),
    ] {
        let (_, answered, _) = take(&frame(0x88, payload), 200);
        assert_eq!(answered, answer, "{payload:?}");
    }
}

#[test]
fn of_many_pings_in_one_read_the_last_is_answered() {
    let pings = [frame(0x89, b"1"), frame(0x89, b"2"), frame(0x89, b"3")].concat();
    assert_eq!(take(&pings, pings.len()).1, b"\x8A\x013");
}

#[test]
fn a_declared_length_allocates_nothing() {
    let mut frames = Frames::new(u64::MAX);
    let mut bytes = b"\x82\xFF\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0\0\0\0abc".to_vec();
    let capacity = bytes.capacity();
    frames.take(&mut bytes, 0, &mut Vec::new()).unwrap();
    assert_eq!(bytes, b"abc");
    assert_eq!(bytes.capacity(), capacity);
    assert_eq!(frames.control.capacity(), 0);
}

#[test]
fn a_batch_leaves_as_one_unmasked_binary_frame() {
    let frames = Frames::new(1);
    for (payload_bytes, header) in [
        (2, &b"\x82\x02"[..]),
        (125, b"\x82\x7D"),
        (126, b"\x82\x7E\x00\x7E"),
        (65_536, b"\x82\x7F\0\0\0\0\0\x01\0\0"),
    ] {
        let mut out = Vec::new();
        frames.put_header(payload_bytes, &mut out).unwrap();
        assert_eq!(out, header);
    }
}

#[test]
fn a_close_is_sent_once() {
    let mut frames = Frames::new(1);
    let mut out = Vec::new();
    frames.close(CloseCode::Away, &mut out);
    frames.close(CloseCode::Normal, &mut out);
    frames.take(&mut frame(0x88, b"\x03\xE9"), 0, &mut out).unwrap();
    assert_eq!(out, b"\x88\x02\x03\xE9");
}

proptest::proptest! {
    #[test]
    fn no_bytes_break_the_frame_layer(data: Vec<u8>) {
        fuzz_websocket_frames(&data);
    }
}
