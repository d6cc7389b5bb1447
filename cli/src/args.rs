//! The command line: every command, flag and help text.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use shoal_client::GraphOptions;
use shoal_model::{Limits, Metric, PointId, Quantization};

use crate::effort::Effort;
use crate::json;

const EXAMPLES: &str = "\
Examples:
  shoal up                    a whole cluster in one process, with sample data
  shoal status                what is there, and what needs attention
  shoal collection create news --dim 384 --metric cosine
  shoal import news vectors.npy --payload docs.jsonl.gz
  shoal search news --vector-file queries.npy --row 3 --fields title
  shoal eval news --queries queries.npy --truth truth_ids.npy

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 timed out; 6 cluster, or what is needed of
it, out of reach; 7 partial (some shards or queries did not answer); 8 `status` tells of
no quorum, or of a shard that is unavailable; 130 interrupted.
Data goes to stdout, progress and hints go to stderr.";

const STATUS: &str = "\
Exit code 0 means that the coordinators have a quorum and no shard is unavailable; there
may be warnings. Exit code 8 means that one of these is not so, and stderr says which.";

const GLOBAL: &str = "Global options";

/// Distributed vector search.
#[derive(Debug, Parser)]
#[command(name = "shoal", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    /// Flags of all commands.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of all commands.
#[derive(Debug, Args)]
pub struct Global {
    /// Router to ask; several (repeated, or with commas) are tried in turn
    #[arg(long = "endpoint", global = true, env = "SHOAL_ENDPOINT", value_name = "URL", value_delimiter = ',')]
    #[arg(default_value = "http://127.0.0.1:7700", help_heading = GLOBAL)]
    pub endpoints: Vec<String>,
    /// Form of what is printed on stdout
    #[arg(short, long, global = true, value_enum, default_value_t, help_heading = GLOBAL)]
    pub output: Format,
    /// Time that one call to the cluster may take, retries included (a number alone is seconds)
    #[arg(long, global = true, default_value = "10s", value_parser = duration, value_name = "TIME")]
    #[arg(help_heading = GLOBAL)]
    pub timeout: Duration,
    /// Form of log lines on stderr (SHOAL_LOG=info shows more of them)
    #[arg(long, global = true, value_enum, default_value_t, help_heading = GLOBAL)]
    pub log_format: LogFormat,
}

/// Form of what is printed on stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns, for people.
    #[default]
    Table,
    /// One JSON value, for programs.
    Json,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line an event, for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a whole cluster in this process: three coordinators, nodes and a router
    Up(UpArgs),
    /// Run one role of a cluster
    Serve(ServeArgs),
    /// Show the cluster on one screen
    #[command(after_help = STATUS)]
    Status,
    /// Create, list, describe and remove collections
    #[command(subcommand)]
    Collection(CollectionCommand),
    /// List and remove nodes
    #[command(subcommand)]
    Node(NodeCommand),
    /// Load points from a file; a run that was cut short continues when it is repeated
    Import(ImportArgs),
    /// Find the nearest points of a vector
    Search(SearchArgs),
    /// Count points
    Count(CountArgs),
    /// Read points by id
    Get(GetArgs),
    /// Remove points by id
    Delete(DeleteArgs),
    /// Measure recall, ranking quality and latency with queries whose answers are known
    Eval(EvalArgs),
    /// Print a completion script for a shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Arguments of `up`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shoal up                          run until Ctrl-C; data stays in ~/.local/share/shoal
  shoal up --data /tmp/try --once   start, answer the sample queries, stop

Exit code 0 of --once means: every answer was exact (recall 1.000). If the points of the
sample collection were changed, its answers are not known, and --once fails saying so.")]
pub struct UpArgs {
    /// Folder of all data [default: $XDG_DATA_HOME/shoal or ~/.local/share/shoal]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// How many nodes [default: 3, or as many as the data folder was made with]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub nodes: Option<u32>,
    /// Replicas of each shard of the sample collection; 0 for 3, or 1 where there are fewer than 3 nodes
    #[arg(long, default_value_t = 0)]
    pub replicas: u32,
    /// Stop after the sample queries; exit code 0 only if recall is 1.000
    #[arg(long)]
    pub once: bool,
    /// Where the router listens; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:7700", value_name = "ADDRESS")]
    pub listen: SocketAddr,
}

