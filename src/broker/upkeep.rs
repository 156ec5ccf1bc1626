//! What is done without a packet: expiry, delayed wills, what was left behind, the gauges.

use std::time::{Duration, Instant};

use super::sessions::Due;
use super::{Broker, Now};
use crate::router::Cursor;

/// Sessions looked after before other tasks get their turn.
const AGENDA_STEP: usize = 256;

/// How often a page of retained messages, and a part of the queues, is looked through for expired
/// ones.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

impl Broker {
    /// Brings the gauges up to date.
    fn gauge(&self) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let (sessions, connected) = self.sessions.count();
        let (retained, retained_bytes) = self.router.retained_size();
        let metrics = &self.metrics;
        metrics.sessions_connected.set(gauge(connected as u64));
        metrics.sessions_offline.set(gauge(sessions.saturating_sub(connected) as u64));
        metrics.subscriptions.set(gauge(self.router.subscriptions() as u64));
        metrics.retained_messages.set(gauge(retained as u64));
        metrics.retained_bytes.set(gauge(retained_bytes));
        metrics.queued_messages.set(gauge(self.router.budget().all_messages()));
        metrics.queued_bytes.set(gauge(self.router.budget().all_bytes()));
        metrics.bans.set(gauge(self.registry.bans.count() as u64));
        metrics.devices.set(gauge(self.registry.devices.count() as u64));
        metrics.devices_pending.set(gauge(self.registry.devices.pending() as u64));
        let is_full = self.store.as_ref().is_some_and(|store| store.is_full());
        metrics.store_full.set(is_full.into());
        let (batches, syncs) = self.store.as_ref().map_or((0, 0), |store| store.batches());
        for (counter, count) in [(&metrics.store_batches, batches), (&metrics.store_syncs, syncs)] {
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }

    /// Drops what has expired in the queues of a part of the sessions that wait for their clients.
    async fn expire_waiting(&self, shard: usize) {
        for (number, peer) in self.sessions.parked(shard).into_iter().enumerate() {
            if number % AGENDA_STEP == AGENDA_STEP - 1 {
                tokio::task::yield_now().await;
            }
            peer.mailbox.expire(Now::read().instant);
        }
    }

    /// Ends sessions that have expired, sends wills that are due and removes expired retained
    /// messages, for as long as it is polled.
    pub async fn keep_agenda(&self) {
        let mut cursor = Cursor::default();
        let (mut shard, mut swept_at) = (0, None);
        loop {
            let now = Now::read();
            let (due, next) = self.sessions.agenda().take_due(now.instant, AGENDA_STEP);
            let busy = due.len() == AGENDA_STEP;
            for client_id in due {
                match self.sessions.due(&client_id, now.instant) {
                    Some(Due::Ended(ended)) => {
                        self.finish(*ended, now);
                    }
                    Some(Due::Will { will, peer, expires_at }) => {
                        self.send_parked_will(will, &peer, expires_at, now);
                    }
                    None => {}
                }
            }
            self.look_after_bans(now);
            self.router.expire_retained(&mut cursor, now.instant);
            let swept = |at: Instant| now.instant.saturating_duration_since(at) < SWEEP_INTERVAL;
            if !swept_at.is_some_and(swept) {
                swept_at = Some(now.instant);
                self.expire_waiting(shard).await;
                shard = shard.wrapping_add(1);
            }
            let busy = self.hand_over(now).await || busy;
            self.gauge();
            if busy {
                tokio::task::yield_now().await;
                continue;
            }
            let until = next.map_or(SWEEP_INTERVAL, |at| {
                at.saturating_duration_since(now.instant).min(SWEEP_INTERVAL)
            });
            let _ = tokio::time::timeout(until, self.sessions.agenda().sooner()).await;
        }
    }
}
