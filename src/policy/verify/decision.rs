//! A claim, action by action and for each type of principal, until one breaks it or none does.

use std::collections::BTreeSet;

use cedar_policy::{Effect, Policy, RequestEnv};
use cedar_policy_symcc::CedarSymCompiler;
use cedar_policy_symcc::solver::LocalSolver;

use super::laws::laws_of_facts;
use super::literals::{Literal, Shape, laws};
use super::model::{Model, OwnedWords, Realised};
use super::neighbours::Selection;
use super::query::{Query, told};
use super::{Claim, Counterexample, Limits, Proof, Solver, Verdict, undecided};
use crate::identity::PrincipalKind;
use crate::policy::Comparison;
use crate::policy::load::Rule;
use crate::policy::schema::Action;

/// Rules that one question to the solver may hold: it copes with tens.
pub(super) const RULES_MAX: usize = 64;
/// Filters that these may name.
const LITERALS_MAX: usize = 128;
/// Laws that are added one by one, each for a model that no topic can have.
const REFINEMENTS_MAX: usize = 64;

const KINDS: [PrincipalKind; 4] =
    [PrincipalKind::Device, PrincipalKind::User, PrincipalKind::Service, PrincipalKind::Anonymous];

/// A claim on its way to a verdict.
pub(super) struct Decision<'a> {
    pub(super) claim: &'a Claim,
    pub(super) solver: &'a Solver,
    pub(super) limits: Limits,
}

