//! What policies may say, and what is most likely not what their author meant.
//!
//! What can never be right is an error; the rest are warnings. A policy that means what a warning
//! is about says so, and is not warned of: `@lint("allow-wildcard")`.

use cedar_policy::{Effect, EntityUid, PrincipalConstraint, ResourceConstraint};

use super::filters::Normalised;
use super::groups::DeclaredGroups;
use super::load::Rule;
use super::polarity::Reads;
use super::policy_filter::{Bindings, Placeholder, PolicyFilter, usable};
use super::principals::Resolved;
use super::problem::{Problem, Problems};
use super::schema::{Action, Vocabulary};
use super::trie::{FilterIndex, Trie};
use crate::identity::{Identity, PrincipalKind};
use crate::mqtt::TopicFilter;
use crate::suggest::nearest;

/// The annotation that keeps a warning quiet.
const ANNOTATION: &str = "lint";

/// What can be kept quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lint {
    /// A permit on every topic, for everybody, without a condition.
    Wildcard,
    /// A forbid that refuses whole subscriptions where it could hold back messages.
    Overlap,
    /// A rule for subscriptions that counts the levels of their filter.
    Levels,
    /// A permit of which a forbid leaves nothing.
    Shadowed,
}

impl Lint {
    const ALL: [Self; 4] = [Self::Wildcard, Self::Overlap, Self::Levels, Self::Shadowed];

    /// The word in the annotation.
    const fn allowance(self) -> &'static str {
        match self {
            Self::Wildcard => "allow-wildcard",
            Self::Overlap => "allow-overlap",
            Self::Levels => "allow-levels",
            Self::Shadowed => "allow-shadowed",
        }
    }

    fn is_allowed_by(self, rule: &Rule) -> bool {
        allowances(rule).any(|word| word == self.allowance())
    }

    fn warning(self, rule: &Rule, message: String, remedy: &str) -> Problem {
        rule.place
            .problem(message)
            .remedy(format!("{remedy}, or say that it is meant: @lint(\"{}\")", self.allowance()))
            .warning()
    }
}

fn allowances(rule: &Rule) -> impl Iterator<Item = &str> {
    rule.policy
        .annotation(ANNOTATION)
        .unwrap_or_default()
        .split([' ', ','])
        .filter(|it| !it.is_empty())
}

/// What cannot be right about one rule.
pub(super) fn errors(rule: &Rule, vocabulary: &Vocabulary) -> Vec<Problem> {
    let known = Lint::ALL.map(Lint::allowance);
    let unknown = allowances(rule).filter(|word| !known.contains(word)).map(|word| {
        let remedy = nearest(word, known).map_or_else(
            || format!("there are {}", known.join(", ")),
            |near| format!("did you mean {near}?"),
        );
        rule.place.problem(format!("there is no {word:?} for @lint")).remedy(remedy)
    });
    unknown.chain(unfillable(rule, vocabulary)).collect()
}

/// A placeholder that nothing can fill: whoever has no credentials has neither certificate nor
/// tags.
fn unfillable(rule: &Rule, vocabulary: &Vocabulary) -> Option<Problem> {
    let kind = match &rule.principal {
        PrincipalConstraint::Is(kind) | PrincipalConstraint::IsIn(kind, _) => kind,
        PrincipalConstraint::Eq(entity) => entity.type_name(),
        PrincipalConstraint::Any | PrincipalConstraint::In(_) => return None,
    };
    if vocabulary.kind(kind) != Some(PrincipalKind::Anonymous) {
        return None;
    }
    let needs =
        |placeholder: &Placeholder| matches!(placeholder, Placeholder::Cn | Placeholder::Tag(_));
    let filter = rule.filters.iter().find(|filter| filter.placeholders().any(needs))?;
    let message = format!(
        "TopicFilter {:?} never matches: an Anonymous principal has no certificate and no tags",
        filter.text()
    );
    let problem = rule.place.literal_problem(message, "TopicFilter", filter.text());
    Some(problem.remedy("use ${client_id}, or name another type of principal"))
}

