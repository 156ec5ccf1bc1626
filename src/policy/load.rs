//! Text to rules: parse, validate strictly, and refuse what has no sound meaning.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use cedar_policy::{
    ActionConstraint, Policy, PolicyId, PolicySet, PrincipalConstraint, ValidationError,
    ValidationMode, Validator,
};
use miette::Diagnostic;
use tracing::info;

use super::groups::DeclaredGroups;
use super::lints;
use super::polarity::{self, Analysis, Misuse, MisusedPart, Reads};
use super::policy_filter::PolicyFilter;
use super::problem::{LoadError, PROBLEMS_MAX, Problem};
use super::ranks::Bounds;
use super::scan;
use super::schema::{Action, Actions, Vocabulary};
use super::source::{Place, Source};
use crate::harmless::is_harmful;
use crate::suggest::nearest;

/// Bytes of an `@id`.
const ID_BYTES_MAX: usize = 128;
/// Policies in one bundle.
const POLICIES_MAX: usize = 1 << 20;
/// The stack of the thread that parses. Within the bounds of the scan a policy needs far less.
const STACK_BYTES: usize = 64 << 20;
/// Policies that a thread takes at a time.
const BATCH: usize = 32;
/// How much the threads that read policies stand back behind others.
const NICE: i32 = 10;
/// How often it is looked whether they are done; far less than reading a hundred policies takes.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// From so many policies on it is told how far the reading has come, so often.
const TELL_FROM: usize = 10_000;
const TELL_EVERY: Duration = Duration::from_secs(1);
/// A bug of ours or Cedar's: refused, not fatal.
pub(super) const PANICKED: &str = "reading the policies ended in a panic";

/// One policy, ready to be judged by.
#[derive(Debug)]
pub(super) struct Rule {
    /// The `@id`.
    pub(super) id: Arc<str>,
    pub(super) policy: Policy,
    /// As it judges a whole filter; for rules that can apply to subscribe or receive.
    pub(super) rewritten: Option<Policy>,
    /// The actions it can apply to.
    pub(super) actions: Actions,
    pub(super) principal: PrincipalConstraint,
    pub(super) reads: Reads,
    pub(super) bounds: Bounds,
    /// The listeners it names.
    pub(super) listeners: Box<[Box<str>]>,
    /// It has conditions that hold for some requests and not for others.
    pub(super) conditional: bool,
    /// The filters it names, each once.
    pub(super) filters: Vec<PolicyFilter>,
    /// The filter without which it cannot apply.
    pub(super) scope: Option<Arc<str>>,
    /// Where it stands, and with it the policy as written.
    pub(super) place: Place,
}

impl Rule {
    /// The filter without which it cannot apply.
    pub(super) fn scope_filter(&self) -> Option<&PolicyFilter> {
        let scope = self.scope.as_ref()?;
        self.filters.iter().find(|filter| filter.text() == scope)
    }

    /// True when it reads what a subscription has and a delivery has not, or is not known to have.
    pub(super) fn reads_subscription(&self) -> bool {
        self.reads.any_of(Reads::TOPIC.and(Reads::VOLATILE))
    }
}

/// Loads the policies of all sources, in order of their ids.
///
/// # Errors
/// Everything that is wrong with them.
pub(super) fn load(
    sources: &[Source],
    groups: Option<&DeclaredGroups>,
) -> Result<(Vocabulary, Vec<Rule>), LoadError> {
    let vocabulary = Vocabulary::new()?;
    let loader = Loader {
        validator: Validator::new(vocabulary.schema.clone()),
        vocabulary: &vocabulary,
        groups,
    };
    let mut problems: Vec<Problem> = Vec::new();
    let mut places: Vec<Place> = Vec::new();
    for source in sources {
        match scan::scan(source) {
            Ok(ranges) => places.extend(ranges.into_iter().map(|range| source.place(range))),
            Err(problem) => problems.push(problem),
        }
        if places.len() > POLICIES_MAX {
            problems.push(Problem::new(format!("there are more than {POLICIES_MAX} policies")));
            return Err(LoadError::new(problems));
        }
    }
    let (rules, found) = loader.all(&places)?;
    problems.extend(found);
    if rules.is_empty() && problems.is_empty() {
        problems
            .push(Problem::new("there is no policy").remedy(
                "without a policy nothing is permitted; write one that forbids everything",
            ));
    }
    if !problems.is_empty() {
        return Err(LoadError::new(problems));
    }
    Ok((vocabulary, rules))
}

