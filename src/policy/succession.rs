//! What other policies change for one principal.
//!
//! Most reloads concern few. Where the rules that can apply to a principal stand there as before,
//! word for word, and its groups and tags are the same, every question has the answer that it had:
//! its decisions stay, and nothing is judged anew.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use super::bundle::{Bundle, RuleIndex};
use super::schema::Action;
use crate::identity::Identity;

/// Policies that are not in force any more, until nobody judges by them: they are freed by a thread
/// of their own. Ever so many of them take milliseconds, which are not for whoever judges last.
static RETIRED: LazyLock<Option<Sender<Arc<Bundle>>>> = LazyLock::new(|| {
    let (retire, retired) = channel();
    let thread = std::thread::Builder::new().name("policy-retire".to_owned());
    thread.spawn(move || free_retired(&retired)).ok().map(|_| retire)
});

/// How often it is looked whether somebody still judges by them.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Has policies freed once nobody judges by them any more.
pub fn retire(bundle: Arc<Bundle>) {
    if let Some(retire) = &*RETIRED {
        // Where nobody takes it, it is freed here.
        let _ = retire.send(bundle);
    }
}

fn free_retired(retired: &Receiver<Arc<Bundle>>) {
    let mut waiting: Vec<Arc<Bundle>> = Vec::new();
    loop {
        let next = if waiting.is_empty() {
            retired.recv().map_err(RecvTimeoutError::from)
        } else {
            retired.recv_timeout(LOOK_AGAIN)
        };
        match next {
            Ok(bundle) => waiting.push(bundle),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        waiting.retain(|bundle| Arc::strong_count(bundle) > 1);
    }
}

const ACTIONS: [Action; 4] = Action::OF_CLIENTS;

impl Bundle {
    /// True when all questions of this principal have the same answers as under `old`, for the
    /// same reasons. False may only mean that it is not known.
    pub(super) fn judges_as(&self, old: &Self, identity: &Identity) -> bool {
        let (Ok(resolved), Ok(before)) = (self.resolve(identity), old.resolve(identity)) else {
            return false;
        };
        let groups = &resolved.groups;
        if resolved != before
            || !groups.iter().all(|group| self.parents_of(group).eq(old.parents_of(group)))
        {
            return false;
        }
        ACTIONS.into_iter().all(|action| {
            let rules = self.candidates(action, identity, groups);
            let before = old.candidates(action, identity, groups);
            let is_same = self.same_rules(&rules, old, &before);
            if is_same {
                self.take_over(old, &(action, before), (action, rules));
            }
            is_same
        })
    }

    fn same_rules(&self, rules: &[RuleIndex], old: &Self, before: &[RuleIndex]) -> bool {
        rules.len() == before.len()
            && rules.iter().zip(before).all(|(index, before)| {
                let pair = self.rule(*index).zip(old.rule(*before));
                pair.is_some_and(|(rule, before)| {
                    rule.id == before.id && rule.place.text() == before.place.text()
                })
            })
    }

    /// Has what the old bundle compiled for the same rules serve here too.
    fn take_over(
        &self,
        old: &Self,
        before: &(Action, Box<[RuleIndex]>),
        now: (Action, Box<[RuleIndex]>),
    ) {
        let compiled = old.acls.lock().known.get(before).and_then(Weak::upgrade);
        let Some(compiled) = compiled else { return };
        let mut acls = self.acls.lock();
        if acls.known.get(&now).is_none_or(|acl| acl.strong_count() == 0) {
            acls.add(now, &Arc::clone(&compiled));
        }
    }
}
