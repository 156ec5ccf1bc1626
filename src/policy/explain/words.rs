//! An explanation in words, for a person.

use std::fmt::Write as _;

use super::{Explanation, Filter, Mark, Part, Relation, RuleEffect, RuleReport, State};
use crate::harmless::harmless;
use crate::policy::drawing::{Drawing, Tone};

/// Rules that are drawn; more are only named.
const DRAWN_MAX: usize = 12;
/// Columns of the names on the left.
const NAME_WIDTH: usize = 14;

impl Explanation {
    /// Tells it to a person, in colours for a terminal only. Nothing in it acts on the terminal.
    #[must_use]
    pub fn draw(&self, coloured: bool) -> String {
        let tone = if self.allowed { Tone::Good } else { Tone::Bad };
        let mut told = drawing(tone, self.answer.clone()).draw(coloured);
        for (name, value) in self.facts() {
            let _ = writeln!(told, "    {name:NAME_WIDTH$}{}", harmless(&value));
        }
        let mut drawn = 0_usize;
        let mut named: Vec<&str> = Vec::new();
        for rule in &self.rules {
            if self.helps(rule) && drawn < DRAWN_MAX {
                drawn = drawn.saturating_add(1);
                told.push('\n');
                told.push_str(&rule.drawing(self).draw(coloured));
            } else {
                named.push(&rule.id);
            }
        }
        told.push_str(&self.remainder(&named));
        told
    }

    /// Whether a rule says something about why the answer is what it is, or how it could be
    /// another one.
    fn helps(&self, rule: &RuleReport) -> bool {
        match (rule.state, rule.effect) {
            (State::Fails | State::Decides | State::Applies, _) => true,
            (State::DoesNotApply, _) => false,
            // Where something permits it already, another permit makes no difference.
            (State::Nearly, RuleEffect::Permit) => !self.allowed && !self.is_permitted(),
            (State::Nearly, RuleEffect::Forbid) => {
                let conditional = |mark: &Mark| matches!(mark.part, Part::When | Part::Unless);
                self.allowed && rule.marks.iter().all(conditional)
            }
        }
    }

    /// True when some rule permits it, whether or not that decides.
    fn is_permitted(&self) -> bool {
        self.rules.iter().any(|rule| {
            rule.effect == RuleEffect::Permit
                && matches!(rule.state, State::Decides | State::Applies)
        })
    }

    /// What is told before the rules: names and values.
    fn facts(&self) -> Vec<(&'static str, String)> {
        let groups = match self.groups.as_slice() {
            [] => "in no group".to_owned(),
            groups => format!("in {}", groups.join(", ")),
        };
        let mut facts = vec![
            ("who", format!("{}, {groups}", self.principal)),
            ("what", format!("{} {}", self.action, self.resource)),
        ];
        for (relation, name) in [
            (Relation::Matches, "matched by"),
            (Relation::Covers, "covered by"),
            (Relation::Overlaps, "overlapped by"),
        ] {
            let filters = self.filters.iter().filter(|filter| filter.relation == relation);
            extend(&mut facts, name, filters.map(Filter::words));
        }
        if self.filters_untold > 0 {
            facts.push(("", format!("and {} more filters", self.filters_untold)));
        }
        let portions = |portion: &super::Portion, by| {
            format!("{}, by {}", portion.filter, portion.policies.join(by))
        };
        extend(&mut facts, "refused", self.refused.iter().map(|it| portions(it, ", ")));
        let allowed = self.would_be_allowed.iter().map(|it| portions(it, ", "));
        extend(&mut facts, "would be fine", allowed);
        if self.not_permitted_either {
            facts.push(("besides", "no policy permits it".to_owned()));
        }
        facts
    }

    /// The rules that are not drawn.
    fn remainder(&self, named: &[&str]) -> String {
        let mut told = String::new();
        if !named.is_empty() {
            let _ = writeln!(
                told,
                "\n    {:NAME_WIDTH$}{}",
                "did not apply",
                harmless(&named.join(", "))
            );
        }
        if self.rules_untold > 0 {
            let (more, verb) = match self.rules_untold {
                1 => ("1 more policy".to_owned(), "is"),
                more => (format!("{more} more policies"), "are"),
            };
            let action = &self.action;
            let _ = writeln!(told, "\n    {more} on {action} {verb} about others or elsewhere");
        }
        told
    }
}

