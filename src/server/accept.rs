//! The socket of a listener, and what is accepted from it.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener};
use tracing::warn;

use super::listener::Endpoint;
use super::transport::Socket;
use crate::broker::Now;

/// Connections that the kernel keeps waiting for accept.
const BACKLOG: u32 = 4096;
/// The pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause, after several in a row: how much later than the want it ends.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A socket that is open.
#[derive(Debug)]
pub(super) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Bound {
    /// The address that it has in truth: a port 0 is resolved.
    pub(super) fn address(&self, endpoint: &Endpoint) -> String {
        match (self, endpoint) {
            (Self::Tcp(listener), _) => {
                listener.local_addr().map_or_else(|_| String::new(), |at| at.to_string())
            }
            (Self::Unix(_), Endpoint::Unix(path)) => path.display().to_string(),
            (Self::Unix(_), Endpoint::Tcp(_)) => String::new(),
        }
    }

    /// Hands everything that is accepted on, for as long as it is polled.
    pub(super) async fn accept_all(
        &self,
        listener: &str,
        mut admit: impl FnMut(Socket, Option<SocketAddr>),
    ) {
        let mut trouble = Trouble::default();
        loop {
            let accepted = match self {
                Self::Tcp(listener) => {
                    listener.accept().await.map(|(stream, peer)| (tcp(stream), Some(peer)))
                }
                Self::Unix(listener) => {
                    listener.accept().await.map(|(stream, _)| (Socket::Unix(stream), None))
                }
            };
            match accepted {
                Ok((socket, peer)) => {
                    trouble.ends();
                    admit(socket, peer);
                }
                Err(error) => trouble.bear(listener, &error).await,
            }
        }
    }
}

/// Opens the socket of a listener.
pub(super) fn bind(endpoint: &Endpoint) -> io::Result<Bound> {
    match endpoint {
        Endpoint::Tcp(address) => {
            let socket =
                if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.set_reuseaddr(true)?;
            socket.bind(*address)?;
            Ok(Bound::Tcp(socket.listen(BACKLOG)?))
        }
        Endpoint::Unix(path) => {
            remove_stale_socket(path)?;
            let listener = UnixListener::bind(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            Ok(Bound::Unix(listener))
        }
    }
}

/// A socket file that a killed broker left behind is removed; one that is served is not.
pub(crate) fn remove_stale_socket(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    let dead = metadata.file_type().is_socket()
        && std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if dead { std::fs::remove_file(path) } else { Ok(()) }
}

/// Accepts that fail, one after the other: for want of descriptors they would do so as often as
/// they are tried.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    in_a_row: u32,
    told_at: Option<Instant>,
    untold: u64,
}

impl Trouble {
    /// Says what failed, unless that is about the one connection, and waits: until there are
    /// descriptors or memory again, most likely.
    pub(crate) async fn bear(&mut self, listener: &str, error: &io::Error) {
        if is_about_one_connection(error) {
            return;
        }
        if let Some(failures) = self.fails(Now::read().instant) {
            warn!(listener, failures, %error, "cannot accept");
        }
        tokio::time::sleep(self.pause()).await;
    }

    /// One more failed; `Some`: how many since the last time this was said, which is to be said
    /// now, once a second at most.
    fn fails(&mut self, now: Instant) -> Option<u64> {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.untold += 1;
        let waits = self
            .told_at
            .is_some_and(|at| now.saturating_duration_since(at) < Duration::from_secs(1));
        if waits {
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }

    /// One succeeded.
    pub(crate) fn ends(&mut self) {
        self.in_a_row = 0;
    }

    /// How long to wait before the next: twice as long each time.
    fn pause(&self) -> Duration {
        let doublings = self.in_a_row.saturating_sub(1).min(16);
        ACCEPT_PAUSE.saturating_mul(1 << doublings).min(ACCEPT_PAUSE_MAX)
    }
}

fn tcp(stream: TcpStream) -> Socket {
    // Without it small answers wait for the peer's delayed acknowledgement; its failure costs
    // no more than that.
    let _ = stream.set_nodelay(true);
    Socket::Tcp(stream)
}

/// The peer went before it was accepted: nothing is wrong with the listener.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_that_fail_are_told_once_a_second_and_tried_less_and_less_often() {
        let mut trouble = Trouble::default();
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        assert_eq!(trouble.fails(at(0)), Some(1));
        assert_eq!(trouble.pause(), ACCEPT_PAUSE);
        assert_eq!(trouble.fails(at(50)), None);
        assert_eq!(trouble.pause(), 2 * ACCEPT_PAUSE);
        assert_eq!(trouble.fails(at(999)), None);
        assert_eq!(trouble.fails(at(1000)), Some(3));
        for _ in 0..100 {
            assert_eq!(trouble.fails(at(1001)), None);
        }
        assert_eq!(trouble.pause(), ACCEPT_PAUSE_MAX);
        trouble.ends();
        // One that succeeds between two failures does not make them louder.
        assert_eq!(trouble.fails(at(1002)), None);
        assert_eq!(trouble.pause(), ACCEPT_PAUSE);
        assert_eq!(trouble.fails(at(2001)), Some(102));
    }
}
