//! `shoal.v1.CollectionsService` on a coordinator.

use std::collections::BTreeSet;
use std::sync::Arc;

use shoal_model::{
    ClusterMap, Collection, CollectionId, CollectionSpec, Command, IndexSpec, InputError, MapError, NodeId,
    OperationId, Reply, Standing, Wish, placement,
};
use shoal_proto::v1;
use shoal_proto::v1::collections_service_client::CollectionsServiceClient;
use shoal_proto::v1::collections_service_server::CollectionsService;
use shoal_proto::{convert, status};
use shoal_runtime::Room;
use tonic::{Request, Response, Status};

use crate::CoordinatorError;
use crate::health::health_of;
use crate::heard::{Hearing, Liveness};
use crate::lacking::nodes_by_name;
use crate::leadership::{ANSWER_BYTES_MAX, Attempt, Boxed, Shared};

/// Replicas of a shard unless its creator says otherwise: one may fail and nothing stops.
const REPLICAS_DEFAULT: u32 = 3;

/// Plans that may go stale, because nodes come and go, before a creation gives up.
const PLANS_MAX: u32 = 5;

/// Serves collections.
pub(crate) struct Collections(pub(crate) Arc<Shared>);

impl Collections {
    async fn create(
        &self,
        request: v1::CreateCollectionRequest,
        attempt: Attempt,
    ) -> Result<v1::CreateCollectionResponse, CoordinatorError> {
        let operation = convert::operation_id(&request.operation_id)?.unwrap_or_default();
        for _ in 0..PLANS_MAX {
            let map = self.0.fresh_map(attempt.deadline).await?;
            // What was decided stays so, also where it could not be done any more.
            let created = match map.decided.before(operation, Wish::Create, &request.name) {
                Some(decided) => decided.map_err(CoordinatorError::from),
                None => self.create_by(operation, &request, &map, attempt).await,
            };
            match created {
                Err(CoordinatorError::Map(MapError::StalePlacement)) => {}
                Err(error) => return Err(error),
                Ok(Reply::Collection(id)) => {
                    let collection = Some(self.describe_created(id, &request.name, attempt).await?);
                    return Ok(v1::CreateCollectionResponse { collection });
                }
                Ok(other) => return Err(CoordinatorError::Task(format!("creating a collection answered {other:?}"))),
            }
        }
        Err(MapError::StalePlacement.into())
    }

    /// Creates a collection by a plan for `map`.
    async fn create_by(
        &self,
        operation: OperationId,
        request: &v1::CreateCollectionRequest,
        map: &ClusterMap,
        attempt: Attempt,
    ) -> Result<Reply, CoordinatorError> {
        let spec = specification(request, map)?;
        spec.check(self.0.limits())?;
        self.check_room(map, &spec)?;
        let hearing = self.0.hearing_of_all(map, attempt.deadline).await?;
        let placement = place(map, &spec, &hearing)?;
        self.0.execute(&Command::CreateCollection { operation, spec, placement }, attempt.deadline).await
    }

    fn check_room(&self, map: &ClusterMap, spec: &CollectionSpec) -> Result<(), CoordinatorError> {
        let disk = self.0.disk.state();
        if disk.room > Room::Enough {
            return Err(CoordinatorError::DiskFull { id: self.0.config.id, disk: Box::new(disk) });
        }
        let max = self.0.limits().collections_max;
        if map.collections.len() >= max as usize && map.collection(&spec.name).is_none() {
            return Err(CoordinatorError::TooManyCollections { max });
        }
        Ok(())
    }

    /// By its number: by now another may have its name.
    async fn describe_created(
        &self,
        id: CollectionId,
        name: &str,
        attempt: Attempt,
    ) -> Result<v1::Collection, CoordinatorError> {
        let map = self.0.fresh_map(attempt.deadline).await?;
        let removed = || CoordinatorError::RemovedSince { name: name.to_owned() };
        Ok(describe(&map, map.collections.get(&id).ok_or_else(removed)?, &self.0.hearing()))
    }

    async fn describe(&self, name: &str, attempt: Attempt) -> Result<v1::Collection, CoordinatorError> {
        let map = self.0.fresh_map(attempt.deadline).await?;
        let collection = map.collection(name).ok_or_else(|| unknown(name))?;
        Ok(describe(&map, collection, &self.0.hearing()))
    }

    async fn list(&self, attempt: Attempt) -> Result<v1::ListCollectionsResponse, CoordinatorError> {
        let map = self.0.fresh_map(attempt.deadline).await?;
        Ok(v1::ListCollectionsResponse { collections: describe_all(&map, &self.0.hearing()) })
    }

    async fn get(
        &self,
        request: v1::GetCollectionRequest,
        attempt: Attempt,
    ) -> Result<v1::GetCollectionResponse, CoordinatorError> {
        Ok(v1::GetCollectionResponse { collection: Some(self.describe(&request.name, attempt).await?) })
    }

