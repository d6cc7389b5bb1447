//! Why a service cannot go on, once it cannot.

use std::fmt::Display;
use std::sync::Arc;

use tokio::sync::watch;

/// Told by any task of a service, heard by the service's owner, who ends the process. The first reason stays.
#[derive(Clone, Debug)]
pub struct Failure(Arc<watch::Sender<Option<Told>>>);

/// What was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Why, in words.
    pub reason: String,
    /// Whether the store is damaged, so that another has to take its place.
    pub is_damage: bool,
}

impl Default for Failure {
    fn default() -> Self {
        Self(Arc::new(watch::channel(None).0))
    }
}

impl Failure {
    /// Tells that the service cannot go on.
    pub fn tell(&self, reason: impl Display) {
        self.note(Told { reason: reason.to_string(), is_damage: false });
    }

    /// Tells that it cannot go on because its store is damaged.
    pub fn tell_damage(&self, reason: impl Display) {
        self.note(Told { reason: reason.to_string(), is_damage: true });
    }

    fn note(&self, news: Told) {
        self.0.send_if_modified(|told| {
            let first = told.is_none();
            if first {
                *told = Some(news);
            }
            first
        });
    }

    /// Completes once a reason was told.
    pub async fn told(&self) -> Told {
        let mut told = self.0.subscribe();
        // Fails only without a sender, and `self` holds one.
        let told = told.wait_for(Option::is_some).await.ok().and_then(|told| told.clone());
        told.unwrap_or(Told { reason: String::new(), is_damage: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_is_heard_by_all_also_by_the_late() {
        let failure = Failure::default();
        let early = tokio::spawn({
            let failure = failure.clone();
            async move { failure.told().await }
        });
        failure.tell_damage("disk failed");
        failure.tell("and then everything else");
        assert_eq!(early.await.expect("does not panic").reason, "disk failed");
        assert_eq!(failure.told().await, Told { reason: "disk failed".to_owned(), is_damage: true });
    }
}
