//! Tests of [`super`].

use std::io::{Read, Write};
use std::task::Waker;

use super::testing::{connected, read, read_exact, write};
use super::*;

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[tokio::test]
async fn a_plain_transport_carries_bytes_both_ways() {
    let (socket, mut peer) = connected();
    let mut transport = Transport::plain(socket, Vec::new());
    peer.write_all(&[0xC0, 0x00]).unwrap();
    assert_eq!(read(&mut transport).await.unwrap(), [0xC0, 0x00]);
    write(&mut transport, &[0xD0, 0x00]).await;
    let mut answer = [0; 2];
    peer.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0xD0, 0x00]);
    drop(peer);
    assert_eq!(read(&mut transport).await.unwrap(), [0_u8; 0]);
}

#[tokio::test]
async fn a_unix_transport_carries_bytes_both_ways() {
    let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
    let mut ours = Transport::plain(Socket::Unix(ours), Vec::new());
    let mut theirs = Transport::plain(Socket::Unix(theirs), Vec::new());
    write(&mut theirs, &[0xC0, 0x00]).await;
    assert_eq!(read(&mut ours).await.unwrap(), [0xC0, 0x00]);
    ours.finish(CloseCode::Normal).await_with(&mut theirs).await;
}

/// Lets `finish` run against a peer that ends as well.
trait AwaitWith: Future<Output = ()> + Sized {
    async fn await_with(self, peer: &mut Transport) {
        let ((), ()) = tokio::join!(self, async {
            assert_eq!(read(peer).await.unwrap(), [0_u8; 0]);
            poll_fn(|cx| peer.poll_shutdown(cx)).await.unwrap();
        });
    }
}
impl<F: Future<Output = ()>> AwaitWith for F {}

#[tokio::test]
async fn what_was_read_before_comes_first() {
    let (socket, mut peer) = connected();
    let mut transport = Transport::plain(socket, vec![1, 2]);
    peer.write_all(&[3]).unwrap();
    assert_eq!(read(&mut transport).await.unwrap(), [1, 2]);
    assert_eq!(read(&mut transport).await.unwrap(), [3]);
    assert_eq!(transport.unread.capacity(), 0);
}

#[tokio::test]
async fn bytes_are_appended_behind_a_kept_partial_packet() {
    let (socket, mut peer) = connected();
    let mut transport = Transport::plain(socket, Vec::new());
    peer.write_all(&[3, 4]).unwrap();
    let mut plain = vec![1, 2];
    let count = poll_fn(|cx| transport.poll_read(cx, &mut plain)).await.unwrap();
    assert_eq!((count, plain), (2, vec![1, 2, 3, 4]));
}

#[tokio::test]
async fn what_the_socket_does_not_take_is_kept_and_flushed_in_order() {
    let (socket, mut peer) = connected();
    let mut transport = Transport::plain(socket, Vec::new());
    let sent = pattern(16 * 1024 * 1024);
    let mut cx = Context::from_waker(Waker::noop());
    // The socket is not registered as writable before the runtime has polled it once.
    let first = poll_fn(|cx| Poll::Ready(transport.poll_write(cx, &sent))).await;
    assert!(first.is_pending());
    assert!(transport.has_pending());
    let kept = transport.pending_bytes();
    assert!(transport.poll_write(&mut cx, b"end").is_pending());
    assert_eq!(transport.pending_bytes(), kept + 3);
    let reader = std::thread::spawn(move || {
        let mut received = Vec::new();
        peer.read_to_end(&mut received).unwrap();
        received
    });
    poll_fn(|cx| transport.poll_shutdown(cx)).await.unwrap();
    assert!(!transport.has_pending());
    let received = reader.join().unwrap();
    assert_eq!(received.len(), sent.len() + 3);
    assert!(received.starts_with(&sent) && received.ends_with(b"end"));
}