    async fn delete(
        &self,
        request: v1::DeleteCollectionRequest,
        attempt: Attempt,
    ) -> Result<v1::DeleteCollectionResponse, CoordinatorError> {
        let operation = convert::operation_id(&request.operation_id)?.unwrap_or_default();
        let map = self.0.fresh_map(attempt.deadline).await?;
        let collection = map.collection(&request.name).map(|collection| collection.id);
        if collection.is_none() && request.name.len() > CollectionSpec::MAX_NAME_BYTES {
            // It never had that name, nor will it: nothing to decide, nor to remember.
            return Err(unknown(&request.name));
        }
        // Also if there is none, so that a late attempt does not remove one that is created after this answer.
        let drop = Command::DropCollection { operation, name: request.name, collection };
        self.0.execute(&drop, attempt.deadline).await?;
        Ok(v1::DeleteCollectionResponse {})
    }
}

/// Nodes for every replica, all of which live.
fn place(map: &ClusterMap, spec: &CollectionSpec, hearing: &Hearing) -> Result<Vec<Vec<NodeId>>, CoordinatorError> {
    let replicas = spec.copies();
    let (alive, silent): (BTreeSet<NodeId>, BTreeSet<NodeId>) =
        placement::candidates(map).into_iter().partition(|node| hearing.liveness(*node) == Liveness::Alive);
    placement::place_on(&alive, map, spec.shards, replicas).map_err(|_| {
        let (alive, nodes) = (alive.len(), alive.len() + silent.len());
        if silent.is_empty() || nodes < replicas as usize {
            return CoordinatorError::TooFewNodes { replicas, nodes };
        }
        let silent = silent.into_iter().map(|node| how_silent(map, node, hearing)).collect::<Vec<_>>().join(", ");
        CoordinatorError::TooFewAlive { replicas, alive, nodes, silent }
    })
}

/// A node's name, and for how long it has been silent.
fn how_silent(map: &ClusterMap, node: NodeId, hearing: &Hearing) -> String {
    let name = nodes_by_name(map, &[node]);
    hearing.silence(node).map_or(name.clone(), |silence| format!("{name} for {} s", silence.as_secs()))
}

fn unknown(name: &str) -> CoordinatorError {
    CoordinatorError::UnknownCollection { name: name.chars().take(CollectionSpec::MAX_NAME_BYTES).collect() }
}

/// What a creation asks for, with defaults filled in.
fn specification(request: &v1::CreateCollectionRequest, map: &ClusterMap) -> Result<CollectionSpec, CoordinatorError> {
    let index = request.index.as_ref().ok_or_else(|| InputError::new("index", "is missing: give dim and metric"))?;
    let one_each = u32::try_from(map.nodes.len()).unwrap_or(u32::MAX).max(1);
    // Two would stop writing with the first that fails.
    let usual = if one_each >= REPLICAS_DEFAULT { REPLICAS_DEFAULT } else { 1 };
    let usual = if request.witness { 2 } else { usual };
    Ok(CollectionSpec {
        name: request.name.clone(),
        shards: if request.shards == 0 { one_each } else { request.shards },
        replicas: if request.replicas == 0 { usual } else { request.replicas },
        witness: request.witness,
        index: index_spec(index).map_err(|e| e.within("index"))?,
    })
}

fn index_spec(index: &v1::IndexSpec) -> Result<IndexSpec, InputError> {
    Ok(IndexSpec {
        dim: index.dim,
        metric: convert::metric(index.metric)?,
        embedding: index.embedding.clone(),
        graph: convert::graph(index.graph).map_err(|e| e.within("graph"))?,
    })
}

/// A collection with its shards, and what their nodes last reported.
pub(crate) fn describe(map: &ClusterMap, collection: &Collection, hearing: &Hearing) -> v1::Collection {
    let replica = |shard: &shoal_model::Shard, replica: &shoal_model::ShardReplica| v1::Replica {
        id: replica.id.0,
        node_id: replica.node.0,
        witness: replica.witness,
        standing: standing(replica.standing).into(),
        report: hearing.report(replica.node, shard.id).cloned(),
    };
    let shards = map.shards_of(collection).map(|shard| v1::Shard {
        id: shard.id.0,
        range_first: shard.range.first,
        range_last: shard.range.last,
        epoch: shard.epoch.0,
        replicas: shard.replicas.iter().map(|r| replica(shard, r)).collect(),
        health: health_of(shard, hearing).into(),
    });
    v1::Collection {
        id: collection.id.0,
        name: collection.name.clone(),
        active_version: collection.active.0,
        index: Some(v1::IndexSpec {
            dim: collection.index.dim,
            metric: convert::metric_to_wire(collection.index.metric).into(),
            embedding: collection.index.embedding.clone(),
            graph: Some(convert::graph_to_wire(collection.index.graph)),
        }),
        candidate_version: 0,
        replicas: collection.replicas,
        witness: collection.witness,
        shards: shards.collect(),
    }
}

