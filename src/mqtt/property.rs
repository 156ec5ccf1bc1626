//! Properties of MQTT 5.0.

/// User properties in the order they were sent; a name may stand more than once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserProperties(pub Vec<(Box<str>, Box<str>)>);

impl UserProperties {
    /// True when there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
