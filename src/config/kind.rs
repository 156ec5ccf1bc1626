//! The kinds of value a key can have: what each takes, its bounds, and how it is shown.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;

use super::file::Value;
use crate::suggest::nearest;

/// Why a value is refused. The key and the place are the caller's.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) message: String,
    /// `None` stands for "write what the kind expects".
    pub(super) remedy: Option<String>,
}

impl Wrong {
    pub(super) fn because(message: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: None }
    }

    pub(super) fn noun(value: &Value) -> Self {
        Self::because(format!("is {}", value.noun()))
    }
}

/// A kind of value.
pub(super) trait Kind {
    /// What a value becomes.
    type Meant;
    /// Parses a typed value.
    fn parse(&self, value: &Value) -> Result<Self::Meant, Wrong>;
    /// Shows a value in TOML's notation.
    fn show(&self, meant: &Self::Meant) -> String;
    /// What to write, for the remedy.
    fn expects(&self) -> String;
    /// The paths that a value names, so that none is forgotten by who has to know them all.
    fn paths(&self, _meant: &Self::Meant) -> Vec<PathBuf> {
        Vec::new()
    }
}

/// `true` or `false`.
pub(super) struct Flag;

impl Kind for Flag {
    type Meant = bool;

    fn parse(&self, value: &Value) -> Result<bool, Wrong> {
        match value {
            Value::Boolean(flag) => Ok(*flag),
            other => Err(Wrong::noun(other)),
        }
    }

    fn show(&self, meant: &bool) -> String {
        meant.to_string()
    }

    fn expects(&self) -> String {
        "true or false".into()
    }
}

/// One of a closed set of words.
pub(super) struct Word<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T: Copy + PartialEq> Kind for Word<T> {
    type Meant = T;

    fn parse(&self, value: &Value) -> Result<T, Wrong> {
        let Value::Text(text) = value else { return Err(Wrong::noun(value)) };
        if let Some((_, meant)) = self.0.iter().find(|(word, _)| word == text) {
            return Ok(*meant);
        }
        let remedy = nearest(text, self.0.iter().map(|(word, _)| *word))
            .map(|word| format!("did you mean \"{word}\"?"));
        Err(Wrong { message: format!("is {text:?}"), remedy })
    }

    fn show(&self, meant: &T) -> String {
        let word = self.0.iter().find(|(_, known)| known == meant);
        quoted(word.map_or("", |(word, _)| word))
    }

    fn expects(&self) -> String {
        let words: Vec<String> = self.0.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        format!("one of {}", words.join(", "))
    }
}

/// Text of bounded length, without control characters.
pub(super) struct Text {
    pub(super) bytes_max: usize,
    pub(super) expects: &'static str,
}

impl Kind for Text {
    type Meant = String;

    fn parse(&self, value: &Value) -> Result<String, Wrong> {
        let Value::Text(text) = value else { return Err(Wrong::noun(value)) };
        if text.is_empty() {
            Err(Wrong::because("is empty"))
        } else if text.len() > self.bytes_max {
            Err(Wrong::because(format!("is longer than {} bytes", self.bytes_max)))
        } else if text.chars().any(char::is_control) {
            Err(Wrong::because("holds a control character"))
        } else {
            Ok(text.clone())
        }
    }

    fn show(&self, meant: &String) -> String {
        quoted(meant)
    }

    fn expects(&self) -> String {
        self.expects.into()
    }
}

/// The longest path that Linux takes, in bytes.
const PATH_BYTES_MAX: usize = 4096;

/// A path, made absolute by the folder of the configuration file.
pub(super) struct Location {
    pub(super) folder: PathBuf,
}

impl Kind for Location {
    type Meant = PathBuf;

    fn parse(&self, value: &Value) -> Result<PathBuf, Wrong> {
        let text = Text { bytes_max: PATH_BYTES_MAX, expects: "" }.parse(value)?;
        Ok(self.folder.join(text))
    }

    fn show(&self, meant: &PathBuf) -> String {
        quoted(&meant.to_string_lossy())
    }

