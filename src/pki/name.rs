//! Names that go into certificates, each by its rule.

use std::net::IpAddr;

use rcgen::SanType;
use rustls::pki_types::DnsName;

/// Bytes of a name; RFC 5280's upper bound of a common name.
const NAME_BYTES_MAX: usize = 64;
/// Bytes of a URI; what SPIFFE allows.
const URI_BYTES_MAX: usize = 2048;
/// Bytes of a trust domain; what SPIFFE allows.
const DOMAIN_BYTES_MAX: usize = 255;
/// Bytes of an address of e-mail; what SMTP allows.
const EMAIL_BYTES_MAX: usize = 254;
/// Alternative names of one certificate.
const ALTERNATIVE_NAMES_MAX: usize = 64;

/// What a name may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NameRule {
    /// An identity that may fill one topic level: without `/ + #`, not beginning with `$`.
    Client,
    /// A host name or an IP address.
    Host,
    /// Any text without unsafe characters.
    Text,
}

/// The form of an alternative name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlternativeForm {
    /// A DNS name.
    Dns,
    /// An IP address.
    Ip,
    /// A URI, SPIFFE IDs among them.
    Uri,
    /// A SPIFFE ID, and no other URI.
    Spiffe,
    /// An address of e-mail.
    Email,
}

impl std::fmt::Display for AlternativeForm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Dns => "DNS names",
            Self::Ip => "IP addresses",
            Self::Uri => "URIs",
            Self::Spiffe => "SPIFFE IDs",
            Self::Email => "addresses of e-mail",
        })
    }
}

/// Why a name is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is none.
    #[error("the name is empty")]
    Empty,
    /// It is too long.
    #[error("the name has {bytes} bytes; {bytes_max} are allowed")]
    TooLong {
        /// Its size.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// What is read from a table or a form loses its blanks at either end, and nobody sees them.
    #[error("the name {name:?} begins or ends with a blank, which nobody sees; leave it out")]
    Blank {
        /// The name.
        name: String,
    },
    /// A character cannot be in a name.
    #[error("the name contains the character U+{:04X}, which no name may", u32::from(*character))]
    Unsafe {
        /// The first such character.
        character: char,
    },
    /// A character has a meaning in topics.
    #[error("the name contains `{character}`, which has a meaning in MQTT topics")]
    TopicCharacter {
        /// The first such character.
        character: char,
    },
    /// It begins like the broker's own topics.
    #[error("the name begins with `$`, like the broker's own topics")]
    BeginsWithDollar,
    /// It is neither a host name nor an address.
    #[error("`{name}` is neither a host name nor an IP address")]
    NotAHost {
        /// The name.
        name: String,
    },
    /// An alternative name is not a DNS name.
    #[error("`{name}` is not a DNS name")]
    NotADnsName {
        /// The name.
        name: String,
    },
    /// An alternative name is not a URI.
    #[error("`{uri}` is not a URI: it needs a scheme, visible ASCII only and at most 2048 bytes")]
    NotAUri {
        /// The text.
        uri: String,
    },
    /// A URI of the scheme `spiffe` is no SPIFFE ID.
    #[error(
        "`{uri}` is not a SPIFFE ID: it is spiffe://TRUST-DOMAIN/PATH, the domain of a-z 0-9 . - _, the parts of the path of letters, digits, . - _, without ports, queries, `.`, `..` and empty parts"
    )]
    NotASpiffeId {
        /// The text.
        uri: String,
    },
    /// An alternative name is no address of e-mail.
    #[error("`{address}` is not an address of e-mail in plain ASCII")]
    NotAnEmail {
        /// The text.
        address: String,
    },
    /// SPIFFE allows one ID per certificate.
    #[error("a certificate may have one SPIFFE ID only")]
    SeveralSpiffeIds,
    /// The profile does not have this form.
    #[error("the profile does not allow {form} as alternative names")]
    FormNotAllowed {
        /// The form.
        form: AlternativeForm,
    },
    /// There are too many.
    #[error("{names} alternative names; {names_max} are allowed")]
    TooMany {
        /// How many.
        names: usize,
        /// The bound.
        names_max: usize,
    },
}

