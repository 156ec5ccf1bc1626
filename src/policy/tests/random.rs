//! Random policies, and an oracle that shares nothing with the engine but Cedar itself: all
//! policies, all entities from JSON, filters matched as text.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::str::FromStr;

use cedar_policy::{
    Authorizer, Context, Decision, Entities, EntityUid, PolicySet, Request, Schema,
};
use serde_json::{Value, json};

use super::world::{Message, Random, matches};
use crate::identity::Identity;
use crate::policy::{SCHEMA, SessionFacts};

/// Policy text with the filters it names.
pub(super) struct Written {
    pub(super) text: String,
    pub(super) filters: BTreeSet<String>,
}

/// How random policies look.
pub(super) struct Style<'a> {
    /// Filters to choose from.
    pub(super) filters: &'a [String],
    /// Action constraints to choose from.
    pub(super) actions: &'a [&'a str],
    /// Conditions to choose from besides filters.
    pub(super) conditions: &'a [&'a str],
    /// Principal constraints to choose from.
    pub(super) principals: &'a [&'a str],
}

impl Style<'_> {
    pub(super) fn policies(&self, random: &mut Random, most: usize) -> Written {
        let mut written = Written { text: String::new(), filters: BTreeSet::new() };
        for index in 0..=random.below(most) {
            let effect = if random.percent(35) { "forbid" } else { "permit" };
            let principal = random.pick(self.principals);
            let action = random.pick(self.actions);
            let resource = if random.percent(65) {
                format!("resource in {}", self.filter(random, &mut written.filters))
            } else {
                "resource".to_owned()
            };
            let mut clauses = String::new();
            while clauses.len() < 2000 && random.percent(45) {
                let keyword = if random.percent(50) { "when" } else { "unless" };
                let condition = self.condition(random, 2, &mut written.filters);
                write!(clauses, " {keyword} {{ {condition} }}").unwrap();
            }
            writeln!(
                written.text,
                "@id(\"p{index}\") {effect} ({principal}, {action}, {resource}){clauses};"
            )
            .unwrap();
        }
        written
    }

    fn filter(&self, random: &mut Random, named: &mut BTreeSet<String>) -> String {
        let filter = random.pick(self.filters).clone();
        let literal = format!("TopicFilter::\"{filter}\"");
        named.insert(filter);
        literal
    }

    fn condition(&self, random: &mut Random, depth: usize, named: &mut BTreeSet<String>) -> String {
        let mut deeper = |random: &mut Random| self.condition(random, depth - 1, named);
        match random.below(if depth == 0 { 3 } else { 7 }) {
            0 => format!("resource in {}", self.filter(random, named)),
            1 => {
                let (one, two) = (self.filter(random, named), self.filter(random, named));
                format!("resource in [{one}, {two}]")
            }
            2 => (*random.pick(self.conditions)).to_owned(),
            3 => format!("!({})", deeper(random)),
            4 => format!("({} && {})", deeper(random), deeper(random)),
            5 => format!("({} || {})", deeper(random), deeper(random)),
            _ => {
                let test = random.pick(self.conditions);
                format!("(if {test} then {} else {})", deeper(random), deeper(random))
            }
        }
    }
}

/// The plain whole-set Authorizer.
pub(super) struct Oracle {
    policies: PolicySet,
    filters: BTreeSet<String>,
    actions: Entities,
}

impl Oracle {
    pub(super) fn new(written: &Written) -> Self {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).unwrap();
        Self {
            policies: PolicySet::from_str(&written.text).unwrap(),
            filters: written.filters.clone(),
            actions: schema.action_entities().unwrap(),
        }
    }

    /// Allowed, and otherwise the ids of the policies that forbid.
    pub(super) fn judge(
        &self,
        action: &str,
        who: (&Identity, &SessionFacts),
        message: &Message,
    ) -> Result<(), BTreeSet<String>> {
        let (identity, session) = who;
        let topic = message.topic.as_str();
        let parents: Vec<Value> = self
            .filters
            .iter()
            .filter(|filter| fills(filter, identity, session).iter().any(|it| matches(it, topic)))
            .map(|filter| json!({"type": "TopicFilter", "id": filter}))
            .collect();
        let groups: Vec<Value> =
            identity.groups.iter().map(|group| json!({"type": "Group", "id": **group})).collect();
        let kind = identity.kind.as_str();
        let cert = identity.certificate.as_ref().map(|facts| {
            json!({"cn": *facts.cn, "fingerprint": *facts.fingerprint, "issuer": *facts.issuer,
                "not_after": {"__extn": {"fn": "datetime", "arg": "2030-03-17T17:46:40Z"}},
                "dns_names": facts.dns_names})
        });
        let entities = json!([
            {"uid": {"type": kind, "id": *identity.name}, "parents": groups,
             "attrs": cert.map_or(json!({}), |cert| json!({"cert": cert})),
             "tags": identity.tags},
            {"uid": {"type": "Topic", "id": topic}, "parents": parents,
             "attrs": {"name": topic, "levels": topic.split('/').count()}},
        ]);
        let entities = Entities::from_json_value(entities, None).unwrap();
        let entities = entities.add_entities(self.actions.clone(), None).unwrap();
        let time = humantime::format_rfc3339_millis(message.now).to_string();
        let mut context = json!({
            "session": {"client_id": session.client_id.as_str(), "listener": *session.listener,
                "source_ip": {"__extn": {"fn": "ip", "arg": session.source_ip.to_string()}},
                "protocol_version": session.protocol.level(), "tls_version": session.tls_version},
            "qos": message.qos.as_u8(), "retain": message.retain,
            "payload_size": message.payload_bytes,
            "time": {"__extn": {"fn": "datetime", "arg": time}},
            "user_properties": message.user_properties.0.iter()
                .map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>(),
        });
        if action == "publish" {
            context["will"] = json!(message.will);
        }
        let uid =
            |kind: &str, id: &str| EntityUid::from_json(json!({"type": kind, "id": id})).unwrap();
        let request = Request::new(
            uid(kind, &identity.name),
            uid("Action", action),
            uid("Topic", topic),
            Context::from_json_value(context, None).unwrap(),
            None,
        )
        .unwrap();
        let response = Authorizer::new().is_authorized(&request, &self.policies, &entities);
        let failed = response.diagnostics().errors().next().is_some();
        if response.decision() == Decision::Allow {
            return if failed { Err(BTreeSet::new()) } else { Ok(()) };
        }
        let named = |id| self.policies.annotation(id, "id").unwrap().to_owned();
        Err(response.diagnostics().reason().map(named).collect())
    }
}

/// The filters that a filter with at most one placeholder stands for.
fn fills(filter: &str, identity: &Identity, session: &SessionFacts) -> Vec<String> {
    let groups: Vec<&str> = identity.groups.iter().map(|group| &**group).collect();
    let values = match filter {
        _ if filter.contains("${cn}") => {
            ("${cn}", identity.certificate.iter().map(|it| &*it.cn).collect())
        }
        _ if filter.contains("${client_id}") => ("${client_id}", vec![session.client_id.as_str()]),
        _ if filter.contains("${principal}") => ("${principal}", vec![&*identity.name]),
        _ if filter.contains("${group}") => ("${group}", groups),
        _ if filter.contains("${tag:plant}") => {
            ("${tag:plant}", identity.tags.get("plant").iter().map(|it| &***it).collect())
        }
        _ => return vec![filter.to_owned()],
    };
    let (placeholder, values): (&str, Vec<&str>) = values;
    values.into_iter().map(|value| filter.replace(placeholder, value)).collect()
}
