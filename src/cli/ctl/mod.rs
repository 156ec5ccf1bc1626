//! `portcullis ctl`: a word with the running broker.

mod registered;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::admin::control::{Command, Request, Response, SessionAnswer, SessionQuestion};
use crate::harmless::harmless;
use crate::policy::{Question, QuestionError, Words};

/// For sending the request.
const SEND_DEADLINE: Duration = Duration::from_secs(5);
/// For the answer: a reload compiles every policy.
const ANSWER_DEADLINE: Duration = Duration::from_mins(2);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// Ask or tell a running broker.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The broker's control socket
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// Print the answer as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to ask or tell
    #[command(subcommand)]
    pub verb: Verb,
}

/// What a running broker can be asked or told.
#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Verb {
    /// How it is
    Status,
    /// To load configuration, policies and certificates again
    Reload,
    /// What the policies in force answer to a question of a client's session, and why
    Explain(ExplainArgs),
    /// Who is banned, and who is not any more
    #[command(subcommand)]
    Ban(registered::BanVerb),
    /// Which devices are known, and what they may do
    #[command(subcommand)]
    Device(registered::DeviceVerb),
}

/// A question of a session; who asks, and the facts of the connection, are the session's.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct ExplainArgs {
    /// The session's client id
    pub client_id: String,
    /// connect, publish, subscribe or receive
    pub action: String,
    /// The topic; of subscribe the filter, of connect the name of the listener
    pub resource: String,
    /// A fact of the packet, such as qos=1; without it an ordinary value is taken. May be given
    /// several times
    #[arg(long = "fact", value_name = "NAME=VALUE", value_parser = super::fact)]
    pub facts: Vec<(String, String)>,
}

impl From<&ExplainArgs> for Command {
    fn from(args: &ExplainArgs) -> Self {
        let ExplainArgs { client_id, action, resource, facts } = args.clone();
        Self::Explain(SessionQuestion { client_id, action, resource, facts })
    }
}

/// Calls the broker. Data goes to `out`, words to `err`; returns the exit code: 0 when it was
/// done, 1 when it was not, 2 when it was no question.
///
/// # Errors
/// When `out` or `err` cannot be written.
pub fn run(args: &Args, out: &mut impl Write, err: &mut impl Write) -> io::Result<u8> {
    if let Verb::Explain(question) = &args.verb
        && let Err(error) = question.check()
    {
        writeln!(err, "error: {}; {}", harmless(&error.message), harmless(&error.remedy))?;
        return Ok(2);
    }
    let command = match &args.verb {
        Verb::Status => Command::Status,
        Verb::Reload => Command::Reload,
        Verb::Explain(question) => question.into(),
        Verb::Ban(verb) => return registered::ban(args, verb, out, err),
        Verb::Device(verb) => return registered::device(args, verb, out, err),
    };
    match call(&args.socket, command) {
        Ok(Response::Done(result)) => {
            if args.json {
                writeln!(out, "{result}")?;
            } else if let Verb::Explain(_) = &args.verb {
                let answer: SessionAnswer = serde_json::from_value(result)?;
                print_answer(&answer, out)?;
            } else {
                print(&result, out)?;
            }
            Ok(0)
        }
        Ok(Response::Failed(why)) => {
            if args.json {
                writeln!(out, "{}", serde_json::json!({ "failed": why }))?;
            }
            writeln!(err, "error: {}", harmless(&why))?;
            Ok(1)
        }
        Err(error) => {
            writeln!(err, "error: {}", unreachable(&args.socket, &error))?;
            Ok(1)
        }
    }
}

impl ExplainArgs {
    /// Whether the broker would take it for a question, whoever's session it is.
    fn check(&self) -> Result<(), QuestionError> {
        let facts = self.facts.iter().map(|(name, value)| (&**name, &**value)).collect();
        let (action, resource) = (&*self.action, &*self.resource);
        let words = Words { action, resource, facts, ..Words::default() };
        let anybody = Words { principal: "Device::anybody", facts: Vec::new(), ..words.clone() };
        let Question { identity, session, .. } = Question::parse(&anybody)?;
        Question::of_session(identity, session, &words, SystemTime::UNIX_EPOCH).map(drop)
    }
}

