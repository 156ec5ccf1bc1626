//! Tests of [`super`].

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, SerialNumber as Number,
    SigningKey, date_time_ymd,
};
use x509_cert_of_ocsp::Certificate;
use x509_cert_of_ocsp::der::asn1::{BitString, GeneralizedTime};
use x509_ocsp::{AsResponseBytes as _, ResponderId, RevokedInfo, Version};

use super::super::tests::{Authority, Folder, NOW, loaded, settings, trusted};
use super::*;

const DAY_S: i64 = 24 * 60 * 60;

fn time(unix_s: i64) -> OcspGeneralizedTime {
    let since = std::time::Duration::from_secs(unix_s.try_into().unwrap());
    OcspGeneralizedTime(GeneralizedTime::from_unix_duration(since).unwrap())
}

/// What a responder answers, to be spoiled before it is signed.
struct Draft {
    data: ResponseData,
    responders: Vec<Certificate>,
}

impl Draft {
    /// Of today, for a day.
    fn about(question: &Question, status: CertStatus) -> Self {
        let request = OcspRequest::from_der(&question.request().unwrap()).unwrap();
        let asked = request.tbs_request.request_list[0].req_cert.clone();
        let single = SingleResponse {
            cert_id: asked,
            cert_status: status,
            this_update: time(NOW - 60),
            next_update: Some(time(NOW + DAY_S)),
            single_extensions: None,
        };
        let data = ResponseData {
            version: Version::V1,
            responder_id: ResponderId::ByKey(OctetString::new(vec![0; 20]).unwrap()),
            produced_at: time(NOW - 60),
            responses: vec![single],
            response_extensions: None,
        };
        Self { data, responders: Vec::new() }
    }

    fn signed_by(self, key: &KeyPair) -> Vec<u8> {
        let signature = key.sign(&self.data.to_der().unwrap()).unwrap();
        let basic = BasicOcspResponse {
            tbs_response_data: self.data,
            signature_algorithm: AlgorithmIdentifierOwned {
                oid: ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2"),
                parameters: None,
            },
            signature: BitString::from_bytes(&signature).unwrap(),
            certs: (!self.responders.is_empty()).then_some(self.responders),
        };
        OcspResponse {
            response_status: OcspResponseStatus::Successful,
            response_bytes: Some(basic.to_response_bytes().unwrap()),
        }
        .to_der()
        .unwrap()
    }
}

fn good(until_unix_s: i64) -> Answer {
    let this_update_unix_s = NOW - 60;
    Answer { status: CertificateStatus::Good, this_update_unix_s, until_unix_s }
}

fn revoked() -> CertStatus {
    let revocation_time = time(NOW - DAY_S);
    CertStatus::Revoked(RevokedInfo { revocation_time, revocation_reason: None })
}

fn critical() -> Extension {
    let value = OctetString::new(vec![5, 0]).unwrap();
    let extn_id = ObjectIdentifier::new_unwrap("1.2.3.4");
    Extension { extn_id, critical: true, extn_value: value }
}

struct World {
    root: Authority,
    question: Question,
}

impl World {
    fn new() -> Self {
        let root = Authority::root("root");
        let question = Question::about(&root.chain(7, &[]), &trusted(&[&root])).unwrap();
        Self { root, question }
    }

    fn judge(&self, answer: &[u8]) -> Result<Answer, OcspError> {
        self.question.judge(answer, &Revocations::none(), NOW)
    }

    fn draft(&self, status: CertStatus) -> Draft {
        Draft::about(&self.question, status)
    }

    /// The answer after a change, signed by the certificate's issuer.
    fn spoiled(&self, spoil: impl FnOnce(&mut ResponseData)) -> Result<Answer, OcspError> {
        let mut draft = self.draft(CertStatus::good());
        spoil(&mut draft.data);
        self.judge(&draft.signed_by(self.root.0.key()))
    }

    /// A responder's certificate from this authority, with this number.
    fn appointed(
        by: &Authority,
        number: u64,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (Certificate, KeyPair) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "responder");
        params.serial_number = Some(Number::from(number));
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &by.0).unwrap();
        (Certificate::from_der(certificate.der()).unwrap(), key)
    }
}

