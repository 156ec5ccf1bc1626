//! The bodies of EST: base64 around what others encode (RFC 7030, RFC 8951).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cms::content_info::ContentInfo;
use der::asn1::ObjectIdentifier;
use der::{Decode as _, Encode as _};
use x509_cert::Certificate;

/// Characters of a line of base64, as MIME has them.
const LINE_CHARACTERS: usize = 76;
/// What a request should be signed with: `ecdsa-with-SHA256` (RFC 5912).
const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");

/// Certificates as a certs-only message (RFC 7030, section 4.1.3), each once.
///
/// # Errors
/// When one of them is none.
pub(super) fn certificates(ders: &[&[u8]]) -> Result<String, der::Error> {
    let mut all: Vec<Certificate> = Vec::new();
    for der in ders {
        let certificate = Certificate::from_der(der)?;
        if !all.contains(&certificate) {
            all.push(certificate);
        }
    }
    Ok(lines(&ContentInfo::try_from(all)?.to_der()?))
}

/// What a request should have (RFC 7030, section 4.5.2). The names are the client's own affair.
///
/// # Errors
/// Never, but that DER is written by a function that can fail.
pub(super) fn attributes() -> Result<String, der::Error> {
    Ok(lines(&vec![ECDSA_WITH_SHA256].to_der()?))
}

/// What is in the body of a request: PKCS#10, in base64 as RFC 8951 has it, or as it is. `None`: it
/// is neither.
pub(super) fn request(body: &[u8]) -> Option<Vec<u8>> {
    let is_pem = body.windows(10).any(|window| window == b"-----BEGIN");
    if is_pem || !body.is_ascii() {
        return Some(body.to_vec());
    }
    let text: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(text).ok().filter(|der| !der.is_empty())
}

fn lines(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut lines = String::with_capacity(text.len() + text.len() / LINE_CHARACTERS + 1);
    for (at, character) in text.chars().enumerate() {
        if at > 0 && at % LINE_CHARACTERS == 0 {
            lines.push('\n');
        }
        lines.push(character);
    }
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_in_base64_with_and_without_lines_and_as_it_is() {
        assert_eq!(request(b"AQID\r\nBA==\r\n").unwrap(), [1, 2, 3, 4]);
        assert_eq!(request(b"AQIDBA==").unwrap(), [1, 2, 3, 4]);
        assert_eq!(request(&[0x30, 0x82, 1, 0]).unwrap(), [0x30, 0x82, 1, 0]);
        let pem = b"-----BEGIN CERTIFICATE REQUEST-----\n";
        assert_eq!(request(pem).unwrap(), pem);
        for garbage in [&b"not base64!"[..], b"", b"\n", b"A"] {
            assert_eq!(request(garbage), None);
        }
    }
}