/// Why the broker could not be asked.
fn unreachable(socket: &Path, error: &io::Error) -> String {
    let question = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "; is the broker running, with control.socket?"
        }
        _ => "",
    };
    format!("{}: {error}{question}", harmless(&socket.to_string_lossy()))
}

/// Has a running broker carry out a command.
pub(super) fn call(socket: &Path, command: Command) -> io::Result<Response> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(SEND_DEADLINE))?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
    let mut request = serde_json::to_vec(&Request::from(command))?;
    request.push(b'\n');
    // A broker that refuses this user answers without reading; the answer says more than the
    // failed write.
    let sent = stream.write_all(&request);
    let mut line = Vec::new();
    let received = BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_until(b'\n', &mut line);
    if line.is_empty() {
        sent.and(received)?;
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the broker did not answer"));
    }
    serde_json::from_slice(&line).map_err(io::Error::from)
}

/// Whose session it is, and the explanation.
fn print_answer(answer: &SessionAnswer, out: &mut impl Write) -> io::Result<()> {
    let tls = match answer.tls_version {
        0 => "without TLS".to_owned(),
        version => format!("over TLS {}.{}", version / 10, version % 10),
    };
    let connected =
        if answer.connected { "connected" } else { "not connected, judged by its last connection" };
    writeln!(
        out,
        "client {:?}: {connected}: listener {}, from {}, {tls}, MQTT protocol {}\n",
        answer.client_id, answer.listener, answer.source_ip, answer.protocol_version
    )?;
    out.write_all(answer.explanation.draw(super::may_colour(&io::stdout())).as_bytes())
}

