//! Threat: WebSocket.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use tungstenite::Message;
use tungstenite::http::HeaderValue;

use crate::harness::Setup;
use crate::harness::raw::PATIENCE;
use crate::harness::websocket::{request, upgrade};
use crate::harness::wire::{Connect, Publish, Version};

/// A page of another origin cannot use the browser of somebody who may connect.
#[test]
fn only_listed_origins_and_the_path_are_upgraded() {
    let broker = Setup::new().websocket().start();
    let address = broker.address("ws");
    let with_origin = |origin: &'static str| {
        let mut request = request(address, "/mqtt");
        request.headers_mut().insert("Origin", HeaderValue::from_static(origin));
        upgrade(address, request).is_ok()
    };
    assert!(upgrade(address, request(address, "/mqtt")).is_ok(), "no browser, no origin");
    assert!(with_origin("https://allowed.example"));
    for origin in [
        "https://evil.example",
        "https://allowed.example.evil.example",
        "https://evil-allowed.example",
        "http://allowed.example",
        "https://allowed.example:444",
        "null",
        "",
    ] {
        assert!(!with_origin(origin), "{origin:?} is let in");
    }
    for path in ["/", "/mqtt/", "/mqtt2", "/../mqtt", "//mqtt", "/MQTT"] {
        assert!(upgrade(address, request(address, path)).is_err(), "{path}");
    }
}

/// What the broker answers to a request by hand.
fn answer(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = [0; 4096];
    let length = stream.read(&mut bytes).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

#[test]
fn compression_is_not_agreed_to_and_odd_requests_are_refused() {
    let broker = Setup::new().websocket().start();
    let address = broker.address("ws");
    let head = "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                Sec-WebSocket-Protocol: mqtt\r\n";
    let plain = answer(address, &format!("{head}\r\n"));
    assert!(plain.starts_with("HTTP/1.1 101"), "{plain}");
    assert!(plain.to_lowercase().contains("sec-websocket-protocol: mqtt"), "{plain}");
    let offered = format!("{head}Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n");
    let offered = answer(address, &offered);
    assert!(offered.starts_with("HTTP/1.1 101"), "{offered}");
    assert!(!offered.to_lowercase().contains("sec-websocket-extensions"), "{offered}");
    for odd in [
        head.replace("GET", "POST"),
        head.replace("Version: 13", "Version: 8"),
        head.replace("Upgrade: websocket\r\n", ""),
        head.replace("Key: dGhlIHNhbXBsZSBub25jZQ==", "Key: short"),
        head.replace("HTTP/1.1", "HTTP/1.0"),
        format!("{head}X: {}\r\n", "x".repeat(100_000)),
        (0..1000).fold(head.to_owned(), |head, number| format!("{head}X{number}: y\r\n")),
    ] {
        let answer = answer(address, &format!("{odd}\r\n"));
        assert!(!answer.starts_with("HTTP/1.1 101"), "{answer}");
    }
}

/// A packet in many frames is one packet; a packet beyond the cap is refused however it comes.
#[test]
fn fragments_are_put_together_within_the_packet_cap() {
    let broker = Setup::new().websocket().start();
    let address = broker.address("ws");
    let connect = Connect::new(Version::Mqtt311, "fragments").bytes();
    let mut socket = upgrade(address, request(address, "/mqtt")).unwrap();
    for byte in connect {
        socket.send(Message::Binary(vec![byte].into())).unwrap();
    }
    assert_eq!(socket.read().unwrap().into_data()[..], [0x20, 2, 0, 0]);
    socket.send(Message::Ping(b"are you there".to_vec().into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong(b"are you there".to_vec().into()));

    // The generous profile takes packets of 1 MiB.
    let large = Publish::new("t", &"x".repeat(2 << 20)).bytes(Version::Mqtt311);
    let mut ended = false;
    for chunk in large.chunks(1000) {
        if socket.send(Message::Binary(chunk.to_vec().into())).is_err() {
            ended = true;
            break;
        }
    }
    ended |= loop {
        match socket.read() {
            Ok(message) if message.is_close() => break true,
            Ok(_) => {}
            Err(_) => break true,
        }
    };
    assert!(ended);
}
