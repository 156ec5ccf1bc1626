//! The fields of a certificate that can confer a group, and the patterns their values are
//! compared with.

use std::borrow::Cow;
use std::sync::Arc;

use super::CertificateFacts;
use super::certificate::{ALTERNATIVE_NAME_BYTES_MAX, ORGANIZATIONAL_UNIT_BYTES_MAX};
use crate::pki::unsafe_character;

/// Bytes of a DNS name (RFC 1035 section 3.1).
const DNS_NAME_BYTES_MAX: usize = 253;
/// Wildcards in one pattern.
const WILDCARDS_MAX: usize = 8;

/// A field of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Field {
    /// An organizational unit of the subject, compared exactly.
    OrganizationalUnit,
    /// A URI among the alternative names. A `*` stands for one or more characters of a segment:
    /// no `/ ? # %`, and no segment that is `.` or `..`.
    SanUri,
    /// A DNS name among the alternative names. A `*` stands for one or more characters but `.`.
    SanDns,
}

impl Field {
    pub(crate) const ALL: [Self; 3] = [Self::OrganizationalUnit, Self::SanUri, Self::SanDns];

    /// The key in the file, and its name in the audit log.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::OrganizationalUnit => "organizational_unit",
            Self::SanUri => "san_uri",
            Self::SanDns => "san_dns",
        }
    }

    /// What a certificate has there. A DNS name with a wildcard stands for many names, so it
    /// proves none.
    pub(crate) fn values(self, certificate: &CertificateFacts) -> impl Iterator<Item = &Arc<str>> {
        let values = match self {
            Self::OrganizationalUnit => &certificate.organizational_units,
            Self::SanUri => &certificate.uris,
            Self::SanDns => &certificate.dns_names,
        };
        values.iter().filter(move |value| self != Self::SanDns || !value.contains('*'))
    }

    /// The form in which values and patterns are compared: DNS names know no case.
    pub(crate) fn comparable(self, text: &str) -> Cow<'_, str> {
        if self == Self::SanDns && text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(text.to_ascii_lowercase())
        } else {
            Cow::Borrowed(text)
        }
    }

    /// Whether a value matches a pattern, both comparable.
    pub(crate) fn matches(self, pattern: &str, value: &str) -> bool {
        let separator = match self {
            Self::OrganizationalUnit => return pattern == value,
            Self::SanUri => '/',
            Self::SanDns => '.',
        };
        let (mut patterns, mut parts) = (pattern.split(separator), value.split(separator));
        loop {
            match (patterns.next(), parts.next()) {
                (None, None) => return true,
                (Some(pattern), Some(part))
                    if part_matches(pattern, part)
                        && (self != Self::SanUri || is_plain(pattern, part)) => {}
                _ => return false,
            }
        }
    }

    /// Refuses a pattern that cannot match, or that would match what nobody meant.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub(crate) fn check(self, pattern: &str) -> Result<(), (String, &'static str)> {
        let bytes_max = match self {
            Self::OrganizationalUnit => ORGANIZATIONAL_UNIT_BYTES_MAX,
            Self::SanUri => ALTERNATIVE_NAME_BYTES_MAX,
            Self::SanDns => DNS_NAME_BYTES_MAX,
        };
        if pattern.is_empty() {
            return Err(("it is empty".to_owned(), "write the value that a certificate has"));
        }
        if pattern.len() > bytes_max {
            let message = format!("it has {} bytes; {bytes_max} are allowed", pattern.len());
            return Err((message, "no certificate has so long a value; shorten it"));
        }
        match self {
            Self::OrganizationalUnit => check_unit(pattern),
            Self::SanUri => check_wildcards(pattern).and_then(|()| check_uri(pattern)),
            Self::SanDns => check_wildcards(pattern).and_then(|()| check_dns(pattern)),
        }
    }
}

/// Whether wildcards stand for nothing that changes what a URI means: what is beyond its path,
/// what is written in another way, or a step to another folder.
fn is_plain(pattern: &str, part: &str) -> bool {
    let as_often = |mark: char| pattern.matches(mark).count() == part.matches(mark).count();
    pattern == part || (!matches!(part, "." | "..") && ['?', '#', '%'].into_iter().all(as_often))
}

