//! How hard a search looks unless it says so.

/// Share of the true nearest that a search wants which names neither a recall nor a beam width.
///
/// Each segment translates it by what it measured when it was built. Chosen so that answers of a whole collection, of
/// one shard or several, have a recall@10 of at least 0.97 on data like the queries that segments were measured with,
/// which are their own points.
pub const RECALL_TARGET_DEFAULT: f64 = 0.98;
