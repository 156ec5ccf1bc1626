//! Text from outside, written so that it cannot act on a terminal or deceive whoever reads it.

/// True for a character that could act on a terminal or deceive a reader: controls, line
/// separators, direction marks, and what cannot be seen.
#[must_use]
pub(crate) const fn is_harmful(character: char) -> bool {
    matches!(
        character,
        '\u{00}'..='\u{1F}'
            | '\u{7F}'..='\u{9F}'
            | '\u{AD}'
            | '\u{61C}'
            | '\u{180E}'
            | '\u{200B}'..='\u{200F}'
            | '\u{2028}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}'
            | '\u{FEFF}'
            | '\u{FFF9}'..='\u{FFFB}'
            | '\u{E0000}'..='\u{E007F}'
    )
}

/// The text with nothing harmful in it; lines stay lines.
pub(crate) fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    for character in text.chars() {
        if is_harmful(character) && !matches!(character, '\n' | '\t') {
            harmless.extend(character.escape_unicode());
        } else {
            harmless.push(character);
        }
    }
    harmless
}

/// The text with a mark in place of whatever is harmful: every byte stays where it is, so that
/// what points into the text still points at the same. Lines stay lines, and tabs tabs.
pub(crate) fn masked(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    for character in text.chars() {
        if !is_harmful(character) || matches!(character, '\n' | '\t') {
            masked.push(character);
            continue;
        }
        masked.push_str(match character.len_utf8() {
            1 => "?",
            2 => "¿",
            3 => "\u{FFFD}",
            _ => "\u{FFFD}?",
        });
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_act_is_written_out() {
        assert_eq!(harmless("a\u{1b}[2J\n\u{202e}é"), "a\\u{1b}[2J\n\\u{202e}é");
    }

    #[test]
    fn a_masked_text_has_every_byte_in_its_place() {
        let text = "a\t\u{1b}\u{9b}\u{202e}\u{e0001}é\n";
        let masked = masked(text);
        assert_eq!(masked, "a\t?¿\u{FFFD}\u{FFFD}?é\n");
        assert_eq!(masked.len(), text.len());
    }
}
