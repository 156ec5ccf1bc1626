//! Tests of [`super`].

use std::io::{Read, Write};

use tungstenite::Message;
use tungstenite::client::IntoClientRequest;

use super::super::transport::testing::{connected, read, read_exact, write as write_plain};
use super::*;

const FRAME_BYTES_MAX: u64 = 1024;

fn settings(origins: &[&str]) -> listener::WebSocket {
    listener::WebSocket {
        path: "/mqtt".to_owned(),
        origins: origins.iter().map(|&origin| origin.to_owned()).collect(),
    }
}

const REQUEST: [&str; 7] = [
    "GET /mqtt HTTP/1.1",
    "Host: broker.example",
    "Upgrade: websocket",
    "Connection: keep-alive, Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Protocol: mqtt",
];

/// [`REQUEST`] with the line that begins like `line` replaced, or `line` added.
fn request(line: &str) -> String {
    let name = line.split([':', ' ']).next().unwrap();
    let mut lines: Vec<&str> = REQUEST.to_vec();
    match lines.iter_mut().find(|old| old.starts_with(name)) {
        Some(old) => *old = line,
        None => lines.push(line),
    }
    lines.join("\r\n") + "\r\n\r\n"
}

/// [`REQUEST`] without the header `name`.
fn request_without(name: &str) -> String {
    let lines = REQUEST.iter().filter(|line| !line.starts_with(name));
    lines.copied().collect::<Vec<_>>().join("\r\n") + "\r\n\r\n"
}

fn judge(head: &str, origins: &[&str]) -> Result<String, UpgradeRefusal> {
    answer(head.as_bytes(), &settings(origins)).map(|bytes| String::from_utf8(bytes).unwrap())
}

#[test]
fn a_proper_request_is_accepted_with_its_key_and_subprotocol() {
    let accepted = judge(&(REQUEST.join("\r\n") + "\r\n\r\n"), &[]).unwrap();
    assert_eq!(
        accepted.to_ascii_lowercase(),
        "http/1.1 101 switching protocols\r\n\
         connection: upgrade\r\n\
         upgrade: websocket\r\n\
         sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n\
         sec-websocket-protocol: mqtt\r\n\r\n"
    );
    assert!(accepted.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    for (asked, chosen) in
        [("mqttv3.1", "mqttv3.1"), ("mqttv3.1, mqtt", "mqtt"), ("chat,mqtt", "mqtt")]
    {
        let accepted = judge(&request(&format!("Sec-WebSocket-Protocol: {asked}")), &[]).unwrap();
        assert!(accepted.ends_with(&format!("sec-websocket-protocol: {chosen}\r\n\r\n")));
    }
    // Compression is offered and not taken.
    let accepted = judge(&request("Sec-WebSocket-Extensions: permessage-deflate"), &[]);
    assert!(!accepted.unwrap().contains("extensions"));
}

#[test]
fn an_origin_has_to_be_on_the_list() {
    let page = request("Origin: https://page.example");
    assert_eq!(judge(&page, &[]), Err(UpgradeRefusal::Origin));
    assert_eq!(judge(&page, &["https://page.example:8443"]), Err(UpgradeRefusal::Origin));
    assert!(judge(&page, &["https://page.example"]).is_ok());
    assert_eq!(
        judge(&request("Origin: null"), &["https://page.example"]),
        Err(UpgradeRefusal::Origin)
    );
    let second = page.replace("\r\n\r\n", "\r\nOrigin: https://other.example\r\n\r\n");
    assert_eq!(judge(&second, &["https://page.example"]), Err(UpgradeRefusal::Origin));
}

#[test]
fn a_request_that_lacks_something_is_refused_with_its_status() {
    use UpgradeRefusal as Refusal;
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let key_twice = request("X: y").replace("X: y", key);
    let cases: [(&str, String, Refusal, &str); 20] = [
        ("no HTTP", "\x10\x0C\r\n\r\n".into(), Refusal::Malformed, "400"),
        ("POST", request("GET /mqtt HTTP/1.1").replace("GET", "POST"), Refusal::Method, "405"),
        ("HTTP/1.0", request("GET /mqtt HTTP/1.0"), Refusal::Malformed, "400"),
        ("path", request("GET /other HTTP/1.1"), Refusal::Path, "404"),
        ("path above", request("GET /mqtt/../mqtt HTTP/1.1"), Refusal::Path, "404"),
        ("no host", request_without("Host"), Refusal::Malformed, "400"),
        ("two keys", key_twice, Refusal::Malformed, "400"),
        ("body", request("Content-Length: 5"), Refusal::Malformed, "400"),
        ("chunks", request("Transfer-Encoding: chunked"), Refusal::Malformed, "400"),
        ("no upgrade", request_without("Upgrade"), Refusal::NotUpgrade, "426"),
        ("h2c", request("Upgrade: h2c"), Refusal::NotUpgrade, "426"),
        ("no connection", request_without("Connection"), Refusal::NotUpgrade, "426"),
        ("close", request("Connection: close"), Refusal::NotUpgrade, "426"),
        ("version 8", request("Sec-WebSocket-Version: 8"), Refusal::Version, "426"),
        ("no version", request_without("Sec-WebSocket-Version"), Refusal::Version, "426"),
        ("no key", request_without("Sec-WebSocket-Key"), Refusal::Key, "400"),
        ("short key", request("Sec-WebSocket-Key: AAAA"), Refusal::Key, "400"),
        ("no subprotocol", request_without("Sec-WebSocket-Protocol"), Refusal::Subprotocol, "400"),
        ("chat", request("Sec-WebSocket-Protocol: chat"), Refusal::Subprotocol, "400"),
        ("MQTT", request("Sec-WebSocket-Protocol: MQTT"), Refusal::Subprotocol, "400"),
    ];
    for (name, head, refusal, status) in cases {
        assert_eq!(judge(&head, &[]), Err(refusal), "{name}");
        assert!(refusal.status().starts_with(status), "{name}");
    }
}

#[tokio::test]
async fn a_real_client_speaks_mqtt_over_frames() {
    let (socket, peer) = connected();
    let client = std::thread::spawn(move || {
        let mut request = "ws://localhost/mqtt".into_client_request().unwrap();
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("mqtt"));
        let (mut client, response) = tungstenite::client(request, peer).unwrap();
        let subprotocol = response.headers().get(SEC_WEBSOCKET_PROTOCOL).unwrap();
        assert_eq!(subprotocol, "mqtt");
        // A packet over two messages, with a ping between them.
        client.send(Message::binary(vec![0xC0])).unwrap();
        client.send(Message::Ping("hi".into())).unwrap();
        client.send(Message::binary(vec![0x00])).unwrap();
        let mut received = Vec::new();
        while let Ok(message) = client.read() {
            received.push(message);
        }
        received
    });
    let transport = Transport::plain(socket, Vec::new());
    let mut transport = accept(transport, &settings(&[]), FRAME_BYTES_MAX).await.unwrap();
    assert_eq!(read_exact(&mut transport, 2).await, [0xC0, 0x00]);
    write_plain(&mut transport, &[0xD0, 0x00]).await;
    transport.finish(CloseCode::Away).await;
    let received = client.join().unwrap();
    assert!(received.contains(&Message::Pong("hi".into())));
    assert!(received.contains(&Message::binary(vec![0xD0, 0x00])));
    assert!(matches!(
        received.last(),
        Some(Message::Close(Some(frame))) if frame.code == CloseCode::Away
    ));
}

