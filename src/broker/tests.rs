//! Whole sessions without sockets: claims, takeovers, ends and wills, with a clock that is set.

use std::num::NonZeroU16;

use tokio::task::{JoinHandle, yield_now};
use tokio::time::sleep;

use super::sessions::Due;
use super::*;
use crate::mqtt::packet::PacketId;
use crate::mqtt::{ProtocolVersion, TopicName};
use crate::router::tests::{
    mailbox_settings, message, open_policies, options, payloads, publish, standing, subscribe,
    waiting,
};
use crate::router::{Most, mailbox};
use crate::session::{Delivery, Sent};

const SECOND: Duration = Duration::from_secs(1);

fn broker(sessions_max: u32) -> Arc<Broker> {
    broker_with(sessions_max, None)
}

fn broker_with(sessions_max: u32, store: Option<Arc<Store>>) -> Arc<Broker> {
    let settings = Settings {
        sessions_max,
        queued_bytes_max: 1 << 20,
        retained: RetainedSettings { messages_max: 10, bytes_max: 1 << 20 },
    };
    let audit = AuditLog::to_writer(std::io::sink()).unwrap();
    Arc::new(Broker::new(&settings, open_policies(), Arc::new(Metrics::new()), audit, store))
}

/// The same, with somebody who looks after what is due.
fn tended() -> (Arc<Broker>, JoinHandle<()>) {
    let broker = broker(10);
    let tending = Arc::clone(&broker);
    (broker, tokio::spawn(async move { tending.keep_agenda().await }))
}

fn opening(client_id: &str, name: &str, clean_start: bool) -> Opening {
    let standing = standing(client_id, name);
    Opening {
        client_id: standing.facts.client_id.clone(),
        standing,
        clean_start,
        link: Link {
            version: ProtocolVersion::V5,
            receive_maximum: NonZeroU16::MAX,
            packet_bytes_max: None,
            problem_information: true,
            topic_alias_max: 0,
            outgoing_alias_max: 0,
            keep_alive: Some(SECOND),
        },
        settings: crate::session::Settings {
            receive_maximum: NonZeroU16::MAX,
            inflight_max: NonZeroU16::MAX,
            subscriptions_max: 10,
        },
        mailbox: mailbox_settings(),
        sessions_max: 1000,
        address: None,
        expiry_s: 0,
        will: None,
    }
}

async fn try_open(broker: &Broker, client_id: &str, name: &str) -> Result<Opened, NoSession> {
    broker.open(opening(client_id, name, false), Now::read()).await
}

async fn open(broker: &Broker, client_id: &str) -> Opened {
    try_open(broker, client_id, "alice").await.unwrap()
}

async fn open_clean(broker: &Broker, client_id: &str) -> Opened {
    broker.open(opening(client_id, "alice", true), Now::read()).await.unwrap()
}

/// A connection on its way in, in its own task.
fn opening_task(broker: &Arc<Broker>, client_id: &'static str) -> JoinHandle<Opened> {
    let broker = Arc::clone(broker);
    tokio::spawn(async move { open(&broker, client_id).await })
}

fn close(broker: &Broker, opened: Opened, expiry_s: u32) {
    let Opened { peer, session, term, .. } = opened;
    broker.close(Departure { peer, session, term, expiry_s, will: None }, Now::read());
}

fn close_with(broker: &Broker, opened: Opened, expiry_s: u32, will: Will) {
    let Opened { peer, session, term, .. } = opened;
    broker.close(
        Departure { peer, session, term, expiry_s, will: Some(Box::new(will)) },
        Now::read(),
    );
}

fn will(text: &str, delay_s: u32) -> Will {
    Will {
        topic: TopicName::parse("wills").unwrap(),
        payload: text.as_bytes().into(),
        qos: Qos::AtLeastOnce,
        retain: false,
        delay_s,
        properties: None,
    }
}

/// Someone who gets the wills.
async fn watcher(broker: &Broker) -> Arc<Peer> {
    let opened = open(broker, "watcher").await;
    subscribe(&broker.router, &opened.peer, "wills", options(Qos::AtLeastOnce));
    opened.peer
}

