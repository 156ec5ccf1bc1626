//! Keeping the lists of revoked certificates good, by whoever has the issuing key all the time.

use std::time::Duration;

use time::OffsetDateTime;

use super::inventory::Contents;
use super::published::{der_path, number_in};
use super::revoke::listed;
use super::signer::Signer;
use super::{Ca, Crl, PkiError};

impl Ca {
    /// Signs and writes the lists again when one of them is due: when less than half of `validity`
    /// is left of it, or when it is not what the inventory says, since whoever was to write it was
    /// stopped. `published` tells the number of the list of an issuer that is in all files; where
    /// that is another than the inventory's, the files are looked at.
    ///
    /// The inventory is held from the decision to the last file: a revocation by somebody else
    /// comes before it or after it, and is in the lists either way.
    ///
    /// # Errors
    /// When they cannot be recorded or written.
    pub fn renew_crls(
        &self,
        validity: Duration,
        published: &dyn Fn(&str) -> Option<u64>,
        now: OffsetDateTime,
    ) -> Result<Vec<Crl>, PkiError> {
        let of_signer = |signer: &Signer| published(&signer.hash);
        let are_due = self.contents(|contents| {
            self.check_current(contents)?;
            Ok::<_, PkiError>(self.are_due(contents, validity, &of_signer, now))
        })??;
        if !are_due {
            return Ok(Vec::new());
        }
        self.inventory.hold(|held| {
            self.check_current(held.contents())?;
            // Nobody writes them now.
            let all = Self::all_lists_pem(&self.folder).unwrap_or_default();
            let of_signer = |signer: &Signer| number_in(&der_path(&self.crl_path_of(signer)), &all);
            if !self.are_due(held.contents(), validity, &of_signer, now) {
                return Ok(Vec::new());
            }
            self.write_crls_held(held, validity, now)
        })
    }

    fn are_due(
        &self,
        contents: &Contents,
        validity: Duration,
        published: &dyn Fn(&Signer) -> Option<u64>,
        now: OffsetDateTime,
    ) -> bool {
        self.signers().any(|signer| {
            let Some(last) = contents.crl(&signer.hash) else { return true };
            let is_old = last.next_update - now < validity / 2;
            let certificates = listed(contents, &signer.hash, now).count() as u64;
            is_old || certificates != last.certificates || published(signer) != Some(last.number)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use time::macros::datetime;

    use super::*;
    use crate::pki::inventory::Reason;
    use crate::pki::{
        CRL_VALIDITY, KeySource, KeyType, Layout, NewAuthority, Profile, ProfileName, Protection,
        Rotation, Subject, no_passphrase,
    };

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);
    const DAY: time::Duration = time::Duration::DAY;
    const NONE: [u64; 0] = [];

    fn authority(folder: &Path) -> Ca {
        let new = NewAuthority::unprotected("Factory", Layout::RootAndIssuing);
        Ca::create(folder, &new, NOW).unwrap()
    }

    /// Renews by what is published; the numbers that were written.
    fn renew(ca: &Ca, now: OffsetDateTime) -> Vec<u64> {
        let lists: Vec<_> =
            Ca::published_lists(ca.folder()).into_iter().filter_map(Result::ok).collect();
        let number = |issuer: &str| {
            let list = lists.iter().find(|list| list.issuer == issuer && list.is_in_all);
            list.map(|list| list.number)
        };
        let written = ca.renew_crls(CRL_VALIDITY, &number, now).unwrap();
        written.iter().map(|crl| crl.signed.number).collect()
    }

    #[test]
    fn a_list_is_renewed_at_half_of_its_life_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let ca = authority(folder.path());
        let root = std::fs::read(folder.path().join("root.crl.der")).unwrap();
        assert_eq!(renew(&ca, NOW), NONE);
        assert_eq!(renew(&ca, NOW + 15 * DAY), NONE);
        let later = NOW + 15 * DAY + time::Duration::SECOND;
        assert_eq!(renew(&ca, later), [2]);
        assert_eq!(renew(&ca, later), NONE);
        assert_eq!(renew(&ca, later + 16 * DAY), [3]);
        let lists: Vec<_> =
            Ca::published_lists(folder.path()).into_iter().map(Result::unwrap).collect();
        assert_eq!(lists[0].next_update, later + 46 * DAY);
        // The root's key is elsewhere.
        assert_eq!(lists[1].der, root);
    }

    #[test]
    fn a_list_that_was_never_written_is_and_one_that_is_just_written_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let ca = authority(folder.path());
        let profile = Profile::built_in(ProfileName::Device).unwrap();
        let issued = ca.issue(&profile, &Subject::named("pump"), KeyType::P256, NOW).unwrap().0;
        // It was revoked, and whoever did so was stopped before the lists were written.
        let crls = Ca::crls_path(folder.path());
        std::fs::remove_file(&crls).unwrap();
        std::fs::create_dir(&crls).unwrap();
        let targets = ca.by_serial(&issued.certificate.serial).unwrap();
        assert!(ca.revoke(&targets, Reason::KeyCompromise, NOW).unwrap().crls.is_err());
        std::fs::remove_dir(&crls).unwrap();
        assert_eq!(renew(&ca, NOW), [3]);
        assert!(Ca::all_lists_pem(folder.path()).unwrap().starts_with(b"-----BEGIN CERT"));

        // Somebody else revokes between the look at what is published and the decision.
        let other = ca.issue(&profile, &Subject::named("valve"), KeyType::P256, NOW).unwrap().0;
        let targets = ca.by_serial(&other.certificate.serial).unwrap();
        ca.revoke(&targets, Reason::KeyCompromise, NOW).unwrap().crls.unwrap();
        let as_it_was = |_: &str| Some(3);
        assert_eq!(ca.renew_crls(CRL_VALIDITY, &as_it_was, NOW).unwrap(), []);
    }

