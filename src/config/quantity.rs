//! Kinds of value that are quantities: numbers, bytes and durations, always bounded. Zero never
//! means unlimited.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use bytesize::ByteSize;

use super::file::Value;
use super::kind::{Kind, Wrong, quoted};

/// Whole numbers that settings are made of.
pub(super) trait Whole: Copy {
    fn from_u64(value: u64) -> Option<Self>;
    fn to_u64(self) -> u64;
}

impl Whole for u16 {
    fn from_u64(value: u64) -> Option<Self> {
        value.try_into().ok()
    }
    fn to_u64(self) -> u64 {
        self.into()
    }
}

impl Whole for u32 {
    fn from_u64(value: u64) -> Option<Self> {
        value.try_into().ok()
    }
    fn to_u64(self) -> u64 {
        self.into()
    }
}

impl Whole for u64 {
    fn from_u64(value: u64) -> Option<Self> {
        Some(value)
    }
    fn to_u64(self) -> u64 {
        self
    }
}

impl Whole for NonZeroU16 {
    fn from_u64(value: u64) -> Option<Self> {
        Self::new(value.try_into().ok()?)
    }
    fn to_u64(self) -> u64 {
        self.get().into()
    }
}

impl Whole for NonZeroU32 {
    fn from_u64(value: u64) -> Option<Self> {
        Self::new(value.try_into().ok()?)
    }
    fn to_u64(self) -> u64 {
        self.get().into()
    }
}

/// Inclusive bounds of a number, and how its unit is shown.
fn within<T: Whole>(
    value: u64,
    min: u64,
    max: u64,
    show: impl Fn(u64) -> String,
) -> Result<T, Wrong> {
    if value == 0 && min > 0 {
        return Err(Wrong::because("is 0, and 0 never means unlimited"));
    }
    if value < min {
        return Err(Wrong::because(format!("is less than {}", show(min))));
    }
    if value > max {
        return Err(Wrong::because(format!("is more than {}", show(max))));
    }
    T::from_u64(value).ok_or_else(|| Wrong::because("does not fit"))
}

/// A number from `min` to `max`.
pub(super) struct Count<T> {
    min: T,
    max: T,
}

/// Numbers from `min` to `max`, both allowed.
pub(super) fn count<T: Whole>(min: T, max: T) -> Count<T> {
    Count { min, max }
}

impl<T: Whole> Kind for Count<T> {
    type Meant = T;

    fn parse(&self, value: &Value) -> Result<T, Wrong> {
        match value {
            Value::Integer(number) => {
                let number = u64::try_from(*number)
                    .map_err(|_| Wrong::because(format!("is {number}, out of bounds")))?;
                within(number, self.min.to_u64(), self.max.to_u64(), |bound| bound.to_string())
            }
            other => Err(Wrong::noun(other)),
        }
    }

    fn show(&self, meant: &T) -> String {
        meant.to_u64().to_string()
    }

    fn expects(&self) -> String {
        format!("a number from {} to {}", self.min.to_u64(), self.max.to_u64())
    }
}

/// A number of bytes, such as `"64KiB"`.
pub(super) struct Bytes<T> {
    min: T,
    max: T,
}

/// Bytes from `min` to `max`, both allowed.
pub(super) fn bytes<T: Whole>(min: T, max: T) -> Bytes<T> {
    Bytes { min, max }
}

impl<T: Whole> Kind for Bytes<T> {
    type Meant = T;

    fn parse(&self, value: &Value) -> Result<T, Wrong> {
        let number = match value {
            Value::Text(text) => text
                .parse::<ByteSize>()
                .map_err(|_| Wrong::because(format!("is {text:?}, not a number of bytes")))?
                .as_u64(),
            Value::Integer(number) => u64::try_from(*number)
                .map_err(|_| Wrong::because(format!("is {number}, out of bounds")))?,
            other => return Err(Wrong::noun(other)),
        };
        within(number, self.min.to_u64(), self.max.to_u64(), show_bytes)
    }

    fn show(&self, meant: &T) -> String {
        quoted(&show_bytes(meant.to_u64()))
    }

    fn expects(&self) -> String {
        let (min, max) = (show_bytes(self.min.to_u64()), show_bytes(self.max.to_u64()));
        format!("a number of bytes from \"{min}\" to \"{max}\"")
    }
}

/// Bytes in the largest unit that leaves no fraction.
pub(super) fn show_bytes(number: u64) -> String {
    const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    UNITS
        .iter()
        .find(|(_, shift)| number > 0 && number.is_multiple_of(1 << shift))
        .map_or_else(|| format!("{number}B"), |(unit, shift)| format!("{}{unit}", number >> shift))
}

