//! Messages between publishers and subscribers: CPU time per delivery, and under paced load the
//! latency.

use std::io;

use super::{Figure, PAYLOAD_BYTES, Scale, Unit, microseconds};
use crate::client::{Exchange, Pace, Plan};
use crate::peers::Running;

pub(super) fn run(
    server: &Running,
    scale: Scale,
    load: super::Exchange,
) -> io::Result<Vec<Figure>> {
    let target = if load.mtls { server.mtls() } else { server.plain() };
    let plan = Plan {
        name: "bench".into(),
        groups: load.groups,
        publishers: load.publishers,
        subscribers: load.subscribers,
        qos: load.qos,
        pace: load.pace,
        payload_bytes: PAYLOAD_BYTES,
    };
    let mut exchange = Exchange::open(&target, plan)?;
    exchange.run_for(scale.warm_up())?;
    let is_paced = matches!(load.pace, Pace::Rate { .. });
    if is_paced {
        exchange.swarm().take_latencies();
    }
    let (cpu, delivered) = (server.cpu(), exchange.delivered());
    exchange.run_for(scale.measured())?;
    let (cpu, delivered) = (server.cpu().since(&cpu), exchange.delivered() - delivered);
    if delivered == 0 {
        return Err(io::Error::other("nothing was delivered"));
    }
    let value = microseconds(cpu) / delivered as f64;
    let mut figures = vec![Figure { unit: Unit::CpuUsPerDelivery, value }];
    if is_paced {
        let value = exchange.swarm().take_latencies().percentile(0.99).as_secs_f64() * 1e3;
        figures.push(Figure { unit: Unit::LatencyP99Ms, value });
    }
    Ok(figures)
}