/// What is worth a look, in the order of the rules.
pub(super) fn warnings(rules: &[Rule], groups: Option<&DeclaredGroups>) -> Problems {
    let refusals = Refusals::of(rules);
    let of_rule = |rule| {
        let found = [wildcard(rule), overlap(rule), levels(rule), refusals.shadowed(rule)];
        found.into_iter().flatten()
    };
    let of_all = [no_connect(rules), odd_group(rules, groups)];
    of_all.into_iter().flatten().chain(rules.iter().flat_map(of_rule)).collect()
}

fn permits(rule: &Rule) -> bool {
    rule.policy.effect() == Effect::Permit
}

fn no_connect(rules: &[Rule]) -> Option<Problem> {
    let connects = |rule: &Rule| permits(rule) && rule.actions.contains(Action::Connect);
    // Policies that are about nothing a client of the broker does are for `pki serve`.
    let is_of_clients =
        |rule: &Rule| Action::OF_CLIENTS.iter().any(|it| rule.actions.contains(*it));
    let about_clients = rules.iter().any(is_of_clients);
    let nobody = about_clients && !rules.iter().any(connects);
    nobody.then(|| {
        Problem::new("no policy permits `connect`: nobody can use the broker")
            .remedy("@id(\"connect\") permit (principal is Device, action == Action::\"connect\", resource);")
            .warning()
    })
}

/// Groups whose name cannot be a level of a topic, where policies take them for one.
fn odd_group(rules: &[Rule], groups: Option<&DeclaredGroups>) -> Option<Problem> {
    let (group, _) = groups?.iter().find(|(group, _)| !usable(group, false))?;
    let fills = |filter: &&PolicyFilter| filter.placeholders().any(|it| *it == Placeholder::Group);
    let rule = rules.iter().find(|rule| rule.filters.iter().any(|filter| fills(&filter)))?;
    let filter = rule.filters.iter().find(fills)?;
    let message = format!("group {group:?} never fills ${{group}}: it is no level of a topic");
    let problem = rule.place.literal_problem(message, "TopicFilter", filter.text());
    Some(problem.remedy("rename the group: without / + # and NUL").warning())
}

fn levels(rule: &Rule) -> Option<Problem> {
    let found = rule.actions.contains(Action::Subscribe)
        && rule.reads.any_of(Reads::LEVELS)
        && !Lint::Levels.is_allowed_by(rule);
    found.then(|| {
        let message = "of a subscription `levels` is the number of levels of its filter: `a/#` has \
                       2, and topics of any depth are in it";
        let problem = rule.place.word_problem(message, "levels").warning();
        problem.remedy(format!(
            "write it for Action::\"receive\" and Action::\"publish\", or say that it is meant: \
             @lint(\"{}\")",
            Lint::Levels.allowance()
        ))
    })
}

fn wildcard(rule: &Rule) -> Option<Problem> {
    let everybody = matches!(rule.principal, PrincipalConstraint::Any | PrincipalConstraint::Is(_));
    let on_topics = [Action::Publish, Action::Subscribe, Action::Receive]
        .into_iter()
        .any(|action| rule.actions.contains(action));
    let everything = match rule.scope_filter() {
        Some(scope) => scope.is_everything(),
        None => !matches!(
            rule.policy.resource_constraint(),
            ResourceConstraint::Eq(_) | ResourceConstraint::In(_)
        ),
    };
    let found = permits(rule)
        && everybody
        && on_topics
        && everything
        && !rule.conditional
        && !Lint::Wildcard.is_allowed_by(rule);
    found.then(|| {
        let message = match &rule.scope {
            Some(scope) => format!("a permit on {scope:?} for everybody, without any condition"),
            None => "a permit on every topic for everybody, without any condition".to_owned(),
        };
        Lint::Wildcard.warning(rule, message, "narrow the filter, name a group, or add a condition")
    })
}

