//! What the broker counts, for Prometheus.
//!
//! One [`Metrics`] is shared by all as an `Arc`. Everything in it is an atomic: no lock, no map
//! lookup and no allocation on the way of a packet. Callers on that way add once per batch
//! (`inc_by`), not once per packet. No label ever holds what a client sent.

mod labels;
mod sharded;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

pub use labels::{ByDropReason, ByGate, ByOutcome, ByVerb, DropReason, Gate, Outcome, Verb};
pub use sharded::Sharded;

/// The media type of [`Metrics::render`].
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type ByListener = Family<[(&'static str, String); 1], Gauge>;

/// All counters and gauges of one broker.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    connections: ByListener,
    handshakes: ByListener,

    /// Connections that reached a successful CONNACK.
    pub connections_accepted: Counter,
    /// Connections refused before that.
    pub connections_refused: ByGate,

    /// Packets read.
    pub packets_received: Counter<u64, Sharded>,
    /// Packets written.
    pub packets_sent: Counter<u64, Sharded>,
    /// Bytes of MQTT read, without TLS and WebSocket.
    pub bytes_received: Counter<u64, Sharded>,
    /// Bytes of MQTT written, without TLS and WebSocket.
    pub bytes_sent: Counter<u64, Sharded>,
    /// PUBLISH packets read.
    pub publishes_received: Counter<u64, Sharded>,
    /// PUBLISH packets written, one for each receiver.
    pub publishes_delivered: Counter<u64, Sharded>,
    /// Deliveries that did not happen.
    pub publishes_dropped: ByDropReason,

    /// Refusals by policy.
    pub denials: ByVerb,
    /// Breaches of the specification by clients.
    pub violations: Counter,
    /// Sessions taken over by a new connection of their owner.
    pub takeovers: Counter,

    /// Bans in force.
    pub bans: Gauge,
    /// Bans that were made since somebody came and went too often.
    pub flapping_bans: Counter,
    /// Devices that are known.
    pub devices: Gauge,
    /// Those of them that wait to be approved.
    pub devices_pending: Gauge,

    /// Subscriptions, of live and offline sessions.
    pub subscriptions: Gauge,
    /// Sessions with a connection.
    pub sessions_connected: Gauge,
    /// Sessions without one.
    pub sessions_offline: Gauge,
    /// Retained messages.
    pub retained_messages: Gauge,
    /// Bytes of retained messages: topics, payloads and properties.
    pub retained_bytes: Gauge,
    /// 1 while the disk of the store is nearly full, and durable messages are refused.
    pub store_full: Gauge,
    /// Batches of changes that the store has written.
    pub store_batches: Counter,
    /// Those of them that were synced before anything in them was acknowledged.
    pub store_syncs: Counter,
    /// Messages waiting for clients.
    pub queued_messages: Gauge,
    /// Bytes of messages waiting for clients.
    pub queued_bytes: Gauge,

    /// Audit events written.
    pub audit_written: Counter,
    /// Audit events lost because the queue was full.
    pub audit_lost: Counter,
    /// Writes of the audit log that failed.
    pub audit_write_failures: Counter,
    /// 1 while the audit log cannot be written.
    pub audit_failing: Gauge,
    /// Reloads of the policies.
    pub policy_reloads: ByOutcome,
    /// Reloads of the configuration.
    pub config_reloads: ByOutcome,
    /// Passwords that were compared with a hash: each costs as much as a login is meant to.
    pub password_hashes: Counter,
    /// Tasks that panicked; each took down its own connection only.
    pub panics: Counter,
}

/// The gauges of one listener. A clone shows the same numbers; the default belongs to no
/// registry.
#[derive(Clone, Debug, Default)]
pub struct ListenerGauges {
    /// Connections open, handshakes included.
    pub connections: Gauge,
    /// Connections that have not been answered with CONNACK yet.
    pub handshakes: Gauge,
}

impl Metrics {
    /// Metrics that all stand at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("portcullis");
        let r = &mut registry;
        Self {
            connections: register(r, "connections", "Connections open"),
            handshakes: register(r, "handshakes", "Connections not answered with CONNACK yet"),
            connections_accepted: register(r, "connections_accepted", "Connections accepted"),
            connections_refused: ByGate::register(
                r,
                "connections_refused",
                "Connections refused, by gate",
            ),
            packets_received: register(r, "received_packets", "Packets read"),
            packets_sent: register(r, "sent_packets", "Packets written"),
            bytes_received: register(r, "received_bytes", "Bytes of MQTT read"),
            bytes_sent: register(r, "sent_bytes", "Bytes of MQTT written"),
            publishes_received: register(r, "received_publishes", "PUBLISH packets read"),
            publishes_delivered: register(
                r,
                "delivered_publishes",
                "PUBLISH packets written, one for each receiver",
            ),
            publishes_dropped: ByDropReason::register(
                r,
                "dropped_publishes",
                "Deliveries that did not happen, by reason",
            ),
            denials: ByVerb::register(r, "denials", "Refusals by policy, by verb"),
            violations: register(r, "violations", "Breaches of the specification by clients"),
            takeovers: register(r, "takeovers", "Sessions taken over by their owner"),
            bans: register(r, "bans", "Bans in force"),
            flapping_bans: register(r, "flapping_bans", "Bans of whoever came and went too often"),
            devices: register(r, "devices", "Devices that are known"),
            devices_pending: register(r, "devices_pending", "Devices that wait for approval"),
            subscriptions: register(r, "subscriptions", "Subscriptions"),
            sessions_connected: register(r, "sessions_connected", "Sessions with a connection"),
            sessions_offline: register(r, "sessions_offline", "Sessions without a connection"),
            retained_messages: register(r, "retained_messages", "Retained messages"),
            retained_bytes: register(r, "retained_bytes", "Bytes of retained messages"),
            store_full: register(r, "store_full", "1 while the disk of the store is nearly full"),
            store_batches: register(r, "store_batches", "Batches that the store has written"),
            store_syncs: register(r, "store_syncs", "Batches that were synced before they counted"),
            queued_messages: register(r, "queued_messages", "Messages waiting for clients"),
            queued_bytes: register(r, "queued_bytes", "Bytes waiting for clients"),
            audit_written: register(r, "audit_written", "Audit events written"),
            audit_lost: register(r, "audit_lost", "Audit events lost"),
            audit_write_failures: register(
                r,
                "audit_write_failures",
                "Writes of the audit log that failed",
            ),
            audit_failing: register(r, "audit_failing", "1 while the audit log cannot be written"),
            policy_reloads: ByOutcome::register(r, "policy_reloads", "Reloads of the policies"),
            config_reloads: ByOutcome::register(
                r,
                "config_reloads",
                "Reloads of the configuration",
            ),
            password_hashes: register(r, "password_hashes", "Passwords compared with a hash"),
            panics: register(r, "panics", "Tasks that panicked"),
            registry,
        }
    }

    /// The gauges of a listener, made at the first call. Names come from the configuration,
    /// so their number is bounded.
    #[must_use]
    pub fn listener(&self, name: &str) -> ListenerGauges {
        let label = [("listener", name.to_owned())];
        ListenerGauges {
            connections: self.connections.get_or_create_owned(&label),
            handshakes: self.handshakes.get_or_create_owned(&label),
        }
    }

    /// Everything in the text format of `OpenMetrics` ([`MEDIA_TYPE`]).
    #[must_use]
    pub fn render(&self) -> String {
        let mut page = String::with_capacity(8 * 1024);
        // Writing to a String fails only if a metric's own formatting does, and ours are numbers.
        if text::encode(&mut page, &self.registry).is_err() {
            page.clear();
        }
        page
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn register<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_exists_at_zero_from_the_start() {
        let page = Metrics::new().render();
        for verb in Verb::ALL {
            let line = format!("portcullis_denials_total{{verb=\"{verb}\"}} 0\n");
            assert!(page.contains(&line), "{line} is not in\n{page}");
        }
        for gate in Gate::ALL {
            assert!(
                page.contains(&format!(
                    "portcullis_connections_refused_total{{gate=\"{gate}\"}} 0"
                ))
            );
        }
        for reason in DropReason::ALL {
            let line = format!("portcullis_dropped_publishes_total{{reason=\"{reason}\"}} 0\n");
            assert!(page.contains(&line), "{line} is not in\n{page}");
        }
        assert!(page.ends_with("# EOF\n"));
    }

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::new();
        metrics.denials.of(Verb::Receive).inc_by(7);
        metrics.bytes_received.inc_by(40);
        metrics.bytes_received.inc_by(2);
        metrics.retained_messages.inc();
        let gauges = metrics.listener("mtls");
        gauges.connections.inc();
        metrics.listener("mtls").connections.inc();
        let page = metrics.render();
        for line in [
            "portcullis_denials_total{verb=\"receive\"} 7\n",
            "portcullis_received_bytes_total 42\n",
            "portcullis_retained_messages 1\n",
            "portcullis_connections{listener=\"mtls\"} 2\n",
            "portcullis_handshakes{listener=\"mtls\"} 0\n",
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn every_metric_has_a_help_text_of_its_own() {
        let page = Metrics::new().render();
        let mut names: Vec<&str> =
            page.lines().filter_map(|line| line.strip_prefix("# HELP ")).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup_by_key(|line| line.split(' ').next());
        assert_eq!(names.len(), all, "a name is registered twice");
    }
}
