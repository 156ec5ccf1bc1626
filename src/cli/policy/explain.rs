//! `portcullis policy explain`.

use std::path::PathBuf;

use super::drawn;
use crate::cli::{Failure, may_colour, misuse, put};
use crate::policy::{Bundle, PolicyEpoch, Question, Words};

/// Says what the policies answer to a question, and why. Exits with 0 whatever the answer is.
#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    /// The folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Who asks: type and name, such as `Device::dev1`
    principal: String,
    /// connect, publish, subscribe, receive, or enroll
    action: String,
    /// The topic; of subscribe the filter, of connect the name of the listener, of enroll that of the
    /// profile
    resource: String,
    /// A fact, such as qos=1; without it an ordinary value is taken. May be given several times
    #[arg(long = "fact", value_name = "NAME=VALUE", value_parser = crate::cli::fact)]
    facts: Vec<(String, String)>,
    /// A group that the principal is in. May be given several times
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// Prints the explanation as JSON
    #[arg(long)]
    json: bool,
}

impl ExplainArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let question = Question::parse(&Words {
            principal: &self.principal,
            groups: self.groups.iter().map(String::as_str).collect(),
            action: &self.action,
            resource: &self.resource,
            facts: self.facts.iter().map(|(name, value)| (&**name, &**value)).collect(),
        });
        let question = question.unwrap_or_else(|error| misuse(&error));
        // A set whose cases fail has to be explained, too.
        let bundle = Bundle::load_dir_untested(&self.folder, PolicyEpoch(1))
            .map_err(|error| drawn(&error))?;
        if let Some(error) = question.undeclared_group(&bundle) {
            misuse(&error);
        }
        let explanation = question.explain(&bundle)?;
        if self.json {
            put(&(serde_json::to_string(&explanation)? + "\n"))
        } else {
            put(&explanation.draw(may_colour(&std::io::stdout())))
        }
    }
}