    #[test]
    fn what_is_published_is_signed_by_whose_it_is_and_a_rotation_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let old = authority(folder.path());
        let profile = Profile::built_in(ProfileName::Device).unwrap();
        old.issue(&profile, &Subject::named("pump"), KeyType::P256, NOW).unwrap();
        let own = std::fs::read(folder.path().join("ca.crl.der")).unwrap();
        std::fs::copy(folder.path().join("root.crl.der"), folder.path().join("ca.crl.der"))
            .unwrap();
        let error = Ca::published_lists(folder.path()).remove(0).unwrap_err().to_string();
        assert!(error.contains("has not signed it"), "{error}");
        std::fs::write(folder.path().join("ca.crl.der"), own).unwrap();
        let rotation = Rotation {
            with_root: false,
            is_compromised: false,
            name: None,
            new_root_key: KeySource::New(KeyType::P256),
            key: KeySource::New(KeyType::P256),
            issuing_validity: None,
            root_key: None,
            root_protection: &Protection::None,
            protection: &Protection::None,
        };
        let unlock = &mut |path: &Path, _: bool| no_passphrase(path);
        let new = Ca::rotate(folder.path(), &rotation, unlock, NOW).unwrap().ca;
        let error = old.renew_crls(CRL_VALIDITY, &|_| None, NOW).unwrap_err();
        assert!(matches!(error, PkiError::Rotated { .. }), "{error}");
        let lists: Vec<_> =
            Ca::published_lists(folder.path()).into_iter().map(Result::unwrap).collect();
        let shown: Vec<_> =
            lists.iter().map(|list| (list.name.as_str(), list.is_current)).collect();
        assert_eq!(shown, [("Factory 2", true), ("Factory Root", true), ("Factory", false)]);
        // Of both.
        assert_eq!(renew(&new, NOW + 16 * DAY), [2, 3]);
    }
}
