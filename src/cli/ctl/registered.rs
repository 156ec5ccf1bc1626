//! `ctl ban` and `ctl device`.

use std::io::{self, Write};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Args;
use crate::admin::control::{Command, Response};
use crate::admin::registered::{BanAnswer, BanRequest, DeviceAnswer, DeviceRequest};
use crate::harmless::harmless;
use crate::registry::{
    BAN_S_MAX, BanId, By, Misnamed, Principal, State, TargetText, WHY_BYTES_MAX,
};

/// Whom a ban is about: a principal, a client id, both, an address or a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct TargetArgs {
    /// A principal, by type and name: device pump-7 is `Device::pump-7`
    #[arg(long, value_name = "TYPE::NAME")]
    pub principal: Option<String>,
    /// A client id; with --principal, that principal under this client id alone
    #[arg(long, value_name = "ID")]
    pub client_id: Option<String>,
    /// An address or a network, such as 192.0.2.0/24
    #[arg(long, value_name = "NET")]
    pub address: Option<String>,
    /// A certificate, by its SHA-256
    #[arg(long, value_name = "SHA256")]
    pub certificate: Option<String>,
}

impl TargetArgs {
    fn text(&self) -> TargetText {
        let Self { principal, client_id, address, certificate } = self.clone();
        TargetText { principal, client_id, address, certificate }
    }
}

/// What can be done about bans.
#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum BanVerb {
    /// To keep somebody out, and to put out whoever is meant and connected
    Add {
        #[command(flatten)]
        target: TargetArgs,
        /// How long, such as 1h; without it, until it is removed
        #[arg(long = "for", value_name = "TIME", value_parser = length)]
        length: Option<Duration>,
        /// Why, for the audit log and the list
        #[arg(long, value_name = "TEXT", default_value = "")]
        why: String,
    },
    /// Which bans are in force
    List,
    /// To let somebody in again
    Remove {
        /// The number of the ban
        #[arg(value_name = "BAN")]
        ban: Option<u64>,
        #[command(flatten)]
        target: TargetArgs,
    },
}

/// What can be done about devices. Other principals are named by type and name: `User::ann`.
#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum DeviceVerb {
    /// Which devices are known
    List {
        /// Those in this state alone: active, pending, suspended or revoked
        #[arg(long, value_name = "STATE", value_parser = state)]
        state: Option<State>,
    },
    /// To let in one that waits, or to take the certificates of another authority as its own
    Approve {
        /// Its name
        device: String,
        /// The SHA-256 of the authority's public key; without it, of the certificate it came with
        #[arg(long, value_name = "SHA256")]
        issuer: Option<String>,
    },
    /// To let in one that is suspended
    Activate {
        /// Its name
        device: String,
    },
    /// To keep one out, and to put it out, until it is activated
    Suspend {
        /// Its name
        device: String,
    },
    /// To keep one out, and to put it out, for good
    Revoke {
        /// Its name
        device: String,
    },
    /// To know nothing of one any more
    Forget {
        /// Its name
        device: String,
    },
}

fn length(text: &str) -> Result<Duration, String> {
    let length = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if length < Duration::from_secs(1) {
        Err("at least a second".to_owned())
    } else if length > Duration::from_secs(BAN_S_MAX) {
        Err("at most 100 years; without --for it is until it is removed".to_owned())
    } else {
        Ok(length)
    }
}

fn state(text: &str) -> Result<State, String> {
    let all = [State::Active, State::Pending, State::Suspended, State::Revoked];
    let found = all.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| "write active, pending, suspended or revoked".to_owned())
}

/// What was asked is nothing that a broker can be asked.
fn misuse(err: &mut impl Write, why: &Misnamed) -> io::Result<u8> {
    writeln!(err, "error: {}", harmless(&why.to_string()))?;
    Ok(2)
}

