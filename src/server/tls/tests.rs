//! Tests of [`super`].

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::JoinHandle;

use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, CertificateError, ClientConfig, StreamOwned};

use super::super::transport::testing::{
    Certificates, client_connection, connected, read, read_exact, write,
};
use super::super::transport::{CloseCode, Frames};
use super::*;

fn slots(count: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(count))
}

type Client = StreamOwned<rustls::ClientConnection, TcpStream>;

/// Runs a blocking client beside the broker.
fn client<T: Send + 'static>(
    config: ClientConfig,
    peer: TcpStream,
    act: impl FnOnce(Client) -> T + Send + 'static,
) -> JoinHandle<T> {
    std::thread::spawn(move || act(StreamOwned::new(client_connection(config), peer)))
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[tokio::test]
async fn a_client_with_a_certificate_is_served_and_reported() {
    let certificates = Certificates::generate();
    for (version, number) in [(&TLS13, 13), (&TLS12, 12)] {
        let (socket, peer) = connected();
        let client = client(certificates.client(true), peer, |mut client| {
            client.write_all(&pattern(300_000)).unwrap();
            let mut received = vec![0; 200_000];
            client.read_exact(&mut received).unwrap();
            client.conn.send_close_notify();
            client.flush().unwrap();
            // Ends with the broker's close_notify; without one this would be an error.
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
            received
        });
        let accepted =
            accept(socket, Vec::new(), certificates.server(&[version]), slots(1)).await.unwrap();
        assert_eq!(accepted.tls_version, number);
        assert_eq!(accepted.peer_certificates, Some(vec![certificates.client.clone()]));
        let mut transport = accepted.transport;
        assert_eq!(read_exact(&mut transport, 300_000).await, pattern(300_000));
        write(&mut transport, &pattern(200_000)).await;
        assert_eq!(read(&mut transport).await.unwrap(), [0_u8; 0]);
        assert!(transport.tls().unwrap().has_ended());
        transport.finish(CloseCode::Normal).await;
        assert_eq!(client.join().unwrap(), pattern(200_000));
    }
}

#[tokio::test]
async fn records_in_small_fragments_and_single_bytes_are_put_together() {
    let certificates = Certificates::generate();
    let (socket, peer) = connected();
    let mut config = certificates.client(true);
    config.max_fragment_size = Some(48);
    let client = std::thread::spawn(move || {
        let mut peer = peer;
        let mut connection = client_connection(config);
        connection.writer().write_all(b"first").unwrap();
        while connection.is_handshaking() || connection.wants_write() {
            if connection.wants_write() {
                let mut wire = Vec::new();
                connection.write_tls(&mut wire).unwrap();
                for byte in wire {
                    peer.write_all(&[byte]).unwrap();
                }
            } else {
                connection.read_tls(&mut peer).unwrap();
                connection.process_new_packets().unwrap();
            }
        }
        peer
    });
    let accepted =
        accept(socket, Vec::new(), certificates.server(&[&TLS13]), slots(1)).await.unwrap();
    let mut transport = accepted.transport;
    assert_eq!(read_exact(&mut transport, 5).await, b"first");
    assert_eq!(transport.tls().unwrap().kept.capacity(), 0);
    drop(client.join().unwrap());
}

#[tokio::test]
async fn bytes_read_before_the_handshake_belong_to_it() {
    let certificates = Certificates::generate();
    let (mut socket, peer) = connected();
    let client = client(certificates.client(true), peer, |mut client| {
        client.write_all(b"early").unwrap();
        client
    });
    let mut prefix = Vec::new();
    let read_bytes = poll_fn(|cx| socket.poll_read(cx, &mut prefix)).await.unwrap();
    assert!(read_bytes > 0);
    let accepted = accept(socket, prefix, certificates.server(&[&TLS13]), slots(1)).await.unwrap();
    let mut transport = accepted.transport;
    assert_eq!(read_exact(&mut transport, 5).await, b"early");
    drop(client.join().unwrap());
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_with_an_alert() {
    let certificates = Certificates::generate();
    let (socket, peer) = connected();
    let client = client(certificates.client(false), peer, |mut client| {
        let mut sink = [0];
        client.write_all(b"x").and_then(|()| client.read_exact(&mut sink))
    });
    let refused = accept(socket, Vec::new(), certificates.server(&[&TLS13]), slots(1)).await;
    assert!(matches!(refused, Err(TlsFailure::Refused(rustls::Error::NoCertificatesPresented))));
    let error = client.join().unwrap().unwrap_err();
    let error = error.into_inner().unwrap();
    assert_eq!(
        error.downcast_ref::<rustls::Error>(),
        Some(&rustls::Error::AlertReceived(AlertDescription::CertificateRequired))
    );
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused() {
    let certificates = Certificates::generate();
    let others = Certificates::generate();
    let (socket, peer) = connected();
    // The client trusts our server and shows a certificate of its own making.
    let mut config = certificates.client(false);
    config.client_auth_cert_resolver = others.client(true).client_auth_cert_resolver;
    let client = client(config, peer, |mut client| {
        let _ = client.write_all(b"x");
        let _ = client.read(&mut [0]);
    });
    let refused = accept(socket, Vec::new(), certificates.server(&[&TLS13]), slots(1)).await;
    assert!(matches!(
        refused,
        Err(TlsFailure::Refused(rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature
        )))
    ));
    client.join().unwrap();
}

#[tokio::test]
async fn what_is_not_tls_is_refused_with_an_alert() {
    let certificates = Certificates::generate();
    for (bytes, alert) in [
        (&b"\x10\x0C\0\x04MQTT\x04\x02\0\x3C\0\0"[..], true),
        (b"GET / HTTP/1.1\r\n\r\n", true),
        // A fragment of a ClientHello, then a record of another kind: rustls sends no alert.
        (b"\x16\x03\x01\0\x05\x01\0\x10\0\x03\x17\x03\x03\0\x01x", false),
        (b"\x16\x03\x01\xFF\xFF", true),
        (b"\x16\x03\x01\0\0", true),
    ] {
        let (socket, mut peer) = connected();
        peer.write_all(bytes).unwrap();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        let refused = accept(socket, Vec::new(), certificates.server(&[&TLS13]), slots(1)).await;
        assert!(matches!(refused, Err(TlsFailure::Refused(_))), "{bytes:?}");
        let mut answer = Vec::new();
        let _ = peer.read_to_end(&mut answer);
        assert_eq!(answer.starts_with(&[0x15, 0x03]), alert, "{bytes:?}");
    }
}

#[tokio::test]
async fn a_peer_that_goes_within_the_handshake_is_no_error_of_ours() {
    let certificates = Certificates::generate();
    for bytes in [&b""[..], b"\x16", b"\x16\x03\x01\0\x05\x01"] {
        let (socket, mut peer) = connected();
        peer.write_all(bytes).unwrap();
        drop(peer);
        let ended = accept(socket, Vec::new(), certificates.server(&[&TLS13]), slots(1)).await;
        assert!(matches!(ended, Err(TlsFailure::Ended)), "{bytes:?}");
    }
}

#[tokio::test]
async fn a_handshake_without_end_is_cut_off() {
    let certificates = Certificates::generate();
    let (socket, mut peer) = connected();
    // A ClientHello of 65,535 bytes, in records of 1,000.
    let mut hello = vec![0x01, 0x00, 0xFF, 0xFF];
    hello.resize(65_000, 0);
    let records: Vec<u8> = hello
        .chunks(1000)
        .flat_map(|chunk| {
            let length = u16::try_from(chunk.len()).unwrap().to_be_bytes();
            [&[0x16, 0x03, 0x01], length.as_slice(), chunk].concat()
        })
        .chain([0x16; 5000])
        .collect();
    let sender = std::thread::spawn(move || {
        let _ = peer.write_all(&records);
        peer
    });
    let refused = accept(socket, Vec::new(), certificates.server(&[&TLS13]), slots(1)).await;
    assert!(
        matches!(refused, Err(TlsFailure::TooLong { .. } | TlsFailure::Refused(_))),
        "{refused:?}"
    );
    drop(sender.join().unwrap());
}

#[tokio::test]
async fn a_silent_peer_holds_no_slot() {
    let certificates = Certificates::generate();
    let config = certificates.server(&[&TLS13]);
    let slots = slots(1);
    let (silent, mut silent_peer) = connected();
    silent_peer.write_all(b"\x16\x03\x01\0\x05\x01\0\x10\0\x03").unwrap();
    let (socket, peer) = connected();
    let client = client(certificates.client(true), peer, |mut client| {
        client.write_all(b"hello").unwrap();
        client
    });
    let served = tokio::select! {
        biased;
        _ = accept(silent, Vec::new(), Arc::clone(&config), Arc::clone(&slots)) => None,
        accepted = accept(socket, Vec::new(), config, Arc::clone(&slots)) => Some(accepted),
    };
    assert!(served.unwrap().is_ok());
    assert_eq!(slots.available_permits(), 1);
    drop(client.join().unwrap());
}

#[tokio::test]
async fn no_slots_is_a_refusal() {
    let certificates = Certificates::generate();
    let slots = slots(1);
    slots.close();
    let (socket, mut peer) = connected();
    peer.write_all(b"\x16\x03\x01\0\x05\x01\0\x10\0\x03").unwrap();
    let refused = accept(socket, Vec::new(), certificates.server(&[&TLS13]), slots).await;
    assert!(matches!(refused, Err(TlsFailure::Unavailable)));
}

#[tokio::test]
async fn keys_are_renewed_from_both_sides() {
    let certificates = Certificates::generate();
    let (mut socket, peer) = connected();
    let client = client(certificates.client(true), peer, |mut client| {
        client.write_all(b"1").unwrap();
        client.conn.refresh_traffic_keys().unwrap();
        client.write_all(b"2").unwrap();
        let mut received = [0; 6];
        client.read_exact(&mut received).unwrap();
        client.write_all(b"3").unwrap();
        received
    });
    let (mut session, mut plain) = handshake(&mut socket, certificates.server(&[&TLS13])).await;
    read_session(&mut session, &mut socket, &mut plain, 2).await;
    assert_eq!(plain, b"12");
    let mut wire = Vec::new();
    session.encrypt(b"ab", &mut wire).unwrap();
    let before = wire.len();
    session.key_records = KEY_RECORDS_MAX;
    session.encrypt(b"cd", &mut wire).unwrap();
    assert_eq!(session.key_records, 0);
    // Two records: the key update, and the bytes under the new key.
    assert!(wire.len() - before > 2 * 22);
    session.encrypt(b"ef", &mut wire).unwrap();
    write_all(&mut socket, &wire).await.unwrap();
    read_session(&mut session, &mut socket, &mut plain, 3).await;
    assert_eq!(plain, b"123");
    assert_eq!(&client.join().unwrap(), b"abcdef");
}

/// Hands out the session of a handshake and what came with it, for tests below the transport.
async fn handshake(socket: &mut Socket, config: Arc<ServerConfig>) -> (TlsSession, Vec<u8>) {
    let mut session = TlsSession {
        connection: UnbufferedServerConnection::new(config).unwrap(),
        kept: Vec::new(),
        key_records: 0,
        phase: Phase::Open,
    };
    let mut plain = Vec::new();
    while session.connection.is_handshaking() {
        let mut answer = Vec::new();
        poll_fn(|cx| session.poll_read(cx, socket, &mut plain, &mut answer)).await.unwrap();
        write_all(socket, &answer).await.unwrap();
    }
    (session, plain)
}

async fn read_session(
    session: &mut TlsSession,
    socket: &mut Socket,
    plain: &mut Vec<u8>,
    bytes: usize,
) {
    while plain.len() < bytes {
        let mut answer = Vec::new();
        poll_fn(|cx| session.poll_read(cx, socket, plain, &mut answer)).await.unwrap();
        write_all(socket, &answer).await.unwrap();
    }
}

#[tokio::test]
async fn a_forged_record_ends_the_session_with_an_alert() {
    let certificates = Certificates::generate();
    let (socket, peer) = connected();
    let client = client(certificates.client(true), peer, |mut client| {
        client.write_all(b"1").unwrap();
        // The handshake is behind both of us.
        client.read_exact(&mut [0]).unwrap();
        client.sock.write_all(b"\x17\x03\x03\0\x20").unwrap();
        client.sock.write_all(&[7; 32]).unwrap();
        client.read(&mut [0])
    });
    let accepted =
        accept(socket, Vec::new(), certificates.server(&[&TLS13]), slots(1)).await.unwrap();
    let mut transport = accepted.transport;
    assert_eq!(read_exact(&mut transport, 1).await, b"1");
    write(&mut transport, b"2").await;
    let error = read(&mut transport).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.into_inner().unwrap().is::<rustls::Error>());
    assert_eq!(read(&mut transport).await.unwrap(), [0_u8; 0]);
    assert!(client.join().unwrap().is_err());
}

#[tokio::test]
async fn frames_go_through_tls() {
    let certificates = Certificates::generate();
    let (socket, peer) = connected();
    let client = client(certificates.client(true), peer, |mut client| {
        client.write_all(b"\x82\x82\0\0\0\0\xC0\0").unwrap();
        let mut answer = [0; 4];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"\x82\x02\xD0\0");
        let mut end = Vec::new();
        client.read_to_end(&mut end).unwrap();
        end
    });
    let accepted =
        accept(socket, Vec::new(), certificates.server(&[&TLS13]), slots(1)).await.unwrap();
    let mut transport = accepted.transport.framed(Frames::new(100), Vec::new());
    assert_eq!(read_exact(&mut transport, 2).await, [0xC0, 0]);
    let slices = [io::IoSlice::new(&[0xD0]), io::IoSlice::new(&[0])];
    let taken = poll_fn(|cx| transport.poll_write_vectored(cx, &slices)).await;
    assert_eq!(taken.unwrap(), 2);
    transport.finish(CloseCode::Away).await;
    assert_eq!(client.join().unwrap(), b"\x88\x02\x03\xE9");
}