#[test]
fn the_issuer_says_what_is_good_revoked_or_unknown() {
    let world = World::new();
    let said = |status| world.judge(&world.draft(status).signed_by(world.root.0.key()));
    assert_eq!(said(CertStatus::good()), Ok(good(NOW + DAY_S)));
    assert_eq!(said(revoked()).unwrap().status, CertificateStatus::Revoked);
    assert_eq!(said(CertStatus::unknown()), Err(OcspError::Unknown));
}

#[test]
fn an_answer_counts_for_what_was_asked_and_for_its_time() {
    let world = World::new();
    let other = Question::about(&world.root.chain(8, &[]), &trusted(&[&world.root])).unwrap();
    let about_other = Draft::about(&other, CertStatus::good()).data.responses;
    let said = world.spoiled(|data| data.responses = about_other);
    assert_eq!(said, Err(OcspError::OtherCertificate));
    let said = world.spoiled(|data| data.responses.clear());
    assert_eq!(said, Err(OcspError::OtherCertificate));
    let said = world.spoiled(|data| data.responses[0].next_update = Some(time(NOW - 1)));
    assert_eq!(said, Err(OcspError::Expired));
    let said = world.spoiled(|data| data.responses[0].next_update = Some(time(NOW)));
    assert_eq!(said, Ok(good(NOW)));
    let said = world.spoiled(|data| data.responses[0].this_update = time(NOW + CLOCK_S + 1));
    assert_eq!(said, Err(OcspError::NotYetValid));
    // Without an end it is good for a moment.
    let said = world.spoiled(|data| data.responses[0].next_update = None);
    assert_eq!(said, Ok(good(NOW - 60 + UNDATED_S)));
    let said = world.spoiled(|data| {
        data.responses[0].next_update = None;
        data.responses[0].this_update = time(NOW - UNDATED_S - 1);
    });
    assert_eq!(said, Err(OcspError::Expired));
}

#[test]
fn of_two_things_said_of_one_certificate_the_worse_counts() {
    let world = World::new();
    for worse_first in [false, true] {
        let said = world.spoiled(|data| {
            let mut worse = data.responses[0].clone();
            worse.cert_status = revoked();
            data.responses.insert(usize::from(!worse_first), worse);
        });
        assert_eq!(said.unwrap().status, CertificateStatus::Revoked);
    }
}

#[test]
fn what_is_critical_and_not_understood_spoils_the_answer() {
    let world = World::new();
    let said = world.spoiled(|data| data.response_extensions = Some(vec![critical()]));
    assert_eq!(said, Err(OcspError::CriticalExtension));
    let said = world.spoiled(|data| data.responses[0].single_extensions = Some(vec![critical()]));
    assert_eq!(said, Err(OcspError::CriticalExtension));
    let said = world.spoiled(|data| {
        data.response_extensions = Some(vec![Extension { critical: false, ..critical() }]);
    });
    assert!(said.is_ok());
}

/// Threat: a responder that anybody could be.
#[test]
fn a_responder_counts_that_the_issuer_has_appointed_and_nobody_else() {
    let world = World::new();
    let good = CertStatus::good;
    let said = |(certificate, key): (Certificate, KeyPair)| {
        let mut draft = world.draft(good());
        draft.responders.push(certificate);
        world.judge(&draft.signed_by(&key))
    };
    assert!(said(World::appointed(&world.root, 9, |_| {})).is_ok());
    let stranger = KeyPair::generate().unwrap();
    assert_eq!(
        world.judge(&world.draft(good()).signed_by(&stranger)),
        Err(OcspError::BadSignature)
    );
    // For another purpose, of another authority, with another's name, out of its time.
    let client = World::appointed(&world.root, 9, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    assert_eq!(said(client), Err(OcspError::BadSignature));
    let any = World::appointed(&world.root, 9, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
    });
    assert_eq!(said(any), Err(OcspError::BadSignature));
    let namesake = Authority::root("root");
    assert_eq!(said(World::appointed(&namesake, 9, |_| {})), Err(OcspError::BadSignature));
    let below = world.root.below("below", 3);
    assert_eq!(said(World::appointed(&below, 9, |_| {})), Err(OcspError::BadSignature));
    let old = World::appointed(&world.root, 9, |params| {
        params.not_after = date_time_ymd(2025, 12, 31);
    });
    assert_eq!(said(old), Err(OcspError::BadSignature));
    // Somebody else's signature under the certificate of one that was appointed.
    let (certificate, _) = World::appointed(&world.root, 9, |_| {});
    assert_eq!(said((certificate, stranger)), Err(OcspError::BadSignature));
}

