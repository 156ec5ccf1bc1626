//! Why the policies answer a question as they do.
//!
//! An explanation has the answer and, the most helpful first, the rules that come near the
//! question: those that decide, those that nearly applied and what kept them from it, down to the
//! part of a condition and the facts it read. Cedar judges every part by itself, in the very
//! request that was answered; nothing of it is judged anew here.

mod dissection;
mod met;
mod survey;
mod trial;
mod words;

use std::sync::Arc;

use cedar_policy::Effect;
use serde::{Deserialize, Serialize};

use super::Bundle;
use super::acl::Acl;
use super::drawing::Excerpt;
use super::judge::Asker;
use super::load::{Rule, on_large_stack};
use super::permit::Denial;
use super::problem::Problem;
use super::question::{Answer, Asked, Question};
use dissection::Dissection;
use survey::Survey;
use trial::Trial;

/// Why the policies answer a question as they do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Who asks, as Cedar writes it.
    pub principal: String,
    /// Every group it is in, directly or through other groups.
    pub groups: Vec<Arc<str>>,
    /// The action.
    pub action: String,
    /// The listener, topic or filter.
    pub resource: String,
    /// True when it is allowed.
    pub allowed: bool,
    /// The answer in words.
    pub answer: String,
    /// The filters of the policies that have to do with the topic or filter, up to a bound.
    pub filters: Vec<Filter>,
    /// Filters beyond the bound.
    pub filters_untold: usize,
    /// Of a refused SUBSCRIBE: the parts that are forbidden.
    pub refused: Vec<Portion>,
    /// Of a refused SUBSCRIBE: parts that would be allowed.
    pub would_be_allowed: Vec<Portion>,
    /// True when a forbid refuses it, and without that no policy would permit it either.
    pub not_permitted_either: bool,
    /// The rules that come near, the most helpful first, up to a bound.
    pub rules: Vec<RuleReport>,
    /// Rules of this action beyond the bound, or about other principals and other topics.
    pub rules_untold: usize,
    /// How many policies there are.
    pub policies: usize,
    /// Their generation.
    pub policy_epoch: u64,
    /// Their hash.
    pub policy_hash: String,
}

/// A filter of the policies that has to do with what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// As the policy has it.
    pub filter: Arc<str>,
    /// What it is for this client, where it has placeholders.
    pub here: Vec<String>,
    /// How it lies to what was asked for.
    pub relation: Relation,
}

/// How a filter lies to what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// It matches the topic.
    Matches,
    /// It matches all that the subscription can match.
    Covers,
    /// It matches some that the subscription can match.
    Overlaps,
}

/// A part of a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Portion {
    /// The filter that matches it and nothing else.
    pub filter: String,
    /// The policies that decide about it.
    pub policies: Vec<Arc<str>>,
}

/// One rule, and what it had to do with the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleReport {
    /// Its `@id`.
    pub id: Arc<str>,
    /// What it does where it applies.
    pub effect: RuleEffect,
    /// Its `@reason`.
    pub reason: Option<String>,
    /// The file it stands in.
    pub file: String,
    /// The line it begins in, from 1.
    pub line: usize,
    /// The column it begins in, from 1, in characters.
    pub column: usize,
    /// What became of it.
    pub state: State,
    /// Why its evaluation failed.
    pub error: Option<String>,
    /// The parts that kept it from applying; of a forbid that decides, those that would have.
    pub marks: Vec<Mark>,
    /// The lines with the marks.
    pub excerpt: Option<Excerpt>,
}

/// What a rule does where it applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleEffect {
    /// It permits.
    Permit,
    /// It forbids, whatever is permitted.
    Forbid,
}

/// What became of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its evaluation failed, and that refuses everything.
    Fails,
    /// It decided.
    Decides,
    /// One thing kept it from applying: the principal, the resource, or conditions. Its filter is
    /// about the topic at least in the beginning.
    Nearly,
    /// It applied, and something stronger decided.
    Applies,
    /// It did not apply.
    DoesNotApply,
}

/// A part of a rule, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Which part.
    pub part: Part,
    /// Its text.
    pub text: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// Whether it holds; `None` when its evaluation failed.
    pub holds: Option<bool>,
    /// What it met, in words.
    pub met: Vec<String>,
    /// Bytes of the excerpt.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub span: Option<(usize, usize)>,
}

/// A part of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// What the scope asks of the principal.
    Principal,
    /// What the scope asks of the resource.
    Resource,
    /// A condition under `when`.
    When,
    /// A condition under `unless`.
    Unless,
}