/// The first character of `text` that no name needs: a control character, an invisible one, or
/// one that reorders what is shown, so that two names look alike.
#[must_use]
pub fn unsafe_character(text: &str) -> Option<char> {
    text.chars().find(|character| {
        character.is_control()
            || matches!(character,
                '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    })
}

impl NameRule {
    /// Refuses a name against this rule.
    ///
    /// # Errors
    /// Which rule it breaks.
    pub fn check(self, name: &str) -> Result<(), NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong { bytes: name.len(), bytes_max: NAME_BYTES_MAX });
        }
        if let Some(character) = unsafe_character(name) {
            return Err(NameError::Unsafe { character });
        }
        if name.trim() != name {
            return Err(NameError::Blank { name: name.to_owned() });
        }
        match self {
            Self::Text => Ok(()),
            Self::Client => check_client_name(name),
            Self::Host if is_host(name) => Ok(()),
            Self::Host => Err(NameError::NotAHost { name: name.to_owned() }),
        }
    }
}

fn check_client_name(name: &str) -> Result<(), NameError> {
    if let Some(character) = name.chars().find(|character| matches!(character, '/' | '+' | '#')) {
        Err(NameError::TopicCharacter { character })
    } else if name.starts_with('$') {
        Err(NameError::BeginsWithDollar)
    } else {
        Ok(())
    }
}

fn is_host(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok() || DnsName::try_from(name).is_ok()
}

/// Alternative names to put into a certificate, as asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct AlternativeNames {
    /// DNS names; one may begin with `*.` in a broker's certificate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    /// IP addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ip: Vec<IpAddr>,
    /// URIs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uri: Vec<String>,
    /// Addresses of e-mail.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub email: Vec<String>,
}

impl AlternativeNames {
    /// These names and, of a broker, its own, checked and without repetition.
    pub(super) fn checked(
        &self,
        rule: NameRule,
        name: &str,
        allowed: &[AlternativeForm],
    ) -> Result<Vec<SanType>, NameError> {
        let names = self.dns.len() + self.ip.len() + self.uri.len() + self.email.len();
        if names >= ALTERNATIVE_NAMES_MAX {
            return Err(NameError::TooMany { names, names_max: ALTERNATIVE_NAMES_MAX - 1 });
        }
        let mut all = Vec::with_capacity(names + 1);
        if rule == NameRule::Host {
            all.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => dns_name(rule, name)?,
            });
        }
        for name in &self.dns {
            all.push(dns_name(rule, name)?);
        }
        all.extend(self.ip.iter().copied().map(SanType::IpAddress));
        for text in &self.uri {
            all.push(uri(text)?);
        }
        for address in &self.email {
            all.push(email(address)?);
        }
        for form in all.iter().filter_map(form_of) {
            // Who may have any URI may have a SPIFFE ID.
            let is_allowed = allowed.contains(&form)
                || (form == AlternativeForm::Spiffe && allowed.contains(&AlternativeForm::Uri));
            if !is_allowed {
                return Err(NameError::FormNotAllowed { form });
            }
        }
        if self.uri.iter().filter(|uri| is_spiffe(uri)).count() > 1 {
            return Err(NameError::SeveralSpiffeIds);
        }
        let mut seen = std::collections::HashSet::new();
        all.retain(|name| seen.insert(name.clone()));
        Ok(all)
    }
}

fn form_of(name: &SanType) -> Option<AlternativeForm> {
    match name {
        SanType::DnsName(_) => Some(AlternativeForm::Dns),
        SanType::IpAddress(_) => Some(AlternativeForm::Ip),
        SanType::URI(uri) if is_spiffe(uri.as_str()) => Some(AlternativeForm::Spiffe),
        SanType::URI(_) => Some(AlternativeForm::Uri),
        SanType::Rfc822Name(_) => Some(AlternativeForm::Email),
        _ => None,
    }
}