#[test]
fn a_responder_that_was_revoked_has_no_say() {
    let world = World::new();
    let (certificate, key) = World::appointed(&world.root, 9, |_| {});
    let mut draft = world.draft(CertStatus::good());
    draft.responders.push(certificate);
    let answer = draft.signed_by(&key);
    let folder = Folder::new();
    for (revoked, is_good) in [(8, true), (9, false)] {
        let path = folder.write("list.crl", &world.root.list(1, &[revoked]));
        let lists = loaded(&settings(&[&path]), &[&world.root]);
        assert_eq!(world.question.judge(&answer, &lists, NOW).is_ok(), is_good);
    }
}

/// Threat: an answer that was changed on its way.
#[test]
fn no_byte_of_an_answer_can_be_changed() {
    let world = World::new();
    let answer = world.draft(revoked()).signed_by(world.root.0.key());
    for at in 0..answer.len() {
        for bit in 0..8 {
            let mut changed = answer.clone();
            changed[at] ^= 1 << bit;
            assert!(
                !world.judge(&changed).is_ok_and(|it| it.status == CertificateStatus::Good),
                "byte {at}, bit {bit}"
            );
        }
        assert!(world.judge(&answer[..at]).is_err());
    }
}

#[test]
fn what_is_no_answer_is_told_apart() {
    let world = World::new();
    let status = |response_status| {
        world.judge(&OcspResponse { response_status, response_bytes: None }.to_der().unwrap())
    };
    assert_eq!(status(OcspResponseStatus::TryLater), Err(OcspError::Status("tryLater")));
    assert_eq!(status(OcspResponseStatus::Unauthorized), Err(OcspError::Status("unauthorized")));
    assert_eq!(status(OcspResponseStatus::Successful), Err(OcspError::OtherKind));
    assert!(matches!(world.judge(b"garbage"), Err(OcspError::Malformed(_))));
    assert!(matches!(world.judge(b""), Err(OcspError::Malformed(_))));
}

#[test]
fn the_question_is_about_the_certificate_under_its_own_issuer() {
    let root = Authority::root("root");
    let below = root.below("below", 3);
    let chain = below.chain(0x80, &[&below]);
    let question = Question::about(&chain, &trusted(&[&root])).unwrap();
    assert_eq!(question.id.serial, Serial::new(&[0x80]).unwrap());
    assert!(question.urls.is_empty());
    let request = OcspRequest::from_der(&question.request().unwrap()).unwrap();
    let asked = &request.tbs_request.request_list[0].req_cert;
    // A number with the highest bit set is not negative.
    assert_eq!(asked.serial_number.as_bytes(), [0, 0x80]);
    let name = digest(&SHA1_FOR_LEGACY_USE_ONLY, &question.issuer.subject);
    assert_eq!(asked.issuer_name_hash.as_bytes(), name.as_ref());
    let answer = Draft::about(&question, CertStatus::good());
    let judged = question.judge(&answer.signed_by(below.0.key()), &Revocations::none(), NOW);
    assert!(judged.is_ok());
    // The authority above has no say in it.
    let answer = Draft::about(&question, CertStatus::good());
    let judged = question.judge(&answer.signed_by(root.0.key()), &Revocations::none(), NOW);
    assert_eq!(judged, Err(OcspError::BadSignature));
    assert!(matches!(
        Question::about(&chain, &trusted(&[&Authority::root("other")])),
        Err(OcspError::Unaskable(_))
    ));
}
