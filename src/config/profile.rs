//! Profiles: the limits, caps and features of a group of clients, and their defaults.

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use super::checked::DURABILITY;
use super::file::Value;
use super::kind::{Flag, Kind, Text, Word, Wrong};
use super::quantity::{bytes, count, seconds, show_bytes};
use super::section::Section;
use crate::gates::authorize::{DeniedPublish, DeniedSubscribe, WithdrawnSubscription};
use crate::gates::rate::Answer;
use crate::gates::{Profile, authorize, features, rate, size};
use crate::mqtt::packet::Qos;
use crate::router::RetainedSettings;
use crate::router::mailbox::{self, Overflow};
use crate::session;
use crate::store::Durability;

/// The profile that listeners use which name none, and whose values others inherit.
pub(super) const DEFAULT: &str = "default";

/// The largest packet MQTT can express, rounded down to a whole unit.
const PACKET_BYTES_MAX: u32 = 256 << 20;
/// The limiter counts in nanoseconds, so that it knows no faster rate.
const RATE_MAX: NonZeroU32 = non_zero_u32(1_000_000_000);
const ONE: NonZeroU32 = NonZeroU32::MIN;
const YEAR_S: u32 = 365 * 86_400;

const ANSWER: Word<Answer> =
    Word(&[("slow-down", Answer::SlowDown), ("disconnect", Answer::Disconnect)]);
const DENIED_PUBLISH: Word<DeniedPublish> = Word(&[
    ("disconnect", DeniedPublish::Disconnect),
    ("drop-and-acknowledge", DeniedPublish::DropAndAcknowledge),
]);
const DENIED_SUBSCRIBE: Word<DeniedSubscribe> =
    Word(&[("failure", DeniedSubscribe::Failure), ("disconnect", DeniedSubscribe::Disconnect)]);
const WITHDRAWN: Word<WithdrawnSubscription> = Word(&[
    ("disconnect", WithdrawnSubscription::Disconnect),
    ("remove-silently", WithdrawnSubscription::RemoveSilently),
]);
const OVERFLOW: Word<Overflow> = Word(&[
    ("drop-newest", Overflow::DropNewest),
    ("drop-oldest", Overflow::DropOldest),
    ("refuse-publisher", Overflow::RefusePublisher),
]);

/// Where nothing is said, the sessions of one principal together may have as much waiting as so many
/// that are full.
const SESSIONS_FULL: u32 = 10;

/// The built-in defaults. Their reasons stand in `config/portcullis.toml`.
pub(super) fn built_in() -> Profile {
    Profile {
        name: DEFAULT.into(),
        rate: rate::Settings {
            packets_per_second: non_zero_u32(1000),
            packets_burst: non_zero_u32(2000),
            bytes_per_second: non_zero_u32(1 << 20),
            bytes_burst: non_zero_u32(2 << 20),
            answer: Answer::SlowDown,
        },
        size: size::Settings {
            packet_bytes_max: 256 << 10,
            payload_bytes_max: 256 << 10,
            topic_bytes_max: 1 << 10,
            topic_levels_max: 16,
            client_id_bytes_max: 128,
            property_bytes_max: 8 << 10,
            user_properties_max: 16,
            filters_per_packet_max: 64,
        },
        features: features::Settings {
            mqtt_3_1: false,
            mqtt_3_1_1: true,
            mqtt_5_0: true,
            qos_max: Qos::ExactlyOnce,
            retain: true,
            wildcard_subscriptions: true,
            shared_subscriptions: true,
            subscription_ids: true,
            wills: true,
            topic_alias_max: 16,
            outgoing_topic_alias_max: 16,
            session_expiry_s_max: 7 * 86_400,
            keep_alive_s_min: 5,
            keep_alive_s_max: 3600,
            response_information: None,
        },
        authorize: authorize::Settings {
            denied_publish_v3: DeniedPublish::Disconnect,
            denied_subscribe_v31: DeniedSubscribe::Disconnect,
            withdrawn_subscription: WithdrawnSubscription::Disconnect,
        },
        session: session::Settings {
            receive_maximum: non_zero_u16(256),
            inflight_max: non_zero_u16(256),
            subscriptions_max: 1000,
        },
        mailbox: mailbox::Settings {
            messages_max: 10_000,
            bytes_max: 16 << 20,
            principal_messages_max: 100_000,
            principal_bytes_max: 160 << 20,
            overflow: Overflow::DropNewest,
            durability: Some(Durability::Fsync),
        },
        sessions_max: 100,
        retained: RetainedSettings { messages_max: 10_000, bytes_max: 8 << 20 },
    }
}

