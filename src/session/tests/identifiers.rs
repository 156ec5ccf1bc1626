//! Packet identifiers: 65,535 of them, some in use for a very long time.

use std::collections::HashSet;

use super::*;

/// A bench as wide as the protocol allows.
fn widest() -> Bench {
    let inflight_max = NonZeroU16::MAX;
    Bench::with(Settings { inflight_max, ..settings() }, link(V311))
}

/// One message object for all: identifiers are what differs.
fn one() -> Delivery {
    delivery(Qos::AtLeastOnce, b"x")
}

impl Bench {
    fn send_id(&mut self, delivery: &Delivery) -> u16 {
        id_of(&self.writes(delivery.clone()))
    }

    fn ack(&mut self, id: u16) {
        let before = self.session.inflight();
        self.hears(&puback(id));
        assert_eq!(self.session.inflight() + 1, before, "{id} was in flight");
    }
}

#[test]
fn identifiers_count_up_and_begin_again_after_the_last() {
    let mut bench = Bench::new(link(V311));
    let one = one();
    for round in 0..2 {
        for expected in 1..=u16::MAX {
            let id = bench.send_id(&one);
            assert_eq!(id, expected, "{round}");
            bench.ack(id);
        }
    }
}

#[test]
fn identifiers_in_use_are_left_out_every_time_round() {
    let mut bench = Bench::new(link(V311));
    let one = one();
    // At both ends, alone, and side by side.
    let stuck = [1, 2, 500, 40_000, 40_001, 40_002, u16::MAX];
    for round in 0..3 {
        for expected in 1..=u16::MAX {
            if round > 0 && stuck.contains(&expected) {
                continue;
            }
            let id = bench.send_id(&one);
            assert_eq!(id, expected, "{round}");
            if !stuck.contains(&id) {
                bench.ack(id);
            }
        }
        assert_eq!(usize::from(bench.session.inflight()), stuck.len());
    }
    for id in stuck {
        bench.ack(id);
    }
    assert_eq!(bench.session.inflight(), 0);
}

#[test]
fn every_identifier_can_be_in_use_at_once_and_the_next_freed_one_is_found() {
    let mut bench = widest();
    let one = one();
    let ids: HashSet<u16> = (0..u16::MAX).map(|_| bench.send_id(&one)).collect();
    assert_eq!(ids.len(), usize::from(u16::MAX));
    assert_eq!(bench.session.room(), 0);
    let (sent, out) = bench.send(one.clone());
    assert_eq!((sent, out), (Sent::NoIdentifier, vec![]), "for who did not ask for room");
    for freed in [40_000, 1, u16::MAX] {
        bench.ack(freed);
        assert_eq!(bench.session.room(), 1);
        assert_eq!(bench.send_id(&one), freed);
    }
}

/// Behind a message that is never acknowledged there are gaps; they too must not use up the
/// identifiers.
#[test]
fn gaps_do_not_hold_identifiers_for_ever() {
    let mut bench = widest();
    let one = one();
    for _ in 0..u16::MAX {
        bench.send_id(&one);
    }
    for id in 2..=30_000 {
        bench.ack(id);
    }
    assert_eq!(bench.session.room(), 29_999);
    for expected in 2..=30_000 {
        assert_eq!(bench.send_id(&one), expected);
    }
    assert_eq!(bench.session.room(), 0);
}

#[test]
fn what_a_stuck_front_leaves_behind_it_is_bounded() {
    let mut bench = Bench::new(link(V311));
    let one = one();
    assert_eq!(bench.send_id(&one), 1);
    for _ in 0..10_000 {
        let id = bench.send_id(&one);
        bench.ack(id);
        assert!(bench.session.outbound.places() <= 2 + 64 + 1);
    }
    assert_eq!(bench.session.inflight(), 1);
    bench.ack(1);
    assert_eq!(bench.session.outbound.places(), 0);
}

#[test]
fn acknowledgements_find_their_message_across_gaps_and_the_end_of_the_numbers() {
    let mut bench = Bench::new(link(V311));
    let one = one();
    for _ in 0..65_400 {
        let id = bench.send_id(&one);
        bench.ack(id);
    }
    // 400 in flight, from 65,401 to 265; acknowledged in an order that leaves gaps of all sizes.
    let mut ids: Vec<u16> = (0..400).map(|_| bench.send_id(&one)).collect();
    assert_eq!((ids[0], ids[399]), (65_401, 265));
    let mut at = 0;
    while !ids.is_empty() {
        at = (at + 37) % ids.len();
        let id = ids.remove(at);
        bench.ack(id);
        bench.hears(&puback(id));
        assert_eq!(usize::from(bench.session.inflight()), ids.len(), "only once");
    }
}
