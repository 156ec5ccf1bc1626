//! Topics and filters, against definitions that are slow and plain.

use crate::mqtt::topic::TOPIC_BYTES_MAX;
use crate::mqtt::{SubscriptionFilter, TopicFilter, TopicName};
use crate::policy::Normalised;

/// The bytes are three lines: a topic name and two filters, perhaps shared. What parses must be
/// what the specification allows, must match as it says, and must obey the laws of sets.
///
/// # Panics
/// When that does not hold.
pub fn topic(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if text.len() > TOPIC_BYTES_MAX {
        return;
    }
    let mut lines = text.splitn(3, '\n');
    let topic = lines.next().and_then(topic_name);
    let filters: Vec<TopicFilter> = lines.filter_map(subscription_filter).collect();
    for filter in &filters {
        if let Some(topic) = &topic {
            matches_as_defined(filter, topic);
            covers_what_it_matches(filter, topic);
        }
        for other in &filters {
            obey_the_laws_of_sets(filter, other, topic.as_ref());
        }
    }
}

fn topic_name(text: &str) -> Option<TopicName> {
    let parsed = TopicName::parse(text);
    let expected = !text.is_empty() && !text.contains(['+', '#']) && !has_control(text);
    assert_eq!(parsed.is_ok(), expected, "{text:?}");
    let topic = parsed.ok()?;
    assert_eq!(topic.as_str(), text);
    assert_eq!(topic.levels().collect::<Vec<_>>().join("/"), text);
    Some(topic)
}

/// The filter inside a subscription, as it is matched and authorised.
fn subscription_filter(text: &str) -> Option<TopicFilter> {
    let parsed = SubscriptionFilter::parse(text);
    assert_eq!(parsed.is_ok(), may_be_subscribed(text), "{text:?}: {parsed:?}");
    assert_eq!(TopicFilter::parse(text).is_ok(), may_be_filter(text), "{text:?}");
    let subscription = parsed.ok()?;
    assert_eq!(subscription.to_string(), text);
    assert_eq!(subscription.share.is_some(), text.starts_with("$share/"));
    assert_eq!(subscription.filter.has_wildcard(), text.contains(['+', '#']));
    Some(subscription.filter)
}

/// MQTT 5.0 section 4.8.2.
fn may_be_subscribed(text: &str) -> bool {
    let Some(shared) = text.strip_prefix("$share/") else { return may_be_filter(text) };
    shared.split_once('/').is_some_and(|(name, filter)| {
        let named = !name.is_empty() && !name.contains(['+', '#']) && !has_control(name);
        named && may_be_filter(filter)
    })
}

/// MQTT 5.0 section 4.7, without shared subscriptions.
fn may_be_filter(text: &str) -> bool {
    let levels: Vec<&str> = text.split('/').collect();
    let whole = levels.iter().all(|level| level.len() == 1 || !level.contains(['+', '#']));
    let last = levels.iter().rev().skip(1).all(|level| *level != "#");
    let shared = levels.first() == Some(&"$share");
    !text.is_empty() && !has_control(text) && whole && last && !shared
}

/// MQTT 5.0 section 1.5.4, as this broker has it.
fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

fn matches_as_defined(filter: &TopicFilter, topic: &TopicName) {
    let filter_levels: Vec<&str> = filter.as_str().split('/').collect();
    let topic_levels: Vec<&str> = topic.levels().collect();
    let system = topic.as_str().starts_with('$') && filter.as_str().starts_with(['+', '#']);
    let expected = !system && levels_match(&filter_levels, &topic_levels);
    assert_eq!(filter.matches(topic.as_str()), expected, "{filter} {topic}");
}

fn levels_match(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) | ([], []) => true,
        ([wanted, filter @ ..], [level, topic @ ..]) => {
            (*wanted == "+" || wanted == level) && levels_match(filter, topic)
        }
        _ => false,
    }
}

fn obey_the_laws_of_sets(left: &TopicFilter, right: &TopicFilter, topic: Option<&TopicName>) {
    let (one, two) = (Normalised::of(left), Normalised::of(right));
    assert!(one.covers(&one), "{left} does not cover itself");
    let meet = one.meet(&two);
    assert_eq!(one.overlaps(&two), meet.is_some(), "{left} {right}");
    assert_eq!(one.overlaps(&two), two.overlaps(&one), "{left} {right}");
    if one.covers(&two) {
        assert_eq!(meet.as_ref(), Some(&two), "{left} covers {right}");
    }
    let matched = topic.map(|topic| left.matches(topic.as_str()) && right.matches(topic.as_str()));
    let Some(meet) = meet else {
        assert_ne!(matched, Some(true), "{left} {right} {topic:?}");
        return;
    };
    assert!(one.covers(&meet) && two.covers(&meet), "{left} {right} meet in {meet}");
    let text = meet.to_string();
    let Ok(shared) = TopicFilter::parse(&text) else {
        unreachable!("{left} and {right} meet in {text:?}")
    };
    assert_eq!(Normalised::of(&shared).levels(), meet.levels(), "{left} {right}");
    if let Some(topic) = topic {
        assert_eq!(Some(shared.matches(topic.as_str())), matched, "{left} {right} {topic}");
    }
}

/// A topic is a filter that matches itself alone, unless it looks like a shared subscription.
fn covers_what_it_matches(filter: &TopicFilter, topic: &TopicName) {
    let Ok(exact) = TopicFilter::parse(topic.as_str()) else { return };
    let (filter_set, exact) = (Normalised::of(filter), Normalised::of(&exact));
    let matched = filter.matches(topic.as_str());
    assert_eq!(filter_set.covers(&exact), matched, "{filter} {topic}");
    assert_eq!(filter_set.overlaps(&exact), matched, "{filter} {topic}");
}
