//! How values from outside are written: bounded in length, and harmless where they are shown.

use std::fmt::Display;
use std::io;
use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::ser::Formatter;

use crate::harmless::is_harmful;
use crate::identity::PrincipalKind;
use crate::mqtt::ReasonCode;

/// Bytes of a topic or filter.
pub(super) const TOPIC_BYTES_MAX: usize = 1_024;
/// Bytes of a client identifier, the name of a principal or group, or a certificate's field.
pub(super) const NAME_BYTES_MAX: usize = 512;
/// Bytes of a hash, a policy id, or a listener's name.
pub(super) const SHORT_BYTES_MAX: usize = 128;
/// Bytes of an explanation.
pub(super) const WORDS_BYTES_MAX: usize = 1_024;
/// Policy ids of one event.
pub(super) const POLICIES_MAX: usize = 32;

/// A text that is cut at a bound, and says so where it was.
pub(super) struct Bounded<'a>(pub(super) &'a str, pub(super) usize);

impl Serialize for Bounded<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(text, bytes_max) = *self;
        if text.len() <= bytes_max {
            return serializer.serialize_str(text);
        }
        let (head, _) = text.split_at(text.floor_char_boundary(bytes_max));
        serializer.collect_str(&format_args!("{head}…[cut, {} bytes]", text.len()))
    }
}

/// True for what [`Bounded`] writes of a text that it cuts.
pub(super) fn is_cut(text: &str) -> bool {
    text.ends_with(" bytes]") && text.contains("…[cut, ")
}

pub(super) fn topic<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    Bounded(text, TOPIC_BYTES_MAX).serialize(serializer)
}

pub(super) fn name<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    Bounded(text, NAME_BYTES_MAX).serialize(serializer)
}

#[expect(clippy::ref_option, reason = "serde passes fields by reference")]
pub(super) fn optional_name<S: Serializer>(
    text: &Option<Arc<str>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    text.as_ref().map(|text| Bounded(text, NAME_BYTES_MAX)).serialize(serializer)
}

pub(super) fn short<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    Bounded(text, SHORT_BYTES_MAX).serialize(serializer)
}

pub(super) fn words<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    Bounded(text, WORDS_BYTES_MAX).serialize(serializer)
}

pub(super) fn display<S: Serializer>(
    value: &impl Display,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

pub(super) fn policies<S: Serializer>(
    ids: &Arc<[Arc<str>]>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(ids.iter().take(POLICIES_MAX).map(|id| Bounded(id, SHORT_BYTES_MAX)))
}

/// `{"code":135,"name":"Not authorized"}`
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
pub(super) fn reason<S: Serializer>(reason: &ReasonCode, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(2))?;
    map.serialize_entry("code", &reason.as_u8())?;
    map.serialize_entry("name", reason.name())?;
    map.end()
}

/// `{"type":"Device","id":"pump-7"}`, as Cedar writes an entity in JSON.
pub(super) struct Principal<'a>(pub(super) &'a (PrincipalKind, Arc<str>));

impl Serialize for Principal<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self((kind, name)) = self;
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("type", kind.as_str())?;
        map.serialize_entry("id", &Bounded(name, NAME_BYTES_MAX))?;
        map.end()
    }
}

pub(super) fn principal<S: Serializer>(
    principal: &(PrincipalKind, Arc<str>),
    serializer: S,
) -> Result<S::Ok, S::Error> {
    Principal(principal).serialize(serializer)
}

/// JSON without spaces, in which every character is escaped that could act on a terminal, a
/// page or a reader's eye: controls, line separators, direction marks, invisible characters,
/// and what opens a tag or an entity.
pub(super) struct Harmless;

impl Formatter for Harmless {
    // serde_json calls this for the stretches between what JSON itself makes it escape.
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, character)) = rest.char_indices().find(|(_, c)| is_escaped(*c)) {
            let (safe, tail) = rest.split_at(at);
            writer.write_all(safe.as_bytes())?;
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = tail.get(character.len_utf8()..).unwrap_or_default();
        }
        writer.write_all(rest.as_bytes())
    }
}

const fn is_escaped(character: char) -> bool {
    matches!(character, '<' | '>' | '&') || is_harmful(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        let mut line = Vec::new();
        let mut serializer = serde_json::Serializer::with_formatter(&mut line, Harmless);
        text.serialize(&mut serializer).unwrap();
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn what_could_act_where_it_is_shown_is_escaped() {
        for (text, line) in [
            ("plain/ünï/日本", r#""plain/ünï/日本""#),
            ("a\nb\rc\td", r#""a\nb\rc\td""#),
            ("\u{1b}[31mred\u{7}", r#""\u001b[31mred\u0007""#),
            ("quote\" back\\slash", r#""quote\" back\\slash""#),
            ("\u{7f}\u{80}\u{9b}31m\u{9f}", r#""\u007f\u0080\u009b31m\u009f""#),
            ("line\u{2028}paragraph\u{2029}", r#""line\u2028paragraph\u2029""#),
            ("\u{202a}\u{202e}\u{2066}\u{2069}", r#""\u202a\u202e\u2066\u2069""#),
            ("\u{200e}\u{200f}\u{61c}\u{feff}", r#""\u200e\u200f\u061c\ufeff""#),
            ("tag\u{e0041}", r#""tag\udb40\udc41""#),
            ("<script>&amp;", r#""\u003cscript\u003e\u0026amp;""#),
            ("\u{a0}\u{2027}\u{202f}\u{2070}", "\"\u{a0}\u{2027}\u{202f}\u{2070}\""),
        ] {
            assert_eq!(written(text), line);
            assert_eq!(serde_json::from_str::<String>(line).unwrap(), text, "the same text");
        }
    }

    #[test]
    fn no_harmful_character_is_ever_written_as_itself() {
        for character in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
            if character.is_control() || is_escaped(character) {
                let line = written(&character.to_string());
                assert!(line.is_ascii(), "{line}");
            }
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_says_how_long_it_was() {
        let text = "€".repeat(4);
        let cut = serde_json::to_string(&Bounded(&text, 7)).unwrap();
        assert_eq!(cut, "\"€€…[cut, 12 bytes]\"");
        let whole = serde_json::to_string(&Bounded(&text, 12)).unwrap();
        assert_eq!(whole, "\"€€€€\"");
        let read = |json: &str| serde_json::from_str::<String>(json).unwrap();
        assert!(is_cut(&read(&cut)) && !is_cut(&read(&whole)));
    }
}
