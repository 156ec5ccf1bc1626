//! Retained replay: five subscribers ask for 5,000 retained messages, again and again.

use std::io;
use std::time::Instant;

use super::{Figure, PAYLOAD_BYTES, Scale, Unit, microseconds};
use crate::client::{Publication, Swarm};
use crate::peers::Running;

const SUBSCRIBERS: usize = 5;
const TOPICS: usize = 5_000;
const WINDOW: u32 = 100;

pub(super) fn run(server: &Running, scale: Scale) -> io::Result<Vec<Figure>> {
    let topics = scale.count(TOPICS);
    let target = server.plain();
    let mut swarm = Swarm::new()?;
    let publisher = swarm.open(&[target.client("retained-pub")?], 1)?.start;
    for index in 0..topics {
        let topic = format!("retained/area-{}/value-{index}", index % 50);
        let publication = Publication::new(target.version, &topic, 1, true, PAYLOAD_BYTES);
        swarm.publish(publisher, &publication, 1, Instant::now());
        let excess = u64::from(swarm.connection(publisher).unacknowledged().saturating_sub(WINDOW));
        swarm.settle("acknowledgements", excess, |swarm| {
            let left = swarm.connection(publisher).unacknowledged().saturating_sub(WINDOW);
            Ok(excess - u64::from(left).min(excess))
        })?;
    }
    let left = u64::from(swarm.connection(publisher).unacknowledged());
    swarm.settle("acknowledgements", left, |swarm| {
        Ok(left - u64::from(swarm.connection(publisher).unacknowledged()))
    })?;

    let clients = (0..SUBSCRIBERS).map(|index| target.client(format!("retained-sub-{index}")));
    let subscribers = swarm.open(&clients.collect::<io::Result<Vec<_>>>()?, SUBSCRIBERS)?;
    let filter = ["retained/#".to_owned()];
    let cpu = server.cpu();
    let start = Instant::now();
    let mut delivered = 0;
    while delivered == 0 || start.elapsed() < scale.measured() {
        let wanted = (topics * SUBSCRIBERS) as u64;
        for index in subscribers.clone() {
            swarm.request_subscriptions(index, 1, &filter);
        }
        let mut reached = 0;
        swarm.settle("retained messages", wanted, |swarm| {
            for index in subscribers.clone() {
                reached += swarm.connection_mut(index).take_delivered();
            }
            Ok(reached)
        })?;
        delivered += reached;
    }
    let cpu = server.cpu().since(&cpu);
    let value = microseconds(cpu) / delivered as f64;
    Ok(vec![Figure { unit: Unit::CpuUsPerDelivery, value }])
}
