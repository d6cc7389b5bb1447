//! Which node a call is meant for, in its metadata.
//!
//! An address is no identity: on that of a node that is lost another one may listen, and two nodes may have exchanged theirs.
//! A caller follows a map, which is older than what listens by now; so it names the node it believes in, and what is
//! another one refuses as if nothing listened there. A call that names none is for whoever gets it.

use shoal_model::{ClusterId, ErrorKind, NodeId};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::service::{InterceptorLayer, Routes};
use tonic::{Request, Status};

use crate::status::{RemoteError, to_status};

const HEADER: &str = "shoal-recipient";

/// A node, told from those of other clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recipient {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its number there.
    pub node: NodeId,
}

impl Recipient {
    /// Makes a call one for this node.
    pub fn inject(self, metadata: &mut MetadataMap) {
        // Digits and letters make a header value.
        if let Ok(value) = MetadataValue::try_from(self.value()) {
            metadata.insert(HEADER, value);
        }
    }

    /// Refuses a call for another node. Errors: `Unavailable`, as the one that is meant is not here.
    pub fn check(self, metadata: &MetadataMap) -> Result<(), Status> {
        let Some(meant) = metadata.get(HEADER) else { return Ok(()) };
        if *meant == *self.value() {
            return Ok(());
        }
        let message = format!(
            "at this address is node {} of cluster {}, and not the one that the call is for; follow the cluster map to where \
             that is now",
            self.node, self.cluster
        );
        Err(to_status(&RemoteError { kind: ErrorKind::Unavailable, field: String::new(), message }))
    }

    /// The same routes, but for calls that are for another node.
    #[must_use]
    pub fn guard(self, routes: Routes) -> Routes {
        let check = move |request: Request<()>| self.check(request.metadata()).map(|()| request);
        routes.into_axum_router().layer(InterceptorLayer::new(check)).into()
    }

    fn value(self) -> String {
        format!("{}-{}", self.cluster, self.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::from_status;

    #[test]
    fn a_call_for_another_node_is_refused_as_if_nothing_listened() {
        let me = Recipient { cluster: ClusterId(7), node: NodeId(4) };
        for (name, meant, is_taken) in [
            ("anyone", None, true),
            ("this node", Some(me), true),
            ("the node that was here", Some(Recipient { node: NodeId(1), ..me }), false),
            ("one whose number begins alike", Some(Recipient { node: NodeId(44), ..me }), false),
            ("that number in another cluster", Some(Recipient { cluster: ClusterId(8), ..me }), false),
        ] {
            let mut metadata = MetadataMap::new();
            meant.into_iter().for_each(|meant| meant.inject(&mut metadata));
            let refused = me.check(&metadata).map_err(|status| from_status(&status).kind);
            assert_eq!(refused, if is_taken { Ok(()) } else { Err(ErrorKind::Unavailable) }, "{name}");
        }
    }
}
