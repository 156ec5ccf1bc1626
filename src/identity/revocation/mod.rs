//! Which certificates their authorities have taken back.
//!
//! A list is verified once, when it is loaded; a handshake costs a search in a sorted table. What
//! is loaded is one value that never changes: a list that changes brings a new one.

mod crl;
mod load;
pub mod ocsp;
mod points;

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;

pub use crl::{CrlError, fuzz_list};
pub use load::{FILES_MAX, Fetch, LoadError, Loaded, Settings, check, load, load_what_can_be};
pub use points::{Beside, is_allowed, named_by};

use crl::Crl;
pub(super) use crl::Header;
use points::Points;

/// The SHA-256 of an authority's `SubjectPublicKeyInfo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

/// A serial number as RFC 5280 has it: up to 20 bytes, here filled up with zeros in front.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial([u8; 20]);

impl Serial {
    /// A number from its bytes, the highest first. `None`: it is longer than 20 bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let bytes = bytes.get(zeros..)?;
        let mut padded = [0; 20];
        let from = padded.len().checked_sub(bytes.len())?;
        padded.get_mut(from..)?.copy_from_slice(bytes);
        Some(Self(padded))
    }

    /// Its last byte: of numbers that are drawn, any.
    #[must_use]
    pub const fn last_byte(&self) -> u8 {
        self.0[19]
    }
}

/// What names a certificate: whose it is, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CertificateId {
    /// The key that signed it.
    pub issuer: Fingerprint,
    /// Its number.
    pub serial: Serial,
}

/// What becomes of a certificate whose status cannot be known for sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It is refused.
    Refuse,
    /// It is let in, and the log has a warning when the lists are loaded.
    Warn,
}

/// Why a certificate is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotGood {
    /// Its authority has taken it back, or that of an authority between.
    #[error("the {} is revoked", whose(*is_authority))]
    Revoked {
        /// It is the certificate of an authority.
        is_authority: bool,
    },
    /// No list of its authority is known.
    #[error(
        "whether the {} is revoked is unknown: there is no revocation list of its issuer that is \
         about it",
        whose(*is_authority)
    )]
    NoList {
        /// It is the certificate of an authority.
        is_authority: bool,
    },
    /// The list of its authority should have been replaced by a later one.
    #[error(
        "whether the {} is revoked is unknown: the revocation list of its issuer has expired",
        whose(*is_authority)
    )]
    Expired {
        /// It is the certificate of an authority.
        is_authority: bool,
    },
}

const fn whose(is_authority: bool) -> &'static str {
    if is_authority { "certificate of an intermediate authority" } else { "client's certificate" }
}

/// The lists that are in force.
#[derive(Debug)]
pub struct Revocations {
    /// Sorted by issuer. `None`: nobody asked for any.
    lists: Option<Vec<Arc<Crl>>>,
    expired: Doubt,
    missing: Doubt,
    /// Where more are.
    points: Points,
}

/// The lists in force at present, for all that have to look.
pub type Current = Arc<ArcSwap<Revocations>>;

/// No lists, for the time before there are any.
#[must_use]
pub fn none() -> Current {
    Arc::new(ArcSwap::from_pointee(Revocations::none()))
}

impl Revocations {
    /// Without any list, nothing is revoked.
    #[must_use]
    pub fn none() -> Self {
        let points = Points::default();
        Self { lists: None, expired: Doubt::Refuse, missing: Doubt::Warn, points }
    }

    /// True when a list is among them that is not among `before`, in this very reading.
    #[must_use]
    pub fn have_more_than(&self, before: &Self) -> bool {
        let is_there =
            |list: &Arc<Crl>| before.lists.iter().flatten().any(|other| Arc::ptr_eq(other, list));
        self.lists.iter().flatten().any(|list| !is_there(list))
    }

    /// How many certificates are named.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lists.iter().flatten().map(|list| list.len()).sum()
    }

    /// True when no certificate is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When the first of the lists is due to be replaced, Unix time.
    #[must_use]
    pub fn next_update_unix_s(&self) -> Option<i64> {
        self.lists.iter().flatten().map(|list| list.next_update_unix_s).min()
    }

    /// Takes down where the certificates of a verified path say that their lists are: the client's
    /// own, and those between it and the authority that is trusted.
    pub fn note_points(&self, own: &CertificateDer<'_>, between: &[CertificateDer<'_>]) {
        self.points.note(own, between);
    }

    /// The URLs that were taken down and are allowed, each with the authorities whose certificates
    /// came with it.
    #[must_use]
    pub fn points(&self) -> Vec<(String, Beside)> {
        self.points.found()
    }

    /// Checks a path before its client is let in: its own certificate first. `named` says where a
    /// certificate of the path has its lists, by its own words: a list that is published somewhere
    /// else is not about it.
    ///
    /// # Errors
    /// [`NotGood`].
    pub fn check(
        &self,
        path: &[CertificateId],
        named: &dyn Fn(usize) -> Vec<String>,
        now_unix_s: i64,
    ) -> Result<(), NotGood> {
        let Some(lists) = &self.lists else { return Ok(()) };
        for (at, certificate) in path.iter().enumerate() {
            let is_authority = at > 0;
            let (mut is_known, mut is_current) = (false, false);
            for list in of(lists, certificate.issuer) {
                if list.names(certificate) {
                    return Err(NotGood::Revoked { is_authority });
                }
                if list.is_about(is_authority, || named(at)) {
                    is_known = true;
                    is_current |= list.next_update_unix_s >= now_unix_s;
                }
            }
            if !is_known && self.missing == Doubt::Refuse {
                return Err(NotGood::NoList { is_authority });
            }
            if is_known && !is_current && self.expired == Doubt::Refuse {
                return Err(NotGood::Expired { is_authority });
            }
        }
        Ok(())
    }

    /// The first certificate of a path that is revoked, by its place: of a client that was let in.
    #[must_use]
    pub fn revoked(&self, path: &[CertificateId]) -> Option<NotGood> {
        let lists = self.lists.as_ref()?;
        let is_revoked = |certificate: &CertificateId| {
            of(lists, certificate.issuer).any(|it| it.names(certificate))
        };
        let at = path.iter().position(is_revoked)?;
        Some(NotGood::Revoked { is_authority: at > 0 })
    }
}

/// The lists of one authority.
fn of(lists: &[Arc<Crl>], issuer: Fingerprint) -> impl Iterator<Item = &Arc<Crl>> {
    let from = lists.partition_point(|list| list.issuer < issuer);
    lists.iter().skip(from).take_while(move |list| list.issuer == issuer)
}

#[cfg(test)]
mod tests;
