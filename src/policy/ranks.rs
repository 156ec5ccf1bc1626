//! Numbers that policies compare with constants only: the size of a payload and the time.
//!
//! A decision then depends on the interval in which the number lies, not on the number, so that
//! it can be kept under the interval's rank. Whatever else a policy does with such a number makes
//! its decisions volatile; see [`Bounds::of_comparison`] for what is recognised.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cedar_policy::{Context, Entities, EntityUid, EvalResult, Expression, Request, pst};
use pst::{BinaryOp, Expr, Literal, UnaryOp, Var};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// A text inside `datetime("…")` or `duration("…")` that is longer is not one.
const MOMENT_BYTES_MAX: usize = 64;

/// Where decisions may change: each number is the first of its interval. All in order, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    payload_bytes: Vec<i64>,
    /// Milliseconds of Unix time.
    instants_ms: Vec<i64>,
    /// Milliseconds since midnight, UTC.
    times_of_day_ms: Vec<i64>,
    /// The end of the principal's certificate is compared with, too.
    not_after: bool,
}

/// The intervals in which the numbers of one question lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Rank {
    payload: u32,
    instant: u32,
    time_of_day: u32,
    not_after: u8,
}

/// What a rank is taken of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) payload_bytes: usize,
    pub(super) now: SystemTime,
    /// The last second of the principal's certificate, Unix time.
    pub(super) not_after_unix_s: Option<i64>,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Measured {
    Payload,
    Time,
    TimeOfDay,
    Qos,
    TlsVersion,
    ProtocolVersion,
}

impl Measured {
    /// The values it can have, of these and those of which it has few.
    pub(super) fn possible(self, of: impl Iterator<Item = i64>) -> Vec<i64> {
        match self {
            Self::Payload | Self::Time => of.filter(|value| *value >= 0).chain([0]).collect(),
            Self::TimeOfDay => of.filter(|value| (0..DAY_MS).contains(value)).chain([0]).collect(),
            Self::Qos => vec![0, 1, 2],
            Self::TlsVersion => vec![0, 12, 13],
            Self::ProtocolVersion => vec![3, 4, 5],
        }
    }

    /// The attribute, as policies write it, and what it can be.
    pub(super) const fn described(self) -> (&'static str, &'static str) {
        match self {
            Self::Payload => ("payload_size", "0 or more"),
            Self::Time => ("time", "1970 or later"),
            Self::TimeOfDay => ("toTime", "from 0 to less than 24 hours"),
            Self::Qos => ("qos", "0, 1 or 2"),
            Self::TlsVersion => ("tls_version", "12 or 13, or 0 without TLS"),
            Self::ProtocolVersion => ("protocol_version", "3, 4 (MQTT 3.1.1) or 5"),
        }
    }
}

/// A number of the question, compared with a constant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Comparison {
    pub(super) measured: Measured,
    op: BinaryOp,
    /// Of times in milliseconds.
    pub(super) constant: i64,
}

impl Comparison {
    /// Reads a comparison, whatever side the number is on.
    pub(super) fn of(op: BinaryOp, left: &Expr, right: &Expr) -> Option<Self> {
        if !is_comparison(op) {
            return None;
        }
        let (measured, constant, op) = match (measured(left), measured(right)) {
            (Some(measured), None) => (measured, right, op),
            (None, Some(measured)) => (measured, left, mirrored(op)),
            _ => return None,
        };
        let constant = match (measured, constant) {
            (Measured::Time, Expr::UnaryOp { op: UnaryOp::Datetime, expr }) => milliseconds(
                &format!("{}.durationSince(datetime(\"1970-01-01\"))", call("datetime", expr)?),
            )?,
            (Measured::TimeOfDay, constant) => duration_ms(constant)?,
            (Measured::Time, _) => return None,
            (_, Expr::Literal(Literal::Long(number))) => *number,
            _ => return None,
        };
        Some(Self { measured, op, constant })
    }

    /// Whether it is true of this number.
    pub(super) fn holds(&self, number: i64) -> bool {
        match self.op {
            BinaryOp::Less => number < self.constant,
            BinaryOp::LessEq => number <= self.constant,
            BinaryOp::Greater => number > self.constant,
            BinaryOp::GreaterEq => number >= self.constant,
            BinaryOp::NotEq => number != self.constant,
            _ => number == self.constant,
        }
    }
}

