//! A blocking MQTT client that sends literal bytes and says exactly what came back.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::wire::{self, Connack, Connect, Publish, Version};

/// How long a test waits for anything. Reached only when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What a connection runs over: TCP, TLS, or a WebSocket adapter.
pub trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// A connection to the broker.
pub struct Raw {
    stream: Box<dyn Stream>,
    /// Received and not yet taken.
    waiting: Vec<u8>,
}

impl Raw {
    /// Connects over TCP.
    pub fn tcp(address: SocketAddr) -> Self {
        Self::over(tcp(address))
    }

    /// Takes a stream that is connected. Its reads must time out.
    pub fn over(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), waiting: Vec::new() }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap_or_else(|error| panic!("sending {bytes:02x?}: {error}"));
    }

    /// Sends bytes to a broker that may have closed the connection already.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Reads once; `false` at the end of the stream.
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return false,
                Ok(length) => {
                    self.waiting.extend(&chunk[..length]);
                    return true;
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                        panic!("nothing came within {PATIENCE:?}; so far {:02x?}", self.waiting)
                    }
                    // A reset, or TLS that ends without close_notify, is an end too.
                    _ => return false,
                },
            }
        }
    }

    /// The next whole packet, or `None` when the connection ends before one begins.
    pub fn next_packet(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(length) = whole_packet(&self.waiting) {
                return Some(self.waiting.drain(..length).collect());
            }
            if !self.fill() {
                assert!(self.waiting.is_empty(), "closed inside a packet: {:02x?}", self.waiting);
                return None;
            }
        }
    }

    /// The next whole packet.
    pub fn recv_packet(&mut self) -> Vec<u8> {
        self.next_packet().expect("a packet, but the broker closed the connection")
    }

    /// Exactly these bytes come next.
    pub fn expect(&mut self, bytes: &[u8]) {
        while self.waiting.len() < bytes.len() {
            assert!(self.fill(), "closed after {:02x?}, expected {bytes:02x?}", self.waiting);
        }
        let received: Vec<u8> = self.waiting.drain(..bytes.len()).collect();
        assert_eq!(received, bytes, "left: received, right: expected");
    }

    /// The connection ends, and nothing comes before that.
    pub fn expect_closed(&mut self) {
        if let Some(packet) = self.next_packet() {
            panic!("expected the end of the connection, received {packet:02x?}");
        }
    }

    /// DISCONNECT of MQTT 5 with one of these reasons, then the end.
    pub fn expect_disconnect(&mut self, reasons: &[u8]) {
        let packet = self.recv_packet();
        assert_eq!(packet[0], 0xe0, "expected DISCONNECT, received {packet:02x?}");
        let reason = packet.get(2).copied().unwrap_or(0);
        assert!(reasons.contains(&reason), "reason 0x{reason:02x}, expected one of {reasons:02x?}");
        let (_, body) = wire::read_varint(&packet[1..]);
        if body.len() > 1 {
            let (length, properties) = wire::read_varint(&body[1..]);
            assert_eq!(length, properties.len());
            let expiry = wire::properties(properties).into_iter().find(|(id, _)| *id == 0x11);
            assert_eq!(expiry, None, "a Session Expiry Interval from the server [MQTT-3.14.2-2]");
        }
        self.expect_closed();
    }

    /// The connection ends, with one DISCONNECT or refusing CONNACK before it at most.
    pub fn expect_end(&mut self) {
        if let Some(packet) = self.next_packet() {
            let refusal = packet[0] == 0xe0 || packet[0] == 0x20 && packet[3] != 0;
            assert!(refusal, "expected the end of the connection, received {packet:02x?}");
            self.expect_closed();
        }
    }
}

fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// The length of the packet at the start of some bytes, when it is there to its end.
fn whole_packet(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(1..)?.iter().take(4).position(|byte| byte & 0x80 == 0)? + 2;
    let length = header + wire::read_varint(&bytes[1..]).0;
    (bytes.len() >= length).then_some(length)
}

/// A client that has been accepted. What it does not do by itself: answer anything.
pub struct Client {
    /// The connection.
    pub raw: Raw,
    /// What it speaks.
    pub version: Version,
    /// The answer to its CONNECT.
    pub connack: Connack,
    /// Messages that came while something else was awaited, which MQTT allows.
    set_aside: VecDeque<Publish>,
}

impl Client {
    /// Connects over TCP and is accepted.
    pub fn connect(address: SocketAddr, connect: &Connect) -> Self {
        Self::over(Raw::tcp(address), connect)
    }

    /// Sends CONNECT on a connection and is accepted.
    pub fn over(mut raw: Raw, connect: &Connect) -> Self {
        raw.send(&connect.bytes());
        let connack = Connack::parse(connect.version, &raw.recv_packet());
        assert_eq!(connack.code, 0, "refused: {connack:02x?}");
        Self { raw, version: connect.version, connack, set_aside: VecDeque::new() }
    }

