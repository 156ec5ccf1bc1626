//! Topic names and topic filters, parsed once at the edge.

use std::sync::Arc;

use super::reason::{ReasonCode, Violation};

/// The longest topic name or filter, in bytes (a UTF-8 string has a two-byte length).
pub const TOPIC_BYTES_MAX: usize = 65_535;

/// A topic name: not empty, no wildcard, no control character. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Parses a topic name.
    ///
    /// # Errors
    /// A [`Violation`] for an empty name, a wildcard, a control character or more than 65,535
    /// bytes (MQTT 5.0 sections 1.5.4, 3.3.2.1 and 4.7).
    pub fn parse(text: &str) -> Result<Self, Violation> {
        check_topic_name(text)?;
        Ok(Self(text.into()))
    }

    /// The topic as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The levels, from the first on; a topic has at least one.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// True when both are one and the same allocation: a quick test before comparing text.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl std::fmt::Display for TopicName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Checks the text of a topic name without making one.
///
/// # Errors
/// As [`TopicName::parse`].
pub fn check_topic_name(text: &str) -> Result<(), Violation> {
    if text.is_empty() {
        return Err(Violation::protocol("MQTT-4.7.3-1", "a topic name is empty"));
    }
    if text.len() > TOPIC_BYTES_MAX {
        return Err(Violation::malformed(
            "MQTT-4.7.3-3",
            "a topic name is longer than 65,535 bytes",
        ));
    }
    // One pass without an early exit, so that it is done many bytes at a time. 0xC2 begins the
    // control characters beyond ASCII, and others.
    let suspect = |byte| matches!(byte, b'+' | b'#' | 0..=0x1F | 0x7F | 0xC2);
    if !text.bytes().fold(false, |found, byte| found | suspect(byte)) {
        return Ok(());
    }
    if text.contains('\0') {
        return Err(Violation::malformed("MQTT-1.5.4-2", "a topic name holds NUL"));
    }
    check_no_control(text, "a topic name holds a control character")?;
    if text.contains(['+', '#']) {
        return Err(Violation::because(
            ReasonCode::TopicNameInvalid,
            "MQTT-3.3.2-2",
            "a topic name holds a wildcard",
        ));
    }
    Ok(())
}

/// Refuses control characters in what names something: no name needs them, and they are made to
/// deceive whoever reads it. The specification leaves it to the receiver (section 1.5.4).
///
/// # Errors
/// A [`Violation`] that says `what`.
pub(crate) fn check_no_control(text: &str, what: &'static str) -> Result<(), Violation> {
    if text.chars().any(char::is_control) {
        return Err(Violation::malformed("1.5.4", what));
    }
    Ok(())
}

/// One level of a topic filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level<'a> {
    /// A literal level, possibly empty.
    Literal(&'a str),
    /// `+`: any one level.
    Plus,
    /// `#`: the parent and any number of levels below; always the last.
    Hash,
}

/// A topic filter without its `$share/<name>/` prefix: not empty, wildcards only as whole
/// levels, `#` only at the end, no control character. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter(Arc<str>);