/// Arguments of `serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
The file (TOML) of a node:
  listen = \"127.0.0.1:7801\"
  metrics_listen = \"127.0.0.1:9801\"
  data = \"/var/lib/shoal\"
  [node]
  name = \"node-1\"
  coordinators = [\"http://127.0.0.1:7901\"]

A node whose disk is lost is replaced by one on an empty data folder:
  shoal serve node --config node-2.toml --replaces node-2

A coordinator has [coordinator] in place of [node]; a router has [router] and no `data`.
docs/configuration.md shows each role's file with all its fields.")]
pub struct ServeArgs {
    /// Which role
    #[arg(value_enum)]
    pub role: Role,
    /// Its configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Number or name of a node whose disk is lost: this one, on an empty data folder, takes its place
    #[arg(long, value_name = "NODE")]
    pub replaces: Option<String>,
}

/// A role of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Keeps the cluster map.
    Coordinator,
    /// Holds shard replicas.
    Node,
    /// Takes the calls of clients.
    Router,
}

/// Commands on collections.
#[derive(Debug, Subcommand)]
pub enum CollectionCommand {
    /// Create a collection
    #[command(after_help = "Example:\n  shoal collection create news --dim 384 --metric cosine --shards 6")]
    Create(CreateArgs),
    /// List collections
    #[command(visible_alias = "list")]
    Ls,
    /// Show one collection with its shards
    Describe {
        /// Its name
        #[arg(value_name = "COLLECTION")]
        name: String,
    },
    /// Remove a collection and all its points
    #[command(visible_aliases = ["remove", "delete"])]
    Rm {
        /// Its name
        #[arg(value_name = "COLLECTION")]
        name: String,
        /// Do not ask for the name to be typed
        #[arg(long)]
        yes: bool,
    },
}

/// Commands on nodes.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List nodes
    #[command(visible_alias = "list")]
    Ls,
    /// Remove a node that is silent and holds no replica
    #[command(visible_aliases = ["remove", "delete"], after_help = "\
A node that holds replicas is not removed: if its disk is lost, another takes its place
(`shoal serve node --replaces NODE`).")]
    Rm {
        /// Its number or name
        #[arg(value_name = "NODE")]
        node: String,
    },
}

/// Arguments of `collection create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// 1 to 128 of a-z A-Z 0-9 _ -, starting with a letter or digit
    #[arg(value_name = "COLLECTION")]
    pub name: String,
    /// Components of each vector
    #[arg(long, value_parser = dimension, allow_negative_numbers = true)]
    pub dim: u32,
    /// How nearness is measured
    #[arg(long, value_parser = metric, value_name = "cosine|dot|euclidean")]
    pub metric: Metric,
    /// How it is spread, and what made its vectors
    #[command(flatten)]
    pub spread: SpreadArgs,
    /// How its graphs are built
    #[command(flatten)]
    pub graph: GraphArgs,
}

/// How a new collection is spread, and what made its vectors.
#[derive(Clone, Debug, Default, Args)]
pub struct SpreadArgs {
    /// How many shards divide it; 0: one for each node
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub shards: u32,
    /// Replicas of each shard; 0 for 3, or 1 where there are fewer than 3 nodes
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub replicas: u32,
    /// Add a replica that votes and keeps the log, and has no points: with two others a shard survives the loss of one
    #[arg(long)]
    pub witness: bool,
    /// Fingerprint of the model that made the vectors
    #[arg(long, default_value = "", value_name = "NAME")]
    pub embedding: String,
}

/// How the graphs of a new collection are built; what is left out is as the cluster chooses.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct GraphArgs {
    /// Beam width while building: more makes a better graph, and takes longer
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "WIDTH")]
    pub ef_construction: Option<u32>,
    /// How graphs keep vectors; answers are scored on vectors as they were sent, whichever it is
    #[arg(long, value_parser = quantization, value_name = "none|int8|binary")]
    pub quantization: Option<Quantization>,
    /// Seed of everything random in a build
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub seed: Option<u64>,
}

impl GraphArgs {
    /// The same for the client.
    pub(crate) fn options(self) -> GraphOptions {
        let Self { ef_construction, quantization, seed } = self;
        GraphOptions { ef_construction, quantization, seed }
    }
}