    /// Subscribes to one filter, and is granted something. Packet identifier 1.
    pub fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
        self.subscribe_with(&[], &[(filter, options)])[0]
    }

    /// Subscribes with properties to several filters; the reason codes. Packet identifier 1.
    pub fn subscribe_with(&mut self, properties: &[u8], filters: &[(&str, u8)]) -> Vec<u8> {
        self.raw.send(&wire::subscribe(self.version, 1, properties, filters));
        let packet = self.answer(0x90);
        self.codes(&packet, filters.len())
    }

    /// Unsubscribes; the reason codes, of which MQTT 3 has none. Packet identifier 2.
    pub fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        self.raw.send(&wire::unsubscribe(self.version, 2, filters));
        let packet = self.answer(0xb0);
        assert_eq!(packet[2..4], [0, 2], "the packet identifier of UNSUBSCRIBE");
        let count = if self.version == Version::Mqtt5 { filters.len() } else { 0 };
        packet[packet.len() - count..].to_vec()
    }

    fn codes(&self, suback: &[u8], count: usize) -> Vec<u8> {
        assert_eq!(suback[2..4], [0, 1], "the packet identifier of SUBSCRIBE");
        let properties = if self.version == Version::Mqtt5 {
            let (length, rest) = wire::read_varint(&suback[4..]);
            assert_eq!(rest.len() - length, count, "one reason code for each filter");
            suback.len() - rest.len() + length - 4
        } else {
            0
        };
        assert_eq!(suback.len() - 4 - properties, count, "one reason code for each filter");
        suback[suback.len() - count..].to_vec()
    }

    /// Publishes QoS 0.
    pub fn publish(&mut self, topic: &str, payload: &str) {
        self.send(&Publish::new(topic, payload));
    }

    /// Publishes with QoS 1 and packet identifier 1, and waits for success: what it was to
    /// cause has then been done.
    pub fn publish_surely(&mut self, publish: &Publish) {
        self.send(&publish.clone().qos(1, 1));
        let packet = self.answer(wire::PUBACK);
        assert_eq!(packet[2..4], [0, 1]);
        // 0x10, no matching subscribers, is a success too.
        assert!(packet.get(4).is_none_or(|code| [0, 0x10].contains(code)), "{packet:02x?}");
    }

    /// Sends a PUBLISH as it is.
    pub fn send(&mut self, publish: &Publish) {
        self.raw.send(&publish.bytes(self.version));
    }

    /// The next packet that is no PUBLISH, which begins with this byte.
    fn answer(&mut self, first: u8) -> Vec<u8> {
        loop {
            let packet = self.raw.recv_packet();
            if packet[0] >> 4 == 3 {
                self.set_aside.push_back(Publish::parse(self.version, &packet));
                continue;
            }
            assert_eq!(packet[0], first, "expected 0x{first:02x}, received {packet:02x?}");
            return packet;
        }
    }

    /// The next message.
    pub fn receive(&mut self) -> Publish {
        if let Some(publish) = self.set_aside.pop_front() {
            return publish;
        }
        Publish::parse(self.version, &self.raw.recv_packet())
    }

    /// The next PUBLISH has this payload; it is acknowledged where its QoS asks for that.
    pub fn receive_text(&mut self, payload: &str) -> Publish {
        let publish = self.receive();
        assert_eq!(publish.text(), payload, "{publish:?}");
        self.acknowledge(&publish);
        publish
    }

    /// Completes the handshake of a PUBLISH.
    pub fn acknowledge(&mut self, publish: &Publish) {
        match (publish.qos, publish.id) {
            (1, Some(id)) => self.raw.send(&wire::ack(wire::PUBACK, id)),
            (2, Some(id)) => {
                self.raw.send(&wire::ack(wire::PUBREC, id));
                self.expect_ack(wire::PUBREL, id);
                self.raw.send(&wire::ack(wire::PUBCOMP, id));
            }
            _ => {}
        }
    }

    /// An acknowledgement that says success comes next.
    pub fn expect_ack(&mut self, first: u8, id: u16) {
        let reason = self.expect_ack_any(first, id);
        assert!([0, 0x10].contains(&reason), "reason 0x{reason:02x}");
    }

    /// An acknowledgement comes next; its reason code, 0 where there is none.
    pub fn expect_ack_any(&mut self, first: u8, id: u16) -> u8 {
        let packet = self.answer(first);
        assert_eq!(packet[2..4], id.to_be_bytes(), "the packet identifier");
        packet.get(4).copied().unwrap_or(0)
    }

    /// The broker answers a PINGREQ, and no message came before the answer.
    pub fn ping(&mut self) {
        assert!(self.set_aside.is_empty(), "{:?}", self.set_aside);
        self.raw.send(&wire::PINGREQ);
        self.raw.expect(&wire::PINGRESP);
    }

    /// Ends the connection as MQTT has it, and waits for the broker to have seen it.
    pub fn disconnect(mut self) {
        self.raw.send(&wire::DISCONNECT);
        self.raw.expect_closed();
    }

    /// Ends the connection with a reason code, and waits for the broker to have seen it.
    pub fn disconnect_with(mut self, reason: u8, properties: &[u8]) {
        self.raw.send(&wire::disconnect_with(reason, properties));
        self.raw.expect_closed();
    }

    /// Breaks the connection without a DISCONNECT, as a lost network does.
    pub fn vanish(self) {
        drop(self);
    }
}