fn dns_name(rule: NameRule, name: &str) -> Result<SanType, NameError> {
    let refused = || NameError::NotADnsName { name: name.to_owned() };
    let plain = match name.strip_prefix("*.") {
        Some(rest) if rule == NameRule::Host && rest.contains('.') => rest,
        _ => name,
    };
    DnsName::try_from(plain).map_err(|_| refused())?;
    name.try_into().map(SanType::DnsName).map_err(|_| refused())
}

fn uri(text: &str) -> Result<SanType, NameError> {
    let refused = || NameError::NotAUri { uri: text.to_owned() };
    let (scheme, rest) = text.split_once(':').ok_or_else(refused)?;
    let scheme_is_valid = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    let rest_is_valid = !rest.is_empty() && rest.chars().all(|c| c.is_ascii_graphic());
    if is_spiffe(text) && !is_spiffe_id(text) {
        return Err(NameError::NotASpiffeId { uri: text.to_owned() });
    }
    if scheme_is_valid && rest_is_valid && text.len() <= URI_BYTES_MAX {
        text.try_into().map(SanType::URI).map_err(|_| refused())
    } else {
        Err(refused())
    }
}

fn is_spiffe(uri: &str) -> bool {
    uri.split_once(':').is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("spiffe"))
}

/// Whether it has the form of a SPIFFE ID, in the one way to write it (SPIFFE-ID, section 2).
fn is_spiffe_id(uri: &str) -> bool {
    let Some(rest) = uri.strip_prefix("spiffe://") else { return false };
    let (domain, path) = rest.split_once('/').map_or((rest, None), |(d, path)| (d, Some(path)));
    let is_of_domain =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    let is_of_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let domain_is_valid =
        (1..=DOMAIN_BYTES_MAX).contains(&domain.len()) && domain.chars().all(is_of_domain);
    let path_is_valid = path.is_none_or(|path| {
        path.split('/').all(|part| !matches!(part, "" | "." | "..") && part.chars().all(is_of_path))
    });
    domain_is_valid && path_is_valid
}

