//! Entries of a shard's log: what a checked write becomes before it is proposed.
//!
//! Points travel in the form in which they are stored, so that applying parses nothing twice.

use bytes::Bytes;
use prost::Message as _;
use shoal_index::packed;
use shoal_model::{
    HashRange, IndexSpec, InputError, Limits, Point, PointId, check_distinct, check_payload, check_vector,
};
use shoal_proto::convert;
use shoal_proto::internal::v1 as wire;
use shoal_proto::v1;

/// A write that has passed every check.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) upserts: Vec<Upsert>,
    pub(crate) deletes: Vec<PointId>,
}

/// A point to store.
#[derive(Debug)]
pub(crate) struct Upsert {
    pub(crate) id: PointId,
    pub(crate) vector: Vec<f32>,
    /// Payload in the index's packed form.
    pub(crate) payload: Bytes,
}

/// Why a write was not proposed.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The request is wrong.
    Input(InputError),
    /// A point belongs to another shard: the router's map is not ours.
    WrongShard,
}

impl From<InputError> for Refusal {
    fn from(error: InputError) -> Self {
        Self::Input(error)
    }
}

/// Checks a write against its shard and turns it into a log entry.
///
/// The router has checked before; this is the last gate before the log, which must never hold what cannot be
/// applied.
pub(crate) fn encode(
    upserts: Vec<v1::Point>,
    deletes: Vec<v1::PointId>,
    spec: &IndexSpec,
    range: HashRange,
    limits: &Limits,
) -> Result<Bytes, Refusal> {
    let count = upserts.len() + deletes.len();
    if count == 0 || count > limits.batch_points_max as usize {
        let problem = format!("batch has {count} points, must have 1 to {}", limits.batch_points_max);
        return Err(InputError::new("points", problem).into());
    }
    let mut points = Vec::with_capacity(upserts.len());
    for (i, point) in upserts.into_iter().enumerate() {
        let within = |error: InputError| error.within(&format!("points[{i}]"));
        let point = convert::point(point).map_err(within)?;
        check_vector(&point.vector, spec.dim, spec.metric).map_err(within)?;
        check_payload(&point.payload, limits).map_err(within)?;
        points.push(point);
    }
    let deletes = convert::point_ids("ids", deletes)?;
    let ids = || points.iter().map(|point| &point.id).chain(&deletes);
    check_distinct("points", ids())?;
    if ids().any(|id| !range.contains(id.hash())) {
        return Err(Refusal::WrongShard);
    }
    let command = wire::ShardCommand {
        upserts: points.iter().map(log_point).collect(),
        deletes: deletes.iter().map(convert::point_id_to_wire).collect(),
    };
    Ok(command.encode_to_vec().into())
}

fn log_point(point: &Point) -> wire::LogPoint {
    wire::LogPoint {
        id: Some(convert::point_id_to_wire(&point.id)),
        vector: convert::vector_to_f32_le(&point.vector),
        payload: packed::encode(&point.payload).into(),
    }
}

/// Reads a log entry back.
///
/// An error means that the log holds what [`encode`] never made, which stops the replica.
pub(crate) fn decode(entry: Bytes) -> Result<Command, InputError> {
    let command = wire::ShardCommand::decode(entry).map_err(|e| InputError::new("log entry", e.to_string()))?;
    let upsert = |point: wire::LogPoint| {
        Ok::<_, InputError>(Upsert {
            id: convert::point_id(point.id)?,
            vector: convert::vector_from_f32_le(&point.vector)?,
            payload: point.payload,
        })
    };
    Ok(Command {
        upserts: command.upserts.into_iter().map(upsert).collect::<Result<_, _>>()?,
        deletes: convert::point_ids("ids", command.deletes)?,
    })
}
