//! The HTTP upgrade that turns a connection into MQTT over WebSocket (MQTT 6.0, RFC 6455).
//!
//! One GET request, answered once: 101 and frames from then on, or a refusal and the end. No
//! extension is accepted, hence no compression, and the subprotocol is required, so that a page
//! in a browser does not speak to the broker by accident.

use std::future::poll_fn;
use std::io;
use std::task::{Poll, ready};
use std::time::Duration;

use tungstenite::error::{Error, ProtocolError};
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::http::header::{
    CONTENT_LENGTH, HOST, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING,
};

use super::listener;
use super::transport::{CloseCode, Frames, Scratch, Transport};

/// The longest request head.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
/// What ends a request head.
/// How long a refused peer may take to hear it.
const FAREWELL: Duration = Duration::from_millis(500);
const HEAD_END: &[u8] = b"\r\n\r\n";
/// The names of MQTT as a subprotocol, the better one first: `mqttv3.1` is what clients of
/// MQTT 3.1 ask for.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// Why a request is refused. [`Self::status`] is what the peer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeRefusal {
    /// Not a request of HTTP/1.1, or one with a body, without a host, or with a header twice.
    #[error("malformed WebSocket upgrade request")]
    Malformed,
    /// The head is too long.
    #[error("WebSocket upgrade request of more than {bytes_max} bytes")]
    TooLong {
        /// As allowed.
        bytes_max: usize,
    },
    /// Not a GET.
    #[error("WebSocket upgrade request with another method than GET")]
    Method,
    /// Another path than the listener's.
    #[error("WebSocket upgrade request for another path")]
    Path,
    /// A request that does not ask for WebSocket.
    #[error("HTTP request that is no WebSocket upgrade")]
    NotUpgrade,
    /// Another version than 13.
    #[error("WebSocket upgrade request for another version than 13")]
    Version,
    /// A key that is not 16 bytes in base64.
    #[error("WebSocket upgrade request without a proper key")]
    Key,
    /// An origin that the listener does not allow.
    #[error("WebSocket upgrade request from an origin that is not allowed")]
    Origin,
    /// The subprotocol `mqtt` is not asked for [MQTT-6.0.0-3].
    #[error("WebSocket upgrade request without the subprotocol mqtt")]
    Subprotocol,
}

impl UpgradeRefusal {
    /// The status line, with the headers that the status demands.
    #[must_use]
    pub fn status(self) -> &'static str {
        match self {
            Self::Malformed | Self::Key | Self::Subprotocol => "400 Bad Request",
            Self::Origin => "403 Forbidden",
            Self::Path => "404 Not Found",
            Self::Method => "405 Method Not Allowed\r\nAllow: GET",
            Self::NotUpgrade => "426 Upgrade Required\r\nUpgrade: websocket",
            Self::Version => "426 Upgrade Required\r\nSec-WebSocket-Version: 13",
            Self::TooLong { .. } => "431 Request Header Fields Too Large",
        }
    }
}

