//! A set of policies, loaded whole or not at all, and never changed afterwards.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Weak};

use cedar_policy::{Authorizer, EntityUid, PrincipalConstraint};
use parking_lot::Mutex;

use super::PolicyEpoch;
use super::acl::Acl;
use super::cases::CaseTables;
use super::groups::DeclaredGroups;
use super::lints;
use super::load::{self, Rule};
use super::permit::Denial;
use super::polarity::Reads;
use super::policy_filter::PolicyFilter;
use super::principals::{IgnoredClaim, Principals, Resolved};
use super::problem::{LoadError, Problem, Problems};
use super::schema::{Action, Actions, SCHEMA, Vocabulary, uid};
use super::source::{PolicyFolder, Source};
use crate::identity::{Identity, PrincipalKind};
use crate::suggest::nearest;

/// The number of a rule within its bundle.
pub(super) type RuleIndex = u32;

/// Policies in force together.
pub struct Bundle {
    epoch: PolicyEpoch,
    hash: String,
    rules: Vec<Rule>,
    index: Index,
    /// `None` only for text without a folder: nothing says then which groups exist.
    principals: Option<Principals>,
    warnings: Problems,
    pub(super) vocabulary: Vocabulary,
    pub(super) authorizer: Authorizer,
    pub(super) hasher: ahash::RandomState,
    pub(super) acls: Mutex<Acls>,
}

/// The rules by what their scope asks of the principal.
#[derive(Debug, Default)]
struct Index {
    by_id: HashMap<EntityUid, Vec<RuleIndex>>,
    by_kind: HashMap<PrincipalKind, Vec<RuleIndex>>,
    rest: Vec<RuleIndex>,
}

/// Compiled rules that some session still uses, so that a fleet shares them.
#[derive(Default)]
pub(super) struct Acls {
    pub(super) known: ahash::AHashMap<(Action, Box<[RuleIndex]>), Weak<Acl>>,
    /// At this many entries the unused ones are removed.
    sweep_at: usize,
}

impl Bundle {
    /// Loads a policy folder: every `*.cedar` file in it, and its `principals.toml`; without
    /// one, no group exists. They then have to pass the cases of its tables. The order of the
    /// files does not matter.
    ///
    /// # Errors
    /// Everything that is wrong with the files or the policies in them; cases that fail.
    pub fn load_dir(dir: &Path, epoch: PolicyEpoch) -> Result<Arc<Self>, LoadError> {
        let (bundle, tables) = Self::load_dir_with_tables(dir, epoch)?;
        tables.check(&bundle)?;
        Ok(bundle)
    }

    /// As [`Self::load_dir`], but no case is run: for asking, never for putting in force.
    ///
    /// # Errors
    /// Everything that is wrong with the files or the policies in them.
    pub fn load_dir_untested(dir: &Path, epoch: PolicyEpoch) -> Result<Arc<Self>, LoadError> {
        Self::load_dir_with_tables(dir, epoch).map(|(bundle, _)| bundle)
    }

    /// As [`Self::load_dir_untested`], with the cases of the folder.
    ///
    /// # Errors
    /// Everything that is wrong with the files, or with the policies in them.
    pub fn load_dir_with_tables(
        dir: &Path,
        epoch: PolicyEpoch,
    ) -> Result<(Arc<Self>, CaseTables), LoadError> {
        let folder = PolicyFolder::read(dir)?;
        let tables = CaseTables::new(dir, folder.tables)?;
        let principals = folder.principals.as_ref().map(Principals::read).transpose()?;
        let mut bundle = Self::load(&folder.policies, Some(principals.unwrap_or_default()), epoch)?;
        bundle.warnings.put_first(folder.left_out);
        Ok((Arc::new(bundle), tables))
    }

    /// Loads policies from text; problems are shown under the given name. Without principals
    /// every group exists, and whoever asks is in those that its identity says.
    ///
    /// # Errors
    /// Everything that is wrong with the policies.
    pub fn load_text(
        name: &str,
        text: &str,
        principals: Option<&Principals>,
        epoch: PolicyEpoch,
    ) -> Result<Self, LoadError> {
        Self::load(&[Source::new(name, text)], principals.cloned(), epoch)
    }

    fn load(
        sources: &[Source],
        principals: Option<Principals>,
        epoch: PolicyEpoch,
    ) -> Result<Self, LoadError> {
        let (vocabulary, rules) = load::load(sources, principals.as_ref().map(Principals::groups))?;
        let index = Index::new(&rules, &vocabulary)?;
        Ok(Self {
            epoch,
            hash: content_hash(&rules, principals.as_ref()),
            warnings: lints::warnings(&rules, principals.as_ref().map(Principals::groups)),
            rules,
            index,
            principals,
            vocabulary,
            authorizer: Authorizer::new(),
            hasher: ahash::RandomState::new(),
            acls: Mutex::default(),
        })
    }