/// Whether one part between separators matches; each `*` takes at least one character.
pub(super) fn part_matches(pattern: &str, part: &str) -> bool {
    let Some((prefix, rest)) = pattern.split_once('*') else { return pattern == part };
    let Some(mut left) = part.strip_prefix(prefix) else { return false };
    let (between, suffix) = match rest.rsplit_once('*') {
        Some((between, suffix)) => (Some(between), suffix),
        None => (None, rest),
    };
    // What is found as early as possible leaves the most for what follows.
    for literal in between.into_iter().flat_map(|between| between.split('*')) {
        let mut characters = left.chars();
        characters.next();
        let Some((_, after)) = characters.as_str().split_once(literal) else { return false };
        left = after;
    }
    left.strip_suffix(suffix).is_some_and(|taken| !taken.is_empty())
}

fn check_unit(unit: &str) -> Result<(), (String, &'static str)> {
    if unit.contains('*') {
        return Err((
            "an organizational unit is compared exactly, and `*` is no wildcard in it".to_owned(),
            "write an entry for each unit",
        ));
    }
    match unsafe_character(unit) {
        Some(character) => Err((
            format!("it has the character U+{:04X}", u32::from(character)),
            "remove it; a certificate with it is refused",
        )),
        None => Ok(()),
    }
}

fn check_wildcards(pattern: &str) -> Result<(), (String, &'static str)> {
    if pattern.contains("**") {
        let message = "`**` means nothing here".to_owned();
        return Err((
            message,
            "one `*` never crosses a separator; write out how many parts follow",
        ));
    }
    if pattern.matches('*').count() > WILDCARDS_MAX {
        let message = format!("it has more than {WILDCARDS_MAX} wildcards");
        return Err((message, "write several entries"));
    }
    Ok(())
}

fn check_uri(pattern: &str) -> Result<(), (String, &'static str)> {
    if !pattern.chars().all(|character| character.is_ascii_graphic()) {
        let message = "a URI has visible ASCII characters only".to_owned();
        return Err((message, "write others percent-encoded, as certificates have them"));
    }
    let scheme_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    match pattern.split_once(':') {
        Some((scheme, rest))
            if !scheme.is_empty() && !rest.is_empty() && scheme.bytes().all(scheme_byte) =>
        {
            Ok(())
        }
        _ => Err((
            "a URI begins with a scheme, and no wildcard stands for it".to_owned(),
            "write it like spiffe://plant/ops/*",
        )),
    }
}

