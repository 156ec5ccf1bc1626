//! A backup as a folder: `data`, and `manifest.json`, which says what is in it.
//!
//! It is made under another name, `NAME.partial`, and renamed once all of it is on the disk.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::check::{Checked, Checker};
use super::stream::{Head, Manifest, StreamReader, StreamWriter};
use super::{Both, Reading, Sink};
use crate::pki::files::open_regular;
use crate::store::StoreError;
use crate::store::folder::{io_failed, sync_folder};

const DATA: &str = "data";
/// The name of a backup's manifest in its folder.
pub const MANIFEST: &str = "manifest.json";
const MANIFEST_BYTES_MAX: u64 = 64 * 1024;
/// What is read or written at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// A backup that was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// What is in it.
    pub manifest: Manifest,
    /// What is wrong with it, since it was with the store.
    pub checked: Checked,
}

/// Makes a backup of what is read, in a folder that does not exist or is empty.
///
/// # Errors
/// When the folder cannot be made, or what is read is not whole: then there is no backup.
pub fn receive(reading: Reading, folder: &Path) -> Result<Made, StoreError> {
    let draft = Draft::begin(folder)?;
    let path = draft.path.join(DATA);
    let failed = io_failed("write the backup", &path);
    let file = new_file(&path).map_err(&failed)?;
    let out = BufWriter::with_capacity(CHUNK_BYTES, file);
    let head = Head::now(SystemTime::now());
    let mut checker = Checker::new();
    let (manifest, out) = match reading {
        // What a broker sends is a backup already.
        Reading::Stream(stream) => {
            let mut out = out;
            let copied = Copied { input: stream.input, out: &mut out };
            let reader = StreamReader::open(copied, stream.name, stream.remedy)?;
            (reader.each(&mut checker)?, out)
        }
        reading => {
            let mut writer = StreamWriter::begin(out, head)?;
            reading.each(&mut Both(&mut writer, &mut checker))?;
            writer.finish()?
        }
    };
    let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(&failed)?;
    draft.finish(&manifest)?;
    Ok(Made { manifest, checked: checker.finish() })
}

/// Writes down what is read.
struct Copied<R, W> {
    input: R,
    out: W,
}

impl<R: Read, W: Write> Read for Copied<R, W> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(into)?;
        self.out.write_all(into.get(..read).unwrap_or_default())?;
        Ok(read)
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// A backup that is being made. It goes with the value unless it is finished.
struct Draft {
    path: PathBuf,
    place: PathBuf,
    around: PathBuf,
}

impl Draft {
    fn begin(place: &Path) -> Result<Self, StoreError> {
        let refused =
            |why: &str| StoreError::Foreign { folder: place.to_owned(), why: why.to_owned() };
        match std::fs::read_dir(place).map(|mut entries| entries.next().is_some()) {
            Ok(true) => {
                return Err(refused(
                    "not empty, and nothing is overwritten; name a folder that does not exist",
                ));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_failed("make the folder of the backup", place)(error));
            }
            _ => {}
        }
        let name = place.file_name().ok_or_else(|| refused("name a folder to be made"))?;
        let around = place.parent().filter(|around| !around.as_os_str().is_empty());
        let around = around.unwrap_or(Path::new(".")).to_owned();
        let mut partial = name.to_owned();
        partial.push(".partial");
        let path = around.join(partial);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let why = "a backup that did not come to its end left it; remove it, or name \
                           another folder";
                Err(StoreError::Foreign { folder: path, why: why.to_owned() })
            }
            made => {
                made.map_err(io_failed("make the folder of the backup", &path))?;
                Ok(Self { path, place: place.to_owned(), around })
            }
        }
    }

    fn finish(mut self, manifest: &Manifest) -> Result<(), StoreError> {
        let path = self.path.join(MANIFEST);
        let written = serde_json::to_vec_pretty(manifest).map_err(io::Error::from);
        let written = written.and_then(|mut text| {
            text.push(b'\n');
            let mut file = new_file(&path)?;
            file.write_all(&text)?;
            file.sync_all()
        });
        written.map_err(io_failed("write the backup", &path))?;
        sync_folder(&self.path)?;
        std::fs::rename(&self.path, &self.place)
            .map_err(io_failed("put the backup in its place", &self.place))?;
        self.path.clear();
        sync_folder(&self.around)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // What stays behind is named when the backup is made again.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// A backup to read.
#[derive(Debug)]
pub struct Backup {
    folder: PathBuf,
    manifest: Manifest,
}

impl Backup {
    /// True where something that calls itself a backup is.
    #[must_use]
    pub fn is_at(folder: &Path) -> bool {
        folder.join(MANIFEST).exists()
    }

    /// Reads the manifest.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(MANIFEST);
        let mut text = Vec::new();
        let read = open_regular(&path)
            .and_then(|file| file.take(MANIFEST_BYTES_MAX).read_to_end(&mut text));
        read.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Foreign {
                folder: folder.to_owned(),
                why: format!("it is no backup: it has no `{MANIFEST}`; name the folder of one"),
            },
            _ => io_failed("read the backup", &path)(error),
        })?;
        let manifest = serde_json::from_slice(&text).map_err(|error| StoreError::Damaged {
            file: path,
            what: format!("it is no manifest of a backup ({error}); use another backup"),
        })?;
        Ok(Self { folder: folder.to_owned(), manifest })
    }

    /// What is in it, as it says itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Gives all records to the sink; what the manifest says was true.
    pub(super) fn each(&self, sink: &mut impl Sink) -> Result<(), StoreError> {
        let path = self.folder.join(DATA);
        let file = open_regular(&path).map_err(io_failed("read the backup", &path))?;
        let input = BufReader::with_capacity(CHUNK_BYTES, file);
        let found = StreamReader::open(input, path, "use another backup")?.each(sink)?;
        if found == self.manifest {
            return Ok(());
        }
        let what = "it does not say what is in `data`; use another backup".to_owned();
        Err(StoreError::Damaged { file: self.folder.join(MANIFEST), what })
    }
}