impl Question {
    /// Explains the answer of these policies.
    ///
    /// # Errors
    /// When there is no thread to do it on.
    pub fn explain(&self, bundle: &Arc<Bundle>) -> Result<Explanation, Problem> {
        on_large_stack("policy-explain", || {
            let answer = self.ask(bundle);
            let mut explanation = self.unexplained(bundle, &answer);
            // Who cannot be described is refused for that; the answer has the reason.
            let _ = self.survey(bundle, &answer, &mut explanation);
            explanation
        })
    }

    /// The answer, without its reasons.
    fn unexplained(&self, bundle: &Bundle, answer: &Answer) -> Explanation {
        Explanation {
            principal: bundle.principal(&self.identity).to_string(),
            groups: bundle
                .resolve(&self.identity)
                .map(|resolved| resolved.groups)
                .unwrap_or_default(),
            action: self.asked.action().as_str().to_owned(),
            resource: match &self.asked {
                Asked::Connect(_) => self.session.listener.to_string(),
                Asked::Enroll(facts) => facts.profile.to_string(),
                Asked::Subscribe { filter, .. } => filter.to_string(),
                Asked::Publish { message, .. } | Asked::Receive { message, .. } => {
                    message.topic.as_str().to_owned()
                }
            },
            allowed: answer.is_allowed(),
            answer: answer.to_string(),
            filters: Vec::new(),
            filters_untold: 0,
            refused: Vec::new(),
            would_be_allowed: Vec::new(),
            not_permitted_either: false,
            rules: Vec::new(),
            rules_untold: 0,
            policies: bundle.policies(),
            policy_epoch: bundle.epoch().0,
            policy_hash: bundle.hash().to_owned(),
        }
    }

    fn survey(
        &self,
        bundle: &Arc<Bundle>,
        answer: &Answer,
        explanation: &mut Explanation,
    ) -> Result<(), Denial> {
        let mut subject = self.subject(bundle);
        let asker = subject.asker()?;
        let survey = Survey::of(&asker, &self.asked, answer);
        let acl = Acl::new(survey.rules.iter().map(|near| near.rule), self.asked.action())?;
        let request = asker.prepare(asker.inquiry(&acl, &self.asked)?)?;
        let trial = Trial { request, asker: &asker, asked: &self.asked, answer };
        let mut rules: Vec<(&Rule, RuleReport)> =
            survey.rules.iter().map(|near| (near.rule, trial.report(*near))).collect();
        rules.sort_by_key(|(_, report)| report.order(answer));
        explanation.not_permitted_either =
            !answer.is_allowed() && !answer.policies().is_empty() && !self.is_permitted(&asker)?;
        if let Asked::Subscribe { filter, facts } = &self.asked
            && !explanation.allowed
        {
            let dissection = Dissection { question: self, filter, asker: &asker, rules: &rules };
            explanation.refused = dissection.refused();
            explanation.would_be_allowed = dissection.would_be_allowed(bundle, facts);
        }
        explanation.filters = survey.filters;
        explanation.filters_untold = survey.filters_untold;
        explanation.rules_untold = survey.rules_untold;
        explanation.rules = rules.into_iter().map(|(_, report)| report).collect();
        Ok(())
    }

    /// Whether the permits alone would allow it.
    fn is_permitted(&self, asker: &Asker<'_>) -> Result<bool, Denial> {
        let rules =
            asker.bundle.rules_of(self.asked.action(), asker.identity, &asker.resolved.groups);
        let permits: Vec<&Rule> = rules
            .filter(|(rule, candidate)| *candidate && rule.policy.effect() == Effect::Permit)
            .map(|(rule, _)| rule)
            .collect();
        let acl = Acl::new(permits.iter().copied(), self.asked.action())?;
        let allowed = asker.permits(asker.inquiry(&acl, &self.asked)?);
        Ok(allowed.is_ok())
    }
}

impl RuleReport {
    /// What decided comes first, then what is most likely to be what the asker had in mind.
    fn order(&self, answer: &Answer) -> (State, bool, bool, usize) {
        // Where nothing permits it, a permit that nearly did is what was meant.
        let unlikely = answer.policies().is_empty() && self.effect == RuleEffect::Forbid;
        let by_scope =
            self.marks.iter().any(|mark| matches!(mark.part, Part::Principal | Part::Resource));
        (self.state, unlikely, by_scope, self.marks.len())
    }
}

impl From<Effect> for RuleEffect {
    fn from(effect: Effect) -> Self {
        match effect {
            Effect::Permit => Self::Permit,
            Effect::Forbid => Self::Forbid,
        }
    }
}
