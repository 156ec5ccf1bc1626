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
/// Lists that are looked at of one certificate.
const NAMED_MAX: usize = 16;
/// Authorities that are kept with a list.
const BESIDE_MAX: usize = 8;
/// Bytes of a URL.
const URL_BYTES_MAX: usize = 1024;

/// The lists that the certificates of clients have named.
#[derive(Clone, Debug, Default)]
pub(super) struct Points {
    /// What their URLs have to begin with.
    allowed: Arc<[String]>,
    found: Arc<Mutex<Found>>,
}

#[derive(Debug, Default)]
struct Found {
    points: BTreeMap<String, Point>,
    /// How many were seen so far.
    seen: u64,
}

#[derive(Debug)]
struct Point {
    beside: Beside,
    /// When it was seen last, by the count of all.
    seen: u64,
}

/// The authorities between a client and the one that is trusted: one of them may be who signs.
pub type Beside = Arc<[CertificateDer<'static>]>;

impl Points {
    /// The same, of which from now on these count.
    pub(super) fn allowing(&self, allowed: &[String]) -> Self {
        let found = Arc::clone(&self.found);
        found.lock().points.retain(|url, _| is_allowed(allowed, url));
        Self { allowed: allowed.into(), found }
    }

    /// Takes down what the certificates of a path say that was verified, and of which none is revoked.
    pub(super) fn note(&self, own: &CertificateDer<'_>, between: &[CertificateDer<'_>]) {
        if self.allowed.is_empty() {
            return;
        }
        for der in std::iter::once(own).chain(between) {
            let named = named_by(der);
            for url in named.into_iter().filter(|url| is_allowed(&self.allowed, url)) {
                self.found.lock().note(url, between);
            }
        }
    }

    /// All that were found.
    pub(super) fn found(&self) -> Vec<(String, Beside)> {
        let found = self.found.lock();
        found.points.iter().map(|(url, point)| (url.clone(), point.beside.clone())).collect()
    }
}

impl Found {
    fn note(&mut self, url: String, between: &[CertificateDer<'_>]) {
        self.seen += 1;
        if !self.points.contains_key(&url) && self.points.len() >= POINTS_MAX {
            // Whoever names ever others pushes out those that nobody has named for longest.
            let oldest = self.points.iter().min_by_key(|(_, point)| point.seen);
            if let Some(oldest) = oldest.map(|(url, _)| url.clone()) {
                self.points.remove(&oldest);
            }
        }
        let point =
            self.points.entry(url).or_insert_with(|| Point { beside: Beside::default(), seen: 0 });
        point.seen = self.seen;
        // An authority may have a new certificate by now, and not everybody may be right about who
        // signs: what was shown last stands in front.
        if !point.beside.starts_with(between) {
            let others = point.beside.iter().filter(|it| !between.contains(it)).cloned();
            let now = between.iter().map(|it| it.clone().into_owned());
            point.beside = now.chain(others).take(BESIDE_MAX).collect();
        }
    }
}

/// Whether a URL is one of `allowed`, or below one that ends with a slash.
#[must_use]
pub fn is_allowed(allowed: &[String], url: &str) -> bool {
    let is_below = |from: &String| from.ends_with('/') && url.starts_with(from.as_str());
    allowed.iter().any(|from| from == url || is_below(from))
}

/// The lists for all reasons, of the certificate's own issuer, that it names by URL.
#[must_use]
pub fn named_by(der: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = certificate::parse(der) else { return Vec::new() };
    let found = certificate.get_extension_unique(&OID_X509_EXT_CRL_DISTRIBUTION_POINTS);
    let Some(ParsedExtension::CRLDistributionPoints(points)) =
        found.ok().flatten().map(X509Extension::parsed_extension)
    else {
        return Vec::new();
    };
    let whole = points.iter().filter(|it| it.reasons.is_none() && it.crl_issuer.is_none());
    let named = whole.filter_map(|it| it.distribution_point.as_ref()).flat_map(urls);
    named.take(NAMED_MAX).map(String::from).collect()
}

/// The URLs among the names of a point.
pub(super) fn urls(name: &DistributionPointName<'_>) -> Box<[Box<str>]> {
    let is_fit =
        |url: &str| url.len() <= URL_BYTES_MAX && url.bytes().all(|byte| byte.is_ascii_graphic());
    let DistributionPointName::FullName(names) = name else { return Box::default() };
    let url = |name: &GeneralName<'_>| match name {
        GeneralName::URI(url) if is_fit(url) => Some(Box::from(*url)),
        _ => None,
    };
    names.iter().filter_map(url).take(NAMED_MAX).collect()
}