/// Reads `[profile.NAME]`; what it leaves unset comes from `base`.
pub(super) fn read(name: &str, section: &mut Section<'_>, base: &Profile) -> Arc<Profile> {
    let mut rate = section.section("rate");
    let mut size = section.section("size");
    let mut features = section.section("features");
    let mut session = section.section("session");
    let mut mailbox = section.section("mailbox");
    let mut retained = section.section("retained");
    let profile = Profile {
        name: name.into(),
        rate: read_rate(&mut rate, &base.rate),
        size: read_size(&mut size, &base.size),
        features: read_features(&mut features, &base.features),
        authorize: read_authorize(&mut section.section("authorize"), &base.authorize),
        session: read_session(&mut session, &base.session),
        mailbox: mailbox::Settings {
            durability: session.take("durability", &DURABILITY, base.mailbox.durability),
            ..read_mailbox(&mut mailbox, &base.mailbox)
        },
        sessions_max: session.take("sessions_max", &count(1, 100_000_000), base.sessions_max),
        retained: read_retained(&mut retained, &base.retained),
    };
    check(&profile, &rate, &size, &features, &mailbox);
    check_retained(&profile, &retained, &size);
    Arc::new(profile)
}

fn read_rate(section: &mut Section<'_>, base: &rate::Settings) -> rate::Settings {
    let packets = count(ONE, RATE_MAX);
    let octets = bytes(ONE, RATE_MAX);
    rate::Settings {
        packets_per_second: section.take("packets_per_second", &packets, base.packets_per_second),
        packets_burst: section.take("packets_burst", &packets, base.packets_burst),
        bytes_per_second: section.take("bytes_per_second", &octets, base.bytes_per_second),
        bytes_burst: section.take("bytes_burst", &octets, base.bytes_burst),
        answer: section.take("answer", &ANSWER, base.answer),
    }
}

fn read_size(section: &mut Section<'_>, base: &size::Settings) -> size::Settings {
    let packet = bytes(1 << 10, PACKET_BYTES_MAX);
    let payload = bytes(1, PACKET_BYTES_MAX);
    let text = bytes(1, u16::MAX);
    let several = count(1, u16::MAX);
    size::Settings {
        packet_bytes_max: section.take("packet_bytes_max", &packet, base.packet_bytes_max),
        payload_bytes_max: section.take("payload_bytes_max", &payload, base.payload_bytes_max),
        topic_bytes_max: section.take("topic_bytes_max", &text, base.topic_bytes_max),
        topic_levels_max: section.take("topic_levels_max", &several, base.topic_levels_max),
        client_id_bytes_max: section.take("client_id_bytes_max", &text, base.client_id_bytes_max),
        property_bytes_max: section.take("property_bytes_max", &payload, base.property_bytes_max),
        user_properties_max: section.take(
            "user_properties_max",
            &count(0, u16::MAX),
            base.user_properties_max,
        ),
        filters_per_packet_max: section.take(
            "filters_per_packet_max",
            &several,
            base.filters_per_packet_max,
        ),
    }
}

