//! `portcullis cert issue --csv`: a certificate for each line of a table.
//!
//! The whole table is read and held against the profile before anything is issued. Then batches
//! are made by as many threads as there are cores, recorded with one sync, and written; a batch is
//! handed out as a whole or, where the program is stopped, left out as a whole or in part, and the
//! same command with `--skip-existing` goes on from there.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use time::OffsetDateTime;

use super::output::{Output, OutputArgs, Paths, serial_in};
use crate::cli::Failure;
use crate::cli::authority::{AuthorityArgs, rfc3339};
use crate::pki::files::{self, Access};
use crate::pki::inventory::Certificate;
use crate::pki::{AlternativeNames, Ca, Issued, KeyType, PkiError, PrivateKey, Profile, Subject};

/// Bytes of a table.
const TABLE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Lines of a table.
const LINES_MAX: usize = 1_000_000;
/// Problems that are told of one table.
const PROBLEMS_MAX: usize = 20;
/// Certificates that are recorded with one sync, and that a crash leaves recorded but not written
/// at most.
const BATCH: usize = 512;

/// The columns there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Name,
    Dns,
    Ip,
    Uri,
    Email,
}

impl Column {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Name, "name"),
        (Self::Dns, "dns"),
        (Self::Ip, "ip"),
        (Self::Uri, "uri"),
        (Self::Email, "email"),
    ];

    fn of(title: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, name)| *name == title).map(|(column, _)| *column)
    }

    fn title(self) -> &'static str {
        Self::ALL.iter().find(|(column, _)| *column == self).map_or("", |(_, name)| name)
    }
}

/// A table that was read, and found to be fine.
#[derive(Debug)]
pub(super) struct Table {
    subjects: Vec<Subject>,
}

impl Table {
    /// Reads a table, and holds every line of it against the profile.
    pub(super) fn read(path: &Path, profile: &Profile) -> Result<Self, Failure> {
        let about =
            |problem: &dyn std::fmt::Display| Failure(format!("{}: {problem}", path.display()));
        let file = files::open_regular(path).map_err(|error| about(&error))?;
        if file.metadata().map_err(|error| about(&error))?.len() > TABLE_BYTES_MAX {
            return Err(about(&format!("larger than {TABLE_BYTES_MAX} bytes; split it")));
        }
        Self::parse(path, file, profile)
    }

    fn parse(path: &Path, input: impl std::io::Read, profile: &Profile) -> Result<Self, Failure> {
        let mut reader =
            csv::ReaderBuilder::new().trim(csv::Trim::All).comment(Some(b'#')).from_reader(input);
        let at = |line: u64, column: Option<Column>, problem: &dyn std::fmt::Display| {
            let column = column.map(|column| format!(", column {}", column.title()));
            format!("{}, line {line}{}: {problem}", path.display(), column.unwrap_or_default())
        };
        let titles = reader.headers().map_err(|error| Failure(at(1, None, &error)))?.clone();
        let mut columns = Vec::with_capacity(titles.len());
        for title in &titles {
            let column = Column::of(title).ok_or_else(|| {
                let known: Vec<&str> = Column::ALL.iter().map(|(_, name)| *name).collect();
                let text = format!("no column is called {title:?}; there are {}", known.join(", "));
                Failure(at(1, None, &text))
            })?;
            if columns.contains(&column) {
                let text = format!("the column {title:?} is there twice");
                return Err(Failure(at(1, None, &text)));
            }
            columns.push(column);
        }
        if !columns.contains(&Column::Name) {
            let text = "the first line has to name the columns, and `name` among them";
            return Err(Failure(at(1, None, &text)));
        }

        let mut subjects = Vec::new();
        let mut lines: HashMap<String, u64> = HashMap::new();
        let mut problems = Vec::new();
        for record in reader.records() {
            if problems.len() >= PROBLEMS_MAX {
                break;
            }
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    let line = error.position().map_or(0, csv::Position::line);
                    let problem = match error.kind() {
                        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                            format!(
                                "{len} values, where the first line names {expected_len} columns"
                            )
                        }
                        csv::ErrorKind::Utf8 { .. } => "not UTF-8".to_owned(),
                        _ => error.to_string(),
                    };
                    problems.push(at(line, None, &problem));
                    continue;
                }
            };
            let line = record.position().map_or(0, csv::Position::line);
            match subject(&columns, &record, profile) {
                Ok(subject) => {
                    if let Some(first) = lines.insert(subject.name.clone(), line) {
                        let text = format!("{:?} is on line {first} already", subject.name);
                        problems.push(at(line, Some(Column::Name), &text));
                    }
                    subjects.push(subject);
                }
                Err((column, problem)) => problems.push(at(line, Some(column), &problem)),
            }
            if subjects.len() > LINES_MAX {
                problems.push(at(line, None, &format!("more than {LINES_MAX} lines; split it")));
                break;
            }
        }
        if problems.is_empty() {
            return Ok(Self { subjects });
        }
        if problems.len() >= PROBLEMS_MAX {
            problems.push("perhaps more; the rest was not looked at".to_owned());
        }
        problems.push("nothing was issued".to_owned());
        Err(Failure(problems.join("\n")))
    }
}