/// Runs what recurses into policies on a thread of its own, whose stack is large enough for all
/// that the scan lets through.
///
/// # Errors
/// When there is no thread, or it panicked.
pub(super) fn on_large_stack<T: Send>(
    name: &str,
    work: impl FnOnce() -> T + Send,
) -> Result<T, Problem> {
    std::thread::scope(|scope| large_stack(scope, name, work)?.join().map_err(|_| panicked()))
}

fn large_stack<'scope, 'env, T: Send + 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, Problem> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_BYTES)
        .spawn_scoped(scope, work)
        .map_err(|error| Problem::new(format!("no thread to read policies: {error}")))
}

fn panicked() -> Problem {
    Problem::new(PANICKED)
}

/// What came of each policy that was read, by its number.
type Read = Vec<(usize, Result<Rule, Vec<Problem>>)>;

/// Says how far the reading has come, once a second.
struct Progress {
    total: usize,
    told: Instant,
}

impl Progress {
    fn begin(total: usize) -> Self {
        Self { total, told: Instant::now() }
    }

    fn tell(&mut self, done: usize) {
        if self.total >= TELL_FROM && self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            info!(read = done.min(self.total), of = self.total, "reading policies");
        }
    }
}

struct Loader<'a> {
    vocabulary: &'a Vocabulary,
    validator: Validator,
    groups: Option<&'a DeclaredGroups>,
}

