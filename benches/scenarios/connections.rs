//! Connections: what each costs to open, and to keep while nothing happens on it.

use std::io;

use super::{Figure, Scale, Unit, microseconds};
use crate::client::Swarm;
use crate::peers::Running;

/// Connections being opened at a time: fewer than any server's backlog.
const OPENING_MAX: usize = 64;

/// Connections before the measured ones, so that what a server sets up once is not counted.
const FIRST: usize = 20;

pub(super) fn run(
    server: &Running,
    scale: Scale,
    mtls: bool,
    count: usize,
) -> io::Result<Vec<Figure>> {
    let count = scale.count(count);
    let target = if mtls { server.mtls() } else { server.plain() };
    let clients = (0..FIRST + count).map(|index| target.client(format!("idle-{index}")));
    let clients = clients.collect::<io::Result<Vec<_>>>()?;
    let (first, measured) = clients.split_at(FIRST);
    let mut swarm = Swarm::new()?;
    swarm.open(first, OPENING_MAX)?;
    swarm.idle(scale.rest())?;

    let (cpu, memory) = (server.cpu(), server.memory());
    swarm.open(measured, OPENING_MAX)?;
    let cpu = server.cpu().since(&cpu);
    swarm.idle(scale.rest())?;
    let added = server.memory().anonymous_bytes.saturating_sub(memory.anonymous_bytes);
    Ok(vec![
        Figure { unit: Unit::CpuUsPerConnection, value: microseconds(cpu) / count as f64 },
        Figure { unit: Unit::BytesPerConnection, value: added as f64 / count as f64 },
    ])
}