/// As [`super::run`], of bans.
pub(super) fn ban(
    args: &Args,
    verb: &BanVerb,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<u8> {
    let request = match verb {
        BanVerb::List => {
            let ask = |after| BanRequest::List { after };
            let all = all::<BanAnswer, BanId>("bans", |after| {
                super::call(&args.socket, Command::Ban { request: ask(after), uid: None })
            });
            return answer(args, all, err, |bans| {
                if args.json {
                    writeln!(out, "{}", json!({ "bans": bans }))
                } else {
                    print_bans(bans, out)
                }
            });
        }
        BanVerb::Add { target, length, why } => {
            if why.len() > WHY_BYTES_MAX {
                return misuse(err, &Misnamed::Why);
            }
            let target = target.text();
            if let Err(error) = target.parse() {
                return misuse(err, &error);
            }
            BanRequest::Add { target, for_s: length.map(|it| it.as_secs()), why: why.clone() }
        }
        BanVerb::Remove { ban, target } => {
            let target = target.text();
            let named = target != TargetText::default();
            match (ban, named, target.parse()) {
                (Some(id), false, _) => BanRequest::Remove { ban: Some(BanId(*id)), target: None },
                (None, true, Ok(_)) => BanRequest::Remove { ban: None, target: Some(target) },
                (None, true, Err(error)) => return misuse(err, &error),
                _ => return misuse(err, &Misnamed::Shape),
            }
        }
    };
    let done = one(super::call(&args.socket, Command::Ban { request, uid: None }));
    answer(args, done, err, |value: &Value| {
        if args.json {
            writeln!(out, "{value}")
        } else {
            print_bans(&[serde_json::from_value(value.clone())?], out)
        }
    })
}

/// As [`super::run`], of devices.
pub(super) fn device(
    args: &Args,
    verb: &DeviceVerb,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<u8> {
    let (name, request) = match verb {
        DeviceVerb::List { state } => {
            let ask = |after| DeviceRequest::List { state: *state, after };
            let all = all::<DeviceAnswer, String>("devices", |after| {
                super::call(&args.socket, Command::Device { request: ask(after), uid: None })
            });
            return answer(args, all, err, |devices| {
                if args.json {
                    writeln!(out, "{}", json!({ "devices": devices }))
                } else {
                    print_devices(devices, out)
                }
            });
        }
        DeviceVerb::Approve { device, issuer } => {
            let request = DeviceRequest::Approve { device: device.clone(), issuer: issuer.clone() };
            (device, request)
        }
        DeviceVerb::Activate { device } => {
            (device, DeviceRequest::Activate { device: device.clone() })
        }
        DeviceVerb::Suspend { device } => {
            (device, DeviceRequest::Suspend { device: device.clone() })
        }
        DeviceVerb::Revoke { device } => (device, DeviceRequest::Revoke { device: device.clone() }),
        DeviceVerb::Forget { device } => (device, DeviceRequest::Forget { device: device.clone() }),
    };
    if let Err(error) = Principal::parse_device(name) {
        return misuse(err, &error);
    }
    let done = one(super::call(&args.socket, Command::Device { request, uid: None }));
    answer(args, done, err, |value: &Value| {
        if args.json {
            writeln!(out, "{value}")
        } else {
            print_devices(&[serde_json::from_value(value.clone())?], out)
        }
    })
}

/// What the broker says, or why there is nothing.
type Told<T> = io::Result<Result<T, String>>;

fn one(response: io::Result<Response>) -> Told<Value> {
    Ok(match response? {
        Response::Done(value) => Ok(value),
        Response::Failed(why) => Err(why),
    })
}

/// All pages of a list.
fn all<T: DeserializeOwned, Name: DeserializeOwned>(
    key: &str,
    mut ask: impl FnMut(Option<Name>) -> io::Result<Response>,
) -> Told<Vec<T>> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let mut value = match one(ask(after))? {
            Ok(value) => value,
            Err(why) => return Ok(Err(why)),
        };
        let part = |value: &mut Value, key| value.get_mut(key).map(Value::take).unwrap_or_default();
        all.extend(serde_json::from_value::<Vec<T>>(part(&mut value, key))?);
        after = serde_json::from_value(part(&mut value, "next"))?;
        if after.is_none() {
            return Ok(Ok(all));
        }
    }
}

fn answer<T>(
    args: &Args,
    told: Told<T>,
    err: &mut impl Write,
    print: impl FnOnce(&T) -> io::Result<()>,
) -> io::Result<u8> {
    match told {
        Ok(Ok(value)) => {
            print(&value)?;
            Ok(0)
        }
        Ok(Err(why)) => {
            writeln!(err, "error: {}", harmless(&why))?;
            Ok(1)
        }
        Err(error) => {
            writeln!(err, "error: {}", super::unreachable(&args.socket, &error))?;
            Ok(1)
        }
    }
}

