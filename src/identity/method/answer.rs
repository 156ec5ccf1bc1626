//! What an HTTP back end answers: `{"allow": true, "principal": "ann", "groups": [], "tags": {}}`.

use std::sync::Arc;

use serde_json::Value;

use super::{Accepted, ClaimError, Conferred, check_name, text};

/// Why an answer lets nobody in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It says no.
    #[error("it says no")]
    Denied,
    /// It cannot be understood.
    #[error("its answer is no JSON object with a field \"allow\" that is true or false")]
    NotAnAnswer,
    /// Something in it is not what it should be.
    #[error("in its answer, {0}")]
    Claim(#[from] ClaimError),
}

/// Reads an answer; without a principal it is about `username`.
///
/// # Errors
/// Whatever is not a clear yes.
pub fn read(body: &[u8], username: &str, conferred: &Conferred) -> Result<Accepted, AnswerError> {
    let Ok(Value::Object(answer)) = serde_json::from_slice(body) else {
        return Err(AnswerError::NotAnAnswer);
    };
    match answer.get("allow") {
        Some(Value::Bool(true)) => {}
        Some(Value::Bool(false)) => return Err(AnswerError::Denied),
        _ => return Err(AnswerError::NotAnAnswer),
    }
    let name = match answer.get("principal") {
        None | Some(Value::Null) => username,
        Some(_) => text(&answer, "principal")?,
    };
    let name: Arc<str> = check_name("principal", name)?;
    let groups = conferred.groups_of(&answer, "groups")?;
    let tags = match answer.get("tags") {
        None | Some(Value::Null) => std::collections::BTreeMap::new(),
        Some(Value::Object(tags)) => conferred.tags_of(tags)?,
        Some(_) => {
            let claim = "tags".to_owned();
            return Err(ClaimError::Type { claim, expected: "an object of texts" }.into());
        }
    };
    Ok(Accepted { groups, tags, ..Accepted::named(name) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_a_yes() {
        let conferred = Conferred { groups: ["ops".into()].into(), tags: ["site".into()].into() };
        for (body, expected) in [
            (r#"{"allow": true}"#, Ok(("ann", 0))),
            (r#"{"allow": true, "principal": "bob", "groups": ["ops", "root"]}"#, Ok(("bob", 1))),
            (r#"{"allow": true, "principal": null}"#, Ok(("ann", 0))),
            (r#"{"allow": false, "principal": "bob"}"#, Err("it says no")),
            (r#"{"allow": 1}"#, Err("its answer")),
            (r#"{"allow": "true"}"#, Err("its answer")),
            ("{}", Err("its answer")),
            ("[true]", Err("its answer")),
            ("true", Err("its answer")),
            ("", Err("its answer")),
            (r#"{"allow": true, "principal": 7}"#, Err("in its answer, principal")),
            (r#"{"allow": true, "principal": ""}"#, Err("in its answer, principal")),
            (r#"{"allow": true, "principal": "a\u0000"}"#, Err("in its answer, principal")),
            (r#"{"allow": true, "groups": "ops"}"#, Err("in its answer, groups")),
            (r#"{"allow": true, "groups": [1]}"#, Err("in its answer, groups")),
            (r#"{"allow": true, "tags": []}"#, Err("in its answer, tags")),
            (r#"{"allow": true, "tags": {"site": 1}}"#, Err("in its answer, site")),
        ] {
            let read = read(body.as_bytes(), "ann", &conferred);
            match (read, expected) {
                (Ok(accepted), Ok((name, groups))) => {
                    assert_eq!((&*accepted.name, accepted.groups.len()), (name, groups), "{body}");
                }
                (Err(error), Err(start)) => {
                    assert!(error.to_string().starts_with(start), "{body}: {error}");
                }
                (read, _) => panic!("{body}: {read:?}"),
            }
        }
    }
}