#[tokio::test]
async fn a_goodbye_in_the_last_flight_ends_the_stream_behind_its_bytes() {
    let certificates = Certificates::generate();
    let (socket, peer) = connected();
    let client = client(certificates.client(true), peer, |mut client| {
        client.conn.writer().write_all(b"last").unwrap();
        while client.conn.is_handshaking() {
            client.conn.complete_io(&mut client.sock).unwrap();
        }
        client.conn.send_close_notify();
        client.flush().unwrap();
        client
    });
    let accepted =
        accept(socket, Vec::new(), certificates.server(&[&TLS13]), slots(1)).await.unwrap();
    let mut transport = accepted.transport;
    assert_eq!(read_exact(&mut transport, 4).await, b"last");
    assert_eq!(read(&mut transport).await.unwrap(), [0_u8; 0]);
    drop(client.join().unwrap());
}

#[test]
fn the_sizes_that_every_connection_pays_stay_small() {
    assert!(size_of::<Transport>() <= 160, "{}", size_of::<Transport>());
    assert!(size_of::<TlsSession>() <= 2048, "{}", size_of::<TlsSession>());
    assert!(size_of::<Frames>() <= 112, "{}", size_of::<Frames>());
}

#[test]
fn what_the_verifier_found_is_told_in_words() {
    let found = crate::identity::CertificateError::TooLarge { bytes: 9, bytes_max: 8 };
    let other = CertificateError::Other(rustls::OtherError(Arc::new(found)));
    assert_eq!(
        TlsFailure::Refused(rustls::Error::InvalidCertificate(other)).to_string(),
        "TLS handshake refused: invalid peer certificate: a certificate has 9 bytes; 8 are allowed"
    );
}
