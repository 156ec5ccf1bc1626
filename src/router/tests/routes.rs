//! Who gets a message, and how long a publisher may remember it.

use super::*;

fn route(router: &Router, cache: &mut RouteCache, topic: &TopicName) -> Arc<Route> {
    cache.route(router, topic, None)
}

/// A first level that does not share its counter of changes with `level`.
fn unrelated(router: &Router, level: &str) -> String {
    let epoch = |text: &str| router.epochs.of(text);
    let before = epoch(level);
    let found = (0..1000).map(|number| format!("x{number}")).find(|other| {
        router.epochs.changed(&crate::mqtt::TopicFilter::parse(other).unwrap());
        epoch(level) == before
    });
    found.unwrap()
}

#[test]
fn a_route_is_kept_until_a_subscription_changes_that_could_matter() {
    let router = router();
    let other = unrelated(&router, "a");
    let reader = connected("reader");
    let mut cache = RouteCache::default();
    let topic = TopicName::parse("a/b").unwrap();
    let other_below = format!("{other}/+");
    let shared = |filter: &str| format!("$share/g/{filter}");
    for (filter, matters) in [
        ("a/b", true),
        ("a/c", true),
        ("a/#", true),
        ("a", true),
        ("+/b", true),
        ("#", true),
        ("+", true),
        (&shared("a/b"), true),
        (&shared("#"), true),
        (&other, false),
        (&other_below, false),
        (&shared(&other), false),
    ] {
        let before = route(&router, &mut cache, &topic);
        assert!(Arc::ptr_eq(&before, &route(&router, &mut cache, &topic)), "{filter}");
        let subscription = subscribe(&router, &reader, filter, options(Qos::AtMostOnce));
        let during = route(&router, &mut cache, &topic);
        assert_eq!(!Arc::ptr_eq(&before, &during), matters, "subscribe {filter}");
        let matches = subscription.filter.filter.matches("a/b");
        assert_eq!(during.matched, matches, "{filter}");
        drop(router.unsubscribe(&reader, &subscription));
        let after = route(&router, &mut cache, &topic);
        assert_eq!(!Arc::ptr_eq(&during, &after), matters, "unsubscribe {filter}");
        assert!(!after.matched, "{filter}");
    }
}

#[test]
fn a_route_follows_new_options() {
    let router = router();
    let reader = connected("reader");
    let mut cache = RouteCache::default();
    let topic = TopicName::parse("a").unwrap();
    for qos in [Qos::AtMostOnce, Qos::ExactlyOnce, Qos::AtLeastOnce] {
        subscribe(&router, &reader, "a", options(qos));
        let route = route(&router, &mut cache, &topic);
        assert_eq!(route.targets.iter().map(|target| target.qos).collect::<Vec<_>>(), [qos]);
    }
}

#[test]
fn more_topics_than_are_remembered_do_no_harm() {
    let router = router();
    let reader = connected("reader");
    subscribe(&router, &reader, "t/7", options(Qos::AtMostOnce));
    let mut cache = RouteCache::default();
    for number in (0..100).chain(0..100) {
        let topic = TopicName::parse(&format!("t/{number}")).unwrap();
        assert_eq!(route(&router, &mut cache, &topic).matched, number == 7);
        if number == 50 {
            cache.shed();
        }
    }
}

/// [MQTT-3.3.4-2], [MQTT-3.3.4-3]
#[test]
fn overlapping_subscriptions_become_one_delivery_with_the_highest_qos_and_all_identifiers() {
    let router = router();
    let (reader, other) = (connected("reader"), connected("other"));
    let with = |qos, id, retain_as_published| SubscriptionOptions {
        id: std::num::NonZeroU32::new(id),
        retain_as_published,
        ..options(qos)
    };
    subscribe(&router, &reader, "a/b", with(Qos::AtMostOnce, 3, false));
    subscribe(&router, &reader, "a/+", with(Qos::AtLeastOnce, 0, true));
    subscribe(&router, &reader, "#", with(Qos::AtMostOnce, 5, false));
    subscribe(&router, &reader, "c", with(Qos::ExactlyOnce, 7, false));
    subscribe(&router, &other, "a/#", with(Qos::ExactlyOnce, 9, false));
    let outcome = publish(&router, message("a/b", "x", Qos::ExactlyOnce, true));
    assert_eq!(outcome, Routed { queued: 2, dropped: 0, matched: true, commit: None });
    let got = waiting(&reader);
    assert_eq!(got.len(), 1);
    let mut ids = got[0].via.ids.to_vec();
    ids.sort_unstable();
    assert_eq!((got[0].qos, got[0].retain, &ids[..]), (Qos::AtLeastOnce, true, &[3, 5][..]));
    assert_eq!(got[0].via.subscriptions.len(), 3);
    let got = waiting(&other);
    assert_eq!(
        (got[0].qos, got[0].retain, &got[0].via.ids[..]),
        (Qos::ExactlyOnce, false, &[9][..])
    );
    // No delivery has more than the message's own QoS.
    publish(&router, message("a/b", "x", Qos::AtMostOnce, false));
    assert_eq!(waiting(&other)[0].qos, Qos::AtMostOnce);
}

