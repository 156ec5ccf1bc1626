//! The data types of the wire: integers, variable byte integers, strings, binary data.
//!
//! Reading never goes past the bytes that are there, and never allocates: a declared length is
//! compared with what is left before anything is made of it.

use super::Violation;

/// The largest value of a variable byte integer (MQTT 5.0 section 1.5.5).
pub(crate) const VARINT_MAX: u32 = 268_435_455;

/// What is left to read of a packet's body.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything that is left.
    pub(crate) fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Refuses bytes after the last field.
    pub(crate) fn finish(self) -> Result<(), Violation> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(Violation::malformed("2.1.4", "a packet has bytes after its last field"))
    }

    #[inline]
    fn array<const N: usize>(&mut self, section: &'static str) -> Result<[u8; N], Violation> {
        let Some((head, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(ends_early(section));
        };
        self.rest = rest;
        Ok(*head)
    }

    #[inline]
    pub(crate) fn take(
        &mut self,
        bytes: usize,
        section: &'static str,
    ) -> Result<&'a [u8], Violation> {
        let Some((head, rest)) = self.rest.split_at_checked(bytes) else {
            return Err(ends_early(section));
        };
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, Violation> {
        self.array::<1>("1.5.1").map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, Violation> {
        self.array("1.5.2").map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, Violation> {
        self.array("1.5.3").map(u32::from_be_bytes)
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u32, Violation> {
        let (value, bytes) = decode_varint(self.rest)?.ok_or(ends_early("1.5.5"))?;
        self.take(bytes, "1.5.5")?;
        Ok(value)
    }

    #[inline]
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], Violation> {
        let bytes = self.u16()?;
        self.take(usize::from(bytes), "1.5.6")
    }

    /// A string that is well-formed UTF-8 [MQTT-1.5.4-1] and may still hold NUL: for callers
    /// that look at every character anyway.
    #[inline]
    pub(crate) fn utf8(&mut self) -> Result<&'a str, Violation> {
        std::str::from_utf8(self.binary()?)
            .map_err(|_| Violation::malformed("MQTT-1.5.4-1", "a string is not UTF-8"))
    }

    /// A UTF-8 encoded string. U+FEFF is kept [MQTT-1.5.4-3]; control characters and
    /// non-characters are accepted, as section 1.5.4 leaves open.
    #[inline]
    pub(crate) fn text(&mut self) -> Result<&'a str, Violation> {
        let text = self.utf8()?;
        if text.as_bytes().contains(&0) {
            return Err(Violation::malformed("MQTT-1.5.4-2", "a string holds NUL"));
        }
        Ok(text)
    }
}

#[cold]
const fn ends_early(section: &'static str) -> Violation {
    Violation::malformed(section, "a packet ends before its last field does")
}

/// The variable byte integer at the start of `bytes`, and how many bytes it takes. `None` when
/// more bytes have to arrive first.
#[inline]
pub(crate) fn decode_varint(bytes: &[u8]) -> Result<Option<(u32, usize)>, Violation> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            if byte == 0 && index > 0 {
                return Err(Violation::malformed(
                    "MQTT-1.5.5-1",
                    "a variable byte integer is longer than its value needs",
                ));
            }
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() < 4 {
        return Ok(None);
    }
    Err(Violation::malformed("1.5.5", "a variable byte integer has more than four bytes"))
}

/// How many bytes a variable byte integer takes.
pub(crate) const fn varint_bytes(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

/// Appends a variable byte integer; more than [`VARINT_MAX`] cannot be said and becomes it.
#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, value: usize) {
    let mut rest = u32::try_from(value).unwrap_or(VARINT_MAX).min(VARINT_MAX);
    while rest > 0x7F {
        let [.., low] = rest.to_be_bytes();
        out.push(low | 0x80);
        rest >>= 7;
    }
    let [.., low] = rest.to_be_bytes();
    out.push(low);
}

#[inline]
pub(crate) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// How many bytes binary data takes, its length included.
pub(crate) fn binary_bytes(data: &[u8]) -> usize {
    2 + fitting_data(data).len()
}

/// Appends binary data. Data longer than its length field can say is cut: the packet stays
/// well-formed whatever a caller puts into it.
#[inline]
pub(crate) fn put_binary(out: &mut Vec<u8>, data: &[u8]) {
    let data = fitting_data(data);
    put_u16(out, u16::try_from(data.len()).unwrap_or(u16::MAX));
    out.extend_from_slice(data);
}

