//! Lines of JSON: what is exported is imported as it was, and what is no such line is refused.

use proptest::prelude::*;

use super::records::{some_delivery, some_message, some_options, some_record};
use super::*;

/// All lines of what is read.
pub(super) fn exported(reading: Reading) -> String {
    let mut out = Vec::new();
    export(reading, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

pub(super) fn import_text(text: &str, folder: &Path) -> Result<u64, StoreError> {
    import(&mut text.as_bytes(), "x.jsonl", &settings(folder))
}

/// What a store may hold, by sessions.
type Held = (Box<SessionRecord>, Vec<(String, SubscriptionOptions)>, Vec<Delivery>, Vec<u16>);

fn held() -> impl Strategy<Value = Held> {
    (
        some_record().prop_map(Box::new),
        prop::collection::vec(("[a-z/]{1,6}", some_options()), 0..3),
        prop::collection::vec(some_delivery(), 0..6),
        prop::collection::vec(1_u16.., 0..3),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn what_was_exported_is_imported_and_exported_again(
        sessions in prop::collection::vec(held(), 1..4),
        shared in prop::collection::vec(some_delivery(), 0..3),
        retained in prop::collection::vec(some_message(), 0..4),
        finished in 0_u64..4,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        let (store, _) = open(&first);
        let mut changes = Vec::new();
        for (record, subscriptions, deliveries, received) in sessions {
            let number = store.next_session();
            changes.push(Change::Session(number, record));
            for (text, options) in subscriptions {
                changes.push(Change::Subscribe(number, filter(&text), options));
            }
            changes.extend(received.into_iter().map(|id| {
                Change::Held(number, PacketId::new(id).unwrap())
            }));
            let all = shared.iter().cloned().chain(deliveries);
            for (delivery, at) in all.zip(1..) {
                changes.push(Change::Enqueue(number, Delivery { seq: Some(seq(at)), ..delivery }));
            }
            if finished > 0 {
                changes.push(Change::Finished(number, seq(finished)));
                changes.push(Change::Released(number, seq(finished + 1)));
            }
        }
        let account = Arc::clone(&record("x").account);
        changes.extend(retained.into_iter().map(|message| {
            Change::Retain(Arc::new(message), Arc::clone(&account))
        }));
        commit(&store, changes);
        store.close().unwrap();
        drop(store);
        let lines = exported(Reading::at(&first).unwrap());
        import_text(&lines, &second).unwrap();
        prop_assert_eq!(verify(&second).unwrap().findings, vec![]);
        prop_assert_eq!(exported(Reading::at(&second).unwrap()), lines);
        // And it opens with the same.
        let (_first, one) = open(&first);
        let (_second, other) = open(&second);
        prop_assert_eq!(one.retained.len(), other.retained.len());
        for (one, other) in one.sessions.iter().zip(&other.sessions) {
            prop_assert_eq!(&one.record, &other.record);
            // When it expires was counted from two readings of the clock.
            let waiting = |it: &RecoveredSession| -> Vec<_> {
                let each = it.waiting.iter();
                each.map(|it| (it.seq, it.bytes, it.expiry == Expiry::NEVER)).collect()
            };
            prop_assert_eq!(waiting(one), waiting(other));
            prop_assert_eq!((&one.held, &one.released), (&other.held, &other.released));
            prop_assert_eq!(&one.subscriptions, &other.subscriptions);
            prop_assert_eq!(one.next_seq, other.next_seq);
        }
    }
}

const STORE: &str = r#"{"kind":"store","format":3}"#;
const END: &str = r#"{"kind":"end"}"#;
const MESSAGE: &str =
    r#"{"kind":"message","id":4,"message":{"topic":"a","qos":1,"retain":false,"payload":"eA=="}}"#;

fn session_line() -> String {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    begin(&store, "client");
    drop(store);
    let lines = exported(Reading::at(folder.path()).unwrap());
    lines.lines().find(|line| line.contains("\"session\",")).unwrap().to_owned()
}

#[test]
fn a_line_that_cannot_be_taken_is_named_with_its_key_and_the_remedy() {
    let session = session_line();
    let named = r#"{"kind":"delivery","session":0,"seq":1,"qos":1,"retain":false,"message_id":4}"#;
    let inline = r#"{"kind":"delivery","session":0,"seq":1,"qos":1,"retain":false,"message":{"topic":"a","qos":1,"retain":false,"payload":"eA=="}}"#;
    let filter = r#"{"kind":"subscription","session":0,"subscription":{"filter":"a/#","qos":1}}"#;
    let retained = r#"{"kind":"retained","account":{"kind":"Device","name":"d"},"message":{"topic":"a","qos":1,"retain":true,"payload":""}}"#;
    let all = [STORE, MESSAGE, &session, filter, named, retained, END].join("\n");
    let folder = tempfile::tempdir().unwrap();
    let lines = import_text(&format!("{all}\n"), &folder.path().join("fine")).unwrap();
    assert_eq!(lines, 7);
    let with = |line: &str| [STORE, &session, line, END, ""].join("\n");
    let long = "x".repeat(70_000);
    for (text, line, what) in [
        (String::new(), 1, "the first line has to be of kind `store`"),
        (format!("{session}\n"), 1, "the first line has to be of kind `store`"),
        (STORE.replace('3', "4") + "\n", 1, "`format`: it is 4, and this version reads 3; use"),
        (all.clone(), 7, "the line has no end; write all of it"),
        (all.replace(END, ""), 6, "a line of kind `end` has to come last"),
        (with(END), 4, "it comes behind the line of kind `end`"),
        (with(STORE), 3, "`kind`: there is a second store; remove the line"),
        (with("{}"), 3, "missing field `kind`"),
        (with("{\"kind\":\"sessions\"}"), 3, "unknown variant `sessions`"),
        (with(&filter.replace("qos", "qoss")), 3, "unknown field `qoss`"),
        (with(&filter.replace("a/#", "a/#/b")), 3, "`filter`: "),
        (with(&filter.replace(":1}", ":3}")), 3, "`qos`: there is none such; write 0, 1 or 2"),
        (
            with(&filter.replace("\"session\":0", "\"session\":9")),
            3,
            "`session`: there is no session 9 before this; put its line first",
        ),
        (with(&session), 3, "this is there already; remove one of the two"),
        (with(&inline.replace("eA==", "!")), 3, "this is no base64"),
        (with(&inline.replace("\"seq\":1", "\"seq\":0")), 3, "`seq`: numbers begin with 1"),
        (with(&inline.replace("\"topic\":\"a\"", "\"topic\":\"a/#\"")), 3, "`topic`: "),
        (with(&format!("{inline}\n{inline}")), 4, "`seq`: delivery 1 of the session came before"),
        (with(named), 3, "`message_id`: there is no message 4 before this"),
        (with(&named.replace(",\"message_id\":4", "")), 3, "write one of them"),
        (with(MESSAGE), 3, "`id`: no delivery names message 4; remove the line"),
        (
            with(&MESSAGE.replace(":4", &format!(":{}", u64::MAX))),
            3,
            "`id`: 18446744073709551615 is too large",
        ),
        (with(r#"{"kind":"received","session":0,"packet_id":0}"#), 3, "`packet_id`: 0 is none"),
        (
            with(&retained.replace("\"message\"", "\"expires_at\":\"soon\",\"message\"")),
            3,
            "this is no time",
        ),
        (
            with(&retained.replace(
                "\"payload\"",
                &format!("\"properties\":{{\"content_type\":\"{long}\"}},\"payload\""),
            )),
            3,
            "longer than MQTT or the store can hold; shorten it",
        ),
        (
            with(&retained.replace(
                "\"payload\"",
                "\"properties\":{\"content_type\":\"\\u0000\"},\"payload\"",
            )),
            3,
            "MQTT cannot say this",
        ),
    ] {
        let place = folder.path().join("refused");
        let error = import_text(&text, &place).unwrap_err().to_string();
        assert!(error.starts_with(&format!("x.jsonl:{line}: ")), "{error} of {text:.200}");
        assert!(error.contains(what), "{what}: {error}");
        assert!(!place.join("data").exists() && !place.join("data.new").exists());
    }
    let error = import_text(&all, &folder.path().join("fine")).unwrap_err().to_string();
    assert!(error.contains("there is a store already"), "{error}");
}

#[test]
fn any_text_is_imported_or_refused() {
    let whole = [STORE, &session_line(), END, ""].join("\n");
    let characters: Vec<char> = whole.chars().collect();
    let change = (any::<prop::sample::Index>(), "[\\PC\\x00-\\x1f]{0,12}", 0..9_usize);
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("store");
    let mut runner = prop::test_runner::TestRunner::new(ProptestConfig::with_cases(32));
    let run = runner.run(&change, |(at, text, cut)| {
        let (head, rest) = characters.split_at(at.index(characters.len()));
        let rest = rest.get(cut..).unwrap_or_default();
        let changed = head.iter().copied().chain(text.chars()).chain(rest.iter().copied());
        let is_taken = import_text(&changed.collect::<String>(), &place).is_ok();
        prop_assert_eq!(is_taken, place.join("data").exists());
        if is_taken {
            prop_assert!(verify(&place).unwrap().findings.is_empty());
        }
        std::fs::remove_dir_all(&place).unwrap();
        Ok(())
    });
    run.unwrap();
}
