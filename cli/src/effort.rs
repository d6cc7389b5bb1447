//! How hard the cluster is to look, as the command line says it.

use serde::Serialize;
use shoal_client::SearchOptions;

/// What a search asks for; nothing: the cluster's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Effort {
    /// Recall wanted of each shard.
    pub(crate) recall_target: Option<f64>,
    /// Beam width.
    pub(crate) ef_search: Option<u32>,
    /// Compares with every point.
    pub(crate) exact: bool,
}

impl Effort {
    /// The search with this effort.
    pub(crate) fn of(self, options: SearchOptions) -> SearchOptions {
        SearchOptions { recall_target: self.recall_target, ef_search: self.ef_search, exact: self.exact, ..options }
    }

    /// In one or two words.
    pub(crate) fn name(self) -> String {
        match self {
            Self { exact: true, .. } => "exact".to_owned(),
            Self { recall_target: Some(recall), .. } => format!("recall {recall}"),
            Self { ef_search: Some(beam), .. } => format!("ef {beam}"),
            Self { .. } => "default".to_owned(),
        }
    }
}
