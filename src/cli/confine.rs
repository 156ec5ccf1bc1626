//! What the process gives up, and what it needs.

use tracing::warn;

/// What the process gives up at the start: memory images that hold keys. And what it needs: as
/// many descriptors as the system grants.
pub(super) fn confine() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        warn!(%error, "core dumps could not be turned off");
    }
    let files = getrlimit(Resource::Nofile);
    let all = Rlimit { current: files.maximum, ..files };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        warn!(%error, "the limit of open files could not be raised");
    }
}