/// Why there is no upgrade.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeFailure {
    /// The peer's request; it was answered.
    #[error(transparent)]
    Refused(#[from] UpgradeRefusal),
    /// The peer went before its request was whole.
    #[error("the peer ended the connection before its WebSocket upgrade request")]
    Ended,
    /// The socket, or TLS on it, failed.
    #[error("connection failed before the WebSocket upgrade: {0}")]
    Socket(#[from] io::Error),
}

/// Reads the upgrade request off `transport` and answers it. `frame_bytes_max` bounds a frame
/// that the client may send afterwards. The caller sets the deadline.
///
/// # Errors
/// See [`UpgradeFailure`]; the connection has then been ended.
pub async fn accept(
    mut transport: Transport,
    settings: &listener::WebSocket,
    frame_bytes_max: u64,
) -> Result<Transport, UpgradeFailure> {
    let (head, rest) = match read_head(&mut transport).await {
        Ok(read) => read,
        Err(UpgradeFailure::Refused(refusal)) => return Err(refuse(transport, refusal).await),
        Err(failure) => return Err(failure),
    };
    match answer(&head, settings) {
        Ok(response) => {
            write(&mut transport, &response).await?;
            Ok(transport.framed(Frames::new(frame_bytes_max), rest))
        }
        Err(refusal) => Err(refuse(transport, refusal).await),
    }
}

/// The request head, and what came behind it.
async fn read_head(transport: &mut Transport) -> Result<(Vec<u8>, Vec<u8>), UpgradeFailure> {
    let mut head = Vec::new();
    loop {
        // The end of the head may begin in what was looked at before.
        let looked_at = head.len().saturating_sub(HEAD_END.len());
        let received = poll_fn(|cx| {
            let mut input = Scratch::take();
            let received = ready!(transport.poll_read(cx, &mut input))?;
            head.extend_from_slice(&input);
            Poll::Ready(io::Result::Ok(received))
        });
        if received.await? == 0 {
            return Err(UpgradeFailure::Ended);
        }
        let end = head
            .get(looked_at..)
            .unwrap_or_default()
            .windows(HEAD_END.len())
            .position(|window| window == HEAD_END)
            .map(|at| looked_at.saturating_add(at).saturating_add(HEAD_END.len()));
        match end {
            Some(end) if end <= HEAD_BYTES_MAX => {
                let rest = head.split_off(end);
                return Ok((head, rest));
            }
            None if head.len() < HEAD_BYTES_MAX => {}
            _ => {
                return Err(UpgradeFailure::Refused(UpgradeRefusal::TooLong {
                    bytes_max: HEAD_BYTES_MAX,
                }));
            }
        }
    }
}

/// Judges the request in `head`; the response that accepts it.
fn answer(head: &[u8], settings: &listener::WebSocket) -> Result<Vec<u8>, UpgradeRefusal> {
    let (_, request) = Request::try_parse(head)
        .map_err(|error| refusal_of(&error))?
        .ok_or(UpgradeRefusal::Malformed)?;
    check_once(&request, &[HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION])?;
    let has_body = request.headers().contains_key(TRANSFER_ENCODING)
        || request.headers().get_all(CONTENT_LENGTH).iter().any(|length| length != "0");
    if has_body || !request.headers().contains_key(HOST) {
        return Err(UpgradeRefusal::Malformed);
    }
    if request.uri().path() != settings.path {
        return Err(UpgradeRefusal::Path);
    }
    let mut response = create_response(&request).map_err(|error| refusal_of(&error))?;
    check_origin(&request, settings)?;
    let subprotocol = subprotocol(&request).ok_or(UpgradeRefusal::Subprotocol)?;
    // [MQTT-6.0.0-4]: the name that was chosen is the one that goes back.
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    let mut out = Vec::new();
    write_response(&mut out, &response).map_err(|_| UpgradeRefusal::Malformed)?;
    Ok(out)
}

/// Headers that decide may not come twice: proxies differ in which one they believe.
fn check_once(request: &Request, names: &[HeaderName]) -> Result<(), UpgradeRefusal> {
    let twice = names.iter().any(|name| request.headers().get_all(name).iter().nth(1).is_some());
    if twice {
        return Err(UpgradeRefusal::Malformed);
    }
    Ok(())
}

/// Every origin that the request names has to be allowed; a request without one is no browser's.
fn check_origin(request: &Request, settings: &listener::WebSocket) -> Result<(), UpgradeRefusal> {
    let allowed = request.headers().get_all(ORIGIN).iter().all(|origin| {
        settings.origins.iter().any(|allowed| {
            allowed == "*" || origin.as_bytes().eq_ignore_ascii_case(allowed.as_bytes())
        })
    });
    if allowed { Ok(()) } else { Err(UpgradeRefusal::Origin) }
}

/// The subprotocol to speak, of those that the request names.
fn subprotocol(request: &Request) -> Option<&'static str> {
    let asked = |name: &str| {
        request
            .headers()
            .get_all(SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|value| value.trim() == name)
    };
    SUBPROTOCOLS.into_iter().find(|name| asked(name))
}

fn refusal_of(error: &Error) -> UpgradeRefusal {
    match error {
        Error::Protocol(ProtocolError::WrongHttpMethod) => UpgradeRefusal::Method,
        Error::Protocol(
            ProtocolError::MissingConnectionUpgradeHeader
            | ProtocolError::MissingUpgradeWebSocketHeader,
        ) => UpgradeRefusal::NotUpgrade,
        Error::Protocol(ProtocolError::MissingSecWebSocketVersionHeader) => UpgradeRefusal::Version,
        Error::Protocol(
            ProtocolError::MissingSecWebSocketKey | ProtocolError::InvalidSecWebSocketKey,
        ) => UpgradeRefusal::Key,
        _ => UpgradeRefusal::Malformed,
    }
}

/// Answers with the refusal's status and ends the connection.
async fn refuse(mut transport: Transport, refusal: UpgradeRefusal) -> UpgradeFailure {
    let response =
        format!("HTTP/1.1 {}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", refusal.status());
    if write(&mut transport, response.as_bytes()).await.is_ok() {
        // The refusal is not on record before this is over: the peer must not draw it out.
        let _ = tokio::time::timeout(FAREWELL, transport.finish(CloseCode::Policy)).await;
    }
    UpgradeFailure::Refused(refusal)
}

async fn write(transport: &mut Transport, bytes: &[u8]) -> io::Result<()> {
    let mut handed_over = false;
    poll_fn(|cx| {
        if handed_over {
            return transport.poll_flush(cx);
        }
        handed_over = true;
        transport.poll_write(cx, bytes)
    })
    .await
}

#[cfg(test)]
mod tests;
