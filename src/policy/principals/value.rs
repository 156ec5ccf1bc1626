//! The values of the file: what a name, a principal, a hash and a tag may be.

use std::sync::Arc;

use crate::identity::PrincipalKind;
use crate::identity::certificate::ALTERNATIVE_NAME_BYTES_MAX;
use crate::pki::unsafe_character;
use crate::policy::policy_filter::usable;
use crate::policy::question::principal;

/// Bytes of the name of a group or a tag, and of the value of a tag.
const SHORT_BYTES_MAX: usize = 256;

/// What is wrong with a value, and what to do.
pub(super) type Fault = (String, String);

/// The name of a group or a tag.
pub(super) fn short_name(text: &str) -> Result<Arc<str>, Fault> {
    name(text, SHORT_BYTES_MAX).map(Arc::from)
}

fn name(text: &str, bytes_max: usize) -> Result<&str, Fault> {
    let fault = |message: String, remedy: &str| Err((message, remedy.to_owned()));
    if text.is_empty() {
        return fault("the name is empty".to_owned(), "write one");
    }
    if text.len() > bytes_max {
        let message = format!("the name has {} bytes; {bytes_max} are allowed", text.len());
        return fault(message, "shorten it");
    }
    match unsafe_character(text) {
        Some(character) => fault(
            format!("the name has the character U+{:04X}", u32::from(character)),
            "remove it: it cannot be seen, or changes how the rest is shown",
        ),
        None => Ok(text),
    }
}

/// A principal, as `Device::dev1`.
pub(super) fn principal_name(text: &str) -> Result<(PrincipalKind, Arc<str>), Fault> {
    let (kind, named) = principal(text).map_err(|error| (error.message, error.remedy))?;
    name(&named, ALTERNATIVE_NAME_BYTES_MAX)?;
    if kind == PrincipalKind::Anonymous && &*named != "anonymous" {
        let message = format!("nobody is Anonymous::{named:?}");
        let remedy = "all clients without credentials are Anonymous::anonymous";
        return Err((message, remedy.to_owned()));
    }
    Ok((kind, named))
}

/// A SHA-256 in hex, in lower case.
pub(super) fn hash(text: &str, of: &str) -> Result<Arc<str>, Fault> {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase().into());
    }
    let remedy = format!("write the SHA-256 of the {of}: 64 hexadecimal digits without colons");
    Err((format!("{text:?} is no hash"), remedy))
}

/// The value of a tag, which has to be able to fill one level of a topic.
pub(super) fn tag_value(text: &str) -> Result<Arc<str>, Fault> {
    if text.len() > SHORT_BYTES_MAX {
        let message = format!("the value has {} bytes; {SHORT_BYTES_MAX} are allowed", text.len());
        return Err((message, "shorten it".to_owned()));
    }
    if !usable(text, true) || unsafe_character(text).is_some() {
        let remedy = "write one that can be a level of a topic: not empty, without / + # and \
                      control characters, and not beginning with $";
        return Err((format!("the value {text:?} fits no level of a topic"), remedy.to_owned()));
    }
    Ok(text.into())
}
