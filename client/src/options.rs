//! What a caller may ask for beyond the obvious.

use shoal_model::{Filter, Metric, OperationId, PointId, Quantization, Token};
use shoal_proto::{convert, v1};

/// How fresh an answer must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Any live replica within the cluster's staleness bound.
    #[default]
    Eventual,
    /// At least what the writes of this token have made: a writer reads its own writes.
    Session(Token),
    /// At least every write acknowledged before the request began.
    Linearizable,
}

impl Consistency {
    pub(crate) fn to_wire(&self) -> v1::Consistency {
        let (level, tokens) = match self {
            Self::Eventual => (v1::ConsistencyLevel::Eventual, Vec::new()),
            Self::Session(token) => (v1::ConsistencyLevel::Session, vec![token.encode().into()]),
            Self::Linearizable => (v1::ConsistencyLevel::Linearizable, Vec::new()),
        };
        v1::Consistency { level: level.into(), tokens, staleness_ms_max: 0 }
    }
}

/// How vectors travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VectorEncoding {
    /// 4 bytes a component.
    #[default]
    F32,
    /// 2 bytes a component. Without loss only for values that came from 16-bit floats.
    F16,
}

/// A collection to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCollection {
    /// 1 to 128 of `a-z A-Z 0-9 _ -`, starting with a letter or digit.
    pub name: String,
    /// Components of each vector.
    pub dim: u32,
    /// How nearness is measured.
    pub metric: Metric,
    /// Fingerprint of the model that made the vectors; may be empty.
    pub embedding: String,
    /// How the graphs of its segments are built.
    pub graph: GraphOptions,
    /// How many shards divide it; 0: one for each node there is.
    pub shards: u32,
    /// Replicas with points of each shard; 0: 3, or 1 where there are fewer than 3 nodes.
    pub replicas: u32,
    /// Whether each shard has a replica beside them that votes and keeps the log, and has no points.
    pub witness: bool,
    /// Names this intent: a retry that carries the same one gets the same answer. Absent: drawn for each call.
    pub operation: Option<OperationId>,
}

impl NewCollection {
    /// A collection whose number of shards and replicas is left to the cluster.
    #[must_use]
    pub fn new(name: impl Into<String>, dim: u32, metric: Metric) -> Self {
        let name = name.into();
        let (embedding, graph) = (String::new(), GraphOptions::default());
        Self { name, dim, metric, embedding, graph, shards: 0, replicas: 0, witness: false, operation: None }
    }

    /// The request; draws the operation's id where none is given, so that all attempts of a call share one.
    pub(crate) fn to_wire(&self) -> v1::CreateCollectionRequest {
        let drawn = || OperationId(uuid::Uuid::new_v4().as_u128());
        v1::CreateCollectionRequest {
            name: self.name.clone(),
            index: Some(v1::IndexSpec {
                dim: self.dim,
                metric: convert::metric_to_wire(self.metric).into(),
                embedding: self.embedding.clone(),
                graph: Some(self.graph.to_wire()),
            }),
            shards: self.shards,
            replicas: self.replicas,
            witness: self.witness,
            operation_id: self.operation.unwrap_or_else(drawn).to_string(),
        }
    }
}

/// How graphs are built. What is absent is left to the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GraphOptions {
    /// Beam width while building: more makes a better graph, and takes longer.
    pub ef_construction: Option<u32>,
    /// How the graph keeps vectors.
    pub quantization: Option<Quantization>,
    /// Seed of everything random in a build, not 0.
    pub seed: Option<u64>,
}

impl GraphOptions {
    fn to_wire(self) -> v1::GraphParams {
        let quantization = self.quantization.map(convert::quantization_to_wire).unwrap_or_default();
        v1::GraphParams {
            m: 0,
            ef_construction: self.ef_construction.unwrap_or_default(),
            quantization: quantization.into(),
            seed: self.seed.unwrap_or_default(),
        }
    }
}

/// How points are read by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// How fresh they must be.
    pub consistency: Consistency,
    /// Leaves out their payload.
    pub without_payload: bool,
    /// Brings their vectors.
    pub with_vectors: bool,
}

/// How a page of points is read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScrollOptions {
    /// Only points that pass.
    pub filter: Filter,
    /// Start after this id; absent: at the first.
    pub after: Option<PointId>,
    /// Points a page; 0: the cluster's default.
    pub limit: u32,
    /// What each point brings, and how fresh it must be.
    pub read: ReadOptions,
}

/// How to search.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchOptions {
    /// How many points are wanted, at least 1.
    pub k: u32,
    /// Only points that pass.
    pub filter: Filter,
    /// Only points at least this near: a lowest score for cosine and dot, a highest for euclidean.
    pub score_limit: Option<f32>,
    /// How fresh the answer must be.
    pub consistency: Consistency,
    /// Share of shards that must answer, 0 to 1; absent: all. Below it the call fails.
    pub min_coverage: Option<f64>,
    /// Leaves out the payload of hits.
    pub without_payload: bool,
    /// Only these payload fields; empty: all.
    pub payload_fields: Vec<String>,
    /// Brings the vectors of hits.
    pub with_vectors: bool,
    /// Recall wanted of each shard, above 0 to 1; absent: the cluster's default.
    pub recall_target: Option<f64>,
    /// Beam width, at least `k`; says nothing beside a wanted recall.
    pub ef_search: Option<u32>,
    /// Compares with every point, whatever index there is; the two above then say nothing.
    pub exact: bool,
    /// Index version to ask; 0: the active one.
    pub index_version: u32,
}

/// The ten nearest points with their payload, from all shards.
impl Default for SearchOptions {
    fn default() -> Self {
        Self {
            k: 10,
            filter: Filter::default(),
            score_limit: None,
            consistency: Consistency::default(),
            min_coverage: None,
            without_payload: false,
            payload_fields: Vec::new(),
            with_vectors: false,
            recall_target: None,
            ef_search: None,
            exact: false,
            index_version: 0,
        }
    }
}

impl SearchOptions {
    /// The same search, which sees at least what the writes of `token` have made.
    #[must_use]
    pub fn after(self, token: Token) -> Self {
        Self { consistency: Consistency::Session(token), ..self }
    }

    pub(crate) fn to_wire(&self, collection: &str, vector: &[f32]) -> v1::SearchRequest {
        v1::SearchRequest {
            collection: collection.to_owned(),
            vector: Some(convert::vector_to_wire(vector)),
            k: self.k,
            filter: filter_to_wire(&self.filter),
            score_limit: self.score_limit,
            consistency: Some(self.consistency.to_wire()),
            timeout_ms: 0,
            min_coverage: self.min_coverage,
            without_payload: self.without_payload,
            payload_fields: self.payload_fields.clone(),
            with_vectors: self.with_vectors,
            recall_target: self.recall_target,
            ef_search: self.ef_search,
            exact: self.exact,
            index_version: self.index_version,
            priority: v1::Priority::Unspecified.into(),
        }
    }
}

/// An empty filter is left out.
pub(crate) fn filter_to_wire(filter: &Filter) -> Option<v1::Filter> {
    (*filter != Filter::default()).then(|| convert::filter_to_wire(filter))
}
