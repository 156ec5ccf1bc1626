//! The configuration as typed: a tree of values, each with its place in the file or in an
//! override. Nothing is judged here but TOML itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use miette::NamedSource;
use toml::de::{DeTable, DeValue};

use super::error::{Excerpt, Problem};

/// The largest configuration file, in bytes: a thousand listeners fit.
pub(super) const FILE_BYTES_MAX: usize = 1 << 20;
/// The deepest key of an override.
const OVERRIDE_LEVELS_MAX: usize = 8;

/// Where something was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    text: usize,
    span: Range<usize>,
}

/// A typed value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i128),
    Boolean(bool),
    List(Vec<Value>),
    Table(Table),
    /// What no key takes: a date, or a number that is no integer.
    Other(&'static str),
}

impl Value {
    /// What it is, for messages.
    pub(super) fn noun(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(noun) => noun,
        }
    }
}

/// The keys of one table.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) entries: BTreeMap<String, Entry>,
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key_place: Place,
    pub(super) place: Place,
    pub(super) value: Value,
}

/// The texts that places point into: the file, then the overrides.
#[derive(Clone, Debug)]
pub(super) struct Texts {
    texts: Vec<Arc<NamedSource<String>>>,
}

impl Texts {
    /// The line of a place in the file; `None` for a place in an override.
    pub(super) fn line_in_file(&self, place: &Place) -> Option<u32> {
        (place.text == 0).then(|| self.line_and_column(place).0)
    }

    /// The name of the file.
    pub(super) fn file_name(&self) -> &str {
        self.texts.first().map_or("", |text| text.name())
    }

