//! Policies as a large installation has them: most concern groups that the clients of the
//! benchmark are not in.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

/// Policies in one file: within the bound of a file's size.
const POLICIES_PER_FILE: usize = 10_000;

/// Writes `text` and `count` policies for others into a folder, with the groups they name and
/// the group `operators`.
pub(crate) fn write(folder: &Path, text: &str, count: usize) -> io::Result<()> {
    let mut principals = String::from("[group.operators]\n");
    let mut text = text.to_owned();
    let mut files = 0;
    for number in 0..count {
        let _ = writeln!(principals, "[group.g{number}]");
        let principal = format!("principal in Group::\"g{number}\"");
        let _ = match number % 10 {
            9 => writeln!(
                text,
                "@id(\"p{number}\") forbid({principal}, action == Action::\"publish\", resource in \
                 TopicFilter::\"site{number}/+/secret/#\") unless {{ principal in \
                 Group::\"operators\" }};"
            ),
            0..6 => writeln!(
                text,
                "@id(\"p{number}\") permit({principal}, action == Action::\"publish\", resource in \
                 TopicFilter::\"site{number}/+/temp/#\") when {{ context.qos <= 1 }};"
            ),
            _ => writeln!(
                text,
                "@id(\"p{number}\") permit({principal}, action in Action::\"read\", resource in \
                 TopicFilter::\"site{number}/#\");"
            ),
        };
        if (number + 1) % POLICIES_PER_FILE == 0 {
            std::fs::write(folder.join(format!("{files}.cedar")), &text)?;
            text.clear();
            files += 1;
        }
    }
    if !text.is_empty() {
        std::fs::write(folder.join(format!("{files}.cedar")), &text)?;
    }
    std::fs::write(folder.join("principals.toml"), principals)
}
