//! A topic filter of an ACL file: levels may stand for who asks.

use super::super::filters::Normalised;
use super::super::policy_filter::{FilterProblem, PolicyFilter, usable};
use super::Dialect;
use super::model::Client;
use crate::mqtt::TopicFilter;
use crate::pki;

/// A filter in which `%u` and `%c` are placeholders.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AclFilter {
    /// The filter with `+` for each placeholder.
    widest: TopicFilter,
    placeholders: Box<[(usize, Stands)]>,
}

/// What a placeholder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stands {
    /// `%u`: the name of the user.
    Name,
    /// `%c`: the client identifier.
    ClientId,
}

/// Why a filter cannot be taken over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AclFilterProblem {
    /// A level holds more than the placeholder.
    ///
    /// Mosquitto 2.0 fills it in, Mosquitto 2.1 and VerneMQ do not.
    #[error("a placeholder fills one whole level, and {0:?} has more in it")]
    PartOfLevel(Box<str>),
    /// VerneMQ's `%m`.
    #[error("there are no mountpoints, so that %m stands for nothing")]
    Mountpoint,
    /// `${`, which would be a placeholder in a policy and is text in an ACL file.
    #[error("{0:?} would be a placeholder in a policy")]
    PolicyPlaceholder(Box<str>),
    /// A character that cannot be shown.
    #[error("the topic holds {0:?}")]
    Unsafe(char),
    /// Policies cannot have such a filter.
    #[error(transparent)]
    Policy(#[from] FilterProblem),
}

impl AclFilter {
    /// Takes a filter of an ACL file; only in a `pattern` line there are placeholders.
    pub(super) fn parse(
        text: &str,
        is_pattern: bool,
        dialect: Dialect,
    ) -> Result<Self, AclFilterProblem> {
        if let Some(character) = pki::unsafe_character(text) {
            return Err(AclFilterProblem::Unsafe(character));
        }
        let mut placeholders = Vec::new();
        let mut levels: Vec<&str> = Vec::new();
        for (index, level) in text.split('/').enumerate() {
            let stands = match level {
                _ if level.contains("${") => {
                    return Err(AclFilterProblem::PolicyPlaceholder(level.into()));
                }
                _ if !is_pattern => None,
                "%u" => Some(Stands::Name),
                "%c" => Some(Stands::ClientId),
                "%m" if dialect == Dialect::Vernemq => return Err(AclFilterProblem::Mountpoint),
                _ if level.contains("%u") || level.contains("%c") => {
                    return Err(AclFilterProblem::PartOfLevel(level.into()));
                }
                _ => None,
            };
            placeholders.extend(stands.map(|stands| (index, stands)));
            levels.push(if stands.is_some() { "+" } else { level });
        }
        let widest = levels.join("/");
        let widest = TopicFilter::parse(&widest)
            .map_err(|violation| FilterProblem::Invalid(violation.what))?;
        let filter = Self { widest, placeholders: placeholders.into() };
        PolicyFilter::parse(&filter.policy_text())?;
        Ok(filter)
    }

    /// As it stands in a policy.
    pub(super) fn policy_text(&self) -> String {
        self.with(|stands| match stands {
            Stands::Name => "${principal}",
            Stands::ClientId => "${client_id}",
        })
    }

    /// True when it holds `%u`: an anonymous client has no name to fill it.
    pub(super) fn names_user(&self) -> bool {
        self.placeholders.iter().any(|(_, stands)| *stands == Stands::Name)
    }

    /// True when it holds `%c`.
    pub(super) fn names_client_id(&self) -> bool {
        self.placeholders.iter().any(|(_, stands)| *stands == Stands::ClientId)
    }

    /// True when there may be a client and a topic that both match.
    pub(super) fn may_overlap(&self, other: &Self) -> bool {
        Normalised::of(&self.widest).overlaps(&Normalised::of(&other.widest))
    }

    /// True when the topic matches for this client.
    pub(super) fn matches(&self, topic: &str, client: &Client) -> bool {
        self.widest.matches(topic)
            && self.placeholders.iter().all(|(index, stands)| {
                let value = client.value(*stands, *index == 0);
                value.is_some() && topic.split('/').nth(*index) == value
            })
    }

    /// True when every topic of `filter` matches for this client.
    pub(super) fn covers(&self, filter: &TopicFilter, client: &Client) -> bool {
        let covers = |own: &TopicFilter| Normalised::of(own).covers(&Normalised::of(filter));
        covers(&self.widest) && self.filled(client).is_some_and(|own| covers(&own))
    }

    /// The filter that it is for this client; `None` when a value cannot fill a level.
    pub(super) fn filled(&self, client: &Client) -> Option<TopicFilter> {
        let fits = |(index, stands): &(usize, Stands)| client.value(*stands, *index == 0);
        if !self.placeholders.iter().all(|placeholder| fits(placeholder).is_some()) {
            return None;
        }
        let text = self.with(|stands| client.value(stands, false).unwrap_or_default());
        TopicFilter::parse(&text).ok()
    }

    /// The text with other levels for the placeholders.
    fn with<'a>(&'a self, text_for: impl Fn(Stands) -> &'a str) -> String {
        let mut levels: Vec<&str> = self.widest.as_str().split('/').collect();
        for (index, stands) in &self.placeholders {
            if let Some(level) = levels.get_mut(*index) {
                *level = text_for(*stands);
            }
        }
        levels.join("/")
    }
}

impl Client {
    /// What fills a level for this client, if anything does: as in policies.
    fn value(&self, stands: Stands, first: bool) -> Option<&str> {
        let value = match stands {
            Stands::Name => self.name.as_deref()?,
            Stands::ClientId => &self.client_id,
        };
        usable(value, first).then_some(value)
    }
}