impl Loader<'_> {
    /// Reads all policies, on every core and behind everything else that runs there: a reload must
    /// not be in the way of traffic. Gives the rules in order of their ids, and what is wrong, in
    /// order of the files.
    ///
    /// # Errors
    /// When there are no threads, or one of them panicked.
    fn all(&self, places: &[Place]) -> Result<(Vec<Rule>, Vec<Problem>), Problem> {
        let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
        let workers = workers.min(places.len().div_ceil(BATCH)).max(1);
        let next = AtomicUsize::new(0);
        let read = std::thread::scope(|scope| {
            let workers = (0..workers)
                .map(|_| large_stack(scope, "policy-load", || self.some(places, &next)))
                .collect::<Result<Vec<_>, _>>()?;
            let mut progress = Progress::begin(places.len());
            while !workers.iter().all(ScopedJoinHandle::is_finished) {
                std::thread::sleep(LOOK_AGAIN);
                progress.tell(next.load(Relaxed));
            }
            let read: Result<Vec<Read>, _> =
                workers.into_iter().map(ScopedJoinHandle::join).collect();
            read.map_err(|_| panicked())
        })?;
        let mut read: Read = read.into_iter().flatten().collect();
        read.sort_unstable_by_key(|(number, _)| *number);
        let mut rules: Vec<Rule> = Vec::with_capacity(read.len());
        let mut problems: Vec<Problem> = Vec::new();
        let mut known: HashMap<Arc<str>, Place> = HashMap::new();
        for (_, read) in read {
            match read {
                Err(found) => problems.extend(found),
                Ok(rule) => match known.get(&rule.id) {
                    None => {
                        known.insert(Arc::clone(&rule.id), rule.place.clone());
                        rules.push(rule);
                    }
                    Some(first) => {
                        let message = format!("there are two policies with @id({:?})", rule.id);
                        problems.push(rule.place.problem(message).remedy(format!(
                            "give this one an @id of its own; the other is in {first}"
                        )));
                    }
                },
            }
        }
        rules.sort_by(|left, right| left.id.cmp(&right.id));
        Ok((rules, problems))
    }

    /// Reads policies that nobody else has begun with, until there are none.
    fn some(&self, places: &[Place], next: &AtomicUsize) -> Read {
        // Without it there is no harm but that others wait a little longer.
        let _ = rustix::process::nice(NICE);
        let mut read = Read::new();
        let mut problems = 0;
        loop {
            let from = next.fetch_add(BATCH, Relaxed);
            let batch = places.iter().enumerate().skip(from).take(BATCH);
            if batch.len() == 0 {
                return read;
            }
            for (number, place) in batch {
                let rule = self.rule(place);
                problems += rule.as_ref().err().map_or(0, Vec::len);
                read.push((number, rule));
                // A thread of low priority, too, keeps its core for some milliseconds unless it
                // offers it: those who wait for it wait no longer than one policy takes.
                std::thread::yield_now();
            }
            // Enough to fill a report: an attacker's file is not worth more work.
            if problems > PROBLEMS_MAX {
                next.store(places.len(), Relaxed);
            }
        }
    }

    fn rule(&self, place: &Place) -> Result<Rule, Vec<Problem>> {
        let policy = Policy::parse(None, place.text()).map_err(|errors| {
            errors.iter().map(|error| unparsed(self.diagnosed(error, place))).collect::<Vec<_>>()
        })?;
        let id = check_id(&policy, place).map_err(|problem| vec![problem])?;
        let policy = policy.new_id(PolicyId::new(&*id));
        let failed = |error: &dyn std::fmt::Display| {
            vec![place.problem(format!("the broker cannot read this policy: {error}"))]
        };
        let analysis = polarity::analyse(&policy).map_err(|error| failed(&error))?;
        let actions = self.actions(&policy);
        self.check_presences(&analysis, actions, place)?;
        self.validate(&policy, place)?;
        let filters = self.check(&analysis, place)?;
        let judges_filters =
            actions.contains(Action::Subscribe) || actions.contains(Action::Receive);
        let rewritten = judges_filters
            .then(|| polarity::rewrite(&policy))
            .transpose()
            .map_err(|error| failed(&error))?;
        let rule = Rule {
            id,
            rewritten,
            actions,
            principal: policy.principal_constraint(),
            policy,
            reads: analysis.reads,
            bounds: analysis.bounds,
            listeners: analysis.listeners.into(),
            conditional: analysis.conditional,
            filters,
            scope: analysis.scope.map(Arc::from),
            place: place.clone(),
        };
        let errors = lints::errors(&rule, self.vocabulary);
        if errors.is_empty() { Ok(rule) } else { Err(errors) }
    }

    /// Strict validation. A warning is an error too: a policy that never applies is a mistake.
    fn validate(&self, policy: &Policy, place: &Place) -> Result<(), Vec<Problem>> {
        let set = PolicySet::from_policies([policy.clone()])
            .map_err(|error| vec![place.diagnostic(&error)])?;
        let result = self.validator.validate(&set, ValidationMode::Strict);
        let (no_action, others): (Vec<_>, Vec<_>) = result
            .validation_errors()
            .partition(|error| matches!(error, ValidationError::InvalidActionApplication(_)));
        let mut problems: Vec<Problem> =
            others.iter().map(|error| self.diagnosed(*error, place)).collect();
        // One mistake is found once for each type of principal, in no order.
        problems.sort_by_cached_key(Problem::line);
        problems.dedup_by(|one, other| one.location() == other.location());
        problems.truncate(PROBLEMS_MAX);
        // No action is left where one that is named does not exist: that is said already.
        if problems.is_empty() {
            problems.extend(no_action.into_iter().map(|error| place.diagnostic(error)));
        }
        // After an error, that nothing is left to match is no news.
        if problems.is_empty() {
            let warnings = result.validation_warnings().take(PROBLEMS_MAX);
            problems.extend(warnings.map(|warning| place.diagnostic(warning)).map(|problem| {
                match problem.remedy_text() {
                    Some(_) => problem,
                    None => problem.remedy("correct what it asks for, or remove the policy"),
                }
            }));
            problems.dedup_by(|one, other| one.line() == other.line());
        }
        if problems.is_empty() && !result.validation_passed_without_warnings() {
            problems.push(place.problem("the policy is not valid"));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// A problem that Cedar found in a part of a policy; where it has no idea what was meant, the
    /// first word that nobody knows is compared with those that are known.
    fn diagnosed(&self, found: &dyn Diagnostic, place: &Place) -> Problem {
        let problem = place.diagnostic(found);
        let marked = problem.marked().unwrap_or_default();
        let meant = scan::words(marked).find_map(|word| self.vocabulary.did_you_mean(word));
        if problem.message().contains("`name`") && problem.message().contains("`Subscription`") {
            return problem.remedy(
                "the text of a subscription cannot be compared, since it stands for many topics: \
                 write `resource in TopicFilter::\"…\"`, or name Action::\"receive\" alone",
            );
        }
        match meant {
            Some(meant) if problem.remedy_text().is_none() => {
                let remedy = format!("did you mean `{meant}`?");
                problem.remedy(remedy)
            }
            _ => problem,
        }
    }

    /// Attributes whose presence is asked for, and that nothing ever has, or nothing that the policy
    /// is about: to Cedar they are absent, and an exception that rests on one never holds.
    fn check_presences(
        &self,
        analysis: &Analysis,
        actions: Actions,
        place: &Place,
    ) -> Result<(), Vec<Problem>> {
        let unknown = |name: &&str| !self.vocabulary.knows_attribute(name);
        let problem = |name: &str| {
            let message = format!("nothing has an attribute called `{name}`");
            place.word_problem(message, name).remedy(
                match self.vocabulary.nearest_attribute(name) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "the schema has every attribute: `portcullis policy schema`".to_owned(),
                },
            )
        };
        let presences = || analysis.presences.iter().map(AsRef::as_ref);
        let mut problems: Vec<Problem> = presences().filter(unknown).map(problem).collect();
        for name in presences() {
            let Some((_, its)) = OF_SOME_ACTIONS.iter().find(|(known, _)| *known == name) else {
                continue;
            };
            if !its.iter().any(|action| actions.contains(*action)) {
                let message = format!("nothing that this policy is about ever has `{name}`");
                let problem = place.word_problem(message, name);
                problems.push(
                    problem.remedy(
                        "`portcullis policy schema` says which actions and resources have it",
                    ),
                );
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// What Cedar accepts and the broker does not. Gives the filters, each once.
    fn check(&self, analysis: &Analysis, place: &Place) -> Result<Vec<PolicyFilter>, Vec<Problem>> {
        let mut problems: Vec<Problem> =
            analysis.misuses.iter().map(|misuse| misuse_problem(misuse, place)).collect();
        let mut filters: Vec<PolicyFilter> = Vec::new();
        for text in &analysis.filters {
            if filters.iter().any(|known| **known.text() == **text) {
                continue;
            }
            match PolicyFilter::parse(text) {
                Ok(filter) => filters.push(filter),
                Err(problem) => problems.push(
                    place
                        .literal_problem(
                            format!("TopicFilter {text:?}: {problem}"),
                            "TopicFilter",
                            text,
                        )
                        .remedy(problem.remedy()),
                ),
            }
        }
        if let Some(groups) = self.groups {
            for group in analysis.groups.iter().filter(|group| !groups.contains(group)) {
                let message = format!("group {group:?} is not declared in principals.toml");
                let remedy = nearest(group, groups.iter().map(|(known, _)| &**known)).map_or_else(
                    || format!("declare it there: [group.{group:?}]"),
                    |known| format!("did you mean {known:?}?"),
                );
                problems.push(place.literal_problem(message, "Group", group).remedy(remedy));
            }
        }
        if problems.is_empty() { Ok(filters) } else { Err(problems) }
    }

    fn actions(&self, policy: &Policy) -> Actions {
        let named = match policy.action_constraint() {
            ActionConstraint::Any => {
                return Action::ALL.into_iter().fold(Actions::default(), Actions::with);
            }
            ActionConstraint::Eq(action) => vec![action],
            ActionConstraint::In(actions) => actions,
        };
        Action::ALL
            .into_iter()
            .filter(|action| {
                let action = self.vocabulary.action(*action);
                named.iter().any(|group| {
                    *group == action || self.vocabulary.actions.is_ancestor_of(group, &action)
                })
            })
            .fold(Actions::default(), Actions::with)
    }
}

/// Attributes that only requests of these actions can have.
const OF_SOME_ACTIONS: [(&str, &[Action]); 6] = [
    ("name", &[Action::Publish, Action::Receive]),
    ("content_type", &[Action::Publish, Action::Receive]),
    ("user_properties", &[Action::Publish, Action::Receive]),
    ("share_group", &[Action::Subscribe]),
    ("wildcard", &[Action::Subscribe]),
    ("shared", &[Action::Subscribe]),
];

fn check_id(policy: &Policy, place: &Place) -> Result<Arc<str>, Problem> {
    let id = policy.annotation("id").unwrap_or_default();
    if id.is_empty() {
        return Err(place
            .problem("the policy has no @id")
            .remedy("name it: @id(\"…\"); refusals and the audit log tell it"));
    }
    let (message, remedy) = if id.len() > ID_BYTES_MAX {
        (format!("the @id is longer than {ID_BYTES_MAX} bytes"), "shorten it")
    } else if let Some(character) = id.chars().find(|character| is_harmful(*character)) {
        let message = format!("the @id has the character U+{:04X}", u32::from(character));
        (message, "remove it: it cannot be seen, or changes how the rest is shown")
    } else if id.contains(',') || id.trim() != id || matches!(id, "-" | "*") {
        let message = format!("no case could name @id({id:?})");
        (message, "write one without commas and blanks around it, other than - and *")
    } else {
        return Ok(id.into());
    };
    Err(place.problem(message).remedy(remedy))
}

/// Says what most likely is behind a text that cannot be parsed.
fn unparsed(problem: Problem) -> Problem {
    let remedy = match problem.marked().unwrap_or_default() {
        "@" | "permit" | "forbid" => "is the `;` of the policy before it missing?",
        marked if marked.starts_with('/') => "Cedar has only comments that begin with //",
        _ => return problem,
    };
    problem.remedy(remedy)
}

fn misuse_problem(misuse: &Misuse, place: &Place) -> Problem {
    let message = misuse.message.as_str();
    let problem = match &misuse.part {
        MisusedPart::Literal(kind, id) => place.literal_problem(message, kind, id),
        MisusedPart::Word(word) => place.word_problem(message, word),
        MisusedPart::Whole => place.problem(message),
    };
    problem.remedy(misuse.remedy)
}