/// Whom a line is about.
fn subject(
    columns: &[Column],
    record: &csv::StringRecord,
    profile: &Profile,
) -> Result<Subject, (Column, String)> {
    let mut subject = Subject::named("");
    let mut alone = Vec::new();
    for (column, value) in columns.iter().zip(record) {
        let values = value.split(';').map(str::trim).filter(|value| !value.is_empty());
        let values = || values.clone().map(ToOwned::to_owned);
        let mut names = AlternativeNames::default();
        match column {
            Column::Name => value.clone_into(&mut subject.name),
            Column::Dns => names.dns = values().collect(),
            Column::Uri => names.uri = values().collect(),
            Column::Email => names.email = values().collect(),
            Column::Ip => {
                for value in values() {
                    let problem = || (*column, format!("{value:?} is not an IP address"));
                    names.ip.push(value.parse().map_err(|_| problem())?);
                }
            }
        }
        alone.push((*column, names));
    }
    // Each column by itself first, so that it is clear which one is wrong.
    Subject::named(subject.name.clone())
        .check(profile)
        .map_err(|error| (Column::Name, error.to_string()))?;
    for (column, names) in alone {
        let one = Subject { name: subject.name.clone(), alternative_names: names };
        one.check(profile).map_err(|error| (column, error.to_string()))?;
        subject.alternative_names.dns.extend(one.alternative_names.dns);
        subject.alternative_names.ip.extend(one.alternative_names.ip);
        subject.alternative_names.uri.extend(one.alternative_names.uri);
        subject.alternative_names.email.extend(one.alternative_names.email);
    }
    subject.check(profile).map_err(|error| (Column::Name, error.to_string()))?;
    Ok(subject)
}

/// What is to be done with a table.
pub(super) struct Job<'a> {
    pub(super) profile: &'a Profile,
    pub(super) key_type: KeyType,
    pub(super) output: &'a OutputArgs,
    pub(super) skip_existing: bool,
}

