//! What "sound" means for SUBSCRIBE, as properties over random policies, filters and topics.

use std::sync::Arc;

use super::random::{Oracle, Style, Written};
use super::world::{
    Message, Random, delivery, device, filters, matches, message, sequences, session, subscribe,
};
use crate::identity::Identity;
use crate::mqtt::TopicFilter;
use crate::mqtt::packet::Qos;
use crate::policy::{Bundle, PolicyEpoch, SessionFacts, Subject};

/// One random world.
struct World {
    seed: u64,
    random: Random,
    written: Written,
    who: (Arc<Identity>, Arc<SessionFacts>),
    subject: Subject,
}

fn worlds(actions: &[&str], conditions: &[&str], check: impl Fn(&mut World)) {
    let mut names = filters(&["a", "b", "+", "$s"], 2);
    names.extend(["${cn}/#", "a/${group}", "+/${cn}/#", "${group}/b"].map(str::to_owned));
    // Wide grants leave something for the rest to take away.
    names.extend(std::iter::repeat_n("#".to_owned(), 20));
    let style = Style {
        filters: &names,
        actions,
        conditions,
        principals: &["principal", "principal is Device"],
    };
    let mut refused = 0;
    for seed in 0..200 {
        let mut random = Random(seed);
        let written = style.policies(&mut random, 4);
        let Ok(bundle) = Bundle::load_text("t", &written.text, None, PolicyEpoch(1)) else {
            refused += 1;
            continue;
        };
        let who = (Arc::new(device("a", &["b", "c"])), Arc::new(session("a")));
        let subject = Subject::new(Arc::new(bundle), Arc::clone(&who.0), Arc::clone(&who.1));
        check(&mut World { seed, random, written, who, subject });
    }
    // Random filters often have nothing in common, which is refused.
    assert!(refused < 30, "{refused} of the random sets were refused");
}

fn topics() -> Vec<String> {
    sequences(&["a", "b", "c", "$s", "z"], 3)
}

fn all_facts() -> impl Iterator<Item = (Qos, bool, usize)> {
    let qos = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];
    qos.into_iter().flat_map(|qos| {
        [(false, 1), (true, 1), (false, 1000), (true, 1000)]
            .map(|(retain, payload_bytes)| (qos, retain, payload_bytes))
    })
}

#[test]
fn a_subscription_that_is_allowed_is_allowed_for_every_topic_in_it() {
    let topics = topics();
    let asked = filters(&["a", "b", "+", "$s"], 2);
    let allowed = std::cell::Cell::new(0);
    worlds(
        &["action in Action::\"read\"", "action == Action::\"subscribe\"", "action"],
        &["context.session.tls_version == 13", "principal in Group::\"b\""],
        |world| {
            for _ in 0..12 {
                let filter = world.random.pick(&asked).clone();
                if subscribe(&mut world.subject, &filter).is_err() {
                    continue;
                }
                allowed.set(allowed.get() + 1);
                for topic in topics.iter().filter(|topic| matches(&filter, topic)) {
                    assert!(
                        subscribe(&mut world.subject, topic).is_ok(),
                        "seed {}: {filter} but not {topic}\n{}",
                        world.seed,
                        world.written.text
                    );
                }
            }
        },
    );
    assert!(allowed.get() > 150, "{} allowed", allowed.get());
}

#[test]
fn with_policies_on_read_a_subscription_that_is_allowed_receives_every_topic_in_it() {
    let topics = topics();
    let asked = filters(&["a", "b", "+", "$s"], 2);
    let (allowed, complete) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    worlds(
        &["action in Action::\"read\""],
        &[
            "context.session.tls_version == 13",
            "context.session.tls_version == 12",
            "principal in Group::\"b\"",
            "context.qos == 1",
        ],
        |world| {
            let oracle = Oracle::new(&world.written);
            let received: Vec<bool> = topics
                .iter()
                .map(|topic| {
                    oracle.judge("receive", (&world.who.0, &world.who.1), &message(topic)).is_ok()
                })
                .collect();
            for _ in 0..25 {
                let filter = world.random.pick(&asked).clone();
                let all = topics
                    .iter()
                    .zip(&received)
                    .filter(|(topic, _)| matches(&filter, topic))
                    .all(|(_, received)| *received);
                let decision = subscribe(&mut world.subject, &filter);
                assert!(
                    all || decision.is_err(),
                    "seed {}: {filter}\n{}",
                    world.seed,
                    world.written.text
                );
                allowed.set(allowed.get() + usize::from(decision.is_ok()));
                complete.set(complete.get() + usize::from(all));
            }
        },
    );
    // Refused, though every topic is received: only what several grants cover together.
    assert!(allowed.get() * 100 > complete.get() * 95, "{} of {}", allowed.get(), complete.get());
    assert!(allowed.get() > 250, "{} allowed", allowed.get());
}

#[test]
fn deliveries_that_are_not_judged_would_all_have_been_allowed() {
    let topics = topics();
    let asked = filters(&["a", "b", "+", "$s"], 2);
    let skipped = std::cell::Cell::new(0);
    worlds(
        &[
            "action in Action::\"read\"",
            "action == Action::\"receive\"",
            "action in [Action::\"receive\", Action::\"publish\"]",
        ],
        &[
            "context.session.tls_version == 13",
            "principal in Group::\"b\"",
            "context.qos <= 1",
            "context has qos",
            "(resource is Topic && resource.levels == 2)",
            "resource == Topic::\"a/b\"",
            "(action == Action::\"receive\" && context.retain)",
            "(action == Action::\"receive\" && context.payload_size < 100)",
        ],
        |world| {
            let oracle = Oracle::new(&world.written);
            for _ in 0..6 {
                let filter = world.random.pick(&asked).clone();
                if !world.subject.receive_ok(&TopicFilter::parse(&filter).unwrap()) {
                    continue;
                }
                skipped.set(skipped.get() + 1);
                for topic in topics.iter().filter(|topic| matches(&filter, topic)).step_by(3) {
                    for (qos, retain, payload_bytes) in all_facts() {
                        let message = Message { qos, retain, payload_bytes, ..message(topic) };
                        let expected =
                            oracle.judge("receive", (&world.who.0, &world.who.1), &message);
                        let context = format!(
                            "seed {}: {filter} {message:?}\n{}",
                            world.seed, world.written.text
                        );
                        assert_eq!(expected, Ok(()), "{context}");
                        let judged = world.subject.receive(&message.topic, &delivery(&message));
                        assert_eq!(judged, Ok(()), "{context}");
                    }
                }
            }
        },
    );
    assert!(skipped.get() > 30, "{} skipped", skipped.get());
}