/// An object as one line for each of its fields, anything else as JSON.
fn print(result: &Value, out: &mut impl Write) -> io::Result<()> {
    let Value::Object(fields) = result else {
        return if result.is_null() { Ok(()) } else { writeln!(out, "{}", plain(result)) };
    };
    let width = fields.keys().map(String::len).max().unwrap_or(0);
    for (name, value) in fields {
        writeln!(out, "{:width$}  {}", harmless(name), plain(value))?;
    }
    Ok(())
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => harmless(text),
        other => harmless(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    pub(super) fn args(line: &[&str]) -> Result<Args, clap::Error> {
        Line::try_parse_from([&["ctl"], line].concat()).map(|line| line.args)
    }

    /// Runs against a broker that sends these bytes; returns the exit code, what was printed,
    /// and what the broker was sent.
    pub(super) fn run_against(
        answer: &'static [u8],
        flags: &[&str],
    ) -> (u8, String, String, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let broker = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            stream.write_all(answer).unwrap();
            request
        });
        let line = [&["--socket", path.to_str().unwrap()], flags].concat();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(&args(&line).unwrap(), &mut out, &mut err).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (code, text(out), text(err), broker.join().unwrap())
    }

    #[test]
    fn status_is_a_table_or_json() {
        let answer = b"{\"done\":{\"epoch\":7,\"policy_hash\":\"c0ffee\"}}\n";
        let (code, out, err, sent) = run_against(answer, &["status"]);
        assert_eq!((code, err.as_str()), (0, ""));
        assert_eq!(out, "epoch        7\npolicy_hash  c0ffee\n");
        assert_eq!(sent, "{\"verb\":\"status\"}\n");
        let (code, out, ..) = run_against(answer, &["status", "--json"]);
        assert_eq!((code, out.as_str()), (0, "{\"epoch\":7,\"policy_hash\":\"c0ffee\"}\n"));
    }

    #[test]
    fn a_reload_that_failed_exits_with_one() {
        let answer = b"{\"failed\":\"policies/a.cedar:3\\nunexpected `;`\"}\n";
        let (code, out, err, sent) = run_against(answer, &["reload"]);
        assert_eq!((code, out.as_str()), (1, ""));
        assert_eq!(err, "error: policies/a.cedar:3\nunexpected `;`\n");
        assert_eq!(sent, "{\"verb\":\"reload\"}\n");
        let (code, out, ..) = run_against(answer, &["--json", "reload"]);
        let json = "{\"failed\":\"policies/a.cedar:3\\nunexpected `;`\"}\n";
        assert_eq!((code, out.as_str()), (1, json));
    }

    #[test]
    fn an_answer_that_is_none_is_a_failure() {
        for answer in [&b""[..], b"\n", b"{}\n", b"{\"done\":", b"HTTP/1.1 400\r\n"] {
            let (code, out, err, _) = run_against(answer, &["reload"]);
            assert_eq!((code, out.as_str()), (1, ""));
            assert!(err.starts_with("error: "), "{err}");
        }
    }

    #[test]
    fn nothing_that_is_printed_acts_on_the_terminal() {
        let answer = "{\"failed\":\"\\u001b[2J\u{9b}31m\u{202e}\\r\"}\n".as_bytes();
        let (_, _, err, _) = run_against(answer, &["status"]);
        assert_eq!(err, "error: \\u{1b}[2J\\u{9b}31m\\u{202e}\\u{d}\n");
        let answer = "{\"done\":{\"a\":\"\u{9b}\",\"b\":[\"\u{2028}\"]}}\n".as_bytes();
        let (_, out, ..) = run_against(answer, &["status"]);
        assert_eq!(out, "a  \\u{9b}\nb  [\"\\u{2028}\"]\n");
    }

    #[test]
    fn a_broker_that_is_not_there_is_a_failure() {
        let args = args(&["--socket", "/nonexistent/control.sock", "status"]).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(run(&args, &mut out, &mut err).unwrap(), 1);
        assert!(out.is_empty());
        assert!(err.starts_with(b"error: /nonexistent/control.sock: "));
        assert!(err.ends_with(b"; is the broker running, with control.socket?\n"));
    }

    #[test]
    fn misuse_is_told_apart_from_failure() {
        for line in [
            &["status"][..],
            &["--socket", "/s"],
            &["--socket", "/s", "shutdown"],
            &["--socket", "/s", "reload", "/etc/passwd"],
            &["--socket", "/s", "explain", "dev1", "publish"],
            &["--socket", "/s", "explain", "dev1", "publish", "a", "--fact", "qos"],
        ] {
            assert_eq!(args(line).unwrap_err().exit_code(), 2, "{line:?}");
        }
    }

    #[test]
    fn what_is_no_question_is_not_asked() {
        for (question, why) in [
            (
                &["dev1", "pubish", "a"][..],
                "error: \"pubish\" is no action; did you mean publish?\n",
            ),
            (
                &["dev1", "publish", "a/#"],
                "error: \"a/#\" is no topic name: a topic name holds a wildcard; correct it\n",
            ),
            (
                &["dev1", "publish", "a", "--fact", "source_ip=10.0.0.1"],
                "error: source_ip is a fact of the session, and is what it is there; remove it; \
                 `portcullis policy explain` answers for any session\n",
            ),
        ] {
            let line = [&["--socket", "/nonexistent", "explain"], question].concat();
            let (mut out, mut err) = (Vec::new(), Vec::new());
            assert_eq!(run(&args(&line).unwrap(), &mut out, &mut err).unwrap(), 2);
            assert_eq!(String::from_utf8(err).unwrap(), why);
        }
    }

    #[tokio::test]
    async fn the_broker_and_its_caller_understand_each_other() {
        use crate::admin::control::{Control, ControlHandle, Settings};
        use crate::audit::AuditLog;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/control.sock");
        let handle = ControlHandle::new(|command| async move {
            match command {
                Command::Status => Response::Done(serde_json::json!({ "ready": true })),
                Command::Reload => Response::Failed("no".to_owned()),
                Command::Explain(question) => Response::Failed(question.client_id),
                Command::Revocations { about } => Response::Done(about.into()),
                _ => Response::Failed("there is no store".to_owned()),
            }
        });
        let (uids, authority_uids) = (Vec::new(), Vec::new());
        let settings = Settings { path: path.clone(), uids, authority_uids };
        let audit = AuditLog::to_writer(io::sink()).unwrap();
        let control = Control::bind(settings, handle, audit).unwrap();
        let broker = tokio::spawn(control.serve(std::sync::Arc::default()));
        for (verb, answer) in
            [("status", (0, "ready  true\n", "")), ("reload", (1, "", "error: no\n"))]
        {
            let args = args(&["--socket", path.to_str().unwrap(), verb]).unwrap();
            let (code, out, err) = tokio::task::spawn_blocking(move || {
                let (mut out, mut err) = (Vec::new(), Vec::new());
                let code = run(&args, &mut out, &mut err).unwrap();
                (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
            })
            .await
            .unwrap();
            assert_eq!((code, out.as_str(), err.as_str()), answer);
        }
        broker.abort();
    }
}