impl Decision<'_> {
    pub(super) async fn run(&self) -> Verdict {
        let mut proof = Proof::default();
        if let Claim::NothingNew { old, new } = self.claim
            && old.principals() != new.principals()
        {
            return undecided(
                "principals.toml differs between the two folders, and only rules are compared; \
                 give both the same one, and look at what else changes with `policy diff`",
            );
        }
        for action in Action::OF_CLIENTS {
            let selection = self.selection(action);
            let ids = selection.ids();
            if !selection.new.iter().any(|rule| rule.policy.effect() == Effect::Permit) {
                proof.rules.extend(ids);
                continue;
            }
            let literals = self.literals(action, &selection);
            if ids.len() > RULES_MAX || literals.len() > LITERALS_MAX {
                return undecided(format!(
                    "{} rules with {} filters have a say about {}, and the solver copes with \
                     {RULES_MAX} and {LITERALS_MAX}; change fewer rules at a time, or narrow the \
                     filter",
                    ids.len(),
                    literals.len(),
                    action.as_str(),
                ));
            }
            proof.rules.extend(ids);
            proof.laws.extend(laws(&literals).words);
            for kind in KINDS {
                match self.query(action, kind, &selection, &literals) {
                    Ok(query) => match self.decide(query).await {
                        Ok(()) => {}
                        Err(verdict) => return verdict,
                    },
                    Err(why) => return undecided(why),
                }
            }
        }
        proof.assumptions = self.assumptions();
        Verdict::Proven(proof)
    }

    fn selection(&self, action: Action) -> Selection<'_> {
        match self.claim {
            Claim::NothingNew { old, new } => {
                let changes = Comparison::new(old, new).rules();
                let differ = [changes.added, changes.removed, changes.changed];
                let differ = differ.into_iter().flatten().collect();
                Selection::of_change(action, old.rules(), new.rules(), &differ)
            }
            Claim::Nobody { bundle, action: asked, resource, .. } if *asked == action => {
                // A subscription may reach beyond the filter, and so may what forbids it.
                let narrow = matches!(action, Action::Publish | Action::Receive);
                let filter = narrow.then(|| Shape::of(resource)).flatten();
                Selection::of_filter(action, bundle.rules(), filter.as_ref())
            }
            Claim::Nobody { .. } => Selection::default(),
        }
    }

    /// The literals that these rules name, and the claim.
    fn literals(&self, action: Action, selection: &Selection<'_>) -> Vec<Literal> {
        let mut filters: BTreeSet<&str> = selection
            .rules()
            .flat_map(|rule| rule.filters.iter().map(|filter| &**filter.text()))
            .collect();
        if let Claim::Nobody { resource, .. } = self.claim {
            filters.insert(resource);
        }
        filters.into_iter().flat_map(|filter| Literal::all(action, filter)).collect()
    }

    fn query<'a>(
        &'a self,
        action: Action,
        kind: PrincipalKind,
        selection: &Selection<'_>,
        literals: &'a [Literal],
    ) -> Result<Query<'a>, String> {
        let vocabulary = &self.claim.bundle().vocabulary;
        let resource = match action {
            Action::Connect => &vocabulary.listener,
            Action::Enroll => &vocabulary.profile,
            Action::Publish | Action::Receive => &vocabulary.topic,
            Action::Subscribe => &vocabulary.subscription,
        };
        let environment = RequestEnv::new(
            vocabulary.principal(kind).clone(),
            vocabulary.action(action),
            resource.clone(),
        );
        let of = |rules: &[&Rule]| {
            let each = rules.iter().map(|rule| match (action, &rule.rewritten) {
                (Action::Subscribe, Some(rewritten)) => Ok(rewritten.clone()),
                (Action::Subscribe, None) => {
                    Err(format!("rule {:?} has no meaning for a subscription", rule.id))
                }
                _ => Ok(rule.policy.clone()),
            });
            each.collect::<Result<Vec<Policy>, String>>()
        };
        let (left, right) = (of(&selection.new)?, of(&selection.old)?);
        let mut conditions = laws(literals).conditions;
        conditions.extend(self.claim.laws_of_groups(selection));
        conditions.extend(laws_of_facts(action).map(str::to_owned));
        if action == Action::Connect {
            conditions.extend(self.claim.laws_of_listeners(selection));
        }
        conditions.extend(self.claim.laws_of_claim(action));
        Ok(Query { action, environment, vocabulary, left, right, literals, laws: conditions })
    }

    /// Whether the claim holds so far; otherwise the verdict.
    async fn decide(&self, mut query: Query<'_>) -> Result<(), Verdict> {
        let process = self.solver.start(self.limits.memory_bytes_max);
        let process = process.map_err(|error| undecided(told(&error)))?;
        let mut compiler =
            CedarSymCompiler::new(process).map_err(|error| undecided(told(&error)))?;
        let decided = self.refine(&mut query, &mut compiler).await;
        // It is also killed when it is dropped; this waits for its end.
        let _ = compiler.solver_mut().clean_up().await;
        decided
    }

    async fn refine(
        &self,
        query: &mut Query<'_>,
        compiler: &mut CedarSymCompiler<LocalSolver>,
    ) -> Result<(), Verdict> {
        let bundle = self.claim.bundle();
        for _ in 0..REFINEMENTS_MAX {
            let found = tokio::time::timeout(self.limits.timeout, query.ask(compiler)).await;
            let found = found.map_err(|_| {
                let seconds = self.limits.timeout.as_secs();
                undecided(format!(
                    "the solver had no answer about {} within {seconds} s; give it longer with \
                     --timeout, or narrow the question",
                    query.action.as_str()
                ))
            })?;
            let Some(environment) = found.map_err(|why| undecided(self.with_hint(why)))? else {
                return Ok(());
            };
            let model = Model::read(query.action, &environment, bundle.declared_groups())
                .ok_or_else(|| undecided("the solver's model is no request"))?;
            let confirms = |words: &OwnedWords| self.claim.broken_by(words).is_some();
            match model.realise(query.action, query.literals, bundle, &confirms) {
                Realised::Confirmed(words) => return Err(self.refuted(words)),
                Realised::Impossible(law) => query.laws.push(law),
                Realised::Unconfirmed => {
                    return Err(undecided(format!(
                        "for {} the solver sees a way that asking the policies does not confirm: \
                         it knows too little of what fills placeholders, of the name of a topic, \
                         or of a subscription; ask what you fear with `policy explain`",
                        query.action.as_str()
                    )));
                }
            }
        }
        Err(undecided(format!("after {REFINEMENTS_MAX} steps the solver is not done")))
    }

    /// A solver that ends by itself has most likely run out of memory.
    fn with_hint(&self, why: String) -> String {
        if !why.contains("terminated unexpectedly") {
            return why;
        }
        let mebibytes = self.limits.memory_bytes_max >> 20;
        format!("{why}; give it more than {mebibytes} MiB with --memory, or narrow the question")
    }

    fn refuted(&self, words: OwnedWords) -> Verdict {
        match self.claim.broken_by(&words) {
            Some((old, new)) => Verdict::Refuted(Box::new(Counterexample { words, old, new })),
            None => undecided("the policies do not confirm what they have confirmed before"),
        }
    }

    fn assumptions(&self) -> Vec<String> {
        let mut told = vec![
            "a principal may be in any group and have any certificate and tag; groups nest as \
             principals.toml says"
                .to_owned(),
            "facts are what MQTT allows (QoS 0 to 2, protocol 3 to 5, TLS 12, 13 or none), and the \
             time is from 1970 to 9999"
                .to_owned(),
            "every Device and Service has a certificate, as the schema says".to_owned(),
            "cedar-policy-symcc and the solver are right".to_owned(),
        ];
        if matches!(self.claim, Claim::NothingNew { .. }) {
            told.push(
                "every principal has the same groups and tags under both; principals.toml is the \
                 same"
                    .to_owned(),
            );
        }
        told
    }
}