fn overlap(rule: &Rule) -> Option<Problem> {
    let scope = rule.scope_filter()?;
    let found = !permits(rule)
        && rule.actions.contains(Action::Subscribe)
        && scope.has_wildcard()
        && !rule.reads_subscription()
        && !Lint::Overlap.is_allowed_by(rule);
    found.then(|| {
        let message = format!(
            "refuses every subscription that overlaps {:?}, even `#`, not only the part inside",
            scope.text()
        );
        let remedy = "forbid Action::\"receive\" instead: the subscription stands, and what is \
                      forbidden is held back at delivery";
        Lint::Overlap.warning(rule, message, remedy)
    })
}

/// The forbids that nothing holds back: without a condition, on a filter or on everything.
struct Refusals<'a> {
    everywhere: Vec<&'a Rule>,
    scoped: Vec<&'a Rule>,
    trie: Trie,
    /// For walks that meet no placeholder: those of policies are compared as they are written.
    nobody: Identity,
}

impl<'a> Refusals<'a> {
    fn of(rules: &'a [Rule]) -> Self {
        let mut refusals = Self {
            everywhere: Vec::new(),
            scoped: Vec::new(),
            trie: Trie::default(),
            nobody: Identity::anonymous(),
        };
        for rule in rules.iter().filter(|rule| !permits(rule) && !rule.conditional) {
            match (rule.policy.resource_constraint(), &rule.scope) {
                (ResourceConstraint::Any, _) => refusals.everywhere.push(rule),
                (ResourceConstraint::In(_), Some(scope)) => {
                    let index = FilterIndex::try_from(refusals.scoped.len()).ok();
                    if let (Some(filter), Some(index)) = (PolicyFilter::verbatim(scope), index) {
                        refusals.trie.insert(&filter, index);
                        refusals.scoped.push(rule);
                    }
                }
                _ => {}
            }
        }
        refusals
    }

    fn shadowed(&self, permit: &Rule) -> Option<Problem> {
        if !permits(permit) || Lint::Shadowed.is_allowed_by(permit) {
            return None;
        }
        let forbid = self.covering(permit)?;
        let message = format!(
            "permits nothing: `{}` in {} forbids all of it, without any condition",
            forbid.id, forbid.place.source.name
        );
        Some(Lint::Shadowed.warning(
            permit,
            message,
            "remove one of them, or give the forbid a condition",
        ))
    }

    fn covering(&self, permit: &Rule) -> Option<&'a Rule> {
        let refuses = |forbid: &&&'a Rule| {
            let shares = |action: Action| {
                !permit.actions.contains(action) || forbid.actions.contains(action)
            };
            Action::ALL.into_iter().all(shares) && includes(&forbid.principal, &permit.principal)
        };
        if let Some(forbid) = self.everywhere.iter().find(refuses) {
            return Some(forbid);
        }
        if self.scoped.is_empty() {
            return None;
        }
        let filter = TopicFilter::parse(permit.scope.as_ref()?).ok()?;
        let mut found = Vec::new();
        let resolved = Resolved::default();
        let bindings = Bindings { identity: &self.nobody, client_id: "", resolved: &resolved };
        self.trie.covering(&Normalised::of(&filter), bindings, &mut |index| found.push(index));
        found.sort_unstable();
        let forbids =
            found.iter().filter_map(|index| self.scoped.get(usize::try_from(*index).ok()?));
        forbids.into_iter().find(refuses).copied()
    }
}