    /// A problem at a place, or with the file as a whole.
    pub(super) fn problem(
        &self,
        place: Option<&Place>,
        key: &str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Problem {
        let excerpt = place.and_then(|place| {
            let source = Arc::clone(self.texts.get(place.text)?);
            Some(Excerpt { text: place.text, source, span: place.span.clone() })
        });
        Problem {
            source: excerpt
                .as_ref()
                .map_or(self.file_name(), |excerpt| excerpt.source.name())
                .to_owned(),
            line_and_column: place.map(|place| self.line_and_column(place)),
            key: key.to_owned(),
            message: message.into(),
            remedy: remedy.into(),
            excerpt,
        }
    }

    fn line_and_column(&self, place: &Place) -> (u32, u32) {
        let text = self.texts.get(place.text).map_or("", |text| text.inner().as_str());
        let before = text.get(..place.span.start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
        let column = before.get(line_start..).unwrap_or("").chars().count() + 1;
        (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
    }
}

/// A configuration as typed.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) texts: Texts,
    pub(super) root: Table,
}

impl File {
    /// Parses the text of a file and lays overrides (`key=value`) over it, later over earlier.
    ///
    /// # Errors
    /// What is no TOML, and overrides that are no `key=value` or cross a value that is no table.
    pub(super) fn parse(
        name: &str,
        text: &str,
        overrides: &[String],
    ) -> Result<Self, Vec<Problem>> {
        let mut texts = Texts { texts: vec![Arc::new(NamedSource::new(name, drawable(text)))] };
        let (document, errors) = DeTable::parse_recoverable(text);
        let mut problems: Vec<Problem> = errors
            .iter()
            .map(|error| {
                let place = error.span().map(|span| Place { text: 0, span });
                let again = error.message() == "duplicate key";
                let remedy = place
                    .as_ref()
                    .filter(|_| again)
                    .and_then(|place| remedy_of_second_table(text, place.span.start))
                    .unwrap_or_else(|| "correct the TOML, see https://toml.io".to_owned());
                texts.problem(place.as_ref(), "", drawable(error.message()), remedy)
            })
            .collect();
        let mut root = table(document.get_ref(), 0, None);
        for (index, typed) in overrides.iter().enumerate() {
            texts.texts.push(Arc::new(NamedSource::new("--set", drawable(typed))));
            problems.extend(
                lay_over(&mut root, &texts, index + 1, typed).err().map(|problem| *problem),
            );
        }
        if problems.is_empty() { Ok(Self { texts, root }) } else { Err(problems) }
    }
}

/// What to do about the table whose header, with a fault at byte `at`, stands a second time.
fn remedy_of_second_table(text: &str, at: usize) -> Option<String> {
    let header = |line: &str| {
        let line = line.split('#').next().unwrap_or_default();
        let header: String = line.chars().filter(|character| !character.is_whitespace()).collect();
        (header.starts_with('[') && header.ends_with(']')).then_some(header)
    };
    let before = text.get(..at)?;
    let line = before.bytes().filter(|&byte| byte == b'\n').count();
    let second = text.lines().nth(line).and_then(header)?;
    let first = text.lines().take(line).position(|line| header(line).as_ref() == Some(&second));
    Some(match first {
        Some(first) => {
            format!("it is there already, in line {}; put the keys under the first one", first + 1)
        }
        None => "it is there already; put the keys under the first one".to_owned(),
    })
}

/// The text for excerpts: without what a terminal would obey, and of the same length.
fn drawable(text: &str) -> String {
    let mut drawable = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && !matches!(character, '\n' | '\t') {
            drawable.extend(std::iter::repeat_n('?', character.len_utf8()));
        } else {
            drawable.push(character);
        }
    }
    drawable
}

/// Puts one override into the tree, making the tables on its way.
fn lay_over(root: &mut Table, texts: &Texts, text: usize, typed: &str) -> Result<(), Box<Problem>> {
    let whole = Place { text, span: 0..typed.len() };
    let Some((path, typed_value)) = typed.split_once('=') else {
        return Err(Box::new(texts.problem(
            Some(&whole),
            "",
            "has no \"=\"",
            "write --set key=value, such as --set broker.drain=5s",
        )));
    };
    let key_place = Place { text, span: 0..path.len() };
    let path = path.trim();
    let keys: Vec<&str> = path.split('.').collect();
    let well_formed = |key: &&str| !key.is_empty() && key.bytes().all(is_bare_key_byte);
    if keys.len() > OVERRIDE_LEVELS_MAX || !keys.iter().all(well_formed) {
        return Err(Box::new(texts.problem(
            Some(&key_place),
            path,
            "is not a key",
            "write names joined by dots, such as listener.NAME.address",
        )));
    }
    let place = Place { text, span: typed.len() - typed_value.len()..typed.len() };
    let value = override_value(typed_value.trim(), &place).map_err(|message| {
        Box::new(texts.problem(Some(&place), path, message, "correct the TOML value"))
    })?;

    let Some((last, tables)) = keys.split_last() else { return Ok(()) };
    let mut current = root;
    for name in tables {
        let entry = current.entries.entry((*name).to_owned()).or_insert_with(|| Entry {
            key_place: key_place.clone(),
            place: place.clone(),
            value: Value::Table(Table::default()),
        });
        let Value::Table(next) = &mut entry.value else {
            return Err(Box::new(texts.problem(
                Some(&key_place),
                path,
                format!("goes through {name}, which is no table"),
                "override the key itself",
            )));
        };
        current = next;
    }
    current.entries.insert((*last).to_owned(), Entry { key_place, place, value });
    Ok(())
}

/// The value of an override: TOML where it is TOML, else the text itself, so that neither
/// addresses nor durations need quotes inside the shell's.
fn override_value(typed: &str, place: &Place) -> Result<Value, String> {
    match DeValue::parse(typed) {
        Ok(parsed) => Ok(value(parsed.get_ref(), place.text, Some(place))),
        // [::1]:1883 begins like a list.
        Err(error)
            if typed.starts_with(['[', '{', '"', '\'']) && typed.parse::<SocketAddr>().is_err() =>
        {
            Err(format!("is no TOML value: {}", error.message()))
        }
        Err(_) => Ok(Value::Text(typed.to_owned())),
    }
}

/// True for what a TOML key may hold without quotes.
pub(super) fn is_bare_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// A table of `text`; with `at`, everything in it is at that place.
fn table(typed: &DeTable<'_>, text: usize, at: Option<&Place>) -> Table {
    let place = |span| at.cloned().unwrap_or(Place { text, span });
    let entries = typed.iter().map(|(key, typed_value)| {
        let entry = Entry {
            key_place: place(key.span()),
            place: place(typed_value.span()),
            value: value(typed_value.get_ref(), text, at),
        };
        (key.get_ref().clone().into_owned(), entry)
    });
    Table { entries: entries.collect() }
}

fn value(typed: &DeValue<'_>, text: usize, at: Option<&Place>) -> Value {
    match typed {
        DeValue::String(string) => Value::Text(string.clone().into_owned()),
        DeValue::Integer(integer) => i128::from_str_radix(integer.as_str(), integer.radix())
            .map_or(Value::Other("a number beyond every bound"), Value::Integer),
        DeValue::Boolean(boolean) => Value::Boolean(*boolean),
        DeValue::Array(items) => {
            Value::List(items.iter().map(|item| value(item.get_ref(), text, at)).collect())
        }
        DeValue::Table(typed) => Value::Table(table(typed, text, at)),
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
    }
}
