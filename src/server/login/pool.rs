//! Where passwords are hashed: a few threads that stand back behind everything else.
//!
//! A hash takes tens of milliseconds. There is one thread fewer than cores, each at low priority,
//! and a bounded number of passwords waits for them; what would be more is refused.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// How far behind other threads these stand (nice(2)).
const NICE: i32 = 10;

/// As many passwords wait as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{waiting_max} passwords wait to be hashed already")]
pub(super) struct Full {
    waiting_max: usize,
}

type Job = Box<dyn FnOnce() + Send>;

/// The threads. They end with the value.
#[derive(Debug)]
pub(super) struct Hashers {
    jobs: SyncSender<Job>,
    waiting_max: usize,
}

impl Hashers {
    /// Starts the threads; none where nobody has a password.
    ///
    /// # Errors
    /// When the system starts none.
    pub(super) fn start(threads: usize, waiting_max: usize) -> std::io::Result<Self> {
        let (jobs, next) = sync_channel(waiting_max);
        let next = Arc::new(Mutex::new(next));
        for _ in 0..threads {
            let next: Arc<Mutex<Receiver<Job>>> = Arc::clone(&next);
            std::thread::Builder::new().name("password".into()).spawn(move || {
                // Without it there is no harm but that others wait a little longer.
                let _ = rustix::process::nice(NICE);
                loop {
                    let job = next.lock().recv();
                    let Ok(job) = job else { return };
                    // A panic must not end the thread: nobody would hash any more.
                    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                }
            })?;
        }
        Ok(Self { jobs, waiting_max })
    }

    /// Has something computed. It is left out when nobody waits for it any more; `None` when it
    /// could not be done.
    ///
    /// # Errors
    /// When as much waits as may.
    pub(super) async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Option<T>, Full> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move || {
            if !answer.is_closed() {
                let _ = answer.send(work());
            }
        });
        match self.jobs.try_send(job) {
            Ok(()) => Ok(answered.await.ok()),
            Err(TrySendError::Full(_)) => Err(Full { waiting_max: self.waiting_max }),
            Err(TrySendError::Disconnected(_)) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_is_bounded_and_a_panic_ends_no_thread() {
        let hashers = Arc::new(Hashers::start(1, 1).unwrap());
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let (begun, has_begun) = oneshot::channel();
        let busy = tokio::spawn({
            let hashers = Arc::clone(&hashers);
            async move {
                hashers
                    .compute(move || {
                        let _ = begun.send(());
                        let _ = gone.recv();
                    })
                    .await
            }
        });
        has_begun.await.unwrap();
        let waits = hashers.compute(|| 7);
        tokio::pin!(waits);
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(waits.as_mut().poll(cx)));
        assert!(polled.await.is_pending());
        assert_eq!(hashers.compute(|| 8).await, Err(Full { waiting_max: 1 }));
        drop(go);
        assert_eq!(waits.await, Ok(Some(7)));
        busy.await.unwrap().unwrap();
        assert_eq!(hashers.compute(|| panic!("provoked")).await, Ok(None::<()>));
        assert_eq!(hashers.compute(|| 9).await, Ok(Some(9)));
    }
}
