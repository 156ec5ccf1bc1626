//! Passwords: what is a hash of what, and what stands in a file.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

// $7$ and $6$ as Mosquitto computes them: PBKDF2-HMAC-SHA512, and SHA-512 of password and salt.
fn pbkdf2_line(password: &[u8], iterations: u32) -> String {
    let mut hash = [0; 64];
    let rounds = std::num::NonZeroU32::new(iterations).unwrap();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, rounds, b"twelve bytes", password, &mut hash);
    format!("$7${iterations}${}${}", BASE64.encode(b"twelve bytes"), BASE64.encode(hash))
}

/// By `mosquitto_passwd -b` 2.0 of the password `hunter2`.
const OF_MOSQUITTO: &str = "$7$101$YuRQqm5PixDfN+EF$n84H2XtINshF7HJPHRvPLNtWcZNG1NWclqskpEgzo6GbF62L3\
                            XJSws4ew1dVgXbH/ztn8CtA+GfyFHCBH++2QQ==";
/// A test vector of `crypt_blowfish`.
const OF_BCRYPT: (&str, &str) =
    ("U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW");

fn parse(text: &str) -> Result<Passwords, CredentialFileError> {
    Passwords::parse(Path::new("passwords"), text)
}

#[test]
fn a_hash_is_of_its_password_and_of_no_other() {
    let new = hash(b"hunter2").unwrap();
    assert!(new.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{new}");
    assert_ne!(hash(b"hunter2").unwrap(), new, "each has its own salt");
    let sha512 = {
        let computed = digest::digest(&digest::SHA512, b"hunter2salt");
        format!("$6${}${}", BASE64.encode("salt"), BASE64.encode(computed.as_ref()))
    };
    let bcrypted = bcrypt::hash("hunter2", 4).unwrap();
    let old_bcrypt = bcrypted.replacen("$2b$", "$2y$", 1);
    for (text, outdated) in [
        (new, false),
        (pbkdf2_line(b"hunter2", 101), true),
        (sha512, true),
        (bcrypted, true),
        (old_bcrypt, true),
        (OF_MOSQUITTO.into(), true),
    ] {
        let hash = Hash::parse(&text).unwrap();
        assert!(hash.is_of(b"hunter2"), "{text}");
        assert!(!hash.is_of(b"hunter3"), "{text}");
        assert!(!hash.is_of(b""), "{text}");
        assert_eq!(hash.is_outdated(), outdated, "{text}");
    }
    // Its own parameters count, not today's.
    let weak =
        Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(64, 1, 2, Some(16)).unwrap());
    let weak = weak.hash_password_with_salt(b"hunter2", b"eight bytes").unwrap().to_string();
    let weak = Hash::parse(&weak).unwrap();
    assert!(weak.is_of(b"hunter2") && !weak.is_of(b"hunter3") && weak.is_outdated());
    assert!(Hash::parse(OF_BCRYPT.1).unwrap().is_of(OF_BCRYPT.0.as_bytes()));
}

#[test]
fn wrong_lines_are_refused_with_their_number_and_never_shown() {
    let good = hash(b"a").unwrap();
    for (text, start) in [
        ("ann".to_owned(), "passwords:1: has no \":\""),
        (format!(":{good}"), "passwords:1: has no usable name"),
        (format!("a\u{7}n:{good}"), "passwords:1: has no usable name"),
        (format!("# word\n\nann:{good}\nann:{good}\n"), "passwords:4: names somebody"),
        ("ann:hunter2".into(), "passwords:1: has no hash that is known"),
        ("ann:".into(), "passwords:1: has no hash that is known"),
        ("ann:$argon2i$v=19$m=4096,t=3,p=1$c2FsdHNhbHQ$aGFzaGhhc2g".into(), "passwords:1: is no"),
        ("ann:$argon2id$v=19$m=19456".into(), "passwords:1: is no Argon2id hash"),
        (good.replace("m=19456", "m=4000000").replacen('$', "ann:$", 1), "passwords:1: costs too"),
        ("ann:$7$0$AAAA$AAAA".into(), "passwords:1: is no $7$ hash"),
        (format!("ann:{}", pbkdf2_line(b"a", 1).replace("$7$1$", "$7$4000000000$")), "passwords:1"),
        (format!("ann:{}$", pbkdf2_line(b"a", 1)), "passwords:1: is no $7$ hash"),
        ("ann:$6$AAAA$AAAA".into(), "passwords:1: is no $6$ hash"),
        ("ann:$2b$31$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".into(), "passwords:1"),
        ("ann:$2b$04$short".into(), "passwords:1: is no bcrypt hash"),
    ] {
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.starts_with(start), "{text}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

/// Threat: names that are told apart by the time of the answer.
#[test]
fn a_name_that_is_not_there_is_compared_with_a_hash_of_the_same_cost() {
    let passwords = parse(&format!("ann:{}\n", hash(b"a").unwrap())).unwrap();
    let (found, known) = passwords.hash_of("ann");
    assert_eq!((found.unwrap().scheme(), known), ("argon2id", Known::Yes));
    let (decoy, known) = passwords.hash_of("bob");
    assert_eq!((decoy, known), (found, Known::No));
    // An empty file costs as much, and its decoy is nobody's password.
    let (decoy, known) = parse("")
        .map(|empty| {
            let (decoy, known) = empty.hash_of("bob");
            (decoy.cloned(), known)
        })
        .unwrap();
    let decoy = decoy.unwrap();
    assert_eq!((decoy.scheme(), decoy.is_outdated(), known), ("argon2id", false, Known::No));
}

#[test]
fn a_file_that_others_may_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("passwords");
    std::fs::write(&path, "").unwrap();
    for (mode, fine) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let loaded = Passwords::load(&path);
        assert_eq!(loaded.is_ok(), fine, "{mode:o}");
        if let Err(error) = loaded {
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }
}

#[test]
fn editing_leaves_other_lines_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("passwords");
    let mut editing = Editing::begin(&path).unwrap();
    editing.put("ann", Some("$1"));
    editing.write().unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(&path, "# staff\nann:$1\nannabel:$2\nbob:$3").unwrap();
    let mut editing = Editing::begin(&path).unwrap();
    assert_eq!(editing.find("ann"), Some("$1"));
    editing.put("ann", Some("$9"));
    editing.put("bob", None);
    editing.put("eve", Some("$4"));
    editing.write().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, "# staff\nann:$9\nannabel:$2\neve:$4\n");
}

#[test]
fn an_upgrade_does_not_undo_what_somebody_else_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("passwords");
    let (old, newer) = (pbkdf2_line(b"a", 1), hash(b"b").unwrap());
    let parsed = Hash::parse(&old).unwrap();
    let write = |text: &str| {
        let _ = std::fs::remove_file(&path);
        files::write_new(&path, text.as_bytes(), files::Access::Owner).unwrap();
    };
    write(&format!("ann:{newer}\n"));
    upgrade(&path, "ann", &parsed, "$new").unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("ann:{newer}\n"));
    write(&format!("ann:{old}\n"));
    upgrade(&path, "ann", &parsed, "$new").unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "ann:$new\n");
}