fn subscribe_to(broker: &Broker, opened: &mut Opened, filter: &str) {
    let subscription = subscribe(&broker.router, &opened.peer, filter, options(Qos::ExactlyOnce));
    opened.session.subscriptions_mut().insert(subscription);
}

fn signal(opened: &Opened) -> Option<Signal> {
    opened.peer.mailbox.take(Most::NONE, std::task::Waker::noop(), &mut Vec::new())
}

/// Lets the other tasks do all that they can do now.
async fn let_run() {
    for _ in 0..10 {
        yield_now().await;
    }
}

#[tokio::test]
async fn a_durable_session_waits_for_the_disk_whenever_it_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let settings = crate::store::Settings {
        folder: folder.path().join("store"),
        durability: crate::store::Durability::Os,
        accept_loss: false,
        free_bytes_min: None,
    };
    let (store, _) = Store::open(&settings, (Instant::now(), SystemTime::now())).unwrap();
    let broker = broker_with(10, Some(Arc::clone(&store)));
    for resumed in [false, true] {
        let mailbox = Arc::new(mailbox::Settings {
            durability: Some(crate::store::Durability::Fsync),
            ..mailbox::Settings::clone(&mailbox_settings())
        });
        let durable = Opening { mailbox, expiry_s: 60, ..opening("c", "alice", false) };
        let opened = broker.open(durable, Now::read()).await.unwrap();
        assert_eq!((opened.resumed, opened.commit.is_some()), (resumed, true));
        close(&broker, opened, 60);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_goes_on_with_its_subscriptions_and_what_has_come_for_them() {
    let broker = broker(10);
    let mut first = open(&broker, "c").await;
    assert!(!first.resumed);
    subscribe_to(&broker, &mut first, "a");
    assert_eq!(broker.session_count(), (1, 1));
    close(&broker, first, 60);
    assert_eq!(broker.session_count(), (1, 0));
    publish(&broker.router, message("a", "1", Qos::AtLeastOnce, false));
    publish(&broker.router, message("a", "0", Qos::AtMostOnce, false));
    let second = open(&broker, "c").await;
    assert!(second.resumed);
    assert_eq!(second.session.subscriptions().len(), 1);
    assert_eq!(payloads(&second.peer), ["1"]);
    assert_eq!(broker.session_count(), (1, 1));
    close(&broker, second, 60);
    let third = open_clean(&broker, "c").await;
    assert!(!third.resumed);
    assert_eq!((third.session.subscriptions().len(), broker.router.subscriptions()), (0, 0));
    assert_eq!(broker.session_count(), (1, 1));
    close(&broker, third, 0);
    assert_eq!(broker.session_count(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_live_session_is_taken_over_once_its_connection_has_gone() {
    let broker = broker(10);
    let mut old = open(&broker, "c").await;
    subscribe_to(&broker, &mut old, "a");
    let new = opening_task(&broker, "c");
    let_run().await;
    assert!(!new.is_finished());
    assert_eq!(signal(&old), Some(Signal::Close(ReasonCode::SessionTakenOver)));
    let began = tokio::time::Instant::now();
    close(&broker, old, 60);
    let new = new.await.unwrap();
    assert_eq!(tokio::time::Instant::now(), began, "it was told, it did not wait");
    assert!(new.resumed);
    assert_eq!(new.session.subscriptions().len(), 1);
    assert_eq!(signal(&new), None, "the signal was for the old connection");
    assert_eq!(broker.session_count(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_with_its_connection_leaves_a_new_one_to_who_takes_over() {
    let broker = broker(1);
    let mut old = open(&broker, "c").await;
    subscribe_to(&broker, &mut old, "a");
    let new = opening_task(&broker, "c");
    let_run().await;
    close(&broker, old, 0);
    let new = new.await.unwrap();
    assert!(!new.resumed);
    assert_eq!(broker.router.subscriptions(), 0);
    assert_eq!(broker.session_count(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn of_many_takeovers_each_gets_its_turn() {
    let broker = broker(10);
    let old = open(&broker, "c").await;
    let second = opening_task(&broker, "c");
    let third = opening_task(&broker, "c");
    let_run().await;
    close(&broker, old, 60);
    let_run().await;
    assert!(second.is_finished() && !third.is_finished());
    let second = second.await.unwrap();
    assert_eq!(signal(&second), Some(Signal::Close(ReasonCode::SessionTakenOver)));
    close(&broker, second, 60);
    assert!(third.await.unwrap().resumed);
    assert_eq!(broker.session_count(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_does_not_go_keeps_its_session() {
    let broker = broker(10);
    let mut old = open(&broker, "c").await;
    subscribe_to(&broker, &mut old, "a");
    let began = tokio::time::Instant::now();
    assert_eq!(try_open(&broker, "c", "alice").await.unwrap_err(), NoSession::Busy);
    assert_eq!(began.elapsed(), 6 * SECOND);
    assert_eq!(broker.session_count(), (1, 1));
    close(&broker, old, 60);
    assert!(open(&broker, "c").await.resumed, "nothing is left of the attempt");
}

/// Else the keep-alive interval could be over before the connection has begun.
#[tokio::test(start_paused = true)]
async fn the_time_of_a_takeover_is_not_the_new_connections_silence() {
    let broker = broker(10);
    let old = open(&broker, "c").await;
    let new = opening_task(&broker, "c");
    sleep(3 * SECOND).await;
    close(&broker, old, 60);
    let deadline = new.await.unwrap().session.keep_alive_deadline().unwrap();
    assert_eq!(deadline, Now::read().instant + SECOND * 3 / 2);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_on_its_way_out_does_not_keep_the_name() {
    let broker = broker(10);
    let old = open(&broker, "c").await;
    let new = opening_task(&broker, "c");
    let_run().await;
    let failing = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _leaving = broker.sessions.leave(&old.peer.client_id, old.term);
        std::panic::resume_unwind(Box::new("on its way out"));
    }));
    assert!(failing.is_err());
    assert!(!new.await.unwrap().resumed);
    assert_eq!(broker.session_count(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_session_of_another_principal_is_never_touched() {
    let broker = broker(10);
    let alice = Owner { kind: crate::identity::PrincipalKind::Anonymous, name: "alice".into() };
    let refused = NoSession::OwnedByAnother(alice);
    let mut own = open(&broker, "c").await;
    subscribe_to(&broker, &mut own, "a");
    assert_eq!(try_open(&broker, "c", "mallory").await.unwrap_err(), refused);
    assert_eq!(signal(&own), None);
    close(&broker, own, 60);
    assert_eq!(try_open(&broker, "c", "mallory").await.unwrap_err(), refused);
    let clean = broker.open(opening("c", "mallory", true), Now::read()).await;
    assert_eq!(clean.unwrap_err(), refused);
    let own = open(&broker, "c").await;
    assert!(own.resumed && own.session.subscriptions().len() == 1);
    // Once it has ended the name is free.
    close(&broker, own, 0);
    assert!(!try_open(&broker, "c", "mallory").await.unwrap().resumed);
}

/// Threat: memory after authentication.
#[tokio::test(start_paused = true)]
async fn one_principal_has_its_share_of_the_sessions_and_leaves_the_rest() {
    let (broker, _tending) = tended();
    let greedy = |client_id| Opening { sessions_max: 2, ..opening(client_id, "greedy", false) };
    let first = broker.open(greedy("1"), Now::read()).await.unwrap();
    let second = broker.open(greedy("2"), Now::read()).await.unwrap();
    let full = NoSession::AccountFull { sessions_max: 2 };
    assert_eq!(broker.open(greedy("3"), Now::read()).await.unwrap_err(), full);
    // Others have their own, and who has a session keeps it.
    let other = open(&broker, "3").await;
    close(&broker, first, 60);
    let first = broker.open(greedy("1"), Now::read()).await.unwrap();
    assert!(first.resumed);
    // One that is taken over by a clean start counts once; one that ends makes room.
    close(&broker, first, 60);
    let first = broker.open(Opening { clean_start: true, ..greedy("1") }, Now::read()).await;
    assert_eq!(broker.open(greedy("4"), Now::read()).await.unwrap_err(), full);
    close(&broker, second, 0);
    let fourth = broker.open(greedy("4"), Now::read()).await.unwrap();
    // So does one that expires.
    close(&broker, fourth, 5);
    sleep(10 * SECOND).await;
    let fifth = broker.open(greedy("5"), Now::read()).await.unwrap();
    for opened in [first.unwrap(), other, fifth] {
        close(&broker, opened, 0);
    }
    assert_eq!(broker.session_count(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn parked_sessions_count_and_ended_ones_make_room() {
    let broker = broker(2);
    let (first, second) = (open(&broker, "1").await, open(&broker, "2").await);
    close(&broker, first, 60);
    assert_eq!(try_open(&broker, "3", "alice").await.unwrap_err(), NoSession::Full);
    let first = open(&broker, "1").await;
    assert!(first.resumed, "who has a session is not refused");
    close(&broker, second, 0);
    let third = open(&broker, "3").await;
    assert_eq!(try_open(&broker, "2", "alice").await.unwrap_err(), NoSession::Full);
    for opened in [first, third] {
        close(&broker, opened, 0);
    }
    assert_eq!(broker.session_count(), (0, 0));
}

#[test]
fn no_more_sessions_than_allowed_however_many_come_at_once() {
    let broker = broker(100);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let broker = &broker;
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = { runtime }.enable_time().build().unwrap();
                runtime.block_on(async {
                    for number in 0..50 {
                        let _ = try_open(broker, &format!("{thread}-{number}"), "alice").await;
                    }
                });
            });
        }
    });
    assert_eq!(broker.session_count(), (100, 100));
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_when_its_time_is_over() {
    let (broker, _agenda) = tended();
    let mut opened = open(&broker, "c").await;
    subscribe_to(&broker, &mut opened, "a");
    close(&broker, opened, 10);
    publish(&broker.router, message("a", "x", Qos::AtLeastOnce, false));
    sleep(9 * SECOND).await;
    assert_eq!((broker.session_count(), broker.router.subscriptions()), ((1, 0), 1));
    assert_eq!(broker.router.budget().messages(), 1);
    sleep(2 * SECOND).await;
    assert_eq!((broker.session_count(), broker.router.subscriptions()), ((0, 0), 0));
    assert_eq!(broker.router.budget().messages(), 0);
    // Without an end it stays.
    let opened = open(&broker, "c").await;
    close(&broker, opened, u32::MAX);
    sleep(Duration::from_hours(1)).await;
    assert!(open(&broker, "c").await.resumed);
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_time_is_over_is_not_resumed_though_nobody_has_ended_it_yet() {
    let broker = broker(10);
    let watcher = watcher(&broker).await;
    let mut opened = open(&broker, "c").await;
    subscribe_to(&broker, &mut opened, "a");
    close_with(&broker, opened, 10, will("late", 60));
    sleep(11 * SECOND).await;
    let opened = open(&broker, "c").await;
    assert!(!opened.resumed);
    assert_eq!(payloads(&watcher), ["late"]);
    assert_eq!((broker.session_count(), broker.sessions.agenda().len()), ((2, 2), 0));
}

#[tokio::test(start_paused = true)]
async fn a_will_is_sent_after_its_delay_or_at_the_end_of_its_session() {
    for (delay_s, expiry_s, sent_after_s) in
        [(0, 0, 0), (7, 0, 0), (0, 60, 0), (5, 60, 5), (60, 5, 5), (5, 5, 5), (5, u32::MAX, 5)]
    {
        let (broker, agenda) = tended();
        let watcher = watcher(&broker).await;
        let opened = open(&broker, "c").await;
        close_with(&broker, opened, expiry_s, will("gone", delay_s));
        let mut waited_s = 0;
        while waited_s < 100 {
            let got = payloads(&watcher);
            if waited_s == sent_after_s {
                assert_eq!(got, ["gone"], "{delay_s} {expiry_s}");
            } else {
                assert!(got.is_empty(), "{delay_s} {expiry_s}: after {waited_s}");
            }
            sleep(SECOND).await;
            let_run().await;
            waited_s += 1;
        }
        agenda.abort();
    }
}

/// [MQTT-3.1.3-9]
#[tokio::test(start_paused = true)]
async fn a_client_that_is_back_in_time_takes_its_will_back() {
    let (broker, _agenda) = tended();
    let watcher = watcher(&broker).await;
    let opened = open(&broker, "c").await;
    close_with(&broker, opened, 60, will("gone", 10));
    sleep(9 * SECOND).await;
    let opened = open(&broker, "c").await;
    sleep(60 * SECOND).await;
    assert_eq!(payloads(&watcher), [""; 0]);
    close(&broker, opened, 60);
    sleep(100 * SECOND).await;
    assert_eq!(payloads(&watcher), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_will_that_is_due_is_sent_though_its_client_comes_back_first() {
    let broker = broker(10);
    let watcher = watcher(&broker).await;
    let opened = open(&broker, "c").await;
    close_with(&broker, opened, 60, will("gone", 10));
    sleep(10 * SECOND).await;
    assert!(open(&broker, "c").await.resumed);
    assert_eq!(payloads(&watcher), ["gone"]);
}

#[tokio::test(start_paused = true)]
async fn a_clean_start_ends_the_session_and_its_will_is_sent_at_once() {
    let (broker, _agenda) = tended();
    let watcher = watcher(&broker).await;
    let mut opened = open(&broker, "c").await;
    subscribe_to(&broker, &mut opened, "a");
    close_with(&broker, opened, 60, will("gone", 30));
    open_clean(&broker, "c").await;
    assert_eq!(payloads(&watcher), ["gone"]);
    assert_eq!(broker.router.subscriptions(), 1, "the watcher's");
    sleep(100 * SECOND).await;
    assert_eq!(payloads(&watcher), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_on_the_agenda_once_at_most() {
    let broker = broker(10);
    for round in 0..20 {
        let opened = open(&broker, "c").await;
        assert_eq!(broker.sessions.agenda().len(), 0);
        close_with(&broker, opened, 60 + round, will("gone", round % 5));
        assert_eq!(broker.sessions.agenda().len(), 1);
        sleep(SECOND).await;
    }
    // A will that is due: the session goes back on it for its end.
    let opened = open(&broker, "c").await;
    close_with(&broker, opened, 60, will("gone", 30));
    let now = Now::read().instant + 30 * SECOND;
    let agenda = broker.sessions.agenda();
    let (due, next) = agenda.take_due(now, 10);
    assert_eq!((due.len(), next, agenda.len()), (1, None, 0));
    assert!(matches!(broker.sessions.due(&due[0], now), Some(Due::Will { .. })));
    assert_eq!(agenda.len(), 1);
    assert!(broker.sessions.due(&due[0], now).is_none(), "asked once more than needed");
    assert_eq!(agenda.len(), 1);
    let (due, _) = agenda.take_due(now + 30 * SECOND, 10);
    assert!(matches!(broker.sessions.due(&due[0], now + 30 * SECOND), Some(Due::Ended(_))));
    assert_eq!((agenda.len(), broker.session_count()), (0, (0, 0)));
    assert!(broker.sessions.due(&due[0], now + 30 * SECOND).is_none());
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_off_the_agenda_and_came_back_meanwhile_is_left_alone() {
    let broker = broker(10);
    let opened = open(&broker, "c").await;
    close_with(&broker, opened, 10, will("gone", 5));
    let now = Now::read().instant + 5 * SECOND;
    let (due, _) = broker.sessions.agenda().take_due(now, 10);
    let opened = open(&broker, "c").await;
    assert!(broker.sessions.due(&due[0], now).is_none(), "it is live");
    close(&broker, opened, 60);
    assert!(broker.sessions.due(&due[0], now).is_none(), "it has another end now");
    assert_eq!(broker.sessions.agenda().len(), 1);
    assert_eq!(broker.session_count(), (1, 0));
}

#[test]
fn the_agenda_hands_out_what_is_due_in_order_and_in_parts() {
    let agenda = wills::Agenda::default();
    let start = Instant::now();
    let id = |number: u32| ClientId::parse(&number.to_string()).unwrap();
    for number in [3, 1, 2, 5, 4] {
        agenda.add(start + SECOND * number, id(number));
    }
    agenda.remove(start + SECOND * 2, &id(2));
    assert_eq!(agenda.take_due(start, 9), (vec![], Some(start + SECOND)));
    let (due, next) = agenda.take_due(start + SECOND * 4, 2);
    assert_eq!((due, next), (vec![id(1), id(3)], Some(start + SECOND * 4)));
    let (due, next) = agenda.take_due(start + SECOND * 4, 2);
    assert_eq!((due, next), (vec![id(4)], Some(start + SECOND * 5)));
}

#[tokio::test(start_paused = true)]
async fn what_a_connection_of_an_older_term_writes_is_ignored() {
    let broker = broker(10);
    let first = open(&broker, "c").await;
    let stale = first.term;
    close(&broker, first, 60);
    let second = open(&broker, "c").await;
    assert!(second.term > stale);
    let client_id = second.peer.client_id.clone();
    let parked = || {
        let Opening { link, settings, .. } = opening("c", "alice", false);
        let session = Session::new(settings, link, Now::read().instant);
        Parked { session, expires_at: Some(Now::read().instant + SECOND), will: None }
    };
    broker.sessions.leave(&client_id, stale).park(parked());
    drop(broker.sessions.leave(&client_id, stale));
    assert_eq!((broker.session_count(), broker.sessions.agenda().len()), ((1, 1), 0));
    // Nor does it matter what the present one says twice.
    let term = second.term;
    close(&broker, second, 60);
    broker.sessions.leave(&client_id, term).park(parked());
    drop(broker.sessions.leave(&client_id, term));
    assert_eq!((broker.session_count(), broker.sessions.agenda().len()), ((1, 0), 1));
    assert!(open(&broker, "c").await.resumed);
}

#[tokio::test(start_paused = true)]
async fn what_a_member_of_a_share_group_leaves_undone_goes_to_another() {
    let broker = broker(10);
    let mut leaver = open(&broker, "leaver").await;
    subscribe_to(&broker, &mut leaver, "$share/g/a");
    for (text, qos) in [("1", 1), ("2", 2), ("3", 1), ("4", 2), ("waits", 1)] {
        let qos = Qos::from_u8(qos).unwrap();
        publish(&broker.router, message("a", text, qos, false));
    }
    let now = Now::read();
    let mut batch: Vec<Delivery> = waiting(&leaver.peer);
    batch.pop();
    let mut out = Vec::new();
    for delivery in batch {
        assert_eq!(leaver.session.send(delivery, now.instant, &mut out), Sent::Written);
    }
    let puback = crate::mqtt::packet::Ack::new(PacketId::new(3).unwrap(), ReasonCode::Success);
    let puback = crate::mqtt::packet::Packet::Puback(puback);
    leaver.session.receive(puback, now.instant, &mut out).unwrap();
    let mut heir = open(&broker, "heir").await;
    subscribe_to(&broker, &mut heir, "$share/g/a");
    publish(&broker.router, message("a", "for one of them", Qos::AtLeastOnce, false));
    let for_heir = payloads(&heir.peer).len();
    close(&broker, leaver, 0);
    let mut got = payloads(&heir.peer);
    got.sort();
    // What is acknowledged is done; QoS 2 that has begun is this client's alone.
    let expected: &[&str] = if for_heir == 0 { &["1", "for one of them"] } else { &["1"] };
    assert_eq!(got, expected);
}

#[tokio::test(start_paused = true)]
async fn an_ended_session_gives_its_bytes_back_though_publishers_remember_it() {
    let broker = broker(10);
    let mut reader = open(&broker, "reader").await;
    subscribe_to(&broker, &mut reader, "a");
    publish(&broker.router, message("a", "x", Qos::AtLeastOnce, false));
    let remembered = Arc::clone(&reader.peer);
    assert_eq!(broker.router.budget().messages(), 1);
    close(&broker, reader, 0);
    assert_eq!((broker.router.budget().messages(), broker.router.budget().bytes()), (0, 0));
    drop(remembered);
}

#[tokio::test(start_paused = true)]
async fn a_connection_hears_signals_from_the_moment_it_has_its_session() {
    let broker = broker(10);
    let close_it = Some(Signal::Close(ReasonCode::ServerShuttingDown));
    let first = open(&broker, "c").await;
    broker.close_all(ReasonCode::ServerShuttingDown);
    assert_eq!(signal(&first), close_it);
    close(&broker, first, 60);
    broker.close_all(ReasonCode::ServerShuttingDown);
    let again = open(&broker, "c").await;
    assert_eq!(signal(&again), None);
    broker.set_policies(open_policies());
    assert_eq!(signal(&again), Some(Signal::Rejudge));
}