impl Bounds {
    /// The bounds that a comparison sets, if it compares `context.payload_size` with a number,
    /// `context.time` with a `datetime("…")` or with `principal.cert.not_after`, or
    /// `context.time.toTime()` with a `duration("…")`, on either side.
    pub(super) fn of_comparison(op: BinaryOp, left: &Expr, right: &Expr) -> Option<Self> {
        let time = |side| measured(side) == Some(Measured::Time);
        let with_end = (time(left) && is_not_after(right)) || (is_not_after(left) && time(right));
        if with_end && is_comparison(op) {
            return Some(Self { not_after: true, ..Self::default() });
        }
        let Comparison { measured, op, constant } = Comparison::of(op, left, right)?;
        let next = constant.checked_add(1)?;
        let bounds = match op {
            BinaryOp::Less | BinaryOp::GreaterEq => vec![constant],
            BinaryOp::LessEq | BinaryOp::Greater => vec![next],
            BinaryOp::Eq | BinaryOp::NotEq => vec![constant, next],
            _ => return None,
        };
        let mut all = Self::default();
        *match measured {
            Measured::Payload => &mut all.payload_bytes,
            Measured::Time => &mut all.instants_ms,
            Measured::TimeOfDay => &mut all.times_of_day_ms,
            // These are small facts, or settled with the session.
            Measured::Qos | Measured::TlsVersion | Measured::ProtocolVersion => return None,
        } = bounds;
        Some(all)
    }

    /// Takes in the bounds of another rule.
    pub(super) fn add(&mut self, other: &Self) {
        for (bounds, more) in [
            (&mut self.payload_bytes, &other.payload_bytes),
            (&mut self.instants_ms, &other.instants_ms),
            (&mut self.times_of_day_ms, &other.times_of_day_ms),
        ] {
            if !more.is_empty() {
                bounds.extend(more);
                bounds.sort_unstable();
                bounds.dedup();
            }
        }
        self.not_after |= other.not_after;
    }

    /// True when the time is compared with anything.
    pub(super) fn are_of_time(&self) -> bool {
        self.not_after || !self.instants_ms.is_empty() || !self.times_of_day_ms.is_empty()
    }

    /// The intervals that these numbers lie in. Two questions with the same rank, and everything
    /// else the same, have the same answer.
    #[inline]
    pub(super) fn rank(&self, numbers: Numbers) -> Rank {
        let mut rank = Rank::default();
        if !self.payload_bytes.is_empty() {
            let bytes = i64::try_from(numbers.payload_bytes).unwrap_or(i64::MAX);
            rank.payload = place(&self.payload_bytes, bytes);
        }
        if self.are_of_time() {
            self.rank_time(numbers, &mut rank);
        }
        rank
    }

    fn rank_time(&self, numbers: Numbers, rank: &mut Rank) {
        let now = unix_ms(numbers.now);
        rank.instant = place(&self.instants_ms, now);
        rank.time_of_day = place(&self.times_of_day_ms, now.rem_euclid(DAY_MS));
        let end = numbers.not_after_unix_s.filter(|_| self.not_after);
        if let Some(end) = end.map(|seconds| seconds.saturating_mul(1000)) {
            rank.not_after = u8::from(now >= end) + u8::from(now > end);
        }
    }

    /// A payload size of each interval, the empty one first; `None` when there are more than
    /// `most` intervals.
    pub(super) fn payloads(&self, most: usize) -> Option<Vec<usize>> {
        let sizes = self.payload_bytes.iter().filter_map(|bytes| usize::try_from(*bytes).ok());
        let mut sizes: Vec<usize> = std::iter::once(0).chain(sizes).collect();
        sizes.dedup();
        (sizes.len() <= most).then_some(sizes)
    }

    /// When the next interval of time begins.
    pub(super) fn next_after(
        &self,
        now: SystemTime,
        not_after_unix_s: Option<i64>,
    ) -> Option<SystemTime> {
        let now_ms = unix_ms(now);
        let instant = self.instants_ms.iter().copied().find(|bound| *bound > now_ms);
        let midnight = now_ms - now_ms.rem_euclid(DAY_MS);
        let of_day = |day: i64| {
            let bounds = self.times_of_day_ms.iter().filter(|bound| (0..DAY_MS).contains(*bound));
            bounds.map(move |bound| midnight + day + bound).find(|bound| *bound > now_ms)
        };
        let end = not_after_unix_s.filter(|_| self.not_after);
        let end = end.map(|seconds| seconds.saturating_mul(1000));
        // A comparison may turn at the end or one millisecond after it.
        let ends = end.into_iter().flat_map(|end| [end, end.saturating_add(1)]);
        let next = [instant, of_day(0).or_else(|| of_day(DAY_MS))]
            .into_iter()
            .flatten()
            .chain(ends.filter(|end| *end > now_ms))
            .min()?;
        UNIX_EPOCH.checked_add(Duration::from_millis(u64::try_from(next).ok()?))
    }
}

