//! A question of a session that is there: it says what is asked for, and the rest is as it is.

use std::sync::Arc;
use std::time::SystemTime;

use super::facts::SessionFacts;
use super::question::{Question, QuestionError, Words};
use crate::identity::Identity;

/// The facts that may differ from one packet of a session to the next.
const OF_PACKET: [&str; 12] = [
    "qos",
    "retain",
    "will",
    "payload_size",
    "content_type",
    "user_property",
    "no_local",
    "clean_start",
    "session_expiry",
    "keep_alive",
    "has_will",
    "time",
];

impl Question {
    /// Reads a question of a session: who asks, and the facts of the connection, are the
    /// session's, and the principal and groups in the words are not looked at; a time that is not
    /// said is `now`.
    ///
    /// # Errors
    /// As [`Self::parse`], and for a fact that is the session's.
    pub fn of_session(
        identity: Arc<Identity>,
        session: Arc<SessionFacts>,
        words: &Words<'_>,
        now: SystemTime,
    ) -> Result<Self, QuestionError> {
        let now = humantime::format_rfc3339_millis(now).to_string();
        // Of several the last one counts.
        let is_time = |(name, _): &(&str, &str)| *name == "time";
        let mut facts = vec![("time", now.as_str())];
        facts.retain(|_| !words.facts.iter().any(is_time));
        facts.extend(&words.facts);
        let anybody = Words { principal: "Device::anybody", groups: Vec::new(), facts, ..*words };
        let Self { asked, session: ordinary, .. } = Self::parse(&anybody)?;
        if let Some((name, _)) = words.facts.iter().find(|(name, _)| !OF_PACKET.contains(name)) {
            return Err(QuestionError::new(
                format!("{name} is a fact of the session, and is what it is there"),
                "remove it; `portcullis policy explain` answers for any session",
            ));
        }
        if words.action == "connect" && ordinary.listener != session.listener {
            return Err(QuestionError::new(
                format!("the session is not on listener {:?}", ordinary.listener),
                format!("it is on {:?}", session.listener),
            ));
        }
        Ok(Self { identity, session, asked })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::world::bundle;

    const POLICIES: &str = r#"
        @id("own") permit (principal is Device, action in [Action::"write", Action::"read"],
            resource in TopicFilter::"devices/${cn}/#");
        @id("door") permit (principal, action == Action::"connect", resource == Listener::"devices")
            when { context.time < datetime("2026-12-31") };
    "#;

    #[test]
    fn a_session_is_asked_for_as_it_is() {
        let words = |action, resource, facts: &[(&'static str, &'static str)]| Words {
            action,
            resource,
            facts: facts.to_vec(),
            ..Words::default()
        };
        let Question { identity, session, .. } =
            Question::parse(&Words { principal: "Device::dev1", ..words("publish", "a", &[]) })
                .unwrap();
        let read = |words: &Words<'_>| {
            let (identity, session) = (Arc::clone(&identity), Arc::clone(&session));
            Question::of_session(identity, session, words, SystemTime::UNIX_EPOCH)
                .map(|question| question.ask(&bundle(POLICIES)).to_string())
                .map_err(|error| format!("{error}; {}", error.remedy))
        };
        for (words, expected) in [
            (words("publish", "devices/dev1/t", &[("qos", "1")]), Ok("allowed by own")),
            (words("publish", "devices/dev2/t", &[]), Ok("denied: no policy permits it")),
            (words("connect", "devices", &[]), Ok("allowed by door")),
            (
                words("connect", "devices", &[("time", "2027-01-01")]),
                Ok("denied: no policy permits it"),
            ),
            (
                words("publish", "a", &[("cn", "dev2")]),
                Err(
                    "cn is a fact of the session, and is what it is there; remove it; `portcullis policy explain` answers for any session",
                ),
            ),
            (
                words("publish", "a", &[("tag:plant", "fra1")]),
                Err(
                    "tag:plant is a fact of the session, and is what it is there; remove it; `portcullis policy explain` answers for any session",
                ),
            ),
            (
                words("publish", "a", &[("qoos", "1")]),
                Err("\"qoos\" is no fact; did you mean qos?"),
            ),
        ] {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(read(&words), expected, "{words:?}");
        }
    }
}
