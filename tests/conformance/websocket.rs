//! MQTT inside WebSocket.

use std::io::Write as _;

use tungstenite::Message;

use crate::harness::raw::{Client, Raw};
use crate::harness::websocket::{ByteStream, request, upgrade};
use crate::harness::wire::{Connect, PINGREQ, PINGRESP, Publish, Version};
use crate::{BOTH, broker, unique};

/// MQTT 5: [MQTT-6.0.0-1] [MQTT-6.0.0-4] [MQTT-4.2.0-1]
/// MQTT 3.1.1: [MQTT-6.0.0-1] [MQTT-6.0.0-4] [MQTT-4.2.0-1] [MQTT-7.1.1-1]
#[test]
fn a_message_goes_from_a_websocket_to_tcp_and_back() {
    let broker = broker();
    let address = broker.address("ws");
    for version in BOTH {
        let topic = unique("ws");
        // The stream checks that frames are binary and the subprotocol is mqtt.
        let stream = ByteStream::new(upgrade(address, request(address, "/mqtt")).unwrap());
        let mut web = Client::over(Raw::over(stream), &Connect::new(version, &unique("ws")));
        let mut plain = broker.simple(version, &unique("tcp"));
        web.subscribe(&topic, 2);
        plain.subscribe(&topic, 2);
        web.publish_surely(&Publish::new(&topic, "from the web"));
        web.receive_text("from the web");
        plain.receive_text("from the web");
        plain.publish_surely(&Publish::new(&topic, "from tcp"));
        web.receive_text("from tcp");
    }
}

/// MQTT 5: [MQTT-6.0.0-2]
/// MQTT 3.1.1: [MQTT-6.0.0-2]
#[test]
fn packets_and_frames_need_not_begin_together() {
    let broker = broker();
    let address = broker.address("ws");
    let connect = Connect::new(Version::Mqtt311, &unique("frames")).bytes();

    let mut stream = ByteStream::new(upgrade(address, request(address, "/mqtt")).unwrap());
    for byte in connect.iter().chain(&PINGREQ) {
        stream.write_all(&[*byte]).unwrap();
    }
    stream.flush().unwrap();
    let mut raw = Raw::over(stream);
    raw.expect(&[0x20, 2, 0, 0]);
    raw.expect(&PINGRESP);

    // Several packets, and the first byte of another, in one frame.
    let mut stream = ByteStream::new(upgrade(address, request(address, "/mqtt")).unwrap());
    stream.write_all(&[&connect[..], &PINGREQ, &PINGREQ, &PINGREQ[..1]].concat()).unwrap();
    stream.write_all(&PINGREQ[1..]).unwrap();
    stream.flush().unwrap();
    let mut raw = Raw::over(stream);
    raw.expect(&[0x20, 2, 0, 0]);
    for _ in 0..3 {
        raw.expect(&PINGRESP);
    }
}

/// MQTT 5: [MQTT-6.0.0-1]
/// MQTT 3.1.1: [MQTT-6.0.0-1]
#[test]
fn a_text_frame_ends_the_connection() {
    let broker = broker();
    let address = broker.address("ws");
    for connected in [false, true] {
        let mut socket = upgrade(address, request(address, "/mqtt")).unwrap();
        if connected {
            let connect = Connect::new(Version::Mqtt5, &unique("text")).bytes();
            socket.send(Message::Binary(connect.into())).unwrap();
            assert!(socket.read().unwrap().is_binary());
        }
        socket.send(Message::text("\u{c0}\u{0}")).unwrap();
        // Whether by a close frame or at once: no data comes, and it ends.
        while let Ok(message) = socket.read() {
            let goodbye =
                matches!(&message, Message::Binary(bytes) if bytes.first() == Some(&0xe0));
            assert!(goodbye || message.is_close(), "{message:?}");
        }
    }
}

/// MQTT 5: [MQTT-6.0.0-3]
/// MQTT 3.1.1: [MQTT-6.0.0-3]
#[test]
fn a_client_that_does_not_offer_mqtt_is_refused() {
    let broker = broker();
    let address = broker.address("ws");
    let mut request = request(address, "/mqtt");
    request.headers_mut().remove("Sec-WebSocket-Protocol");
    assert!(upgrade(address, request).is_err());
}