/// Addresses as mail servers on the Internet have them; no quoting, no comments.
fn email(address: &str) -> Result<SanType, NameError> {
    let refused = || NameError::NotAnEmail { address: address.to_owned() };
    let (local, domain) = address.rsplit_once('@').ok_or_else(refused)?;
    let local_is_valid = !local.is_empty()
        && local.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c));
    if local_is_valid && address.len() <= EMAIL_BYTES_MAX && DnsName::try_from(domain).is_ok() {
        address.try_into().map(SanType::Rfc822Name).map_err(|_| refused())
    } else {
        Err(refused())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_be_mistaken_for_something_else_is_refused() {
        let (longest, too_long) = ("x".repeat(64), "x".repeat(65));
        for (rule, name, allowed) in [
            (NameRule::Client, "pump-1", true),
            (NameRule::Client, "Pumpe Süd 3", true),
            (NameRule::Client, &longest, true),
            (NameRule::Client, "", false),
            (NameRule::Client, &too_long, false),
            (NameRule::Client, " ", false),
            (NameRule::Client, " pump", false),
            (NameRule::Client, "pump ", false),
            (NameRule::Client, "pump\u{a0}", false),
            (NameRule::Text, "Factory CA ", false),
            (NameRule::Client, "a/b", false),
            (NameRule::Client, "a+", false),
            (NameRule::Client, "#", false),
            (NameRule::Client, "a\0b", false),
            (NameRule::Client, "a\nb", false),
            (NameRule::Client, "a\u{9f}", false),
            (NameRule::Client, "a\u{202e}b", false),
            (NameRule::Client, "a\u{200b}b", false),
            (NameRule::Client, "$SYS", false),
            (NameRule::Client, "a$", true),
            (NameRule::Host, "broker.example.com", true),
            (NameRule::Host, "localhost", true),
            (NameRule::Host, "192.0.2.1", true),
            (NameRule::Host, "2001:db8::1", true),
            (NameRule::Host, "*.example.com", false),
            (NameRule::Host, "broker example", false),
            (NameRule::Host, "https://broker", false),
            (NameRule::Text, "Factory CA / south", true),
            (NameRule::Text, "Factory\u{7}", false),
        ] {
            assert_eq!(rule.check(name).is_ok(), allowed, "{rule:?} {name:?}");
        }
    }

    #[test]
    fn alternative_names_have_to_be_of_a_form_that_the_profile_allows() {
        use AlternativeForm::{Dns, Ip, Uri};
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let names = |dns: &[&str], ip: &[IpAddr], uri: &[&str]| AlternativeNames {
            dns: dns.iter().map(ToString::to_string).collect(),
            ip: ip.to_vec(),
            uri: uri.iter().map(ToString::to_string).collect(),
            email: Vec::new(),
        };
        let host = NameRule::Host;
        let client = NameRule::Client;
        for (rule, allowed, names, count) in [
            (host, &[Dns, Ip][..], names(&[], &[], &[]), Some(1)),
            (host, &[Dns, Ip], names(&["b", "a.b", "*.b.c"], &[address], &[]), Some(4)),
            (host, &[Dns, Ip], names(&["*.com"], &[], &[]), None),
            (host, &[Dns, Ip], names(&[], &[], &["urn:x"]), None),
            (client, &[Dns, Uri], names(&[], &[], &["spiffe://a/b", "urn:x"]), Some(2)),
            (client, &[Dns, Uri], names(&[], &[], &["spiffe://a/b", "SPIFFE://a/c"]), None),
            (client, &[Dns, Uri], names(&["*.a.b"], &[], &[]), None),
            (client, &[Dns, Uri], names(&[], &[address], &[]), None),
            (client, &[Dns, Uri], names(&[], &[], &["no scheme:x"]), None),
            (client, &[Dns, Uri], names(&[], &[], &["a:b c"]), None),
            (client, &[Dns, Uri], names(&["a"; 64], &[], &[]), None),
        ] {
            let outcome = names.checked(rule, "b", allowed);
            assert_eq!(
                outcome.as_ref().ok().map(Vec::len),
                count,
                "{rule:?} {names:?} {outcome:?}"
            );
        }
    }

    #[test]
    fn a_spiffe_id_has_the_one_form_that_it_may_be_written_in() {
        for (uri, is_one) in [
            ("spiffe://plant.example/line/7", true),
            ("spiffe://plant_1.example", true),
            ("spiffe://a/B-c_d.e", true),
            ("spiffe://", false),
            ("spiffe:///path", false),
            ("spiffe://Plant/a", false),
            ("SPIFFE://plant/a", false),
            ("spiffe:plant/a", false),
            ("spiffe://plant/", false),
            ("spiffe://plant//a", false),
            ("spiffe://plant/a/../b", false),
            ("spiffe://plant:8080/a", false),
            ("spiffe://user@plant/a", false),
            ("spiffe://plant/a?b", false),
            ("spiffe://plant/a#b", false),
            ("spiffe://plant/%61", false),
        ] {
            let names = AlternativeNames { uri: vec![uri.to_owned()], ..Default::default() };
            let outcome = names.checked(NameRule::Client, "a", &[AlternativeForm::Spiffe]);
            assert_eq!(outcome.is_ok(), is_one, "{uri} {outcome:?}");
        }
        let other = AlternativeNames { uri: vec!["urn:a".to_owned()], ..Default::default() };
        let outcome = other.checked(NameRule::Client, "a", &[AlternativeForm::Spiffe]);
        assert!(matches!(outcome, Err(NameError::FormNotAllowed { .. })));
    }

    #[test]
    fn an_address_of_e_mail_is_a_plain_one() {
        for (address, is_one) in [
            ("ann@plant.example", true),
            ("ann+mqtt@plant.example", true),
            ("ann", false),
            ("@plant.example", false),
            ("ann@", false),
            ("ann@plant.example\0.evil", false),
            ("\"a b\"@plant.example", false),
            ("ann@[192.0.2.1]", false),
        ] {
            assert_eq!(email(address).is_ok(), is_one, "{address}");
        }
    }
}