/// How many of the bounds lie at the number or before it.
fn place(bounds: &[i64], number: i64) -> u32 {
    let before = bounds.partition_point(|bound| *bound <= number);
    u32::try_from(before).unwrap_or(u32::MAX)
}

/// As Cedar's `context.time` has it: whole milliseconds, nothing before 1970.
fn unix_ms(now: SystemTime) -> i64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn measured(expression: &Expr) -> Option<Measured> {
    match expression {
        Expr::UnaryOp { op: UnaryOp::ToTime, expr } => {
            (measured(expr)? == Measured::Time).then_some(Measured::TimeOfDay)
        }
        Expr::GetAttr { expr, attr } if matches!(**expr, Expr::Var(Var::Context)) => {
            match attr.as_str() {
                "payload_size" => Some(Measured::Payload),
                "time" => Some(Measured::Time),
                "qos" => Some(Measured::Qos),
                _ => None,
            }
        }
        Expr::GetAttr { expr, attr } if is_session(expr) => match attr.as_str() {
            "tls_version" => Some(Measured::TlsVersion),
            "protocol_version" => Some(Measured::ProtocolVersion),
            _ => None,
        },
        _ => None,
    }
}

/// `context.session`.
pub(super) fn is_session(expression: &Expr) -> bool {
    let Expr::GetAttr { expr, attr } = expression else { return false };
    attr == "session" && matches!(**expr, Expr::Var(Var::Context))
}

/// `principal.cert.not_after`.
fn is_not_after(expression: &Expr) -> bool {
    let Expr::GetAttr { expr, attr } = expression else { return false };
    let Expr::GetAttr { expr: owner, attr: certificate } = &**expr else { return false };
    attr == "not_after" && certificate == "cert" && matches!(**owner, Expr::Var(Var::Principal))
}

fn is_comparison(op: BinaryOp) -> bool {
    mirrored(op) != op || matches!(op, BinaryOp::Eq | BinaryOp::NotEq)
}

/// The operator with its sides exchanged.
fn mirrored(op: BinaryOp) -> BinaryOp {
    match op {
        BinaryOp::Less => BinaryOp::Greater,
        BinaryOp::LessEq => BinaryOp::GreaterEq,
        BinaryOp::Greater => BinaryOp::Less,
        BinaryOp::GreaterEq => BinaryOp::LessEq,
        other => other,
    }
}

/// A call of a constructor, as text; `None` for anything but a plain literal.
fn call(constructor: &str, argument: &Expr) -> Option<String> {
    let Expr::Literal(Literal::String(text)) = argument else { return None };
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'.' | b'+' | b'-');
    let plain = text.len() <= MOMENT_BYTES_MAX && text.bytes().all(plain);
    plain.then(|| format!("{constructor}(\"{text}\")"))
}

/// The milliseconds of a `duration("…")`.
pub(super) fn duration_ms(expression: &Expr) -> Option<i64> {
    match expression {
        Expr::UnaryOp { op: UnaryOp::Duration, expr } => milliseconds(&call("duration", expr)?),
        _ => None,
    }
}

