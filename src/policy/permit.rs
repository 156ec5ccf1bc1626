//! The two outcomes of a judgement: a permit that later code must hold, and a denial.

use std::fmt;
use std::sync::Arc;

use super::PolicyEpoch;
use crate::identity::Identity;

/// Something that a policy allowed, together with who may do it and under which policies.
///
/// It lasts no longer than the subject that was judged stays as it is. Only this module's
/// neighbours can make one, by judging the very value inside:
///
/// ```compile_fail,E0451
/// use portcullis::identity::Identity;
/// use portcullis::policy::{Permitted, PolicyEpoch};
/// fn forge(principal: &Identity) -> Permitted<'_, &'static str> {
///     Permitted { value: "secret/topic", epoch: PolicyEpoch(1), principal }
/// }
/// ```
///
/// and nobody can change what is inside:
///
/// ```compile_fail,E0616
/// use portcullis::policy::Permitted;
/// fn swap(mut permitted: Permitted<'_, String>) {
///     permitted.value = "another/topic".into();
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Permitted<'p, T> {
    value: T,
    epoch: PolicyEpoch,
    principal: &'p Identity,
}

impl<'p, T> Permitted<'p, T> {
    pub(super) fn new(value: T, epoch: PolicyEpoch, principal: &'p Identity) -> Self {
        Self { value, epoch, principal }
    }

    /// What is permitted.
    pub fn get(&self) -> &T {
        &self.value
    }

    /// What was permitted; from here on it is not any more.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// The policies it is permitted by.
    pub fn epoch(&self) -> PolicyEpoch {
        self.epoch
    }

    /// Who may do it.
    pub fn principal(&self) -> &'p Identity {
        self.principal
    }
}

/// Why something is not allowed. Its text is for the operator, never for the peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denial {
    /// The ids of the policies that forbid it, in order; none when nothing permits it.
    pub policies: Vec<Arc<str>>,
    /// Errors of the evaluation. Where there is one, everything is denied: Cedar leaves out a
    /// policy whose evaluation fails, and that could have been a forbid.
    pub errors: Vec<String>,
}

impl Denial {
    pub(super) fn failed(error: impl fmt::Display) -> Self {
        Self { policies: Vec::new(), errors: vec![error.to_string()] }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.policies.is_empty() && self.errors.is_empty() {
            return f.write_str("no policy permits it");
        }
        if !self.policies.is_empty() {
            write!(f, "forbidden by {}", self.policies.join(", "))?;
        }
        for (index, error) in self.errors.iter().enumerate() {
            let separator = if index == 0 && self.policies.is_empty() { "" } else { "; " };
            write!(f, "{separator}refused for {}", error.escape_debug())?;
        }
        Ok(())
    }
}

impl std::error::Error for Denial {}

/// A message that was not permitted, given back with the reason.
#[derive(Debug)]
pub struct Denied<M> {
    /// Why.
    pub denial: Denial,
    /// The message.
    pub message: M,
}

/// A decision as caches keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Allowed,
    Denied(Arc<Denial>),
}

impl Verdict {
    #[inline]
    pub(super) fn result(&self) -> Result<(), Denial> {
        match self {
            Self::Allowed => Ok(()),
            Self::Denied(denial) => Err(Denial::clone(denial)),
        }
    }
}

impl From<Result<(), Denial>> for Verdict {
    fn from(result: Result<(), Denial>) -> Self {
        match result {
            Ok(()) => Self::Allowed,
            Err(denial) => Self::Denied(Arc::new(denial)),
        }
    }
}
