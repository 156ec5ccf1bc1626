//! The floor: a process that does nothing but copy bytes from one socket to others.
//!
//! It answers CONNECT and SUBSCRIBE with fixed bytes so that the same load client can use it.
//! After the first PUBLISH of a connection it never looks at a byte again: what is read at once
//! is written at once to every subscriber of that topic. One thread, no parsing, no queues.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

/// Marks the listener among the events.
const LISTENER: u64 = u64::MAX;

#[derive(Clone, Copy)]
enum Role {
    Unknown,
    Subscriber,
    Publisher { group: usize },
}

struct Peer {
    stream: TcpStream,
    role: Role,
}

#[derive(Default)]
struct Groups {
    by_topic: HashMap<Vec<u8>, usize>,
    members: Vec<Vec<usize>>,
}

impl Groups {
    fn of(&mut self, topic: &[u8]) -> usize {
        let next = self.members.len();
        let group = *self.by_topic.entry(topic.to_vec()).or_insert(next);
        if group == next {
            self.members.push(Vec::new());
        }
        group
    }
}

/// Listens on `address` until the process that started it ends.
pub(crate) fn run(address: SocketAddr) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut peers: Vec<Peer> = Vec::new();
    let mut groups = Groups::default();
    let mut events = Vec::with_capacity(512);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        events.clear();
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        for event in &events {
            let data = event.data;
            if data.u64() == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let data = EventData::new_u64(peers.len() as u64);
                    epoll::add(&epoll, &stream, data, EventFlags::IN)?;
                    peers.push(Peer { stream, role: Role::Unknown });
                }
                continue;
            }
            let index = data.u64() as usize;
            let count = match (&peers[index].stream).read(&mut buffer) {
                Ok(count) if count > 0 => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                _ => {
                    epoll::delete(&epoll, &peers[index].stream)?;
                    groups.members.iter_mut().for_each(|members| members.retain(|m| *m != index));
                    continue;
                }
            };
            if let Role::Unknown | Role::Subscriber = peers[index].role {
                greet(&mut peers[index], index, &mut groups, &buffer[..count])?;
            }
            if let Role::Publisher { group } = peers[index].role {
                for member in &groups.members[group] {
                    // The load client never has more under way than a socket buffer holds.
                    (&peers[*member].stream).write_all(&buffer[..count])?;
                }
            }
        }
    }
}

/// Answers CONNECT and SUBSCRIBE; takes a PUBLISH for what all that follows will be.
fn greet(peer: &mut Peer, index: usize, groups: &mut Groups, bytes: &[u8]) -> io::Result<()> {
    match bytes[0] {
        0x10 => (&peer.stream).write_all(&[0x20, 2, 0, 0]),
        0x82 => {
            let group = groups.of(text(&bytes[4..]));
            groups.members[group].push(index);
            peer.role = Role::Subscriber;
            (&peer.stream).write_all(&[0x90, 3, bytes[2], bytes[3], 0])
        }
        0x30 => {
            peer.role = Role::Publisher { group: groups.of(text(&bytes[2..])) };
            Ok(())
        }
        _ => Ok(()),
    }
}

fn text(bytes: &[u8]) -> &[u8] {
    let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    &bytes[2..2 + length]
}