/// What a duration comes to, by Cedar's own reading of it.
fn milliseconds(duration: &str) -> Option<i64> {
    let expression: Expression = format!("{duration}.toMilliseconds()").parse().ok()?;
    let nobody: EntityUid = "Nobody::\"\"".parse().ok()?;
    let request = Request::new(nobody.clone(), nobody.clone(), nobody, Context::empty(), None);
    match cedar_policy::eval_expression(&request.ok()?, &Entities::empty(), &expression).ok()? {
        EvalResult::Long(number) => Some(number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use cedar_policy::Policy;

    use super::super::polarity;
    use super::*;

    fn bounds(condition: &str) -> Option<Bounds> {
        let text = format!("permit(principal, action, resource) when {{ {condition} }};");
        let analysis = polarity::analyse(&Policy::parse(None, text).unwrap()).unwrap();
        (!analysis.reads.uncacheable()).then_some(analysis.bounds)
    }

    #[test]
    fn comparisons_with_constants_have_bounds_on_either_side() {
        let payload = |bounds: &[i64]| Bounds { payload_bytes: bounds.into(), ..Bounds::default() };
        let instant = |bounds: &[i64]| Bounds { instants_ms: bounds.into(), ..Bounds::default() };
        let of_day =
            |bounds: &[i64]| Bounds { times_of_day_ms: bounds.into(), ..Bounds::default() };
        for (condition, expected) in [
            ("context.payload_size < 10", payload(&[10])),
            ("context.payload_size <= 10", payload(&[11])),
            ("context.payload_size > 10", payload(&[11])),
            ("context.payload_size >= 10", payload(&[10])),
            ("10 > context.payload_size", payload(&[10])),
            ("10 >= context.payload_size", payload(&[11])),
            ("context.payload_size == 10", payload(&[10, 11])),
            ("!(context.payload_size != 10) || context.payload_size < 7", payload(&[7, 10, 11])),
            ("context.time < datetime(\"1970-01-02\")", instant(&[DAY_MS])),
            ("datetime(\"1970-01-01T00:00:01.500Z\") < context.time", instant(&[1501])),
            ("context.time >= datetime(\"1970-01-01T01:00:00+0100\")", instant(&[0])),
            ("context.time.toTime() >= duration(\"1h30m\")", of_day(&[5_400_000])),
            (
                "context.time < principal.cert.not_after",
                Bounds { not_after: true, ..Bounds::default() },
            ),
        ] {
            assert_eq!(bounds(condition), Some(expected), "{condition}");
        }
    }

    #[test]
    fn anything_else_is_volatile() {
        for condition in [
            "context.payload_size < context.qos",
            "context.payload_size + 1 < 10",
            "[1, 2].contains(context.payload_size)",
            "context.time.toDate() == datetime(\"2026-01-01\")",
            "context.time.offset(duration(\"1h\")) < datetime(\"2026-01-01\")",
            "context.time < principal.cert.not_before",
            "context.time.toTime() < context.time.toTime()",
        ] {
            assert_eq!(bounds(condition), None, "{condition}");
        }
    }

    #[test]
    fn two_numbers_have_the_same_rank_exactly_when_every_comparison_agrees() {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        let mut all = Bounds::default();
        all.add(&bounds("context.payload_size <= 10").unwrap());
        all.add(&bounds("context.payload_size == 20").unwrap());
        let payload = |payload_bytes| Numbers { payload_bytes, now: at(0), not_after_unix_s: None };
        let same = |one, other| all.rank(payload(one)) == all.rank(payload(other));
        assert!(same(0, 10) && same(11, 19) && same(21, 999));
        assert!(!same(10, 11) && !same(19, 20) && !same(20, 21) && !same(9, 999));
        assert_eq!(all.payloads(4), Some(vec![0, 11, 20, 21]));
        assert_eq!(all.payloads(3), None);

        let mut all = bounds("context.time < datetime(\"1970-01-02\")").unwrap();
        all.add(&bounds("context.time.toTime() >= duration(\"6h\")").unwrap());
        all.add(&bounds("context.time <= principal.cert.not_after").unwrap());
        let end = Some(200_000);
        let rank = |now| all.rank(Numbers { payload_bytes: 1, now, not_after_unix_s: end });
        assert_eq!(rank(at(0)), rank(at(21_599)));
        assert_ne!(rank(at(21_599)), rank(at(21_600)));
        assert_ne!(rank(at(80_000)), rank(at(86_400)), "the day is over");
        assert_ne!(rank(at(200_000)), rank(at(199_999)));
        assert_ne!(rank(at(200_000)), rank(at(200_001)));
        assert_eq!(rank(at(200_001)), rank(at(210_000)));

        let next = |now| all.next_after(now, end);
        assert_eq!(next(at(0)), Some(at(21_600)));
        assert_eq!(next(at(21_600)), Some(at(86_400)));
        assert_eq!(next(at(86_400)), Some(at(86_400 + 21_600)));
        assert_eq!(next(at(195_000)), Some(at(200_000)));
        assert_eq!(next(at(200_000)), Some(at(200_000) + Duration::from_millis(1)));
        assert_eq!(next(at(200_001)), Some(at(2 * 86_400 + 86_400 + 21_600)));
    }
}
