//! Where certificates say that the lists of their authorities are (RFC 5280 section 4.2.1.13), as
//! far as the operator lets them.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::{DistributionPointName, GeneralName, ParsedExtension, X509Extension};
use x509_parser::oid_registry::OID_X509_EXT_CRL_DISTRIBUTION_POINTS;

use crate::identity::certificate;

/// Lists that are known at a time: of so many authorities, or parts of them.
const POINTS_MAX: usize = 256;
/// Bytes of a URL.
const URL_BYTES_MAX: usize = 1024;

/// The lists that the certificates of clients have named.
#[derive(Clone, Debug, Default)]
pub(super) struct Points {
    /// What their URLs have to begin with.
    allowed: Arc<[String]>,
    found: Arc<Mutex<BTreeMap<String, Beside>>>,
}

/// The authorities between a client and the one that is trusted: one of them may be who signs.
pub type Beside = Vec<CertificateDer<'static>>;

impl Points {
    /// The same, of which from now on these count.
    pub(super) fn allowing(&self, allowed: &[String]) -> Self {
        let found = Arc::clone(&self.found);
        found.lock().retain(|url, _| is_allowed(allowed, url));
        Self { allowed: allowed.into(), found }
    }

    /// Takes down what the certificates of a verified path say.
    pub(super) fn note(&self, own: &CertificateDer<'_>, between: &[CertificateDer<'_>]) {
        if self.allowed.is_empty() {
            return;
        }
        for der in std::iter::once(own).chain(between) {
            for url in named_by(der, &self.allowed) {
                let mut found = self.found.lock();
                if !found.contains_key(&url) && found.len() < POINTS_MAX {
                    let beside = between.iter().map(|it| it.clone().into_owned());
                    found.insert(url, beside.collect());
                }
            }
        }
    }

    /// All that were found.
    pub(super) fn found(&self) -> Vec<(String, Beside)> {
        let found = self.found.lock();
        found.iter().map(|(url, beside)| (url.clone(), beside.clone())).collect()
    }
}

/// Whether a URL is one of `allowed`, or below one that ends with a slash.
#[must_use]
pub fn is_allowed(allowed: &[String], url: &str) -> bool {
    let is_below = |from: &String| from.ends_with('/') && url.starts_with(from.as_str());
    allowed.iter().any(|from| from == url || is_below(from))
}

/// The lists for all reasons, of the certificate's own issuer, that it names and that are `allowed`.
fn named_by(der: &CertificateDer<'_>, allowed: &[String]) -> Vec<String> {
    let Ok(certificate) = certificate::parse(der) else { return Vec::new() };
    let found = certificate.get_extension_unique(&OID_X509_EXT_CRL_DISTRIBUTION_POINTS);
    let Some(ParsedExtension::CRLDistributionPoints(points)) =
        found.ok().flatten().map(X509Extension::parsed_extension)
    else {
        return Vec::new();
    };
    let is_fit = |url: &str| {
        url.len() <= URL_BYTES_MAX
            && url.bytes().all(|byte| byte.is_ascii_graphic())
            && is_allowed(allowed, url)
    };
    let whole = points.iter().filter(|it| it.reasons.is_none() && it.crl_issuer.is_none());
    // The names of one point are several places of one list.
    let url = |name: &DistributionPointName<'_>| match name {
        DistributionPointName::FullName(names) => names.iter().find_map(|name| match name {
            GeneralName::URI(url) if is_fit(url) => Some((*url).to_owned()),
            _ => None,
        }),
        DistributionPointName::NameRelativeToCRLIssuer(_) => None,
    };
    whole.filter_map(|it| it.distribution_point.as_ref().and_then(url)).collect()
}