/// Arguments of `import`.
#[derive(Debug, Args)]
#[command(after_help = "\
Files: .npy (float16/32/64 or integers; the row number is the id), .fvecs, .jsonl; each
may be compressed (.gz). A .jsonl row is
  {\"id\": 7, \"vector\": [0.1, 0.2], \"title\": \"any payload field\"}
and payload may also be an object under \"payload\". Numbers from 0 up are number ids, texts
in UUID form are UUIDs, all others are text ids.

An id that is there already is overwritten. An id that comes twice in one write is
refused; if its rows lie further apart than a write (--batch), one overwrites the other,
and which is left is not defined where several writes are under way (--concurrency).

Examples:
  shoal import news vectors.npy --payload docs.jsonl.gz --create --metric cosine
  shoal import news points.jsonl.gz --id-field url --concurrency 8

If a run is cut short, repeat it: it continues behind the last acknowledged row. Ctrl-C
lets writes under way finish (exit code 130); a second one ends the process at once.")]
pub struct ImportArgs {
    /// Where the points go
    pub collection: String,
    /// Where they come from
    pub file: PathBuf,
    /// Payload of .npy and .fvecs rows, joined by row number; an `id` in it must equal the row number
    #[arg(long, value_name = "FILE")]
    pub payload: Option<PathBuf>,
    /// Field that holds the id; it is then no payload field
    #[arg(long, value_name = "NAME")]
    pub id_field: Option<String>,
    /// Create the collection if it is missing, with the file's dimension
    #[arg(long, requires = "metric")]
    pub create: bool,
    /// How nearness is measured in a collection that is created
    #[arg(long, value_parser = metric, value_name = "cosine|dot|euclidean")]
    pub metric: Option<Metric>,
    /// How a collection that is created is spread
    #[command(flatten)]
    pub spread: SpreadArgs,
    /// How its graphs are built
    #[command(flatten)]
    pub graph: GraphArgs,
    /// Stop after this many rows of the file
    #[arg(long, value_name = "ROWS")]
    pub limit: Option<u64>,
    /// Rows in one write
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: u32,
    /// Writes under way at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub concurrency: u32,
    /// Where to note the acknowledged rows [default: a file in $XDG_STATE_HOME/shoal or ~/.local/state/shoal]
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Begin at the first row, whatever an earlier run has done
    #[arg(long)]
    pub restart: bool,
    /// How long a write is repeated while the cluster is out of reach or overloaded
    #[arg(long, default_value = "5m", value_parser = duration, value_name = "TIME")]
    pub give_up_after: Duration,
}

/// Arguments of `search`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shoal search news --vector '[0.1, 0.7, 0.2]' --k 5
  shoal search packages --vector-file queries.npy --row 3 --fields name,summary
  shoal search packages --like 17 \\
      --filter '{\"must\": [{\"key\": \"section\", \"match\": \"games\"}]}'

Filters have `must`, `should` and `must_not`, lists of {\"key\", and one of \"match\", \"any\",
\"range\", \"is_null\"}, {\"has_id\": [ids]}, or nested filters. Scores of cosine and dot are
higher when nearer, of euclidean lower.")]
pub struct SearchArgs {
    /// Where to search
    pub collection: String,
    /// What to search for
    #[command(flatten)]
    pub vector: VectorArgs,
    /// How many points are wanted
    #[arg(short, long, default_value_t = 10, value_parser = at_least_one, allow_negative_numbers = true)]
    pub k: u32,
    /// Only points that pass (JSON, or @FILE)
    #[arg(long, value_name = "JSON")]
    pub filter: Option<String>,
    /// Only these payload fields, with commas between
    #[arg(long, value_delimiter = ',', value_parser = trimmed, value_name = "NAME,...")]
    pub fields: Vec<String>,
    /// Leave out payload
    #[arg(long, conflicts_with = "fields")]
    pub no_payload: bool,
    /// How hard to look
    #[command(flatten)]
    pub effort: EffortArgs,
    /// Share of shards that must answer, 0 to 1
    #[arg(long, default_value_t = 1.0, value_parser = share, value_name = "SHARE")]
    pub min_coverage: f64,
}

/// How hard to look: as the cluster does by default, or in one of these ways.
#[derive(Clone, Copy, Debug, Default, Args)]
#[group(multiple = false)]
pub struct EffortArgs {
    /// Recall wanted of each shard, above 0 to 1
    #[arg(long, value_parser = recall, value_name = "RECALL")]
    pub recall_target: Option<f64>,
    /// Beam width, at least k
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "WIDTH")]
    pub ef_search: Option<u32>,
    /// Compare with every point, whatever index there is
    #[arg(long)]
    pub exact: bool,
}