#[tokio::test]
async fn a_head_may_come_byte_by_byte_with_frames_behind_it() {
    let (socket, mut peer) = connected();
    let client = std::thread::spawn(move || {
        let head = REQUEST.join("\r\n") + "\r\n\r\n";
        for byte in head.as_bytes() {
            peer.write_all(&[*byte]).unwrap();
        }
        peer.write_all(b"\x82\x82\0\0\0\0\xC0\0").unwrap();
        peer
    });
    let transport = Transport::plain(socket, Vec::new());
    let mut transport = accept(transport, &settings(&[]), FRAME_BYTES_MAX).await.unwrap();
    assert_eq!(read_exact(&mut transport, 2).await, [0xC0, 0x00]);
    drop(client.join().unwrap());
}

#[tokio::test]
async fn frames_in_the_same_read_as_the_head_are_not_lost() {
    let (socket, _peer) = connected();
    let head = REQUEST.join("\r\n") + "\r\n\r\n";
    let unread = [head.as_bytes(), b"\x82\x82\0\0\0\0\xC0\0"].concat();
    let transport = Transport::plain(socket, unread);
    let mut transport = accept(transport, &settings(&[]), FRAME_BYTES_MAX).await.unwrap();
    assert_eq!(read(&mut transport).await.unwrap(), [0xC0, 0x00]);
}

#[tokio::test]
async fn a_refused_request_is_answered_and_ended() {
    for (head, refusal, status_line) in [
        (request("GET /other HTTP/1.1"), UpgradeRefusal::Path, "HTTP/1.1 404 Not Found\r\n"),
        (
            request(&format!("X-Long: {}", "x".repeat(HEAD_BYTES_MAX))),
            UpgradeRefusal::TooLong { bytes_max: HEAD_BYTES_MAX },
            "HTTP/1.1 431 Request Header Fields Too Large\r\n",
        ),
    ] {
        let (socket, mut peer) = connected();
        let client = std::thread::spawn(move || {
            peer.write_all(head.as_bytes()).unwrap();
            let mut response = String::new();
            peer.read_to_string(&mut response).unwrap();
            response
        });
        let transport = Transport::plain(socket, Vec::new());
        let failure = accept(transport, &settings(&[]), FRAME_BYTES_MAX).await.unwrap_err();
        assert!(matches!(failure, UpgradeFailure::Refused(refused) if refused == refusal));
        assert!(client.join().unwrap().starts_with(status_line));
    }
}