#[tokio::test]
async fn a_vectored_write_leaves_with_the_caller_what_it_does_not_take() {
    let (socket, mut peer) = connected();
    let mut transport = Transport::plain(socket, Vec::new());
    let payload = pattern(16 * 1024 * 1024);
    let slices = [IoSlice::new(b"head"), IoSlice::new(&payload)];
    let taken = poll_fn(|cx| transport.poll_write_vectored(cx, &slices)).await.unwrap();
    assert!(taken > 4 && taken < payload.len());
    assert!(!transport.has_pending());
    drop(transport);
    let mut received = Vec::new();
    peer.read_to_end(&mut received).unwrap();
    assert_eq!(received.len(), taken);
    assert_eq!(received.get(..4).unwrap(), b"head");
}

#[tokio::test]
async fn an_ended_connection_delivers_its_last_bytes_although_the_peer_still_sends() {
    let (socket, mut peer) = connected();
    let mut transport = Transport::plain(socket, Vec::new());
    peer.write_all(&pattern(10_000)).unwrap();
    write(&mut transport, &[0x20, 0x03, 0x00, 0x87, 0x00]).await;
    let peer = std::thread::spawn(move || {
        let mut received = Vec::new();
        peer.read_to_end(&mut received).unwrap();
        received
    });
    transport.finish(CloseCode::Normal).await;
    assert_eq!(peer.join().unwrap(), [0x20, 0x03, 0x00, 0x87, 0x00]);
}

#[tokio::test]
async fn a_framed_transport_answers_pings_and_closes() {
    let (socket, mut peer) = connected();
    let mut transport = Transport::plain(socket, Vec::new()).framed(Frames::new(1024), Vec::new());
    // A ping, then PINGREQ in two frames.
    peer.write_all(b"\x89\x82\0\0\0\0hi\x02\x81\0\0\0\0\xC0\x80\x81\0\0\0\0\0").unwrap();
    assert_eq!(read_exact(&mut transport, 2).await, [0xC0, 0x00]);
    write(&mut transport, &[0xD0, 0x00]).await;
    let mut answer = [0; 8];
    peer.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"\x8A\x02hi\x82\x02\xD0\x00");
    peer.write_all(b"\x88\x82\0\0\0\0\x03\xE8").unwrap();
    assert_eq!(read(&mut transport).await.unwrap(), [0_u8; 0]);
    transport.finish(CloseCode::Normal).await_peer(peer).await;
}

/// Lets `finish` run against a blocking peer that expects the echo of its close frame.
trait AwaitPeer: Future<Output = ()> + Sized {
    async fn await_peer(self, mut peer: std::net::TcpStream) {
        let peer = std::thread::spawn(move || {
            let mut received = Vec::new();
            peer.read_to_end(&mut received).unwrap();
            received
        });
        self.await;
        assert_eq!(peer.join().unwrap(), b"\x88\x02\x03\xE8");
    }
}
impl<F: Future<Output = ()>> AwaitPeer for F {}

#[tokio::test]
async fn a_refused_frame_ends_the_connection_and_tells_the_peer() {
    let (socket, mut peer) = connected();
    let mut transport = Transport::plain(socket, Vec::new()).framed(Frames::new(1024), Vec::new());
    peer.write_all(b"\x82\x01\0").unwrap();
    let error = read(&mut transport).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    let refusal = error.into_inner().unwrap();
    assert_eq!(refusal.downcast_ref::<FrameRefusal>(), Some(&FrameRefusal::NotMasked));
    let mut close = [0; 4];
    peer.read_exact(&mut close).unwrap();
    assert_eq!(&close, b"\x88\x02\x03\xEA");
    assert_eq!(read(&mut transport).await.unwrap(), [0_u8; 0]);
}

#[tokio::test]
async fn a_flood_of_frames_without_mqtt_is_refused() {
    let (socket, mut peer) = connected();
    let mut transport = Transport::plain(socket, Vec::new()).framed(Frames::new(1024), Vec::new());
    let flood = std::thread::spawn(move || {
        let pongs = b"\x8A\x80\0\0\0\0".repeat(BARREN_BYTES_MAX / 6 + 2);
        // The broker may reset while the last of it is on its way.
        let _ = peer.write_all(&pongs);
    });
    let error = read(&mut transport).await.unwrap_err();
    assert_eq!(error.to_string(), "more than 262144 bytes came without any MQTT in them");
    drop(transport);
    flood.join().unwrap();
}
