//! Rules that say who a client is by its certificate: which certificates each is about, and what it
//! makes of them.
//!
//! Exactly one rule of a listener has to fit. Where none does, or several do, nobody can tell who
//! the client is, and it is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::certificate::{self, NameForm, Shown, SubjectPart};
use super::field::{Field, part_matches};
use super::{Binding, Identity, PrincipalKind};

/// Something of a certificate that a rule can ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    /// A part of the subject's name. A `*` stands for one or more characters.
    Subject(SubjectPart),
    /// A DNS name among the alternative names. A `*` stands for one or more characters but `.`.
    SanDns,
    /// A URI among them. A `*` stands for one or more characters of a segment.
    SanUri,
    /// An e-mail address among them. A `*` stands for one or more characters but `@`.
    SanEmail,
    /// The serial number, lower-case hex without leading zeros; compared exactly.
    Serial,
    /// The SHA-256 of the certificate, lower-case hex; compared exactly.
    Fingerprint,
}

/// What the identity is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedBy {
    /// The common name.
    Cn,
    /// The only DNS name among the alternative names that the rule is about, in lower case.
    SanDns,
    /// The only such URI among them.
    SanUri,
    /// The only such e-mail address among them.
    SanEmail,
    /// The serial number of the device, a part of the subject's name.
    SubjectSerialNumber,
    /// The user id, a part of the subject's name.
    Uid,
    /// The serial number of the certificate, hex.
    Serial,
    /// The SHA-256 of the certificate, hex.
    Fingerprint,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: Arc<str>,
    /// The SHA-256 of the key of an authority that has to be on the certificate's path, lower-case
    /// hex. Without it the rule is about certificates of all authorities of the listener.
    pub issuer: Option<Arc<str>>,
    /// Each has to match some value that the certificate has there.
    pub asks: Vec<(Asked, String)>,
    /// What the identity is made of.
    pub named_by: NamedBy,
    /// The type of the principal.
    pub kind: PrincipalKind,
    /// Which client identifiers it may use.
    pub binding: Binding,
    /// The groups it is in.
    pub groups: Vec<Arc<str>>,
    /// Its tags.
    pub tags: BTreeMap<Arc<str>, Arc<str>>,
}

/// Why no rule says who a client is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// None fits.
    #[error("no rule of the listener fits the certificate")]
    NoneFits,
    /// Several do.
    #[error("the rules `{first}` and `{second}` both fit the certificate")]
    SeveralFit {
        /// One of them.
        first: Arc<str>,
        /// Another.
        second: Arc<str>,
    },
    /// The certificate lacks what its rule makes the identity of.
    #[error("the certificate has no {what} for the rule `{rule}` to take the identity from")]
    NameMissing {
        /// The rule.
        rule: Arc<str>,
        /// What is missing.
        what: &'static str,
    },
    /// The certificate has several names that the identity could be made of.
    #[error("the certificate has several values of {what} that fit the rule")]
    SeveralNames {
        /// What it has several of.
        what: &'static str,
    },
    /// What the identity would be made of stands for many, or could be read in two ways.
    #[error("the {what} of the certificate is no identity")]
    NameUnfit {
        /// What it is.
        what: &'static str,
    },
}

/// The identity that a certificate proves by the only rule that fits, and that rule.
///
/// # Errors
/// [`RuleError`].
pub fn identity_by(rules: &[Arc<Rule>], shown: &Shown) -> Result<(Identity, Arc<Rule>), RuleError> {
    let mut fitting = rules.iter().filter(|rule| rule.fits(shown));
    let rule = fitting.next().ok_or(RuleError::NoneFits)?;
    if let Some(other) = fitting.next() {
        let (first, second) = (Arc::clone(&rule.name), Arc::clone(&other.name));
        return Err(RuleError::SeveralFit { first, second });
    }
    Ok((rule.identity(shown)?, Arc::clone(rule)))
}

impl Rule {
    fn fits(&self, shown: &Shown) -> bool {
        let is_issued = self.issuer.as_ref().is_none_or(|wanted| shown.has_issuer(wanted));
        is_issued && self.asks.iter().all(|(asked, pattern)| asked.matches(pattern, shown))
    }

    fn identity(&self, shown: &Shown) -> Result<Identity, RuleError> {
        let what = self.named_by.as_str();
        let missing = || RuleError::NameMissing { rule: Arc::clone(&self.name), what };
        let facts = &shown.facts;
        let name = match self.named_by {
            NamedBy::Cn => Some(&facts.cn).filter(|name| !name.is_empty()),
            NamedBy::SanDns => self.only_fitting(Asked::SanDns, &facts.dns_names)?,
            NamedBy::SanUri => self.only_fitting(Asked::SanUri, &facts.uris)?,
            NamedBy::SanEmail => self.only_fitting(Asked::SanEmail, &shown.emails)?,
            NamedBy::SubjectSerialNumber => shown.only(SubjectPart::SerialNumber),
            NamedBy::Uid => shown.only(SubjectPart::Uid),
            NamedBy::Serial => Some(&facts.serial),
            NamedBy::Fingerprint => Some(&facts.fingerprint),
        };
        let mut name = name.cloned().ok_or_else(missing)?;
        if self.named_by == NamedBy::SanDns {
            // Names of hosts know no case, those of principals do.
            name = name.to_ascii_lowercase().into();
        }
        let is_fit = certificate::check_name(NameForm::Other, &name).is_ok()
            && (self.named_by != NamedBy::SanDns || !name.contains('*'));
        if !is_fit {
            return Err(RuleError::NameUnfit { what });
        }
        Ok(Identity {
            kind: self.kind,
            name,
            groups: self.groups.clone(),
            tags: self.tags.clone(),
            certificate: Some(Arc::new(facts.clone())),
        })
    }
}

