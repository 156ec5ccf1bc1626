//! A listening socket: whoever passes admission gets a task of its own.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};

use crate::gates::admission::{self, Admission, Refused, Slot};
use crate::metrics::ListenerGauges;
use crate::server::accept::Trouble;

/// A socket that listens, and who may come in.
pub(super) struct Door {
    /// The key of the configuration that says where.
    name: &'static str,
    listener: TcpListener,
    admission: Admission,
}

impl Door {
    pub(super) async fn bind(
        name: &'static str,
        address: SocketAddr,
        admission: admission::Settings,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let admission = Admission::new(admission, ListenerGauges::default(), Instant::now());
        Ok(Self { name, listener, admission })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Takes connections until the future is dropped, and they end with it. `tasks` may have other
    /// work already; whatever of it ends is told.
    pub(super) async fn keep_open<F>(
        self,
        mut tasks: JoinSet<()>,
        connection: impl Fn(TcpStream, SocketAddr, Slot) -> F,
        refused: impl Fn(SocketAddr, Refused),
        panicked: impl Fn(&JoinError),
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut trouble = Trouble::default();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        trouble.ends();
                        match self.admission.admit(peer.ip(), Instant::now()) {
                            Ok(slot) => drop(tasks.spawn(connection(stream, peer, slot))),
                            Err(why) => refused(peer, why),
                        }
                    }
                    Err(error) => trouble.bear(self.name, &error).await,
                },
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        panicked(&error);
                    }
                }
            }
        }
    }
}
