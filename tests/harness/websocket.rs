//! A WebSocket under a raw MQTT client, and as literal frames.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use tungstenite::client::IntoClientRequest as _;
use tungstenite::http::{HeaderValue, Request};
use tungstenite::{Message, WebSocket};

use super::raw::PATIENCE;

/// The upgrade request of an MQTT client.
pub fn request(address: SocketAddr, path: &str) -> Request<()> {
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
    request
}

/// Upgrades, or says why not.
pub fn upgrade(
    address: SocketAddr,
    request: Request<()>,
) -> Result<WebSocket<TcpStream>, Box<tungstenite::Error>> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    match tungstenite::client(request, stream) {
        // That the subprotocol is one that was offered, tungstenite checks by itself.
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(error)) => Err(Box::new(error)),
        Err(tungstenite::HandshakeError::Interrupted(_)) => {
            panic!("no answer to the upgrade request within {PATIENCE:?}")
        }
    }
}

/// A WebSocket as a stream of bytes: each write is one binary message.
pub struct ByteStream {
    socket: WebSocket<TcpStream>,
    waiting: VecDeque<u8>,
}

impl ByteStream {
    /// Takes an upgraded connection.
    pub fn new(socket: WebSocket<TcpStream>) -> Self {
        Self { socket, waiting: VecDeque::new() }
    }
}

impl Read for ByteStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.waiting.is_empty() {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => self.waiting.extend(bytes),
                Ok(Message::Close(_)) | Err(tungstenite::Error::ConnectionClosed) => return Ok(0),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(other) => panic!("MQTT in a frame that is not binary: {other:?}"),
                Err(tungstenite::Error::Io(error)) => return Err(error),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        self.waiting.read(buffer)
    }
}

impl Write for ByteStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket
            .send(Message::Binary(bytes.to_vec().into()))
            .map_err(io::Error::other)
            .map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush().map_err(io::Error::other)
    }
}