/// How many bytes a string takes, its length included.
pub(crate) fn text_bytes(text: &str) -> usize {
    2 + fitting_text(text).len()
}

/// Appends a UTF-8 encoded string, cut as [`put_binary`] does, between two characters.
#[inline]
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_binary(out, fitting_text(text).as_bytes());
}

const LENGTH_MAX: usize = 65_535;

#[inline]
fn fitting_data(data: &[u8]) -> &[u8] {
    data.get(..LENGTH_MAX).unwrap_or(data)
}

#[inline]
fn fitting_text(text: &str) -> &str {
    if text.len() <= LENGTH_MAX {
        return text;
    }
    text.get(..text.floor_char_boundary(LENGTH_MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_byte_integer_has_one_to_four_bytes() {
        for (value, bytes) in [
            (0, &[0x00][..]),
            (127, &[0x7F]),
            (128, &[0x80, 0x01]),
            (16_383, &[0xFF, 0x7F]),
            (16_384, &[0x80, 0x80, 0x01]),
            (2_097_151, &[0xFF, 0xFF, 0x7F]),
            (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
            (VARINT_MAX, &[0xFF, 0xFF, 0xFF, 0x7F]),
        ] {
            let mut out = Vec::new();
            put_varint(&mut out, value as usize);
            assert_eq!(out, bytes);
            assert_eq!(varint_bytes(value as usize), bytes.len());
            assert_eq!(decode_varint(bytes), Ok(Some((value, bytes.len()))));
            for cut in 0..bytes.len() {
                assert_eq!(decode_varint(&bytes[..cut]), Ok(None));
            }
        }
    }

    #[test]
    fn a_variable_byte_integer_is_neither_padded_nor_longer_than_four_bytes() {
        for (bytes, statement) in [
            (&[0x80, 0x00][..], "MQTT-1.5.5-1"),
            (&[0xFF, 0x80, 0x00], "MQTT-1.5.5-1"),
            (&[0x80, 0x80, 0x80, 0x00], "MQTT-1.5.5-1"),
            (&[0x80, 0x80, 0x80, 0x80], "1.5.5"),
            (&[0xFF, 0xFF, 0xFF, 0xFF, 0x01], "1.5.5"),
        ] {
            assert_eq!(decode_varint(bytes).unwrap_err().statement, statement);
        }
    }

    #[test]
    fn a_value_too_large_for_a_variable_byte_integer_is_written_as_the_largest() {
        let mut out = Vec::new();
        put_varint(&mut out, usize::MAX);
        assert_eq!(out, [0xFF, 0xFF, 0xFF, 0x7F]);
    }

    #[test]
    fn a_string_is_well_formed_utf8_without_nul() {
        for (bytes, statement) in [
            (&[0x00, 0x01, 0xFF][..], "MQTT-1.5.4-1"),
            // Overlong NUL, a surrogate, a code point above U+10FFFF, a cut sequence.
            (&[0x00, 0x02, 0xC0, 0x80], "MQTT-1.5.4-1"),
            (&[0x00, 0x03, 0xED, 0xA0, 0x80], "MQTT-1.5.4-1"),
            (&[0x00, 0x04, 0xF4, 0x90, 0x80, 0x80], "MQTT-1.5.4-1"),
            (&[0x00, 0x01, 0xC3], "MQTT-1.5.4-1"),
            (&[0x00, 0x03, b'a', 0x00, b'b'], "MQTT-1.5.4-2"),
            (&[0x00, 0x02, b'a'], "1.5.6"),
            (&[0x00], "1.5.2"),
        ] {
            let violation = Reader::new(bytes).text().unwrap_err();
            assert_eq!(violation.statement, statement, "{bytes:?}");
        }
    }

    #[test]
    fn a_byte_order_mark_and_control_characters_are_kept() {
        let bytes = [0x00, 0x04, 0xEF, 0xBB, 0xBF, 0x07];
        assert_eq!(Reader::new(&bytes).text(), Ok("\u{FEFF}\u{7}"));
    }

    #[test]
    fn a_text_too_long_for_its_length_is_cut_between_characters() {
        let text = "é".repeat(40_000);
        let mut out = Vec::new();
        put_text(&mut out, &text);
        assert_eq!(out.len(), text_bytes(&text));
        let mut reader = Reader::new(&out);
        assert_eq!(reader.text().map(str::len), Ok(65_534));
        assert!(reader.is_empty());
    }
}