impl EffortArgs {
    /// The same for a search.
    pub(crate) fn effort(self) -> Effort {
        let Self { recall_target, ef_search, exact } = self;
        Effort { recall_target, ef_search, exact }
    }
}

/// A vector: typed, in a file, or that of a stored point.
#[derive(Debug, Args)]
#[group(skip)]
#[command(group = ArgGroup::new("source").required(true))]
pub struct VectorArgs {
    /// The vector, as a JSON list
    #[arg(long, value_name = "JSON", group = "source")]
    pub vector: Option<String>,
    /// A file with it: a JSON list, or rows in any form that `import` reads
    #[arg(long, value_name = "FILE", group = "source")]
    pub vector_file: Option<PathBuf>,
    /// Which row of the file, from 0
    #[arg(long, default_value_t = 0, conflicts_with_all = ["vector", "like"])]
    pub row: u64,
    /// The vector of this stored point
    #[arg(long, value_name = "ID", value_parser = json::id_from_text, group = "source")]
    pub like: Option<PointId>,
}

/// Arguments of `count`.
#[derive(Debug, Args)]
pub struct CountArgs {
    /// What to count in
    pub collection: String,
    /// Only points that pass (JSON, or @FILE)
    #[arg(long, value_name = "JSON")]
    pub filter: Option<String>,
}

const IDS: &str = "Digits are a number id, UUIDs are UUIDs, all else is text; `text:17` is the text 17.";

/// Arguments of `get`.
#[derive(Debug, Args)]
#[command(after_help = IDS)]
pub struct GetArgs {
    /// Where the points are
    pub collection: String,
    /// Their ids
    #[arg(required = true, value_name = "ID", value_parser = json::id_from_text)]
    pub ids: Vec<PointId>,
    /// Show their vectors
    #[arg(long)]
    pub vectors: bool,
}

/// Arguments of `delete`.
#[derive(Debug, Args)]
#[command(after_help = IDS)]
pub struct DeleteArgs {
    /// Where the points are
    pub collection: String,
    /// Their ids
    #[arg(required = true, value_name = "ID", value_parser = json::id_from_text)]
    pub ids: Vec<PointId>,
}

/// Arguments of `eval`.
#[derive(Debug, Args)]
#[command(after_help = "\
recall     share of the exact top k that came back; with --truth-dist, a hit as near as
           the k-th true one counts too (within 1e-6, so ties may fall either way). Rows
           padded with -1 count what there is.
With --qrels: precision (relevant among the first k, of k), MRR (1 / rank of the first
relevant), nDCG (linear gain, as trec_eval) and judged recall (relevant that came back, of
all relevant), over the queries that have judgments. Queries that fail count as having
found nothing. Latency is measured here, network included. QPS, hops and distances are of
queries that were answered, the latter two a query. --recall-target and --ef-search take
lists: a row each, so that recall can be held against time.

Examples:
  shoal eval packages --queries queries.npy --truth truth_ids.npy \\
      --truth-dist truth_dist.npy
  shoal eval packages --queries queries.npy --truth truth_ids.npy \\
      --filters filters.json --filtered-truth filtered_ids.npy
  shoal eval packages --queries queries.npy --truth truth_ids.npy \\
      --ef-search 16,32,64,128 --exact --concurrency 1
  shoal eval papers --queries queries.npy --qrels qrels.tsv \\
      --query-ids queries.jsonl.gz:query_id --doc-key doc_id")]
