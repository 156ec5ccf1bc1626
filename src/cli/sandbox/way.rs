//! How a path leads to a file, and which folders are too much to be allowed for one file.

use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Links on one way: as many as Linux follows.
const LINKS_MAX: usize = 40;

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

/// The folders that the links on a way lead into.
pub(super) fn folders_of_links(path: &Path) -> Vec<PathBuf> {
    let names = |path: &Path| -> Vec<OsString> {
        path.components().rev().map(|name| name.as_os_str().to_owned()).collect()
    };
    let mut folders = Vec::new();
    let Ok(path) = std::path::absolute(path) else { return folders };
    let mut at = PathBuf::from("/");
    let mut ahead = names(&path);
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        match Path::new(&name).components().next() {
            Some(Component::RootDir) => at = PathBuf::from("/"),
            Some(Component::ParentDir) => drop(at.pop()),
            Some(Component::Normal(name)) => {
                let entry = at.join(name);
                let Ok(says) = fs::read_link(&entry) else {
                    at = entry;
                    continue;
                };
                links += 1;
                if links > LINKS_MAX {
                    return folders;
                }
                folders
                    .extend(at.join(&says).parent().and_then(|folder| folder.canonicalize().ok()));
                ahead.extend(names(&says));
            }
            _ => {}
        }
    }
    folders
}
