//! Rules by which a device is approved without anybody looking.

use std::sync::Arc;

use crate::identity::CertificateFacts;

/// Whom a rule approves: all that it names has to fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The SHA-256 of the public key of the authority that issued the certificate, lower-case hex.
    pub issuer: Option<Arc<str>>,
    /// The name of the principal, in which each `*` stands for any text.
    pub name: Arc<str>,
}

impl Rule {
    /// Whether it approves a certificate for this name.
    #[must_use]
    pub fn approves(&self, name: &str, certificate: &CertificateFacts) -> bool {
        let is_issuer = self.issuer.as_ref().is_none_or(|issuer| *issuer == certificate.issuer);
        is_issuer && fits(&self.name, name)
    }
}

/// Whether a name fits a pattern. Each `*` takes as little as it can, which finds a fit wherever
/// there is one: only the last one has to reach the end.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').map_or((None, rest), |(m, last)| (Some(m), last));
    for part in middle.into_iter().flat_map(|middle| middle.split('*')) {
        let Some((_, behind)) = left.split_once(part) else { return false };
        left = behind;
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, is_fit) in [
            ("sensor-*", "sensor-7", true),
            ("sensor-*", "sensor-", true),
            ("sensor-*", "xsensor-7", false),
            ("sensor-7", "sensor-7", true),
            ("sensor-7", "sensor-77", false),
            ("*-7", "a-7-7", true),
            ("a*a", "a", false),
            ("a*b*c", "abbc", true),
            ("a*b*c", "acb", false),
            ("a*b*b", "ab", false),
            ("*", "", true),
            ("**", "x", true),
            ("a**b", "ab", true),
        ] {
            assert_eq!(fits(pattern, name), is_fit, "{pattern} {name}");
        }
    }
}
