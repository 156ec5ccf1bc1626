//! A small MQTT 5 client over mTLS, to show the broker from outside: blocking, one packet at a
//! time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::Failure;
use crate::mqtt::frame::FrameHeader;
use crate::mqtt::packet::{
    Connect, Packet, PacketId, Publish, Qos, RetainHandling, Side, Subscribe, SubscribeEntry,
};
use crate::mqtt::{ProtocolVersion, ReasonCode, SubscriptionFilter, UserProperties};

const VERSION: ProtocolVersion = ProtocolVersion::V5;
const PATIENCE: Duration = Duration::from_secs(10);
const PACKET_BYTES_MAX: u32 = 64 * 1024;

/// What a device shows of itself, and whom it trusts.
pub(super) struct Credentials(Arc<ClientConfig>);

impl Credentials {
    /// Reads the certificate and key `NAME.{pem,key}` in a folder, and `ca.pem`.
    pub(super) fn read(folder: &Path, name: &str) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(folder.join("ca.pem"))? {
            roots.add(certificate?)?;
        }
        let chain = CertificateDer::pem_file_iter(folder.join(format!("{name}.pem")))?
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key")))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Self(Arc::new(config)))
    }
}

/// A connected client.
pub(super) struct Client {
    stream: StreamOwned<ClientConnection, TcpStream>,
    input: Vec<u8>,
    next_id: u16,
}

/// A message that arrived.
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
}

impl Client {
    /// Connects, with `name` as client id.
    pub(super) fn connect(
        credentials: &Credentials,
        address: SocketAddr,
        name: &str,
    ) -> Result<Self, Failure> {
        let server = ServerName::try_from("localhost")?;
        let connection = ClientConnection::new(Arc::clone(&credentials.0), server)?;
        let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let stream = StreamOwned::new(connection, socket);
        let mut client = Self { stream, input: Vec::new(), next_id: 0 };
        client.send(&Packet::Connect(Box::new(Connect::new(VERSION, name, true))))?;
        client.receive(|packet| match packet {
            Packet::Connack(connack) if connack.reason == ReasonCode::Success => Some(Ok(())),
            Packet::Connack(connack) => Some(Err(refused("CONNECT", connack.reason))),
            _ => None,
        })??;
        Ok(client)
    }

    /// Subscribes; the outcome is the code in SUBACK.
    pub(super) fn subscribe(&mut self, filter: &str) -> Result<ReasonCode, Failure> {
        let packet_id = self.next_id();
        let entry = SubscribeEntry {
            filter: SubscriptionFilter::parse(filter)?,
            qos: Qos::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Always,
        };
        self.send(&Packet::Subscribe(Subscribe {
            packet_id,
            entries: vec![entry],
            subscription_id: None,
            user_properties: UserProperties::default(),
        }))?;
        self.receive(|packet| match packet {
            Packet::Suback(suback) => suback.reasons.first().copied(),
            _ => None,
        })
    }

    /// Publishes with QoS 1; the outcome is the code in PUBACK.
    pub(super) fn publish(&mut self, topic: &str, payload: &str) -> Result<ReasonCode, Failure> {
        let packet_id = self.next_id();
        self.send(&Packet::Publish(Publish {
            dup: false,
            qos: Qos::AtLeastOnce,
            retain: false,
            topic,
            packet_id: Some(packet_id),
            properties: None,
            payload: payload.as_bytes(),
        }))?;
        self.receive(|packet| match packet {
            Packet::Puback(ack) => Some(ack.reason),
            _ => None,
        })
    }

    /// Waits for a message.
    pub(super) fn message(&mut self) -> Result<Message, Failure> {
        self.receive(|packet| match packet {
            Packet::Publish(publish) => {
                Some(Message { topic: publish.topic.to_owned(), payload: publish.payload.to_vec() })
            }
            _ => None,
        })
    }

    fn next_id(&mut self) -> PacketId {
        self.next_id = self.next_id.wrapping_add(1).max(1);
        PacketId::new(self.next_id).unwrap_or(PacketId(std::num::NonZeroU16::MIN))
    }

    fn send(&mut self, packet: &Packet<'_>) -> Result<(), Failure> {
        let mut out = Vec::new();
        packet.encode(VERSION, &mut out);
        self.stream.write_all(&out)?;
        Ok(())
    }

    /// Reads packets until `wanted` takes one; others are passed over, but for a DISCONNECT.
    fn receive<T>(&mut self, wanted: impl Fn(&Packet<'_>) -> Option<T>) -> Result<T, Failure> {
        loop {
            while let Some(header) = FrameHeader::peek(&self.input, PACKET_BYTES_MAX)
                .map_err(|error| Failure(format!("from the broker: {error}")))?
            {
                let end = header.packet_bytes();
                let Some(body) = self.input.get(header.header_bytes..end) else { break };
                let packet = Packet::decode(header.first_byte, body, VERSION, Side::FromServer)?;
                if let Packet::Disconnect(disconnect) = &packet {
                    return Err(refused("the connection", disconnect.reason));
                }
                let found = wanted(&packet);
                self.input.drain(..end);
                if let Some(found) = found {
                    return Ok(found);
                }
            }
            let mut buffer = [0; 4096];
            let read = self.stream.read(&mut buffer)?;
            if read == 0 {
                return Err(Failure("the broker closed the connection".to_owned()));
            }
            self.input.extend_from_slice(buffer.get(..read).unwrap_or_default());
        }
    }
}

fn refused(what: &str, reason: ReasonCode) -> Failure {
    Failure(format!("the broker refused {what}: {reason}"))
}