    /// Which generation of policies this is.
    #[must_use]
    pub fn epoch(&self) -> PolicyEpoch {
        self.epoch
    }

    /// SHA-256 of all that decides (policies, principals, schema), in hex. The same policies in
    /// other files, or in another order, have the same hash.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// What is worth a look, and no reason to refuse the policies.
    #[must_use]
    pub fn warnings(&self) -> &Problems {
        &self.warnings
    }

    /// How many policies there are.
    #[must_use]
    pub fn policies(&self) -> usize {
        self.rules.len()
    }

    /// The ids of the policies, in order.
    pub fn policy_ids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rules.iter().map(|rule| &rule.id)
    }

    /// The ids of those that can decide a case: it cannot ask about enrolment.
    pub fn policy_ids_that_cases_ask(&self) -> impl Iterator<Item = &Arc<str>> {
        let is_about_clients = |rule: &&Rule| rule.actions != Actions::default();
        self.rules.iter().filter(is_about_clients).map(|rule| &rule.id)
    }

    /// True when a policy has this id.
    #[must_use]
    pub fn has_policy(&self, id: &str) -> bool {
        self.rules.binary_search_by(|rule| (*rule.id).cmp(id)).is_ok()
    }

    /// The policies, in order of their ids.
    #[cfg(feature = "verify")]
    pub(super) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Who is in which group.
    #[cfg(feature = "verify")]
    pub(super) fn principals(&self) -> Option<&Principals> {
        self.principals.as_ref()
    }

    /// The policies as Cedar has them.
    pub(super) fn policies_as_loaded(&self) -> impl Iterator<Item = &cedar_policy::Policy> {
        self.rules.iter().map(|rule| &rule.policy)
    }

    /// The policies as written, by id, in order of their ids.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&Arc<str>, &str)> {
        self.rules.iter().map(|rule| (&rule.id, rule.place.text()))
    }

    /// A policy that reads the client identifier, by condition or placeholder: it means something
    /// only on listeners that bind client ids to identities.
    #[must_use]
    pub fn reads_client_id(&self) -> Option<&Arc<str>> {
        let reads = |rule: &&Rule| {
            rule.reads.any_of(Reads::CLIENT_ID)
                || rule.filters.iter().any(PolicyFilter::names_client_id)
        };
        self.rules.iter().find(reads).map(|rule| &rule.id)
    }

    /// Refuses policies that name a listener that is none of these: they would never apply.
    ///
    /// # Errors
    /// Every such name.
    pub fn check_listeners(&self, known: &[Arc<str>]) -> Result<(), LoadError> {
        let is_known = |name: &str| known.iter().any(|listener| **listener == *name);
        let unknown = |rule: &'_ Rule| -> Vec<Problem> {
            let names = rule.listeners.iter().filter(|name| !is_known(name));
            names
                .map(|name| {
                    let message = format!("no listener of the configuration is called {name:?}");
                    let remedy = nearest(name, known.iter().map(|known| &**known)).map_or_else(
                        || format!("there are {}", known.join(", ")),
                        |known| format!("did you mean {known:?}?"),
                    );
                    rule.place.word_problem(message, name).remedy(remedy)
                })
                .collect()
        };
        let problems: Vec<Problem> = self.rules.iter().flat_map(unknown).collect();
        if problems.is_empty() { Ok(()) } else { Err(LoadError::new(problems)) }
    }

    /// True when the group exists. Whoever is put into another is denied everything.
    #[must_use]
    pub fn declares_group(&self, group: &str) -> bool {
        self.declared_groups().is_none_or(|groups| groups.contains(group))
    }

    /// The entity that an identity is.
    pub(super) fn principal(&self, identity: &Identity) -> EntityUid {
        uid(self.vocabulary.principal(identity.kind), &identity.name)
    }

    /// The groups that are declared; `None` where nothing says which groups exist.
    pub(super) fn declared_groups(&self) -> Option<&DeclaredGroups> {
        self.principals.as_ref().map(Principals::groups)
    }

    /// All groups and tags of a principal.
    ///
    /// # Errors
    /// A denial of everything: a group that does not exist, or too many.
    pub(super) fn resolve(&self, identity: &Identity) -> Result<Resolved, Denial> {
        let resolved = match &self.principals {
            Some(principals) => principals.resolve(identity),
            None => Resolved::as_it_stands(identity),
        };
        resolved.map_err(Denial::failed)
    }

    /// Claims of a certificate to groups that its authority may not confer.
    pub(super) fn ignored_claims(&self, identity: &Identity) -> Vec<IgnoredClaim> {
        let principals = self.principals.as_ref();
        principals.map_or_else(Vec::new, |principals| principals.ignored_claims(identity))
    }

    /// The groups that a group is directly in.
    pub(super) fn parents_of(&self, group: &str) -> impl Iterator<Item = &Arc<str>> {
        self.principals.iter().flat_map(move |principals| principals.groups().parents(group))
    }

    /// The compiled rules of an action for a principal that is in these groups.
    pub(super) fn acl(
        &self,
        action: Action,
        identity: &Identity,
        groups: &[Arc<str>],
    ) -> Result<Arc<Acl>, Denial> {
        let rules = self.candidates(action, identity, groups);
        let key = (action, rules);
        if let Some(acl) = self.acls.lock().known.get(&key).and_then(Weak::upgrade) {
            return Ok(acl);
        }
        let acl = Acl::new(key.1.iter().filter_map(|index| self.rule(*index)), action)?;
        let acl = Arc::new(acl);
        self.acls.lock().add(key, &acl);
        Ok(acl)
    }

    /// Every rule of an action, and whether its scope leaves room for this principal.
    pub(super) fn rules_of(
        &self,
        action: Action,
        identity: &Identity,
        groups: &[Arc<str>],
    ) -> impl Iterator<Item = (&Rule, bool)> {
        let candidates = self.candidates(action, identity, groups);
        let rules = self.rules.iter().enumerate();
        rules.filter(move |(_, rule)| rule.actions.contains(action)).map(move |(at, rule)| {
            let candidate =
                RuleIndex::try_from(at).is_ok_and(|at| candidates.binary_search(&at).is_ok());
            (rule, candidate)
        })
    }

    /// The rules whose scope does not rule out this principal, in order.
    pub(super) fn candidates(
        &self,
        action: Action,
        identity: &Identity,
        groups: &[Arc<str>],
    ) -> Box<[RuleIndex]> {
        let principal = self.principal(identity);
        let of_groups = groups.iter().map(|group| uid(&self.vocabulary.group, group));
        let by_id = std::iter::once(principal)
            .chain(of_groups)
            .filter_map(|entity| self.index.by_id.get(&entity))
            .flatten();
        let by_kind = self.index.by_kind.get(&identity.kind).into_iter().flatten();
        let mut rules: Vec<RuleIndex> = by_id
            .chain(by_kind)
            .chain(&self.index.rest)
            .copied()
            .filter(|index| self.rule(*index).is_some_and(|rule| rule.actions.contains(action)))
            .collect();
        rules.sort_unstable();
        rules.dedup();
        rules.into()
    }

    pub(super) fn rule(&self, index: RuleIndex) -> Option<&Rule> {
        self.rules.get(usize::try_from(index).ok()?)
    }
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle")
            .field("epoch", &self.epoch)
            .field("hash", &self.hash)
            .field("policies", &self.rules.len())
            .finish_non_exhaustive()
    }
}

