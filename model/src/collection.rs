//! What a collection is: its name, how its points are embedded and indexed, how it is spread.

use serde::Serialize;

use crate::{CollectionId, IndexVersion, InputError, Limits, Metric, OperationId, ShardId};

/// What the creator of a collection asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionSpec {
    /// 1 to 128 of `a-z A-Z 0-9 _ -`, starting with a letter or digit.
    pub name: String,
    /// How many shards divide its hash space.
    pub shards: u32,
    /// How many replicas with points each shard has.
    pub replicas: u32,
    /// Whether each has a replica beside them that votes and keeps the log, and has no points.
    pub witness: bool,
    /// The first index version.
    pub index: IndexSpec,
}

/// How the points of one index version are embedded and compared. Immutable once created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexSpec {
    /// Components of each vector.
    pub dim: u32,
    /// How nearness is measured.
    pub metric: Metric,
    /// Fingerprint of the model that made the vectors, as its owner names it; may be empty.
    pub embedding: String,
    /// How segments are built.
    pub graph: GraphSpec,
}

/// How the graph of each segment is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct GraphSpec {
    /// Beam of the walks that find a point's neighbours: more make a better graph and take longer.
    pub ef_construction: u32,
    /// How blocks of the graph keep vectors.
    pub quantization: Quantization,
    /// Of everything random in a build.
    pub seed: u64,
}

/// How blocks of a graph keep vectors, beside the 1-bit codes that walks go by. Answers are scored on vectors as they
/// were sent, whichever it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// In the shortest form that loses nothing.
    #[default]
    None,
    /// A byte a component.
    Int8,
    /// A few bits a component: the smallest graph, and the slowest of the three.
    Binary,
}

impl Quantization {
    /// All of them, the most faithful first.
    pub const ALL: [Self; 3] = [Self::None, Self::Int8, Self::Binary];

    /// The name used in commands.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Int8 => "int8",
            Self::Binary => "binary",
        }
    }
}

impl GraphSpec {
    /// Links of each node, as HNSW counts them: twice that on the one layer that there is, which is what a block holds.
    pub const M: u32 = 16;

    /// What a creator gets who asks for nothing.
    pub const DEFAULT: Self = Self { ef_construction: 100, quantization: Quantization::None, seed: 1 };

    /// Largest `ef_construction`.
    pub const EF_CONSTRUCTION_MAX: u32 = 4_096;
}

impl Default for GraphSpec {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A collection as the cluster map holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collection {
    /// Number, never reused.
    pub id: CollectionId,
    /// Name, unique at a time.
    pub name: String,
    /// Replicas with points that each shard should have.
    pub replicas: u32,
    /// Whether each should have a witness beside them.
    pub witness: bool,
    /// Version that answers searches.
    pub active: IndexVersion,
    /// Specification of the active version.
    pub index: IndexSpec,
    /// Shards in order of their ranges.
    pub shards: Vec<ShardId>,
    /// The intent that created it, so that a retried creation finds its own work.
    pub created_by: OperationId,
}

impl CollectionSpec {
    /// Longest name, in bytes.
    pub const MAX_NAME_BYTES: usize = 128;

    /// Replicas of each shard, the witness included.
    #[must_use]
    pub fn copies(&self) -> u32 {
        self.replicas.saturating_add(u32::from(self.witness))
    }

    /// Checks every field against the rules and `limits`.
    pub fn check(&self, limits: &Limits) -> Result<(), InputError> {
        check_name(&self.name)?;
        check_between("shards", self.shards, limits.shards_max)?;
        check_between("replicas", self.replicas, limits.replicas_max)?;
        if self.witness && self.replicas != 2 {
            let problem = format!("helps two replicas to a majority, there are {}; leave it out", self.replicas);
            return Err(InputError::new("witness", problem));
        }
        check_between("index.dim", self.index.dim, limits.dim_max)?;
        if self.index.embedding.len() > 256 {
            return Err(InputError::new("index.embedding", "is longer than 256 bytes"));
        }
        let beam = self.index.graph.ef_construction;
        check_between("index.graph.ef_construction", beam, GraphSpec::EF_CONSTRUCTION_MAX)
    }
}

fn check_between(field: &str, value: u32, max: u32) -> Result<(), InputError> {
    if value == 0 || value > max {
        return Err(InputError::new(field, format!("is {value}, must be 1 to {max}")));
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), InputError> {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let known = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if starts_well && known && name.len() <= CollectionSpec::MAX_NAME_BYTES {
        return Ok(());
    }
    let problem = "must be 1 to 128 of a-z A-Z 0-9 _ -, starting with a letter or digit";
    Err(InputError::new("name", format!("{problem}; got {:?}", name.chars().take(40).collect::<String>())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_specifications_name_the_field() {
        let good = CollectionSpec {
            name: "news-2".into(),
            shards: 2,
            replicas: 1,
            witness: false,
            index: IndexSpec { dim: 3, metric: Metric::Cosine, embedding: String::new(), graph: GraphSpec::DEFAULT },
        };
        let limits = Limits::default();
        assert_eq!(good.check(&limits), Ok(()));
        let with = |change: &dyn Fn(&mut IndexSpec)| {
            let mut spec = good.clone();
            change(&mut spec.index);
            spec
        };
        for (want, spec) in [
            ("name", CollectionSpec { name: String::new(), ..good.clone() }),
            ("name", CollectionSpec { name: "../etc".into(), ..good.clone() }),
            ("name", CollectionSpec { name: "naïve".into(), ..good.clone() }),
            ("name", CollectionSpec { name: "x".repeat(129), ..good.clone() }),
            ("shards", CollectionSpec { shards: 0, ..good.clone() }),
            ("replicas", CollectionSpec { replicas: 8, ..good.clone() }),
            ("witness", CollectionSpec { witness: true, ..good.clone() }),
            ("index.dim", with(&|index| index.dim = 0)),
            ("index.dim", with(&|index| index.dim = 65_537)),
            ("index.embedding", with(&|index| index.embedding = "x".repeat(257))),
            ("index.graph.ef_construction", with(&|index| index.graph.ef_construction = 0)),
            ("index.graph.ef_construction", with(&|index| index.graph.ef_construction = 4_097)),
        ] {
            assert_eq!(spec.check(&limits).map_err(|e| e.field), Err(want.to_owned()));
        }
    }
}
