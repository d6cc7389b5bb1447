//! Entries of a shard's log: what a checked write becomes before it is proposed, and what leaders say about parts.
//!
//! Points travel in the form in which they are stored, so that applying parses nothing twice.

use bytes::Bytes;
use prost::Message as _;
use shoal_index::{Center, packed};
use shoal_model::{
    HashRange, IndexSpec, InputError, Limits, OperationId, Point, PointId, check_distinct, check_payload, check_vector,
};
use shoal_proto::convert;
use shoal_proto::internal::v1 as wire;
use shoal_proto::map::{id_from_bytes, id_to_bytes};
use shoal_proto::v1;

use super::parts::{self, Manifest, Name};

/// What an entry says.
#[derive(Debug)]
pub(crate) enum Command {
    /// Points change.
    Write(Write),
    /// The active delta takes no more points, if the one sealed before it is `after`.
    Seal {
        /// Name of that delta, 0 for none.
        after: Name,
        /// What codes of the next one are made around.
        center: Option<Center>,
    },
    /// A segment takes the place of parts.
    Install {
        /// The parts.
        replaced: Vec<Name>,
        /// `None` if none of their points lives.
        segment: Option<Manifest>,
    },
}

/// A write that has passed every check.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) operation: OperationId,
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
pub enum Refusal {
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
pub fn encode(
    operation: &[u8],
    upserts: Vec<v1::Point>,
    deletes: Vec<v1::PointId>,
    spec: &IndexSpec,
    range: HashRange,
    limits: &Limits,
) -> Result<Bytes, Refusal> {
    let operation = id_from_bytes("operation", operation).ok().filter(|id| *id != 0);
    let operation =
        operation.ok_or_else(|| InputError::new("operation", "must have 16 bytes that are not all zero"))?;
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
    let write = wire::ShardWrite {
        operation: id_to_bytes(operation),
        upserts: points.iter().map(log_point).collect(),
        deletes: deletes.iter().map(convert::point_id_to_wire).collect(),
    };
    let size = write.encoded_len();
    if size > limits.message_bytes_max as usize {
        let problem =
            format!("take {size} bytes as stored, the cap is {}; send fewer at once", limits.message_bytes_max);
        return Err(InputError::new("points", problem).into());
    }
    Ok(entry(wire::shard_command::Kind::Write(write)))
}

/// The entry that seals the active delta, if the one sealed before it is `after`, and has codes of the next one made around
/// `center`.
pub fn encode_seal(after: Name, center: Option<&Center>) -> Bytes {
    let center = center.map(parts::center_to_wire);
    entry(wire::shard_command::Kind::Seal(wire::SealDelta { after, center }))
}

/// The entry that has a segment take the place of parts.
pub fn encode_install(replaced: &[Name], segment: Option<Manifest>) -> Bytes {
    let segment = segment.map(Manifest::to_wire);
    entry(wire::shard_command::Kind::Install(wire::InstallSegment { replaced: replaced.to_vec(), segment }))
}

fn entry(kind: wire::shard_command::Kind) -> Bytes {
    wire::ShardCommand { kind: Some(kind) }.encode_to_vec().into()
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
/// An error means that the log holds what the functions above never made, which stops the replica.
pub(crate) fn decode(entry: Bytes) -> Result<Command, InputError> {
    use wire::shard_command::Kind;
    let malformed = |problem: String| InputError::new("log entry", problem);
    let command = wire::ShardCommand::decode(entry).map_err(|e| malformed(e.to_string()))?;
    Ok(match command.kind.ok_or_else(|| malformed("says nothing".to_owned()))? {
        Kind::Write(write) => Command::Write(decode_write(write)?),
        Kind::Seal(wire::SealDelta { after, center }) => {
            let center = center.map(|center| parts::center_from_wire(&center)).transpose()?;
            Command::Seal { after, center }
        }
        Kind::Install(install) => {
            Command::Install { replaced: install.replaced, segment: install.segment.map(Manifest::from_wire) }
        }
    })
}

fn decode_write(write: wire::ShardWrite) -> Result<Write, InputError> {
    let operation = id_from_bytes("operation", &write.operation);
    let operation = operation.map_err(|e| InputError::new("log entry", e.to_string()))?;
    let upsert = |point: wire::LogPoint| {
        Ok::<_, InputError>(Upsert {
            id: convert::point_id(point.id)?,
            vector: convert::vector_from_f32_le(&point.vector)?,
            payload: point.payload,
        })
    };
    Ok(Write {
        operation: OperationId(operation),
        upserts: write.upserts.into_iter().map(upsert).collect::<Result<_, _>>()?,
        deletes: convert::point_ids("ids", write.deletes)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_model::{GraphSpec, Metric};

    const OPERATION: [u8; 16] = [7; 16];
    const SPEC: IndexSpec =
        IndexSpec { dim: 2, metric: Metric::Cosine, embedding: String::new(), graph: GraphSpec::DEFAULT };

    fn id(number: u64) -> v1::PointId {
        v1::PointId { kind: Some(v1::point_id::Kind::Number(number)) }
    }

    fn point(number: u64, vector: &[f32]) -> v1::Point {
        v1::Point { id: Some(id(number)), vector: Some(convert::vector_to_wire(vector)), ..Default::default() }
    }

    #[test]
    fn nothing_that_cannot_be_applied_reaches_the_log() {
        let limits = Limits { batch_points_max: 3, payload_bytes_max: 10, ..Limits::default() };
        let good = || point(1, &[1.0, 0.0]);
        let long = v1::Value { kind: Some(v1::value::Kind::Text("x".repeat(11))) };
        let payload = v1::Payload { fields: [("f".to_owned(), long)].into() };
        for (name, upserts, deletes, want) in [
            ("good", vec![good()], vec![id(2)], None),
            ("empty", vec![], vec![], Some("points")),
            ("too many", vec![good()], vec![id(2), id(3), id(4)], Some("points")),
            ("dimension", vec![good(), point(2, &[1.0])], vec![], Some("points[1].vector")),
            ("nan", vec![point(1, &[f32::NAN, 0.0])], vec![], Some("points[0].vector[0]")),
            ("zero", vec![point(1, &[0.0, 0.0])], vec![], Some("points[0].vector")),
            ("no id", vec![v1::Point { id: None, ..good() }], vec![], Some("points[0].id")),
            ("payload", vec![v1::Point { payload: Some(payload), ..good() }], vec![], Some("points[0].payload")),
            ("twice", vec![good(), good()], vec![], Some("points[1].id")),
            ("written and removed", vec![good()], vec![id(1)], Some("points[1].id")),
        ] {
            let got = match encode(&OPERATION, upserts, deletes, &SPEC, HashRange::FULL, &limits) {
                Ok(_) => None,
                Err(Refusal::Input(error)) => Some(error.field),
                Err(Refusal::WrongShard) => panic!("{name}: the range is the full one"),
            };
            assert_eq!(got.as_deref(), want, "{name}");
        }
    }

    #[test]
    fn a_point_of_another_shard_is_sent_back() {
        let hash = shoal_model::PointId::Number(1).hash();
        let elsewhere = HashRange { first: 0, last: hash - 1 };
        let refused = encode(&OPERATION, vec![point(1, &[1.0, 0.0])], vec![], &SPEC, elsewhere, &Limits::default());
        assert!(matches!(refused, Err(Refusal::WrongShard)), "{refused:?}");
    }

    #[test]
    fn a_command_survives_the_log() {
        let (upserts, deletes) = (vec![point(7, &[0.5, -1.0])], vec![id(8)]);
        let entry = encode(&OPERATION, upserts, deletes, &SPEC, HashRange::FULL, &Limits::default()).expect("good");
        let Command::Write(command) = decode(entry).expect("what encode made") else { panic!("it was a write") };
        assert_eq!(command.operation, OperationId(u128::from_be_bytes(OPERATION)));
        assert_eq!(command.upserts[0].vector, [0.5, -1.0]);
        assert_eq!(command.upserts[0].id, shoal_model::PointId::Number(7));
        assert_eq!(command.deletes, [shoal_model::PointId::Number(8)]);
    }

    #[test]
    fn what_leaders_say_survives_the_log_and_nothing_else_is_read() {
        let manifest = Manifest { checksum: 9, graph_bytes: 4_096, stored_bytes: 1 };
        for center in [None, Some(Center { mean: vec![0.5, -1.0], length: 1.25 })] {
            let read = decode(encode_seal(7, center.as_ref())).expect("a seal");
            assert!(matches!(read, Command::Seal { after: 7, center: got } if got == center));
        }
        for center in [Center { mean: vec![f32::NAN, 1.0], length: 1.0 }, Center { mean: vec![1.0, 1.0], length: 0.0 }]
        {
            assert!(decode(encode_seal(7, Some(&center))).is_err(), "no codes can be made around it");
        }
        for segment in [None, Some(manifest)] {
            let read = decode(encode_install(&[3, 5], segment)).expect("an install");
            assert!(
                matches!(read, Command::Install { replaced, segment: got } if replaced == [3, 5] && got == segment)
            );
        }
        assert!(decode(Bytes::from_static(b"\xff\xff")).is_err());
        assert!(decode(Bytes::new()).is_err(), "says nothing");
        let unnamed = encode(&[0; 16], vec![point(1, &[1.0, 0.0])], vec![], &SPEC, HashRange::FULL, &Limits::default());
        assert!(matches!(unnamed, Err(Refusal::Input(error)) if error.field == "operation"));
    }
}
