//! `portcullis password`: files of passwords, and of records of SCRAM.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::Failure;
use crate::identity::method::check_name;
use crate::identity::method::password::{Editing, PASSWORD_BYTES_MAX, Passwords, hash};
use crate::identity::method::scram::{Record, Records, new_secret_line};

/// Sets, removes and lists passwords.
#[derive(Debug, clap::Args)]
pub(super) struct PasswordArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Sets the password of a name, and makes the file where there is none
    Set {
        /// The user name
        name: String,
        /// The file that [authentication.NAME] names
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        /// Reads the password from standard input, one line, instead of the terminal
        #[arg(long)]
        stdin: bool,
        /// Writes a record of SCRAM-SHA-256 instead of a hash
        #[arg(long)]
        scram: bool,
    },
    /// Removes a name
    Delete {
        /// The user name
        name: String,
        /// The file that [authentication.NAME] names
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Lists the names, each with the kind of its hash
    List {
        /// The file that [authentication.NAME] names
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
}

impl PasswordArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Set { name, file, stdin, scram } => set(&name, &file, stdin, scram),
            Command::Delete { name, file } => delete(&name, &file),
            Command::List { file } => list(&file),
        }
    }
}

fn set(name: &str, file: &std::path::Path, stdin: bool, scram: bool) -> Result<(), Failure> {
    let usable = check_name("NAME", name)?;
    if usable.contains(':') || usable.starts_with(['#', '!']) {
        let why = format!("{name:?} holds \":\", or begins with \"#\" or \"!\"; choose another");
        return Err(Failure(why));
    }
    let password = read_password(stdin)?;
    let mut editing = Editing::begin(file)?;
    let is_changed = editing.find(name).is_some();
    if scram {
        refuse_other(&editing, file, editing.find("!secret").is_none(), "passwords")?;
        if editing.find("!secret").is_none() {
            editing.push(&new_secret_line()?);
        }
        editing.put(name, Some(&Record::new(&password)?.to_string()));
        Records::parse(file, editing.text())?;
    } else {
        refuse_other(&editing, file, editing.find("!secret").is_some(), "records of SCRAM")?;
        editing.put(name, Some(&hash(password.as_bytes())?));
        Passwords::parse(file, editing.text())?;
    }
    editing.write()?;
    eprintln!("the password of {name:?} is set in {}", file.display());
    if is_changed {
        eprintln!(
            "whoever is connected by the old one stays until it disconnects; `ctl ban` puts it out"
        );
    }
    Ok(())
}

/// The two kinds of file have nothing in common.
fn refuse_other(
    editing: &Editing,
    file: &std::path::Path,
    is_other: bool,
    what: &str,
) -> Result<(), Failure> {
    let has_lines = editing.text().lines().any(|line| !line.is_empty() && !line.starts_with('#'));
    if is_other && has_lines {
        let why = format!("{} holds {what}; name another file", file.display());
        return Err(Failure(why));
    }
    Ok(())
}

fn delete(name: &str, file: &std::path::Path) -> Result<(), Failure> {
    let mut editing = Editing::begin(file)?;
    if name.starts_with('!') || editing.find(name).is_none() {
        return Err(Failure(format!("there is no {name:?} in {}", file.display())));
    }
    editing.put(name, None);
    editing.write()?;
    eprintln!("{name:?} is removed from {}", file.display());
    Ok(())
}

fn list(file: &std::path::Path) -> Result<(), Failure> {
    let editing = Editing::begin(file)?;
    if editing.find("!secret").is_some() {
        let records = Records::parse(file, editing.text())?;
        for name in records.names() {
            say!("{}  scram-sha-256", name.escape_debug());
        }
        return Ok(());
    }
    if !file.exists() {
        return Err(Failure(format!("{} is not there", file.display())));
    }
    for (name, hash) in Passwords::parse(file, editing.text())?.iter() {
        say!("{}  {}", name.escape_debug(), hash.scheme());
    }
    Ok(())
}

/// From the terminal, twice; or a line of standard input.
fn read_password(stdin: bool) -> Result<Zeroizing<String>, Failure> {
    let password = if stdin {
        let mut line = Zeroizing::new(String::new());
        std::io::stdin().lock().read_line(&mut line)?;
        let password = line.strip_suffix('\n').unwrap_or(&line);
        Zeroizing::new(password.strip_suffix('\r').unwrap_or(password).to_owned())
    } else if std::io::stdin().is_terminal() {
        let typed = Zeroizing::new(rpassword::prompt_password("Password: ")?);
        let again = Zeroizing::new(rpassword::prompt_password("Once more: ")?);
        if typed != again {
            return Err(Failure("the two are not the same".to_owned()));
        }
        typed
    } else {
        let why = "there is no terminal to ask at; pipe the password to --stdin";
        return Err(Failure(why.to_owned()));
    };
    if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
        return Err(Failure(format!("a password has 1 to {PASSWORD_BYTES_MAX} bytes")));
    }
    Ok(password)
}