/// True when every principal of the second kind is one of the first.
fn includes(wide: &PrincipalConstraint, narrow: &PrincipalConstraint) -> bool {
    use PrincipalConstraint as Scope;
    let in_group = |group: &EntityUid| match narrow {
        Scope::In(other) | Scope::IsIn(_, other) | Scope::Eq(other) => other == group,
        Scope::Any | Scope::Is(_) => false,
    };
    let of_type = |kind| match narrow {
        Scope::Is(other) | Scope::IsIn(other, _) => other == kind,
        Scope::Eq(entity) => entity.type_name() == kind,
        Scope::Any | Scope::In(_) => false,
    };
    match wide {
        Scope::Any => true,
        Scope::Is(kind) => of_type(kind),
        Scope::In(group) => in_group(group),
        Scope::IsIn(kind, group) => of_type(kind) && in_group(group),
        Scope::Eq(entity) => matches!(narrow, Scope::Eq(other) if other == entity),
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::{Bundle, PolicyEpoch, Principals};

    const CONNECT: &str =
        "@id(\"connect\") permit (principal, action == Action::\"connect\", resource);\n";

    /// The warnings, or the errors, each on a line.
    fn lint(text: &str) -> String {
        let lines: Vec<String> = match Bundle::load_text("p.cedar", text, None, PolicyEpoch(1)) {
            Ok(bundle) => bundle.warnings().lines().collect(),
            Err(error) => error.lines().map(|line| format!("error: {line}")).collect(),
        };
        lines.join("\n")
    }

    fn check(cases: &[(&str, &str)]) {
        for (text, expected) in cases {
            let found = lint(&format!("{CONNECT}{text}"));
            assert_eq!(found, *expected, "{text}");
        }
    }

    #[test]
    fn a_set_in_which_nobody_may_connect_is_warned_of() {
        let text = r#"@id("a") permit (principal, action == Action::"publish",
            resource in TopicFilter::"a");"#;
        assert_eq!(
            lint(text),
            "no policy permits `connect`: nobody can use the broker; \
             @id(\"connect\") permit (principal is Device, action == Action::\"connect\", resource);"
        );
        assert_eq!(lint(&format!("{CONNECT}{text}")), "");
        let forbids = CONNECT.replace("permit", "forbid");
        assert!(lint(&forbids).starts_with("no policy permits `connect`"));
    }

    #[test]
    fn a_permit_on_everything_for_everybody_is_warned_of_unless_it_says_that_it_is_meant() {
        let everything = "p.cedar:2:1: a permit on every topic for everybody, without any \
            condition; narrow the filter, name a group, or add a condition, or say that it is \
            meant: @lint(\"allow-wildcard\")";
        let hash = "p.cedar:2:1: a permit on \"#\" for everybody, without any condition; narrow \
            the filter, name a group, or add a condition, or say that it is meant: \
            @lint(\"allow-wildcard\")";
        check(&[
            (r#"@id("a") permit (principal, action, resource);"#, everything),
            (r#"@id("a") permit (principal, action == Action::"publish", resource);"#, everything),
            (r#"@id("a") permit (principal, action, resource) when { true };"#, everything),
            (
                r#"@id("a") permit (principal, action == Action::"publish", resource) when { resource.name like "*" };"#,
                everything,
            ),
            (
                r#"@id("a") permit (principal, action in Action::"read", resource is Topic);"#,
                everything,
            ),
            (
                r##"@id("a") permit (principal is Device, action in Action::"write", resource in TopicFilter::"#");"##,
                hash,
            ),
            (
                r#"@id("a") permit (principal, action in Action::"read", resource in TopicFilter::"+/#");"#,
                &hash.replace("\"#\"", "\"+/#\""),
            ),
            (r#"@id("a") @lint("allow-wildcard") permit (principal, action, resource);"#, ""),
            (r#"@id("a") permit (principal in Group::"ops", action, resource);"#, ""),
            (r#"@id("a") permit (principal == User::"ann", action, resource);"#, ""),
            (
                r#"@id("a") permit (principal, action, resource) when { context.session.tls_version == 13 };"#,
                "",
            ),
            (
                r#"@id("a") permit (principal, action in Action::"read", resource in TopicFilter::"a/#");"#,
                "",
            ),
            (r#"@id("a") permit (principal, action == Action::"connect", resource);"#, ""),
        ]);
    }

    #[test]
    fn a_forbid_that_refuses_whole_subscriptions_is_pointed_to_receive() {
        let warned = "p.cedar:2:1: refuses every subscription that overlaps \"+/private/#\", even \
            `#`, not only the part inside; forbid Action::\"receive\" instead: the subscription \
            stands, and what is forbidden is held back at delivery, or say that it is meant: \
            @lint(\"allow-overlap\")";
        check(&[
            (
                r#"@id("a") forbid (principal, action in Action::"read", resource in TopicFilter::"+/private/#");"#,
                warned,
            ),
            (
                r#"@id("a") forbid (principal, action == Action::"subscribe", resource in TopicFilter::"+/private/#") unless { principal is User };"#,
                warned,
            ),
            (
                r#"@id("a") @lint("allow-overlap, allow-wildcard") forbid (principal, action in Action::"read", resource in TopicFilter::"+/private/#");"#,
                "",
            ),
            (
                r#"@id("a") forbid (principal, action == Action::"receive", resource in TopicFilter::"+/private/#");"#,
                "",
            ),
            (
                r#"@id("a") forbid (principal, action in Action::"read", resource in TopicFilter::"private");"#,
                "",
            ),
            (
                r#"@id("a") forbid (principal, action == Action::"subscribe", resource in TopicFilter::"a/#") when { resource.shared };"#,
                "",
            ),
            (
                r#"@id("a") forbid (principal, action in Action::"write", resource in TopicFilter::"+/private/#");"#,
                "",
            ),
        ]);
    }

    #[test]
    fn a_permit_of_which_a_forbid_leaves_nothing_is_warned_of() {
        let warned = "p.cedar:3:1: permits nothing: `f` in p.cedar forbids all of it, without any \
            condition; remove one of them, or give the forbid a condition, or say that it is \
            meant: @lint(\"allow-shadowed\")";
        let forbid = r#"@id("f") forbid (principal is Device, action in Action::"write", resource in TopicFilter::"a/+/#");"#;
        for (permit, expected) in [
            (
                r#"principal is Device, action == Action::"publish", resource in TopicFilter::"a/b""#,
                warned,
            ),
            (
                r#"principal == Device::"d", action == Action::"publish", resource in TopicFilter::"a/${cn}/#""#,
                warned,
            ),
            (
                r#"principal is Device in Group::"g", action in Action::"write", resource in TopicFilter::"a/+/#""#,
                warned,
            ),
            (
                r#"principal in Group::"g", action == Action::"publish", resource in TopicFilter::"a/b""#,
                "",
            ),
            (
                r#"principal is User, action == Action::"publish", resource in TopicFilter::"a/b""#,
                "",
            ),
            (
                r#"principal is Device, action in [Action::"write", Action::"read"], resource in TopicFilter::"a/b""#,
                "",
            ),
            (
                r#"principal is Device, action == Action::"publish", resource in TopicFilter::"a/#""#,
                "",
            ),
            (
                r#"principal is Device, action == Action::"publish", resource in TopicFilter::"${cn}/b""#,
                "",
            ),
        ] {
            let permit = format!("@id(\"p\") permit ({permit});");
            check(&[
                (&format!("{forbid}\n{permit}"), expected),
                (&format!("{}\n{permit}", forbid.replace(';', " when { context.qos == 0 };")), ""),
                (&format!("{forbid}\n@lint(\"allow-shadowed\") {permit}"), ""),
            ]);
        }
        let total = r#"@id("f") forbid (principal, action, resource);"#;
        let permit = r#"@id("p") permit (principal, action == Action::"publish", resource in TopicFilter::"$SYS/x");"#;
        assert_eq!(lint(&format!("{CONNECT}{total}\n{permit}")).lines().count(), 2, "connect too");
        let same = r#"@id("f") forbid (principal, action, resource in TopicFilter::"own/${cn}");"#;
        for (filter, shadowed) in
            [("own/${cn}", true), ("own/${principal}", false), ("own/+", false)]
        {
            let permit = format!(
                "@id(\"p\") permit (principal, action == Action::\"publish\", resource in TopicFilter::\"{filter}\");"
            );
            assert_eq!(
                lint(&format!("{CONNECT}{same}\n{permit}")).contains("permits nothing"),
                shadowed,
                "{filter}"
            );
        }
    }

    #[test]
    fn a_placeholder_that_nothing_fills_is_an_error() {
        let error = "error: p.cedar:2:96: TopicFilter \"own/${cn}\" never matches: an Anonymous \
            principal has no certificate and no tags; use ${client_id}, or name another type of \
            principal";
        check(&[
            (
                r#"@id("a") permit (principal is Anonymous, action == Action::"publish", resource in TopicFilter::"own/${cn}");"#,
                error,
            ),
            (
                r#"@id("a") permit (principal is Anonymous, action == Action::"publish", resource in TopicFilter::"own/${client_id}");"#,
                "",
            ),
            (
                r#"@id("a") permit (principal is User, action == Action::"publish", resource in TopicFilter::"own/${cn}");"#,
                "",
            ),
            (
                r#"@id("a") permit (principal, action == Action::"publish", resource in TopicFilter::"own/${cn}");"#,
                "",
            ),
        ]);
        let text = r#"@id("a") forbid (principal == Anonymous::"anonymous", action == Action::"publish", resource)
            when { resource in TopicFilter::"x/${tag:plant}" };"#;
        assert!(lint(text).contains("never matches"), "{}", lint(text));
    }

    #[test]
    fn a_subscription_whose_levels_are_counted_is_warned_of() {
        let warned = "p.cedar:2:94: of a subscription `levels` is the number of levels of its \
            filter: `a/#` has 2, and topics of any depth are in it; write it for \
            Action::\"receive\" and Action::\"publish\", or say that it is meant: \
            @lint(\"allow-levels\")";
        let rule = r#"@id("a") permit (principal is User, action == Action::"subscribe", resource) when { resource.levels == 2 };"#;
        check(&[
            (rule, warned),
            (&rule.replace("subscribe", "receive"), ""),
            (&rule.replace("permit", "@lint(\"allow-levels\") permit"), ""),
        ]);
    }

    #[test]
    fn a_group_that_cannot_fill_its_placeholder_is_warned_of() {
        let rule = r#"@id("a") permit (principal is User, action == Action::"publish", resource in TopicFilter::"teams/${group}");"#;
        for (group, warnings) in [("a/b", 1), ("+", 1), ("ab", 0)] {
            let principals = Principals::parse("p", &format!("[group.{group:?}]")).unwrap();
            let text = format!("{CONNECT}{rule}");
            let bundle = Bundle::load_text("p.cedar", &text, Some(&principals), PolicyEpoch(1));
            let found: Vec<String> = bundle.unwrap().warnings().lines().collect();
            assert_eq!(found.len(), warnings, "{found:?}");
            assert!(found.iter().all(|it| it.contains("never fills ${group}")), "{found:?}");
        }
    }

    #[test]
    fn an_unknown_word_for_lint_is_an_error() {
        check(&[
            (
                r#"@id("a") @lint("allow-wildcrad") permit (principal, action, resource);"#,
                "error: p.cedar:2:1: there is no \"allow-wildcrad\" for @lint; did you mean allow-wildcard?",
            ),
            (
                r#"@id("a") @lint("nothing") permit (principal, action, resource);"#,
                "error: p.cedar:2:1: there is no \"nothing\" for @lint; there are allow-wildcard, allow-overlap, allow-levels, allow-shadowed",
            ),
        ]);
    }
}