impl TopicFilter {
    /// Parses a topic filter.
    ///
    /// # Errors
    /// A [`Violation`] for an empty filter, a wildcard that is not a whole level, a `#` before
    /// the end, a control character or more than 65,535 bytes (MQTT 5.0 section 4.7). A filter that begins
    /// with `$share` is refused too: see [`SubscriptionFilter`].
    pub fn parse(text: &str) -> Result<Self, Violation> {
        if text.is_empty() {
            return Err(Violation::protocol("MQTT-4.7.3-1", "a topic filter is empty"));
        }
        if text.len() > TOPIC_BYTES_MAX {
            return Err(Violation::malformed(
                "MQTT-4.7.3-3",
                "a topic filter is longer than 65,535 bytes",
            ));
        }
        if text.contains('\0') {
            return Err(Violation::malformed("MQTT-4.7.3-2", "a topic filter holds NUL"));
        }
        check_no_control(text, "a topic filter holds a control character")?;
        if text == "$share" || text.starts_with("$share/") {
            return Err(Violation::because(
                ReasonCode::TopicFilterInvalid,
                "MQTT-4.8.2-2",
                "a shared subscription has no filter, or one inside the other",
            ));
        }
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            if level == "#" {
                if levels.peek().is_some() {
                    return Err(Violation::because(
                        ReasonCode::TopicFilterInvalid,
                        "MQTT-4.7.1-1",
                        "a # is not the last level of its filter",
                    ));
                }
            } else if level.contains('#') {
                return Err(Violation::because(
                    ReasonCode::TopicFilterInvalid,
                    "MQTT-4.7.1-1",
                    "a # is not a whole level of its filter",
                ));
            } else if level != "+" && level.contains('+') {
                return Err(Violation::because(
                    ReasonCode::TopicFilterInvalid,
                    "MQTT-4.7.1-2",
                    "a + is not a whole level of its filter",
                ));
            }
        }
        Ok(Self(text.into()))
    }

    /// The filter as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The levels as written (not normalised), from the first on.
    pub fn levels(&self) -> impl Iterator<Item = Level<'_>> {
        self.0.split('/').map(|level| match level {
            "+" => Level::Plus,
            "#" => Level::Hash,
            literal => Level::Literal(literal),
        })
    }

    /// True when the filter holds `+` or `#`.
    #[must_use]
    pub fn has_wildcard(&self) -> bool {
        self.0.contains(['+', '#'])
    }

    /// True when the topic matches (MQTT 5.0 section 4.7; a wildcard at the first level does
    /// not match a topic that begins with `$`).
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        let mut rest = topic.split('/');
        let mut first = true;
        for level in self.levels() {
            let system = first && topic.starts_with('$');
            first = false;
            match level {
                Level::Hash => return !system,
                Level::Plus => {
                    if system || rest.next().is_none() {
                        return false;
                    }
                }
                Level::Literal(text) => {
                    if rest.next() != Some(text) {
                        return false;
                    }
                }
            }
        }
        rest.next().is_none()
    }
}

impl std::fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a share group: not empty, without `/`, `+`, `#` and control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareName(Arc<str>);

impl ShareName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a SUBSCRIBE or UNSUBSCRIBE asks for: a filter, perhaps shared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionFilter {
    /// The share group of `$share/<name>/<filter>`.
    pub share: Option<ShareName>,
    /// The filter itself: what is matched, and what is authorised.
    pub filter: TopicFilter,
}

impl SubscriptionFilter {
    /// Parses the text of one SUBSCRIBE entry.
    ///
    /// # Errors
    /// As [`TopicFilter::parse`]; for `$share`, also an empty group, a wildcard in it, an empty
    /// filter, or a filter that is itself shared (MQTT 5.0 section 4.8.2).
    pub fn parse(text: &str) -> Result<Self, Violation> {
        let Some(shared) = text.strip_prefix("$share/") else {
            return Ok(Self { share: None, filter: TopicFilter::parse(text)? });
        };
        let invalid =
            |what| Violation::because(ReasonCode::TopicFilterInvalid, "MQTT-4.8.2-2", what);
        let (name, filter) =
            shared.split_once('/').ok_or_else(|| invalid("a shared subscription has no filter"))?;
        check_no_control(name, "a share group holds a control character")?;
        if name.is_empty() {
            return Err(Violation::because(
                ReasonCode::TopicFilterInvalid,
                "MQTT-4.8.2-1",
                "the name of a share group is empty",
            ));
        }
        if name.contains(['+', '#', '\0']) {
            return Err(invalid("the name of a share group holds a wildcard or NUL"));
        }
        if filter.is_empty() {
            return Err(invalid("the filter of a shared subscription is empty"));
        }
        Ok(Self { share: Some(ShareName(name.into())), filter: TopicFilter::parse(filter)? })
    }
}

impl std::fmt::Display for SubscriptionFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.share {
            Some(share) => write!(f, "$share/{}/{}", share.as_str(), self.filter),
            None => write!(f, "{}", self.filter),
        }
    }
}
