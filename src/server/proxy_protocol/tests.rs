//! Tests of [`super`].

use std::io::Write;

use super::super::transport::testing::connected;
use super::*;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// 192.0.2.1:1024 to 192.0.2.2:8883.
const IPV4: &[u8] = &[192, 0, 2, 1, 192, 0, 2, 2, 4, 0, 0x22, 0xB3];

/// A header of version 2: command, family and transport, and what follows the length.
fn v2(command: u8, family: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, &body].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], length.as_slice(), value].concat()
}

fn ipv6(source: [u8; 16]) -> Vec<u8> {
    [&source[..], &[0; 16], &[4, 0, 0x22, 0xB3]].concat()
}

#[test]
#[expect(clippy::type_complexity, reason = "a table")]
fn a_header_says_whom_the_proxy_speaks_for() {
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 192, 0, 2, 1];
    let documentation = [0x20, 1, 0xD, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let verified = tlv(0x20, &[&[7, 0, 0, 0, 0][..], &tlv(0x22, b"device-1")].concat());
    let unverified = tlv(0x20, &[&[7, 0, 0, 0, 1][..], &tlv(0x22, b"device-1")].concat());
    let flagged =
        |client: u8| tlv(0x20, &[&[client, 0, 0, 0, 0][..], &tlv(0x22, b"device-1")].concat());
    let (no_tls, no_certificate, by_session) = (flagged(6), flagged(1), flagged(5));
    let cases: [(&str, Vec<u8>, Option<&str>, Option<&str>); 17] = [
        (
            "v1 IPv4",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1024 8883\r\n".to_vec(),
            Some("192.0.2.1:1024"),
            None,
        ),
        (
            "v1 IPv6",
            b"PROXY TCP6 2001:db8::1 ::1 1024 8883\r\n".to_vec(),
            Some("[2001:db8::1]:1024"),
            None,
        ),
        (
            "v1 mapped address",
            b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1024 8883\r\n".to_vec(),
            Some("192.0.2.1:1024"),
            None,
        ),
        ("v1 unknown", b"PROXY UNKNOWN\r\n".to_vec(), None, None),
        (
            "v1 unknown with more",
            b"PROXY UNKNOWN ffff::1 ffff::1 65535 65535\r\n".to_vec(),
            None,
            None,
        ),
        ("v2 IPv4", v2(0x21, 0x11, &[IPV4]), Some("192.0.2.1:1024"), None),
        ("v2 IPv6", v2(0x21, 0x21, &[&ipv6(documentation)]), Some("[2001:db8::1]:1024"), None),
        ("v2 mapped address", v2(0x21, 0x21, &[&ipv6(mapped)]), Some("192.0.2.1:1024"), None),
        ("v2 local", v2(0x20, 0x00, &[]), None, None),
        ("v2 local with an address", v2(0x20, 0x11, &[IPV4]), None, None),
        ("v2 of no family", v2(0x21, 0x00, &[]), None, None),
        (
            "v2 with a verified common name",
            v2(0x21, 0x11, &[IPV4, &verified]),
            Some("192.0.2.1:1024"),
            Some("device-1"),
        ),
        (
            "v2 with a common name that was not verified",
            v2(0x21, 0x11, &[IPV4, &unverified]),
            Some("192.0.2.1:1024"),
            None,
        ),
        (
            "v2 with a common name and no TLS",
            v2(0x21, 0x11, &[IPV4, &no_tls]),
            Some("192.0.2.1:1024"),
            None,
        ),
        (
            "v2 with a common name and no certificate",
            v2(0x21, 0x11, &[IPV4, &no_certificate]),
            Some("192.0.2.1:1024"),
            None,
        ),
        (
            "v2 with a common name of a session that is resumed",
            v2(0x21, 0x11, &[IPV4, &by_session]),
            Some("192.0.2.1:1024"),
            Some("device-1"),
        ),
        (
            "v2 with a TLV of no interest",
            v2(0x21, 0x11, &[IPV4, &tlv(0x04, &[0; 7])]),
            Some("192.0.2.1:1024"),
            None,
        ),
    ];
    for (name, header, source, common_name) in cases {
        let done = Progress::Done {
            source: source.map(|source| source.parse().unwrap()),
            common_name: common_name.map(str::to_owned),
            header_bytes: header.len(),
        };
        for end in 0..header.len() {
            let part = header.get(..end).unwrap();
            assert_eq!(parse(part), Ok(Progress::NeedMore), "{name}, {end} bytes");
        }
        let followed = [&header[..], b"\x10\x0C\0\x04MQTT"].concat();
        assert_eq!(parse(&followed), Ok(done), "{name}");
    }
}