fn standing(standing: Standing) -> v1::ReplicaStanding {
    match standing {
        Standing::Member => v1::ReplicaStanding::Member,
        Standing::Joining => v1::ReplicaStanding::Joining,
        Standing::Leaving => v1::ReplicaStanding::Leaving,
    }
}

#[tonic::async_trait]
impl CollectionsService for Collections {
    async fn create_collection(
        &self,
        mut request: Request<v1::CreateCollectionRequest>,
    ) -> Result<Response<v1::CreateCollectionResponse>, Status> {
        // Drawn before the first attempt, so that a repeated one finds its own work.
        if request.get_ref().operation_id.is_empty() {
            request.get_mut().operation_id = uuid::Uuid::new_v4().to_string();
        }
        convert::operation_id(&request.get_ref().operation_id).map_err(|error| status::to_status(&error))?;
        let here = |message, attempt| -> Boxed<'_, _> { Box::pin(self.create(message, attempt)) };
        let there = |leader, request| -> Boxed<'_, _> {
            Box::pin(async move {
                CollectionsServiceClient::new(leader)
                    .max_decoding_message_size(ANSWER_BYTES_MAX)
                    .create_collection(request)
                    .await
            })
        };
        self.0.on_leader(request, here, there).await
    }

    async fn list_collections(
        &self,
        request: Request<v1::ListCollectionsRequest>,
    ) -> Result<Response<v1::ListCollectionsResponse>, Status> {
        let here = |_, attempt| -> Boxed<'_, _> { Box::pin(self.list(attempt)) };
        let there = |leader, request| -> Boxed<'_, _> {
            Box::pin(async move {
                CollectionsServiceClient::new(leader)
                    .max_decoding_message_size(ANSWER_BYTES_MAX)
                    .list_collections(request)
                    .await
            })
        };
        self.0.on_leader(request, here, there).await
    }

    async fn get_collection(
        &self,
        request: Request<v1::GetCollectionRequest>,
    ) -> Result<Response<v1::GetCollectionResponse>, Status> {
        let here = |message, attempt| -> Boxed<'_, _> { Box::pin(self.get(message, attempt)) };
        let there = |leader, request| -> Boxed<'_, _> {
            Box::pin(async move {
                CollectionsServiceClient::new(leader)
                    .max_decoding_message_size(ANSWER_BYTES_MAX)
                    .get_collection(request)
                    .await
            })
        };
        self.0.on_leader(request, here, there).await
    }

    async fn delete_collection(
        &self,
        mut request: Request<v1::DeleteCollectionRequest>,
    ) -> Result<Response<v1::DeleteCollectionResponse>, Status> {
        // Drawn before the first attempt, so that a repeated one removes nothing else.
        if request.get_ref().operation_id.is_empty() {
            request.get_mut().operation_id = uuid::Uuid::new_v4().to_string();
        }
        convert::operation_id(&request.get_ref().operation_id).map_err(|error| status::to_status(&error))?;
        let here = |message, attempt| -> Boxed<'_, _> { Box::pin(self.delete(message, attempt)) };
        let there = |leader, request| -> Boxed<'_, _> {
            Box::pin(async move {
                CollectionsServiceClient::new(leader)
                    .max_decoding_message_size(ANSWER_BYTES_MAX)
                    .delete_collection(request)
                    .await
            })
        };
        self.0.on_leader(request, here, there).await
    }

    async fn create_index_version(
        &self,
        _: Request<v1::CreateIndexVersionRequest>,
    ) -> Result<Response<v1::CreateIndexVersionResponse>, Status> {
        Err(status::not_served_yet("CreateIndexVersion"))
    }

    async fn roll_out_index_version(
        &self,
        _: Request<v1::RollOutIndexVersionRequest>,
    ) -> Result<Response<v1::RollOutIndexVersionResponse>, Status> {
        Err(status::not_served_yet("RollOutIndexVersion"))
    }
}

