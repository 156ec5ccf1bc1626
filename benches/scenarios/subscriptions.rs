//! Subscriptions: what each costs to make and to keep. Of each ten, six are exact, three have a
//! `+` and one has a `#`; no two are the same.

use std::io;

use super::{Figure, Scale, Unit, microseconds};
use crate::client::Swarm;
use crate::peers::Running;

const CLIENTS: usize = 400;
const FILTERS_PER_PACKET: usize = 50;

pub(super) fn run(server: &Running, scale: Scale, count: usize) -> io::Result<Vec<Figure>> {
    let each = scale.count(count) / CLIENTS;
    let target = server.plain();
    let clients = (0..CLIENTS).map(|index| target.client(format!("subscriber-{index}")));
    let mut swarm = Swarm::new()?;
    let clients = swarm.open(&clients.collect::<io::Result<Vec<_>>>()?, 64)?;
    swarm.idle(scale.rest())?;

    let (cpu, memory) = (server.cpu(), server.memory());
    for index in clients {
        let filters: Vec<String> = (0..each).map(|number| filter(index, number)).collect();
        for filters in filters.chunks(FILTERS_PER_PACKET) {
            swarm.request_subscriptions(index, 1, filters);
        }
        swarm.settle("subscriptions granted", each as u64, |swarm| {
            Ok(swarm.connection(index).granted())
        })?;
    }
    let cpu = server.cpu().since(&cpu);
    swarm.idle(scale.rest())?;
    let added = server.memory().anonymous_bytes.saturating_sub(memory.anonymous_bytes);
    let count = (each * CLIENTS) as f64;
    Ok(vec![
        Figure { unit: Unit::CpuUsPerSubscription, value: microseconds(cpu) / count },
        Figure { unit: Unit::BytesPerSubscription, value: added as f64 / count },
    ])
}

fn filter(client: usize, number: usize) -> String {
    let line = number % 20;
    match number % 10 {
        0..6 => format!("site/{client}/line/{line}/device/{number}/state"),
        6..9 => format!("site/{client}/+/{line}/device/{number}/alarm"),
        _ => format!("site/{client}/line/{line}/unit/{number}/#"),
    }
}