#[test]
fn what_is_no_header_is_refused() {
    let too_long_v1 = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100]].concat();
    let truncated_tlv = v2(0x21, 0x11, &[IPV4, &[0x20, 0, 9, 1]]);
    let short_ssl = v2(0x21, 0x11, &[IPV4, &tlv(0x20, &[1, 0, 0])]);
    let two_names = tlv(0x20, &[&[7, 0, 0, 0, 0][..], &tlv(0x22, b"a"), &tlv(0x22, b"b")].concat());
    let no_text = tlv(0x20, &[&[7, 0, 0, 0, 0][..], &tlv(0x22, b"\xFF")].concat());
    let cases: [(&str, Vec<u8>, ProxyRefusal); 18] = [
        ("MQTT", b"\x10\x0C\0\x04MQTT".to_vec(), ProxyRefusal::Missing),
        ("a ClientHello", b"\x16\x03\x01".to_vec(), ProxyRefusal::Missing),
        ("PROXX", b"PROXX".to_vec(), ProxyRefusal::Missing),
        ("lower case", b"proxy TCP4".to_vec(), ProxyRefusal::Missing),
        ("v1 too long", too_long_v1, ProxyRefusal::TooLong { bytes_max: 107 }),
        ("v1 for UDP", b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), ProxyRefusal::Malformed),
        (
            "v1 with an address of the other family",
            b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(),
            ProxyRefusal::Malformed,
        ),
        (
            "v1 with a port that is none",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n".to_vec(),
            ProxyRefusal::Malformed,
        ),
        (
            "v1 with a bare CR",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\rx".to_vec(),
            ProxyRefusal::Malformed,
        ),
        ("v2 of another version", v2(0x31, 0x11, &[IPV4]), ProxyRefusal::Malformed),
        ("v2 with another command", v2(0x22, 0x11, &[IPV4]), ProxyRefusal::Malformed),
        ("v2 too short for its family", v2(0x21, 0x21, &[IPV4]), ProxyRefusal::Malformed),
        ("v2 for UDP", v2(0x21, 0x12, &[IPV4]), ProxyRefusal::NotTcp),
        ("v2 for a Unix socket", v2(0x21, 0x31, &[&[0; 216]]), ProxyRefusal::NotTcp),
        (
            "v2 too long, before its body",
            [SIGNATURE, &[0x21, 0x11, 0x02, 0x09]].concat(),
            ProxyRefusal::TooLong { bytes_max: 536 },
        ),
        ("v2 with a truncated TLV", truncated_tlv, ProxyRefusal::Malformed),
        ("v2 with a short SSL TLV", short_ssl, ProxyRefusal::Malformed),
        ("v2 with two common names", v2(0x21, 0x11, &[IPV4, &two_names]), ProxyRefusal::Malformed),
    ];
    for (name, bytes, refusal) in cases {
        assert_eq!(parse(&bytes), Err(refusal), "{name}");
    }
    let header = v2(0x21, 0x11, &[IPV4, &no_text]);
    assert_eq!(parse(&header), Err(ProxyRefusal::Malformed));
}

#[tokio::test]
async fn what_follows_the_header_is_handed_on() {
    let (mut socket, mut peer) = connected();
    peer.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 1024 8883\r\n\x10\x0C").unwrap();
    let announced = read_header(&mut socket).await.unwrap();
    assert_eq!(announced.source, Some("192.0.2.1:1024".parse().unwrap()));
    assert_eq!(announced.rest, [0x10, 0x0C]);
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte() {
    let (mut socket, mut peer) = connected();
    let header = v2(0x21, 0x11, &[IPV4]);
    let sender = std::thread::spawn(move || {
        for byte in header {
            peer.write_all(&[byte]).unwrap();
        }
        peer
    });
    let announced = read_header(&mut socket).await.unwrap();
    assert_eq!(announced.source, Some("192.0.2.1:1024".parse().unwrap()));
    drop(sender.join().unwrap());
}

#[tokio::test]
async fn a_connection_that_ends_within_the_header_is_refused() {
    let (mut socket, mut peer) = connected();
    peer.write_all(b"PROXY TCP4").unwrap();
    drop(peer);
    assert!(matches!(read_header(&mut socket).await, Err(ProxyFailure::Ended)));
}

proptest::proptest! {
    #[test]
    fn no_bytes_break_the_parser(tail: Vec<u8>, version: bool) {
        let prefix = if version { SIGNATURE } else { V1_PREFIX };
        fuzz_proxy_header(&tail);
        fuzz_proxy_header(&[prefix, &tail].concat());
    }
}