    fn expects(&self) -> String {
        "a path, relative to the folder of this file".into()
    }

    fn paths(&self, meant: &PathBuf) -> Vec<PathBuf> {
        vec![meant.clone()]
    }
}

/// Text that the standard library or `ipnet` parses.
pub(super) struct Parsed<T> {
    parse: fn(&str) -> Result<T, Wrong>,
    expects: &'static str,
}

impl<T: Display> Kind for Parsed<T> {
    type Meant = T;

    fn parse(&self, value: &Value) -> Result<T, Wrong> {
        let Value::Text(text) = value else { return Err(Wrong::noun(value)) };
        (self.parse)(text)
    }

    fn show(&self, meant: &T) -> String {
        quoted(&meant.to_string())
    }

    fn expects(&self) -> String {
        self.expects.into()
    }
}

/// An address and a port.
pub(super) fn address() -> Parsed<SocketAddr> {
    Parsed {
        parse: |text| {
            text.parse()
                .map_err(|_| Wrong::because(format!("is {text:?}, not an address and a port")))
        },
        expects: "an IP address and a port, such as \"127.0.0.1:8883\" or \"[::]:8883\"",
    }
}

/// A network, or one address.
pub(super) fn network() -> Parsed<IpNet> {
    Parsed {
        parse: |text| {
            let network = IpNet::from_str(text)
                .or_else(|_| IpAddr::from_str(text).map(IpNet::from))
                .map_err(|_| Wrong::because(format!("holds {text:?}, which is no network")))?;
            if network.trunc() == network {
                return Ok(network);
            }
            Err(Wrong {
                message: format!("holds {text:?}, an address inside a network"),
                remedy: Some(format!("did you mean \"{}\"?", network.trunc())),
            })
        },
        expects: "networks such as \"10.0.0.0/8\" or \"2001:db8::/32\"",
    }
}

/// A value of the `Origin` header.
pub(super) fn origin() -> Parsed<String> {
    Parsed {
        parse: |text| {
            let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
            let well_formed = host.is_some_and(|host| {
                !host.is_empty() && host.bytes().all(|byte| {
                    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b':' | b'[' | b']')
                })
            });
            if well_formed || text == "*" {
                return Ok(text.to_owned());
            }
            Err(Wrong::because(format!("holds {text:?}, which no browser sends as Origin")))
        },
        expects: "origins in lower case such as \"https://example.com\", without a path, or \"*\" for every page",
    }
}

/// The longest list.
const LIST_ITEMS_MAX: usize = 1024;

/// A list of values of one kind.
pub(super) struct List<K> {
    each: K,
    empty: Option<&'static str>,
}

/// A list that may be empty.
pub(super) fn list<K>(each: K) -> List<K> {
    List { each, empty: None }
}

/// A list that may not be empty, and what to do instead.
pub(super) fn list_not_empty<K>(each: K, instead: &'static str) -> List<K> {
    List { each, empty: Some(instead) }
}

impl<K: Kind> Kind for List<K> {
    type Meant = Vec<K::Meant>;

    fn parse(&self, value: &Value) -> Result<Vec<K::Meant>, Wrong> {
        let Value::List(items) = value else { return Err(Wrong::noun(value)) };
        if let (Some(instead), true) = (self.empty, items.is_empty()) {
            return Err(Wrong { message: "is empty".into(), remedy: Some(instead.into()) });
        }
        if items.len() > LIST_ITEMS_MAX {
            return Err(Wrong::because(format!("has more than {LIST_ITEMS_MAX} items")));
        }
        items.iter().map(|item| self.each.parse(item)).collect()
    }

    fn show(&self, meant: &Vec<K::Meant>) -> String {
        let items: Vec<String> = meant.iter().map(|item| self.each.show(item)).collect();
        format!("[{}]", items.join(", "))
    }

    fn expects(&self) -> String {
        format!("a list of {}", self.each.expects())
    }

    fn paths(&self, meant: &Vec<K::Meant>) -> Vec<PathBuf> {
        meant.iter().flat_map(|item| self.each.paths(item)).collect()
    }
}

/// Text in TOML's quotes.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