/// Several values under one name.
fn extend(
    facts: &mut Vec<(&'static str, String)>,
    name: &'static str,
    values: impl Iterator<Item = String>,
) {
    for (index, value) in values.enumerate() {
        facts.push((if index == 0 { name } else { "" }, value));
    }
}

fn drawing(tone: Tone, message: String) -> Drawing {
    Drawing { tone, message, excerpt: None, marks: Vec::new(), remedy: None }
}

impl Filter {
    fn words(&self) -> String {
        if self.here.is_empty() {
            return self.filter.to_string();
        }
        format!("{}, for this client {}", self.filter, self.here.join(" and "))
    }
}

impl RuleReport {
    fn drawing(&self, explanation: &Explanation) -> Drawing {
        let tone = match (self.state, self.effect) {
            (State::Fails, _) | (State::Decides, RuleEffect::Forbid) => Tone::Bad,
            (State::Decides, RuleEffect::Permit) => Tone::Good,
            _ => Tone::Plain,
        };
        let mut drawing = drawing(tone, self.headline(explanation));
        if let Some(excerpt) = &self.excerpt {
            drawing.excerpt = Some(excerpt.clone());
            let label = |mark: &Mark| {
                let (start, end) = mark.span?;
                Some((start..end, Some(mark.words(self.state))))
            };
            drawing.marks = self.marks.iter().filter_map(label).collect();
        }
        drawing
    }

    /// What became of the rule, in one sentence.
    fn headline(&self, explanation: &Explanation) -> String {
        let id = &self.id;
        let place = format!("{}:{}:{}", self.file, self.line, self.column);
        let verb = match self.effect {
            RuleEffect::Permit => "permit",
            RuleEffect::Forbid => "forbid",
        };
        match self.state {
            State::Fails => match (&self.excerpt, &self.error) {
                (None, Some(error)) => {
                    format!(
                        "{id} at {place} cannot be evaluated, which refuses everything: {error}"
                    )
                }
                _ => format!("{id} cannot be evaluated, which refuses everything"),
            },
            State::Decides => {
                let reason = self.reason.iter().map(|reason| format!(": {reason}"));
                let reason: String = reason.collect();
                match self.excerpt {
                    Some(_) => format!("{id} {verb}s it{reason}"),
                    None => format!("{id} at {place} {verb}s it{reason}"),
                }
            }
            State::Applies if self.effect == RuleEffect::Forbid => {
                format!("{id} at {place} forbids it as well")
            }
            State::Applies if explanation.not_decided() => {
                format!("{id} at {place} would permit it, if no evaluation had failed")
            }
            State::Applies => {
                format!("{id} at {place} would permit it, but a forbid is stronger")
            }
            State::Nearly | State::DoesNotApply => {
                let Some(mark) = self.marks.first() else {
                    return format!("{id} at {place} does not {verb} it");
                };
                let others = match self.marks.len() {
                    0 | 1 => String::new(),
                    2 => ", and 1 more part".to_owned(),
                    more => format!(", and {} more parts", more - 1),
                };
                format!("{id} would {verb} it, but {}{others}", mark.obstacle(&self.file))
            }
        }
    }
}

impl Explanation {
    /// True when it is refused for an evaluation that failed.
    fn not_decided(&self) -> bool {
        !self.rules.iter().any(|rule| rule.state == State::Decides)
    }
}

impl Mark {
    /// What it is that does not hold, and where.
    fn obstacle(&self, file: &str) -> String {
        let place = format!("{file}:{}:{}", self.line, self.column);
        let text = self.text.split_whitespace().collect::<Vec<_>>().join(" ");
        match self.holds {
            Some(holds) => format!("`{text}` is {holds} at {place}"),
            None => format!("`{text}` cannot be evaluated at {place}"),
        }
    }

    /// What is written below it.
    fn words(&self, state: State) -> String {
        let met = self.met.join(", ");
        let and_met = if met.is_empty() { String::new() } else { format!(": {met}") };
        match (self.part, self.holds) {
            (Part::Principal | Part::Resource, _) => met,
            (_, None) => format!("cannot be evaluated{and_met}"),
            (Part::When, Some(holds)) => format!("is {holds}{and_met}"),
            (Part::Unless, Some(_)) if state == State::Decides => {
                format!("this exception is false{and_met}")
            }
            (Part::Unless, Some(holds)) => format!("is {holds}, which excepts it{and_met}"),
        }
    }
}