pub struct EvalArgs {
    /// What to search
    pub collection: String,
    /// Query vectors (any form that `import` reads)
    #[arg(long, value_name = "FILE")]
    pub queries: PathBuf,
    /// Ids of the nearest points of each query, nearest first (.npy, queries × n)
    #[arg(long, value_name = "FILE", required_unless_present_any = ["qrels", "filtered_truth"])]
    pub truth: Option<PathBuf>,
    /// Their distances (.npy, same shape)
    #[arg(long, value_name = "FILE", requires = "truth")]
    pub truth_dist: Option<PathBuf>,
    /// Filters to measure as well: a list of {"name", "filter"}
    #[arg(long, value_name = "FILE")]
    pub filters: Option<PathBuf>,
    /// Ids of the nearest points under each filter (.npy, filters × queries × n)
    #[arg(long, value_name = "FILE", requires = "filters")]
    pub filtered_truth: Option<PathBuf>,
    /// Their distances (.npy, same shape)
    #[arg(long, value_name = "FILE", requires = "filtered_truth")]
    pub filtered_dist: Option<PathBuf>,
    /// Relevance judgments: query_id, doc_id and gain with tabs between, after a header line
    #[arg(long, value_name = "FILE")]
    pub qrels: Option<PathBuf>,
    /// Names of the queries in the judgments, FILE:FIELD of a .jsonl file [default: their row numbers]
    #[arg(long, value_name = "FILE:FIELD", requires = "qrels")]
    pub query_ids: Option<String>,
    /// Payload field that names a point in the judgments [default: its id]
    #[arg(long, value_name = "FIELD", requires = "qrels")]
    pub doc_key: Option<String>,
    /// How many points each query asks for
    #[arg(short, long, default_value_t = 10, value_parser = at_least_one, allow_negative_numbers = true)]
    pub k: u32,
    /// Calls under way at once
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub concurrency: u32,
    /// Queries in one call; each then has the latency of its call
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch: u32,
    /// Only the first queries of the file
    #[arg(long, value_name = "QUERIES")]
    pub limit: Option<usize>,
    /// How hard to look
    #[command(flatten)]
    pub efforts: EffortsArgs,
}

/// How hard to look, several times: each effort is measured in turn.
#[derive(Clone, Debug, Default, Args)]
pub struct EffortsArgs {
    /// Recall wanted of each shard, above 0 to 1; several, with commas, are measured in turn
    #[arg(long, value_delimiter = ',', value_parser = recall, value_name = "RECALL")]
    pub recall_target: Vec<f64>,
    /// Beam width, at least k; several, with commas, are measured in turn
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..), value_name = "WIDTH")]
    pub ef_search: Vec<u32>,
    /// Compare with every point, whatever index there is; beside the others, that is measured as well
    #[arg(long)]
    pub exact: bool,
}

impl EffortsArgs {
    /// What to measure; the cluster's default where nothing is said.
    pub(crate) fn each(&self) -> Vec<Effort> {
        let recalls =
            self.recall_target.iter().map(|recall| Effort { recall_target: Some(*recall), ..Effort::default() });
        let beams = self.ef_search.iter().map(|beam| Effort { ef_search: Some(*beam), ..Effort::default() });
        let exact = self.exact.then_some(Effort { exact: true, ..Effort::default() });
        let efforts: Vec<Effort> = recalls.chain(beams).chain(exact).collect();
        if efforts.is_empty() { vec![Effort::default()] } else { efforts }
    }
}

/// A time; a number alone is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text),
    };
    match parsed {
        Ok(Duration::ZERO) => Err("must be longer than 0".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write it like 500ms, 10s or 5m")),
    }
}

#[allow(clippy::unnecessary_wraps, reason = "what a parser of an argument returns")]
fn trimmed(text: &str) -> Result<String, String> {
    Ok(text.trim().to_owned())
}

fn at_least_one(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "must be a whole number from 1 up".to_owned())
}