fn check_dns(pattern: &str) -> Result<(), (String, &'static str)> {
    let remedy = "write it like *.ops.example";
    let label_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-_*".contains(&byte);
    let mut labels = pattern.split('.');
    if !labels.all(|label| !label.is_empty() && label.bytes().all(label_byte)) {
        return Err(("it is no DNS name".to_owned(), remedy));
    }
    if !pattern.bytes().any(|byte| byte.is_ascii_alphanumeric()) {
        return Err(("it matches every name of so many labels".to_owned(), remedy));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_takes_one_or_more_characters_and_never_a_separator() {
        for (field, pattern, value, matched) in [
            (Field::SanUri, "spiffe://plant/ops/*", "spiffe://plant/ops/ann", true),
            (Field::SanUri, "spiffe://plant/ops/*", "spiffe://plant/ops/", false),
            (Field::SanUri, "spiffe://plant/ops/*", "spiffe://plant/ops", false),
            (Field::SanUri, "spiffe://plant/ops/*", "spiffe://plant/ops/a/b", false),
            (Field::SanUri, "spiffe://plant/ops/*", "spiffe://plant/ops/a/", false),
            (Field::SanUri, "spiffe://plant/ops/*", "spiffe://plant/OPS/ann", false),
            (Field::SanUri, "spiffe://plant/ops/*", "xspiffe://plant/ops/ann", false),
            (Field::SanUri, "spiffe://plant/ops/*", "spiffe://plant/dev/ops/ann", false),
            (Field::SanUri, "spiffe://plant/ops/*", "spiffe://plant/ops/*", true),
            (Field::SanUri, "spiffe://plant/ops/*", "spiffe://plant/ops/..", false),
            (Field::SanUri, "spiffe://plant/ops/*", "spiffe://plant/ops/.", false),
            (Field::SanUri, "spiffe://plant/ops/*", "spiffe://plant/ops/a?x=b", false),
            (Field::SanUri, "spiffe://plant/ops/*", "spiffe://plant/ops/a#f", false),
            (Field::SanUri, "spiffe://plant/ops/*", "spiffe://plant/ops/%2e%2e", false),
            (Field::SanUri, "spiffe://plant/ops/*", "spiffe://plant/ops/a%2fb", false),
            (Field::SanUri, "spiffe://plant/ops/*", "spiffe://plant/ops/a.b", true),
            (Field::SanUri, "u:x?id=*", "u:x?id=7", true),
            (Field::SanUri, "spiffe://*/ops/x", "spiffe://a.b/ops/x", true),
            (Field::SanUri, "spiffe://*/ops/x", "spiffe:///ops/x", false),
            (Field::SanUri, "spiffe://*/ops/x", "spiffe://a/b/ops/x", false),
            (Field::SanUri, "u:a*b*c", "u:axbxc", true),
            (Field::SanUri, "u:a*b*c", "u:abxc", false),
            (Field::SanUri, "u:a*b*c", "u:axbc", false),
            (Field::SanUri, "u:a*b*c", "u:abbbc", true),
            (Field::SanUri, "u:a*b*c", "u:axbxcx", false),
            (Field::SanUri, "u:*aa", "u:aa", false),
            (Field::SanUri, "u:*aa", "u:aaa", true),
            (Field::SanUri, "u:a*a", "u:aa", false),
            (Field::SanDns, "*.ops.example", "ann.ops.example", true),
            (Field::SanDns, "*.ops.example", "ops.example", false),
            (Field::SanDns, "*.ops.example", ".ops.example", false),
            (Field::SanDns, "*.ops.example", "a.b.ops.example", false),
            (Field::SanDns, "*.ops.example", "ann.ops.example.", false),
            (Field::SanDns, "*.ops.example", "ann.ops.example.evil.test", false),
            (Field::SanDns, "*.ops.example", "annxopsxexample", false),
            (Field::SanDns, "pump-*.ops.example", "pump-7.ops.example", true),
            (Field::SanDns, "pump-*.ops.example", "pump-.ops.example", false),
            (Field::OrganizationalUnit, "Operators", "Operators", true),
            (Field::OrganizationalUnit, "Operators", "operators", false),
            (Field::OrganizationalUnit, "Operators", "Operators ", false),
        ] {
            assert_eq!(field.matches(pattern, value), matched, "{pattern} {value}");
        }
    }

    #[test]
    fn every_pattern_is_matched_as_by_trying_every_split() {
        /// Tries every length for every `*`.
        fn tries(pattern: &[u8], part: &[u8]) -> bool {
            match pattern.split_first() {
                None => part.is_empty(),
                Some((b'*', rest)) => (1..=part.len()).any(|taken| tries(rest, &part[taken..])),
                Some((byte, rest)) => part.first() == Some(byte) && tries(rest, &part[1..]),
            }
        }
        let words = |letters: &[u8], longest: u32| -> Vec<Vec<u8>> {
            let count = letters.len();
            (0..=longest)
                .flat_map(|length| {
                    (0..count.pow(length)).map(move |number| {
                        let digit = |at| letters[number / count.pow(at) % count];
                        (0..length).map(digit).collect()
                    })
                })
                .collect()
        };
        for pattern in words(b"ab*", 5) {
            let text = std::str::from_utf8(&pattern).unwrap();
            if text.contains("**") {
                continue;
            }
            for part in words(b"ab", 6) {
                let value = std::str::from_utf8(&part).unwrap();
                assert_eq!(part_matches(text, value), tries(&pattern, &part), "{text} {value}");
            }
        }
    }
}