fn read_features(section: &mut Section<'_>, base: &features::Settings) -> features::Settings {
    let expiry = seconds(0, 100 * YEAR_S, Some(("forever", u32::MAX)));
    let keep_alive_max = seconds(1, u16::MAX, Some(("off", 0)));
    let keep_alive_min = seconds(1, u16::MAX, None);
    features::Settings {
        mqtt_3_1: section.take("mqtt_3_1", &Flag, base.mqtt_3_1),
        mqtt_3_1_1: section.take("mqtt_3_1_1", &Flag, base.mqtt_3_1_1),
        mqtt_5_0: section.take("mqtt_5_0", &Flag, base.mqtt_5_0),
        qos_max: section.take("qos_max", &QosLevel, base.qos_max),
        retain: section.take("retain", &Flag, base.retain),
        wildcard_subscriptions: section.take(
            "wildcard_subscriptions",
            &Flag,
            base.wildcard_subscriptions,
        ),
        shared_subscriptions: section.take(
            "shared_subscriptions",
            &Flag,
            base.shared_subscriptions,
        ),
        subscription_ids: section.take("subscription_ids", &Flag, base.subscription_ids),
        wills: section.take("wills", &Flag, base.wills),
        topic_alias_max: section.take("topic_alias_max", &count(0, u16::MAX), base.topic_alias_max),
        outgoing_topic_alias_max: section.take(
            "outgoing_topic_alias_max",
            &count(0, 256),
            base.outgoing_topic_alias_max,
        ),
        session_expiry_s_max: section.take(
            "session_expiry_max",
            &expiry,
            base.session_expiry_s_max,
        ),
        keep_alive_s_min: section.take("keep_alive_min", &keep_alive_min, base.keep_alive_s_min),
        keep_alive_s_max: section.take("keep_alive_max", &keep_alive_max, base.keep_alive_s_max),
        response_information: section
            .find("response_information", &RESPONSE_INFORMATION)
            .map(Arc::from)
            .or_else(|| base.response_information.clone()),
    }
}

const RESPONSE_INFORMATION: Text =
    Text { bytes_max: 1024, expects: "a text such as \"responses/${client_id}/\"" };

fn read_authorize(section: &mut Section<'_>, base: &authorize::Settings) -> authorize::Settings {
    authorize::Settings {
        denied_publish_v3: section.take(
            "denied_publish_v3",
            &DENIED_PUBLISH,
            base.denied_publish_v3,
        ),
        denied_subscribe_v31: section.take(
            "denied_subscribe_v31",
            &DENIED_SUBSCRIBE,
            base.denied_subscribe_v31,
        ),
        withdrawn_subscription: section.take(
            "withdrawn_subscription",
            &WITHDRAWN,
            base.withdrawn_subscription,
        ),
    }
}

fn read_session(section: &mut Section<'_>, base: &session::Settings) -> session::Settings {
    let window = count(NonZeroU16::MIN, NonZeroU16::MAX);
    session::Settings {
        receive_maximum: section.take("receive_maximum", &window, base.receive_maximum),
        inflight_max: section.take("inflight_max", &window, base.inflight_max),
        subscriptions_max: section.take(
            "subscriptions_max",
            &count(1, 1_000_000),
            base.subscriptions_max,
        ),
    }
}

fn read_mailbox(section: &mut Section<'_>, base: &mailbox::Settings) -> mailbox::Settings {
    let (messages, octets) = (count(1, 100_000_000), bytes(1 << 10, 1 << 40));
    let messages_max = section.take("messages_max", &messages, base.messages_max);
    let bytes_max = section.take("bytes_max", &octets, base.bytes_max);
    // They go with the bounds of one session.
    let principal_messages_max = if section.has("messages_max") {
        messages_max.saturating_mul(SESSIONS_FULL)
    } else {
        base.principal_messages_max
    };
    let principal_bytes_max = if section.has("bytes_max") {
        bytes_max.saturating_mul(SESSIONS_FULL.into())
    } else {
        base.principal_bytes_max
    };
    let principal_messages_max =
        section.take("principal_messages_max", &count(1, u32::MAX), principal_messages_max);
    let principal_bytes_max =
        section.take("principal_bytes_max", &bytes(1 << 10, 1 << 44), principal_bytes_max);
    for (key, is_less) in [
        ("principal_messages_max", principal_messages_max < messages_max),
        ("principal_bytes_max", principal_bytes_max < bytes_max),
    ] {
        if is_less {
            section.warn(key, "is less than one session of the principal may have");
        }
    }
    mailbox::Settings {
        messages_max,
        bytes_max,
        principal_messages_max,
        principal_bytes_max,
        overflow: section.take("overflow", &OVERFLOW, base.overflow),
        durability: base.durability,
    }
}

fn read_retained(section: &mut Section<'_>, base: &RetainedSettings) -> RetainedSettings {
    RetainedSettings {
        messages_max: section.take("messages_max", &count(1, 100_000_000), base.messages_max),
        bytes_max: section.take("bytes_max", &bytes(1 << 10, 1 << 40), base.bytes_max),
    }
}

