//! How fresh an answer must be, and how fresh it is.

use shoal_model::{InputError, LogIndex, ShardId, Token};
use shoal_proto::internal::v1 as wire;
use shoal_proto::v1;

use crate::RouterError;
use crate::fanout::Target;

/// What a caller asks of the replicas that answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Freshness {
    /// Everything the caller has seen; the answer's token covers it in any case.
    seen: Token,
    /// Whether replicas must have applied what the token names.
    wait: bool,
    linearizable: bool,
    /// How long ago a replica must have been known to lack nothing; 0 for any time.
    staleness_ms_max: u32,
}

impl Freshness {
    /// What the request says; `staleness_ms_default` is the bound of an eventual read that names none.
    pub(crate) fn new(consistency: Option<v1::Consistency>, staleness_ms_default: u32) -> Result<Self, RouterError> {
        use v1::ConsistencyLevel as Level;
        let consistency = consistency.unwrap_or_default();
        let mut seen = Token::default();
        for token in &consistency.tokens {
            seen = seen.merge(&Token::decode(token)?);
        }
        let malformed = |_| InputError::new("consistency.level", format!("{} is not a level", consistency.level));
        let level = Level::try_from(consistency.level).map_err(malformed)?;
        let is_eventual = level == Level::Eventual || (level == Level::Unspecified && consistency.tokens.is_empty());
        let bound = if consistency.staleness_ms_max > 0 { consistency.staleness_ms_max } else { staleness_ms_default };
        Ok(Self {
            seen,
            wait: level != Level::Eventual,
            linearizable: level == Level::Linearizable,
            staleness_ms_max: if is_eventual { bound } else { 0 },
        })
    }

    /// Whether leaders answer soonest: they need not ask another how far the shard is.
    pub(crate) fn is_of_leaders(&self) -> bool {
        self.linearizable
    }

    /// What replicas must have applied before they answer.
    pub(crate) fn waits_for(&self) -> Token {
        if self.wait { self.seen.clone() } else { Token::default() }
    }

    /// The target as nodes are told it.
    pub(crate) fn target(&self, target: Target) -> wire::ShardTarget {
        wire::ShardTarget {
            shard_id: target.shard.0,
            epoch: target.epoch.0,
            applied_index_min: if self.wait { self.seen.index_of(target.shard).0 } else { 0 },
            linearizable: self.linearizable,
            staleness_ms_max: self.staleness_ms_max,
        }
    }

    /// All of them.
    pub(crate) fn targets(&self, targets: &[Target]) -> Vec<wire::ShardTarget> {
        targets.iter().map(|target| self.target(*target)).collect()
    }

    /// The token that covers what the caller had seen, and what `answered` reflects.
    pub(crate) fn token<'a>(self, answered: impl Iterator<Item = &'a wire::ShardAnswer>) -> Token {
        answered.fold(self.seen, |mut token, answer| {
            token.raise(ShardId(answer.shard_id), LogIndex(answer.applied_index));
            token
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_model::{Classify as _, Epoch};

    #[test]
    fn levels_say_what_replicas_wait_for() {
        use v1::ConsistencyLevel as Level;
        let mut token = Token::default();
        token.raise(ShardId(5), LogIndex(42));
        for (level, want) in [
            (Level::Unspecified, (42, false)),
            (Level::Eventual, (0, false)),
            (Level::Session, (42, false)),
            (Level::Linearizable, (42, true)),
        ] {
            let consistency =
                v1::Consistency { level: level.into(), tokens: vec![token.encode().into()], staleness_ms_max: 0 };
            let freshness = Freshness::new(Some(consistency), 30_000).expect("well-formed");
            let target = freshness.target(Target { shard: ShardId(5), epoch: Epoch(1) });
            assert_eq!((target.applied_index_min, target.linearizable), want, "{level:?}");
            let answers = [(5, 41), (6, 7)].map(|(shard_id, applied_index)| wire::ShardAnswer {
                shard_id,
                applied_index,
                staleness_ms: 0,
            });
            let told = freshness.token(answers.iter());
            assert_eq!((told.index_of(ShardId(5)).0, told.index_of(ShardId(6)).0), (42, 7), "{level:?}");
        }
    }

    #[test]
    fn foreign_tokens_and_levels_are_refused() {
        for (want, consistency) in [
            ("consistency.tokens", v1::Consistency { tokens: vec![b"hello"[..].into()], ..Default::default() }),
            ("consistency.level", v1::Consistency { level: 9, ..Default::default() }),
        ] {
            assert_eq!(Freshness::new(Some(consistency), 30_000).expect_err("refused").field(), want);
        }
    }
}
