//! Routing from end to end, and what other tests need for it.

mod routes;
mod shared;

use std::sync::LazyLock;
use std::time::UNIX_EPOCH;

use super::*;
use crate::identity::Account;
use crate::mqtt::packet::Qos;
use crate::mqtt::{ProtocolVersion, TopicName};
use crate::policy::{Bundle, Subject};

/// Policies that permit everything.
static OPEN: LazyLock<Arc<Bundle>> = LazyLock::new(|| {
    let text = r#"@id("open") permit (principal, action, resource);"#;
    Arc::new(Bundle::load_text("open.cedar", text, None, PolicyEpoch(1)).unwrap())
});

/// Policies of epoch 1 that permit everything.
pub(crate) fn open_policies() -> Arc<Bundle> {
    Arc::clone(&OPEN)
}

/// Someone on a connection of this client identifier.
pub(crate) fn standing(client_id: &str, name: &str) -> Standing {
    let facts = SessionFacts {
        client_id: ClientId::parse(client_id).unwrap(),
        listener: "test".into(),
        source_ip: std::net::Ipv4Addr::LOCALHOST.into(),
        protocol: ProtocolVersion::V5,
        tls_version: 13,
    };
    let identity = Identity { name: name.into(), ..Identity::anonymous() };
    let account = Arc::new(Account::of(&identity, None));
    let bounds = RetainedSettings { messages_max: 100, bytes_max: 1 << 20 };
    let keeper = Keeper { account, bounds: Arc::new(bounds) };
    Standing { identity: Arc::new(identity), facts: Arc::new(facts), keeper }
}

pub(crate) fn mailbox_settings() -> Arc<mailbox::Settings> {
    Arc::new(mailbox::Settings {
        messages_max: 100,
        bytes_max: 1 << 20,
        principal_messages_max: u32::MAX,
        principal_bytes_max: u64::MAX,
        overflow: mailbox::Overflow::DropNewest,
        durability: None,
    })
}

/// A peer that is not connected.
pub(crate) fn peer(client_id: &str) -> Arc<Peer> {
    let budget = Arc::new(Budget::new(1 << 20));
    let mailbox = Mailbox::new(mailbox_settings(), budget, Arc::default());
    let standing = standing(client_id, "anonymous");
    Arc::new(Peer::new(standing.facts.client_id.clone(), mailbox, standing))
}

/// A peer with a connection.
fn connected(client_id: &str) -> Arc<Peer> {
    let peer = peer(client_id);
    peer.mailbox.attach(mailbox_settings());
    peer
}

fn router() -> Router {
    let retained = RetainedSettings { messages_max: 100, bytes_max: 1 << 20 };
    Router::new(retained, 1 << 20, PolicyEpoch(1), None)
}

pub(crate) fn options(qos: Qos) -> SubscriptionOptions {
    SubscriptionOptions { qos, no_local: false, retain_as_published: false, id: None }
}

fn subject() -> Subject {
    let Standing { identity, facts, .. } = standing("anyone", "anonymous");
    Subject::new(open_policies(), identity, facts)
}

pub(crate) fn subscribe(
    router: &Router,
    peer: &Arc<Peer>,
    filter: &str,
    options: SubscriptionOptions,
) -> Arc<Subscription> {
    let filter = SubscriptionFilter::parse(filter).unwrap();
    let facts =
        crate::policy::SubscribeFacts { qos: options.qos, no_local: false, now: UNIX_EPOCH };
    let mut subject = subject();
    let permit = subject.subscribe(&filter, &facts).unwrap();
    router.subscribe(peer, permit, options)
}

pub(crate) fn message(topic: &str, payload: &str, qos: Qos, retain: bool) -> Message {
    let topic = TopicName::parse(topic).unwrap();
    let payload = payload.as_bytes().into();
    Message::new(MessageId(0), topic, payload, qos, retain, None, Instant::now())
}

fn permit(subject: &mut Subject, message: Message) -> Permitted<'_, Message> {
    subject.publish(message, UNIX_EPOCH).unwrap()
}

/// Publishes and says what became of it; everybody may receive it.
pub(crate) fn publish(router: &Router, message: Message) -> Routed {
    let mut wakes = Wakes::default();
    router
        .publish(
            permit(&mut subject(), message),
            Publisher::Gone(&standing("anyone", "anonymous")),
            &mut RouteCache::default(),
            &mut wakes,
            &|_, _| true,
        )
        .unwrap()
}

/// Takes all that waits for a peer.
pub(crate) fn waiting(peer: &Peer) -> Vec<Delivery> {
    let mut into = Vec::new();
    let most = Most { room: u16::MAX, before: None, messages: usize::MAX, bytes: u64::MAX };
    peer.mailbox.take(most, std::task::Waker::noop(), &mut into);
    into
}

pub(crate) fn payloads(peer: &Peer) -> Vec<String> {
    let text = |delivery: &Delivery| String::from_utf8(delivery.message.payload.to_vec()).unwrap();
    waiting(peer).iter().map(text).collect()
}