/// All collections by name.
pub(crate) fn describe_all(map: &ClusterMap, hearing: &Hearing) -> Vec<v1::Collection> {
    let mut all: Vec<_> = map.collections.values().map(|collection| describe(map, collection, hearing)).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::heard::Heartbeat;
    use crate::heard::tests::hearing;
    use shoal_model::{Classify as _, ErrorKind, GraphSpec, Limits, Metric, Quantization, StoreId};

    fn request() -> v1::CreateCollectionRequest {
        let index = v1::IndexSpec { dim: 3, metric: v1::Metric::Dot.into(), ..Default::default() };
        v1::CreateCollectionRequest { name: "c".into(), index: Some(index), ..Default::default() }
    }

    fn with_graph(change: impl FnOnce(&mut v1::GraphParams)) -> v1::CreateCollectionRequest {
        let mut request = request();
        change(request.index.get_or_insert_default().graph.get_or_insert_default());
        request
    }

    #[test]
    fn defaults_are_filled_in_and_refusals_name_their_field() {
        let map = ClusterMap::default();
        let spec = specification(&request(), &map).expect("good");
        assert_eq!((spec.shards, spec.replicas, spec.index.graph), (1, 1, GraphSpec::DEFAULT));
        let witnessed = v1::CreateCollectionRequest { witness: true, ..request() };
        assert_eq!(specification(&witnessed, &map).expect("good").copies(), 3);

        let metric = |metric| {
            let mut request = request();
            request.index.get_or_insert_default().metric = metric;
            request
        };
        use ErrorKind::Invalid;
        for (name, request, kind, field) in [
            ("no index", v1::CreateCollectionRequest { index: None, ..request() }, Invalid, "index"),
            ("no metric", metric(0), Invalid, "index.metric"),
            ("unknown metric", metric(99), Invalid, "index.metric"),
            ("another degree", with_graph(|graph| graph.m = 32), Invalid, "index.graph.m"),
            ("no such form", with_graph(|graph| graph.quantization = 9), Invalid, "index.graph.quantization"),
            ("beam", with_graph(|graph| graph.ef_construction = 4_097), Invalid, "index.graph.ef_construction"),
            ("replicas", v1::CreateCollectionRequest { replicas: 9, ..request() }, Invalid, "replicas"),
            ("witness", v1::CreateCollectionRequest { replicas: 3, witness: true, ..request() }, Invalid, "witness"),
        ] {
            let checked = specification(&request, &map).and_then(|spec| Ok(spec.check(&Limits::default())?));
            let error = checked.expect_err(name);
            assert_eq!((error.kind(), error.field()), (kind, field), "{name}: {error}");
        }
    }

    #[test]
    fn replicas_go_to_nodes_that_live() {
        let mut map = ClusterMap::default();
        for i in 1..=4_u128 {
            let (name, address) = (format!("node-{i}"), format!("http://127.0.0.1:{i}"));
            map.apply(Command::RegisterNode { store: StoreId(i), name, address, zone: String::new(), replaces: None });
        }
        let now = Instant::now() + Duration::from_secs(3_600);
        let ago = |node: u64, seconds| (NodeId(node), Heartbeat::new(now - Duration::from_secs(seconds)));
        let spec = |replicas| {
            let request = v1::CreateCollectionRequest { replicas, shards: 5, ..request() };
            specification(&request, &map).expect("good")
        };
        // Node 4 was never heard of.
        let two_silent = hearing(now, [ago(1, 1), ago(2, 2), ago(3, 10)]);
        let placed = place(&map, &spec(2), &two_silent).expect("two live");
        assert!(placed.iter().flatten().all(|node| node.0 <= 2), "{placed:?}");
        for (name, replicas, heard, want) in [
            (
                "three of four",
                3,
                two_silent.clone(),
                "2 of 4 do; not heard of: node 3 (node-3) for 10 s, node 4 (node-4)",
            ),
            ("more than there are", 5, two_silent, "there are 4; start more nodes"),
            ("all live", 5, hearing(now, (1..=4).map(|node| ago(node, 0))), "there are 4; start more nodes"),
        ] {
            let error = place(&map, &spec(replicas), &heard).expect_err(name);
            assert_eq!((error.kind(), error.field()), (ErrorKind::Precondition, "replicas"), "{name}");
            assert!(error.to_string().contains(want), "{name}: {error}");
        }
    }

    #[test]
    fn a_collection_tells_the_parameters_in_force() {
        let mut map = ClusterMap::default();
        let address = "http://127.0.0.1:1".to_owned();
        map.apply(Command::RegisterNode {
            store: StoreId(1),
            name: "n".into(),
            address,
            zone: String::new(),
            replaces: None,
        });
        let asked = with_graph(|graph| {
            graph.quantization = v1::Quantization::Int8.into();
            graph.seed = 9;
        });
        let spec = specification(&asked, &map).expect("good");
        let placement = placement::place(&map, spec.shards, spec.copies()).expect("one node");
        map.apply(Command::CreateCollection { operation: OperationId(1), spec, placement });
        let nothing = hearing(Instant::now(), []);
        let told = describe(&map, map.collection("c").expect("created"), &nothing).index.expect("always there");
        assert_eq!((told.dim, told.metric()), (3, convert::metric_to_wire(Metric::Dot)));
        let want = GraphSpec { quantization: Quantization::Int8, seed: 9, ..GraphSpec::DEFAULT };
        assert_eq!(told.graph, Some(convert::graph_to_wire(want)));
    }
}
