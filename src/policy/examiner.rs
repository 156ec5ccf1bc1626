//! Asks one set of policies many questions.

use std::collections::VecDeque;
use std::sync::Arc;

use super::bundle::Bundle;
use super::permit::Denial;
use super::question::{Answer, Question};
use super::subject::Subject;

/// Principals whose compiled rules are kept: a bundle forgets what nobody uses, and questions
/// about one kind of principal mostly follow each other.
const RECENT_MAX: usize = 16;

/// Puts questions to policies, one after the other.
#[derive(Debug)]
pub struct Examiner {
    bundle: Arc<Bundle>,
    recent: VecDeque<Subject>,
}

impl Examiner {
    /// An examiner of these policies.
    #[must_use]
    pub fn new(bundle: &Arc<Bundle>) -> Self {
        Self { bundle: Arc::clone(bundle), recent: VecDeque::new() }
    }

    /// The policies.
    #[must_use]
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }

    /// Asks, as [`Question::ask`] does.
    pub fn ask(&mut self, question: &Question) -> Answer {
        self.with(question, |subject| question.ask_as(subject))
    }

    /// Asks, as [`Question::ask`] and [`Question::judge`] do.
    pub(super) fn ask_and_judge(&mut self, question: &Question) -> (Answer, Result<(), Denial>) {
        self.with(question, |subject| (question.ask_as(subject), question.judge_as(subject)))
    }

    fn with<T>(&mut self, question: &Question, ask: impl FnOnce(&mut Subject) -> T) -> T {
        let mut subject = question.subject(&self.bundle);
        let told = ask(&mut subject);
        if self.recent.len() >= RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(subject);
        told
    }
}