/// A level of quality of service, by its number.
struct QosLevel;

impl Kind for QosLevel {
    type Meant = Qos;

    fn parse(&self, value: &Value) -> Result<Qos, Wrong> {
        let level = count(0_u16, 2).parse(value)?;
        Ok(match level {
            0 => Qos::AtMostOnce,
            1 => Qos::AtLeastOnce,
            _ => Qos::ExactlyOnce,
        })
    }

    fn show(&self, meant: &Qos) -> String {
        match meant {
            Qos::AtMostOnce => "0",
            Qos::AtLeastOnce => "1",
            Qos::ExactlyOnce => "2",
        }
        .into()
    }

    fn expects(&self) -> String {
        "0, 1 or 2".into()
    }
}

/// What holds between keys. A contradiction that was wholly inherited is reported where it was
/// made, hence only there.
fn check(
    profile: &Profile,
    rate: &Section<'_>,
    size: &Section<'_>,
    features: &Section<'_>,
    mailbox: &Section<'_>,
) {
    let packet = profile.size.packet_bytes_max;
    let packet_text = show_bytes(packet.into());
    if profile.rate.bytes_burst.get() < packet {
        let burst = show_bytes(profile.rate.bytes_burst.get().into());
        let remedy = format!("set rate.bytes_burst to at least \"{packet_text}\"");
        refuse_either(
            (rate, "bytes_burst", format!("is {burst}, but a packet may have {packet_text}")),
            (size, "packet_bytes_max", format!("is {packet_text}, but rate.bytes_burst {burst}")),
            &remedy,
        );
    }
    if profile.mailbox.bytes_max < u64::from(packet) {
        let held = show_bytes(profile.mailbox.bytes_max);
        let remedy = format!("set mailbox.bytes_max to at least \"{packet_text}\"");
        refuse_either(
            (mailbox, "bytes_max", format!("is {held}, but a packet may have {packet_text}")),
            (size, "packet_bytes_max", format!("is {packet_text}, but mailbox.bytes_max {held}")),
            &remedy,
        );
    }
    let offered = &profile.features;
    if !(offered.mqtt_3_1 || offered.mqtt_3_1_1 || offered.mqtt_5_0) {
        features.refuse("mqtt_5_0", "is off like every other version", "turn one version on");
    }
    if offered.keep_alive_s_max != 0 && offered.keep_alive_s_min > offered.keep_alive_s_max {
        refuse_either(
            (features, "keep_alive_min", "is more than keep_alive_max".into()),
            (features, "keep_alive_max", "is less than keep_alive_min".into()),
            "make keep_alive_min the smaller one",
        );
    }
    if offered.session_expiry_s_max == u32::MAX && features.has("session_expiry_max") {
        features.warn(
            "session_expiry_max",
            "is \"forever\": sessions of clients that are gone stay until they are removed by hand",
        );
    }
}

fn check_retained(profile: &Profile, retained: &Section<'_>, size: &Section<'_>) {
    let packet = profile.size.packet_bytes_max;
    if profile.retained.bytes_max < u64::from(packet) {
        let (kept, packet) = (show_bytes(profile.retained.bytes_max), show_bytes(packet.into()));
        refuse_either(
            (retained, "bytes_max", format!("is {kept}, but a packet may have {packet}")),
            (size, "packet_bytes_max", format!("is {packet}, but retained.bytes_max {kept}")),
            &format!("set retained.bytes_max to at least \"{packet}\""),
        );
    }
}

/// Refuses the first key that was typed, of two that contradict each other.
fn refuse_either(
    one: (&Section<'_>, &str, String),
    other: (&Section<'_>, &str, String),
    remedy: &str,
) {
    for (section, key, message) in [one, other] {
        if section.has(key) {
            return section.refuse(key, &message, remedy);
        }
    }
}

const fn non_zero_u32(value: u32) -> NonZeroU32 {
    match NonZeroU32::new(value) {
        Some(value) => value,
        None => NonZeroU32::MIN,
    }
}

const fn non_zero_u16(value: u16) -> NonZeroU16 {
    match NonZeroU16::new(value) {
        Some(value) => value,
        None => NonZeroU16::MIN,
    }
}