impl Rule {
    /// Of several values that a certificate has, the one that this rule is about.
    fn only_fitting<'a>(
        &self,
        kind: Asked,
        values: &'a [Arc<str>],
    ) -> Result<Option<&'a Arc<str>>, RuleError> {
        let patterns = || self.asks.iter().filter(|(asked, _)| *asked == kind);
        let mut fitting =
            values.iter().filter(|value| patterns().all(|(_, it)| kind.value_matches(it, value)));
        let first = fitting.next();
        match fitting.next() {
            None => Ok(first),
            Some(_) => Err(RuleError::SeveralNames { what: self.named_by.as_str() }),
        }
    }
}

impl NamedBy {
    /// The name in the configuration and in messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cn => "common_name",
            Self::SanDns => "san_dns",
            Self::SanUri => "san_uri",
            Self::SanEmail => "san_email",
            Self::SubjectSerialNumber => "subject_serial_number",
            Self::Uid => "uid",
            Self::Serial => "serial",
            Self::Fingerprint => "fingerprint",
        }
    }
}

impl Asked {
    fn matches(self, pattern: &str, shown: &Shown) -> bool {
        let facts = &shown.facts;
        let any = |values: &[Arc<str>]| values.iter().any(|it| self.value_matches(pattern, it));
        match self {
            Self::Subject(part) => {
                let mut values = shown.subject.iter().filter(|(found, _)| *found == part);
                values.any(|(_, value)| self.value_matches(pattern, value))
            }
            Self::SanDns => any(&facts.dns_names),
            Self::SanUri => any(&facts.uris),
            Self::SanEmail => any(&shown.emails),
            Self::Serial => self.value_matches(pattern, &facts.serial),
            Self::Fingerprint => self.value_matches(pattern, &facts.fingerprint),
        }
    }

    fn value_matches(self, pattern: &str, value: &str) -> bool {
        match self {
            Self::Subject(_) => part_matches(pattern, value),
            // A name with a wildcard stands for many, so it proves none.
            Self::SanDns => {
                !value.contains('*')
                    && Field::SanDns.matches(pattern, &Field::SanDns.comparable(value))
            }
            Self::SanUri => Field::SanUri.matches(pattern, value),
            Self::SanEmail => email_matches(pattern, value),
            Self::Serial | Self::Fingerprint => pattern == value,
        }
    }

    /// Refuses a pattern that cannot match, or that would match what nobody meant; the form in which
    /// it is compared, otherwise.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn check(self, pattern: &str) -> Result<String, (String, &'static str)> {
        let is_hex = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        };
        match self {
            Self::SanDns => {
                Field::SanDns.check(pattern)?;
                Ok(Field::SanDns.comparable(pattern).into_owned())
            }
            Self::SanUri => Field::SanUri.check(pattern).map(|()| pattern.to_owned()),
            Self::Serial if !is_hex(pattern) || pattern.starts_with('0') => Err((
                "it is no serial number".to_owned(),
                "write it in lower-case hex without leading zeros, as the audit log does",
            )),
            Self::Fingerprint if !is_hex(pattern) || pattern.len() != 64 => Err((
                "it is no SHA-256 of a certificate".to_owned(),
                "write it in 64 digits of lower-case hex, as the audit log does",
            )),
            Self::Serial | Self::Fingerprint => Ok(pattern.to_owned()),
            Self::SanEmail if pattern.matches('@').count() != 1 => {
                Err(("it is no e-mail address".to_owned(), "write it like *@ops.example"))
            }
            Self::SanEmail | Self::Subject(_) => {
                if pattern.is_empty() || pattern.contains("**") || pattern.trim() != pattern {
                    return Err((
                        "it matches no certificate".to_owned(),
                        "write the value, or a part of it with `*`",
                    ));
                }
                if pattern.bytes().all(|byte| byte == b'*') {
                    return Err((
                        "it matches every value".to_owned(),
                        "leave the key out, or write a part of the value",
                    ));
                }
                Ok(pattern.to_owned())
            }
        }
    }
}

/// Names of hosts know no case, those of mailboxes do.
fn email_matches(pattern: &str, email: &str) -> bool {
    let (Some((local, host)), Some((pattern_local, pattern_host))) =
        (email.rsplit_once('@'), pattern.rsplit_once('@'))
    else {
        return false;
    };
    part_matches(pattern_local, local)
        && part_matches(&pattern_host.to_ascii_lowercase(), &host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