impl Job<'_> {
    /// Issues a certificate for each line.
    pub(super) fn run(&self, table: Table, authority: &AuthorityArgs) -> Result<(), Failure> {
        let (ca, audit) = authority.open()?;
        let output = self.output.prepare(&ca)?;
        let mut unwritten = Unwritten::of(&ca)?;
        let mut subjects = Vec::with_capacity(table.subjects.len());
        let mut skipped = 0;
        for subject in table.subjects {
            let paths = output.paths(&subject.name);
            if self.skip_existing {
                set_lonely_key_aside(&paths)?;
            }
            match paths.check_absent() {
                Ok(()) => subjects.push(subject),
                Err(_) if self.skip_existing => {
                    unwritten.find(&subject.name, &paths);
                    skipped += 1;
                }
                Err(error) => {
                    return Err(Failure(format!(
                        "{error}; or say --skip-existing to leave such lines out; nothing was issued"
                    )));
                }
            }
        }
        ca.note_written(&unwritten.found, OffsetDateTime::now_utc())?;
        files::create_private_folder(output.folder())?;
        let bar = progress(subjects.len());
        let mut issued = 0;
        for batch in subjects.chunks(BATCH) {
            let (made, keys) = self.make(&ca, batch)?;
            let certificates = ca.hand_out(made, OffsetDateTime::now_utc())?;
            for one in &certificates {
                audit.issued(&one.certificate);
            }
            audit.flush()?;
            write(&output, &certificates, &keys).map_err(|Failure(why)| {
                Failure(format!(
                    "{why}\n{issued} certificates were written before; up to {} more are in the \
                     inventory without their files, and good for nobody. Go on with \
                     --skip-existing once the cause is mended.",
                    batch.len()
                ))
            })?;
            let certificates_of = certificates.iter().map(|issued| &issued.certificate);
            ca.note_written(certificates_of, OffsetDateTime::now_utc())?;
            if self.output.json {
                Self::say(&output, &certificates)?;
            }
            issued += certificates.len();
            bar.inc(batch.len() as u64);
        }
        bar.finish_and_clear();
        audit.close()?;
        let skipped = match skipped {
            0 => String::new(),
            some => format!(", {some} left out, since their files are there"),
        };
        eprintln!("Issued {}{skipped}.", crate::cli::count(issued, "certificate", "certificates"));
        unwritten.tell();
        if !self.output.json {
            say!("{}", output.folder().display());
        }
        Ok(())
    }

    /// Makes keys and certificates, on all cores.
    fn make(
        &self,
        ca: &Ca,
        batch: &[Subject],
    ) -> Result<(Vec<crate::pki::Unrecorded>, Vec<PrivateKey>), PkiError> {
        let now = OffsetDateTime::now_utc();
        let made = on_all_cores(batch, |subject| {
            let key = PrivateKey::generate(self.key_type)?;
            let made = ca.make(self.profile, subject, &key, None, now)?.for_files();
            Ok::<_, PkiError>((made, key))
        })?;
        Ok(made.into_iter().unzip())
    }

    fn say(output: &Output, certificates: &[Issued]) -> Result<(), Failure> {
        let mut text = String::new();
        for Issued { certificate, .. } in certificates {
            let paths = output.paths(&certificate.name);
            let line = serde_json::json!({
                "name": certificate.name,
                "profile": certificate.profile.as_str(),
                "certificate": paths.certificate.display().to_string(),
                "key": paths.key.map(|key| key.display().to_string()),
                "serial": certificate.serial,
                "fingerprint": certificate.fingerprint,
                "not_after": rfc3339(certificate.not_after),
            });
            text.push_str(&line.to_string());
            text.push('\n');
        }
        crate::cli::put(&text)
    }
}

/// Certificates that were recorded, and perhaps never written, since a run was stopped.
struct Unwritten {
    by_name: HashMap<String, Vec<Certificate>>,
    /// Those whose files are there after all.
    found: Vec<Certificate>,
}

impl Unwritten {
    fn of(ca: &Ca) -> Result<Self, PkiError> {
        let now = OffsetDateTime::now_utc();
        let mut by_name: HashMap<String, Vec<Certificate>> = HashMap::new();
        for one in ca.contents(|contents| {
            contents.unwritten(now).map(|entry| entry.certificate.clone()).collect::<Vec<_>>()
        })? {
            by_name.entry(one.name.clone()).or_default().push(one);
        }
        Ok(Self { by_name, found: Vec::new() })
    }

    /// Looks whether the file of a name holds one of them.
    fn find(&mut self, name: &str, paths: &Paths) {
        let Some(of_name) = self.by_name.get_mut(name) else { return };
        // What is in PKCS#12 is not readable without its passphrase, and stays in doubt.
        let Ok(serial) = serial_in(&paths.certificate) else { return };
        if let Some(at) = of_name.iter().position(|one| one.serial == serial) {
            self.found.push(of_name.swap_remove(at));
        }
    }

    fn tell(&self) {
        let left = self.by_name.values().map(Vec::len).sum();
        if left > 0 {
            let left = crate::cli::count(left, "certificate", "certificates");
            eprintln!(
                "{left} of a run that was stopped may never have been written; nobody has the keys \
                 then: portcullis cert list --unwritten"
            );
        }
    }
}

/// Moves aside a key whose certificate was never written, since the program was stopped between
/// the two.
fn set_lonely_key_aside(paths: &Paths) -> Result<(), Failure> {
    let exists = |path: &Path| path.symlink_metadata().is_ok();
    match &paths.key {
        Some(key) if exists(key) && !exists(&paths.certificate) => {
            std::fs::rename(key, key.with_extension("key.partial")).map_err(|error| {
                Failure(format!("{}: cannot move it aside: {error}", key.display()))
            })
        }
        _ => Ok(()),
    }
}

