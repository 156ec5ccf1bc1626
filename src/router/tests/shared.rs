//! Share groups: one member for each message.

use super::*;

const FILTER: &str = "$share/g/a";

/// A router with a share group, its members connected or not.
fn group(connections: &[bool]) -> (Router, Vec<Arc<Peer>>) {
    let router = router();
    let members: Vec<_> = connections
        .iter()
        .enumerate()
        .map(|(number, connected)| {
            let peer = peer(&format!("m{number}"));
            if *connected {
                peer.mailbox.attach(mailbox_settings());
            }
            subscribe(&router, &peer, FILTER, options(Qos::AtLeastOnce));
            peer
        })
        .collect();
    (router, members)
}

fn counts(members: &[Arc<Peer>]) -> Vec<usize> {
    members.iter().map(|peer| waiting(peer).len()).collect()
}

fn send(router: &Router, count: usize, judge: Judge<'_>) -> Routed {
    let mut total = Routed::default();
    let mut cache = RouteCache::default();
    for number in 0..count {
        let mut subject = subject();
        let permit =
            permit(&mut subject, message("a", &number.to_string(), Qos::AtLeastOnce, false));
        let mut wakes = Wakes::default();
        let gone = standing("anyone", "anonymous");
        let outcome =
            router.publish(permit, Publisher::Gone(&gone), &mut cache, &mut wakes, judge).unwrap();
        total.queued += outcome.queued;
        total.dropped += outcome.dropped;
        total.matched |= outcome.matched;
    }
    total
}

#[test]
fn members_take_turns() {
    let (router, members) = group(&[true, true, true]);
    assert_eq!(send(&router, 9, &|_, _| true).queued, 9);
    assert_eq!(counts(&members), [3, 3, 3]);
}

#[test]
fn a_connected_member_goes_before_those_that_are_not() {
    let (router, members) = group(&[false, true, false]);
    send(&router, 6, &|_, _| true);
    assert_eq!(counts(&members), [0, 6, 0]);
    members[1].mailbox.detach();
    send(&router, 6, &|_, _| true);
    assert_eq!(counts(&members), [2, 2, 2]);
}

#[test]
fn only_members_that_may_receive_are_chosen() {
    let (router, members) = group(&[true, true, false]);
    let second = |peer: &Arc<Peer>, _: &Message| peer.client_id.as_str() == "m1";
    assert_eq!(send(&router, 4, &second).queued, 4);
    assert_eq!(counts(&members), [0, 4, 0]);
    // Better one that is not connected than one that may not.
    let third = |peer: &Arc<Peer>, _: &Message| peer.client_id.as_str() == "m2";
    assert_eq!(send(&router, 4, &third).queued, 4);
    assert_eq!(counts(&members), [0, 0, 4]);
    let outcome = send(&router, 4, &|_, _| false);
    assert_eq!(outcome, Routed { queued: 0, dropped: 4, matched: true, commit: None });
    assert_eq!(counts(&members), [0, 0, 0]);
}

#[test]
fn a_member_is_not_judged_where_all_is_known_to_be_allowed_and_only_there() {
    let (router, members) = group(&[true]);
    let stamp = Stamp::next();
    let nobody = |_: &Arc<Peer>, _: &Message| false;
    let subscription = subscribe(&router, &members[0], FILTER, options(Qos::AtLeastOnce));
    members[0].set_stamp(Some(stamp));
    assert_eq!(send(&router, 1, &nobody).queued, 0);
    subscription.clear_under(stamp);
    assert_eq!(send(&router, 1, &nobody).queued, 1);
    // A new connection, or a new policy set: nothing is known of it yet.
    members[0].set_stamp(Some(Stamp::next()));
    assert_eq!(send(&router, 1, &nobody).queued, 0);
    members[0].set_stamp(None);
    assert_eq!(send(&router, 1, &nobody).queued, 0);
}

#[test]
fn each_group_gets_the_message_once_and_plain_subscribers_too() {
    let (router, members) = group(&[true, true]);
    let (other, plain) = (connected("other"), connected("plain"));
    subscribe(&router, &other, "$share/h/a", options(Qos::AtMostOnce));
    subscribe(&router, &plain, "a", options(Qos::AtMostOnce));
    subscribe(&router, &members[0], "a", options(Qos::AtMostOnce));
    assert_eq!(send(&router, 2, &|_, _| true).queued, 8);
    assert_eq!(
        (counts(&[other]), counts(&[plain]), counts(&members)),
        (vec![2], vec![2], vec![3, 1])
    );
}

#[test]
fn what_waits_for_a_member_that_leaves_goes_to_the_others() {
    let (router, members) = group(&[true, true]);
    subscribe(&router, &members[0], "a", options(Qos::AtMostOnce));
    let subscription = subscribe(&router, &members[0], FILTER, options(Qos::AtLeastOnce));
    send(&router, 4, &|_, _| true);
    let left = router.unsubscribe(&members[0], &subscription);
    assert_eq!(left.len(), 2, "what came through the plain subscription stays");
    let mut wakes = Wakes::default();
    assert_eq!(router.redeliver(left, &mut wakes, &|_, _| true), 2);
    assert_eq!(payloads(&members[0]), ["0", "1", "2", "3"]);
    let mut got = payloads(&members[1]);
    got.sort();
    assert_eq!(got, ["0", "1", "2", "3"]);
    // The last one leaves: there is nobody to deliver to.
    send(&router, 2, &|_, _| true);
    let subscription = subscribe(&router, &members[1], FILTER, options(Qos::AtLeastOnce));
    let left = router.unsubscribe(&members[1], &subscription);
    assert_eq!(left.len(), 2);
    assert_eq!(router.redeliver(left, &mut wakes, &|_, _| true), 0);
    assert_eq!(router.subscriptions(), 1);
}

#[test]
fn a_member_whose_session_has_just_ended_is_passed_over() {
    let (router, members) = group(&[true, true]);
    members[0].mailbox.end();
    // It has not left the group yet: every other message meets it.
    assert_eq!(
        send(&router, 4, &|_, _| true),
        Routed { queued: 4, dropped: 0, matched: true, commit: None }
    );
    assert_eq!(members[1].mailbox.len(), 4);
}