/// [MQTT-3.8.3-3]
#[test]
fn a_no_local_subscription_does_not_get_its_own_clients_messages() {
    let router = router();
    let (own, other) = (connected("own"), connected("other"));
    let no_local = SubscriptionOptions { no_local: true, ..options(Qos::AtLeastOnce) };
    let (mut own_routes, mut other_routes) = (RouteCache::default(), RouteCache::default());
    let send = |from: &Arc<Peer>, routes: &mut RouteCache| {
        let mut subject = subject();
        let permit = permit(&mut subject, message("a", "x", Qos::ExactlyOnce, false));
        let mut wakes = Wakes::default();
        let routed = router
            .publish(permit, Publisher::Session(from), routes, &mut wakes, &|_, _| true)
            .unwrap();
        assert!(routed.matched, "if only by the one that is no-local");
        routed.queued > 0
    };
    subscribe(&router, &own, "a", no_local);
    assert!(!send(&own, &mut own_routes));
    assert!(send(&other, &mut other_routes));
    assert_eq!(waiting(&own).len(), 1);
    // What comes through another subscription does not count the one that is no-local.
    subscribe(&router, &own, "#", options(Qos::AtMostOnce));
    assert!(send(&own, &mut own_routes));
    assert_eq!(waiting(&own)[0].qos, Qos::AtMostOnce);
    assert!(send(&other, &mut other_routes));
    assert_eq!(waiting(&own)[0].qos, Qos::AtLeastOnce);
    subscribe(&router, &own, "a", options(Qos::ExactlyOnce));
    assert!(send(&own, &mut own_routes));
    assert_eq!(waiting(&own)[0].qos, Qos::ExactlyOnce);
}

#[test]
fn a_permit_of_an_older_policy_set_is_stale() {
    let router = router();
    let reader = connected("reader");
    subscribe(&router, &reader, "a", options(Qos::AtLeastOnce));
    let mut subject = subject();
    let permit = permit(&mut subject, message("a", "x", Qos::AtLeastOnce, true));
    router.set_policy_epoch(PolicyEpoch(2));
    let mut wakes = Wakes::default();
    let gone = standing("anyone", "anonymous");
    let routed = router.publish(
        permit,
        Publisher::Gone(&gone),
        &mut RouteCache::default(),
        &mut wakes,
        &|_, _| true,
    );
    assert!(matches!(routed, Err(Unrouted::Stale(_))), "{routed:?}");
    assert!(waiting(&reader).is_empty());
    assert_eq!(router.retained_size(), (0, 0));
}

#[test]
fn a_message_that_cannot_be_retained_is_not_delivered() {
    let settings = RetainedSettings { messages_max: 1, bytes_max: 1 << 20 };
    let router = Router::new(settings, 1 << 20, PolicyEpoch(1), None);
    let reader = connected("reader");
    subscribe(&router, &reader, "#", options(Qos::AtMostOnce));
    publish(&router, message("a", "x", Qos::AtMostOnce, true));
    let mut subject = subject();
    let permit = permit(&mut subject, message("b", "x", Qos::AtMostOnce, true));
    let mut wakes = Wakes::default();
    let gone = standing("anyone", "anonymous");
    let outcome = router.publish(
        permit,
        Publisher::Gone(&gone),
        &mut RouteCache::default(),
        &mut wakes,
        &|_, _| true,
    );
    assert!(matches!(outcome, Err(Unrouted::RetainedFull(RetainedFull::Store))), "{outcome:?}");
    assert_eq!(payloads(&reader), ["x"]);
}

#[test]
fn retained_messages_come_with_the_flag_and_the_lower_qos() {
    let router = router();
    for (topic, qos) in
        [("a/1", Qos::AtMostOnce), ("a/2", Qos::ExactlyOnce), ("b", Qos::AtLeastOnce)]
    {
        publish(&router, message(topic, "x", qos, true));
    }
    let reader = connected("reader");
    let subscription = subscribe(&router, &reader, "a/+", options(Qos::AtLeastOnce));
    let mut cursor = Cursor::default();
    let mut got = Vec::new();
    while !cursor.is_at_end() {
        got.extend(router.retained(&subscription, &mut cursor, 1, Instant::now()));
    }
    let got: Vec<_> =
        got.iter().map(|one| (one.message.topic.as_str(), one.qos, one.retain)).collect();
    assert_eq!(got, [("a/1", Qos::AtMostOnce, true), ("a/2", Qos::AtLeastOnce, true)]);
}
