//! Which folder a path leads into, and which are too much to be allowed for one file.

use std::path::{Path, PathBuf};

/// Folders in which everything else of a system lies as well.
const BROAD: [&str; 25] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/local",
    "/usr/local/etc",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/tmp",
];

/// True for a folder that holds too much else to be allowed for the sake of a file in it.
pub(super) fn is_broad(folder: &Path) -> bool {
    let is_somebodys_home = folder.parent() == Some(Path::new("/home"));
    is_somebodys_home || BROAD.iter().any(|broad| folder == Path::new(broad))
}

/// The folder that a path leads into, whether there is something at its end or not, without links.
pub(super) fn folder_of(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let real = path.canonicalize().ok();
    let folder = real.as_deref().unwrap_or(&path).parent()?;
    folder.canonicalize().ok()
}
