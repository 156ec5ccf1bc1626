//! One question to the solver.

use cedar_policy::{Policy, PolicyId, PolicySet, RequestEnv};
use cedar_policy_symcc::solver::LocalSolver;
use cedar_policy_symcc::{CedarSymCompiler, CompiledPolicy, CompiledPolicySet, Env};

use super::literals::Literal;
use crate::policy::schema::{Action, Vocabulary};

/// The question whether one kind of principal can break a claim by one action.
pub(super) struct Query<'a> {
    pub(super) action: Action,
    pub(super) environment: RequestEnv,
    pub(super) vocabulary: &'a Vocabulary,
    /// Must allow.
    pub(super) left: Vec<Policy>,
    /// Must not allow.
    pub(super) right: Vec<Policy>,
    pub(super) literals: &'a [Literal],
    /// What cannot be.
    pub(super) laws: Vec<String>,
}

impl Query<'_> {
    /// A request that the left policies allow, under the laws, and the right ones do not.
    pub(super) async fn ask(
        &self,
        compiler: &mut CedarSymCompiler<LocalSolver>,
    ) -> Result<Option<Env>, String> {
        let schema = &self.vocabulary.schema;
        for policy in &self.right {
            // The broker refuses where an evaluation fails; the formulas only leave the policy out.
            let compiled = CompiledPolicy::compile(policy, &self.environment, schema)
                .map_err(|error| told(&error))?;
            let sound = compiler.check_never_errors_opt(&compiled).await;
            if !sound.map_err(|error| told(&error))? {
                return Err(format!(
                    "rule {:?} of the old policies can fail to evaluate, which refuses everything; \
                     write it without arithmetic",
                    policy.id().to_string()
                ));
            }
        }
        let mut left = self.left.clone();
        for (number, law) in self.laws.iter().enumerate() {
            let text = format!("forbid (principal, action, resource) when {{ {law} }};");
            let id = PolicyId::new(format!("law {number}"));
            left.push(Policy::parse(Some(id), text).map_err(|error| told(&error))?);
        }
        let compile = |policies: Vec<Policy>| {
            let set = PolicySet::from_policies(policies).map_err(|error| told(&error))?;
            CompiledPolicySet::compile(&set, &self.environment, schema)
                .map_err(|error| told(&error))
        };
        let (left, right) = (compile(left)?, compile(self.right.clone())?);
        let found = compiler.check_implies_with_counterexample_opt(&left, &right).await;
        found.map_err(|error| told(&error))
    }
}

/// An error with all its causes.
pub(super) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
