//! Leaves a server alone that does not answer.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// So many failures in a row, and the server is left alone.
const FAILURES_MAX: u32 = 5;
/// For so long; then one request tries it.
const REST: Duration = Duration::from_secs(10);

/// Keeps requests from a server that does not answer, and clients from waiting for it.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<Circuit>);

#[derive(Debug, Default)]
struct Circuit {
    failures: u32,
    rests_until: Option<Instant>,
}

impl Breaker {
    /// Whether to ask. After a rest one request is let through, and the others wait for what
    /// becomes of it.
    pub(super) fn may_ask(&self, now: Instant) -> bool {
        let mut circuit = self.0.lock();
        match circuit.rests_until {
            None => true,
            Some(until) if until > now => false,
            Some(_) => {
                circuit.rests_until = now.checked_add(REST);
                true
            }
        }
    }

    /// The server works.
    pub(super) fn answered(&self) {
        *self.0.lock() = Circuit::default();
    }

    /// The server has not answered, or not as it should.
    pub(super) fn failed(&self, now: Instant) {
        let mut circuit = self.0.lock();
        circuit.failures = circuit.failures.saturating_add(1);
        if circuit.failures >= FAILURES_MAX {
            circuit.rests_until = now.checked_add(REST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_fails_is_left_alone_and_tried_by_one() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..FAILURES_MAX {
            assert!(breaker.may_ask(now));
            breaker.failed(now);
        }
        assert!(!breaker.may_ask(now));
        assert!(!breaker.may_ask(now + REST.saturating_sub(Duration::from_millis(1))));
        assert!(breaker.may_ask(now + REST));
        assert!(!breaker.may_ask(now + REST), "one tries it");
        breaker.failed(now + REST);
        assert!(!breaker.may_ask(now + REST + REST / 2));
        assert!(breaker.may_ask(now + 2 * REST));
        breaker.answered();
        assert!(breaker.may_ask(now + 2 * REST) && breaker.may_ask(now + 2 * REST));
        // A failure now and then is none in a row.
        for _ in 0..3 * FAILURES_MAX {
            breaker.failed(now);
            breaker.answered();
        }
        assert!(breaker.may_ask(now));
    }
}