impl Index {
    fn new(rules: &[Rule], vocabulary: &Vocabulary) -> Result<Self, Problem> {
        let mut index = Self::default();
        for (at, rule) in rules.iter().enumerate() {
            let at = RuleIndex::try_from(at)
                .map_err(|_| Problem::new("there are more policies than can be numbered"))?;
            let list = match &rule.principal {
                PrincipalConstraint::Any => &mut index.rest,
                PrincipalConstraint::Is(name) => match vocabulary.kind(name) {
                    Some(kind) => index.by_kind.entry(kind).or_default(),
                    None => &mut index.rest,
                },
                PrincipalConstraint::Eq(entity)
                | PrincipalConstraint::In(entity)
                | PrincipalConstraint::IsIn(_, entity) => {
                    index.by_id.entry(entity.clone()).or_default()
                }
            };
            list.push(at);
        }
        Ok(index)
    }
}

impl Acls {
    const SWEEP_AT_MIN: usize = 64;

    pub(super) fn add(&mut self, key: (Action, Box<[RuleIndex]>), acl: &Arc<Acl>) {
        if self.known.len() >= self.sweep_at.max(Self::SWEEP_AT_MIN) {
            self.known.retain(|_, acl| acl.strong_count() > 0);
            self.sweep_at = self.known.len().saturating_mul(2);
        }
        self.known.insert(key, Arc::downgrade(acl));
    }
}

/// Every part is preceded by its length, so that no two sets of parts read alike.
fn content_hash(rules: &[Rule], principals: Option<&Principals>) -> String {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut part = |text: &str| {
        digest.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(text.as_bytes());
    };
    part(SCHEMA);
    part(&rules.len().to_string());
    for rule in rules {
        part(&rule.id);
        part(rule.place.text());
    }
    if let Some(principals) = principals {
        principals.each_part(&mut part);
    }
    hex::encode(digest.finish())
}
