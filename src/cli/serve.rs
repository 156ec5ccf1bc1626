//! `portcullis serve`: the broker, until a signal ends it.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::reloader::Source;
use super::running::Running;
use super::sandbox::Sandbox;
use super::{Failure, coloured};
use crate::config::{Config, LogSettings};

/// What still runs after the end of the broker has so long: a file system may not answer at all.
const END: Duration = Duration::from_secs(1);

/// Runs the broker.
#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Sets a key of the configuration, such as listener.devices.address=127.0.0.1:0
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Prints one line of JSON when the broker is ready, with the address of each listener
    #[arg(long)]
    ready_json: bool,
    /// Starts though part of the store cannot be read: that part is set aside and lost
    #[arg(long)]
    accept_loss: bool,
}

impl ServeArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut config = Config::load(&self.config, &self.set)
            .map_err(|error| Failure(error.render(coloured())))?;
        if let Some(store) = &mut config.store {
            store.accept_loss = self.accept_loss;
        }
        log_to_stderr(&config.log);
        Sandbox::prepare_broker(&config)?;
        let sandbox = Sandbox::of_broker(&self.config, &config)?.begin()?;
        let source = Source { path: self.config, overrides: self.set, sandbox };
        to_its_end(async {
            let signals = Signals::hear()?;
            let running = Running::start(config, source).await?;
            if self.ready_json {
                print_ready(&running);
            }
            signals.obey(running).await
        })
    }
}

/// The signals that a running broker obeys.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on they are heard. To be called before anybody is told that the broker is ready:
    /// until then a signal ends the process without a word.
    pub(super) fn hear() -> Result<Self, Failure> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Serves until SIGTERM or SIGINT; SIGHUP reloads.
    ///
    /// # Errors
    /// When the store fails, so that nothing can be acknowledged any more, or a task of the broker.
    pub(super) async fn obey(mut self, mut running: Running) -> Result<(), Failure> {
        let why = loop {
            tokio::select! {
                _ = self.terminate.recv() => break "SIGTERM",
                _ = self.interrupt.recv() => break "SIGINT",
                _ = self.hangup.recv() => running.begin_reload(),
                (why, failure) = running.failed() => {
                    running.stop(why).await;
                    return Err(failure);
                }
            }
        };
        running.stop(why).await;
        Ok(())
    }
}

fn print_ready(running: &Running) {
    let listeners: serde_json::Map<_, _> = running
        .addresses
        .iter()
        .map(|(name, address)| (name.to_string(), json!(address)))
        .collect();
    let metrics = running.metrics_address.map(|address| address.to_string());
    say!("{}", json!({ "ready": true, "listeners": listeners, "metrics": metrics }));
}

/// Runs a broker from its start to its end. What still reads files then does not hold it up.
pub(super) fn to_its_end<T>(
    broker: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure(format!("cannot start the worker threads: {error}")))?;
    let ended = runtime.block_on(broker);
    runtime.shutdown_timeout(END);
    ended
}

/// The diagnostic log. A second call, in the same process, changes nothing.
pub(super) fn log_to_stderr(settings: &LogSettings) {
    let filter = EnvFilter::new(settings.level.as_str());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(coloured());
    let _ = if settings.json { log.json().try_init() } else { log.try_init() };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_does_not_wait_for_what_still_reads() {
        let (keep, kept) = std::sync::mpsc::channel::<()>();
        let ended = to_its_end(async {
            tokio::task::spawn_blocking(move || kept.recv());
            Ok("ended")
        });
        assert_eq!(ended.ok(), Some("ended"));
        drop(keep);
    }
}
