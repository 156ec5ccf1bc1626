//! The client identifier.

use std::sync::Arc;

/// A client identifier: UTF-8, at most 65,535 bytes, never empty. Cheap to clone.
///
/// An empty identifier in CONNECT asks the broker to assign one (MQTT 5.0 section 3.1.3.1), so
/// it never becomes a `ClientId`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(Arc<str>);

impl ClientId {
    /// Parses an identifier. `None` when it is empty or longer than 65,535 bytes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (!text.is_empty() && u16::try_from(text.len()).is_ok()).then(|| Self(text.into()))
    }

    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shared text itself.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl std::fmt::Display for ClientId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for ClientId {
    fn borrow(&self) -> &str {
        &self.0
    }
}
