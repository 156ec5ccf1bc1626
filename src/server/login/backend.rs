//! The HTTP back end: a server is asked, and whatever is not a clear yes in time refuses.

use std::time::Instant;

use bytes::Bytes;
use serde_json::json;

use super::method::{Method, State};
use super::{Attempt, How, Logins};
use crate::identity::method::answer::{self, AnswerError};
use crate::identity::method::password::PASSWORD_BYTES_MAX;
use crate::identity::method::{Accepted, Refusal};

/// The largest answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Asks the server of a method about a user name and a password.
pub(super) async fn ask(
    method: &Method,
    attempt: &Attempt<'_>,
    username: &str,
    password: &[u8],
    logins: &Logins,
) -> Result<Accepted, Refusal> {
    let unavailable = |why: String| Refusal::Unavailable(why);
    let How::Http { conferred, kept, .. } = &method.settings().how else {
        return Err(unavailable("the method has no server".to_owned()));
    };
    let secret = std::str::from_utf8(password).ok().filter(|text| text.len() <= PASSWORD_BYTES_MAX);
    let secret = secret.ok_or_else(|| Refusal::Wrong("a password that is no text".to_owned()))?;
    let address = attempt.address.map(|address| address.to_canonical().to_string());
    let key = logins.cache.key(&[
        b"http",
        method.name().as_bytes(),
        username.as_bytes(),
        password,
        attempt.client_id.as_bytes(),
        attempt.listener.as_bytes(),
        address.as_deref().unwrap_or_default().as_bytes(),
    ]);
    let era = match logins.cache.find(&key, attempt.now) {
        Ok(known) => return Ok(known),
        Err(era) => era,
    };
    let state = method.state();
    let State::Backend(server) = &*state else {
        return Err(unavailable("the method has no server".to_owned()));
    };
    let Ok(_place) = method.requests.try_acquire() else {
        let why = format!("as many requests to {} are under way as may be", server.place());
        return Err(Refusal::Busy(why));
    };
    if !method.breaker.may_ask(attempt.now) {
        return Err(unavailable(format!("{} has failed and is left alone", server.place())));
    }
    let question = json!({
        "username": username,
        "password": secret,
        "client_id": attempt.client_id,
        "listener": attempt.listener,
        "address": address,
    });
    let body = server.post(Bytes::from(question.to_string()), ANSWER_BYTES_MAX).await;
    let about = |why: &dyn std::fmt::Display| format!("{}: {why}", server.place());
    let body = body.map_err(|error| {
        method.breaker.failed(Instant::now());
        unavailable(about(&error))
    })?;
    match answer::read(&body, username, conferred) {
        Ok(yes) => {
            method.breaker.answered();
            logins.cache.keep(key, era, &yes, *kept, attempt.now);
            Ok(yes)
        }
        Err(error @ AnswerError::Denied) => {
            method.breaker.answered();
            Err(Refusal::Wrong(about(&error)))
        }
        Err(error) => {
            method.breaker.failed(Instant::now());
            Err(unavailable(about(&error)))
        }
    }
}