/// A dimension. The cap of a cluster may be another than the usual one, and the cluster says so.
fn dimension(text: &str) -> Result<u32, String> {
    let usual = Limits::default().dim_max;
    at_least_one(text).map_err(|_| format!("must be a whole number from 1 to {usual}"))
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

fn recall(text: &str) -> Result<f64, String> {
    let recall = text.parse().ok().filter(|recall| *recall > 0.0 && *recall <= 1.0);
    recall.ok_or_else(|| "must be a number above 0, and at most 1".to_owned())
}

fn metric(text: &str) -> Result<Metric, String> {
    let all = [Metric::Cosine, Metric::Dot, Metric::Euclidean];
    let found = all.into_iter().find(|metric| metric.name() == text);
    found.ok_or_else(|| "must be cosine, dot or euclidean".to_owned())
}

fn quantization(text: &str) -> Result<Quantization, String> {
    let found = Quantization::ALL.into_iter().find(|quantization| quantization.name() == text);
    found.ok_or_else(|| "must be none, int8 or binary".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "shoal",
            "shoal search news",
            "shoal search news --vector [1] --like 3",
            "shoal search news --vector [1] --row 2",
            "shoal collection create news --dim 3 --metric manhattan",
            "shoal collection create news --dim 3 --metric dot --quantization float8",
            "shoal collection create news --dim 3 --metric dot --seed 0",
            "shoal search news --vector [1] --k 0",
            "shoal search news --vector [1] --recall-target 0",
            "shoal search news --vector [1] --recall-target nan",
            "shoal search news --vector [1] --ef-search 0",
            "shoal search news --vector [1] --ef-search 64 --exact",
            "shoal search news --vector [1] --min-coverage 2",
            "shoal search news --vector [1] --min-coverage nan",
            "shoal --timeout 0 status",
            "shoal import news",
            "shoal import news a.npy --create",
            "shoal import news a.npy --batch 0",
            "shoal import news a.npy --give-up-after 0s",
            "shoal eval news --queries q.npy",
            "shoal eval news --queries q.npy --truth t.npy --recall-target 0.9,2",
            "shoal eval news --queries q.npy --truth t.npy --batch 0",
            "shoal serve node",
            "shoal node",
            "shoal node rm",
            "shoal --timeout fast status",
            "shoal get news",
            "shoal up --nodes 0",
        ] {
            let parsed = Cli::try_parse_from(line.split(' '));
            assert!(parsed.is_err_and(|error| error.exit_code() == 2), "{line}");
        }
    }

    #[test]
    fn wrong_numbers_are_told_with_what_they_must_be() {
        for (line, want) in [
            ("shoal collection create c --metric dot --dim -3", "must be a whole number from 1 to 65536"),
            ("shoal collection create c --metric dot --dim 99999999999", "must be a whole number from 1 to 65536"),
            ("shoal search c --like 1 -k -1", "must be a whole number from 1 up"),
            ("shoal search c --like 1 --k 1.5", "must be a whole number from 1 up"),
            ("shoal eval c --queries q.npy --truth t.npy -k 0", "must be a whole number from 1 up"),
            ("shoal get c 18446744073709551616", "the largest number id is 18446744073709551615"),
        ] {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line).to_string();
            assert!(error.contains(want) && !error.contains("tip:"), "{line}: {error}");
        }
    }

    #[test]
    fn a_missing_vector_names_all_ways_to_give_one() {
        let error = Cli::try_parse_from(["shoal", "search", "news"]).expect_err("no vector").to_string();
        for flag in ["--vector <JSON>", "--vector-file <FILE>", "--like <ID>"] {
            assert!(error.contains(flag), "{flag} is missing from: {error}");
        }
    }

    #[test]
    fn a_number_alone_is_seconds() {
        for (text, want) in [("5", Some(5_000)), ("250ms", Some(250)), ("0", None), ("0s", None), ("fast", None)] {
            assert_eq!(duration(text).ok(), want.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn efforts_are_measured_in_turn() {
        for (flags, want) in [
            ("", vec!["default"]),
            (
                " --ef-search 10,64 --exact --recall-target 0.9,0.99",
                vec!["recall 0.9", "recall 0.99", "ef 10", "ef 64", "exact"],
            ),
        ] {
            let line = format!("shoal eval news --queries q.npy --truth t.npy{flags}");
            let Command::Eval(args) = Cli::parse_from(line.split(' ')).command else { panic!("not an eval") };
            assert_eq!(args.efforts.each().into_iter().map(Effort::name).collect::<Vec<_>>(), want, "{line}");
        }
    }

    /// Every command, with those below it.
    fn all(command: &clap::Command) -> Vec<clap::Command> {
        let below = command.get_subcommands().flat_map(all);
        std::iter::once(command.clone()).chain(below).collect()
    }

    #[test]
    fn help_is_wrapped_once() {
        for command in all(&Cli::command()) {
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in text.lines() {
                assert!(line.chars().count() <= 90, "{}: {line}", command.get_name());
            }
        }
    }

    #[test]
    fn global_options_have_their_own_heading() {
        let help = Cli::command().render_help().to_string();
        let (_, global) = help.split_once("Global options:").expect("the heading");
        for flag in ["--endpoint", "--output", "--timeout", "--log-format"] {
            assert!(global.contains(flag), "{flag}: {help}");
        }
    }

    #[test]
    fn endpoints_come_repeated_or_with_commas() {
        let line = "shoal status --endpoint http://a:1,http://b:2 --endpoint http://c:3 --timeout 250ms -o json";
        let cli = Cli::try_parse_from(line.split(' ')).expect("well-formed");
        assert_eq!(cli.global.endpoints, ["http://a:1", "http://b:2", "http://c:3"]);
        assert_eq!(cli.global.timeout, Duration::from_millis(250));
        assert_eq!(cli.global.output, Format::Json);
    }
}
