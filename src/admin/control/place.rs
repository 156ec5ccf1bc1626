//! Where the control socket is, and who gets at it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use super::Settings;

/// Who may get at a socket, by the file system alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Modes {
    folder: u32,
    pub(super) socket: u32,
}

impl Modes {
    /// Where nobody but root and the broker's own user may call, nobody else gets into the folder.
    /// Otherwise everybody may try, and is told from others by what the kernel says; the folder
    /// still is the broker's alone, so that nobody can put another socket there.
    pub(super) fn of(settings: &Settings, own_uid: u32) -> Self {
        let mut uids = settings.uids.iter().chain(&settings.authority_uids);
        if uids.all(|uid| *uid == own_uid || *uid == 0) {
            Self { folder: 0o700, socket: 0o600 }
        } else {
            Self { folder: 0o711, socket: 0o666 }
        }
    }
}

/// Says whether a control socket could be bound, and changes nothing. One that a running broker
/// listens on is fine.
///
/// # Errors
/// What [`super::Control::bind`] would say of the folder, or of something else at the path.
pub fn check(settings: &Settings) -> io::Result<()> {
    let socket = &settings.path;
    let folder = folder_of(socket)?;
    let own_uid = rustix::process::geteuid().as_raw();
    match check_folder(folder, own_uid, Modes::of(settings, own_uid)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // It is made, where the one around it is there.
            let around = folder.parent().filter(|around| !around.as_os_str().is_empty());
            let rights = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
            return Ok(rustix::fs::access(around.unwrap_or(Path::new(".")), rights)?);
        }
        checked => checked?,
    }
    match fs::symlink_metadata(socket) {
        Ok(metadata) if !metadata.file_type().is_socket() => Err(no_socket(socket)),
        _ => Ok(()),
    }
}

fn folder_of(socket: &Path) -> io::Result<&Path> {
    socket.parent().filter(|folder| !folder.as_os_str().is_empty()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "the control socket needs a folder")
    })
}

/// Makes the folder, or checks that it is the broker's own, and that only those may enter it who have
/// to. [`super::Control::bind`] does it as well, for whoever may make one by then.
///
/// # Errors
/// What is wrong with the folder.
pub fn prepare(settings: &Settings) -> io::Result<()> {
    let own_uid = rustix::process::geteuid().as_raw();
    let modes = Modes::of(settings, own_uid);
    let folder = folder_of(&settings.path)?;
    match DirBuilder::new().mode(modes.folder).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Err(_) => {}
        // Whatever the umask left of it.
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(modes.folder))?,
    }
    check_folder(folder, own_uid, modes)
}

fn check_folder(folder: &Path, own_uid: u32, modes: Modes) -> io::Result<()> {
    let metadata = fs::symlink_metadata(folder)?;
    let is_own = metadata.is_dir() && metadata.uid() == own_uid;
    if is_own && metadata.mode() & 0o777 == modes.folder {
        return Ok(());
    }
    let why = if modes.folder == 0o711 { ", since other users may call," } else { "" };
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "the control socket needs a folder of the broker's own user (uid {own_uid}) and{why} \
             with mode {:04o}; {} has uid {} and mode {:04o}",
            modes.folder,
            folder.display(),
            metadata.uid(),
            metadata.mode() & 0o7777
        ),
    ))
}

fn no_socket(path: &Path) -> io::Error {
    let why = format!("{} is there already, and is no socket", path.display());
    io::Error::new(io::ErrorKind::AlreadyExists, why)
}

/// Removes a socket nobody listens on. Nobody else can put one there: the folder is ours alone.
pub(super) fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => Err(no_socket(path)),
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("another broker listens on {}", path.display()),
            )),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            Err(error) => Err(error),
        },
    }
}
