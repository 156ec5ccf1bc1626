//! The demonstration: two devices, one permitted message, two refusals and their audit records.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Failure;
use super::client::{Client, Credentials};
use crate::mqtt::ReasonCode;

/// How long an audit record may take to reach the file.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Where things are that the demonstration looks at.
pub(super) struct Places {
    /// Read before the broker is confined to its own files, which these are not.
    pub(super) devices: [Credentials; 2],
    pub(super) policies: PathBuf,
    pub(super) audit: PathBuf,
}

/// Shows it, step by step, on standard output.
pub(super) fn show(places: &Places, address: SocketAddr) -> Result<(), Failure> {
    let [first, second] = &places.devices;
    say!("\nA demonstration with two devices, each with its own certificate:\n");
    let mut dev1 = Client::connect(first, address, "dev1")?;
    let mut dev2 = Client::connect(second, address, "dev2")?;
    passed("dev1 and dev2 connect over mutual TLS 1.3");

    let subscribed = dev1.subscribe("devices/dev1/#")?;
    expect("dev1 subscribes to devices/dev1/#", subscribed, ReasonCode::GrantedQos1)?;
    let published = dev1.publish("devices/dev1/temperature", "21.5")?;
    expect("dev1 publishes to devices/dev1/temperature", published, ReasonCode::Success)?;
    let message = dev1.message()?;
    if message.topic != "devices/dev1/temperature" || message.payload != b"21.5" {
        return Err(Failure(format!("dev1 got another message, on {}", message.topic)));
    }
    passed("dev1 receives it");

    let published = dev2.publish("devices/dev1/temperature", "99")?;
    expect("dev2 publishes to devices/dev1/temperature", published, ReasonCode::NotAuthorized)?;
    show_refusal(places, "dev2", "publish", "devices/dev1/temperature")?;
    let published = dev1.publish("devices/dev1/command/reboot", "now")?;
    expect("dev1 sends itself a command", published, ReasonCode::NotAuthorized)?;
    show_refusal(places, "dev1", "publish", "devices/dev1/command/reboot")?;
    let subscribed = dev2.subscribe("devices/#")?;
    expect("dev2 subscribes to devices/#", subscribed, ReasonCode::NotAuthorized)?;
    show_refusal(places, "dev2", "subscribe", "devices/#")?;
    say!("\nThe demonstration passed.");
    Ok(())
}

fn expect(what: &str, got: ReasonCode, wanted: ReasonCode) -> Result<(), Failure> {
    if got != wanted {
        return Err(Failure(format!("{what}: the answer is {got}, not {wanted}")));
    }
    let verdict = if got.is_error() { "refused" } else { "permitted" };
    passed(&format!("{what}: {verdict} ({got})"));
    Ok(())
}

fn passed(what: &str) {
    say!("  ok  {what}");
}

/// Shows what the audit log says of a refusal, and the command that says why.
fn show_refusal(places: &Places, client_id: &str, verb: &str, target: &str) -> Result<(), Failure> {
    show_record(&places.audit, client_id, verb, target)?;
    let policies = shell_word(&places.policies.to_string_lossy());
    let target = shell_word(target);
    say!(
        "      why: portcullis policy explain {policies} Device::{client_id} {verb} {target} \
         --fact qos=1"
    );
    Ok(())
}

/// A text as one word of a shell.
fn shell_word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    if text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Finds the newest record of a denial in the audit log and shows what it says.
fn show_record(audit: &Path, client_id: &str, verb: &str, target: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(record) = find_record(audit, client_id, verb, target)? {
            let policies: Vec<_> = record
                .get("policies")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let policies = if policies.is_empty() {
                "no policy permits it".to_owned()
            } else {
                format!("forbidden by {}", policies.join(", "))
            };
            let number = record.get("seq").unwrap_or(&Value::Null);
            say!("      audit record {number}: {policies}");
            return Ok(());
        }
        if Instant::now() >= deadline {
            let path = audit.display();
            return Err(Failure(format!("{path} has no record of {client_id}'s denied {verb}")));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn find_record(
    audit: &Path,
    client_id: &str,
    verb: &str,
    target: &str,
) -> Result<Option<Value>, Failure> {
    let mut found = None;
    for line in BufReader::new(std::fs::File::open(audit)?).lines() {
        let Ok(record) = serde_json::from_str::<Value>(&line?) else { continue };
        let says = |field: &str, text: &str| record.get(field).is_some_and(|value| value == text);
        if says("event", "denied")
            && says("client_id", client_id)
            && says("verb", verb)
            && (says("topic", target) || says("filter", target))
        {
            found = Some(record);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::shell_word;

    #[test]
    fn a_word_stays_one_word_in_a_shell() {
        for (text, word) in [
            ("devices/dev1/t", "devices/dev1/t"),
            ("devices/#", "'devices/#'"),
            ("my folder/$HOME", "'my folder/$HOME'"),
            ("it's", "'it'\\''s'"),
        ] {
            assert_eq!(shell_word(text), word);
        }
    }
}
