//! SCRAM: the example of RFC 7677, and what is not as the RFC says.

use super::*;

/// The example of RFC 7677: its record has fewer rounds than a file may have.
fn example() -> Records {
    let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let record = Record::with("pencil", &salt, NonZeroU32::new(4096).unwrap()).unwrap();
    let secret = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
    Records { by_name: [("user".into(), record)].into(), secret }
}

const FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const OWN: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const LAST: &[u8] = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                      p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

#[test]
fn the_example_of_the_rfc_is_computed() {
    let (exchange, challenge) = Exchange::begin_with(&example(), FIRST, OWN).unwrap();
    assert_eq!(
        String::from_utf8(challenge).unwrap(),
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    );
    let (name, answer) = exchange.finish(LAST).unwrap();
    assert_eq!(&*name, "user");
    assert_eq!(answer, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

#[test]
fn a_proof_is_good_for_one_exchange_name_and_password() {
    let records = example();
    let begin = |first: &[u8], own| Exchange::begin_with(&records, first, own).unwrap().0;
    // A replay meets another nonce.
    assert_eq!(begin(FIRST, "other").finish(LAST), Err(ScramError::OtherExchange));
    // The flag is part of what is proven.
    let flagged = b"y,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    assert_eq!(begin(flagged, OWN).finish(LAST), Err(ScramError::OtherExchange));
    let stranger = b"n,,n=usor,r=rOprNGfwEbeRWgbNEkqO";
    assert_eq!(begin(stranger, OWN).finish(LAST), Err(ScramError::UnknownName));
    let mut wrong = LAST.to_vec();
    let at = wrong.len() - 5;
    wrong[at] ^= 1;
    assert_eq!(begin(FIRST, OWN).finish(&wrong), Err(ScramError::WrongPassword));
}

#[test]
fn a_name_that_is_not_there_looks_like_one_that_is() {
    let records = example();
    let challenge = |name: &str| {
        let first = format!("n,,n={name},r=abc");
        let (_, challenge) = Exchange::begin_with(&records, first.as_bytes(), "x").unwrap();
        String::from_utf8(challenge).unwrap()
    };
    assert_eq!(challenge("bob"), challenge("bob"));
    assert_ne!(challenge("bob"), challenge("eve"));
    let shape = |text: String| text.split(',').map(str::len).collect::<Vec<_>>();
    assert_eq!(shape(challenge("bob")), shape(challenge("user")));
}

#[test]
fn messages_that_are_not_as_the_rfc_says_are_refused() {
    let records = example();
    let malformed = ScramError::Malformed("first");
    for (first, expected) in [
        (&b""[..], malformed),
        (b"n,,n=user", malformed),
        (b"n,n=user,r=abc", malformed),
        (b"n,,n=,r=abc", malformed),
        (b"n,,n=a=b,r=abc", malformed),
        (b"n,,n=a=2c,r=abc", malformed),
        (b"n,,n=user,r=", malformed),
        (b"n,,n=user,r=a\x7f", malformed),
        (b"n,,n=user,r=a b", malformed),
        (b"n,,m=x,n=user,r=abc", malformed),
        (b"n,,n=user,r=abc,m=x", malformed),
        (b"n,,r=abc,n=user", malformed),
        (b"x,,n=user,r=abc", malformed),
        (b"n,,n=us\0er,r=abc", malformed),
        (b"\xff,,n=user,r=abc", malformed),
        (b"n,b=user,n=user,r=abc", malformed),
        (b"n,a=admin,n=user,r=abc", ScramError::OtherIdentity),
        (b"p=tls-exporter,,n=user,r=abc", ScramError::ChannelBinding),
    ] {
        let begun = Exchange::begin(&records, first);
        assert_eq!(begun.map(drop), Err(expected), "{}", String::from_utf8_lossy(first));
    }
    let long = [b"n,,n=".to_vec(), vec![b'a'; MESSAGE_BYTES_MAX], b",r=abc".to_vec()].concat();
    assert!(Exchange::begin(&records, &long).is_err());
    assert!(Exchange::begin(&records, b"n,a=user,n=user,r=abc").is_ok());
    for last in [
        &b""[..],
        b"c=biws",
        b"c=biws,r=abc",
        b"c=biws,p=AAAA",
        b"r=abc,c=biws,p=AAAA",
        b"c=biws,r=abc,p=AAAA",
        b"c=biws,r=abc,p=!",
        b"c=biws,r=abc,junk,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        b"\xff",
    ] {
        let (exchange, _) = Exchange::begin(&records, b"n,,n=user,r=abc").unwrap();
        let text = String::from_utf8_lossy(last);
        assert_eq!(exchange.finish(last), Err(ScramError::Malformed("last")), "{text}");
    }
}

#[test]
fn names_are_unescaped_strictly() {
    for (escaped, name) in
        [("a", Some("a")), ("a=2Cb=3Dc", Some("a,b=c")), ("=", None), ("a=20", None), ("", None)]
    {
        assert_eq!(unescape(escaped).as_deref(), name);
    }
}

#[test]
fn a_record_reads_back_and_a_wrong_one_is_refused() {
    let record = Record::new("pässword").unwrap();
    assert_eq!(Record::parse(&record.to_string()), Ok(record.clone()));
    assert_ne!(Record::new("pässword").unwrap(), record, "each has its own salt");
    assert_eq!(Record::new("a\u{7}"), Err(RecordError::Prohibited));
    let secret = new_secret_line().unwrap();
    let path = Path::new("scram");
    let text = format!("{secret}\nann:{record}\n# a word\n\n");
    assert!(Records::parse(path, &text).unwrap().has("ann"));
    for (text, at) in [
        (format!("ann:{record}\n"), "scram:1: the file has no line !secret:"),
        (format!("{secret}\n{secret}\n"), "scram:2: names somebody"),
        ("!secret:AAAA\n".to_owned(), "scram:1: is no secret"),
        (format!("{secret}\nann:{record}\nann:{record}\n"), "scram:3: names somebody"),
        (format!("{secret}\nann:x\n"), "scram:2: is no record"),
        (format!("{secret}\nann\n"), "scram:2: has no \":\""),
        (
            format!("{secret}\nann:{}\n", record.to_string().replace("$120000:", "$4096:")),
            "scram:2: has less than 100,000 rounds",
        ),
    ] {
        let error = Records::parse(path, &text).unwrap_err().to_string();
        assert!(error.starts_with(at), "{error}");
    }
}