/// A duration, such as `"30s"`.
pub(super) struct Span {
    min: Duration,
    max: Duration,
}

/// Durations from `min` to `max`, both allowed.
pub(super) fn span(min: Duration, max: Duration) -> Span {
    Span { min, max }
}

impl Kind for Span {
    type Meant = Duration;

    fn parse(&self, value: &Value) -> Result<Duration, Wrong> {
        let duration = parse_duration(value)?;
        if duration.is_zero() && !self.min.is_zero() {
            Err(Wrong::because("is 0, and 0 never means unlimited"))
        } else if duration < self.min {
            Err(Wrong::because(format!("is less than {}", show_duration(self.min))))
        } else if duration > self.max {
            Err(Wrong::because(format!("is more than {}", show_duration(self.max))))
        } else {
            Ok(duration)
        }
    }

    fn show(&self, meant: &Duration) -> String {
        quoted(&show_duration(*meant))
    }

    fn expects(&self) -> String {
        let (min, max) = (show_duration(self.min), show_duration(self.max));
        format!("a duration from \"{min}\" to \"{max}\"")
    }
}

fn parse_duration(value: &Value) -> Result<Duration, Wrong> {
    match value {
        Value::Text(text) => humantime::parse_duration(text)
            .map_err(|_| Wrong::because(format!("is {text:?}, not a duration"))),
        Value::Integer(_) => Err(Wrong::because("is a number without a unit")),
        other => Err(Wrong::noun(other)),
    }
}

/// A duration in units whose length nobody has to guess: no months, no years.
fn show_duration(duration: Duration) -> String {
    const DAY_S: u64 = 86_400;
    let seconds = duration.as_secs();
    if seconds > 0 && seconds.is_multiple_of(DAY_S) && duration.subsec_nanos() == 0 {
        let days = seconds / DAY_S;
        return if days == 1 { "1day".into() } else { format!("{days}days") };
    }
    humantime::format_duration(duration).to_string()
}

/// A duration in whole seconds, or one word for what no number of seconds says.
pub(super) struct Seconds<T> {
    min: T,
    max: T,
    word: Option<(&'static str, T)>,
}

/// Seconds from `min` to `max`, or `word`.
pub(super) fn seconds<T: Whole>(min: T, max: T, word: Option<(&'static str, T)>) -> Seconds<T> {
    Seconds { min, max, word }
}

impl<T: Whole> Kind for Seconds<T> {
    type Meant = T;

    fn parse(&self, value: &Value) -> Result<T, Wrong> {
        if let (Value::Text(text), Some((word, meant))) = (value, self.word)
            && text == word
        {
            return Ok(meant);
        }
        let duration = parse_duration(value)?;
        if duration.subsec_nanos() != 0 {
            return Err(Wrong::because("is not in whole seconds"));
        }
        let show = |bound| show_duration(Duration::from_secs(bound));
        within(duration.as_secs(), self.min.to_u64(), self.max.to_u64(), show).map_err(|wrong| {
            match self.word {
                Some((word, _)) if duration.is_zero() => {
                    Wrong { remedy: Some(format!("write \"{word}\" if that is meant")), ..wrong }
                }
                _ => wrong,
            }
        })
    }

    fn show(&self, meant: &T) -> String {
        if let Some((word, _)) = self.word.filter(|(_, known)| known.to_u64() == meant.to_u64()) {
            return quoted(word);
        }
        quoted(&show_duration(Duration::from_secs(meant.to_u64())))
    }

    fn expects(&self) -> String {
        let show = |bound: T| show_duration(Duration::from_secs(bound.to_u64()));
        let word = self.word.map_or(String::new(), |(word, _)| format!(", or \"{word}\""));
        format!("a duration from \"{}\" to \"{}\"{word}", show(self.min), show(self.max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_durations_are_shown_as_they_would_be_typed() {
        for (number, shown) in [
            (0, "0B"),
            (1, "1B"),
            (1000, "1000B"),
            (1024, "1KiB"),
            (65_535, "65535B"),
            (3 << 20, "3MiB"),
            (1 << 32, "4GiB"),
        ] {
            assert_eq!(show_bytes(number), shown);
            assert_eq!(shown.parse::<ByteSize>().unwrap().as_u64(), number);
        }
        for (seconds, shown) in [
            (0, "0s"),
            (30, "30s"),
            (3600, "1h"),
            (86_400, "1day"),
            (604_800, "7days"),
            (90, "1m 30s"),
            (31_557_600, "1year"),
        ] {
            assert_eq!(show_duration(Duration::from_secs(seconds)), shown);
        }
    }
}