/// Writes a batch, keys for their owner only, and syncs once.
fn write(output: &Output, issued: &[Issued], keys: &[PrivateKey]) -> Result<(), Failure> {
    let pairs: Vec<(&Issued, &PrivateKey)> = issued.iter().zip(keys).collect();
    on_all_cores(&pairs, |(issued, key)| {
        let paths = output.paths(&issued.certificate.name);
        let (key, certificate) = output.contents(issued, key)?;
        // A file of PKCS#12 has the key in it.
        let mut access = Access::Owner;
        if let (Some(path), Some(key)) = (paths.key, &key) {
            files::write_new_unsynced(&path, key.as_bytes(), Access::Owner)?;
            access = Access::Everybody;
        }
        files::write_new_unsynced(&paths.certificate, &certificate, access)?;
        Ok::<_, PkiError>(())
    })?;
    Ok(files::sync_filesystem(output.folder())?)
}

/// Does the same to each of several things, in as many threads as there are cores; the results
/// are in order.
fn on_all_cores<T: Sync, R: Send, E: Send>(
    things: &[T],
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let failed = Mutex::new(None);
    let parts: Vec<Vec<R>> = std::thread::scope(|scope| {
        let (work, failed) = (&work, &failed);
        let parts = things.chunks(things.len().div_ceil(threads).max(1)).map(|part| {
            scope.spawn(move || {
                let mut results = Vec::with_capacity(part.len());
                for thing in part {
                    match work(thing) {
                        Ok(result) => results.push(result),
                        Err(error) => {
                            failed
                                .lock()
                                .unwrap_or_else(std::sync::PoisonError::into_inner)
                                .get_or_insert(error);
                            break;
                        }
                    }
                }
                results
            })
        });
        let parts: Vec<_> = parts.collect();
        // A panic of a part is one of the whole.
        parts
            .into_iter()
            .map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(parts.into_iter().flatten().collect()),
    }
}

/// A bar on a terminal, and nothing anywhere else.
fn progress(length: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(length as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len}, {per_sec}, {eta} left");
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::ProfileName;

    fn parse(text: &str) -> Result<Table, String> {
        let profile = Profile::built_in(ProfileName::Device).unwrap();
        Table::parse(Path::new("d.csv"), text.as_bytes(), &profile).map_err(|Failure(text)| text)
    }

    #[test]
    fn a_table_names_its_columns_in_any_order() {
        let table =
            parse("dns,name,uri\n a.b ; c.d ,pump-1,\n# a comment\n,pump-2,urn:a\n").unwrap();
        let [first, second] = &*table.subjects else { panic!("{table:?}") };
        assert_eq!(first.name, "pump-1");
        assert_eq!(first.alternative_names.dns, ["a.b", "c.d"]);
        assert_eq!(second.alternative_names.uri, ["urn:a"]);
    }

    #[test]
    fn a_bad_line_is_told_with_its_file_line_and_column() {
        for (text, expected) in [
            ("", "d.csv, line 1: the first line has to name the columns"),
            ("pump-1\n", "d.csv, line 1: no column is called \"pump-1\""),
            ("dns\na\n", "`name` among them"),
            ("name,name\na,b\n", "the column \"name\" is there twice"),
            ("name\na/b\n", "d.csv, line 2, column name: the name contains `/`"),
            ("name\na\n\nb\na\n", "d.csv, line 5, column name: \"a\" is on line 2 already"),
            ("name,dns\na,b_ c\n", "d.csv, line 2, column dns: `b_ c` is not a DNS name"),
            ("name,uri\na,spiffe://A/b\n", "d.csv, line 2, column uri: `spiffe://A/b`"),
            ("name,ip\na,300.1.1.1\n", "d.csv, line 2, column ip: \"300.1.1.1\" is not"),
            ("name,ip\na,::1\n", "column ip: the profile does not allow IP addresses"),
            ("name,dns\na\n", "d.csv, line 2: 1 values, where the first line names 2 columns"),
            ("name\n\"a\u{1b}[2J\"\n", "column name: the name contains the character U+001B"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        let error = parse("name\na/1\nb\nc/2\n").unwrap_err();
        assert!(error.contains("line 2") && error.contains("line 4"), "{error}");
        assert!(error.ends_with("nothing was issued"), "{error}");
    }
}