fn print_bans(bans: &[BanAnswer], out: &mut impl Write) -> io::Result<()> {
    let rows = bans.iter().map(|ban| {
        let target = ban.target.parse();
        let target = target.map_or_else(|error| error.to_string(), |target| target.to_string());
        let by = match ban.by {
            By::Flapping => "by itself".to_owned(),
            By::Operator(None) => "by an operator".to_owned(),
            By::Operator(Some(uid)) => format!("by user {uid}"),
        };
        let until = ban.until.as_ref().map_or("for ever".to_owned(), |at| format!("until {at}"));
        [ban.ban.0.to_string(), target, until, by, ban.why.clone()]
    });
    table(rows.collect(), out)
}

fn print_devices(devices: &[DeviceAnswer], out: &mut impl Write) -> io::Result<()> {
    let rows = devices.iter().map(|device| {
        let issuers = match device.issuers.as_slice() {
            [] => "any authority".to_owned(),
            issuers => issuers.join(" "),
        };
        let since = format!("since {}", device.changed_at);
        [device.device.clone(), device.state.to_string(), since, issuers]
    });
    table(rows.collect(), out)
}

/// Columns of even width, in which nothing acts on the terminal. A name with a line break stays in
/// its line.
fn table<const N: usize>(rows: Vec<[String; N]>, out: &mut impl Write) -> io::Result<()> {
    let plain = |cell: String| harmless(&cell).replace('\n', "\\n").replace('\t', "\\t");
    let rows: Vec<_> = rows.into_iter().map(|row| row.map(plain)).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::run_against;

    #[test]
    fn nothing_in_a_name_acts_on_the_terminal_or_makes_a_line() {
        let answer = "{\"done\":{\"bans\":[{\"ban\":7,\"target\":{\"client_id\":\"a\\n\u{9b}31m\"},\
             \"since\":\"2026-01-01T00:00:00Z\",\"until\":null,\"why\":\"\\u001b[2J\",\
             \"by\":{\"operator\":0}}],\"next\":null}}\n";
        let (code, out, err, sent) = run_against(answer.as_bytes(), &["ban", "list"]);
        assert_eq!((code, err.as_str()), (0, ""));
        assert_eq!(out, "7  client id a\\n\\u{9b}31m  for ever  by user 0  \\u{1b}[2J\n");
        assert_eq!(sent, "{\"verb\":\"ban\",\"ban\":{\"list\":{}}}\n");
        let answer = "{\"done\":{\"device\":\"Device::\\u202ea\",\"state\":\"suspended\",\
             \"issuers\":[],\"certificate\":null,\"registered_at\":\"x\",\"changed_at\":\"y\"}}\n";
        let (code, out, _, sent) = run_against(answer.as_bytes(), &["device", "suspend", "a"]);
        let shown = "Device::\\u{202e}a  suspended  since y  any authority\n";
        assert_eq!((code, out.as_str()), (0, shown));
        assert_eq!(sent, "{\"verb\":\"device\",\"device\":{\"suspend\":{\"device\":\"a\"}}}\n");
    }

    #[test]
    fn what_names_nobody_is_not_asked() {
        let long = "x".repeat(300);
        for (line, why) in [
            (&["ban", "add"][..], "a ban names a principal"),
            (&["ban", "add", "--principal", "Robot::x"], "\"Robot::x\" names no principal"),
            (&["ban", "add", "--address", "10.0.0.1/8"], "write 10.0.0.0/8"),
            (&["ban", "add", "--address", "0.0.0.0/0"], "is everybody"),
            (&["ban", "add", "--certificate", "ab"], "64 hexadecimal digits"),
            (&["ban", "add", "--client-id", "a", "--why", &long], "at most 256 bytes"),
            (&["ban", "remove"], "a ban names"),
            (&["ban", "remove", "7", "--client-id", "a"], "a ban names"),
            (&["device", "suspend", "Robot::x"], "names no principal"),
            (&["device", "revoke", ""], "1 to 1024 bytes"),
        ] {
            let line = [&["--socket", "/nonexistent"], line].concat();
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let args = super::super::tests::args(&line).unwrap();
            assert_eq!(super::super::run(&args, &mut out, &mut err).unwrap(), 2, "{line:?}");
            let err = String::from_utf8(err).unwrap();
            assert!(err.contains(why), "{err}");
        }
    }
}
